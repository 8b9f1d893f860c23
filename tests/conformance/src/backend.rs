//! What the author of a backend writes, once: how a test gets a system of its own, connections
//! to it, and what can be done to it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{BoxError, Message, Transport};

/// A backend under test.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What the report calls it, e.g. `RabbitMQ 4.0.5`.
    fn name(&self) -> String;

    /// Whose time the tests run in.
    fn time(&self) -> Time;

    /// A system that nothing of another test is in: a broker, a virtual host, a prefix of all
    /// names. Called in the runtime of the test that wants it, at least once for each test.
    ///
    /// # Errors
    ///
    /// Any error fails the test.
    async fn system(&self) -> Result<Box<dyn System>, BoxError>;
}

/// Whose time tests run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// Tokio's clock is paused, each test has one thread: hours take no time, and what a test
    /// says of time is exact. For backends with [`gear_api::Capabilities::virtual_time`].
    Virtual,
    /// The world's, on two threads for each test: what a test says of time is "not before",
    /// and "not much later".
    Real,
}

/// One system of a backend, and what tests can do to it.
///
/// Only [`connect`](Self::connect) must be written. Tests that want to do what a system
/// [`Cannot`] do are reported as not claimed. Names of queues are those of
/// [`gear_api::topology`], without any prefix that keeps systems apart.
#[async_trait]
pub trait System: Send + Sync {
    /// The connection of one more node.
    ///
    /// # Errors
    ///
    /// Any error fails the test, [`Cannot`], too.
    async fn connect(&self) -> Result<Connection, BoxError>;

    /// Returns when nothing more will happen by itself, as well as that can be known: no
    /// message is on its way to a consumer, no settlement on its way to the broker.
    ///
    /// Tests have awaited all that they expect, so a pause that is too short hides a failure
    /// and never makes one.
    async fn quiet(&self) {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    /// The messages that wait in a queue for a consumer, in their order. They stay there; if
    /// that marks them as redelivered, no test minds. None if there is no such queue.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn messages(&self, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
        let _ = queue;
        Err(Cannot("look into queues").into())
    }

    /// Deletes a queue that exists, with what is in it, as an operator might.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn delete_queue(&self, queue: &str) -> Result<(), BoxError> {
        let _ = queue;
        Err(Cannot("delete queues").into())
    }

    /// Limits how many messages wait in a queue that exists. Returns when that is in force.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Result<(), BoxError> {
        let _ = (queue, messages, when);
        Err(Cannot("limit the length of queues").into())
    }

    /// Restarts the broker as a crash of it would, and returns when it can be reached again.
    /// Tests that do this run alone.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn restart(&self) -> Result<(), BoxError> {
        Err(Cannot("restart the broker").into())
    }

    /// Makes the broker take no more messages (`on`), as one that is out of memory or disk
    /// space does, and lets it take them again. Tests that do this run alone.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        let _ = on;
        Err(Cannot("raise an alarm").into())
    }

    /// The test is over, however it ended: the place to remove what it left.
    async fn end(&self) {}
}

/// What a full queue does with one message more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Drops its oldest.
    DropsOldest,
    /// Refuses it.
    Refuses,
}

/// The connection of one node, and the link that it goes over.
#[derive(Clone)]
pub struct Connection {
    /// The connection.
    pub transport: Arc<dyn Transport>,
    /// What can be done to it from outside.
    pub link: Arc<dyn Link>,
}

impl Connection {
    /// A connection whose link nobody can cut.
    pub fn new(transport: impl Into<Arc<dyn Transport>>) -> Self {
        Self::over(transport, NoLink)
    }

    /// A connection that goes over `link`.
    pub fn over(transport: impl Into<Arc<dyn Transport>>, link: impl Link) -> Self {
        Self { transport: transport.into(), link: Arc::new(link) }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// The way of one connection to its broker, as a test can cut it.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Cuts the connection, as a network does, and lets it come back after `time`: what the
    /// node sends or the broker delivers meanwhile does not arrive.
    ///
    /// # Errors
    ///
    /// [`Cannot`], unless it is overwritten.
    async fn cut(&self, time: Duration) -> Result<(), BoxError> {
        let _ = time;
        Err(Cannot("cut a connection").into())
    }
}

struct NoLink;

impl Link for NoLink {}

/// What this backend's [`System`] or [`Link`] can not do; the words complete "it can not …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tests can not {0} here")]
pub struct Cannot(pub &'static str);
