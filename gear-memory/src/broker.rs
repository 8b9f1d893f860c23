//! The broker as its users hold it, and the lock around the model.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gear_api::{
    Clock, ConsumerEnd, Message, Pattern, PublishError, Status, Text, Timestamp, Verdict, mix,
    topology,
};
use slotmap::SlotMap;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use crate::{
    fault::{Faults, Injection},
    inbox::{Inbox, Wake},
    model::{ConnectionId, ConsumerId, ExchangeId, Model, Policy, Tag},
    record::{Event, Record, Recorded},
    transport::{MemoryTransport, Target},
};

/// A broker in the process, with RabbitMQ's rules.
///
/// Cheap to clone; the clones are one broker. Many nodes join it, each over a
/// [`connect`](Self::connect) of its own.
///
/// ```
/// use gear_api::{Address, Kind, Message, Route, Service, Subscription, Transport};
/// use gear_memory::MemoryBroker;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const CTRL: Service = Service::new("CTRL");
/// let broker = MemoryBroker::new();
/// let (web, ctrl) = (broker.connect(), broker.connect());
///
/// let mut queue = ctrl.subscribe(Subscription::Service { service: CTRL, prefetch: 10 }).await?;
/// let hello = Message::builder(Kind::Cast, "hello").body("world").build();
/// web.send(Route::Address(&Address::from(CTRL)), hello).await?;
///
/// let delivery = queue.next().await.ok_or("closed")?;
/// assert_eq!(&delivery.message().body()[..], b"world");
/// delivery.ack();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBroker(pub(crate) Arc<Shared>);

/// Settings of a [`MemoryBroker`].
///
/// ```
/// use gear_memory::MemoryBroker;
/// use std::time::Duration;
///
/// let broker = MemoryBroker::builder()
///     .seed(7)
///     .record(10_000)
///     .watermark(64 * 1024 * 1024)
///     .max_message_bytes(1024)
///     .reconnect_delay(Duration::from_millis(10))
///     .build();
/// # let _ = broker;
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct MemoryBrokerBuilder {
    seed: Option<u64>,
    record: Option<usize>,
    watermark: usize,
    max_message_bytes: usize,
    reconnect_delay: Duration,
}

/// What there is of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name.
    pub name: Text,
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Messages that were delivered and not settled.
    pub unsettled: usize,
    /// Consumers.
    pub consumers: usize,
}

/// With a seed, the broker's clock starts here, so that runs can be compared.
const SEEDED_EPOCH: Timestamp = Timestamp::from_unix_ms(1_767_225_600_000);

impl MemoryBrokerBuilder {
    /// Makes runs repeatable: ids and times of all who connect follow from the seed.
    /// Without one they are drawn, and the clock starts at the present.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Keeps the last `events` things that happened, for
    /// [`MemoryBroker::recorded`]. Off by default.
    pub fn record(mut self, events: usize) -> Self {
        self.record = Some(events);
        self
    }

    /// Above so many stored bytes, publishers wait. 512 MiB by default.
    pub fn watermark(mut self, bytes: usize) -> Self {
        self.watermark = bytes;
        self
    }

    /// The largest body that is taken. 16 MiB by default, as in RabbitMQ since 4.0.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How long a connection that was cut needs to come back. 100 ms by default.
    pub fn reconnect_delay(mut self, delay: Duration) -> Self {
        self.reconnect_delay = delay;
        self
    }

    /// The broker.
    #[must_use]
    pub fn build(self) -> MemoryBroker {
        let start = self.seed.map_or_else(|| std::time::SystemTime::now().into(), |_| SEEDED_EPOCH);
        let record = self.record.map(|limit| Record::new(limit.max(1), Instant::now()));
        let mut model = Model::new(record);
        let exchanges = Exchanges::declare(&mut model);
        MemoryBroker(Arc::new(Shared {
            state: Mutex::new(State {
                model,
                connections: SlotMap::with_key(),
                connected: 0,
                faults: Faults::default(),
                alarm: None,
                waiting: BTreeMap::new(),
                held: BTreeMap::new(),
                numbers: 0,
                activity: 0,
                idle_waiters: 0,
                timer_set: None,
                ticker: None,
            }),
            exchanges,
            seed: self.seed,
            clock: Clock::virtual_from(start),
            watermark: self.watermark,
            max_message_bytes: self.max_message_bytes,
            reconnect_delay: self.reconnect_delay,
            timer_changed: Arc::new(Notify::new()),
            progress: Notify::new(),
        }))
    }
}

impl MemoryBroker {
    /// A broker with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// The broker of this name in this process: the same for all who ask, with the default
    /// settings. It lives as long as the process, as a broker outlives its connections.
    #[must_use]
    pub fn named(name: &str) -> Self {
        static NAMED: Mutex<BTreeMap<String, MemoryBroker>> = Mutex::new(BTreeMap::new());
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.entry(name.to_owned()).or_default().clone()
    }

    /// Settings to choose.
    pub fn builder() -> MemoryBrokerBuilder {
        MemoryBrokerBuilder {
            seed: None,
            record: None,
            watermark: 512 * 1024 * 1024,
            max_message_bytes: 16 * 1024 * 1024,
            reconnect_delay: Duration::from_millis(100),
        }
    }

    /// A new connection. It ends when its last clone is dropped.
    #[must_use]
    pub fn connect(&self) -> MemoryTransport {
        let (status, _) = watch::channel(Status::Ready);
        let id = self.0.with(|state, _| {
            let number = state.connected;
            state.connected += 1;
            if let Some(why) = state.blocked(&self.0) {
                status.send_replace(Status::Blocked(why));
            }
            state.connections.insert(Connection {
                number,
                status: status.clone(),
                link: Link::Up,
                subscriptions: Vec::new(),
            })
        });
        MemoryTransport::new(Arc::clone(&self.0), id, status)
    }

    /// Lets a [`Fault`](crate::Fault) happen.
    pub fn inject(&self, injection: impl Into<Injection>) {
        let injection = injection.into();
        self.0.with(|state, _| state.faults.add(injection));
    }

    /// Restarts the broker: all connections are cut, messages that are not durable are
    /// lost. Nodes come back after the reconnect delay.
    pub fn restart(&self) {
        self.0.settle_all();
        self.0.with(|state, now| {
            let all: Vec<ConnectionId> = state.connections.keys().collect();
            for id in all {
                state.cut(id, now + self.0.reconnect_delay, now);
            }
            state.model.restart();
        });
    }

    /// Raises the alarm of a broker without memory or disk space: publishers wait, while
    /// deliveries go on.
    pub fn raise_alarm(&self, why: &str) {
        self.0.with(|state, _| state.alarm = Some(why.into()));
    }

    /// Ends the alarm.
    pub fn clear_alarm(&self) {
        self.0.with(|state, _| state.alarm = None);
    }

    /// Sets limits on the queues whose names `queues` matches (as words between dots),
    /// those there are and those to come. The last policy that matches wins.
    pub fn set_policy(&self, queues: Pattern, policy: Policy) {
        self.0.with(|state, _| state.model.set_policy(queues, policy));
    }

    /// Deletes a queue with what is in it, as an operator might; its consumers end.
    /// Returns whether there was one.
    pub fn delete_queue(&self, name: &str) -> bool {
        self.0.with(|state, _| match state.model.queue(name) {
            Ok(id) => {
                state.model.delete_queue(id);
                true
            }
            Err(_) => false,
        })
    }

    /// What there is of a queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueInfo> {
        self.queues().into_iter().find(|queue| queue.name == *name)
    }

    /// What there is of every queue, in the order of their names.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueInfo> {
        self.0.settle_all();
        let mut queues: Vec<QueueInfo> = self.0.with(|state, _| {
            let infos = state.model.queues().map(|queue| QueueInfo {
                name: queue.name().clone(),
                ready: queue.ready(),
                unsettled: queue.unsettled(),
                consumers: queue.consumers(),
            });
            infos.collect()
        });
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// The messages that wait in a queue, in their order. They stay there.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<Message> {
        self.0.settle_all();
        self.0.with(|state, _| match state.model.queue_state(queue) {
            Some(queue) => queue.messages().cloned().collect(),
            None => Vec::new(),
        })
    }

    /// What is stored, in bytes, as the watermark counts it: bodies, headers and 640
    /// bytes for each message in each queue.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.0.settle_all();
        self.0.with(|state, _| state.model.bytes())
    }

    /// What happened last, the oldest first; nothing unless the broker was built with
    /// [`record`](MemoryBrokerBuilder::record).
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.0.settle_all();
        self.0.with(|state, _| match state.model.record() {
            Some(record) => record.events().cloned().collect(),
            None => Vec::new(),
        })
    }

    /// The clock of all who are connected: tokio's.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Returns when nothing more will happen by itself: no message can be delivered, none
    /// is being handled, none waits for its time, none waits to be sent, and every task
    /// has come to rest.
    ///
    /// Exact with a paused clock in a current-thread runtime, where it takes at least one
    /// millisecond of virtual time; a good guess elsewhere. Messages in a queue without a
    /// consumer, and timers of the program's own, are not waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn idle(&self) {
        self.0.idle().await;
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("MemoryBroker");
        if let Ok(state) = self.0.state.try_lock() {
            out.field("stored_bytes", &state.model.bytes());
            out.field("connections", &state.connections.len());
        }
        out.finish_non_exhaustive()
    }
}

/// The exchanges of the wire contract.
pub(crate) struct Exchanges {
    pub(crate) entry: ExchangeId,
    pub(crate) reply: ExchangeId,
    pub(crate) events: ExchangeId,
    pub(crate) dead: ExchangeId,
    pub(crate) default: ExchangeId,
}

impl Exchanges {
    fn declare(model: &mut Model<Arc<Inbox>>) -> Self {
        for exchange in topology::exchanges() {
            // An empty model has nothing that could be in the way.
            let declared = model.declare_exchange(&exchange);
            debug_assert!(declared.is_ok());
        }
        let (source, to, key) = topology::CAST_BINDING;
        if let (Ok(source), Ok(to)) = (model.exchange(&source), model.exchange(&to)) {
            let bound = model.bind_exchange(source, to, &key);
            debug_assert!(bound.is_ok());
        }
        let id = |name: Text| model.exchange(&name).unwrap_or_default();
        Self {
            entry: id(topology::exchange::ENTRY),
            reply: id(topology::exchange::REPLY),
            events: id(topology::exchange::EVENTS),
            dead: id(topology::exchange::DEAD),
            default: id(topology::exchange::DEFAULT),
        }
    }
}

/// What all handles of one broker share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) exchanges: Exchanges,
    pub(crate) seed: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) watermark: usize,
    pub(crate) max_message_bytes: usize,
    pub(crate) reconnect_delay: Duration,
    pub(crate) timer_changed: Arc<Notify>,
    pub(crate) progress: Notify,
}

pub(crate) struct State {
    pub(crate) model: Model<Arc<Inbox>>,
    pub(crate) connections: SlotMap<ConnectionId, Connection>,
    connected: u64,
    pub(crate) faults: Faults,
    alarm: Option<Text>,
    /// Messages that could not be handed over, in the order of sending.
    pub(crate) waiting: BTreeMap<u64, Waiting>,
    /// Messages that a fault holds back, by time.
    pub(crate) held: BTreeMap<(Instant, u64), (Target, Message)>,
    numbers: u64,
    /// Counts everything that happens.
    pub(crate) activity: u64,
    pub(crate) idle_waiters: usize,
    /// What the ticker waits for.
    pub(crate) timer_set: Option<Instant>,
    pub(crate) ticker: Option<tokio::task::JoinHandle<()>>,
}

pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) link: Link,
    pub(crate) subscriptions: Vec<crate::transport::Subscribed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Cut, and back at that time.
    Down(Instant),
}

/// A message that could not be handed over yet.
pub(crate) struct Waiting {
    pub(crate) connection: ConnectionId,
    pub(crate) target: Target,
    pub(crate) message: Message,
    pub(crate) answer: oneshot::Sender<Result<(), PublishError>>,
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Why publishers have to wait, if they have to.
    pub(crate) fn blocked(&self, shared: &Shared) -> Option<Text> {
        if let Some(why) = &self.alarm {
            return Some(why.clone());
        }
        (self.model.bytes() > shared.watermark)
            .then_some(const { Text::from_static("the memory watermark is exceeded") })
    }

    /// Whether messages go straight to the model.
    pub(crate) fn is_plain(&self, shared: &Shared) -> bool {
        self.alarm.is_none()
            && self.faults.is_empty()
            && self.waiting.is_empty()
            && self.model.bytes() <= shared.watermark
    }

    /// Cuts a connection until `back`.
    pub(crate) fn cut(&mut self, id: ConnectionId, back: Instant, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.link = Link::Down(back);
        connection.status.send_replace(Status::Connecting);
        for subscribed in &connection.subscriptions {
            subscribed.inbox.detach();
        }
        let number = connection.number;
        self.model.drop_connection(id, now);
        self.model.note(now, || Event::Connection { number, up: false });
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and then does what the change entails: blocked publishers go on
    /// or are told, timers are set, tasks are woken once the lock is gone.
    pub(crate) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let now = Instant::now();
        let mut state = self.lock();
        let result = change(&mut state, now);
        self.release_waiting(&mut state, now);
        self.show_blocked(&mut state);
        self.finish(state);
        result
    }

    /// The end of every change: sets timers, unlocks, wakes.
    pub(crate) fn finish(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        state.activity += 1;
        self.set_timer(&mut state);
        let idle_waiters = state.idle_waiters > 0;
        let wakes = state.model.wakes();
        // Mostly there is one at most, and then the buffer stays where it is.
        if wakes.len() <= 1 {
            let wake = wakes.pop();
            drop(state);
            if let Some(wake) = wake {
                wake.run();
            }
        } else {
            let wakes = std::mem::take(wakes);
            drop(state);
            wakes.into_iter().for_each(Wake::run);
        }
        if idle_waiters {
            self.progress.notify_waiters();
        }
    }

    /// Hands over, in their order, the messages that waited and need not any more.
    fn release_waiting(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.waiting.is_empty() {
            return;
        }
        let mut next = 0;
        while state.blocked(self).is_none()
            && let Some((&number, waiting)) = state.waiting.range(next..).next()
        {
            next = number + 1;
            let link = state.connections.get(waiting.connection).map(|c| c.link);
            if matches!(link, Some(Link::Down(_))) {
                continue;
            }
            let Some(Waiting { target, message, answer, .. }) = state.waiting.remove(&number)
            else {
                continue;
            };
            if link.is_none() {
                let _ = answer.send(Err(PublishError::Closed));
                continue;
            }
            match self.hand_over(state, target, message, now) {
                crate::transport::HandedOver::Answer(result) => {
                    let _ = answer.send(result);
                }
                // Dropping the sender tells the same: nobody will ever know.
                crate::transport::HandedOver::LostConfirm => drop(answer),
            }
        }
    }

    /// Tells those who are connected whether publishing works.
    fn show_blocked(&self, state: &mut State) {
        let blocked = state.blocked(self);
        for connection in state.connections.values() {
            if connection.link != Link::Up {
                continue;
            }
            connection.status.send_if_modified(|status| {
                let new = match &blocked {
                    Some(why) => Status::Blocked(why.clone()),
                    None => Status::Ready,
                };
                let changed = *status != new;
                *status = new;
                changed
            });
        }
    }

    /// Settlements from a consumer, in one go.
    pub(crate) fn settle(self: &Arc<Self>, consumer: ConsumerId, settled: Vec<(Tag, Verdict)>) {
        let now = Instant::now();
        let mut state = self.lock();
        let was_blocked = !state.is_plain(self);
        state.model.settle(consumer, settled, now);
        if was_blocked {
            self.release_waiting(&mut state, now);
            self.show_blocked(&mut state);
        }
        self.finish(state);
    }

    /// Brings all settlements to the broker that consumers still hold.
    pub(crate) fn settle_all(self: &Arc<Self>) {
        self.with(|state, now| {
            let State { model, connections, .. } = state;
            for connection in connections.values() {
                for subscribed in &connection.subscriptions {
                    if let Some(consumer) = subscribed.inbox.consumer() {
                        model.settle(consumer, subscribed.inbox.take_settled(), now);
                    }
                }
            }
        });
    }

    /// Ends a subscription: what nobody took goes back.
    pub(crate) fn stop(self: &Arc<Self>, inbox: &Arc<Inbox>, untaken: Vec<Tag>) {
        self.with(|state, now| {
            let consumer = inbox.consumer();
            let settled = inbox.take_settled();
            let (arrived, wake) = inbox.finish(ConsumerEnd::Stopped);
            state.model.wakes().extend(wake);
            if let Some(consumer) = consumer {
                if inbox.takes_replies() {
                    // Whoever answers now learns at once that nobody listens.
                    state.model.delete_queue_of(consumer);
                }
                state.model.cancel(consumer, now);
                let untaken = untaken.into_iter().chain(arrived);
                let returned = untaken.map(|tag| (tag, Verdict::Requeue));
                state.model.settle(consumer, settled.into_iter().chain(returned), now);
            }
            for connection in state.connections.values_mut() {
                connection.subscriptions.retain(|other| !Arc::ptr_eq(&other.inbox, inbox));
            }
        });
    }

    /// The seed of the connection with this number.
    pub(crate) fn seed_of(&self, number: u64) -> Option<u64> {
        self.seed.map(|seed| mix(seed ^ mix(number)))
    }
}
