//! The talking side: [`Client`], its calls, casts, gathers and taps.

mod asked;
mod call;
mod cast;
mod core;
mod dead_letters;
mod deferred;
mod error;
mod gather;
mod pending;
mod tap;
mod trace;

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

pub(crate) use self::{
    asked::Asked,
    core::{Core, Settings, count},
};
pub use self::{
    call::{Call, Response},
    cast::{Cast, Sending},
    core::{Stats, Unfinished},
    dead_letters::{DeadLetter, DeadLetters},
    deferred::Deferred,
    error::{CallError, CastError, NotSent, RemoteError, Retry, StartError},
    gather::{Answer, Answers, Gather, Gathering},
    tap::{Tap, Tapped},
};
use crate::{
    Address, Clock, Codec, Feed, Instance, Message, Operation, Pattern, Service, Status,
    SubscribeError, Topic, Transport,
};

/// Talks to services. Cheap to clone; what handlers hold, and programs that only ask.
///
/// ```
/// use gear_api::{Client, Context, Fault, Node, Operation, Service};
/// use gear_memory::MemoryBroker;
/// use std::{sync::Arc, time::Duration};
///
/// const CTRL: Service = Service::new("CTRL");
/// const DOUBLE: Operation<u64, u64> = Operation::new("double");
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new();
/// let node = Node::builder(broker.connect(), CTRL.at("host1")?)
///     .on(DOUBLE, async |_: Arc<()>, _: Context, n: u64| Ok(n * 2))
///     .start()
///     .await?;
///
/// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
/// assert_eq!(client.call(CTRL, DOUBLE, &21).await?, 42);
/// assert_eq!(client.call(CTRL, DOUBLE, &4).timeout(Duration::from_secs(2)).await?, 8);
/// # drop(node);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    /// The request that a handler's client works for: its deadline bounds every call, its
    /// trace goes on.
    parent: Option<Arc<Parent>>,
}

struct Parent {
    message: Message,
    deadline: Option<Instant>,
}

/// Settings of a [`Client`] that is not a node: a program that asks and serves nothing. Such
/// programs may share a name, as answers find their way by more than that.
///
/// ```
/// use gear_api::{CallError, Client, NotSent, Operation, Service};
/// use gear_memory::MemoryBroker;
/// use std::time::Duration;
///
/// const CTRL: Service = Service::new("CTRL");
/// const SIZE: Operation<(), u64> = Operation::new("size");
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder(MemoryBroker::new().connect(), "CLI.laptop".parse()?)
///     .call_timeout(Duration::from_secs(2))
///     .max_body_bytes(64 * 1024)
///     .start()
///     .await?;
///
/// let nobody = client.call(CTRL, SIZE, &()).await;
/// assert!(matches!(nobody, Err(CallError::NotRouted)));
/// client.close().await;
/// let closed = client.call(CTRL, SIZE, &()).await;
/// assert!(matches!(closed, Err(CallError::NotSent(NotSent::Closed))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct ClientBuilder {
    transport: Arc<dyn Transport>,
    instance: Instance,
    settings: Settings,
}

impl ClientBuilder {
    /// How long a call waits, if neither it nor its operation says. 30 s by default.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// How long a cast waits for the broker. 30 s by default.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
        self
    }

    /// The largest body that is sent, in bytes. 4 MiB by default.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// Where ids come from, instead of the transport's seed. Two that talk to each other need
    /// different ones, or their ids are the same.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// Starts to listen for replies. While the connection is down, that waits for it.
    ///
    /// # Errors
    ///
    /// [`StartError::Subscribe`] if the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing remains but perhaps a queue that goes by itself.
    pub async fn start(self) -> Result<Client, StartError> {
        Core::start(self.transport, self.instance, self.settings).await.map(Client::of_core)
    }
}

impl Client {
    /// A client that calls itself `instance` and serves nothing. Several may share a name. Each has a
    /// `transport` of its own: [`close`](Self::close) closes it.
    pub fn builder(transport: impl Into<Arc<dyn Transport>>, instance: Instance) -> ClientBuilder {
        ClientBuilder { transport: transport.into(), instance, settings: Settings::default() }
    }

    pub(crate) fn of_core(core: Arc<Core>) -> Self {
        Self { core, parent: None }
    }

    pub(crate) fn for_request(
        core: Arc<Core>,
        message: Message,
        deadline: Option<Instant>,
    ) -> Self {
        Self { core, parent: Some(Arc::new(Parent { message, deadline })) }
    }

    /// Asks `to`, and waits for the answer when it is awaited.
    ///
    /// The time for it runs from now: connecting, confirming, queueing, handling and
    /// replying. A call to a group ([`Address::Multicast`], [`Address::Broadcast`]) takes the
    /// first answer, also if that is an error, as of an instance that does not know the operation; to
    /// get all, [`gather`](Self::gather).
    pub fn call<Req, Rep, C: Codec<Req> + Codec<Rep>>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Call<Rep, C> {
        Call::new(self, to.into(), operation, request)
    }

    /// Tells `to`, which may be a group. Awaiting it waits until the broker has it.
    ///
    /// ```
    /// use gear_api::{Client, Context, Fault, Node, Operation, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::{sync::Arc, time::Duration};
    ///
    /// const CTRL: Service = Service::new("CTRL");
    /// const FORGET: Operation<String, ()> = Operation::new("forget");
    ///
    /// async fn forget(_: Arc<()>, cx: Context, word: String) -> Result<(), Fault> {
    ///     println!("{} forgets {word}", cx.instance());
    ///     Ok(()) // an error would have it tried again, and in the end set aside in CTRL:dead
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = MemoryBroker::new();
    /// let node =
    ///     Node::builder(broker.connect(), CTRL.at("host1")?).on(FORGET, forget).start().await?;
    /// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
    ///
    /// client.cast(CTRL, FORGET, &"rose".to_owned()).await?; // one of them
    /// client.cast(CTRL.all(), FORGET, &"rose".to_owned()).await?; // each of them
    /// // Of no use to anybody in an hour; and nobody waits for the broker.
    /// let cast = client.cast(CTRL, FORGET, &"thorn".to_owned());
    /// cast.expires(Duration::from_secs(3600)).send().detach();
    ///
    /// broker.idle().await;
    /// assert_eq!(node.stats().operations[0].1, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cast<Req, Rep, C: Codec<Req>>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Cast {
        Cast::to_address(self, to.into(), operation, request)
    }

    /// Publishes an event: every group with a pattern that matches gets one copy. Awaiting
    /// it waits until the broker has it; that nobody is interested is no error.
    ///
    /// ```
    /// use gear_api::{Client, Operation, Topic};
    /// use gear_memory::MemoryBroker;
    ///
    /// /// An event is an operation without a reply.
    /// const INDEXED: Operation<u64, ()> = Operation::new("indexed");
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = MemoryBroker::new();
    /// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
    /// let topic: Topic = "files.host1.done".parse()?;
    /// client.publish(topic, INDEXED, &17).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Who takes it is said with [`NodeBuilder::on_event`](crate::NodeBuilder::on_event).
    pub fn publish<Req, Rep, C: Codec<Req>>(
        &self,
        topic: impl Into<Topic>,
        event: Operation<Req, Rep, C>,
        payload: &Req,
    ) -> Cast {
        Cast::to_topic(self, topic.into(), event, payload)
    }

    /// Asks all of a group, and takes the answers as they come: until the deadline, or until all have
    /// answered that [`expect`](Gather::expect) names.
    pub fn gather<Req, Rep, C: Codec<Req> + Codec<Rep>>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Gather<Rep, C> {
        Gather::new(self, to.into(), operation, request)
    }

    /// Watches what passes under the keys that `pattern` matches. Takes nothing away from
    /// anybody, but while a tap for `#` exists, no address counts as without anybody.
    ///
    /// ```
    /// use gear_api::{Client, Feed, Operation, Pattern, Topic};
    /// use gear_memory::MemoryBroker;
    ///
    /// const INDEXED: Operation<u64, ()> = Operation::new("indexed");
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = MemoryBroker::new();
    /// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
    /// let mut tap = client.tap(Feed::Events, Pattern::new("files.#")).await?;
    ///
    /// client.publish("files.host1.done".parse::<Topic>()?, INDEXED, &17).await?;
    /// let seen = tap.next().await.ok_or("closed")?;
    /// assert_eq!((&*seen.key, &**seen.message.operation()), ("files.host1.done", "indexed"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// While the connection is down, this waits for it.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if the broker refuses or the backend has no taps.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, no tap remains.
    pub async fn tap(&self, feed: Feed, pattern: Pattern) -> Result<Tap, SubscribeError> {
        Tap::open(&self.core, feed, pattern).await
    }

    /// Looks at what a service has set aside in `SERVICE:dead`, the oldest first: casts and events that failed
    /// for good, with the reason. Each can be put back, to be handled after all, or discarded; the others
    /// stay.
    ///
    /// ```
    /// use gear_api::{Context, Fault, Node, Operation, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    ///
    /// const MAIL: Service = Service::new("MAIL");
    /// const SEND: Operation<String, ()> = Operation::new("send");
    ///
    /// async fn send(works: Arc<AtomicBool>, _: Context, _to: String) -> Result<(), Fault> {
    ///     match works.load(Ordering::Relaxed) {
    ///         true => Ok(()),
    ///         false => Err(Fault::new("no-server", "the server is gone").permanent()),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broker, works) = (MemoryBroker::new(), Arc::new(AtomicBool::new(false)));
    /// let node = Node::builder(broker.connect(), MAIL.at("host1")?).state(Arc::clone(&works));
    /// let node = node.on(SEND, send).start().await?;
    /// let client = node.client();
    /// client.cast(MAIL, SEND, &"ada@example.org".to_owned()).await?;
    /// broker.idle().await;
    ///
    /// works.store(true, Ordering::Relaxed);
    /// let mut dead = client.dead_letters(&MAIL).await?;
    /// while let Some(letter) = dead.next().await {
    ///     println!("{} {}: {}", letter.queue(), letter.message().operation(), letter.reason());
    ///     letter.put_back().await?;
    ///     break; // or `next` would wait for another one
    /// }
    /// broker.idle().await;
    /// assert_eq!(node.stats().operations[0].1, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// While the connection is down, this waits for it.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if the broker refuses or the backend has no dead letters.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing has changed.
    pub async fn dead_letters(&self, service: &Service) -> Result<DeadLetters, SubscribeError> {
        DeadLetters::open(&self.core, service).await
    }

    /// Who this client is.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.core.instance
    }

    /// Whether the connection is usable, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.core.transport.status()
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.core.clock
    }

    /// What it, or the node that it belongs to, has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Closes the client and its connection: open calls end with [`CallError::Closed`], or with
    /// [`NotSent::Closed`](crate::NotSent::Closed) where the request had not left.
    ///
    /// That of a node or a handler has the connection of the node, which serves nobody any more when it is
    /// closed: use [`Node::shutdown`](crate::Node::shutdown). The client of a node ends when the node
    /// shuts down. A clone that is kept outlives a node that is merely dropped: it talks on, and keeps
    /// the connection open, until it is closed or dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the closing may be incomplete; call it again.
    pub async fn close(&self) {
        self.core.pending.close();
        self.core.transport.close().await;
    }

    fn into_core(self) -> Arc<Core> {
        self.core
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn parent_message(&self) -> Option<&Message> {
        self.parent.as_ref().map(|parent| &parent.message)
    }

    /// `wanted`, or when the request that this works for ends.
    pub(crate) fn bound(&self, wanted: Instant) -> Instant {
        match self.parent.as_ref().and_then(|parent| parent.deadline) {
            Some(limit) => limit.min(wanted),
            None => wanted,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("instance", &self.core.instance).finish_non_exhaustive()
    }
}
