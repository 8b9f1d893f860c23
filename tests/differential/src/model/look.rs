//! What can be seen of the model: by the runner, to compare, and by the generator, to find
//! something to do.

use super::{Entry, Link, Model, Number, Of};
use crate::{
    op::{Node, Role, Seat},
    world::Waiting,
};

/// What there is of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Consumers.
    pub consumers: usize,
}

impl Model {
    /// Every queue that there ever was, under the model's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What there is of a queue; none if there is none.
    #[must_use]
    pub fn depth(&self, name: &str) -> Option<Depth> {
        let queue = self.queues.get(name)?;
        let uses = |c: &&super::Consumer| c.incarnation == queue.incarnation && !c.stopped;
        let consumers = self.consumers.values().filter(uses).count();
        Some(Depth { ready: queue.waiting.len(), consumers })
    }

    /// What can be taken from a queue, in its order; none if there is no such queue.
    #[must_use]
    pub fn waiting(&self, name: &str) -> Option<Vec<Waiting>> {
        let entries = self.queues.get(name)?.waiting.iter().filter(|entry| !entry.expired);
        let waiting = |e: &Entry| Waiting { number: e.number, redelivered: e.is_redelivered() };
        Some(entries.map(waiting).collect())
    }

    /// Whether a message waits in a queue only to be dropped when it comes to the head.
    #[must_use]
    pub fn is_expired(&self, name: &str, number: Number) -> bool {
        let waiting = self.queues.get(name).map(|queue| &queue.waiting);
        waiting.is_some_and(|all| all.iter().any(|e| e.number == number && e.expired))
    }

    /// Whether a seat's consumer takes turns with others.
    #[must_use]
    pub fn takes_turns(&self, seat: Seat) -> bool {
        let depth = self.queue_of(seat).and_then(|queue| self.depth(queue));
        depth.is_some_and(|depth| depth.consumers > 1)
    }

    /// Who is connected, or was cut off.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.nodes.keys().copied()
    }

    /// Who is cut off.
    #[must_use]
    pub fn cut_off(&self) -> Option<Node> {
        self.nodes.iter().find(|(_, (link, _))| *link == Link::Cut).map(|(node, _)| *node)
    }

    /// Every subscription, also of who is cut off.
    pub fn seats(&self) -> impl Iterator<Item = Seat> {
        self.nodes.values().flat_map(|(_, joined)| joined.keys().copied())
    }

    /// The pattern of a subscription.
    #[must_use]
    pub fn pattern(&self, seat: Seat) -> Option<&str> {
        Some(&self.nodes.get(seat.node)?.1.get(&seat)?.pattern)
    }

    /// The queue of a subscription.
    #[must_use]
    pub fn queue_of(&self, seat: Seat) -> Option<&str> {
        Some(&self.nodes.get(seat.node)?.1.get(&seat)?.queue)
    }

    /// How many taps of either kind are connected.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.queues.values().filter(|queue| matches!(queue.of, Of::Tap(_) | Of::Watch(_))).count()
    }

    /// How many deliveries each holds, where it holds any.
    pub fn held(&self) -> impl Iterator<Item = (Seat, usize)> {
        let counts = self.held.iter().map(|(seat, held)| (*seat, held.len()));
        counts.filter(|(_, count)| *count > 0)
    }

    /// Whether a queue's name is only the model's: the broker, or the node, chooses its own.
    #[must_use]
    pub fn is_anonymous(name: &str) -> bool {
        [Role::Replies, Role::Tap, Role::Watch]
            .iter()
            .any(|role| name.contains(&format!(" {} ", role.word())))
    }
}
