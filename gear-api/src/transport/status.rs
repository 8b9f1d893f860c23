//! Whether a connection is usable.

use crate::Text;

/// Whether a connection is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not connected, or a subscription is not in place yet, as that of an instance whose name another
    /// node has taken meanwhile; trying. What is sent may have to wait, until its deadline at most.
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
