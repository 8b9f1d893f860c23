//! The calls that wait for an answer, by id and by deadline: one table, one lock, one
//! task for all deadlines of a client.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crossbeam_utils::CachePadded;
use foldhash::HashMap;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use crate::{CallError, Id, Message, ReplySink, ReplyTo};

pub(crate) type Answer = Result<Message, CallError>;

/// Who waits.
pub(super) enum Waiter {
    One(oneshot::Sender<Answer>),
    /// A gather: answers until it is taken out.
    Many(mpsc::UnboundedSender<Message>),
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
    deadlines: BTreeSet<(Instant, u64)>,
    /// Until when the task sleeps. It need not be told of later deadlines, so that calls
    /// one after another do not wake it for each.
    sleeps_until: Option<Instant>,
    reply_to: Option<ReplyTo>,
    closed: bool,
    late: u64,
}

struct Call {
    id: Id,
    deadline: Instant,
    waiter: Waiter,
}

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
            return Err(CallError::Closed);
        }
        let reply_to = state.reply_to.clone().ok_or(CallError::Closed)?;
        // Ids that a client makes are UUIDs, and so have one.
        let serial = id.serial().unwrap_or_default();
        state.calls.insert(serial, Call { id: id.clone(), deadline, waiter });
        state.deadlines.insert((deadline, serial));
        if state.sleeps_until.is_none_or(|until| deadline < until) {
            state.sleeps_until = Some(deadline);
            drop(state);
            self.changed.notify_one();
        }
        Ok(reply_to)
    }

    pub(super) fn remove(&self, id: &Id) {
        let removed = self.lock().remove(id);
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
        for call in calls.into_values() {
            call.waiter.fail(CallError::Closed);
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
        while let Some((deadline, _)) = state.deadlines.first()
            && *deadline <= now
        {
            if let Some((_, serial)) = state.deadlines.pop_first()
                && let Some(call) = state.calls.remove(&serial)
            {
                due.push(call.waiter);
            }
        }
        state.sleeps_until = state.deadlines.first().map(|(deadline, _)| *deadline);
        let next = state.sleeps_until;
        drop(state);
        for waiter in due {
            waiter.fail(CallError::DeadlinePassed);
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
    fn find(&self, id: &Id) -> Option<&Call> {
        self.calls.get(&id.serial()?).filter(|call| call.id == *id)
    }

    fn remove(&mut self, id: &Id) -> Option<Waiter> {
        let (serial, deadline) = (id.serial()?, self.find(id)?.deadline);
        self.deadlines.remove(&(deadline, serial));
        self.calls.remove(&serial).map(|call| call.waiter)
    }
}

impl Waiter {
    fn fail(self, error: CallError) {
        match self {
            // A caller that has gone needs no answer.
            Self::One(answer) => drop(answer.send(Err(error))),
            // Its stream ends; it knows by its own deadline why.
            Self::Many(answers) => drop(answers),
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
        match state.find(id).map(|call| &call.waiter) {
            None => state.late += 1,
            Some(Waiter::Many(answers)) => drop(answers.send(reply)),
            Some(Waiter::One(_)) => {
                let waiter = state.remove(id);
                drop(state);
                if let Some(Waiter::One(answer)) = waiter {
                    drop(answer.send(Ok(reply)));
                }
            }
        }
    }
}
