//! What is needed of a backend, to do to it what is done to the model.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{BoxError, Transport};

use crate::{
    model::{Depth, Number},
    op::Node,
};

/// One system of a backend, that nothing else is in.
#[async_trait]
pub trait World: Send + Sync {
    /// The connection of a node, over a link that can be cut; that of who has no name sends.
    async fn connect(&self, node: Option<Node>) -> Result<Arc<dyn Transport>, BoxError>;

    /// Cuts a node's link until it is mended. The broker may not know yet.
    async fn cut(&self, node: Node);

    /// Cuts a node's link for good.
    async fn crash(&self, node: Node);

    /// Lets it connect again; does not wait for it.
    async fn mend(&self, node: Node);

    /// Deletes a queue, as an operator does.
    async fn delete(&self, queue: &str) -> Result<(), BoxError>;

    /// What there is of a queue now.
    async fn depth(&self, queue: &str) -> Result<Option<Depth>, BoxError>;

    /// What waits in a queue, with whether it is marked as redelivered where that can be seen.
    /// It may be gone then.
    async fn contents(&self, queue: &str) -> Result<Option<Vec<Waiting>>, BoxError>;

    /// How many queues there are that belong to one connection: those of taps. The broker removes
    /// them a moment after it has let go of the connection.
    async fn taps(&self) -> Result<usize, BoxError>;

    /// Returns when the broker knows what this transport has settled.
    async fn settled(&self, transport: &Arc<dyn Transport>) -> Result<(), BoxError>;

    /// Restarts the broker; returns when it can be reached.
    async fn restart(&self) -> Result<(), BoxError>;

    /// Raises or clears an alarm that blocks publishers.
    async fn alarm(&self, on: bool) -> Result<(), BoxError>;

    /// How long a mortal message lives: longer than it takes to be confirmed, however busy the
    /// machine is. Twice that is awaited for it to be dead.
    fn mortal(&self) -> Duration;

    /// How long what must come may take.
    fn patience(&self) -> Duration;
}

/// A message that waits in a queue.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Which.
    pub number: Number,
    /// Whether it is marked as redelivered, if the backend shows it and the semantics say it.
    pub redelivered: Option<bool>,
}

impl Waiting {
    pub(crate) fn agrees(self, other: Self) -> bool {
        let same = |mark: bool| other.redelivered.is_none_or(|other| other == mark);
        self.number == other.number && self.redelivered.is_none_or(same)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.redelivered == Some(true) { " again" } else { "" };
        write!(f, "m{}{again}", self.number)
    }
}
