//! The keys that were routed last, and the queues that each led to. Most messages go to
//! few keys; for those, looking through the bindings again is most of the work of routing.

use gear_api::Text;

use super::{ExchangeId, QueueId};

const SLOTS: usize = 64;
/// A key that leads to more queues is looked up each time: the table stays small.
const MOST_QUEUES: usize = 1_000;

/// A small table in which a key has one place only.
#[derive(Debug)]
pub(super) struct Routes {
    slots: Vec<Option<Route>>,
}

#[derive(Debug, Clone)]
struct Route {
    exchange: ExchangeId,
    key: Text,
    queues: Vec<QueueId>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { slots: vec![None; SLOTS] }
    }
}

impl Routes {
    /// Adds the queues that a key leads to, if they are known. Returns whether they are.
    pub(super) fn find(&self, exchange: ExchangeId, key: &str, queues: &mut Vec<QueueId>) -> bool {
        let Some(route) = &self.slots[slot(key)] else { return false };
        if route.exchange != exchange || route.key != *key {
            return false;
        }
        match route.queues[..] {
            [queue] => queues.push(queue),
            _ => queues.extend_from_slice(&route.queues),
        }
        true
    }

    pub(super) fn remember(&mut self, exchange: ExchangeId, key: &Text, queues: &[QueueId]) {
        if queues.is_empty() || queues.len() > MOST_QUEUES {
            return;
        }
        let slot = &mut self.slots[slot(key)];
        // Where keys take turns, the buffer is used again.
        let mut buffer = slot.take().map(|route| route.queues).unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(queues);
        *slot = Some(Route { exchange, key: key.clone(), queues: buffer });
    }

    /// The bindings have changed.
    pub(super) fn forget(&mut self) {
        self.slots.fill(None);
    }
}

/// Names of one kind differ at their ends.
fn slot(key: &str) -> usize {
    let mut hash = key.len();
    for &byte in key.as_bytes().iter().rev().take(4) {
        hash = hash.wrapping_mul(31).wrapping_add(usize::from(byte));
    }
    hash % SLOTS
}
