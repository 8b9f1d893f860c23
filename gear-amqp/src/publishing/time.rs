//! Deadlines, and the end.

use std::{sync::Arc, time::Duration};

use gear_api::{PublishError, Text};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Link, Publisher, State, outgoing::Outgoing};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

/// So many times as many messages as may be on their way are kept for their confirms alone, or twice
/// as many. With more a broker that never sends them would have us use up all memory.
pub(super) const ABANDONED: usize = 10;

/// Bytes a second of the slowest link that is of any use.
const SLOWEST: f64 = 64.0 * 1024.0;

/// How long an answer may take that comes behind so many bytes.
pub(super) fn patience(least: Duration, bytes: usize) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "it is about seconds")]
    least.max(Duration::from_secs_f64(bytes as f64 / SLOWEST))
}

/// The oldest message that is not confirmed, and for how long it has been that.
#[derive(Default)]
pub(super) struct Oldest {
    /// Its number, and when it was seen first to be the oldest.
    seen: Option<(u64, Instant)>,
    is_overdue: bool,
}

impl Oldest {
    /// Looks at the oldest: its number, and how long its confirm may take. Returns whether that
    /// is over.
    fn look(&mut self, oldest: Option<(u64, Duration)>, now: Instant) -> bool {
        let Some((number, limit)) = oldest else {
            *self = Self::default();
            return false;
        };
        match self.seen {
            Some((seen, since)) if seen == number => {
                self.is_overdue = now.saturating_duration_since(since) > limit;
            }
            _ => *self = Self { seen: Some((number, now)), is_overdue: false },
        }
        self.is_overdue
    }

    /// Whether this one was overdue when it was looked at. It has as much time again.
    pub(super) fn take_overdue(&mut self, oldest: Option<u64>) -> bool {
        let is_overdue = self.is_overdue && self.seen.map(|(number, _)| number) == oldest;
        if self.is_overdue {
            *self = Self::default();
        }
        is_overdue
    }
}

impl Publisher {
    /// Looks at the deadlines until the publisher is closed.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut state = self.state();
            if matches!(state.link, Link::Closed) {
                return;
            }
            let now = Instant::now();
            let is_room = state.expire(now);
            let limit = self.settings.options.confirm_timeout;
            let State { link, sent, oldest, .. } = &mut *state;
            let is_blocked = matches!(link, Link::Up(up) if up.blocked);
            let first = sent.oldest().filter(|_| !is_blocked);
            let first = first.map(|(number, size)| (number, patience(limit, size)));
            let overdue = oldest.look(first, now);
            drop(state);
            if overdue || is_room {
                self.waker.wake_by_ref();
            }
        }
    }

    /// Takes no more messages, and waits until those that it has are answered, `limit` at most.
    pub(crate) async fn close(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.finish(Instant::now() >= until) {
            self.waker.wake_by_ref();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.waker.wake_by_ref();
    }

    /// Takes no more messages. Returns whether all is answered: sooner or later, or `now`.
    fn finish(&self, now: bool) -> bool {
        let mut state = self.state();
        state.closing = true;
        let is_of_use = match &state.link {
            Link::Up(up) => !up.blocked,
            Link::Replacing => true,
            Link::Down | Link::Closed => false,
        };
        let is_done = state.is_done();
        if is_of_use && !is_done && !now {
            return false;
        }
        state.link = Link::Closed;
        self.gate.open();
        for mut outgoing in state.sent.take() {
            outgoing.give_up("the connection was closed before the broker's answer");
        }
        state.end_declaring();
        for mut outgoing in std::mem::take(&mut state.queue) {
            outgoing.answer(Err(if outgoing.handed_over {
                PublishError::Unknown(Text::from_static("the connection was closed"))
            } else {
                PublishError::Closed
            }));
        }
        true
    }
}

impl State {
    /// Tells those whose deadline has passed. Returns whether that makes room for others.
    fn expire(&mut self, now: Instant) -> bool {
        let mut is_kept = |outgoing: &mut Outgoing| {
            if outgoing.is_late(now) {
                outgoing.give_up("its deadline passed");
            }
            !outgoing.is_answered() && !outgoing.is_withdrawn()
        };
        self.queue.retain_mut(&mut is_kept);
        self.held.retain_mut(&mut is_kept);
        let Link::Up(up) = &self.link else { return false };
        self.sent.expire(now, up.flight.unwritten().unwrap_or(u64::MAX))
    }
}
