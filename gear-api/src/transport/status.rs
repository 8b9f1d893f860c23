//! Whether a connection is usable.

use crate::Text;

/// Whether a connection is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not connected; trying. What is sent waits until its deadline.
    Connecting,
    /// Publishing works, and so do all subscriptions.
    Ready,
    /// The broker takes no messages for now; deliveries go on.
    Blocked(Text),
    /// Closed for good, and why.
    Closed(Text),
}

impl Status {
    /// Whether publishing and all subscriptions work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}
