//! What happens by itself: expiry, delays, reconnects; and how to know that nothing
//! more will.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    shared::{Shared, State},
    waiting::{Asker, HandedOver},
};

impl State {
    fn next_timer(&self) -> Option<Instant> {
        let timer = self.model.next_timer();
        let down = self.down.first().map(|(back, _)| *back);
        let waiting = self.waiting.first_deadline();
        if down.is_none()
            && waiting.is_none()
            && self.held.is_empty()
            && self.unconfirmed.is_empty()
        {
            return timer; // as it is without faults
        }
        let held = self.held.first_key_value().map(|((at, _), _)| *at);
        let unconfirmed = self.unconfirmed.first_key_value().map(|((at, _), _)| *at);
        [timer, down, waiting, held, unconfirmed].into_iter().flatten().min()
    }

    /// Whether anything will happen by itself, as far as the broker knows.
    fn is_busy(&self) -> bool {
        self.waiting.is_waited_for()
            || !self.down.is_empty()
            || !self.held.is_empty()
            || self.unconfirmed.values().any(HandedOver::is_waited_for)
            || self.connections.values().any(|connection| {
                connection.subscriptions.iter().any(|s| !s.is_tap() && s.inbox.has_arrived())
            })
            || self.model.queues().any(|queue| queue.is_busy())
    }
}

impl Shared {
    /// Sees to it that the ticker wakes in time.
    pub(crate) fn set_timer(self: &Arc<Self>, state: &mut State) {
        let Some(next) = state.next_timer() else { return };
        if state.timer_set.is_some_and(|set| set <= next) && !state.ticker_is_gone() {
            return;
        }
        let running = !state.ticker_is_gone();
        state.timer_set = Some(next);
        if running {
            self.timer_changed.notify_one();
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The first timer, or the runtime that had the ticker is gone.
            state.ticker =
                Some(runtime.spawn(tick(Arc::downgrade(self), self.timer_changed.clone())));
        }
    }

    fn run_due(self: &Arc<Self>) -> Option<Instant> {
        self.with(|state, now| {
            let time = now.get();
            // Awake already: nothing that is set meanwhile has to wake it.
            state.timer_set = Some(time);
            state.expire_waiting(now);
            state.give_up_confirms(now);
            let due: Vec<_> =
                state.held.keys().take_while(|(at, _)| *at <= time).copied().collect();
            for key in due {
                if let Some((target, message)) = state.held.remove(&key) {
                    // Its publisher was told long ago.
                    target.route(state, message, now);
                }
            }
            while let Some(&(at, connection)) = state.down.first()
                && at <= time
            {
                state.down.pop_first();
                self.reconnect(state, connection, now);
            }
            state.model.tick(now);
        });
        self.with(|state, _| {
            state.timer_set = state.next_timer();
            state.timer_set
        })
    }

    /// Publishers that withdraw what waits, or want to know of no confirm any more, tell nobody:
    /// whoever is idle has to look.
    fn poll_withdrawn(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (withdrawn, confirms) = self.with(|state, _| {
            let withdrawn = state.waiting.take_withdrawn(|waiting| match &mut waiting.asker {
                Asker::Waiting(asker) => asker.poll_closed(cx).is_ready(),
                Asker::HandedOver(_) => false, // it leaves all the same
            });
            let mut confirms = 0;
            for asker in state.unconfirmed.values_mut().map(|sent| &mut sent.asker) {
                if asker.as_mut().is_some_and(|asker| asker.poll_closed(cx).is_ready()) {
                    // The message stays: it is sent again if its connection is cut.
                    *asker = None;
                    confirms += 1;
                }
            }
            state.model.activity += (withdrawn.len() + confirms) as u64;
            (withdrawn, confirms)
        });
        if withdrawn.is_empty() && confirms == 0 { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(crate) async fn idle(self: &Arc<Self>) {
        let _waiter = IdleWaiter::new(self);
        loop {
            self.settle_all();
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let Some(before) =
                self.with(|state, _| (!state.is_busy()).then_some(state.model.activity))
            else {
                std::future::poll_fn(|cx| match progress.as_mut().poll(cx) {
                    Poll::Pending => self.poll_withdrawn(cx),
                    ready => ready,
                })
                .await;
                continue;
            };
            // With a paused clock, time passes only when no task can run.
            tokio::time::sleep(Duration::from_millis(1)).await;
            // What has come to wait meanwhile is no activity yet.
            if self.with(|state, _| state.model.activity == before && !state.is_busy()) {
                return;
            }
        }
    }
}

impl State {
    fn ticker_is_gone(&self) -> bool {
        self.ticker.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }
}

/// Asks for [`Shared::progress`] as long as it lives.
struct IdleWaiter<'a>(&'a Arc<Shared>);

impl<'a> IdleWaiter<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        let waiter = Self(shared);
        waiter.count(|waiters| waiters + 1);
        waiter
    }
}

impl IdleWaiter<'_> {
    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let Self(shared) = self;
        shared.with(|state, _| {
            state.idle_waiters = change(state.idle_waiters);
            shared.is_watched.store(state.idle_waiters > 0, Ordering::Relaxed);
        });
    }
}

impl Drop for IdleWaiter<'_> {
    fn drop(&mut self) {
        self.count(|waiters| waiters - 1);
    }
}

async fn tick(shared: std::sync::Weak<Shared>, changed: Arc<tokio::sync::Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let next = strong.run_due();
        drop(strong);
        match next {
            None => changed.notified().await,
            Some(next) => {
                tokio::select! {
                    biased;
                    () = changed.notified() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.timer_changed.notify_one();
    }
}
