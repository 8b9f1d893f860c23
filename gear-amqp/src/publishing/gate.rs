//! Keeps acks from overtaking the replies that belong to them.
//!
//! A request must not be gone from its queue before its answer is on the way: if the process is
//! killed in between, nobody ever answers. Replies and acks take different connections, and lapin
//! sends acks ahead of publishes, so acks wait until what was published before is written.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    handed_over: AtomicU64,
    written: AtomicU64,
    changed: Notify,
}

impl Gate {
    pub(crate) fn hand_over(&self) {
        self.handed_over.fetch_add(1, Ordering::Relaxed);
    }

    /// One more is written, or never will be. They are written in order.
    pub(crate) fn wrote(&self) {
        let written = self.written.fetch_add(1, Ordering::Release) + 1;
        if written == self.handed_over.load(Ordering::Relaxed) {
            self.changed.notify_waiters();
        }
    }

    /// The connection is gone, and with it whatever was not written.
    pub(crate) fn open(&self) {
        self.written.store(self.handed_over.load(Ordering::Relaxed), Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Returns when all that was handed over before is written, or after a while: a reply that
    /// can not be written keeps no request for ever.
    pub(crate) async fn passed(&self) {
        const PATIENCE: Duration = Duration::from_millis(100);
        let target = self.handed_over.load(Ordering::Relaxed);
        let behind = || self.written.load(Ordering::Acquire) < target;
        if !behind() {
            return;
        }
        let all = async {
            loop {
                let changed = self.changed.notified();
                if !behind() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}
