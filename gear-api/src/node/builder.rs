//! Putting a node together.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::Future,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service as TowerService;

use super::{
    BoxError, Caller, Context, Fault, HandlerService, Node, Outcome, Reply, Request,
    dispatch::{Dispatcher, EventHandler, Operations, Registered, Role},
    handler::{self, Handler, Typed, Wrap},
};
use crate::{
    Client, Codec, EventGroup, Instance, Operation, Pattern, RemoteError, StartError, Text,
    Transport,
    client::{Core, Settings},
    topology::RETRY_STEPS,
};

/// Puts a [`Node`] together: its state, its handlers, its limits.
///
/// Give the state before the handlers, and a layer, or the number of [`retries`](NodeBuilder::retries), before
/// the handlers that it is for. All else counts for the whole node, wherever it is said.
#[must_use = "a builder does nothing until `start`"]
pub struct NodeBuilder<S> {
    transport: Arc<dyn Transport>,
    instance: Instance,
    state: Arc<S>,
    settings: Settings,
    concurrency: u16,
    layers: Vec<Wrap>,
    retries: u32,
    operations: Operations,
    events: Vec<(String, EventHandler)>,
    counts: Vec<(Text, Arc<AtomicU64>)>,
    error: Option<StartError>,
}

/// How often a cast or an event that fails is tried again, unless the builder says otherwise: once
/// after each delay.
#[allow(clippy::cast_possible_truncation)] // they are few
const RETRIES: u32 = RETRY_STEPS.len() as u32;

impl NodeBuilder<()> {
    pub(super) fn new(transport: Arc<dyn Transport>, instance: Instance) -> Self {
        Self {
            transport,
            instance,
            state: Arc::new(()),
            settings: Settings::default(),
            concurrency: 64,
            layers: Vec::new(),
            retries: RETRIES,
            operations: Operations::default(),
            events: Vec::new(),
            counts: Vec::new(),
            error: None,
        }
    }
}

impl<S: Send + Sync + 'static> NodeBuilder<S> {
    /// What the handlers that follow share.
    pub fn state<T: Send + Sync + 'static>(self, state: impl Into<Arc<T>>) -> NodeBuilder<T> {
        NodeBuilder {
            transport: self.transport,
            instance: self.instance,
            state: state.into(),
            settings: self.settings,
            concurrency: self.concurrency,
            layers: self.layers,
            retries: self.retries,
            operations: self.operations,
            events: self.events,
            counts: self.counts,
            error: self.error,
        }
    }

    /// Handles calls and casts of `operation`.
    ///
    /// Each runs in a task of its own, at most [`concurrency`](Self::concurrency) at a time. What it
    /// returns answers a call; a cast that fails is [tried again](Self::retries) and in the end set aside in
    /// `SERVICE:dead`, and so is one whose handler panics (where panics unwind). One that has begun is not stopped at its deadline: a layer
    /// of tower's `timeout` does that.
    pub fn on<Req, Rep, C, F, Fut>(mut self, operation: Operation<Req, Rep, C>, handler: F) -> Self
    where
        Req: Send + 'static,
        Rep: Send + 'static,
        C: Codec<Req> + Codec<Rep>,
        F: Fn(Arc<S>, Context, Req) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Rep, Fault>> + Send + 'static,
    {
        let registered = self.register(
            operation.text(),
            Typed {
                state: Arc::clone(&self.state),
                function: handler,
                decode: handler::decode_request::<Req, C>,
                encode: handler::encode_reply::<Rep, C>,
            },
        );
        let slot = self.operations.requests.entry(operation.name());
        Self::occupy(&mut self.error, slot, registered);
        self
    }

    /// Handles calls and casts of `operation` as [`on`](Self::on) does, with a handler that says itself how
    /// whoever asked is answered: now, [by another service](Caller::forward), or [later](Caller::defer). See
    /// [`Caller`].
    pub fn on_with_caller<Req, Rep, C, F, Fut>(
        mut self,
        operation: Operation<Req, Rep, C>,
        handler: F,
    ) -> Self
    where
        Req: Send + 'static,
        Rep: 'static,
        C: Codec<Req> + Codec<Rep>,
        F: Fn(Arc<S>, Context, Req, Caller<Rep, C>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, Fault>> + Send + 'static,
    {
        let registered = self.register(
            operation.text(),
            Typed {
                state: Arc::clone(&self.state),
                function: move |state: Arc<S>, cx: Context, request: Req| {
                    let caller = Caller::new(cx.clone());
                    handler(state, cx, request, caller)
                },
                decode: handler::decode_request::<Req, C>,
                encode: handler::outcome,
            },
        );
        let slot = self.operations.requests.entry(operation.name());
        Self::occupy(&mut self.error, slot, registered);
        self
    }

    /// Takes the answers to calls of `operation` that were sent with
    /// [`Call::reply_to`](crate::Call::reply_to), which has an example: any instance of the service
    /// may get them.
    pub fn on_reply<Req, Rep, C, F, Fut>(
        mut self,
        operation: Operation<Req, Rep, C>,
        handler: F,
    ) -> Self
    where
        Req: 'static,
        Rep: Send + 'static,
        C: Codec<Rep>,
        F: Fn(Arc<S>, Context, Result<Rep, RemoteError>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let registered = self.register(
            format!("{}:reply", operation.name()).into(),
            Typed {
                state: Arc::clone(&self.state),
                function: handler,
                decode: handler::decode_reply::<Rep, C>,
                encode: handler::no_reply,
            },
        );
        let slot = self.operations.replies.entry(operation.name());
        Self::occupy(&mut self.error, slot, registered);
        self
    }

    /// Handles the events under `pattern` that are of this kind.
    ///
    /// The instances of the service that name the same `group` share its events: each goes to
    /// one of them. A group has one queue, whatever its patterns. Where several of its handlers
    /// match an event, the first that was registered gets it. An event whose key is a handler's, and whose
    /// kind is not, is counted as unknown; one whose key is no handler's, as misrouted, with a warning: a
    /// pattern that is taken away stays bound until an operator unbinds it. Both are gone. While
    /// versions of a service with different patterns share a group, that happens to events that only
    /// one of them is for: a pattern that is new has a group that is new.
    ///
    /// ```
    /// use gear_api::{Context, Fault, Node, Operation, Pattern, Service, Topic};
    /// use gear_memory::MemoryBroker;
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    ///
    /// const STATS: Service = Service::new("STATS");
    /// const INDEXED: Operation<u64, ()> = Operation::new("indexed");
    ///
    /// async fn add(lines: Arc<AtomicU64>, cx: Context, more: u64) -> Result<(), Fault> {
    ///     println!("{more} lines, says {}", cx.key()); // the topic
    ///     lines.fetch_add(more, Ordering::Relaxed);
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broker, lines) = (MemoryBroker::new(), Arc::new(AtomicU64::new(0)));
    /// let mut nodes = Vec::new();
    /// for host in ["host1", "host2"] {
    ///     let node = Node::builder(broker.connect(), STATS.at(host)?).state(Arc::clone(&lines));
    ///     // They share the events of the group: each is added once.
    ///     let node = node.on_event("lines", Pattern::new("files.*.done"), INDEXED, add);
    ///     nodes.push(node.start().await?);
    /// }
    ///
    /// for topic in ["files.host1.done", "files.host2.done", "files.host2.begun"] {
    ///     nodes[0].client().publish(topic.parse::<Topic>()?, INDEXED, &100).await?;
    /// }
    /// broker.idle().await;
    /// assert_eq!(lines.load(Ordering::Relaxed), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event<Req, Rep, C, F, Fut>(
        mut self,
        group: &str,
        pattern: Pattern,
        event: Operation<Req, Rep, C>,
        handler: F,
    ) -> Self
    where
        Req: Send + 'static,
        Rep: 'static,
        C: Codec<Req>,
        F: Fn(Arc<S>, Context, Req) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let registered = self.register(
            event.text(),
            Typed {
                state: Arc::clone(&self.state),
                function: handler,
                decode: handler::decode_request::<Req, C>,
                encode: handler::no_reply,
            },
        );
        let twice = self.events.iter().any(|(other, handler)| {
            other == group && handler.event == event.name() && handler.pattern == pattern
        });
        if twice {
            self.error.get_or_insert(StartError::TwoHandlers(event.name().to_owned()));
        }
        let handler = EventHandler { pattern, event: event.name(), registered };
        self.events.push((group.to_owned(), handler));
        self
    }

    /// Puts a tower layer around the handlers that follow; the first layer is outermost. It is
    /// asked for a service for each handler, so a limit is one for each operation unless the
    /// layer shares it (as tower's `GlobalConcurrencyLimitLayer` does). To the layer around it each is
    /// always ready, and lets requests wait inside: layers that look at each other's readiness, as
    /// load shedding around a limit does, are one stack of tower's `ServiceBuilder`, given at once.
    ///
    /// What a layer of one's own looks like is shown at [`Request`].
    ///
    /// The error of a timeout becomes [`code::TIMEOUT`](crate::code::TIMEOUT), that of load
    /// shedding [`code::OVERLOADED`](crate::code::OVERLOADED) (feature `tower`), also where another layer
    /// wraps it; any other error becomes what `?` in a handler makes of it.
    ///
    /// ```
    /// use gear_api::{Context, Node, Operation, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::{sync::Arc, time::Duration};
    /// use tower::timeout::TimeoutLayer;
    ///
    /// const CTRL: Service = Service::new("CTRL");
    /// const PARSE: Operation<String, usize> = Operation::new("parse");
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = Node::builder(MemoryBroker::new().connect(), CTRL.at("host1")?)
    ///     .layer(TimeoutLayer::new(Duration::from_secs(1)))
    ///     .on(PARSE, async |_: Arc<()>, _: Context, text: String| Ok(text.len()))
    ///     .start()
    ///     .await?;
    /// # drop(node);
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService> + Send + Sync + 'static,
        L::Service: TowerService<Request, Response = Reply> + Clone + Send + 'static,
        <L::Service as TowerService<Request>>::Error: Into<BoxError> + Send,
        <L::Service as TowerService<Request>>::Future: Send,
    {
        self.layers.push(handler::wrap(layer));
        self
    }

    /// How often a cast, an event, or an answer that a reply handler takes is tried again when its handler
    /// fails, for the handlers that follow: 6 times by default, with 0 not at all. The delays before are fixed:
    /// 1 s, 5 s, 30 s, 2 min, 10 min and 1 h, the last as often as it takes, each up to a fifth less so that
    /// what failed together does not come back together. Meanwhile the message waits at the broker, takes up
    /// none of the places of its queue, and outlives this node. Then it goes to the queue that it came from,
    /// where others may be before it, and any instance that the queue is for may get it.
    ///
    /// If there is no such queue any more, as of an instance that has gone for good, or if it takes nothing,
    /// being full or without a majority of its nodes, the message is lost: RabbitMQ moves what it has held back
    /// at most once. What is not durable (replies, for one) is lost if the broker restarts meanwhile.
    ///
    /// One that has failed so often goes to the dead-letter queue `SERVICE:dead`, with the reason: see
    /// [`Client::dead_letters`]. It goes there at once if the handler says that it
    /// [would fail again](Fault::permanent), if nobody can decode it, if its deadline comes before the next try, or
    /// if the broker can not hold it, as where the delays are [not declared](crate::topology::delay) and this
    /// user may not declare them. Any other failure is tried again, also where a nested call says that asking
    /// again is useless. A call is never tried again here: its [caller decides](crate::CallError::retry).
    ///
    /// ```
    /// use gear_api::{Context, Fault, Node, Operation, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::sync::Arc;
    ///
    /// const MAIL: Service = Service::new("MAIL");
    /// const SEND: Operation<String, ()> = Operation::new("send");
    ///
    /// async fn send(_: Arc<()>, cx: Context, to: String) -> Result<(), Fault> {
    ///     if !to.contains('@') {
    ///         return Err(Fault::new("address", "that is no address").permanent());
    ///     }
    ///     if cx.attempt() < 2 {
    ///         return Err(Fault::new("busy", "the server is busy")); // until later
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = MemoryBroker::new();
    /// let node = Node::builder(broker.connect(), MAIL.at("host1")?).retries(3).on(SEND, send);
    /// let node = node.start().await?;
    /// node.client().cast(MAIL, SEND, &"ada@example.org".to_owned()).await?;
    /// node.client().cast(MAIL, SEND, &"ada".to_owned()).await?;
    ///
    /// broker.idle().await; // the delays pass in no time
    /// assert_eq!((node.stats().retried, node.stats().set_aside), (2, 1));
    /// assert_eq!(broker.messages("MAIL:dead")[0].body(), "\"ada\"");
    /// # Ok(())
    /// # }
    /// ```
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How many requests of one queue are handled at a time; also the prefetch. 64 by
    /// default, 1 or more. The service's queue, the instance's and each event group's count
    /// by themselves. A handler that waits for its own service takes up one of these meanwhile: where
    /// it is the last one of the only instance, it waits for itself until its deadline.
    ///
    /// Those that are still at it when their connection is lost, or their queue deleted, count: what comes
    /// again meanwhile waits. One that never ends takes up its place for ever.
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.concurrency = requests.max(1);
        self
    }

    /// How long a call of this node waits, if neither it nor its operation says. 30 s by
    /// default.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// How long a cast of this node waits for the broker. 30 s by default.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
        self
    }

    /// The largest body that is sent, in bytes: requests and replies. 4 MiB by default.
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

    fn register(&mut self, name: Text, handler: impl Handler + 'static) -> Registered {
        let plain: Arc<dyn Handler> = Arc::new(handler);
        let handler = self.layers.iter().rev().fold(plain, |inner, layer| layer(inner));
        let count = Arc::new(AtomicU64::new(0));
        self.counts.push((name, Arc::clone(&count)));
        Registered { handler, retries: self.retries, count }
    }

    fn occupy(
        error: &mut Option<StartError>,
        slot: Entry<'_, &'static str, Registered>,
        registered: Registered,
    ) {
        match slot {
            Entry::Vacant(slot) => drop(slot.insert(registered)),
            Entry::Occupied(slot) => {
                error.get_or_insert(StartError::TwoHandlers((*slot.key()).to_owned()));
            }
        }
    }

    /// Joins: takes the instance's name, and begins to serve. While the connection is down, or the broker
    /// can not give it its queues, that waits; for how long is said with `tokio::time::timeout`. A name
    /// whose holder is no longer there is free when the broker has noticed: over AMQP that is within
    /// three heartbeats.
    ///
    /// # Errors
    ///
    /// [`StartError::Subscribe`], with [`SubscribeError::NameInUse`](crate::SubscribeError::NameInUse) if
    /// another node has the name, and whatever else the broker refuses; [`StartError::TwoHandlers`]
    /// and [`StartError::Name`] for what contradicts itself here.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime that has its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the node has not joined.
    pub async fn start(self) -> Result<Node, StartError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let service = self.instance.service().clone();
        let operations = Arc::new(self.operations);
        let mut groups: HashMap<EventGroup, Vec<EventHandler>> = HashMap::new();
        let mut group_order = Vec::new();
        for (name, handler) in self.events {
            let group = EventGroup::new(service.clone(), &name)?;
            match groups.entry(group) {
                Entry::Occupied(mut handlers) => handlers.get_mut().push(handler),
                Entry::Vacant(slot) => {
                    group_order.push(slot.key().clone());
                    slot.insert(vec![handler]);
                }
            }
        }

        let core = Core::start(self.transport, self.instance.clone(), self.settings).await?;
        // Nobody else has it yet, so it is empty.
        let _ = core.counters.operations.set(self.counts);

        // The name first: a second node under it must not take anything from the queues. The
        // shared queue last, when everything that its handlers may need is there.
        let mut roles = vec![Role::Instance(self.instance, Arc::clone(&operations))];
        for group in group_order {
            if let Some(handlers) = groups.remove(&group) {
                roles.push(Role::Events(group, handlers));
            }
        }
        roles.push(Role::Service(service, operations));

        let (stop, stopped) = watch::channel(None);
        let mut dispatchers = Vec::new();
        for role in roles {
            let stop = stopped.clone();
            dispatchers.push(Dispatcher::start(&core, role, self.concurrency, stop).await?);
        }
        let tasks = dispatchers.into_iter().map(|d| tokio::spawn(d.run())).collect();
        Ok(Node::new(Client::of_core(core), stop, tasks))
    }
}

impl<S> std::fmt::Debug for NodeBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder").field("instance", &self.instance).finish_non_exhaustive()
    }
}
