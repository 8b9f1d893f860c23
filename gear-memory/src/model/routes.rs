//! The keys that were routed last, and the one queue that each led to. Most messages go to
//! few keys; for those, looking through the bindings again is most of the work of routing.

use gear_api::Text;

use super::{ExchangeId, QueueId};

const SLOTS: usize = 64;

/// A small table in which a key has one place only.
#[derive(Debug)]
pub(super) struct Routes {
    slots: Vec<Option<Route>>,
}

#[derive(Debug, Clone)]
struct Route {
    exchange: ExchangeId,
    key: Text,
    queue: QueueId,
}

impl Default for Routes {
    fn default() -> Self {
        Self { slots: vec![None; SLOTS] }
    }
}

impl Routes {
    /// The one queue that a key leads to, if that is known.
    pub(super) fn find(&self, exchange: ExchangeId, key: &str) -> Option<QueueId> {
        let route = self.slots[slot(key)].as_ref()?;
        (route.exchange == exchange && route.key == *key).then_some(route.queue)
    }

    pub(super) fn remember(&mut self, exchange: ExchangeId, key: &Text, queue: QueueId) {
        self.slots[slot(key)] = Some(Route { exchange, key: key.clone(), queue });
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
