//! The channels that consume: every subscription is kept up for as long as it is wanted.

pub(crate) mod acks;
mod doubt;
pub(crate) mod drops;
mod epoch;
mod establish;
pub(crate) mod inbox;
mod keep;
mod ping;
mod pump;
pub(crate) mod subscribed;
mod tags;

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gear_api::SubscribeError;
use lapin::Connection;
use tokio::{task::JoinSet, time::timeout};

use self::{
    epoch::Epoch,
    subscribed::{Particular, Subscribed},
};
use crate::{
    link::{board::Board, declare::Declarer, rpc::ANSWER},
    publishing::Publisher,
    settings::Settings,
};

pub(crate) struct Consumers {
    settings: Arc<Settings>,
    publisher: Arc<Publisher>,
    board: Arc<Board>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    subscriptions: Vec<Arc<Subscribed>>,
    epoch: Option<Arc<Epoch>>,
    closed: bool,
}

impl State {
    /// Those that were stopped without a connection, which nobody else takes out: whoever tries again and
    /// again during an outage leaves none behind.
    fn take_given_up(&mut self) -> Vec<Arc<Subscribed>> {
        if self.epoch.is_some() {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.subscriptions);
        let (given_up, kept) = all.into_iter().partition(|other| other.inbox.is_stopping());
        self.subscriptions = kept;
        given_up
    }
}

impl Consumers {
    pub(crate) fn new(
        settings: Arc<Settings>,
        publisher: Arc<Publisher>,
        board: Arc<Board>,
    ) -> Self {
        Self { settings, publisher, board, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is to be kept up any more: a reply queue that closing deletes stays deleted.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Adds a subscription; it is established now, or when there is a connection.
    pub(crate) fn add(&self, subscribed: Arc<Subscribed>) -> Result<(), SubscribeError> {
        let mut state = self.state();
        if state.closed {
            return Err(SubscribeError::Closed);
        }
        if let Particular::Instance(instance) = &subscribed.particular {
            let is_same = |other: &Arc<Subscribed>| {
                matches!(&other.particular, Particular::Instance(other) if other == instance)
                    && !other.inbox.is_stopping()
            };
            if state.subscriptions.iter().any(is_same) {
                return Err(SubscribeError::NameInUse(instance.clone()));
            }
        }
        let given_up = state.take_given_up();
        state.subscriptions.push(Arc::clone(&subscribed));
        if let Some(epoch) = &state.epoch {
            epoch.add(subscribed);
        }
        drop(state);
        drop(given_up); // with what others have in there: not under the lock
        Ok(())
    }

    fn remove(&self, subscribed: &Arc<Subscribed>) {
        self.state().subscriptions.retain(|other| !Arc::ptr_eq(other, subscribed));
        subscribed.set_pending(None);
    }

    /// Keeps all subscriptions up over `connection`, until that is of no use.
    pub(crate) async fn serve(self: &Arc<Self>, connection: &Arc<Connection>) {
        let (epoch, mut new) = Epoch::new(connection);
        let mut keepers = JoinSet::new();
        {
            let mut state = self.state();
            for subscribed in &state.subscriptions {
                if !subscribed.is_new() {
                    subscribed.set_pending(Some(self.board.pending()));
                }
                let (this, epoch) = (Arc::clone(self), Arc::clone(&epoch));
                keepers.spawn(this.keep(Arc::clone(subscribed), epoch));
            }
            state.epoch = Some(Arc::clone(&epoch));
        }
        self.board.consuming(true);
        let mut cut_off = pin!(self.cut_off(connection));
        loop {
            tokio::select! {
                () = &mut cut_off => return,
                Some(subscribed) = new.recv() => {
                    let (this, epoch) = (Arc::clone(self), Arc::clone(&epoch));
                    keepers.spawn(this.keep(subscribed, epoch));
                }
                () = self.publisher.redeclared.notified() => {
                    let (this, epoch) = (Arc::clone(self), Arc::clone(&epoch));
                    keepers.spawn(async move { this.bind_again(&epoch).await });
                }
                Some(_) = keepers.join_next() => {}
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn lost(&self) {
        let subscriptions = {
            let mut state = self.state();
            state.epoch = None;
            state.subscriptions.clone()
        };
        subscriptions.iter().for_each(|subscribed| subscribed.inbox.lost());
        self.board.consuming(false);
    }

    /// Whoever answers from now on learns at once that nobody listens.
    async fn delete_replies<'s>(
        &self,
        subscriptions: impl IntoIterator<Item = &'s Arc<Subscribed>>,
        epoch: &Epoch,
    ) {
        let mode = self.settings.options.topology;
        let mut declarer = Declarer::new(&epoch.connection, &self.settings.names, mode);
        for subscribed in subscriptions {
            if matches!(subscribed.particular, Particular::Replies(..)) {
                let _ = declarer.delete(&subscribed.declaration().queue.name).await;
            }
        }
        declarer.done().await;
    }

    /// Takes no more subscriptions and ends those that there are.
    pub(crate) async fn close(&self) {
        let (subscriptions, epoch) = {
            let mut state = self.state();
            state.closed = true;
            // The connection still needs its channels, to be closed in order.
            (std::mem::take(&mut state.subscriptions), state.epoch.clone())
        };
        // Nothing more is to come: it would go back at once, and come again, and each time counts.
        subscriptions.iter().for_each(|subscribed| subscribed.inbox.close());
        if let Some(epoch) = epoch.filter(|epoch| epoch.connection.status().connected()) {
            let last_words = async {
                epoch.flush(&self.publisher.gate).await;
                self.delete_replies(&subscriptions, &epoch).await;
            };
            let _ = timeout(ANSWER, last_words).await;
        }
        for subscribed in subscriptions {
            subscribed.established(Err(SubscribeError::Closed));
            subscribed.set_pending(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use gear_api::{Consumer, Service, Subscription};

    use super::{inbox::InboxSource, *};

    fn subscribe(consumers: &Consumers) -> Consumer {
        let wanted = Subscription::Service { service: Service::new("CTRL"), prefetch: 1 };
        let planned = Subscribed::plan(&consumers.settings, &consumers.publisher, wanted);
        let (subscribed, _) = planned.expect("it can be consumed");
        let consumer = Consumer::new(InboxSource::new(Arc::clone(&subscribed.inbox)));
        consumers.add(subscribed).expect("it is not closed");
        consumer
    }

    #[test]
    fn subscriptions_given_up_without_a_connection_do_not_pile_up() {
        let builder = crate::AmqpBuilder::new("amqp://localhost").expect("a good URL");
        let settings = Arc::new(Settings::new(builder));
        let board = Arc::new(Board::new());
        let publisher = Arc::new(Publisher::new(Arc::clone(&settings), Arc::clone(&board)));
        let consumers = Consumers::new(settings, publisher, board);
        let _wanted = subscribe(&consumers);
        for _ in 0..100 {
            drop(subscribe(&consumers));
        }
        assert_eq!(consumers.state().subscriptions.len(), 2, "one is wanted, one was the last");
    }
}
