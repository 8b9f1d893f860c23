//! The broker as its users hold it, and what they can see and do to it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use gear_api::{Clock, Message, Pattern, Status, Text, Timestamp, topology::QueueType};
use tokio::{sync::watch, time::Instant};

use crate::{
    fault::Injection,
    model::{ConnectionId, Model, Policy},
    record::{Record, Recorded},
    shared::{Connection, Link, Options, Shared},
    transport::MemoryTransport,
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
    queue_type: QueueType,
}

/// What there is of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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

    /// How the queues that instances share store their messages: those of services and event
    /// groups, of what is held back and of what is set aside. Classic by default, as for
    /// `gear-amqp`. A quorum queue keeps what is not durable over a restart, too, serves what was
    /// given back first, and has a [`delivery_limit`](Policy::delivery_limit):
    ///
    /// ```
    /// use gear_api::{Pattern, topology::QueueType};
    /// use gear_memory::{MemoryBroker, Policy};
    ///
    /// let broker = MemoryBroker::builder().queue_type(QueueType::Quorum).build();
    /// broker.set_policy(Pattern::new("CTRL"), Policy::new().delivery_limit(20));
    /// ```
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = queue_type;
        self
    }

    /// The broker.
    #[must_use]
    pub fn build(self) -> MemoryBroker {
        let start = self.seed.map_or_else(|| SystemTime::now().into(), |_| SEEDED_EPOCH);
        let record = self.record.map(|limit| Record::new(limit.max(1), Instant::now()));
        let options = Options {
            seed: self.seed,
            clock: Clock::virtual_from(start),
            watermark: self.watermark,
            max_message_bytes: self.max_message_bytes,
            reconnect_delay: self.reconnect_delay,
            queue_type: self.queue_type,
        };
        MemoryBroker(Arc::new(Shared::new(Model::new(record), options)))
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
    ///
    /// Tests want a broker of their own ([`new`](Self::new)): this one they would share, with
    /// its queues, and with timers that stop when the runtime ends that set them.
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
            queue_type: QueueType::Classic,
        }
    }

    /// A new connection. It ends when its last clone is dropped.
    #[must_use]
    pub fn connect(&self) -> MemoryTransport {
        let (status, _) = watch::channel(Status::Ready);
        let (id, number) = self.0.with(|state, _| {
            let number = state.connected;
            state.connected += 1;
            if let Some(why) = state.blocked(&self.0) {
                status.send_replace(Status::Blocked(why));
            }
            let id = state.connections.insert(Connection {
                number,
                status: status.clone(),
                link: Link::Up,
                subscriptions: Vec::new(),
            });
            (id, number)
        });
        MemoryTransport::new(Arc::clone(&self.0), id, number, status)
    }

    /// Lets a [`BrokerFault`](crate::BrokerFault) happen.
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
            state.cut(&all, now.after(self.0.reconnect_delay), now);
            state.model.restart(now);
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
    /// those there are and those to come. The last policy that matches wins. A queue that is longer
    /// than it may be loses its oldest messages at once, unless it is to refuse new ones.
    pub fn set_policy(&self, queues: Pattern, policy: Policy) {
        self.0.with(|state, now| state.model.set_policy(queues, policy, now));
    }

    /// Deletes a queue with what is in it, as an operator might. Returns whether there was one.
    ///
    /// What was delivered and not settled goes, too. Those who consume it declare it again at
    /// once, as with `gear-amqp`: their consumers go on.
    pub fn delete_queue(&self, name: &str) -> bool {
        self.0.settle_all();
        self.0.with(|state, now| match state.model.queue(name) {
            Ok(id) => {
                self.0.delete_queue(state, id, now);
                true
            }
            Err(_) => false,
        })
    }

    /// Lets all that waits in a queue expire, as if its time had come: it goes to the queue's
    /// dead-letter exchange, where it has one. Returns how many messages that were.
    pub fn expire(&self, queue: &str) -> usize {
        self.0.with(|state, now| match state.model.queue(queue) {
            Ok(id) => state.model.expire(id, now),
            Err(_) => 0,
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
    /// is being handled, none waits for its time, none waits to be sent or for a confirm that
    /// a fault has lost, and every task has come to rest.
    ///
    /// Exact with a paused clock in a current-thread runtime, where it takes at least one
    /// millisecond of virtual time; a good guess elsewhere. Messages in a queue without a
    /// consumer, timers of the program's own, and taps are not waited for; a handler that
    /// never ends, or a delivery that is held and not settled, is waited for without end.
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
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}
