//! Messages that wait: for a connection or for room, to be handed over, or for a confirm that a
//! fault has lost.

use std::collections::BTreeMap;

use gear_api::{HandOver, Message, PublishError, Text};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    model::ConnectionId,
    now::Now,
    publishing::Target,
    shared::{Link, Shared, State},
};

type Answer = Result<(), PublishError>;

const LATE: Text = Text::from_static("the broker took no messages until its deadline");
const LOST_CONFIRM: Text = Text::from_static("its confirm was lost");
const CLOSED: Text = Text::from_static("the connection was closed before the broker's answer");

/// A message that could not be handed over yet, or is to be so again.
pub(crate) struct Waiting {
    pub(crate) connection: ConnectionId,
    pub(crate) target: Target,
    pub(crate) message: Message,
    /// When it is of no use any more.
    pub(crate) deadline: Option<Instant>,
    pub(crate) asker: Asker,
}

/// Who wants to know what becomes of a message that waits.
pub(crate) enum Asker {
    /// May still withdraw it.
    Waiting(oneshot::Sender<HandOver>),
    /// It left before, over a connection that was cut; none if nobody wants to know any more.
    HandedOver(Option<oneshot::Sender<Answer>>),
}

/// Messages that could not be handed over, by their places in the order of sending.
#[derive(Default)]
pub(crate) struct AllWaiting {
    /// Those that leave as soon as there is room.
    for_room: BTreeMap<u64, Waiting>,
    /// Those whose connections are down: apart, or every change would have to pass over them.
    for_links: BTreeMap<ConnectionId, BTreeMap<u64, Waiting>>,
    /// When they are of no use any more.
    deadlines: BTreeMap<(Instant, u64), ConnectionId>,
}

/// A message that was handed over.
pub(crate) struct HandedOver {
    pub(crate) connection: ConnectionId,
    pub(crate) target: Target,
    pub(crate) message: Message,
    pub(crate) deadline: Option<Instant>,
    /// It left before, over a connection that was cut.
    pub(crate) again: bool,
    /// None if nobody wants to know any more.
    pub(crate) asker: Option<oneshot::Sender<Answer>>,
}

impl Waiting {
    /// Whether its publisher has withdrawn it.
    pub(crate) fn is_withdrawn(&self) -> bool {
        matches!(&self.asker, Asker::Waiting(asker) if asker.is_closed())
    }

    /// It leaves now, unless it was withdrawn.
    fn hand_over(self) -> Option<HandedOver> {
        let Self { connection, target, message, deadline, asker } = self;
        let again = matches!(asker, Asker::HandedOver(_));
        let asker = match asker {
            Asker::HandedOver(asker) => asker,
            Asker::Waiting(asker) => {
                let (sender, receiver) = oneshot::channel();
                asker.send(Ok(receiver)).ok()?;
                Some(sender)
            }
        };
        Some(HandedOver { connection, target, message, deadline, again, asker })
    }

    /// It will not leave: nobody has it, unless it left before.
    fn give_up(self, why: PublishError, or_unknown: Text) {
        match self.asker {
            Asker::Waiting(asker) => drop(asker.send(Err(why))),
            Asker::HandedOver(asker) => tell(asker, Err(PublishError::Unknown(or_unknown))),
        }
    }
}

impl HandedOver {
    pub(crate) fn answer(self, answer: Answer) {
        let again = self.again;
        tell(self.asker, answer.map_err(|e| if again { e.of_another_try() } else { e }));
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.asker.as_ref().is_some_and(|asker| !asker.is_closed())
    }
}

/// A publisher that does not want to know is fine.
fn tell(asker: Option<oneshot::Sender<Answer>>, answer: Answer) {
    let _ = asker.map(|asker| asker.send(answer));
}

impl AllWaiting {
    pub(crate) fn insert(&mut self, number: u64, waiting: Waiting, link: Link) {
        if let Some(at) = waiting.deadline {
            self.deadlines.insert((at, number), waiting.connection);
        }
        let all = match link {
            Link::Up => &mut self.for_room,
            Link::Down(_) => self.for_links.entry(waiting.connection).or_default(),
        };
        // Those that were withdrawn go when there are many.
        if all.len() >= 64 && all.len().is_power_of_two() {
            for (number, gone) in take_from(all, |waiting| waiting.is_withdrawn()) {
                forget(&mut self.deadlines, number, &gone);
            }
        }
        all.insert(number, waiting);
    }

    /// Whether some wait for nothing but room.
    pub(crate) fn is_for_room(&self) -> bool {
        !self.for_room.is_empty()
    }

    /// Takes out the first of those that wait for nothing but room.
    fn pop(&mut self) -> Option<(u64, Waiting)> {
        let (number, waiting) = self.for_room.pop_first()?;
        forget(&mut self.deadlines, number, &waiting);
        Some((number, waiting))
    }

    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out one whose deadline has passed.
    fn pop_due(&mut self, time: Instant) -> Option<Waiting> {
        let first = self.deadlines.first_entry().filter(|first| first.key().0 <= time)?;
        let ((_, number), connection) = first.remove_entry();
        let waits = self.for_room.remove(&number);
        waits.or_else(|| self.for_links.get_mut(&connection)?.remove(&number))
    }

    fn link_lost(&mut self, of: ConnectionId) {
        let moved = take_from(&mut self.for_room, |waiting| waiting.connection == of);
        self.for_links.entry(of).or_default().extend(moved);
    }

    pub(crate) fn link_is_back(&mut self, of: ConnectionId) {
        self.for_room.extend(self.for_links.remove(&of).into_iter().flatten());
    }

    /// Takes out all of a connection.
    fn take(&mut self, of: ConnectionId) -> Vec<Waiting> {
        self.link_lost(of);
        let all = self.for_links.remove(&of).unwrap_or_default();
        all.iter().for_each(|(number, waiting)| forget(&mut self.deadlines, *number, waiting));
        all.into_values().collect()
    }

    /// Whether somebody waits for one of them.
    pub(crate) fn is_waited_for(&self) -> bool {
        let mut all = self.for_links.values().flatten().chain(&self.for_room);
        all.any(|(_, waiting)| !waiting.is_withdrawn())
    }

    /// Takes out those that `gone` wants.
    pub(crate) fn take_withdrawn(
        &mut self,
        mut gone: impl FnMut(&mut Waiting) -> bool,
    ) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for all in self.for_links.values_mut().chain([&mut self.for_room]) {
            for (number, waiting) in take_from(all, &mut gone) {
                forget(&mut self.deadlines, number, &waiting);
                taken.push(waiting);
            }
        }
        taken
    }
}

/// Takes out those that are wanted.
fn take_from(
    all: &mut BTreeMap<u64, Waiting>,
    mut wanted: impl FnMut(&mut Waiting) -> bool,
) -> Vec<(u64, Waiting)> {
    let chosen = all.iter_mut().filter_map(|(number, waiting)| wanted(waiting).then_some(*number));
    let chosen: Vec<u64> = chosen.collect();
    chosen.into_iter().filter_map(|number| Some((number, all.remove(&number)?))).collect()
}

fn forget(deadlines: &mut BTreeMap<(Instant, u64), ConnectionId>, number: u64, waiting: &Waiting) {
    if let Some(at) = waiting.deadline {
        deadlines.remove(&(at, number));
    }
}

impl State {
    /// Takes out the messages of these connections whose confirms are lost, with their numbers.
    fn take_unconfirmed(&mut self, of: &[ConnectionId]) -> Vec<(u64, HandedOver)> {
        let chosen = self.unconfirmed.iter().filter(|(_, sent)| of.contains(&sent.connection));
        let keys: Vec<(Instant, u64)> = chosen.map(|(key, _)| *key).collect();
        let take = |key: (Instant, u64)| Some((key.1, self.unconfirmed.remove(&key)?));
        keys.into_iter().filter_map(take).collect()
    }

    /// Tells publishers whose time is over that nobody knows.
    pub(crate) fn give_up_confirms(&mut self, now: &Now) {
        while let Some(first) = self.unconfirmed.first_entry()
            && first.key().0 <= now.get()
        {
            first.remove().answer(Err(PublishError::Unknown(LOST_CONFIRM)));
            self.model.activity += 1;
        }
    }

    /// Connections are cut. What was not confirmed is sent again when they are back, before all
    /// that was sent after it: the broker may have it, and then has it twice.
    pub(crate) fn send_again(&mut self, cut: &[ConnectionId]) {
        cut.iter().for_each(|connection| self.waiting.link_lost(*connection));
        for (number, sent) in self.take_unconfirmed(cut) {
            let HandedOver { connection, target, message, deadline, asker, .. } = sent;
            let asker = Asker::HandedOver(asker);
            let Some(link) = self.connections.get(connection).map(|c| c.link) else { continue };
            let waiting = Waiting { connection, target, message, deadline, asker };
            self.waiting.insert(number, waiting, link);
        }
    }

    /// A connection is closed: whoever waits for it learns what that means.
    pub(crate) fn close_publishers(&mut self, of: ConnectionId) {
        for waiting in self.waiting.take(of) {
            waiting.give_up(PublishError::Closed, CLOSED);
        }
        for (_, sent) in self.take_unconfirmed(&[of]) {
            sent.answer(Err(PublishError::Unknown(CLOSED)));
        }
    }
}

impl Shared {
    /// Hands over, in their order, the messages that waited and need not any more.
    pub(crate) fn release_waiting(&self, state: &mut State, now: &Now) {
        while state.waiting.is_for_room()
            && state.blocked(self).is_none()
            && let Some((number, waiting)) = state.waiting.pop()
        {
            state.model.activity += 1;
            if let Some(sent) = waiting.hand_over() {
                self.hand_over(state, number, sent, now);
            }
        }
    }
}

impl State {
    /// A message has to wait.
    pub(crate) fn wait(&mut self, waiting: Waiting) {
        let number = self.number();
        match self.connections.get(waiting.connection) {
            Some(connection) => self.waiting.insert(number, waiting, connection.link),
            None => waiting.give_up(PublishError::Closed, CLOSED),
        }
    }

    /// Ends the wait of messages whose deadline has passed.
    pub(crate) fn expire_waiting(&mut self, now: &Now) {
        while self.waiting.first_deadline().is_some()
            && let Some(waiting) = self.waiting.pop_due(now.get())
        {
            waiting.give_up(PublishError::NotSent(LATE), LOST_CONFIRM);
            self.model.activity += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gear_api::{Address, Kind, Publish, Route, Service, Subscription, Transport};

    use super::*;
    use crate::{MemoryBroker, MemoryTransport};

    const CTRL: Service = Service::new("CTRL");

    fn send(on: &MemoryTransport, expires: bool) -> Publish {
        let deadline = expires.then(|| on.clock().now() + Duration::from_secs(2));
        let message = Message::builder(Kind::Cast, "test").deadline(deadline).build();
        on.send(Route::Address(&Address::from(CTRL)), message)
    }

    /// Whether nothing is in the way of others, and how much waits for its connection and its time.
    fn waiting(broker: &MemoryBroker) -> (bool, usize, usize) {
        broker.0.with(|state, _| {
            let AllWaiting { for_links, deadlines, .. } = &state.waiting;
            let for_links = for_links.values().map(BTreeMap::len).sum();
            (state.is_plain(&broker.0), for_links, deadlines.len())
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_connection_costs_the_others_nothing_and_leaves_nothing_behind() {
        let broker = MemoryBroker::new();
        let (link, other) = (broker.connect(), broker.connect());
        drop(link.subscribe(Subscription::Service { service: CTRL, prefetch: 1 }).await);
        broker.raise_alarm("no disk");
        let mut sent: Vec<_> = (0..50).map(|n| send(&link, n % 2 == 0)).collect();
        link.cut_for(Duration::from_secs(3));
        sent.extend((50..100).map(|n| send(&link, n % 2 == 0)));
        assert_eq!(waiting(&broker), (false, 100, 50));
        broker.clear_alarm();
        assert_eq!(waiting(&broker), (true, 100, 50));
        assert!(send(&other, false).is_handed_over());

        sent.truncate(96);
        broker.0.with(|state, _| {
            assert!(state.waiting.is_waited_for());
            assert_eq!(state.waiting.take_withdrawn(|waiting| waiting.is_withdrawn()).len(), 4);
        });
        assert_eq!(waiting(&broker), (true, 96, 48));
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(waiting(&broker), (true, 48, 0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(waiting(&broker), (true, 0, 0));
        assert_eq!(broker.messages("CTRL").len(), 1 + 48);

        link.cut();
        let answer = send(&link, true);
        link.close().await;
        assert_eq!(waiting(&broker), (true, 0, 0));
        assert_eq!(answer.await, Err(PublishError::Closed));
        broker.0.with(|state, _| assert!(state.down.is_empty()));
    }
}
