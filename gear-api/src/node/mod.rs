//! The serving side: [`Node`], its handlers and what they get and give.

mod builder;
mod caller;
mod context;
mod dispatch;
mod duplicates;
mod failed;
mod fault;
mod handler;
mod job;
mod panics;
mod tasks;

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use self::dispatch::StopAt;
pub use self::{
    builder::NodeBuilder,
    caller::{Caller, Forwarding, Outcome},
    context::Context,
    duplicates::{Deduplicate, Deduplicated, Inbox, InboxKey, Known, Window},
    fault::{BoxError, Fault, code},
    handler::{HandlerService, Reply, Request},
};
use crate::{Client, Instance, Stats, Status, Transport, Unfinished, clock::after};

/// A running instance of a service: it owns the name, serves, and shuts down in order.
///
/// ```
/// use gear_api::{Context, Fault, Node, Operation, Service};
/// use gear_memory::MemoryBroker;
/// use std::{sync::Arc, time::Duration};
///
/// const CTRL: Service = Service::new("CTRL");
/// const GREET: Operation<String, String> = Operation::new("greet");
///
/// async fn greet(greeting: Arc<String>, cx: Context, name: String) -> Result<String, Fault> {
///     if name.is_empty() {
///         return Err(Fault::new("nobody", "there is nobody to greet"));
///     }
///     Ok(format!("{greeting}, {name}, says {}", cx.instance()))
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new();
/// let node = Node::builder(broker.connect(), CTRL.at("host1")?)
///     .state("Hello".to_owned())
///     .on(GREET, greet)
///     .start()
///     .await?;
///
/// // A node talks too, here to itself.
/// let answer = node.client().call(CTRL, GREET, &"world".to_owned()).await?;
/// assert_eq!(answer, "Hello, world, says CTRL.host1");
///
/// let report = node.shutdown(Duration::from_secs(5)).await;
/// assert!(report.is_clean());
/// # Ok(())
/// # }
/// ```
///
/// Dropping a node without [`shutdown`](Self::shutdown) stops it as soon as its tasks come
/// to run: handlers are cut off, and what they had not finished goes back or is answered
/// with an error. Clones of its [`client`](Self::client) talk on until the last of them is dropped.
#[must_use = "a node stops when it is dropped"]
pub struct Node {
    client: Client,
    stop: watch::Sender<StopAt>,
    dispatchers: Vec<JoinHandle<usize>>,
}

/// What was not done when a node shut down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Requests whose handlers were cut off: calls that had begun were answered with
    /// [`code::DROPPED`], casts and events went back to their queues.
    pub unfinished: Vec<Unfinished>,
    /// Calls of this node that ended without an answer.
    pub open_calls: usize,
    /// Handlers that could not be cut off within a second, because they never pause: they
    /// run on, and what they do is lost.
    pub stuck: usize,
    /// What the node had done.
    pub stats: Stats,
}

impl ShutdownReport {
    /// Whether everything that was begun was finished.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unfinished.is_empty() && self.open_calls == 0 && self.stuck == 0
    }
}

impl Node {
    /// Starts to put a node together that is `instance` and talks over `transport`, which is its own:
    /// [`shutdown`](Self::shutdown) closes it.
    pub fn builder(
        transport: impl Into<Arc<dyn Transport>>,
        instance: Instance,
    ) -> NodeBuilder<()> {
        NodeBuilder::new(transport.into(), instance)
    }

    fn new(
        client: Client,
        stop: watch::Sender<StopAt>,
        dispatchers: Vec<JoinHandle<usize>>,
    ) -> Self {
        Self { client, stop, dispatchers }
    }

    /// The client of this node, for talking.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Who this node is.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        self.client.instance()
    }

    /// Whether the connection is usable, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.client.status()
    }

    /// What the node has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.client.stats()
    }

    /// Stops in order: takes nothing more, gives back what was not begun, lets handlers
    /// finish for `patience`, cuts off those that have not, flushes and closes the
    /// connection. Calls that are still open then end with
    /// [`CallError::Closed`](crate::CallError::Closed). A broker that does not answer makes that take up
    /// to 12 s more than `patience`: whoever kills the process has to wait for longer than both.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the node stops at once, as when it is dropped.
    pub async fn shutdown(mut self, patience: Duration) -> ShutdownReport {
        self.stop.send_replace(Some(after(Instant::now(), patience)));
        let mut stuck = 0;
        for dispatcher in &mut self.dispatchers {
            // A dispatcher does not panic; if it did, its tasks are gone with it.
            stuck += dispatcher.await.unwrap_or_default();
        }
        let core = self.client.core();
        let open_calls = core.pending.close();
        core.transport.close().await;
        let (unfinished, stats) = (core.unfinished(), core.stats());
        ShutdownReport { unfinished, open_calls, stuck, stats }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for dispatcher in &self.dispatchers {
            dispatcher.abort();
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("instance", self.instance()).finish_non_exhaustive()
    }
}
