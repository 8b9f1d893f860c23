//! Does a sequence to a backend, step by step with the model, and compares.

mod end;
mod hands;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    sync::Arc,
};

use gear_api::{
    Address, BoxError, Delivery, EventGroup, Feed, Id, Instance, Kind, Message, Pattern, Publish,
    PublishError, ReplyTo, Route, Service, Status, Subscription, Topic, Transport,
};
use tokio::time::{sleep, timeout};

use crate::{
    model::{Delivered, Effect, Model},
    op::{Manner, Node, Op, Role, Seat, Target, Verdict},
    world::World,
};
use hands::{Got, Hands};

/// Where a backend and the model part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The operation, as it is written; or what was done after the last one.
    pub at: String,
    /// What the model says and what the backend did.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at `{}`: {}", self.at, self.what)
    }
}

/// What was compared on the way, where there was no difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Operations that were done.
    pub operations: u64,
    /// Answers to publishers.
    pub outcomes: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Queues that were emptied at the end.
    pub queues: u64,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, more: Self) {
        self.operations += more.operations;
        self.outcomes += more.outcomes;
        self.deliveries += more.deliveries;
        self.queues += more.queues;
    }
}

/// Does `ops` to a new `world`, and compares all that can be seen.
///
/// # Errors
///
/// The first [`Difference`].
pub async fn run(world: &dyn World, ops: &[Op]) -> Result<Compared, Difference> {
    let mut at = String::from("connecting");
    let result = async {
        let sender = world.connect(None).await?;
        let mut runner = Runner::new(world, sender);
        for op in ops {
            at = op.to_string();
            runner.step(op).await?;
        }
        for op in runner.last_words() {
            at = format!("{op} (at the end)");
            runner.step(&op).await?;
        }
        at = "the end".to_owned();
        runner.compare_depths().await?;
        let nodes: Vec<Node> = runner.model.nodes().collect();
        for node in nodes {
            at = format!("leave {node} (at the end)");
            runner.step(&Op::Leave(node)).await?;
        }
        at = "the contents of the queues at the end".to_owned();
        runner.sender.close().await;
        runner.compare_contents().await?;
        Ok::<_, BoxError>(runner.compared)
    };
    let result = result.await;
    result.map_err(|what| Difference { at, what: what.to_string() })
}

/// What a node has on its side.
struct Member {
    transport: Arc<dyn Transport>,
    seats: BTreeMap<Seat, Hands>,
}

struct Runner<'a> {
    world: &'a dyn World,
    model: Model,
    sender: Arc<dyn Transport>,
    members: BTreeMap<Node, Member>,
    held: BTreeMap<Seat, Vec<Delivery>>,
    /// Who has settled something since the broker was known to know.
    unsettled: BTreeSet<Seat>,
    /// The reply queue that each node had last, and by the model's name each that there was.
    replies: BTreeMap<Node, ReplyTo>,
    names: BTreeMap<String, String>,
    compared: Compared,
}

type Step<T = ()> = Result<T, BoxError>;

impl<'a> Runner<'a> {
    fn new(world: &'a dyn World, sender: Arc<dyn Transport>) -> Self {
        Self {
            world,
            model: Model::default(),
            sender,
            members: BTreeMap::new(),
            held: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            replies: BTreeMap::new(),
            names: BTreeMap::new(),
            compared: Compared::default(),
        }
    }

    /// Does one operation, if there is anything to do it to, with all that follows from it.
    async fn step(&mut self, op: &Op) -> Step {
        let before = self.model.clone();
        let Some(effect) = self.model.apply(op) else { return Ok(()) };
        self.compared.operations += 1;
        self.await_settlements(op, &before).await?;
        match op {
            Op::Join { seat, prefetch, pattern } => self.join(*seat, *prefetch, pattern).await?,
            Op::Stop(seat) => self.stop(*seat).await?,
            Op::Leave(node) => self.leave(node).await,
            Op::Crash(node) => {
                self.world.crash(node).await;
                self.members.remove(node);
            }
            Op::Cut(node) => {
                self.world.cut(node).await;
                let lost = self.status(node, |status| !status.is_ready());
                self.in_time("noticing the cut", lost).await?;
            }
            Op::Mend(node) => {
                self.world.mend(node).await;
                self.in_time("connecting again", self.status(node, Status::is_ready)).await?;
            }
            Op::Publish { to, count, manner } => {
                self.publish(to, *count, *manner, &effect).await?;
            }
            Op::Settle { seat, nth, verdict } => self.settle(*seat, *nth, *verdict)?,
            Op::Delete(queue) => {
                self.world.delete(queue).await?;
                self.compare_depth(queue).await?; // until who consumes it is back
            }
            Op::Restart => {
                self.world.restart().await?;
                let members = self.members.keys().filter(|node| self.model.is_up(node));
                for node in members {
                    self.in_time("connecting again", self.status(node, Status::is_ready)).await?;
                }
                let mut status = self.sender.status();
                let ready = status.wait_for(Status::is_ready);
                let _ = self.in_time("connecting again", ready).await?;
            }
        }
        for delivered in &effect.delivered {
            self.receive(delivered).await?;
        }
        if let Op::Leave(node) | Op::Crash(node) | Op::Cut(node) = op {
            for seat in before.seats().filter(|seat| seat.node == *node) {
                if let Some(queue) = before.queue_of(seat) {
                    self.compare_depth(queue).await?;
                }
            }
        }
        if self.model.taps() < before.taps() {
            self.await_taps().await?;
        }
        if matches!(op, Op::Leave(_) | Op::Crash(_) | Op::Cut(_) | Op::Restart) {
            self.settle_in_vain();
        }
        self.nothing_else()
    }

    /// Where the order of settlements shows, the next operation waits for them: an ack has no
    /// answer, and what other connections do can overtake it.
    async fn await_settlements(&mut self, op: &Op, before: &Model) -> Step {
        let is_lost = |node: Node| match op {
            // Closing brings settlements along.
            Op::Cut(lost) | Op::Crash(lost) => node == *lost,
            Op::Restart => true,
            _ => false,
        };
        // Those of one consumer are in their order by themselves.
        let is_next = |other: Seat| match op {
            Op::Settle { seat, verdict: Verdict::Ack | Verdict::Reject, .. } => *seat == other,
            _ => false,
        };
        // Of who has stopped, others get what goes back.
        let shows = |seat: Seat| {
            let has_stopped = before.queue_of(seat).is_none();
            has_stopped || before.takes_turns(seat) || self.model.takes_turns(seat)
        };
        let awaited = self.unsettled.iter().copied();
        let awaited: BTreeSet<Node> = awaited
            .filter(|seat| is_lost(seat.node) || (shows(*seat) && !is_next(*seat)))
            .map(|seat| seat.node)
            .collect();
        for node in awaited {
            self.unsettled.retain(|seat| seat.node != node);
            if let Some(member) = self.members.get(node).filter(|_| before.is_up(node)) {
                let settled = self.world.settled(&member.transport);
                self.in_time("settling", settled).await??;
            }
        }
        Ok(())
    }

    async fn in_time<T>(&self, what: &str, future: impl Future<Output = T>) -> Step<T> {
        let patience = self.world.patience();
        timeout(patience, future).await.map_err(|_| format!("{what}: not in {patience:?}").into())
    }

    async fn status(&self, node: Node, wanted: impl Fn(&Status) -> bool) {
        if let Some(member) = self.members.get(node) {
            let mut status = member.transport.status();
            let _ = status.wait_for(|status| wanted(status)).await;
        }
    }

    async fn join(&mut self, seat: Seat, prefetch: u16, pattern: &str) -> Step {
        let node = seat.node;
        if !self.members.contains_key(node) {
            let transport = self.in_time("connecting", self.world.connect(Some(node))).await??;
            self.members.insert(node, Member { transport, seats: BTreeMap::new() });
        }
        let Some(member) = self.members.get_mut(node) else { return Ok(()) };
        let instance: Instance = node.parse()?;
        let service = instance.service().clone();
        let (mut sink, mut listening) = (None, None);
        let subscription = match seat.role {
            Role::Service => Subscription::Service { service, prefetch },
            Role::Instance => Subscription::Instance { instance, prefetch },
            Role::Events => {
                let patterns = vec![pattern.parse::<Pattern>()?];
                Subscription::Events { group: EventGroup::new(service, "g")?, patterns, prefetch }
            }
            Role::Replies => {
                let (to, from, at) = hands::sink();
                (sink, listening) = (Some(from), Some(at));
                Subscription::Replies { instance, sink: to }
            }
            Role::Tap => Subscription::Tap { feed: Feed::Requests, pattern: pattern.parse()? },
            Role::Watch => Subscription::Tap { feed: Feed::Events, pattern: pattern.parse()? },
        };
        let consumer = timeout(self.world.patience(), member.transport.subscribe(subscription));
        let consumer = consumer.await.map_err(|_| "subscribing takes too long")??;
        member.seats.insert(seat, Hands::new(consumer, sink));
        if let (Some(at), Some(name)) = (listening, self.model.queue_of(seat)) {
            let at = at.take().ok_or("nobody was told where replies are taken")?;
            self.names.insert(name.to_owned(), at.as_str().to_owned());
            self.replies.insert(node, at);
        }
        Ok(())
    }

    async fn stop(&mut self, seat: Seat) -> Step {
        let hands = self.members.get_mut(seat.node).and_then(|m| m.seats.remove(&seat));
        let Some(mut hands) = hands else { return Ok(()) };
        match self.in_time("stopping", hands.stop()).await? {
            Some(extra) => Err(format!("{seat} got {extra} when it stopped").into()),
            None => Ok(()),
        }
    }

    async fn leave(&mut self, node: Node) {
        if let Some(member) = self.members.remove(node) {
            member.transport.close().await;
        }
    }

    async fn publish(&mut self, to: &Target, count: u32, manner: Manner, effect: &Effect) -> Step {
        if manner == Manner::Blocked {
            self.world.alarm(true).await?;
        }
        let first = effect.published.first().map_or(0, |(number, _)| *number);
        let mut answers = Vec::new();
        for number in first..first + count {
            answers.push((number, self.send(to, number, manner)?));
        }
        if manner == Manner::Blocked {
            sleep(self.world.mortal()).await;
            self.nothing_else()?;
            if let Some((_, first)) = answers.first_mut()
                && let Ok(answer) = timeout(self.world.mortal(), first).await
            {
                return Err(format!("under an alarm there was an answer: {answer:?}").into());
            }
            self.world.alarm(false).await?;
        }
        for ((number, answer), (_, is_heard)) in answers.into_iter().zip(&effect.published) {
            let answer = self.in_time(&format!("publishing m{number}"), answer).await?;
            let expected = if *is_heard { Ok(()) } else { Err(PublishError::NotRouted) };
            if answer != expected {
                return Err(format!("m{number} should be {expected:?}, is {answer:?}").into());
            }
            self.compared.outcomes += 1;
        }
        if manner == Manner::Mortal || matches!(to, Target::Later(_)) {
            sleep(self.world.mortal() * 2).await;
        }
        Ok(())
    }

    fn send(&self, to: &Target, number: u32, manner: Manner) -> Step<Publish> {
        let mut message = Message::builder(Kind::Cast, "note")
            .id(Id::from(format!("m{number}").as_str()))
            .durable(manner != Manner::Transient)
            .body(number.to_string());
        if manner == Manner::Mortal {
            message = message.deadline(self.sender.clock().now() + self.world.mortal());
        }
        let message = message.build();
        let send = |route: Route<'_>| self.sender.send(route, message);
        Ok(match to {
            Target::Address(to) => send(Route::Address(&to.parse::<Address>()?)),
            Target::Event(topic) => send(Route::Event(&topic.parse::<Topic>()?)),
            Target::Reply(to) => send(Route::Reply(&ReplyTo::service(&to.parse()?))),
            Target::Answer(node) => {
                send(Route::Reply(self.replies.get(node).ok_or("it never asked")?))
            }
            Target::Dead(service) => send(Route::Dead(&service.parse::<Service>()?)),
            Target::Later(queue) => send(Route::Delayed {
                delay: self.world.mortal(),
                jitter: std::time::Duration::ZERO,
                queue,
            }),
        })
    }

    fn settle(&mut self, seat: Seat, nth: usize, verdict: Verdict) -> Step {
        let held = self.held.get_mut(&seat).filter(|held| nth < held.len());
        let delivery = held.ok_or("it is not held")?.remove(nth);
        match verdict {
            Verdict::Ack => delivery.ack(),
            Verdict::Reject => delivery.reject(),
            Verdict::Requeue => delivery.requeue(),
            Verdict::Drop => drop(delivery),
        }
        self.unsettled.insert(seat);
        Ok(())
    }

    /// What was delivered over a connection that is gone can not be settled any more, whatever
    /// its holder says. If it were, that would show later.
    fn settle_in_vain(&mut self) {
        let still: BTreeMap<Seat, usize> = self.model.held().collect();
        for (seat, held) in &mut self.held {
            let stale = held.len() - still.get(seat).copied().unwrap_or(0);
            for (nth, delivery) in held.drain(..stale).enumerate() {
                if nth % 2 == 0 { delivery.ack() } else { delivery.requeue() }
            }
        }
    }

    /// The next delivery of a seat, which must be this one.
    async fn receive(&mut self, expected: &Delivered) -> Step {
        let seat = expected.seat;
        let patience = self.world.patience();
        let hands = self.members.get_mut(seat.node).and_then(|m| m.seats.get_mut(&seat));
        let hands = hands.ok_or("the model delivers to nobody")?;
        let got = match timeout(patience, hands.next()).await {
            Ok(Some(got)) => got,
            Ok(None) => return Err(format!("{seat} ended; expected {}", name(expected)).into()),
            Err(_) => return Err(format!("{seat} got nothing; expected {}", name(expected)).into()),
        };
        let Got { number, key, redelivered, delivery } = &got;
        let same = *number == expected.number
            && (delivery.is_none() || expected.redelivered.is_none_or(|mark| mark == *redelivered))
            && (seat.role == Role::Replies || *key == expected.key);
        if !same {
            return Err(format!("{seat} got {got}; expected {}", name(expected)).into());
        }
        if let Some(delivery) = got.delivery.filter(|_| seat.role.is_settled()) {
            self.held.entry(seat).or_default().push(delivery);
        }
        self.compared.deliveries += 1;
        Ok(())
    }

    /// Nobody has got anything more, as far as it is here already. The contents of the queues
    /// will tell: what somebody has too much goes back there when he leaves.
    fn nothing_else(&mut self) -> Step {
        for (seat, hands) in self.members.values_mut().flat_map(|member| &mut member.seats) {
            if let Some(extra) = hands.try_next() {
                return Err(format!("{seat} got {extra}; expected nothing").into());
            }
        }
        Ok(())
    }
}

fn mark(redelivered: bool) -> &'static str {
    if redelivered { " again" } else { "" }
}

fn name(delivered: &Delivered) -> String {
    format!(
        "m{} under {}{}",
        delivered.number,
        delivered.key,
        mark(delivered.redelivered == Some(true))
    )
}
