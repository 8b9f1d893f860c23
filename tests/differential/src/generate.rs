//! Sequences of operations, drawn from a seed: what is drawn can be done, so that few
//! operations are wasted.

use crate::{
    model::Model,
    op::{Manner, NODES, Node, Op, Role, Seat, Target, Verdict},
};

const SERVICES: [&str; 2] = ["A", "B"];
/// The last ones reach nobody, ever.
const ADDRESSES: [&str; 10] =
    ["A", "B", "A.h1", "A.h2", "B.h1", "B.x.y", "A.*", "B.*", "*.*", "C.*"];
const TOPICS: [&str; 6] = ["o", "o.b", "o.b.c", "x.b", "o.o.b", "x"];
const EVENT_PATTERNS: [&str; 7] = ["#", "o.*", "o.#", "*.b", "#.b", "o.#.b", "*"];
const TAP_PATTERNS: [&str; 6] = ["#", "A.*", "A", "*.h1", "B.#", "*.*"];

/// Numbers that look drawn, and are the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of `0..below`.
    pub fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below.max(1) as u64) as usize
    }

    /// One of these.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What a sequence may contain.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// How many operations.
    pub length: usize,
    /// How many nodes.
    pub nodes: usize,
    /// In 1,000 operations, so many restarts of the broker.
    pub restarts: usize,
    /// In 1,000 operations, so many alarms.
    pub alarms: usize,
}

impl Taste {
    /// What any broker can be asked to do, besides other work.
    pub const USUAL: Self = Self { length: 50, nodes: NODES.len(), restarts: 0, alarms: 0 };
    /// What takes the whole broker down. One node for each service: in which order several come
    /// back after a restart is anybody's guess.
    pub const SERIAL: Self = Self { length: 25, nodes: 2, restarts: 60, alarms: 60 };
}

/// The sequence of a seed.
#[must_use]
pub fn sequence(seed: u64, taste: Taste) -> Vec<Op> {
    let nodes: &[Node] = if taste.nodes < NODES.len() { &["A.h1", "B.x.y"] } else { &NODES };
    let mut draw = Draw { random: Random::new(seed), model: Model::default(), nodes, taste };
    let mut ops = Vec::with_capacity(taste.length);
    while ops.len() < taste.length {
        let op = draw.op();
        if draw.model.apply(&op).is_some() {
            ops.push(op);
        }
    }
    ops
}

struct Draw<'a> {
    random: Random,
    model: Model,
    nodes: &'a [Node],
    taste: Taste,
}

impl Draw<'_> {
    fn op(&mut self) -> Op {
        let rare = self.random.below(1000);
        if rare < self.taste.restarts {
            return Op::Restart;
        }
        if rare < self.taste.restarts + self.taste.alarms {
            return self.publish(Manner::Blocked);
        }
        let held: Vec<(Seat, usize)> = self.model.held().collect();
        let seats = self.model.seats().count();
        match self.random.below(100) {
            0..30 if !held.is_empty() => self.settle(&held),
            30..45 => self.join(),
            45..48 if seats > 3 => Op::Stop(self.seat()),
            48..50 if seats > 3 => Op::Leave(self.node()),
            50..52 if seats > 3 => Op::Crash(self.node()),
            52..57 => match self.model.cut_off() {
                Some(node) => Op::Mend(node),
                None => Op::Cut(self.node()),
            },
            57 => Op::Delete(self.queue()),
            58 => self.publish(Manner::Mortal),
            59 => Op::Publish { to: Target::Later(self.queue()), count: 1, manner: Manner::Plain },
            60..62 => self.publish(Manner::Transient),
            _ if seats < 3 => self.join(),
            _ => self.publish(Manner::Plain),
        }
    }

    fn node(&mut self) -> Node {
        self.random.one(self.nodes)
    }

    fn seat(&mut self) -> Seat {
        let seats: Vec<Seat> = self.model.seats().collect();
        self.random.one(&seats)
    }

    /// Those that can be used whatever the broker calls the rest.
    fn queue(&mut self) -> String {
        let name = self.random.one(&["A", "B", "A.h1", "B.x.y", "A:events.g", "B:dead"]);
        name.to_owned()
    }

    fn join(&mut self) -> Op {
        use Role::{Events, Instance, Replies, Service, Tap, Watch};
        let role = self.random.one(&[
            Service, Service, Service, Service, Instance, Instance, Instance, Events, Events,
            Events, Replies, Tap, Watch,
        ]);
        let pattern = match role {
            Events | Watch => self.random.one(&EVENT_PATTERNS),
            Tap => self.random.one(&TAP_PATTERNS),
            _ => "",
        };
        let seat = Seat { node: self.node(), role };
        let prefetch = if role.is_settled() { 1 + self.random.below(3) as u16 } else { 0 };
        Op::Join { seat, prefetch, pattern: pattern.to_owned() }
    }

    fn settle(&mut self, held: &[(Seat, usize)]) -> Op {
        let (seat, count) = self.random.one(held);
        let verdict = match self.random.below(10) {
            0..5 => Verdict::Ack,
            5 => Verdict::Reject,
            6..9 => Verdict::Requeue,
            _ => Verdict::Drop,
        };
        Op::Settle { seat, nth: self.random.below(count), verdict }
    }

    fn publish(&mut self, manner: Manner) -> Op {
        let service = |random: &mut Random| random.one(&SERVICES).to_owned();
        let address = Target::Address(self.random.one(&ADDRESSES).to_owned());
        let to = match self.random.below(20) {
            _ if manner != Manner::Plain => address,
            0..5 => Target::Event(self.random.one(&TOPICS).to_owned()),
            5 => Target::Reply(service(&mut self.random)),
            6 => Target::Answer(self.node()),
            7 => Target::Dead(service(&mut self.random)),
            _ => address,
        };
        let count = match self.random.below(4) {
            0 => 2 + self.random.below(4) as u32,
            _ => 1,
        };
        Op::Publish { to, count, manner }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// How often each kind of operation is in what the short form of the test does.
    fn kinds(seeds: u64, taste: Taste) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for op in (0..seeds).flat_map(|seed| sequence(seed, taste)) {
            let kind = match op {
                Op::Join { seat, .. } => format!("join {:?}", seat.role),
                Op::Settle { verdict, .. } => format!("{verdict:?}"),
                Op::Publish { to: Target::Address(to), manner, .. } => {
                    format!("{manner:?} to {to}")
                }
                Op::Publish { to, .. } => word(&to),
                other => word(&other),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    fn word(shown: &impl std::fmt::Debug) -> String {
        format!("{shown:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn three_hundred_sequences_have_something_of_everything() {
        let kinds = kinds(300, Taste::USUAL);
        let often = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
        for role in Role::ALL {
            assert!(often(&format!("join {role:?}")) > 100, "{role:?}: {kinds:?}");
        }
        for kind in [
            "Stop", "Leave", "Crash", "Cut", "Mend", "Delete", "Ack", "Reject", "Requeue", "Drop",
            "Event", "Reply", "Answer", "Dead", "Later",
        ] {
            assert!(often(kind) > 20, "{kind}: {kinds:?}");
        }
        for to in ADDRESSES {
            assert!(often(&format!("Plain to {to}")) > 100, "{to}: {kinds:?}");
            assert!(often(&format!("Transient to {to}")) > 5, "{to}: {kinds:?}");
            assert!(often(&format!("Mortal to {to}")) > 2, "{to}: {kinds:?}");
        }
    }

    #[test]
    fn what_takes_a_broker_down_is_in_the_other_tier() {
        let kinds = kinds(100, Taste::SERIAL);
        assert!(kinds.get("Restart").is_some_and(|often| *often > 50), "{kinds:?}");
        assert!(kinds.keys().any(|kind| kind.starts_with("Blocked to ")), "{kinds:?}");
    }
}
