//! One node's connection to the broker: the [`Transport`] on top of the model.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{
    Capabilities, Clock, Consumer, ConsumerEnd, Message, Publish, PublishError, ReplySink, ReplyTo,
    Route, Status, SubscribeError, Subscription, Text, Transport, topology,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    fault::BrokerFault,
    inbox::{Inbox, InboxSource, Settled},
    model::{ConnectionId, Consume, ExchangeId, Refusal},
    now::Now,
    record::Event,
    shared::{Connection, Link, Shared, State, Waiting},
};

/// One node's connection to a [`MemoryBroker`](crate::MemoryBroker).
///
/// Cheap to clone; the clones are one connection. A test keeps one to cut it:
///
/// ```
/// use gear_api::{Status, Transport};
/// use gear_memory::MemoryBroker;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let broker = MemoryBroker::new();
/// let link = broker.connect();
/// link.cut();
/// assert_eq!(*link.status().borrow(), Status::Connecting);
/// broker.idle().await; // by now it is back
/// assert_eq!(*link.status().borrow(), Status::Ready);
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryTransport(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    id: ConnectionId,
    status: watch::Sender<Status>,
}

/// One subscription of a connection, as it is made again after a cut.
#[derive(Clone)]
pub(crate) struct Subscribed {
    pub(crate) inbox: Arc<Inbox>,
    declaration: topology::Declaration,
    /// The queue of what is set aside, where there is one.
    dead: Option<topology::Declaration>,
    consume: Consume,
}

impl Subscribed {
    /// Taps only watch: what they have not shown yet keeps nobody waiting.
    pub(crate) fn is_tap(&self) -> bool {
        self.declaration.queue.exclusive
    }
}

/// Where a message goes, in terms of the model.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    exchange: ExchangeId,
    key: Text,
    /// Whether reaching nobody is an error.
    mandatory: bool,
    expires: Option<Instant>,
}

/// How long a publisher waits for a confirm that is lost.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How many messages a tap holds before the queue behind it begins to fill.
const TAP_PREFETCH: u32 = 1_000;
const LOST_CONFIRM: Text = Text::from_static("its confirm was lost");

impl MemoryTransport {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: ConnectionId,
        status: watch::Sender<Status>,
    ) -> Self {
        Self(Arc::new(Handle { shared, id, status }))
    }

    /// Cuts the connection, as a network does. It comes back after the broker's
    /// [`reconnect_delay`](crate::MemoryBrokerBuilder::reconnect_delay).
    pub fn cut(&self) {
        self.cut_for(self.0.shared.reconnect_delay);
    }

    /// Cuts the connection for so long.
    pub fn cut_for(&self, time: Duration) {
        self.0.shared.with(|state, now| {
            if state.connections.get(self.0.id).is_some_and(|c| c.link == Link::Up) {
                state.cut(&[self.0.id], now.after(time), now);
            }
        });
    }
}

impl Handle {
    /// Lets go of everything. What consumers have settled is settled; the rest goes back.
    fn close(&self) {
        self.shared.with(|state, now| {
            let Some(connection) = state.connections.remove(self.id) else { return };
            state.down -= usize::from(connection.link != Link::Up);
            connection.status.send_replace(Status::Closed(Text::from_static("it was closed")));
            for subscribed in connection.subscriptions {
                if let Some(Settled { consumer, verdicts }) = subscribed.inbox.take_settled() {
                    state.model.settle(consumer, verdicts, now);
                }
                if subscribed.inbox.takes_replies()
                    && let Some(consumer) = subscribed.inbox.consumer()
                {
                    // Whoever answers now learns at once that nobody listens.
                    state.model.delete_queue_of(consumer);
                }
                subscribed.inbox.detach();
                let (_, wake) = subscribed.inbox.finish(ConsumerEnd::Closed);
                state.model.wakes().extend(wake);
            }
            for waiting in state.take_waiting(|waiting| waiting.connection == self.id) {
                let _ = waiting.hand_over.send(Err(PublishError::Closed));
            }
            state.model.drop_connections(&[self.id], now);
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl From<MemoryTransport> for Arc<dyn Transport> {
    fn from(transport: MemoryTransport) -> Self {
        Arc::new(transport)
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("status", &*self.0.status.borrow())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn send(&self, route: Route<'_>, message: Message) -> Publish {
        let shared = &self.0.shared;
        let limit = shared.max_message_bytes;
        if message.body().len() > limit {
            let bytes = message.body().len();
            return Publish::ready(Err(PublishError::TooLarge { bytes, limit }));
        }
        if matches!(route, Route::Delayed { .. })
            && matches!(*self.0.status.borrow(), Status::Closed(_))
        {
            return Publish::ready(Err(PublishError::Closed)); // and nothing is declared for it
        }
        let target = match shared.target(route, &message) {
            Ok(target) => target,
            Err(error) => return Publish::ready(Err(error)),
        };
        let sent = shared.publish((target, message), |state, now, (target, message)| {
            match state.connections.get(self.0.id) {
                None => Ok(Err(PublishError::Closed)),
                Some(connection) if connection.link == Link::Up && state.is_plain(shared) => {
                    Ok(shared.route(state, &target, message, now))
                }
                Some(_) => Err((target, message)),
            }
        });
        match sent {
            Ok(answer) => Publish::ready(answer),
            Err((target, message)) => shared.send_slowly(self.0.id, target, message),
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError> {
        let shared = &self.0.shared;
        let (subscribed, listening) = self.0.plan(subscription)?;
        loop {
            let down = shared.with(|state, now| {
                let connection = state.connections.get(self.0.id).ok_or(SubscribeError::Closed)?;
                if connection.link != Link::Up {
                    return Ok(true);
                }
                shared
                    .start(state, &subscribed, now)
                    .map_err(|refusal| self.explain(&subscribed, refusal))?;
                if let Some(connection) = state.connections.get_mut(self.0.id) {
                    connection.subscriptions.push(subscribed.clone());
                }
                Ok(false)
            })?;
            if !down {
                break;
            }
            let mut status = self.0.status.subscribe();
            let _ = status.wait_for(|status| *status != Status::Connecting).await;
        }
        if let Some((sink, at)) = listening {
            sink.listening(at);
        }
        let is_tap = subscribed.is_tap();
        Ok(Consumer::new(InboxSource::new(Arc::clone(shared), subscribed.inbox, is_tap)))
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.confirms = true;
        all.mandatory = true;
        all.durable = true;
        all.expiry = true;
        all.delays = true;
        all.dead_letters = true;
        all.events = true;
        all.taps = true;
        all.exclusive_instances = true;
        all.virtual_time = true;
        all.max_message_bytes = self.0.shared.max_message_bytes;
        all
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    fn clock(&self) -> Clock {
        self.0.shared.clock
    }

    fn seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        let number = self.0.number();
        self.0.shared.seed_of(number).unwrap_or_else(|| RandomState::new().hash_one(number))
    }

    async fn close(&self) {
        self.0.close();
    }
}

impl MemoryTransport {
    fn explain(&self, subscribed: &Subscribed, refusal: Refusal) -> SubscribeError {
        let name = &subscribed.declaration.queue.name;
        match (refusal, name.parse()) {
            (Refusal::AccessRefused(_), Ok(instance)) if subscribed.consume.exclusive => {
                SubscribeError::NameInUse(instance)
            }
            (refusal, _) => SubscribeError::Refused(refusal.to_string().into()),
        }
    }
}

impl Handle {
    fn number(&self) -> u64 {
        let number = |connection: &Connection| connection.number;
        self.shared.with(|state, _| state.connections.get(self.id).map_or(0, number))
    }

    /// What a subscription comes to, and who must be told where replies go.
    #[allow(clippy::type_complexity)] // a pair of two things that belong together once
    fn plan(
        &self,
        subscription: Subscription,
    ) -> Result<(Subscribed, Option<(Arc<dyn ReplySink>, ReplyTo)>), SubscribeError> {
        let mut listening = None;
        let mut exclusive = false;
        let (declaration, prefetch, service) = match subscription {
            Subscription::Service { service, prefetch } => {
                (topology::service(&service), prefetch.max(1).into(), Some(service))
            }
            Subscription::Instance { instance, prefetch } => {
                exclusive = true;
                let service = instance.service().clone();
                (topology::instance(&instance), prefetch.max(1).into(), Some(service))
            }
            Subscription::Replies { instance, sink } => {
                let number = self.shared.with(|state, _| state.number());
                let id = match self.shared.seed_of(number) {
                    Some(seed) => format!("{seed:016x}"),
                    None => format!("{:08x}{number:08x}", self.shared.clock.now().unix_ms() as u32),
                };
                let at = ReplyTo::instance(&instance, id);
                let declaration = topology::replies(&at);
                listening = Some((sink, at));
                (declaration, 0, None)
            }
            Subscription::Events { group, patterns, prefetch } => {
                let service = group.service().clone();
                (topology::events(&group, &patterns), prefetch.max(1).into(), Some(service))
            }
            Subscription::Tap { feed, pattern } => {
                (topology::tap(feed, &pattern), TAP_PREFETCH, None)
            }
            _ => return Err(SubscribeError::Unsupported("subscription of this kind")),
        };
        let sink = listening.as_ref().map(|(sink, _)| Arc::clone(sink));
        let subscribed = Subscribed {
            inbox: Inbox::new(prefetch, sink.clone()),
            dead: service.as_ref().map(topology::dead),
            declaration,
            consume: Consume {
                connection: self.id,
                prefetch,
                no_ack: sink.is_some(),
                exclusive,
                priority: 0,
                set_aside: service.map(|service| service.as_str().into()),
            },
        };
        Ok((subscribed, listening))
    }
}

impl Shared {
    /// Declares what a subscription needs, and starts its consumer.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        subscribed: &Subscribed,
        now: &Now,
    ) -> Result<(), Refusal> {
        let connection = subscribed.consume.connection;
        let mut consumed = None;
        for declaration in subscribed.dead.iter().chain([&subscribed.declaration]) {
            let queue = state.model.declare_queue(&declaration.queue, connection, now)?;
            for binding in &declaration.stale {
                let exchange = state.model.exchange(&binding.exchange)?;
                state.model.unbind(queue, exchange, &binding.key);
            }
            for binding in &declaration.bindings {
                let exchange = state.model.exchange(&binding.exchange)?;
                state.model.bind(queue, exchange, &binding.key)?;
            }
            consumed = Some(queue);
        }
        if let Some(queue) = consumed {
            let outlet = Arc::clone(&subscribed.inbox);
            let consumer = state.model.consume(queue, subscribed.consume.clone(), outlet, now)?;
            let wakes = subscribed.inbox.attach(self, consumer);
            state.model.wakes().extend(wakes);
        }
        Ok(())
    }

    /// The connection is back: everything is declared and consumed again.
    pub(crate) fn reconnect(self: &Arc<Self>, state: &mut State, id: ConnectionId, now: &Now) {
        let Some(connection) = state.connections.get_mut(id) else { return };
        connection.link = Link::Up;
        state.down -= 1;
        state.model.activity += 1;
        connection.status.send_replace(Status::Ready);
        let number = connection.number;
        // What the broker has ended meanwhile is its owner's to subscribe again.
        connection.subscriptions.retain(|subscribed| !subscribed.inbox.has_ended());
        for subscribed in connection.subscriptions.clone() {
            if let Err(refusal) = self.start(state, &subscribed, now) {
                let (_, wake) =
                    subscribed.inbox.finish(ConsumerEnd::Broker(refusal.to_string().into()));
                state.model.wakes().extend(wake);
            }
        }
        state.model.note(now, || Event::Connection { number, up: true });
    }

    fn target(
        self: &Arc<Self>,
        route: Route<'_>,
        message: &Message,
    ) -> Result<Target, PublishError> {
        let exchanges = &self.exchanges;
        let expires = message.deadline().map(|deadline| self.clock.instant(deadline));
        Ok(match route {
            Route::Address(address) => {
                Target { exchange: exchanges.entry, key: address.key(), mandatory: true, expires }
            }
            Route::Reply(to) => {
                let exchange = if to.is_gear() { exchanges.reply } else { exchanges.default };
                // Some brokers return what they delivered to a direct reply address.
                let mandatory = !to.as_str().starts_with("amq.rabbitmq.reply-to.");
                Target { exchange, key: to.key(), mandatory, expires }
            }
            Route::Event(topic) => {
                Target { exchange: exchanges.events, key: topic.key(), mandatory: false, expires }
            }
            Route::Dead(service) => {
                let key = service.as_str().into();
                Target { exchange: exchanges.dead, key, mandatory: true, expires: None }
            }
            Route::Delayed { delay, queue } => {
                let declared = self.with(|state, now| declare_delay(state, delay, now));
                let exchange = declared
                    .map_err(|refusal| PublishError::Refused(refusal.to_string().into()))?;
                Target { exchange, key: queue.into(), mandatory: true, expires: None }
            }
            _ => return Err(PublishError::Unsupported("route of this kind")),
        })
    }

    /// Routes a message, and says what its publisher is told.
    pub(crate) fn route(
        &self,
        state: &mut State,
        target: &Target,
        message: Message,
        now: &Now,
    ) -> Result<(), PublishError> {
        let outcome =
            state.model.publish(target.exchange, &target.key, message, target.expires, now);
        if outcome.refused {
            Err(PublishError::Refused(Text::from_static("a queue is full")))
        } else if outcome.queues == 0 && target.mandatory {
            Err(PublishError::NotRouted)
        } else {
            Ok(())
        }
    }

    /// Hands a message over, with the fault that hits it.
    pub(crate) fn hand_over(
        &self,
        state: &mut State,
        target: Target,
        message: Message,
        answer: oneshot::Sender<Result<(), PublishError>>,
        now: &Now,
    ) {
        let told = match state.faults.next(&target.key) {
            None => self.route(state, &target, message, now),
            Some(BrokerFault::Refuse) => {
                Err(PublishError::Refused(Text::from_static("a fault was injected")))
            }
            Some(BrokerFault::LoseConfirm) => {
                let deadline = message.deadline().map(|deadline| self.clock.instant(deadline));
                let _ = self.route(state, &target, message, now);
                return lose_confirm(answer, deadline);
            }
            Some(BrokerFault::Duplicate) => {
                let _ = self.route(state, &target, message.clone(), now);
                self.route(state, &target, message, now)
            }
            Some(fault) => {
                let mut queues = Vec::new();
                state.model.find_queues(target.exchange, &target.key, &mut queues);
                if queues.is_empty() && target.mandatory {
                    Err(PublishError::NotRouted)
                } else {
                    if let BrokerFault::Delay(delay) = fault {
                        let number = state.number();
                        state.model.activity += 1;
                        state.held.insert((now.after(delay), number), (target, message));
                    }
                    Ok(())
                }
            }
        };
        // A publisher that does not want to know is fine.
        let _ = answer.send(told);
    }

    /// Sends where something is in the way: a cut link, an alarm, a fault.
    fn send_slowly(
        self: &Arc<Self>,
        connection: ConnectionId,
        target: Target,
        message: Message,
    ) -> Publish {
        let deadline = message.deadline().map(|deadline| self.clock.instant(deadline));
        let (hand_over, mut receiver) = oneshot::channel();
        // What is settled already need not be in the way.
        self.settle_all();
        self.with(|state, _| {
            // Those that were withdrawn go when there are many.
            if state.waiting.len() >= 64 && state.waiting.len().is_power_of_two() {
                state.waiting.retain(|_, waiting| !waiting.hand_over.is_closed());
            }
            let number = state.number();
            let waiting = Waiting { connection, target, message, deadline, hand_over };
            state.waiting.insert(number, waiting);
        });
        // `with` has handed it over already if it could.
        match receiver.try_recv() {
            Ok(Ok(answer)) => Publish::handed_over(answer),
            Ok(Err(error)) => Publish::ready(Err(error)),
            Err(_) => Publish::waiting(receiver),
        }
    }
}

fn declare_delay(state: &mut State, delay: Duration, now: &Now) -> Result<ExchangeId, Refusal> {
    let (exchange, declaration) = topology::delay(delay);
    let exchange = state.model.declare_exchange(&exchange)?;
    let nobody = ConnectionId::default();
    let queue = state.model.declare_queue(&declaration.queue, nobody, now)?;
    for binding in &declaration.bindings {
        state.model.bind(queue, exchange, &binding.key)?;
    }
    Ok(exchange)
}

/// A confirm that never comes: the publisher gives up at the deadline, or after a while.
fn lose_confirm(answer: oneshot::Sender<Result<(), PublishError>>, deadline: Option<Instant>) {
    let limit = Instant::now() + CONFIRM_TIMEOUT;
    let until = deadline.map_or(limit, |deadline| deadline.min(limit));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            tokio::time::sleep_until(until).await;
            let _ = answer.send(Err(PublishError::Unknown(LOST_CONFIRM)));
        });
    }
}
