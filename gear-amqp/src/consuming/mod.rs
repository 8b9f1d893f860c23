//! The two channels that consume: every subscription is kept up for as long as it is wanted.

pub(crate) mod acks;
mod doubt;
pub(crate) mod drops;
pub(crate) mod inbox;
mod ping;
mod pump;
pub(crate) mod subscribed;

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use gear_api::{ConsumerEnd, SubscribeError};
use lapin::{
    Connection,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::{
    acks::Acks,
    inbox::Inbox,
    pump::Pumped,
    subscribed::{Particular, Slot, Subscribed},
};
use crate::{
    link::{
        board::Board,
        declare::{Declarer, Owner, short},
        pause::Pause,
        rpc::{ANSWER, RpcError, code, open_channel, within},
    },
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

/// One connection's life.
struct Epoch {
    connection: Arc<Connection>,
    /// By [`Slot`]. Locked while a consumer is added: the prefetch that is set last counts for the
    /// next one.
    channels: [tokio::sync::Mutex<Option<Arc<Acks>>>; 2],
    /// Those that others took the place of, and that their other consumers still use.
    retired: Mutex<Vec<Weak<Acks>>>,
    added: mpsc::UnboundedSender<Arc<Subscribed>>,
}

impl Epoch {
    fn retired(&self) -> MutexGuard<'_, Vec<Weak<Acks>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A consumer of this channel has ended, mostly because its queue was deleted: whoever begins
    /// to consume gets another channel. RabbitMQ knows deliveries by the name of their queue and
    /// their number in it; what is settled late would settle a delivery of the queue that is
    /// declared again under this name, if that came by the same channel.
    async fn retire(&self, slot: Slot, acks: Arc<Acks>) {
        let mut current = self.channels[slot as usize].lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &acks)) {
            *current = None;
            let mut retired = self.retired();
            retired.retain(|acks| acks.strong_count() > 0);
            retired.push(Arc::downgrade(&acks));
        }
    }
}

/// Why there is no consumer.
enum Failure {
    /// The connection will not do.
    Lost,
    Refused(SubscribeError),
    /// May be mended by itself.
    NotNow(RpcError),
    InUse,
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match &error {
            RpcError::Lost(_) => Self::Lost,
            RpcError::Silent { .. } => Self::NotNow(error),
            RpcError::Refused { text, .. } => Self::Refused(SubscribeError::Refused(text.clone())),
        }
    }
}

/// A consumer that works.
struct Established {
    consumer: lapin::Consumer,
    acks: Arc<Acks>,
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
    fn is_closed(&self) -> bool {
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
        state.subscriptions.push(Arc::clone(&subscribed));
        if let Some(epoch) = &state.epoch {
            let _ = epoch.added.send(subscribed);
        }
        Ok(())
    }

    fn remove(&self, subscribed: &Arc<Subscribed>) {
        self.state().subscriptions.retain(|other| !Arc::ptr_eq(other, subscribed));
        subscribed.set_pending(None);
    }

    /// Keeps all subscriptions up over `connection`, until that is of no use.
    pub(crate) async fn serve(self: &Arc<Self>, connection: &Arc<Connection>) {
        let (added, mut new) = mpsc::unbounded_channel();
        let epoch = Arc::new(Epoch {
            connection: Arc::clone(connection),
            channels: Default::default(),
            retired: Mutex::default(),
            added,
        });
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

    /// Keeps one subscription up until it is stopped or the connection is gone.
    async fn keep(self: Arc<Self>, subscribed: Arc<Subscribed>, epoch: Arc<Epoch>) {
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
                Err(Failure::InUse) => {}
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
            self.flush(&epoch).await;
            self.delete_replies([&subscribed], &epoch).await;
        }
        self.remove(&subscribed);
        drop(attended);
    }

    /// Awaits what must not be given up half-way. Whoever stops the subscription does not wait for it.
    async fn not_stopped<T>(&self, inbox: &Inbox, other: impl Future<Output = T>) -> T {
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

    /// Tells the broker what was acked, without waiting for more.
    async fn flush(&self, epoch: &Epoch) {
        self.publisher.gate.passed().await;
        for channel in &epoch.channels {
            if let Some(acks) = &*channel.lock().await {
                acks.flush();
            }
        }
        epoch.retired().iter().filter_map(Weak::upgrade).for_each(|acks| acks.flush());
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

    fn fail(&self, subscribed: &Arc<Subscribed>, error: SubscribeError) {
        self.remove(subscribed);
        subscribed.established(Err(error));
    }

    /// Whether somebody who is alive has this name. A connection that is dead, and of which the
    /// broker does not know yet, holds it for up to three heartbeats.
    async fn is_held(&self, instance: &gear_api::Instance, epoch: &Epoch, since: Instant) -> bool {
        let patience = self.settings.options.heartbeat * 3 + Duration::from_secs(2);
        since.elapsed() > patience
            || ping::answers(&epoch.connection, &self.settings.names, instance).await
    }

    /// Begins to consume. Not given up half-way: the broker may have a consumer by then, and what
    /// that gets must go back.
    async fn consume(
        &self,
        subscribed: &Subscribed,
        epoch: &Epoch,
        queue: &str,
    ) -> Result<Established, Failure> {
        self.not_stopped(&subscribed.inbox, self.begin(subscribed, epoch, queue)).await
    }

    async fn begin(
        &self,
        subscribed: &Subscribed,
        epoch: &Epoch,
        queue: &str,
    ) -> Result<Established, Failure> {
        let mut slot = epoch.channels[subscribed.slot as usize].lock().await;
        let acks = match &*slot {
            Some(acks) if acks.channel().status().connected() => Arc::clone(acks),
            _ => {
                let channel = open_channel(&epoch.connection).await?;
                let acks = Acks::start(channel, Arc::clone(&self.publisher.gate));
                Arc::clone(slot.insert(acks))
            }
        };
        let channel = acks.channel();
        let no_ack = matches!(subscribed.particular, Particular::Replies(..));
        if !no_ack {
            let qos = channel.basic_qos(subscribed.prefetch, BasicQosOptions::default());
            within(ANSWER, "setting the prefetch", qos).await?;
            acks.serve(subscribed.prefetch);
        }
        let exclusive = matches!(subscribed.particular, Particular::Instance(_));
        let options = BasicConsumeOptions { no_ack, exclusive, ..BasicConsumeOptions::default() };
        let name = short(queue)?;
        let consume =
            channel.basic_consume(name, ShortString::default(), options, FieldTable::default());
        match within(ANSWER, "starting to consume", consume).await {
            Ok(consumer) => Ok(Established { consumer, acks }),
            Err(error) if exclusive && error.is(code::ACCESS_REFUSED) => Err(Failure::InUse),
            Err(error) => {
                if matches!(error, RpcError::Silent { .. }) {
                    // If it begins after all, nobody has its deliveries: they go back with their
                    // channel.
                    *slot = None;
                    let channel = acks.channel().clone();
                    let close = async move { channel.close(200, "too slow".into()).await };
                    tokio::spawn(async { drop(within(ANSWER, "closing a channel", close).await) });
                }
                Err(error.into())
            }
        }
    }

    /// Declares the queue; returns its name on the broker. Not given up half-way: where the broker
    /// closes the channel because there is no such queue, and lapin closes it because nobody wants
    /// it any more, lapin takes the answer to that for an error, and ends the connection.
    async fn declare(
        &self,
        subscribed: &Arc<Subscribed>,
        epoch: &Epoch,
    ) -> Result<String, Failure> {
        let options = &self.settings.options;
        let new = || Declarer::new(&epoch.connection, &self.settings.names, options.topology);
        let mut declarer = if subscribed.is_patient() { new().patient() } else { new() };
        if let Some(dead) = &subscribed.dead {
            match declarer.queue(dead, Owner::Many).await {
                // It exists, and what is to be set aside can wait for it.
                Err(error) if may_be_out_of_reach(&error) => {
                    tracing::warn!(queue = %dead.queue.name, %error, "can not be reached");
                    declarer = new();
                }
                declared => drop(declared?),
            }
        }
        let declaration = subscribed.declaration();
        let owner = match subscribed.particular {
            Particular::Nothing => Owner::Many,
            Particular::Instance(_) => Owner::Instance,
            Particular::Replies(..) | Particular::Tap => Owner::Start,
        };
        let found = match declarer.queue(&declaration, owner).await {
            Ok(found) => found,
            Err(error) => return Err(self.mend(subscribed, epoch, error).await),
        };
        declarer.done().await;
        if matches!(subscribed.particular, Particular::Instance(_)) && found.consumers > 0 {
            return Err(Failure::InUse);
        }
        Ok(found.name)
    }

    /// Sees to it that trying again is of use, if the queue is to blame and not the whole broker.
    async fn mend(&self, subscribed: &Subscribed, epoch: &Epoch, error: RpcError) -> Failure {
        if !may_be_out_of_reach(&error) {
            return error.into();
        }
        let Settings { options, names } = &*self.settings;
        let new = || Declarer::new(&epoch.connection, names, options.topology);
        match &subscribed.particular {
            // Answers to calls that are under way come to the old one.
            Particular::Replies(..) if !error.is_out_of_reach() && !new().answers().await => {
                subscribed.set_patient(true);
            }
            Particular::Replies(..) => {
                subscribed.rename();
                tracing::warn!(%error, "the reply queue is out of reach; using a new one");
            }
            // Silence is no reason: the queue may be well, and the broker slow.
            Particular::Instance(instance)
                if options.recreate_instance_queue && error.is_out_of_reach() =>
            {
                tracing::warn!(%instance, %error, "declaring the queue again; its content is lost");
                let _ = new().delete(instance.as_str()).await;
            }
            _ => {}
        }
        Failure::NotNow(error)
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
                self.flush(&epoch).await;
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

/// A classic queue whose node is down answers nothing, for a long time.
fn may_be_out_of_reach(error: &RpcError) -> bool {
    matches!(error, RpcError::Silent { .. }) || error.is_out_of_reach()
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
