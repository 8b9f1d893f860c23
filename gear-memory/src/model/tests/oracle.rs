//! One queue with several consumers against a definition of who gets what: random steps,
//! and after each the order, the turns, the marks and the numbers must be as defined.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use topology::QueueType;

use super::*;

/// One step. Numbers choose among what there is at that time.
#[derive(Debug, Clone)]
enum Step {
    Publish,
    Consume { prefetch: u32 },
    Settle { delivery: usize, verdict: Verdict },
    Cancel { member: usize },
    Cut { member: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Ack),
        1 => Just(Verdict::Reject),
        2 => Just(Verdict::Requeue),
        2 => Just(Verdict::Dropped),
    ];
    prop_oneof![
        8 => Just(Step::Publish),
        2 => (0u32..4).prop_map(|prefetch| Step::Consume { prefetch }),
        8 => (any::<usize>(), verdict)
            .prop_map(|(delivery, verdict)| Step::Settle { delivery, verdict }),
        1 => any::<usize>().prop_map(|member| Step::Cancel { member }),
        1 => any::<usize>().prop_map(|member| Step::Cut { member }),
    ]
}

/// A consumer with a connection of its own, as the definition sees it.
#[derive(Debug)]
struct Member {
    mailbox: Mailbox,
    connection: ConnectionId,
    prefetch: u32,
    active: bool,
    /// When its place in the turns was given to it: on joining, on a delivery, and when it
    /// had capacity again after it was blocked.
    since: u64,
    /// It was full: in a classic queue when it was its turn, in a quorum queue at once.
    blocked: bool,
    held: BTreeMap<u64, Delivered>,
    /// When it got what it has, or had.
    taken: BTreeMap<u64, u64>,
}

impl Member {
    fn has_capacity(&self) -> bool {
        self.active && (self.prefetch == 0 || self.held.len() < self.prefetch as usize)
    }
}

struct Oracle {
    broker: Broker,
    kind: QueueType,
    members: Vec<Member>,
    /// What waits, in the order in which it has to be served: first this, …
    returned: Vec<u64>,
    /// … then this.
    ready: Vec<u64>,
    published: u64,
    delivered_before: BTreeSet<u64>,
    done: BTreeSet<u64>,
    clock: u64,
}

impl Oracle {
    fn new(kind: QueueType) -> Self {
        let mut broker = Broker::new();
        broker.queue(&topology::Queue { queue_type: kind, ..queue("q") });
        Self {
            broker,
            kind,
            members: Vec::new(),
            returned: Vec::new(),
            ready: Vec::new(),
            published: 0,
            delivered_before: BTreeSet::new(),
            done: BTreeSet::new(),
            clock: 0,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Publish => {
                self.published += 1;
                self.ready.push(self.published);
                self.broker.send("q", &self.published.to_string());
            }
            Step::Consume { prefetch } => self.consume(prefetch),
            Step::Settle { delivery, verdict } => self.settle(delivery, verdict),
            Step::Cancel { .. } | Step::Cut { .. } if self.members.is_empty() => {}
            Step::Cancel { member } => {
                let at = member % self.members.len();
                self.members[at].active = false;
                self.broker.cancel(&self.members[at].mailbox);
            }
            Step::Cut { member } => {
                let gone = self.members.remove(member % self.members.len());
                let mut held: Vec<u64> = gone.held.keys().copied().collect();
                if self.kind == QueueType::Quorum {
                    held.sort_unstable_by_key(|n| gone.taken[n]);
                }
                held.into_iter().for_each(|n| self.give_back(n));
                self.broker.drop_connection(gone.connection);
            }
        }
        self.take_deliveries();
    }

    fn consume(&mut self, prefetch: u32) {
        let connection = self.broker.connect();
        let options = Consume { prefetch, ..consume(connection) };
        let mailbox = self.broker.consume_as("q", options);
        let (since, held) = (self.tick(), BTreeMap::new());
        self.members.push(Member {
            mailbox,
            connection,
            prefetch,
            active: true,
            since,
            blocked: false,
            held,
            taken: BTreeMap::new(),
        });
    }

    fn settle(&mut self, delivery: usize, verdict: Verdict) {
        let held: Vec<(usize, u64)> = (self.members.iter().enumerate())
            .flat_map(|(at, member)| member.held.keys().map(move |n| (at, *n)))
            .collect();
        if held.is_empty() {
            return;
        }
        let (at, n) = held[delivery % held.len()];
        let since = self.tick();
        let member = &mut self.members[at];
        let delivered = member.held.remove(&n).unwrap();
        if member.blocked && member.has_capacity() {
            member.blocked = false;
            member.since = since;
        }
        match verdict {
            Verdict::Ack | Verdict::Reject => assert!(self.done.insert(n)),
            _ => self.give_back(n),
        }
        self.broker.settle(&self.members[at].mailbox, &delivered, verdict);
    }

    /// A classic queue has its messages in the order of their numbers; a quorum queue serves
    /// those first that came back.
    fn give_back(&mut self, n: u64) {
        match self.kind {
            QueueType::Quorum => self.returned.push(n),
            QueueType::Classic => {
                let place = self.ready.partition_point(|other| *other < n);
                self.ready.insert(place, n);
            }
        }
    }

    fn waiting(&self) -> Vec<u64> {
        [&*self.returned, &*self.ready].concat()
    }

    /// Every delivery must be that of the first message to the one whose turn it is.
    fn take_deliveries(&mut self) {
        while let Some(&n) = self.waiting().first()
            && let Some(at) = self.next_member()
        {
            let since = self.tick();
            let is_quorum = self.kind == QueueType::Quorum;
            let member = &mut self.members[at];
            let delivered = member.mailbox.next();
            assert_eq!(text(&delivered.message), n.to_string());
            assert_eq!(delivered.redelivered, !self.delivered_before.insert(n));
            member.since = since;
            member.held.insert(n, delivered);
            member.taken.insert(n, since);
            member.blocked = is_quorum && !member.has_capacity();
            let from = if self.returned.is_empty() { &mut self.ready } else { &mut self.returned };
            from.remove(0);
        }
        for member in &self.members {
            assert!(member.mailbox.try_next().is_none(), "more than was due");
        }
        let waiting: Vec<String> = self.waiting().iter().map(u64::to_string).collect();
        assert_eq!(self.broker.ready("q"), waiting);
    }

    /// Whose turn it is: who has waited longest. Those who are full are blocked when it is theirs.
    fn next_member(&mut self) -> Option<usize> {
        loop {
            let row = self.members.iter_mut().enumerate().filter(|(_, m)| m.active && !m.blocked);
            let (at, member) = row.min_by_key(|(_, member)| member.since)?;
            if member.has_capacity() {
                return Some(at);
            }
            member.blocked = true;
        }
    }

    /// At the end everything is acked, and nothing was lost.
    fn finish(mut self) {
        while !self.members.is_empty() {
            self.apply(&Step::Cut { member: 0 });
        }
        self.apply(&Step::Consume { prefetch: 0 });
        while !self.members[0].held.is_empty() {
            self.apply(&Step::Settle { delivery: 0, verdict: Verdict::Ack });
        }
        assert_eq!(self.done, (1..=self.published).collect());
        assert_eq!(self.broker.bytes(), 0);
    }
}

/// A hundred times as many with `GEAR_TEST_LONG=1`.
fn cases() -> u32 {
    if std::env::var_os("GEAR_TEST_LONG").is_some() { 50_000 } else { 500 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_queue_serves_as_defined(
        kind in prop_oneof![Just(QueueType::Classic), Just(QueueType::Quorum)],
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut oracle = Oracle::new(kind);
        for step in &steps {
            oracle.apply(step);
        }
        oracle.finish();
    }
}
