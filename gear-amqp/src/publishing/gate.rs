//! Keeps acks from overtaking the replies that belong to them.
//!
//! A request must not be gone from its queue before its answer is on the way: if the process is
//! killed in between, nobody ever answers. Replies and acks take different connections, and lapin
//! sends acks ahead of publishes, so acks wait until the last reply before them is written. For
//! other messages they do not wait: whoever needs to know that one has arrived awaits its confirm.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Gate {
    handed_over: AtomicU64,
    /// How many had been handed over with the last reply.
    last_reply: AtomicU64,
    written: AtomicU64,
    /// The nearest target of those that wait. `SeqCst`, as is `written`: whoever waits sets one
    /// and then looks at the other, whoever writes does it the other way round.
    awaited: AtomicU64,
    changed: Notify,
}

/// Nobody waits.
const NONE: u64 = u64::MAX;

impl Default for Gate {
    fn default() -> Self {
        Self {
            handed_over: AtomicU64::new(0),
            last_reply: AtomicU64::new(0),
            written: AtomicU64::new(0),
            awaited: AtomicU64::new(NONE),
            changed: Notify::new(),
        }
    }
}

impl Gate {
    pub(crate) fn hand_over(&self, is_reply: bool) {
        let number = self.handed_over.fetch_add(1, Ordering::Relaxed) + 1;
        if is_reply {
            self.last_reply.store(number, Ordering::Relaxed);
        }
    }

    /// One more is written, or never will be. They are written in order.
    pub(crate) fn wrote(&self) {
        let written = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        if written >= self.awaited.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Those whose target is farther away wait again.
    fn wake(&self) {
        self.awaited.store(NONE, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// The connection is gone, and with it whatever was not written.
    pub(crate) fn open(&self) {
        self.written.store(self.handed_over.load(Ordering::Relaxed), Ordering::SeqCst);
        self.wake();
    }

    /// Returns when all replies that were handed over before are written, or after a while: one
    /// that can not be written keeps no request for ever.
    pub(crate) async fn passed(&self) {
        const PATIENCE: Duration = Duration::from_millis(100);
        let target = self.last_reply.load(Ordering::Relaxed);
        let behind = || self.written.load(Ordering::SeqCst) < target;
        if !behind() {
            return;
        }
        let all = async {
            loop {
                let changed = self.changed.notified();
                self.awaited.fetch_min(target, Ordering::SeqCst);
                if !behind() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    /// The time stands still unless all wait.
    #[tokio::test(start_paused = true)]
    async fn each_waits_for_what_was_before_it_and_for_no_more() {
        let gate = Arc::new(Gate::default());
        let start = Instant::now();
        let waits = || {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.passed().await })
        };
        gate.hand_over(true);
        let first = waits();
        tokio::task::yield_now().await;
        gate.hand_over(true);
        let second = waits();
        tokio::task::yield_now().await;
        gate.hand_over(true); // there is always one more
        gate.wrote();
        first.await.unwrap();
        assert!(!second.is_finished());
        gate.wrote();
        second.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits until patience is at its end");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_what_is_no_reply() {
        let gate = Gate::default();
        gate.hand_over(true);
        gate.hand_over(false);
        gate.wrote();
        let start = Instant::now();
        gate.passed().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_written_holds_nothing_for_ever() {
        let gate = Gate::default();
        gate.hand_over(true);
        gate.passed().await;
        gate.open();
        let start = Instant::now();
        gate.passed().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
