//! From queues to consumers and back: turns, prefetch, settlement, expiry.

use std::time::Duration;

use gear_api::{
    Text, Verdict,
    topology::{self, QueueType},
};
use slotmap::SlotMap;
use tokio::time::Instant;

use super::{
    ConnectionId, ConsumerId, DeathReason, Delivered, Model, Outlet, QueueId, Refusal, Tag, Timer,
    queue::Entry,
};
use crate::{headers, now::Now, record::Event};

/// How to consume.
#[derive(Debug, Clone)]
pub(crate) struct Consume {
    pub(crate) connection: ConnectionId,
    /// What the record calls it.
    pub(crate) connection_number: u64,
    /// Unsettled deliveries at a time; 0 for any number.
    pub(crate) prefetch: u32,
    /// Whether a delivery is settled by being delivered.
    pub(crate) no_ack: bool,
    /// Whether nobody else may consume.
    pub(crate) exclusive: bool,
    /// The highest goes first.
    pub(crate) priority: i32,
    /// What has come back too often goes to `gear.dead` under this key.
    pub(crate) set_aside: Option<Text>,
    /// Consumers that are gone: what somebody still has of theirs takes up places of this one.
    pub(crate) follows: Vec<ConsumerId>,
}

#[derive(Debug)]
pub(super) struct Consumer<O> {
    pub(super) queue: QueueId,
    pub(super) outlet: O,
    pub(super) options: Consume,
    pub(super) unsettled: SlotMap<Tag, Entry>,
    /// No more deliveries; what is unsettled may still be settled.
    pub(super) cancelled: bool,
    /// Out of the turns until it has room.
    blocked: bool,
    /// Places that are taken up by deliveries of those that it follows.
    pub(super) taken: usize,
}

impl<O> Consumer<O> {
    fn has_capacity(&self) -> bool {
        let prefetch = self.options.prefetch as usize;
        !self.cancelled && (prefetch == 0 || self.unsettled.len() + self.taken < prefetch)
    }
}

/// How long a consumer keeps what could not be set aside; as long as a node.
const SET_ASIDE_AGAIN: Duration = Duration::from_secs(1);

/// Why a message goes back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Nobody looked at it.
    Unseen,
    /// Its consumer failed.
    Failed,
}

impl<O: Outlet> Model<O> {
    /// Starts a consumer.
    pub(crate) fn consume(
        &mut self,
        id: QueueId,
        mut options: Consume,
        outlet: O,
        now: &Now,
    ) -> Result<ConsumerId, Refusal> {
        let queue = &mut self.queues[id];
        if queue.owner.is_some_and(|owner| owner != options.connection) {
            let text = format!("the queue {:?} belongs to another connection", queue.spec.name);
            return Err(Refusal::ResourceLocked(text));
        }
        if queue.exclusive_consumer || (options.exclusive && queue.consumers > 0) {
            let text = format!("the queue {} is in exclusive use", queue.spec.name);
            return Err(Refusal::AccessRefused(text));
        }
        queue.consumers += 1;
        queue.exclusive_consumer = options.exclusive;
        queue.goes_at = None;
        let priority = options.priority;
        let follows = std::mem::take(&mut options.follows);
        let consumer = self.consumers.insert(Consumer {
            queue: id,
            outlet,
            options,
            unsettled: SlotMap::with_key(),
            cancelled: false,
            blocked: false,
            taken: 0,
        });
        self.consumers[consumer].taken = self.late.follow(&follows, consumer);
        queue.turns().join(consumer, priority);
        self.dispatch(id, now);
        self.bury(now);
        Ok(consumer)
    }

    /// Ends a consumer. What it has not settled it may still settle.
    pub(crate) fn cancel(&mut self, id: ConsumerId, now: &Now) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if consumer.cancelled {
            return;
        }
        consumer.cancelled = true;
        let (queue, finished) = (consumer.queue, consumer.unsettled.is_empty());
        if finished {
            self.remove(id);
        }
        if let Some(there) = self.queues.get_mut(queue) {
            there.turns().leave(id);
            there.consumers -= 1;
            there.exclusive_consumer = false;
            if there.spec.auto_delete && there.consumers == 0 {
                self.delete_queue(queue, now);
            } else {
                self.mark_used(queue, now);
            }
        }
    }

    fn remove(&mut self, id: ConsumerId) {
        self.gone.extend(self.consumers.remove(id).map(|consumer| consumer.outlet));
    }

    /// Connections are lost, all at once: their consumers end, what they had not settled goes
    /// back as a failure, and their exclusive queues go.
    pub(crate) fn drop_connections(&mut self, gone: &[ConnectionId], now: &Now) {
        self.activity += 1;
        let mine = |consumer: &Consumer<O>| gone.contains(&consumer.options.connection);
        let consumers: Vec<ConsumerId> =
            self.consumers.iter().filter(|(_, c)| mine(c)).map(|(id, _)| id).collect();
        // First all of them end, so that nothing goes from one to the other.
        for &id in &consumers {
            self.cancel(id, now);
        }
        let mut queues = Vec::new();
        // Then all of it comes back, so that whoever gets it gets it in its old order.
        for id in consumers {
            let Some(consumer) = self.consumers.remove(id) else { continue };
            self.note_late(id, &consumer);
            self.gone.push(consumer.outlet);
            let mut entries: Vec<Entry> = consumer.unsettled.into_iter().map(|(_, e)| e).collect();
            entries.sort_unstable_by_key(|entry| entry.position);
            for entry in entries {
                self.queues[consumer.queue].unsettled -= 1;
                self.give_back(consumer.queue, entry, Returned::Failed, now);
            }
            queues.push(consumer.queue);
        }
        for queue in queues {
            self.shorten(queue, now);
            self.dispatch(queue, now);
        }
        self.bury(now);
        let owned: Vec<QueueId> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.owner.is_some_and(|owner| gone.contains(&owner)))
            .map(|(id, _)| id)
            .collect();
        for queue in owned {
            self.delete_queue(queue, now);
        }
    }

    /// Settles deliveries of one consumer. Unknown tags are ignored.
    pub(crate) fn settle(
        &mut self,
        id: ConsumerId,
        verdicts: impl IntoIterator<Item = (Tag, Verdict)>,
        now: &Now,
    ) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return self.settle_late(id, verdicts.into_iter().count(), now);
        };
        let queue = consumer.queue;
        let mut settled = 0;
        for (tag, verdict) in verdicts {
            let Some(consumer) = self.consumers.get_mut(id) else { break };
            let Some(entry) = consumer.unsettled.remove(tag) else { continue };
            settled += 1;
            if verdict == Verdict::Ack && self.record.is_none() {
                self.bytes -= entry.charge;
            } else {
                self.apply(id, queue, entry, verdict, now);
            }
        }
        self.go_on(id, queue, settled, now);
    }

    /// Delivers what there is room for since a consumer has settled so many deliveries.
    #[inline(always)]
    pub(super) fn go_on(&mut self, id: ConsumerId, queue: QueueId, settled: usize, now: &Now) {
        self.queues[queue].unsettled -= settled;
        self.activity += settled as u64;
        if let Some(consumer) = self.consumers.get_mut(id) {
            if consumer.cancelled && consumer.unsettled.is_empty() {
                self.remove(id);
            } else if consumer.blocked && consumer.has_capacity() {
                consumer.blocked = false;
                let priority = consumer.options.priority;
                self.queues[queue].turns().join(id, priority);
            }
        }
        if self.queues[queue].len() > 0 {
            self.shorten(queue, now);
            self.dispatch(queue, now);
        }
        self.bury(now);
    }

    fn apply(
        &mut self,
        consumer: ConsumerId,
        queue: QueueId,
        mut entry: Entry,
        verdict: Verdict,
        now: &Now,
    ) {
        if self.record.is_some() {
            let name = self.queues[queue].spec.name.clone();
            let connection = self.consumers[consumer].options.connection_number;
            let event = Event::settled(name, &entry.message, connection, verdict);
            self.note(now, || event);
        }
        match verdict {
            Verdict::Ack => self.bytes -= entry.charge,
            Verdict::Reject => self.discard(queue, entry, DeathReason::Rejected, now),
            Verdict::Dropped => {
                entry.lost += 1;
                let lost = entry.lost >= Verdict::MAX_RETURNS;
                match self.consumers[consumer].options.set_aside.clone().filter(|_| lost) {
                    Some(key) => self.set_aside(consumer, queue, entry, key, now),
                    None => self.give_back(queue, entry, Returned::Failed, now),
                }
            }
            _ => self.give_back(queue, entry, Returned::Unseen, now),
        }
    }

    /// What Gear's own backends do with a message that is lost again and again. Only what is in the
    /// dead queue leaves its own.
    fn set_aside(&mut self, id: ConsumerId, queue: QueueId, entry: Entry, key: Text, now: &Now) {
        let Ok(exchange) = self.exchange(&topology::exchange::DEAD) else {
            return self.hold_back(id, queue, entry, now);
        };
        let reason = format!("dropped {} times", entry.lost);
        let from = &self.queues[queue].spec.name;
        let message = headers::to_send(entry.message.clone());
        let dead = topology::dead_letter(&message, from, &entry.key, &reason);
        let outcome = self.republish(exchange, key, dead, now);
        if outcome.queues > 0 && !outcome.refused {
            self.bytes -= entry.charge;
        } else {
            self.hold_back(id, queue, entry, now);
        }
    }

    /// It could not be set aside. Its consumer keeps it for a while: given back at once, it would
    /// go round without end and without any time passing.
    fn hold_back(&mut self, id: ConsumerId, queue: QueueId, mut entry: Entry, now: &Now) {
        entry.lost = 0;
        let tag = self.consumers[id].unsettled.insert(entry);
        self.queues[queue].unsettled += 1;
        self.set_timer(now.after(SET_ASIDE_AGAIN), Timer::Back(id, tag));
    }

    /// What was held back goes back, unless its consumer is gone, and it with it.
    fn let_go(&mut self, id: ConsumerId, tag: Tag, now: &Now) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        let queue = consumer.queue;
        let Some(entry) = consumer.unsettled.remove(tag) else { return };
        self.give_back(queue, entry, Returned::Failed, now);
        self.go_on(id, queue, 1, now);
    }

    fn give_back(&mut self, id: QueueId, mut entry: Entry, why: Returned, now: &Now) {
        let queue = &mut self.queues[id];
        if why == Returned::Failed {
            entry.failures += 1;
            let limit = queue.policy.delivery_limit;
            if queue.spec.queue_type == QueueType::Quorum
                && limit.is_some_and(|limit| entry.failures > limit)
            {
                self.discard(id, entry, DeathReason::DeliveryLimit, now);
                return;
            }
        }
        queue.give_back(entry);
    }

    /// Delivers what can be delivered, and drops what expired at the head.
    pub(super) fn dispatch(&mut self, id: QueueId, now: &Now) {
        loop {
            let queue = &mut self.queues[id];
            let Some(head) = queue.head() else { return };
            if head.is_expired(now) {
                if let Some(entry) = queue.pop() {
                    self.discard(id, entry, DeathReason::Expired, now);
                }
                continue;
            }
            let Some(consumer) = self.next_turn(id) else {
                self.watch_head(id);
                return;
            };
            if let Some(entry) = self.queues[id].pop() {
                self.deliver(id, consumer, entry, now);
            }
        }
    }

    /// Whose turn it is to get a message that is there now. Those that are full lose their turn,
    /// and come back to the end when they have room.
    #[inline]
    pub(super) fn next_turn(&mut self, id: QueueId) -> Option<ConsumerId> {
        loop {
            let turns = self.queues[id].turns();
            let next = turns.first()?;
            let consumer = &mut self.consumers[next];
            if consumer.has_capacity() {
                return Some(next);
            }
            consumer.blocked = true;
            turns.leave_first();
        }
    }

    /// Sees to it that the head expires in its time.
    pub(super) fn watch_head(&mut self, id: QueueId) {
        let queue = &mut self.queues[id];
        if let Some(at) = queue.head().and_then(|entry| entry.expires)
            && queue.head_timer.is_none_or(|set| at < set)
        {
            queue.head_timer = Some(at);
            self.set_timer(at, Timer::Head(id));
        }
    }

    /// Delivers to the consumer whose turn it is.
    ///
    /// Inlined, as is all on the way from a publisher to an inbox: an entry that is handed over in
    /// memory is written in small pieces and read in large ones, for which a processor has to wait.
    #[inline(always)]
    pub(super) fn deliver(&mut self, id: QueueId, to: ConsumerId, mut entry: Entry, now: &Now) {
        if self.record.is_some() {
            self.note_delivery(id, to, &entry, now);
        }
        let queue = &mut self.queues[id];
        let consumer = &mut self.consumers[to];
        self.activity += 1;
        let redelivered = entry.redelivered;
        let is_quorum = queue.spec.queue_type == QueueType::Quorum;
        if is_quorum {
            // What a lost connection had comes back in the order in which it was taken.
            entry.position = queue.next_position();
        }
        let wake = if consumer.options.no_ack {
            self.bytes -= entry.charge;
            let Entry { message, key, .. } = entry;
            consumer.outlet.deliver(Delivered { tag: None, message, key, redelivered })
        } else {
            let message = match is_quorum && redelivered {
                true => headers::of_redelivery(&entry.message, entry.returns, entry.failures),
                false => entry.message.clone(),
            };
            let key = entry.key.clone();
            let tag = Some(consumer.unsettled.insert(entry));
            queue.unsettled += 1;
            consumer.outlet.deliver(Delivered { tag, message, key, redelivered })
        };
        if let Some(wake) = wake {
            self.wakes.push(wake);
        }
        // A classic queue finds out that a consumer is full when it is its turn; if it has room again
        // by then, it has kept its place.
        consumer.blocked = is_quorum && !consumer.has_capacity();
        if consumer.blocked {
            queue.turns().leave_first();
        } else {
            queue.turns().pass();
        }
    }

    #[cold]
    fn note_delivery(&mut self, id: QueueId, to: ConsumerId, entry: &Entry, now: &Now) {
        let name = self.queues[id].spec.name.clone();
        let connection = self.consumers[to].options.connection_number;
        let event = Event::delivered(name, &entry.message, connection, entry.redelivered);
        self.note(now, || event);
    }

    /// When [`tick`](Self::tick) is due.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what time does: messages expire at the head, or go back, and unused queues go.
    pub(crate) fn tick(&mut self, now: &Now) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now.get()
        {
            self.timers.pop_first();
            match timer {
                Timer::Head(id) => {
                    if let Some(queue) = self.queues.get_mut(id) {
                        queue.head_timer = None;
                        self.dispatch(id, now);
                        self.bury(now);
                    }
                }
                Timer::Back(consumer, tag) => self.let_go(consumer, tag, now),
                Timer::Unused(id) => {
                    let Some(queue) = self.queues.get_mut(id) else { continue };
                    queue.unused_timer = None;
                    if queue.goes_at.is_some_and(|at| at <= now.get()) {
                        self.delete_queue(id, now);
                    } else {
                        self.watch_unused(id);
                    }
                }
            }
        }
    }

    /// Everything that waits in a queue expires. Returns how many messages that were.
    pub(crate) fn expire(&mut self, id: QueueId, now: &Now) -> usize {
        let waiting = self.queues[id].len();
        for _ in 0..waiting {
            let Some(entry) = self.queues[id].pop() else { break };
            self.discard(id, entry, DeathReason::Expired, now);
        }
        self.bury(now);
        waiting
    }

    /// The queue was used: its time until it goes starts again, unless it has consumers.
    pub(super) fn mark_used(&mut self, id: QueueId, now: &Now) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if queue.consumers == 0 {
            queue.goes_at = queue.spec.expires.map(|limit| now.after(limit));
            self.watch_unused(id);
        }
    }

    /// Sees to it that an unused queue goes in its time. Each use puts that off, and sets no timer
    /// where there is one: a queue that is used all the time would have one for each use.
    fn watch_unused(&mut self, id: QueueId) {
        let queue = &mut self.queues[id];
        if let Some(at) = queue.goes_at.filter(|_| queue.unused_timer.is_none()) {
            queue.unused_timer = Some(at);
            self.set_timer(at, Timer::Unused(id));
        }
    }
}
