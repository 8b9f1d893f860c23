//! Routing: from an exchange and a key to queues, and on to dead-letter exchanges.

use gear_api::{Message, Text};
use tokio::time::Instant;

use super::{
    DeathReason, Destination, ExchangeId, Model, Outlet, Overflow, QueueId, Timer, death,
    queue::{Entry, Queue},
};
use crate::{now::Now, record::Event};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How many queues it was for.
    pub(crate) queues: usize,
    /// Whether one of them refused it.
    pub(crate) refused: bool,
}

/// Buffers that every publish uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    found: Vec<Destination>,
    queues: Vec<QueueId>,
}

/// A message on its way to a dead-letter exchange.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) exchange: Text,
    pub(super) key: Text,
    pub(super) message: Message,
    /// Whether nobody decided it: then it does not come back to where it has been.
    pub(super) by_itself: bool,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Publisher { expires: Option<Instant> },
    Queue { by_itself: bool },
}

impl<O: Outlet> Model<O> {
    /// Routes a message and stores it, once in each queue, or delivers it straight away.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        exchange: ExchangeId,
        key: Text,
        message: Message,
        expires: Option<Instant>,
        now: &Now,
    ) -> Outcome {
        let outcome = self.route(exchange, key, message, Origin::Publisher { expires }, now);
        self.bury(now);
        outcome
    }

    /// Publishes in the course of a change.
    pub(super) fn republish(
        &mut self,
        exchange: ExchangeId,
        key: Text,
        message: Message,
        now: &Now,
    ) -> Outcome {
        self.route(exchange, key, message, Origin::Publisher { expires: None }, now)
    }

    /// Routes what has died in the course of a change: dead letters are routed like any message,
    /// and may die again on the way.
    #[inline]
    pub(super) fn bury(&mut self, now: &Now) {
        if !self.dead.is_empty() {
            self.bury_all(now);
        }
    }

    #[cold]
    fn bury_all(&mut self, now: &Now) {
        while let Some(Dead { exchange, key, message, by_itself }) = self.dead.pop_front() {
            if let Ok(exchange) = self.exchange(&exchange) {
                self.route(exchange, key, message, Origin::Queue { by_itself }, now);
            }
        }
    }

    fn route(
        &mut self,
        exchange: ExchangeId,
        key: Text,
        message: Message,
        origin: Origin,
        now: &Now,
    ) -> Outcome {
        self.activity += 1;
        if let Origin::Publisher { expires } = origin
            && self.record.is_none()
            && let Some(queue) = self.routes.only(exchange, &key)
        {
            let entry = Entry::new(message, key, exchange, expires);
            return Outcome { queues: 1, refused: !self.store(queue, entry, now) };
        }
        let mut queues = std::mem::take(&mut self.scratch.queues);
        if let Some(known) = self.routes.find(exchange, &key) {
            queues.extend_from_slice(known);
        } else {
            self.find_queues(exchange, &key, &mut queues);
            self.routes.remember(exchange, &key, &queues);
        }
        let expires = match origin {
            Origin::Publisher { expires } => expires,
            Origin::Queue { by_itself } => {
                if by_itself {
                    queues.retain(|id| !death::is_cycle(&message, &self.queues[*id].spec.name));
                }
                None
            }
        };
        if self.record.is_some() {
            self.note_publication(exchange, &key, &message, &queues, now);
        }
        let mut outcome = Outcome { queues: queues.len(), refused: false };
        // The last queue gets the original.
        let mut left = queues.len();
        let mut original = Some((message, key));
        for &queue in &queues {
            left -= 1;
            let copy = if left == 0 { original.take() } else { original.clone() };
            let Some((message, key)) = copy else { break };
            let entry = Entry::new(message, key, exchange, expires);
            outcome.refused |= !self.store(queue, entry, now);
        }
        queues.clear();
        self.scratch.queues = queues;
        outcome
    }

    #[cold]
    fn note_publication(
        &mut self,
        exchange: ExchangeId,
        key: &Text,
        message: &Message,
        queues: &[QueueId],
        now: &Now,
    ) {
        // What one queue stores makes no room in another.
        let (full, taking): (Vec<_>, Vec<_>) =
            queues.iter().map(|id| &self.queues[*id]).partition(|queue| queue.is_full());
        let names = |queues: Vec<&Queue>| queues.iter().map(|q| q.spec.name.clone()).collect();
        let exchange = self.exchanges[exchange].name.clone();
        let event = Event::published(exchange, key.clone(), message, names(taking), names(full));
        self.note(now, || event);
    }

    /// The queues that a key leads to, each once, over any number of exchanges.
    pub(crate) fn find_queues(
        &mut self,
        exchange: ExchangeId,
        key: &str,
        queues: &mut Vec<QueueId>,
    ) {
        let mut found = std::mem::take(&mut self.scratch.found);
        self.exchanges[exchange].find(key, &mut found);
        let mut next = 0;
        while let Some(&destination) = found.get(next) {
            next += 1;
            match destination {
                Destination::Queue(queue) => queues.push(queue),
                // An exchange that was visited already leads nowhere new.
                Destination::Exchange(to) if !found[..next - 1].contains(&destination) => {
                    self.exchanges[to].find(key, &mut found);
                }
                Destination::Exchange(_) => {}
            }
        }
        found.clear();
        self.scratch.found = found;
        if queues.len() > 1 {
            queues.sort_unstable();
            queues.dedup();
        }
    }

    /// Puts a message into one queue, or gives it to a consumer at once. Returns whether the queue
    /// takes it.
    #[inline(always)]
    fn store(&mut self, id: QueueId, mut entry: Entry, now: &Now) -> bool {
        let queue = &mut self.queues[id];
        if queue.is_full() {
            return false;
        }
        if let Some(ttl) = queue.time_to_live() {
            let at = now.after(ttl);
            entry.expires = Some(entry.expires.map_or(at, |other| other.min(at)));
        }
        self.bytes += entry.charge;
        entry.position = queue.next_position();
        // Nothing waits before it, so it need not go through the queue; and what can be
        // delivered at once does not expire, however short its time is.
        if queue.len() == 0
            && let Some(consumer) = self.next_turn(id)
        {
            self.deliver(id, consumer, entry, now);
            return true;
        }
        self.queues[id].push(entry);
        self.dispatch(id, now);
        self.shorten(id, now);
        true
    }

    /// Drops the oldest messages of a queue that is too long.
    pub(super) fn shorten(&mut self, id: QueueId, now: &Now) {
        let queue = &self.queues[id];
        let Some(limit) = queue.max_length() else { return };
        if queue.policy.overflow == Overflow::RejectPublish || queue.len() <= limit {
            return;
        }
        while self.queues[id].len() > limit {
            let Some(oldest) = self.queues[id].pop() else { break };
            self.discard(id, oldest, DeathReason::MaxLength, now);
        }
        self.watch_head(id);
    }

    /// Takes a message out of the broker, by way of the dead-letter exchange where the
    /// queue has one.
    pub(super) fn discard(&mut self, id: QueueId, entry: Entry, reason: DeathReason, now: &Now) {
        self.activity += 1;
        self.bytes -= entry.charge;
        let queue = &self.queues[id].spec;
        let name = queue.name.clone();
        let target = queue.dead_letter_exchange.clone();
        let message = entry.message.clone();
        self.note(now, || Event::died(name.clone(), &message, reason));
        let Some(exchange) = target else { return };
        let from = &self.exchanges[entry.exchange].name;
        let message = death::mark(&entry.message, &name, reason, from, &entry.key);
        let by_itself = reason != DeathReason::Rejected;
        self.dead.push_back(Dead { exchange, key: entry.key, message, by_itself });
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }
}
