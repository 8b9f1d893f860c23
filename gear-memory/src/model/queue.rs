//! A queue: messages in order, and the consumers that take turns.

use std::collections::VecDeque;

use gear_api::{Message, Text, topology};
use tokio::time::Instant;

use super::{ConnectionId, ConsumerId, ExchangeId, Overflow, Policy};
use crate::now::Now;

/// A message in a queue, or taken from it and not yet settled.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) key: Text,
    pub(crate) exchange: ExchangeId,
    pub(crate) expires: Option<Instant>,
    /// Its place: grows with every message of the queue, and in a quorum queue with every delivery.
    pub(crate) position: u64,
    pub(crate) redelivered: bool,
    /// How often it came back at all.
    pub(crate) returns: u32,
    /// How often it came back as a failure.
    pub(crate) failures: u32,
    /// How often a bug lost it.
    pub(crate) lost: u32,
    /// What it counts towards the broker's memory, in bytes.
    pub(crate) charge: usize,
}

/// What a stored message costs beside its body, in bytes: its properties, its place in
/// the queue and in the consumer's buffer.
const OVERHEAD_BYTES: usize = 640;

impl Entry {
    /// One that has not been in a queue yet, nor has a place there.
    pub(crate) fn new(
        message: Message,
        key: Text,
        exchange: ExchangeId,
        expires: Option<Instant>,
    ) -> Self {
        let charge = message.body().len() + message.headers().size() + OVERHEAD_BYTES;
        Self {
            message,
            key,
            exchange,
            expires,
            position: 0,
            redelivered: false,
            returns: 0,
            failures: 0,
            lost: 0,
            charge,
        }
    }

    pub(crate) fn is_expired(&self, now: &Now) -> bool {
        self.expires.is_some_and(|expires| expires <= now.get())
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) spec: topology::Queue,
    pub(crate) owner: Option<ConnectionId>,
    pub(crate) policy: Policy,
    /// Where it is bound: what must be undone when it goes.
    pub(crate) bindings: Vec<(ExchangeId, Text)>,
    ready: VecDeque<Entry>,
    /// Returned to a quorum queue: served first, in the order in which they came back.
    returned: VecDeque<Entry>,
    next_position: u64,
    pub(crate) unsettled: usize,
    pub(crate) consumers: usize,
    pub(crate) exclusive_consumer: bool,
    turns: Turns,
    /// When it goes if nobody uses it until then.
    pub(crate) goes_at: Option<Instant>,
    /// The one timer that is set for that. It may be early: then it is set again.
    pub(crate) unused_timer: Option<Instant>,
    /// The earliest expiry of a head that a timer is set for.
    pub(crate) head_timer: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(spec: topology::Queue, owner: Option<ConnectionId>, policy: Policy) -> Self {
        Self {
            spec,
            owner,
            policy,
            bindings: Vec::new(),
            ready: VecDeque::new(),
            returned: VecDeque::new(),
            next_position: 0,
            unsettled: 0,
            consumers: 0,
            exclusive_consumer: false,
            turns: Turns::default(),
            goes_at: None,
            unused_timer: None,
            head_timer: None,
        }
    }

    /// Messages that wait for a consumer.
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.returned.len()
    }

    /// Whether it takes no more messages.
    pub(crate) fn is_full(&self) -> bool {
        self.policy.overflow == Overflow::RejectPublish
            && self.max_length().is_some_and(|limit| self.len() >= limit)
    }

    /// The place of the next message.
    pub(crate) fn next_position(&mut self) -> u64 {
        self.next_position += 1;
        self.next_position
    }

    /// Adds a message at the end: its position is the latest.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.ready.push_back(entry);
    }

    /// Puts back what a consumer did not settle: in a classic queue where it was.
    pub(crate) fn give_back(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        entry.returns += 1;
        match self.spec.queue_type {
            topology::QueueType::Quorum => self.returned.push_back(entry),
            topology::QueueType::Classic => {
                let place = self.ready.partition_point(|other| other.position < entry.position);
                self.ready.insert(place, entry);
            }
        }
    }

    pub(crate) fn head(&self) -> Option<&Entry> {
        self.returned.front().or_else(|| self.ready.front())
    }

    pub(crate) fn pop(&mut self) -> Option<Entry> {
        self.returned.pop_front().or_else(|| self.ready.pop_front())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.returned.iter().chain(&self.ready)
    }

    /// Takes out everything that `keep` does not want to stay.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        self.returned.retain_mut(&mut keep);
        self.ready.retain_mut(&mut keep);
    }

    /// The shortest of the queue's and the policy's time to live.
    pub(crate) fn time_to_live(&self) -> Option<std::time::Duration> {
        match (self.spec.message_ttl, self.policy.message_ttl) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(crate) fn max_length(&self) -> Option<usize> {
        let limit = match (self.spec.max_length, self.policy.max_length) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        limit.map(|limit| limit as usize)
    }

    pub(crate) fn turns(&mut self) -> &mut Turns {
        &mut self.turns
    }
}

/// The consumers in the order of their turns: the highest priority first, and among equals who has
/// waited longest. One whose turn came when it was full is not in here, until it has room.
#[derive(Debug, Default)]
pub(crate) struct Turns(VecDeque<(i32, ConsumerId)>);

impl Turns {
    pub(crate) fn join(&mut self, consumer: ConsumerId, priority: i32) {
        match self.0.back() {
            Some(&(last, _)) if last < priority => {
                let place = self.0.partition_point(|&(other, _)| other >= priority);
                self.0.insert(place, (priority, consumer));
            }
            _ => self.0.push_back((priority, consumer)),
        }
    }

    pub(crate) fn leave(&mut self, consumer: ConsumerId) {
        self.0.retain(|&(_, other)| other != consumer);
    }

    pub(crate) fn first(&self) -> Option<ConsumerId> {
        self.0.front().map(|&(_, consumer)| consumer)
    }

    /// The first can take nothing now.
    pub(crate) fn leave_first(&mut self) {
        self.0.pop_front();
    }

    /// The first has had its turn, and goes behind its equals.
    pub(crate) fn pass(&mut self) {
        if self.0.len() > 1
            && let Some((priority, consumer)) = self.0.pop_front()
        {
            self.join(consumer, priority);
        }
    }
}
