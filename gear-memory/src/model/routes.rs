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
    /// The queues that a key leads to, if they are known.
    pub(super) fn find(&self, exchange: ExchangeId, key: &str) -> Option<&[QueueId]> {
        let route = self.slots[slot(key)].as_ref()?;
        // Mostly it is the same text in memory, too.
        let same = std::ptr::eq(route.key.as_str(), key) || route.key == *key;
        (same && route.exchange == exchange).then_some(&route.queues)
    }

    /// The one queue that a key leads to, if that is known.
    pub(super) fn only(&self, exchange: ExchangeId, key: &str) -> Option<QueueId> {
        match self.find(exchange, key)? {
            [queue] => Some(*queue),
            _ => None,
        }
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
    /// Spreads over the upper bits what differs (Knuth, from the golden ratio).
    const SPREAD: u32 = 0x9e37_79b9;
    let end = match key.as_bytes() {
        [.., a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
        short => short.iter().fold(0, |all, &byte| all << 8 | u32::from(byte)),
    };
    let hash = (end ^ key.len() as u32).wrapping_mul(SPREAD);
    (hash >> (u32::BITS - SLOTS.ilog2())) as usize
}
