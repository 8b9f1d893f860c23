//! What a backend is: the [`Transport`] trait, and the types that pass through it.
//!
//! It relies on addresses and messages, and knows nothing of [`Node`](crate::Node),
//! which stands on top. All convenience lives up there, written once; a backend has
//! little to write and little to get wrong.

mod capabilities;
mod consumer;
mod delivery;
mod publish;
mod route;
mod status;
mod subscription;

use std::fmt;

use async_trait::async_trait;
use tokio::sync::watch;

pub use {
    capabilities::Capabilities,
    consumer::{Consumer, ConsumerEnd, DeliverySink, Source},
    delivery::{Delivery, Settle, Settlement, Verdict},
    publish::{HandOver, Publish, PublishError},
    route::Route,
    status::Status,
    subscription::{Feed, ReplySink, SubscribeError, Subscription},
};

use crate::{Clock, Message, ReplyTo};

/// One node's connection to a broker.
///
/// Object-safe, so that a program picks its backend at run time. Every method may be
/// called from any thread, inside a tokio runtime.
///
/// Most programs hand it to a [`Node`](crate::Node) or a [`Client`](crate::Client), and never call
/// it. One that wraps another is a transport, too:
///
/// ```
/// use async_trait::async_trait;
/// use gear_api::{
///     Capabilities, Client, Clock, Consumer, Message, Operation, Publish, Route, Service, Status,
///     SubscribeError, Subscription, Transport,
/// };
/// use gear_memory::MemoryBroker;
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use tokio::sync::watch;
///
/// /// Counts the bytes that leave.
/// #[derive(Debug)]
/// struct Metered {
///     inner: Arc<dyn Transport>,
///     bytes: Arc<AtomicUsize>,
/// }
///
/// #[async_trait]
/// impl Transport for Metered {
///     fn send(&self, route: Route<'_>, message: Message) -> Publish {
///         self.bytes.fetch_add(message.body().len(), Ordering::Relaxed);
///         self.inner.send(route, message)
///     }
///     async fn subscribe(&self, what: Subscription) -> Result<Consumer, SubscribeError> {
///         self.inner.subscribe(what).await
///     }
///     fn capabilities(&self) -> Capabilities {
///         self.inner.capabilities()
///     }
///     fn status(&self) -> watch::Receiver<Status> {
///         self.inner.status()
///     }
///     fn clock(&self) -> Clock {
///         self.inner.clock()
///     }
///     fn seed(&self) -> u64 {
///         self.inner.seed()
///     }
///     async fn close(&self) {
///         self.inner.close().await;
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const CTRL: Service = Service::new("CTRL");
/// const NOTE: Operation<String, ()> = Operation::new("note");
///
/// let bytes = Arc::new(AtomicUsize::new(0));
/// let inner = MemoryBroker::new().connect().into();
/// let metered: Arc<dyn Transport> = Arc::new(Metered { inner, bytes: Arc::clone(&bytes) });
/// let client = Client::builder(metered, "CLI.laptop".parse()?).start().await?;
/// let nobody_is_there = client.cast(CTRL, NOTE, &"hello".to_owned()).await;
/// assert!(nobody_is_there.is_err());
/// assert_eq!(bytes.load(Ordering::Relaxed), 7); // "hello" in JSON, with its quotes
/// # Ok(())
/// # }
/// ```
///
/// # For those who write a backend
///
/// What each method requires and how it behaves is said at the method. What a backend
/// can not do it says in [`capabilities`](Self::capabilities) and refuses with
/// [`PublishError::Unsupported`] or [`SubscribeError::Unsupported`], never silently.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Hands `message` over at once, and returns a future of the broker's answer.
    ///
    /// **Requires** nothing: an unusable connection is an answer too.
    ///
    /// **Behaves**: never blocks, never awaits. Messages reach the broker in the order
    /// of the calls. Where the connection is down, the broker blocks publishers or the
    /// mailbox is full, the message waits in [`Publish`] in the same order: until its
    /// deadline, or without one until it is withdrawn or the transport closed. A message larger than the
    /// broker takes is refused here.
    fn send(&self, route: Route<'_>, message: Message) -> Publish;

    /// Starts to consume, declaring what must exist for that.
    ///
    /// **Behaves**: on return the queue exists and its bindings are in place. The
    /// consumer survives reconnects until it is stopped, dropped, or the transport is
    /// closed. It survives the deletion of its queue, too, which is declared again, as empty as
    /// a new one.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`], for good: what a reconnect can mend is not reported but mended.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it leaves no consumer behind; a queue may remain, as
    /// queues do.
    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError>;

    /// Sends the answer to a request that was delivered, as [`send`](Self::send) does. A backend for
    /// which both at once cost less may acknowledge the `request` with it; the caller does so
    /// otherwise.
    ///
    /// **Behaves**: an answer that failed, or waits to be handed over, leaves the request alone. Whoever
    /// does not override this acknowledges nothing.
    fn answer(&self, to: &ReplyTo, answer: Message, request: &mut Settlement) -> Publish {
        let _ = request;
        self.send(Route::Reply(to), answer)
    }

    /// What this backend promises.
    fn capabilities(&self) -> Capabilities;

    /// Whether the connection is usable, as it changes.
    ///
    /// **Behaves**: [`Status::Ready`] means that publishing and all subscriptions work,
    /// not that a socket is open.
    fn status(&self) -> watch::Receiver<Status>;

    /// Where the time comes from.
    fn clock(&self) -> Clock;

    /// The seed of the ids and of the jitter of what uses this connection. A backend
    /// whose runs can be repeated returns the same in each.
    fn seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one("gear")
    }

    /// Closes the connection: flushes settlements and what waits to be confirmed, then
    /// lets go. Takes at most some ten seconds. What is sent later is
    /// [`PublishError::Closed`]; unsettled deliveries go back to their queues.
    ///
    /// **Behaves**: closing twice does nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the closing may go on; calling it again waits for it.
    async fn close(&self);
}
