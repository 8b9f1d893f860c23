//! From a subscription to the model: what is declared and consumed for it, now and after
//! every reconnect, and when somebody deletes its queue.

use std::sync::Arc;

use gear_api::{
    ConsumerEnd, ReplySink, ReplyTo, Status, SubscribeError, Subscription,
    topology::{self, QueueType},
};

use crate::{
    inbox::Inbox,
    model::{ConnectionId, Consume, QueueId, Refusal},
    now::Now,
    record::Event,
    shared::{Connection, Link, Shared, State},
};

/// One subscription of a connection, as it is made again after a cut or a deletion.
#[derive(Clone)]
pub(crate) struct Subscribed {
    pub(crate) inbox: Arc<Inbox>,
    declaration: topology::Declaration,
    /// The queue of what is set aside, where there is one.
    dead: Option<topology::Declaration>,
    consume: Consume,
}

/// Who takes replies, and where.
pub(crate) struct Listening {
    pub(crate) sink: Arc<dyn ReplySink>,
    pub(crate) at: ReplyTo,
}

/// How many messages a tap holds before the queue behind it begins to fill.
const TAP_PREFETCH: u32 = 1_000;

impl Subscribed {
    /// What a subscription of `connection` comes to, and where its replies go.
    pub(crate) fn plan(
        shared: &Arc<Shared>,
        connection: ConnectionId,
        connection_number: u64,
        subscription: Subscription,
    ) -> Result<(Self, Option<Listening>), SubscribeError> {
        let mut listening = None;
        let mut exclusive = false;
        // Those of one instance are always classic, as only these refuse a second consumer.
        let mut queue_type = QueueType::Classic;
        let (mut declaration, prefetch, service) = match subscription {
            Subscription::Service { service, prefetch } => {
                queue_type = shared.queue_type;
                (topology::service(&service), prefetch.max(1).into(), Some(service))
            }
            Subscription::Instance { instance, prefetch } => {
                exclusive = true;
                let service = instance.service().clone();
                (topology::instance(&instance), prefetch.max(1).into(), Some(service))
            }
            Subscription::Replies { instance, sink } => {
                let number = shared.with(|state, _| state.number());
                let id = match shared.seed_of(number) {
                    Some(seed) => format!("{seed:016x}"),
                    None => format!("{:08x}{number:08x}", shared.clock.now().unix_ms() as u32),
                };
                let at = ReplyTo::instance(&instance, id);
                let declaration = topology::replies(&at);
                listening = Some(Listening { sink, at });
                (declaration, 0, None)
            }
            Subscription::Events { group, patterns, prefetch } => {
                queue_type = shared.queue_type;
                let service = group.service().clone();
                (topology::events(&group, &patterns), prefetch.max(1).into(), Some(service))
            }
            Subscription::Dead { service, prefetch } => {
                queue_type = shared.queue_type;
                (topology::dead(&service), prefetch.max(1).into(), None)
            }
            Subscription::Tap { feed, pattern } => {
                (topology::tap(feed, &pattern), TAP_PREFETCH, None)
            }
            _ => return Err(SubscribeError::Unsupported("subscription of this kind")),
        };
        declaration.queue.queue_type = queue_type;
        let dead = service.as_ref().map(|service| {
            let mut dead = topology::dead(service);
            dead.queue.queue_type = shared.queue_type;
            dead
        });
        let sink = listening.as_ref().map(|listening| Arc::clone(&listening.sink));
        let subscribed = Self {
            inbox: Inbox::new(prefetch, sink.clone()),
            dead,
            declaration,
            consume: Consume {
                connection,
                connection_number,
                prefetch,
                no_ack: sink.is_some(),
                exclusive,
                priority: 0,
                set_aside: service.map(|service| service.as_str().into()),
                follows: Vec::new(),
            },
        };
        Ok((subscribed, listening))
    }

    /// Taps only watch: what they have not shown yet keeps nobody waiting.
    pub(crate) fn is_tap(&self) -> bool {
        self.declaration.queue.exclusive
    }

    /// Its connection is lost. What a tap has seen does not come again.
    pub(crate) fn detach(&self) {
        if self.is_tap() {
            self.inbox.detach_from_deleted(TAP_PREFETCH as usize);
        } else {
            self.inbox.detach();
        }
    }

    /// Why the broker refused it, as its subscriber sees it.
    pub(crate) fn explain(&self, refusal: Refusal) -> SubscribeError {
        let name = &self.declaration.queue.name;
        match (refusal, name.parse()) {
            (Refusal::AccessRefused(_), Ok(instance)) if self.consume.exclusive => {
                SubscribeError::NameInUse(instance)
            }
            (refusal, _) => SubscribeError::Refused(refusal.to_string().into()),
        }
    }
}

impl Shared {
    /// Declares what a subscription needs, and starts its consumer.
    pub(crate) fn start(
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
            let mut consume = subscribed.consume.clone();
            consume.follows = subscribed.inbox.earlier(|id| state.model.is_late(id));
            let consumer = state.model.consume(queue, consume, outlet, now)?;
            let wakes = subscribed.inbox.attach(self, consumer);
            state.model.wakes().extend(wakes);
        }
        Ok(())
    }

    /// The connection is back: everything is declared and consumed again.
    pub(crate) fn reconnect(self: &Arc<Self>, state: &mut State, id: ConnectionId, now: &Now) {
        let Some(connection) = state.connections.get_mut(id) else { return };
        if let Link::Down(back) = std::mem::replace(&mut connection.link, Link::Up) {
            state.down.remove(&(back, id));
        }
        state.waiting.link_is_back(id);
        state.model.activity += 1;
        connection.status.send_replace(Status::Ready);
        let number = connection.number;
        // What the broker has ended meanwhile is its owner's to subscribe again.
        connection.subscriptions.retain(|subscribed| !subscribed.inbox.has_ended());
        for subscribed in connection.subscriptions.clone() {
            self.start_again(state, &subscribed, now);
        }
        state.model.note(now, || Event::Connection { number, up: true });
    }

    /// An operator deletes a queue: whoever consumes it declares it again, and goes on. Whose
    /// connection is down does so when it is back.
    pub(crate) fn delete_queue(self: &Arc<Self>, state: &mut State, id: QueueId, now: &Now) {
        let consumers = state.model.delete_queue(id, now);
        if consumers.is_empty() {
            return;
        }
        let mut connections: Vec<&Connection> = state.connections.values().collect();
        connections.sort_unstable_by_key(|connection| connection.number);
        let all = connections.into_iter().flat_map(|connection| &connection.subscriptions);
        let concerned: Vec<Subscribed> = all
            .filter(|s| s.inbox.consumer().is_some_and(|consumer| consumers.contains(&consumer)))
            .cloned()
            .collect();
        for subscribed in &concerned {
            subscribed.inbox.detach_from_deleted(usize::MAX);
        }
        for subscribed in &concerned {
            self.start_again(state, subscribed, now);
        }
    }

    /// Starts a subscription that there was; what the broker refuses now ends it.
    fn start_again(self: &Arc<Self>, state: &mut State, subscribed: &Subscribed, now: &Now) {
        if let Err(refusal) = self.start(state, subscribed, now) {
            let end = ConsumerEnd::Broker(refusal.to_string().into());
            let (_, wake) = subscribed.inbox.finish(end);
            state.model.wakes().extend(wake);
        }
    }
}
