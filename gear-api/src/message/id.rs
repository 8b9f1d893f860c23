//! Ids of messages and calls, and where a node gets its own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use uuid::Uuid;

use crate::Timestamp;

/// The id of a message or of a call: a UUID, or the text that a foreign program chose.
///
/// Costs nothing to clone when it is a UUID, as Gear's own always are.
///
/// ```
/// use gear_api::Id;
///
/// let foreign = Id::from("order-17");
/// let own = Id::from("0199d9a4-7b3c-7000-8000-000000000001");
/// assert_eq!(foreign.to_string(), "order-17");
/// assert_eq!(own.to_string(), "0199d9a4-7b3c-7000-8000-000000000001");
/// assert_ne!(foreign, own);
///
/// // The bytes of a UUID, as `uuid::Uuid::into_bytes` gives them.
/// assert_eq!(Id::from([7; 16]).to_string(), "07070707-0707-0707-0707-070707070707");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    /// In two numbers, its upper and its lower half: sixteen bytes would lie at an odd address, and
    /// who copies them from there waits for what was just written.
    Uuid(u64, u64),
    Text(Arc<str>),
}

impl From<Uuid> for Repr {
    fn from(uuid: Uuid) -> Self {
        let (high, low) = uuid.as_u64_pair();
        Self::Uuid(high, low)
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        // Only the canonical form, so that `Display` gives back what came in.
        if text.len() == 36
            && !text.bytes().any(|byte| byte.is_ascii_uppercase())
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Self(uuid.into());
        }
        Self(Repr::Text(text.into()))
    }
}

/// The UUID of these bytes, which need not be written first to be read here.
impl From<[u8; 16]> for Id {
    fn from(uuid: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(uuid).into())
    }
}

impl Id {
    /// An id that follows from this one: the same each time, for the same parts (version 5 of RFC 9562).
    pub(crate) fn derived(&self, parts: &[&[u8]]) -> Self {
        let namespace = match &self.0 {
            Repr::Uuid(high, low) => Uuid::from_u64_pair(*high, *low),
            Repr::Text(text) => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()),
        };
        // One after another: what they are together need not be in one place.
        let derived = parts.iter().fold(namespace, |id, part| Uuid::new_v5(&id, part));
        Self(derived.into())
    }

    /// The last bits, in which the ids of one source differ: a short key for a table. None
    /// if it is no UUID.
    pub(crate) fn serial(&self) -> Option<u64> {
        match &self.0 {
            Repr::Uuid(_, low) => Some(*low),
            Repr::Text(_) => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(high, low) => Uuid::from_u64_pair(*high, *low).fmt(f),
            Repr::Text(text) => text.fmt(f),
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the ids of one node: UUIDs of version 7 (RFC 9562) from the time, a prefix
/// of the node and a counter, since drawing randomness for each would cost 90 ns.
///
/// The same seed and the same times give the same ids.
#[derive(Debug)]
pub(crate) struct IdSource {
    prefix: u64,
    /// Twelve bits more of the seed, beside the version.
    rand_a: u64,
    /// Alone on its cache line: every message changes it.
    next: CachePadded<AtomicU64>,
}

/// The counter fills the last 40 bits: a trillion ids before one comes again, and
/// then with another time in front.
const COUNTER_BITS: u32 = 40;

impl IdSource {
    pub(crate) fn new(seed: u64) -> Self {
        let mixed = mix(seed);
        Self {
            prefix: mixed << COUNTER_BITS,
            rand_a: mixed >> 52,
            next: CachePadded::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn next(&self, now: Timestamp) -> Id {
        let count = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << COUNTER_BITS) - 1);
        let low = (self.prefix | count) & (u64::MAX >> 2) | (0b10 << 62);
        let high = (now.unix_ms() << 16) | 0x7000 | self.rand_a;
        Id(Repr::Uuid(high, low))
    }
}

/// Spreads a seed over 64 bits (the finalizer of SplitMix64), so that neighbouring
/// seeds give unlike results.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_version_7_distinct_and_reproducible() {
        let now = Timestamp::from_unix_ms(1_800_000_000_123);
        let (a, b, other) = (IdSource::new(7), IdSource::new(7), IdSource::new(8));
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let id = a.next(now);
            let Repr::Uuid(high, low) = id.0 else { panic!("not a UUID") };
            let uuid = Uuid::from_u64_pair(high, low);
            assert_eq!(uuid.get_version_num(), 7);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(high >> 16, 1_800_000_000_123);
            assert_eq!(id, b.next(now));
            assert!(seen.insert(id.clone()));
            assert!(seen.insert(other.next(now)));
            assert_eq!(Id::from(id.to_string().as_str()), id);
        }
    }

    #[test]
    fn twelve_bits_of_the_seed_are_beside_the_version() {
        let now = Timestamp::from_unix_ms(0);
        let front = |seed| match IdSource::new(seed).next(now).0 {
            Repr::Uuid(high, _) => high & 0xfff,
            Repr::Text(_) => panic!("not a UUID"),
        };
        let last = |seed| match IdSource::new(seed).next(now).0 {
            Repr::Uuid(_, low) => (low >> (COUNTER_BITS + 12)) & 0x3ff,
            Repr::Text(_) => panic!("not a UUID"),
        };
        assert!((0..100).any(|seed| front(seed) & 0x3ff != last(seed)), "no bits twice");
        assert!((0..100).map(front).collect::<HashSet<_>>().len() > 90);
    }

    #[test]
    fn only_the_canonical_form_becomes_a_uuid() {
        for text in ["0199D9A4-7B3C-7000-8000-000000000001", "0199d9a47b3c70008000000000000001", ""]
        {
            assert_eq!(Id::from(text).to_string(), text);
        }
    }
}
