//! The semantics, once more and as plainly as can be: what a system of nodes on a broker does,
//! one operation after the other. Nothing here knows of exchanges, channels or tasks; it is
//! written from what the library promises, so that it can be wrong in other ways than they are.

mod look;
mod messages;

pub use look::Depth;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::op::{Manner, NODES, Node, Op, Role, Seat};

/// A message, by the order of sending.
pub type Number = u32;

/// A message that is lost so often is set aside.
const MAX_LOST: u32 = 20;

/// What must come of one operation, beside the new state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// For each message that was sent, whether anybody was there.
    pub published: Vec<(Number, bool)>,
    /// What is delivered, in this order for each seat.
    pub delivered: Vec<Delivered>,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// To whom.
    pub seat: Seat,
    /// What.
    pub number: Number,
    /// Under which key.
    pub key: String,
    /// Whether somebody had it before; none if nobody had, and the broker may say so all the same.
    pub redelivered: Option<bool>,
}

/// Messages in a queue or in somebody's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    number: Number,
    key: String,
    /// Its place in the queue, for good.
    position: u64,
    redelivered: bool,
    /// It was there when the broker restarted.
    recovered: bool,
    manner: Manner,
    expired: bool,
    lost: u32,
}

/// Which messages a queue is for.
#[derive(Debug, Clone)]
enum Of {
    Service,
    Instance,
    Events(BTreeSet<String>),
    Replies(Node),
    Tap(String),
    Watch(String),
    Dead,
}

type ConsumerId = u32;

#[derive(Debug, Clone)]
struct Queue {
    /// Tells it from one of the same name that was deleted.
    incarnation: u32,
    of: Of,
    waiting: VecDeque<Entry>,
    /// Positions so far.
    entered: u64,
    /// Whose turn it is. A consumer that gets something goes to the end.
    turns: VecDeque<ConsumerId>,
}

#[derive(Debug, Clone)]
struct Consumer {
    seat: Seat,
    queue: String,
    incarnation: u32,
    prefetch: usize,
    /// Out of the row: its hands are full.
    blocked: bool,
    /// It gets nothing more.
    stopped: bool,
}

/// A delivery in somebody's hands.
#[derive(Debug, Clone)]
struct Held {
    by: ConsumerId,
    entry: Entry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Cut,
}

/// The state of everything.
#[derive(Debug, Clone, Default)]
pub struct Model {
    queues: BTreeMap<String, Queue>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    held: BTreeMap<Seat, Vec<Held>>,
    /// What each node consumes, also while it is cut off; and how.
    nodes: BTreeMap<Node, (Link, BTreeMap<Seat, Join>)>,
    /// The reply queue that each node had last.
    replies: BTreeMap<Node, String>,
    names: BTreeSet<String>,
    numbers: u32,
    sent: Number,
    effect: Effect,
}

#[derive(Debug, Clone)]
struct Join {
    queue: String,
    prefetch: usize,
    pattern: String,
}

fn service_of(node: Node) -> &'static str {
    node.split_once('.').map_or(node, |(service, _)| service)
}

impl Model {
    /// Does `op`, and says what must come of it; none if there is nothing to do it to.
    pub fn apply(&mut self, op: &Op) -> Option<Effect> {
        self.effect = Effect::default();
        let done = match op {
            Op::Join { seat, prefetch, pattern } => self.join(*seat, *prefetch, pattern),
            Op::Stop(seat) => self.stop(*seat),
            Op::Leave(node) => self.leave(node),
            Op::Crash(node) => self.is_known(node).then(|| {
                self.lose(&[node]);
                self.nodes.remove(node);
            }),
            Op::Cut(node) => {
                let nobody_is_cut = self.nodes.values().all(|(link, _)| *link == Link::Up);
                (self.is_up(node) && nobody_is_cut).then(|| self.lose(&[node]))
            }
            Op::Mend(node) => (self.is_known(node) && !self.is_up(node)).then(|| self.mend(node)),
            Op::Publish { to, count, manner } => self.publish(to, *count, *manner),
            Op::Settle { seat, nth, verdict } => self.settle(*seat, *nth, *verdict),
            Op::Delete(queue) => self.delete(queue),
            Op::Restart => self.restart(),
        };
        done.map(|()| std::mem::take(&mut self.effect))
    }

    // Who is there.

    fn is_known(&self, node: Node) -> bool {
        self.nodes.contains_key(node)
    }

    /// Whether a node is connected.
    #[must_use]
    pub fn is_up(&self, node: Node) -> bool {
        self.nodes.get(node).is_some_and(|(link, _)| *link == Link::Up)
    }

    fn join(&mut self, seat: Seat, prefetch: u16, pattern: &str) -> Option<()> {
        let node = seat.node;
        if self.is_known(node) && (!self.is_up(node) || self.nodes[node].1.contains_key(&seat)) {
            return None;
        }
        let queue = match seat.role {
            Role::Service => service_of(node).to_owned(),
            Role::Instance => node.to_owned(),
            Role::Events => format!("{}:events.g", service_of(node)),
            Role::Replies | Role::Tap | Role::Watch => {
                self.numbers += 1;
                format!("{seat} {}", self.numbers)
            }
        };
        if seat.role == Role::Replies {
            self.replies.insert(node, queue.clone());
        }
        let prefetch = if seat.role.is_settled() { prefetch.max(1).into() } else { usize::MAX };
        let join = Join { queue, prefetch, pattern: pattern.to_owned() };
        let (_, joined) = self.nodes.entry(node).or_insert((Link::Up, BTreeMap::new()));
        joined.insert(seat, join.clone());
        self.consume(seat, &join);
        Some(())
    }

    fn consume(&mut self, seat: Seat, join: &Join) {
        let Join { queue, prefetch, pattern } = join;
        if seat.role.is_settled() {
            self.declare(&format!("{}:dead", service_of(seat.node)), Of::Dead);
        }
        let of = match seat.role {
            Role::Service => Of::Service,
            Role::Instance => Of::Instance,
            Role::Events => Of::Events(BTreeSet::new()),
            Role::Replies => Of::Replies(seat.node),
            Role::Tap => Of::Tap(pattern.clone()),
            Role::Watch => Of::Watch(pattern.clone()),
        };
        self.declare(queue, of);
        let Some(there) = self.queues.get_mut(queue) else { return };
        if let Of::Events(patterns) = &mut there.of {
            patterns.insert(pattern.clone()); // those of earlier members stay
        }
        self.numbers += 1;
        let id = self.numbers;
        there.turns.push_back(id);
        let consumer = Consumer {
            seat,
            queue: queue.clone(),
            incarnation: there.incarnation,
            prefetch: *prefetch,
            blocked: false,
            stopped: false,
        };
        self.consumers.insert(id, consumer);
        self.dispatch(queue);
    }

    fn stop(&mut self, seat: Seat) -> Option<()> {
        let (link, joined) = self.nodes.get_mut(seat.node)?;
        let join = joined.remove(&seat)?;
        if *link == Link::Up {
            let queue = self.queues.get_mut(&join.queue)?;
            for (id, consumer) in self.consumers.iter_mut().filter(|(_, c)| c.seat == seat) {
                consumer.stopped = true;
                queue.turns.retain(|other| other != id);
            }
            if !seat.role.is_settled() {
                self.queues.remove(&join.queue); // it goes with its only consumer
            }
        }
        Some(())
    }

    fn leave(&mut self, node: Node) -> Option<()> {
        let was_up = self.is_up(node);
        self.is_known(node).then(|| self.lose(&[node]))?;
        let (_, joined) = self.nodes.remove(node)?;
        for (_, join) in joined.iter().filter(|(seat, _)| was_up && seat.role == Role::Replies) {
            self.queues.remove(&join.queue); // else when it expires
        }
        Some(())
    }

    /// Connections are gone: first all their consumers end, then what they held goes back.
    fn lose(&mut self, nodes: &[Node]) {
        let gone: Vec<ConsumerId> = self
            .consumers
            .iter()
            .filter(|(_, c)| nodes.contains(&c.seat.node))
            .map(|(id, _)| *id)
            .collect();
        for queue in self.queues.values_mut() {
            queue.turns.retain(|id| !gone.contains(id));
        }
        let mut back = BTreeSet::new();
        for (_, held) in self.held.iter_mut().filter(|(seat, _)| nodes.contains(&seat.node)) {
            for Held { by, entry } in std::mem::take(held) {
                let consumer = &self.consumers[&by];
                let queue = self.queues.get_mut(&consumer.queue);
                if let Some(queue) = queue.filter(|q| q.incarnation == consumer.incarnation) {
                    queue.give_back(entry);
                    back.insert(consumer.queue.clone());
                }
            }
        }
        self.consumers.retain(|id, _| !gone.contains(id));
        for node in nodes {
            let Some((link, joined)) = self.nodes.get_mut(node) else { continue };
            *link = Link::Cut;
            for (seat, join) in joined {
                if matches!(seat.role, Role::Tap | Role::Watch) {
                    self.queues.remove(&join.queue); // exclusive: it goes with its connection
                }
            }
        }
        back.iter().for_each(|queue| self.dispatch(queue));
    }

    fn mend(&mut self, node: Node) {
        let Some((link, joined)) = self.nodes.get_mut(node) else { return };
        *link = Link::Up;
        for (seat, join) in joined.clone() {
            self.consume(seat, &join);
        }
    }

    /// All connections are cut and come back; what is durable stays.
    fn restart(&mut self) -> Option<()> {
        let up: Vec<Node> = NODES.into_iter().filter(|node| self.is_up(node)).collect();
        let all: Vec<Node> = self.nodes.keys().copied().collect();
        // Nobody gets anything while the broker goes down.
        self.queues.values_mut().for_each(|queue| queue.turns.clear());
        self.lose(&all);
        for queue in self.queues.values_mut() {
            queue.waiting.retain(|entry| entry.manner != Manner::Transient);
            queue.waiting.iter_mut().for_each(|entry| entry.recovered = true);
        }
        up.into_iter().for_each(|node| self.mend(node));
        Some(())
    }

    // Queues.

    fn declare(&mut self, name: &str, of: Of) {
        self.numbers += 1;
        let incarnation = self.numbers;
        self.names.insert(name.to_owned());
        self.queues.entry(name.to_owned()).or_insert_with(|| Queue {
            incarnation,
            of,
            waiting: VecDeque::new(),
            entered: 0,
            turns: VecDeque::new(),
        });
    }

    /// Who consumes it declares it again. Of several, it is open who is the first.
    fn delete(&mut self, name: &str) -> Option<()> {
        let mut users = self.consumers.values_mut().filter(|c| c.queue == name && !c.stopped);
        let (user, others) = (users.next(), users.count());
        (others == 0).then_some(())?;
        let again = user.map(|consumer| {
            consumer.stopped = true; // what it holds is of a queue that is gone
            consumer.seat
        });
        self.queues.remove(name)?;
        if let Some(seat) = again {
            let join = self.nodes.get(seat.node)?.1.get(&seat)?.clone();
            self.consume(seat, &join);
        }
        Some(())
    }

    /// Delivers what can be delivered, to one after the other.
    fn dispatch(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        loop {
            while queue.waiting.front().is_some_and(|entry| entry.expired) {
                queue.waiting.pop_front();
            }
            if queue.waiting.is_empty() {
                return;
            }
            let Some(id) = queue.turns.pop_front() else { return };
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            let hands = self.held.entry(consumer.seat).or_default();
            let holds = hands.iter().filter(|held| held.by == id).count();
            if holds >= consumer.prefetch {
                consumer.blocked = true;
                continue;
            }
            let Some(entry) = queue.waiting.pop_front() else { return };
            queue.turns.push_back(id); // even if it is full now: it may have room by then
            self.effect.delivered.push(Delivered {
                seat: consumer.seat,
                number: entry.number,
                key: entry.key.clone(),
                redelivered: entry.is_redelivered(),
            });
            if consumer.seat.role.is_settled() {
                hands.push(Held { by: id, entry });
            }
        }
    }
}

impl Entry {
    fn is_redelivered(&self) -> Option<bool> {
        (self.redelivered || !self.recovered).then_some(self.redelivered)
    }
}

impl Queue {
    /// Back to where it was.
    fn give_back(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        let place = self.waiting.partition_point(|other| other.position < entry.position);
        self.waiting.insert(place, entry);
    }
}
