//! What a handler knows of the request that it handles.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Client, HeaderValue, Headers, Id, Instance, Kind, Message, ReplyTo, Text, Timestamp,
    client::{Asked, Core},
    topology::header,
};

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
pub struct Context {
    request: Arc<Inner>,
    extensions: Option<Arc<Extension>>,
}

struct Inner {
    core: Arc<Core>,
    message: Message,
    key: Text,
    queue: Text,
    redelivered: bool,
    deadline: Option<Instant>,
    handed_on: AtomicBool,
    waits: AtomicBool,
}

/// One delivery, by which its context is known again.
pub(super) struct Delivery(Weak<Inner>);

impl Delivery {
    pub(super) fn is_of(&self, cx: &Context) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&cx.request))
    }
}

/// What a layer has said, and what those around it have said before. A clone that gets one more
/// leaves the others as they are.
struct Extension {
    value: Box<dyn Any + Send + Sync>,
    before: Option<Arc<Self>>,
}

impl Context {
    pub(super) fn new(
        core: Arc<Core>,
        message: Message,
        key: Text,
        queue: Text,
        redelivered: bool,
    ) -> Self {
        let deadline = message.deadline().map(|deadline| core.clock.instant(deadline));
        let (handed_on, waits) = (AtomicBool::new(false), AtomicBool::new(false));
        let request =
            Arc::new(Inner { core, message, key, queue, redelivered, deadline, handed_on, waits });
        Self { request, extensions: None }
    }

    pub(super) fn extend<T: Send + Sync + 'static>(&mut self, value: T) {
        let before = self.extensions.take();
        self.extensions = Some(Arc::new(Extension { value: Box::new(value), before }));
    }

    /// What a layer around the handler has said of the request: the latest value of this type that was
    /// given to [`Request::with_extension`](crate::Request::with_extension).
    #[must_use]
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        let mut next = self.extensions.as_deref();
        while let Some(extension) = next {
            if let Some(value) = extension.value.downcast_ref() {
                return Some(value);
            }
            next = extension.before.as_deref();
        }
        None
    }

    /// A client that works for this request: its calls end with the request's deadline at the latest, its
    /// casts and events wait for the broker no longer than that (and do not expire by it), and all carry
    /// its trace on. What is to go out whether or not somebody still waits for the answer needs another
    /// [`Client`], which the handler's state may have.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::for_request(
            Arc::clone(&self.request.core),
            self.request.message.clone(),
            self.request.deadline,
        )
    }

    /// The instance that handles it.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.request.core.instance
    }

    /// Who says to have sent it; none if the sender is no instance.
    #[must_use]
    pub fn sender(&self) -> Option<Instance> {
        self.request.message.sender().parse().ok()
    }

    /// The key that it was sent under: an address, or the topic of an event.
    #[must_use]
    pub fn key(&self) -> &Text {
        &self.request.key
    }

    /// The queue that it came by: the service's, the instance's, or an event group's.
    #[must_use]
    pub fn queue(&self) -> &Text {
        &self.request.queue
    }

    /// Whether it was delivered or [tried](Self::attempt) before: what it asks for may have been done, or be being
    /// done. That it was not does not say that it is the first of its [`id`](Message::id): a sender that did
    /// not learn whether it arrived may have sent it again.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.request.redelivered || self.attempt() > 0
    }

    /// How often it was tried before and failed: 0 the first time. Casts, events, and answers that a
    /// reply handler takes are tried again, as [`NodeBuilder::retries`](crate::NodeBuilder::retries) says; calls
    /// are not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.request.message.attempt()
    }

    /// When it is of no more use to anybody.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.request.message.deadline()
    }

    /// How long until then.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.request.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The headers that came with it.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.request.message.headers()
    }

    /// The message, undecoded.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.request.message
    }

    /// Where its answer goes, if one is wanted.
    pub(super) fn reply_to(&self) -> Option<&ReplyTo> {
        self.message().reply_to().filter(|_| self.wants_answer())
    }

    /// What an answer needs to know of it.
    #[inline(always)]
    pub(super) fn asked(&self) -> Asked {
        let message = self.message();
        Asked {
            operation: self.noted(header::ASKED).unwrap_or_else(|| message.operation().clone()),
            correlation: self.correlation(),
            deadline: message.deadline(),
            answer_id: self.answer_id(),
            instance: self.noted(header::ASKED_OF),
            handed_on: message.hops() > 0,
        }
    }

    /// A caller takes one answer. Whoever else gets two is to see that they are one; and whoever asks again, as
    /// a request of his own, that it is another.
    #[inline]
    fn answer_id(&self) -> Option<Id> {
        self.reply_to().filter(|to| !to.is_instance())?;
        let asker = self.correlation().map(|id| id.to_string()).unwrap_or_default();
        let parts: [&[u8]; 3] = [b"answer", self.queue().as_bytes(), asker.as_bytes()];
        Some(self.message().id()?.derived(&parts))
    }

    /// What was noted of it when it was handed on.
    #[inline]
    fn noted(&self, header: &str) -> Option<Text> {
        match self.headers().get(header)? {
            HeaderValue::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// By which whoever asked knows the answer.
    pub(super) fn correlation(&self) -> Option<Id> {
        let message = self.message();
        message.correlation().or(message.id()).cloned()
    }

    /// Whether it came to others, too, here or before it was handed on.
    pub(super) fn is_of_group(&self) -> bool {
        self.key().ends_with(".*") || self.noted(header::GROUP).is_some()
    }

    /// Whether this instance was asked, and not any of its service.
    pub(super) fn is_of_instance(&self) -> bool {
        self.queue() == self.instance().text()
    }

    /// What tells this delivery from all others.
    pub(super) fn delivery(&self) -> Delivery {
        Delivery(Arc::downgrade(&self.request))
    }

    /// Another service answers it: from now on this one does not.
    pub(super) fn set_handed_on(&self) {
        self.request.handed_on.store(true, Ordering::Relaxed);
    }

    /// A layer that was given it waits for something before the handler is called: it may go back.
    pub(super) fn set_waits(&self, waits: bool) {
        self.request.waits.store(waits, Ordering::Relaxed);
    }

    pub(super) fn waits(&self) -> bool {
        self.request.waits.load(Ordering::Relaxed)
    }

    pub(super) fn is_handed_on(&self) -> bool {
        self.request.handed_on.load(Ordering::Relaxed)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.request.core
    }

    /// Whether somebody waits for an answer: replies and events are never answered.
    pub(super) fn wants_answer(&self) -> bool {
        let message = self.message();
        message.reply_to().is_some() && matches!(message.kind(), Kind::Call | Kind::Cast)
    }

    /// When it is dropped unless it has begun.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.request.deadline
    }

    pub(super) fn is_expired(&self) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("key", &self.request.key)
            .field("message", &self.request.message)
            .finish()
    }
}
