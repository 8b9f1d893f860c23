//! What a handler knows of the request that it handles.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Client, Headers, Instance, Message, Text, Timestamp, client::Core};

/// What a handler knows of the request that it handles, and the client to ask others on
/// its behalf.
///
/// ```
/// use gear_api::{Context, Fault, Operation, Service};
/// use std::sync::Arc;
///
/// const REPO: Service = Service::new("REPO");
/// const LOOKUP: Operation<String, Vec<u32>> = Operation::new("lookup");
///
/// async fn search(_: Arc<()>, cx: Context, word: String) -> Result<Vec<u32>, Fault> {
///     // Takes no longer than whoever asked is willing to wait.
///     Ok(cx.client().call(REPO, LOOKUP, &word).await?)
/// }
/// # let _ = search;
/// ```
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    message: Message,
    key: Text,
    deadline: Option<Instant>,
}

impl Context {
    pub(super) fn new(core: Arc<Core>, message: Message, key: Text) -> Self {
        let deadline = message.deadline().map(|deadline| core.clock.instant(deadline));
        Self(Arc::new(Inner { core, message, key, deadline }))
    }

    /// A client that works for this request: its calls, casts and events end with the request's
    /// deadline at the latest, and carry its trace on. What is to go out whether or not somebody still
    /// waits for the answer needs another [`Client`], which the handler's state may have.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::for_request(Arc::clone(&self.0.core), self.0.message.clone(), self.0.deadline)
    }

    /// The instance that handles it.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.0.core.instance
    }

    /// Who says to have sent it; none if the sender is no instance.
    #[must_use]
    pub fn sender(&self) -> Option<Instance> {
        self.0.message.sender().parse().ok()
    }

    /// The key that it was sent under: an address, or the topic of an event.
    #[must_use]
    pub fn key(&self) -> &Text {
        &self.0.key
    }

    /// When it is of no more use to anybody.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.message.deadline()
    }

    /// How long until then.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.0.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The headers that came with it.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.0.message.headers()
    }

    /// The message, undecoded.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(super) fn is_expired(&self) -> bool {
        self.0.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("key", &self.0.key)
            .field("message", &self.0.message)
            .finish()
    }
}
