//! Deliveries of consumers that are gone, and that somebody is still at.
//!
//! Their messages are somebody else's by now, and settling them means nothing to the broker. But a
//! client that has promised its handlers a bound goes by them: they take up places of the consumer
//! that follows.

use std::collections::HashMap;

use super::{ConsumerId, Model, Outlet, Timer, dispatch::Consumer};
use crate::now::Now;

/// By the consumer that is gone.
#[derive(Debug, Default)]
pub(super) struct Late(HashMap<ConsumerId, Left>);

#[derive(Debug)]
struct Left {
    deliveries: usize,
    /// The consumer whose places they take up.
    successor: Option<ConsumerId>,
}

impl Late {
    /// A consumer is gone, with so many deliveries that somebody has.
    pub(super) fn add(&mut self, gone: ConsumerId, deliveries: usize) {
        if deliveries > 0 {
            self.0.insert(gone, Left { deliveries, successor: None });
        }
    }

    /// `successor` follows those that are gone. Returns how many of its places are taken up.
    pub(super) fn follow(&mut self, gone: &[ConsumerId], successor: ConsumerId) -> usize {
        let mut taken = 0;
        for id in gone {
            if let Some(left) = self.0.get_mut(id) {
                left.successor = Some(successor);
                taken += left.deliveries;
            }
        }
        taken
    }

    /// So many are settled. Returns who has more places now, and how many.
    fn settled(&mut self, gone: ConsumerId, deliveries: usize) -> Option<(ConsumerId, usize)> {
        let left = self.0.get_mut(&gone)?;
        let deliveries = deliveries.min(left.deliveries);
        left.deliveries -= deliveries;
        let successor = left.successor;
        if left.deliveries == 0 {
            self.0.remove(&gone);
        }
        Some((successor?, deliveries))
    }
}

impl<O: Outlet> Model<O> {
    /// A consumer is gone. What it had may still be with somebody.
    pub(super) fn note_late(&mut self, id: ConsumerId, gone: &Consumer<O>) {
        if gone.outlet.is_bounded() {
            // These were settled, and are only kept for a while.
            let is_kept = |timer: &&(_, Timer)| matches!(timer.1, Timer::Back(of, _) if of == id);
            let kept = self.timers.iter().filter(is_kept).count();
            self.late.add(id, gone.unsettled.len().saturating_sub(kept));
        }
    }

    /// Whether somebody still has deliveries of a consumer that is gone.
    pub(crate) fn is_late(&self, gone: ConsumerId) -> bool {
        self.late.0.contains_key(&gone)
    }

    /// Somebody is done with deliveries of a consumer that is gone.
    #[cold]
    pub(super) fn settle_late(&mut self, gone: ConsumerId, deliveries: usize, now: &Now) {
        let Some((successor, places)) = self.late.settled(gone, deliveries) else { return };
        let Some(consumer) = self.consumers.get_mut(successor) else { return };
        consumer.taken -= places;
        let queue = consumer.queue;
        self.go_on(successor, queue, 0, now);
    }
}
