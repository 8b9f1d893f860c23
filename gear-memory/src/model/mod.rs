//! RabbitMQ's rules as a plain data structure: exchanges, bindings, queues, consumers.
//!
//! No task, no lock and no waiting in here: every method takes the time it needs to
//! know and returns what happened. The transport puts a lock around it and turns
//! deliveries into wake-ups; tests drive it directly.

mod death;
mod dispatch;
mod exchange;
mod late;
mod policy;
mod publish;
mod queue;
mod routes;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::{BTreeSet, VecDeque};

use foldhash::{HashMap, HashMapExt};
use gear_api::{Text, topology};
use slotmap::{SlotMap, new_key_type};
use tokio::time::Instant;

pub use self::{
    death::DeathReason,
    policy::{Overflow, Policy},
};
pub(crate) use self::{dispatch::Consume, publish::Outcome};
use self::{
    dispatch::Consumer,
    exchange::{Destination, Exchange},
    queue::Queue,
};
use crate::{
    now::Now,
    record::{Event, Record},
};

new_key_type! {
    pub(crate) struct ExchangeId;
    pub(crate) struct QueueId;
    pub(crate) struct ConsumerId;
    pub(crate) struct ConnectionId;
    pub(crate) struct Tag;
}

/// What the broker delivers.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    /// Absent where nothing is to be settled.
    pub(crate) tag: Option<Tag>,
    pub(crate) message: gear_api::Message,
    pub(crate) key: Text,
    pub(crate) redelivered: bool,
}

/// Where the deliveries of one consumer go.
pub(crate) trait Outlet {
    /// What has to be done about a delivery once the broker is unlocked.
    type Wake;

    fn deliver(&self, delivered: Delivered) -> Option<Self::Wake>;

    /// Whether so many unsettled deliveries as the prefetch says are a promise to whoever takes
    /// them, over all of its consumers.
    fn is_bounded(&self) -> bool {
        false
    }
}

/// Why the broker refuses to declare, bind or consume: the names of AMQP 0-9-1,
/// section 1.5 of its reference, with their codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// 403.
    #[error("403 ACCESS_REFUSED: {0}")]
    AccessRefused(String),
    /// 404.
    #[error("404 NOT_FOUND: {0}")]
    NotFound(String),
    /// 405.
    #[error("405 RESOURCE_LOCKED: {0}")]
    ResourceLocked(String),
    /// 406.
    #[error("406 PRECONDITION_FAILED: {0}")]
    PreconditionFailed(String),
}

/// The broker's state.
#[derive(Debug)]
pub(crate) struct Model<O: Outlet> {
    exchanges: SlotMap<ExchangeId, Exchange>,
    exchange_names: HashMap<Text, ExchangeId>,
    default_exchange: ExchangeId,
    queues: SlotMap<QueueId, Queue>,
    queue_names: HashMap<Text, QueueId>,
    consumers: SlotMap<ConsumerId, Consumer<O>>,
    late: late::Late,
    policies: Vec<(gear_api::Pattern, Policy)>,
    named: u64,
    /// Counts everything that happens, so that it can be seen whether nothing did.
    pub(crate) activity: u64,
    /// What is stored, in bytes.
    bytes: usize,
    timers: BTreeSet<(Instant, Timer)>,
    /// What has to be done once the broker is unlocked.
    wakes: Vec<O::Wake>,
    /// Those of consumers that are gone. What they hold may want the broker when it is dropped.
    gone: Vec<O>,
    record: Option<Record>,
    /// What has died in the course of a change, and is to be routed at its end.
    dead: VecDeque<publish::Dead>,
    scratch: publish::Scratch,
    routes: routes::Routes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The head of the queue expires.
    Head(QueueId),
    /// The queue goes if it is still unused.
    Unused(QueueId),
    /// The delivery goes back to its queue.
    Back(ConsumerId, Tag),
}

impl<O: Outlet> Model<O> {
    pub(crate) fn new(record: Option<Record>) -> Self {
        let mut exchanges = SlotMap::with_key();
        let default_exchange = exchanges.insert(Exchange::new(
            topology::exchange::DEFAULT,
            topology::ExchangeKind::Direct,
            false,
        ));
        Self {
            exchanges,
            exchange_names: HashMap::from_iter([(topology::exchange::DEFAULT, default_exchange)]),
            default_exchange,
            queues: SlotMap::with_key(),
            queue_names: HashMap::new(),
            consumers: SlotMap::with_key(),
            late: late::Late::default(),
            policies: Vec::new(),
            named: 0,
            activity: 0,
            bytes: 0,
            timers: BTreeSet::new(),
            wakes: Vec::new(),
            gone: Vec::new(),
            record,
            dead: VecDeque::new(),
            scratch: publish::Scratch::default(),
            routes: routes::Routes::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn wakes(&mut self) -> &mut Vec<O::Wake> {
        &mut self.wakes
    }

    pub(crate) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// The outlets of consumers that are gone, to be dropped once the broker is unlocked.
    pub(crate) fn take_gone(&mut self) -> Vec<O> {
        std::mem::take(&mut self.gone)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub(crate) fn note(&mut self, now: &Now, event: impl FnOnce() -> Event) {
        if let Some(record) = &mut self.record {
            record.push(now.get(), event());
        }
    }

    /// Declares an exchange; the same again changes nothing.
    pub(crate) fn declare_exchange(
        &mut self,
        spec: &topology::Exchange,
    ) -> Result<ExchangeId, Refusal> {
        let name = clean(&spec.name);
        if let Some(&id) = self.exchange_names.get(&*name) {
            let there = &self.exchanges[id];
            if there.kind() == spec.kind && there.internal == spec.internal {
                return Ok(id);
            }
            let text = format!("the exchange {name:?} exists with another kind");
            return Err(Refusal::PreconditionFailed(text));
        }
        check_prefix("exchange", &name)?;
        let id = self.exchanges.insert(Exchange::new(name.clone(), spec.kind, spec.internal));
        self.exchange_names.insert(name, id);
        Ok(id)
    }

    pub(crate) fn exchange(&self, name: &str) -> Result<ExchangeId, Refusal> {
        let missing = || Refusal::NotFound(format!("there is no exchange {name:?}"));
        self.exchange_names.get(name).copied().ok_or_else(missing)
    }

    /// Declares a queue for `connection`; the same again counts as a use of it. An empty
    /// name means that the broker chooses one.
    pub(crate) fn declare_queue(
        &mut self,
        spec: &topology::Queue,
        connection: ConnectionId,
        now: &Now,
    ) -> Result<QueueId, Refusal> {
        let mut name = clean(&spec.name);
        if let Some(&id) = self.queue_names.get(&*name) {
            let there = &self.queues[id];
            if there.owner.is_some_and(|owner| owner != connection) {
                let text = format!("the queue {name:?} belongs to another connection");
                return Err(Refusal::ResourceLocked(text));
            }
            if there.spec != (topology::Queue { name: name.clone(), ..spec.clone() }) {
                let text = format!("the queue {name:?} exists with other arguments");
                return Err(Refusal::PreconditionFailed(text));
            }
            self.mark_used(id, now);
            return Ok(id);
        }
        if name.is_empty() {
            self.named += 1;
            name = format!("amq.gen-{}", self.named).into();
        } else {
            check_prefix("queue", &name)?;
        }
        let spec = topology::Queue { name: name.clone(), ..spec.clone() };
        let owner = spec.exclusive.then_some(connection);
        let policy = self.policy_of(&name);
        let id = self.queues.insert(Queue::new(spec, owner, policy));
        self.queue_names.insert(name.clone(), id);
        self.exchanges[self.default_exchange].bind(&name, Destination::Queue(id));
        self.routes.forget();
        self.mark_used(id, now);
        Ok(id)
    }

    pub(crate) fn queue(&self, name: &str) -> Result<QueueId, Refusal> {
        let missing = || Refusal::NotFound(format!("there is no queue {name:?}"));
        self.queue_names.get(name).copied().ok_or_else(missing)
    }

    /// Binds a queue; bound already, nothing changes.
    pub(crate) fn bind(
        &mut self,
        queue: QueueId,
        exchange: ExchangeId,
        key: &Text,
    ) -> Result<(), Refusal> {
        self.check_binding(exchange, key)?;
        let bindings = &mut self.queues[queue].bindings;
        if !bindings.iter().any(|(e, k)| *e == exchange && k == key) {
            bindings.push((exchange, key.clone()));
            self.routes.forget();
            self.exchanges[exchange].bind(key, Destination::Queue(queue));
        }
        Ok(())
    }

    /// Removes a binding of a queue; one that is not there is removed already.
    pub(crate) fn unbind(&mut self, queue: QueueId, exchange: ExchangeId, key: &str) {
        let bindings = &mut self.queues[queue].bindings;
        if let Some(at) = bindings.iter().position(|(e, k)| *e == exchange && *k == key) {
            bindings.swap_remove(at);
            self.routes.forget();
            self.exchanges[exchange].unbind(key, Destination::Queue(queue));
        }
    }

    /// Leads what `source` routes by `key` into another exchange.
    pub(crate) fn bind_exchange(
        &mut self,
        source: ExchangeId,
        to: ExchangeId,
        key: &Text,
    ) -> Result<(), Refusal> {
        self.check_binding(source, key)?;
        self.routes.forget();
        self.exchanges[source].bind(key, Destination::Exchange(to));
        Ok(())
    }

    fn check_binding(&self, exchange: ExchangeId, key: &str) -> Result<(), Refusal> {
        if exchange == self.default_exchange {
            let text = "the default exchange has no bindings of anybody's".to_owned();
            return Err(Refusal::AccessRefused(text));
        }
        let topic = self.exchanges[exchange].kind() == topology::ExchangeKind::Topic;
        if topic && key.split('.').filter(|word| *word == "#").count() > gear_api::MAX_HASHES {
            let text = format!("more than {} words \"#\" in {key:?}", gear_api::MAX_HASHES);
            return Err(Refusal::PreconditionFailed(text));
        }
        Ok(())
    }

    /// Deletes a queue with what is in it, and ends its consumers. Returns those that wanted more.
    pub(crate) fn delete_queue(&mut self, id: QueueId, now: &Now) -> Vec<ConsumerId> {
        let Some(mut queue) = self.queues.remove(id) else { return Vec::new() };
        if let Some(at) = queue.unused_timer {
            self.timers.remove(&(at, Timer::Unused(id)));
        }
        self.activity += 1;
        self.routes.forget();
        self.queue_names.remove(&queue.spec.name);
        self.exchanges[self.default_exchange].unbind(&queue.spec.name, Destination::Queue(id));
        for (exchange, key) in std::mem::take(&mut queue.bindings) {
            self.exchanges[exchange].unbind(&key, Destination::Queue(id));
        }
        self.bytes -= queue.entries().map(|entry| entry.charge).sum::<usize>();
        let (name, messages) = (&queue.spec.name, queue.len() + queue.unsettled);
        self.note(now, || Event::QueueDeleted { queue: name.clone(), messages });
        let mut consumers: Vec<ConsumerId> =
            self.consumers.iter().filter(|(_, c)| c.queue == id).map(|(id, _)| id).collect();
        consumers.retain(|&consumer| {
            let Some(gone) = self.consumers.remove(consumer) else { return false };
            self.note_late(consumer, &gone);
            self.bytes -= gone.unsettled.values().map(|entry| entry.charge).sum::<usize>();
            self.gone.push(gone.outlet);
            !gone.cancelled
        });
        consumers
    }

    /// Deletes the queue of a consumer.
    pub(crate) fn delete_queue_of(&mut self, consumer: ConsumerId, now: &Now) {
        if let Some(queue) = self.consumers.get(consumer).map(|consumer| consumer.queue) {
            self.delete_queue(queue, now);
        }
    }

    /// Applies a policy to the queues whose names match, those there are and those to
    /// come. The last one set wins.
    pub(crate) fn set_policy(&mut self, names: gear_api::Pattern, policy: Policy, now: &Now) {
        for id in self.queues.keys().collect::<Vec<_>>() {
            let queue = &mut self.queues[id];
            if names.matches(&queue.spec.name) {
                queue.policy = policy.clone();
                self.shorten(id, now);
            }
        }
        self.policies.push((names, policy));
        self.bury(now);
    }

    fn policy_of(&self, queue: &str) -> Policy {
        let found = self.policies.iter().rev().find(|(names, _)| names.matches(queue));
        found.map(|(_, policy)| policy.clone()).unwrap_or_default()
    }

    /// What a restart does: only durable messages in durable queues stay; in a classic
    /// queue they count as redelivered. Connections must have been dropped before.
    pub(crate) fn restart(&mut self, now: &Now) {
        let exclusive: Vec<QueueId> =
            self.queues.iter().filter(|(_, q)| q.spec.exclusive).map(|(id, _)| id).collect();
        for queue in exclusive {
            self.delete_queue(queue, now);
        }
        let (mut freed, mut lost) = (0, 0);
        for queue in self.queues.values_mut() {
            let classic = queue.spec.queue_type == topology::QueueType::Classic;
            queue.retain(|entry| {
                entry.redelivered |= classic;
                // A quorum queue has everything on disk.
                let stays = entry.message.is_durable() || !classic;
                if !stays {
                    freed += entry.charge;
                    lost += 1;
                }
                stays
            });
        }
        self.bytes -= freed;
        self.note(now, || Event::Restarted { messages: lost });
        for id in self.queues.keys().collect::<Vec<_>>() {
            self.watch_head(id);
            // The time of an unused queue starts again.
            self.mark_used(id, now);
        }
    }

    /// What there is of every queue, by name.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueState<'_>> {
        self.queues.values().map(|queue| QueueState { queue })
    }

    pub(crate) fn queue_state(&self, name: &str) -> Option<QueueState<'_>> {
        Some(QueueState { queue: &self.queues[*self.queue_names.get(name)?] })
    }
}

/// A look at one queue.
pub(crate) struct QueueState<'a> {
    queue: &'a Queue,
}

impl<'a> QueueState<'a> {
    pub(crate) fn name(&self) -> &'a Text {
        &self.queue.spec.name
    }

    pub(crate) fn ready(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.queue.unsettled
    }

    pub(crate) fn consumers(&self) -> usize {
        self.queue.consumers
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &'a gear_api::Message> {
        self.queue.entries().map(|entry| &entry.message)
    }

    /// Whether something will happen here without anybody asking for it.
    pub(crate) fn is_busy(&self) -> bool {
        if self.queue.spec.exclusive {
            return false; // a tap's
        }
        self.queue.unsettled > 0
            || (self.queue.len() > 0
                && (self.queue.consumers > 0 || self.queue.spec.dead_letter_exchange.is_some()))
    }
}

/// Names lose their line breaks on the way into the broker.
fn clean(name: &Text) -> Text {
    if name.contains(['\r', '\n']) { name.replace(['\r', '\n'], "").into() } else { name.clone() }
}

fn check_prefix(what: &str, name: &str) -> Result<(), Refusal> {
    if name.starts_with("amq.") {
        let text = format!("the {what} name {name:?} has the reserved prefix \"amq.\"");
        return Err(Refusal::AccessRefused(text));
    }
    if name.len() > gear_api::MAX_KEY_BYTES {
        let text = format!("the {what} name has {} bytes, more than 255", name.len());
        return Err(Refusal::PreconditionFailed(text));
    }
    Ok(())
}
