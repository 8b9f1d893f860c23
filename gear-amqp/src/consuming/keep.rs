//! One subscription is kept up for as long as it is wanted and its connection lives.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use gear_api::{ConsumerEnd, SubscribeError};
use tokio::time::{Instant, sleep};

use super::{
    Consumers,
    epoch::Epoch,
    establish::Failure,
    inbox::Inbox,
    ping,
    pump::Pumped,
    subscribed::{Particular, Subscribed},
};
use crate::link::pause::Pause;

impl Consumers {
    /// Keeps one subscription up until it is stopped or the connection is gone.
    pub(super) async fn keep(self: Arc<Self>, subscribed: Arc<Subscribed>, epoch: Arc<Epoch>) {
        let inbox = Arc::clone(&subscribed.inbox);
        let attended = Attended::new(&inbox);
        let mut pause = Pause::new();
        let since = Instant::now();
        let mut was_here = false;
        while !inbox.is_stopping() && !self.is_closed() {
            let queue = self.not_stopped(&inbox, self.declare(&subscribed, &epoch)).await;
            if inbox.is_stopping() {
                break;
            }
            let established = match queue {
                Ok(queue) => self.consume(&subscribed, &epoch, &queue).await,
                Err(failure) => Err(failure),
            };
            match established {
                Ok(established) => {
                    was_here = true;
                    let begun = Instant::now();
                    subscribed.listening();
                    subscribed.set_patient(false);
                    subscribed.set_pending(None);
                    subscribed.established(Ok(()));
                    let acks = Arc::clone(&established.acks);
                    match self.pump(&subscribed, established).await {
                        Pumped::Stopped => break,
                        Pumped::Ended(why) => {
                            if !epoch.connection.status().connected() {
                                return; // and begins again with the next connection
                            }
                            let queue = &subscribed.declaration().queue.name;
                            tracing::warn!(%queue, why, "the broker ended a consumer");
                            subscribed.set_pending(Some(self.board.pending()));
                            epoch.retire(subscribed.slot, acks).await;
                        }
                    }
                    // What ends as soon as it has begun is not tried again without a pause.
                    if pause.worked(begun.elapsed()) {
                        continue;
                    }
                }
                Err(Failure::Lost) if !epoch.connection.status().connected() => return,
                Err(Failure::Lost) => {} // a channel, or there are too many of them
                Err(Failure::InUse) if subscribed.is_new() => {
                    if let Particular::Instance(instance) = &subscribed.particular
                        && self.is_held(instance, &epoch, since).await
                    {
                        let error = SubscribeError::NameInUse(instance.clone());
                        return self.fail(&subscribed, error);
                    }
                }
                // Or a connection of our own that the broker takes for alive yet.
                Err(Failure::InUse) => {
                    let queue = &subscribed.declaration().queue.name;
                    tracing::warn!(%queue, "not consumed: its name is in use by another node");
                }
                Err(Failure::Refused(error)) if subscribed.is_new() => {
                    return self.fail(&subscribed, error);
                }
                Err(Failure::Refused(error)) => {
                    let queue = &subscribed.declaration().queue.name;
                    tracing::warn!(%queue, %error, "could not be consumed again");
                }
                Err(Failure::NotNow(error)) => {
                    let queue = &subscribed.declaration().queue.name;
                    tracing::warn!(%queue, %error, "not consumed yet");
                }
            }
            tokio::select! {
                () = inbox.stop.notified() => break,
                () = sleep(pause.next()) => {}
            }
        }
        // Closing does that itself: a channel that is closed beside it would cost the last acks.
        if was_here && inbox.is_stopping() && !self.is_closed() {
            epoch.flush(&self.publisher.gate).await;
            self.delete_replies([&subscribed], &epoch).await;
        }
        self.remove(&subscribed);
        drop(attended);
    }

    /// Awaits what must not be given up half-way. Whoever stops the subscription does not wait for it.
    pub(super) async fn not_stopped<T>(&self, inbox: &Inbox, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        tokio::select! {
            biased;
            done = &mut other => done,
            () = inbox.stop.notified() => {
                inbox.end(ConsumerEnd::Stopped);
                other.await
            }
        }
    }

    fn fail(&self, subscribed: &Arc<Subscribed>, error: SubscribeError) {
        self.remove(subscribed);
        subscribed.established(Err(error));
    }

    /// Whether somebody who is alive has this name. A connection that is dead, and of which the
    /// broker does not know yet, holds it for up to three heartbeats.
    async fn is_held(&self, instance: &gear_api::Instance, epoch: &Epoch, since: Instant) -> bool {
        let patience = self.settings.options.heartbeat * 3 + Duration::from_secs(2);
        since.elapsed() > patience
            || ping::answers(&epoch.connection, &self.publisher, instance).await
    }
}

/// Whether somebody sees to it that `stop` is heard.
struct Attended(Arc<Inbox>);

impl Attended {
    fn new(inbox: &Arc<Inbox>) -> Self {
        inbox.attend(true);
        Self(Arc::clone(inbox))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.attend(false);
    }
}
