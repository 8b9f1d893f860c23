//! Messages that wait: for a connection or for room, to be handed over, or for a confirm that a
//! fault has lost.

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

impl State {
    /// Takes out the messages that wait and that `wanted` wants.
    fn take_waiting(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let chosen = self.waiting.iter().filter(|(_, waiting)| wanted(waiting));
        let numbers: Vec<u64> = chosen.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.waiting.remove(&number)).collect()
    }

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
        for (number, sent) in self.take_unconfirmed(cut) {
            let HandedOver { connection, target, message, deadline, asker, .. } = sent;
            let asker = Asker::HandedOver(asker);
            self.waiting.insert(number, Waiting { connection, target, message, deadline, asker });
        }
    }

    /// A connection is closed: whoever waits for it learns what that means.
    pub(crate) fn close_publishers(&mut self, of: ConnectionId) {
        for waiting in self.take_waiting(|waiting| waiting.connection == of) {
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
        if state.waiting.is_empty() {
            return;
        }
        let mut next = 0;
        while state.blocked(self).is_none()
            && let Some((&number, waiting)) = state.waiting.range(next..).next()
        {
            next = number + 1;
            let link = state.connections.get(waiting.connection).map(|c| c.link);
            if matches!(link, Some(Link::Down(_))) {
                continue;
            }
            let Some(waiting) = state.waiting.remove(&number) else { continue };
            state.model.activity += 1;
            if link.is_none() {
                waiting.give_up(PublishError::Closed, CLOSED);
            } else if let Some(sent) = waiting.hand_over() {
                self.hand_over(state, number, sent, now);
            }
        }
    }

    /// Ends the wait of messages whose deadline has passed.
    pub(crate) fn expire_waiting(&self, state: &mut State, now: &Now) {
        if state.waiting.is_empty() {
            return;
        }
        let due = |waiting: &Waiting| waiting.deadline.is_some_and(|at| at <= now.get());
        for waiting in state.take_waiting(due) {
            waiting.give_up(PublishError::NotSent(LATE), LOST_CONFIRM);
            state.model.activity += 1;
        }
    }
}
