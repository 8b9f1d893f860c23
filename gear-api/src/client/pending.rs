//! The calls that wait for an answer, by id and by deadline: one table, one lock, one
//! task for all deadlines of a client.

use std::{
    cmp::Reverse,
    collections::{
        BinaryHeap,
        hash_map::{Entry, OccupiedEntry},
    },
    sync::{Mutex, MutexGuard, PoisonError},
};

use crossbeam_utils::CachePadded;
use foldhash::HashMap;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use crate::{CallError, Id, Message, NotSent, ReplySink, ReplyTo};

pub(super) type Answer = Result<Message, Ended>;

/// What ends a call without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    DeadlinePassed,
    Closed,
}

/// Who waits.
pub(super) enum Waiter {
    One(oneshot::Sender<Answer>),
    /// A gather: answers until it is taken out, and what ended it.
    Many(mpsc::UnboundedSender<Answer>),
}

#[derive(Default)]
pub(crate) struct Pending {
    state: CachePadded<Mutex<State>>,
    /// Wakes the task that watches the deadlines.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// By the serial number of the call's id.
    calls: HashMap<u64, Call>,
    /// The earliest first; also those of calls that were answered, until they are many. Calls
    /// mostly come in the order of their deadlines, and then adding one is adding it at the end.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Until when the task sleeps. It need not be told of later deadlines, so that calls
    /// one after another do not wake it for each.
    sleeps_until: Option<Instant>,
    reply_to: Option<ReplyTo>,
    closed: bool,
    late: u64,
}

struct Call {
    id: Id,
    waiter: Waiter,
}

/// So many deadlines of calls that were answered are always kept: looking for them at every
/// call would take longer than the call.
const ANSWERED: usize = 64;

impl Pending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a call, and returns where its answer shall go.
    pub(super) fn insert(
        &self,
        id: &Id,
        deadline: Instant,
        waiter: Waiter,
    ) -> Result<ReplyTo, CallError> {
        let mut state = self.lock();
        if state.closed {
            return Err(CallError::NotSent(NotSent::Closed));
        }
        let reply_to = state.reply_to.clone().ok_or(CallError::NotSent(NotSent::Closed))?;
        // Ids that a client makes are UUIDs, and so have one.
        let serial = id.serial().unwrap_or_default();
        state.calls.insert(serial, Call { id: id.clone(), waiter });
        state.add_deadline(deadline, serial);
        if state.sleeps_until.is_none_or(|until| deadline < until) {
            state.sleeps_until = Some(deadline);
            drop(state);
            self.changed.notify_one();
        }
        Ok(reply_to)
    }

    pub(super) fn remove(&self, id: &Id) {
        let removed = self.lock().find(id).map(OccupiedEntry::remove);
        drop(removed); // outside of the lock: it may wake somebody
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().calls.len()
    }

    /// Answers that came when nobody waited any more.
    pub(crate) fn late(&self) -> u64 {
        self.lock().late
    }

    /// Ends all calls, and refuses new ones. Returns how many there were.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        state.deadlines.clear();
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        let open = calls.len();
        // In the order in which they were made, so that runs can be repeated.
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_unstable_by_key(|(serial, _)| *serial);
        for (_, call) in calls {
            call.waiter.fail(Ended::Closed);
        }
        self.changed.notify_one();
        open
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the calls whose deadline has passed, and tells when to look again.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut state = self.lock();
        while let Some(&Reverse((deadline, serial))) = state.deadlines.peek()
            && deadline <= now
        {
            state.deadlines.pop();
            due.extend(state.calls.remove(&serial).map(|call| call.waiter));
        }
        state.sleeps_until = state.deadlines.peek().map(|Reverse((deadline, _))| *deadline);
        let next = state.sleeps_until;
        drop(state);
        for waiter in due {
            waiter.fail(Ended::DeadlinePassed);
        }
        next
    }

    /// Ends calls at their deadlines, until closed.
    pub(super) async fn watch_deadlines(&self) {
        while !self.is_closed() {
            match self.expire() {
                None => self.changed.notified().await,
                Some(next) => {
                    tokio::select! {
                        biased;
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                }
            }
        }
    }
}

impl State {
    fn find(&mut self, id: &Id) -> Option<OccupiedEntry<'_, u64, Call>> {
        match self.calls.entry(id.serial()?) {
            Entry::Occupied(call) if call.get().id == *id => Some(call),
            _ => None,
        }
    }

    fn add_deadline(&mut self, deadline: Instant, serial: u64) {
        let Self { calls, deadlines, .. } = self;
        if deadlines.len() > 2 * calls.len() + ANSWERED {
            deadlines.retain(|Reverse((_, serial))| calls.contains_key(serial));
        }
        deadlines.push(Reverse((deadline, serial)));
    }
}

impl Waiter {
    fn fail(self, ended: Ended) {
        match self {
            // A caller that has gone needs no answer.
            Self::One(answer) => drop(answer.send(Err(ended))),
            Self::Many(answers) => drop(answers.send(Err(ended))),
        }
    }
}

impl ReplySink for Pending {
    fn listening(&self, at: ReplyTo) {
        self.lock().reply_to = Some(at);
    }

    fn deliver(&self, reply: Message) {
        let mut state = self.lock();
        let Some(id) = reply.correlation() else {
            state.late += 1;
            return;
        };
        let Some(call) = state.find(id) else {
            state.late += 1;
            return;
        };
        // An answer wakes somebody, who may look in here: not while it is locked.
        match &call.get().waiter {
            Waiter::Many(answers) => {
                let answers = answers.clone();
                drop(state);
                drop(answers.send(Ok(reply)));
            }
            Waiter::One(_) => {
                let call = call.remove();
                drop(state);
                if let Waiter::One(answer) = call.waiter {
                    drop(answer.send(Ok(reply)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{Timestamp, message::IdSource};

    /// A call that ends `seconds` from now.
    fn add(pending: &Pending, id: &Id, seconds: u64) -> oneshot::Receiver<Answer> {
        let (waiter, receiver) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(seconds);
        pending.insert(id, deadline, Waiter::One(waiter)).unwrap();
        receiver
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_of_answered_calls_do_not_pile_up_and_the_others_are_kept() {
        let pending = Pending::default();
        pending.listening(ReplyTo::instance(&"CLI.here".parse().unwrap(), "1"));
        let (ids, now) = (IdSource::new(7), Timestamp::from_unix_ms(0));
        let mut late = add(&pending, &ids.next(now), 20);
        let mut early = add(&pending, &ids.next(now), 10);
        for seconds in 0..1000 {
            let id = ids.next(now);
            drop(add(&pending, &id, 30 + seconds));
            pending.remove(&id);
        }
        assert_eq!(pending.len(), 2);
        assert!(pending.lock().deadlines.len() <= ANSWERED + 6);

        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(pending.expire().is_some());
        assert!(matches!(early.try_recv(), Ok(Err(Ended::DeadlinePassed))));
        assert!(late.try_recv().is_err());
        tokio::time::advance(Duration::from_secs(10)).await;
        pending.expire();
        assert!(matches!(late.try_recv(), Ok(Err(Ended::DeadlinePassed))));
        assert_eq!(pending.len(), 0);
    }
}
