//! What [`Transport::status`](gear_api::Transport::status) shows, put together from all who know
//! a part of it.

use std::sync::{Mutex, PoisonError};

use gear_api::{Status, Text};
use tokio::sync::watch;

#[derive(Debug, Default)]
struct Parts {
    publishing: bool,
    consuming: bool,
    /// Subscriptions that are to be established, or established again.
    pending: usize,
    blocked: Option<Text>,
    closed: Option<Text>,
}

#[derive(Debug)]
pub(crate) struct Board {
    parts: Mutex<Parts>,
    status: watch::Sender<Status>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { parts: Mutex::default(), status: watch::Sender::new(Status::Connecting) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let status = match &*parts {
            Parts { closed: Some(why), .. } => Status::Closed(why.clone()),
            Parts { publishing: false, .. } | Parts { consuming: false, .. } => Status::Connecting,
            Parts { pending: 1.., .. } => Status::Connecting,
            Parts { blocked: Some(why), .. } => Status::Blocked(why.clone()),
            _ => Status::Ready,
        };
        self.status.send_if_modified(|now| {
            let is_new = *now != status;
            *now = status;
            is_new
        });
    }

    pub(crate) fn publishing(&self, works: bool) {
        self.change(|parts| parts.publishing = works);
    }

    pub(crate) fn consuming(&self, works: bool) {
        self.change(|parts| parts.consuming = works);
    }

    /// Whether the broker takes no messages for now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).blocked.is_some()
    }

    pub(crate) fn blocked(&self, why: Option<Text>) {
        self.change(|parts| parts.blocked = why);
    }

    pub(crate) fn closed(&self, why: Text) {
        self.change(|parts| {
            parts.closed.get_or_insert(why);
        });
    }

    /// A subscription that was established before works no more; it counts until the guard is
    /// dropped.
    pub(crate) fn pending(self: &std::sync::Arc<Self>) -> Pending {
        self.change(|parts| parts.pending += 1);
        Pending(std::sync::Arc::clone(self))
    }
}

/// See [`Board::pending`].
#[derive(Debug)]
pub(crate) struct Pending(std::sync::Arc<Board>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.change(|parts| parts.pending -= 1);
    }
}
