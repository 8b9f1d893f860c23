//! Deadlines, and the end.

use std::{sync::Arc, time::Duration};

use gear_api::{PublishError, Text};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Link, Publisher,
    outgoing::{Asker, Outgoing},
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

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
            let late = |outgoing: &Outgoing| outgoing.deadline.is_some_and(|at| at <= now);
            state.queue.retain_mut(|outgoing| {
                if late(outgoing) {
                    outgoing.give_up("its deadline passed");
                }
                !matches!(outgoing.asker, Asker::Nobody) && !outgoing.is_withdrawn()
            });
            // What has left stays in the window until the broker answers.
            state.window.iter_mut().filter(|outgoing| late(outgoing)).for_each(|outgoing| {
                outgoing.give_up("it was not confirmed before its deadline");
            });
            let overdue = state.waiting_since.is_some_and(|since| {
                now.saturating_duration_since(since) > self.settings.options.confirm_timeout
            });
            drop(state);
            if overdue {
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
        let is_up = matches!(&state.link, Link::Up(up) if !up.blocked);
        let is_done = state.queue.is_empty() && state.window.is_empty();
        if is_up && !is_done && !now {
            return false;
        }
        state.link = Link::Closed;
        self.gate.open();
        for mut outgoing in state.window.take() {
            outgoing.give_up("the connection was closed before the broker's answer");
        }
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
