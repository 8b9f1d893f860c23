//! What travels: a body of bytes and the properties of the wire contract.

mod headers;
mod id;

use std::{fmt, sync::Arc};

use bytes::Bytes;

pub(crate) use id::IdSource;

pub use {
    headers::{HeaderError, HeaderValue, Headers},
    id::Id,
};

use crate::{ReplyTo, Text, Timestamp};

/// What a message is. `gear-kind` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A request that wants a reply.
    Call,
    /// A request without a reply.
    Cast,
    /// The answer to a call.
    Reply,
    /// A fact, published under a topic.
    Event,
}

impl Kind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Cast => "cast",
            Self::Reply => "reply",
            Self::Event => "event",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn from_wire(word: &str) -> Option<Self> {
        [Self::Call, Self::Cast, Self::Reply, Self::Event].into_iter().find(|k| k.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A message: a body and its properties. Immutable; a clone is one reference count and copies
/// no body.
///
/// Services rarely meet it: they send and receive typed values. Backends, layers and
/// taps do.
///
/// ```
/// use gear_api::{Kind, Message};
///
/// let message = Message::builder(Kind::Cast, "reindex").body("{}").durable(true).build();
/// assert_eq!(message.operation(), "reindex");
/// let again = message.to_builder().attempt(2).build();
/// assert_eq!((again.attempt(), again.body()), (2, message.body()));
/// ```
#[derive(Clone, PartialEq)]
pub struct Message(Arc<Content>);

/// All that a message is, behind one reference count: brokers and buffers move it often.
#[derive(Clone, PartialEq)]
struct Content {
    head: Head,
    body: Bytes,
}

/// The properties.
#[derive(Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) attempt: u32,
    pub(crate) hops: u32,
    pub(crate) operation: Text,
    pub(crate) content_type: Text,
    pub(crate) id: Option<Id>,
    pub(crate) correlation: Option<Id>,
    pub(crate) reply_to: Option<ReplyTo>,
    pub(crate) sender: Text,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) sent_at: Option<Timestamp>,
    pub(crate) error: Option<Text>,
    pub(crate) headers: Headers,
}

impl Head {
    /// No property but these.
    #[inline(always)]
    pub(crate) const fn new(kind: Kind, operation: Text) -> Self {
        Self {
            kind,
            durable: false,
            attempt: 0,
            hops: 0,
            operation,
            content_type: Text::EMPTY,
            id: None,
            correlation: None,
            reply_to: None,
            sender: Text::EMPTY,
            deadline: None,
            sent_at: None,
            error: None,
            headers: Headers::new(),
        }
    }

    /// The message in one step: a builder would move all of this at every setter.
    #[inline(always)]
    pub(crate) fn message(self, body: Bytes) -> Message {
        Message(Arc::new(Content { head: self, body }))
    }
}

impl Message {
    /// Starts a message of `kind` that asks for, or answers, `operation`.
    pub fn builder(kind: Kind, operation: impl Into<Text>) -> MessageBuilder {
        MessageBuilder(Content { head: Head::new(kind, operation.into()), body: Bytes::new() })
    }

    /// A builder that starts from this message.
    pub fn to_builder(&self) -> MessageBuilder {
        MessageBuilder(Content::clone(&self.0))
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.head.kind
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// What is asked or answered; empty in a bare message of a foreign program.
    #[must_use]
    pub fn operation(&self) -> &Text {
        &self.0.head.operation
    }

    /// The MIME type of the body; empty if not said.
    #[must_use]
    pub fn content_type(&self) -> &Text {
        &self.0.head.content_type
    }

    /// The message's id, the same in every retry.
    #[must_use]
    pub fn id(&self) -> Option<&Id> {
        self.0.head.id.as_ref()
    }

    /// The id of the call that it starts or answers.
    #[must_use]
    pub fn correlation(&self) -> Option<&Id> {
        self.0.head.correlation.as_ref()
    }

    /// Where the answer goes; none if no answer is wanted.
    #[must_use]
    pub fn reply_to(&self) -> Option<&ReplyTo> {
        self.0.head.reply_to.as_ref()
    }

    /// Who says to have sent it, e.g. `WEB.host1`; empty if not said. Not verified.
    #[must_use]
    pub fn sender(&self) -> &Text {
        &self.0.head.sender
    }

    /// When it is of no more use to anybody.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.head.deadline
    }

    /// When it was sent, by the sender's clock: over AMQP in whole seconds.
    #[must_use]
    pub fn sent_at(&self) -> Option<Timestamp> {
        self.0.head.sent_at
    }

    /// Whether it survives a restart of the broker.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.0.head.durable
    }

    /// How often it was tried before: 0 the first time. `gear-attempt` on the wire.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.head.attempt
    }

    /// How often it was handed on: 0 when it comes from whoever asks. `gear-hops` on the wire.
    #[must_use]
    pub fn hops(&self) -> u32 {
        self.0.head.hops
    }

    /// In a reply: the code of the failure that it reports. `gear-error` on the wire.
    #[must_use]
    pub fn error(&self) -> Option<&Text> {
        self.0.head.error.as_ref()
    }

    /// The user's headers, and in a received message those of the broker.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.0.head.headers
    }
}

/// The body is not shown: it may hold anything, secrets too.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.0.head;
        let mut out = f.debug_struct("Message");
        out.field("kind", &head.kind).field("operation", &head.operation);
        if let Some(id) = &head.id {
            out.field("id", id);
        }
        if let Some(correlation) = &head.correlation {
            out.field("correlation", correlation);
        }
        if let Some(reply_to) = &head.reply_to {
            out.field("reply_to", reply_to);
        }
        if !head.sender.is_empty() {
            out.field("sender", &head.sender);
        }
        if let Some(error) = &head.error {
            out.field("error", error);
        }
        out.field("body_bytes", &self.0.body.len()).finish_non_exhaustive()
    }
}

/// Makes a [`Message`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct MessageBuilder(Content);

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = |$value:ident| $make:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $value: $type) -> Self {
            self.0.head.$name = $make;
            self
        }
    )*};
}

impl MessageBuilder {
    setters! {
        /// Sets [`Message::kind`].
        kind: Kind = |kind| kind;
        /// Sets [`Message::operation`].
        operation: impl Into<Text> = |operation| operation.into();
        /// Sets [`Message::content_type`].
        content_type: impl Into<Text> = |content_type| content_type.into();
        /// Sets [`Message::id`].
        id: impl Into<Option<Id>> = |id| id.into();
        /// Sets [`Message::correlation`].
        correlation: impl Into<Option<Id>> = |correlation| correlation.into();
        /// Sets [`Message::reply_to`].
        reply_to: impl Into<Option<ReplyTo>> = |reply_to| reply_to.into();
        /// Sets [`Message::sender`].
        sender: impl Into<Text> = |sender| sender.into();
        /// Sets [`Message::deadline`].
        deadline: impl Into<Option<Timestamp>> = |deadline| deadline.into();
        /// Sets [`Message::sent_at`].
        sent_at: impl Into<Option<Timestamp>> = |sent_at| sent_at.into();
        /// Sets [`Message::is_durable`].
        durable: bool = |durable| durable;
        /// Sets [`Message::attempt`].
        attempt: u32 = |attempt| attempt;
        /// Sets [`Message::hops`].
        hops: u32 = |hops| hops;
        /// Sets [`Message::error`].
        error: impl Into<Option<Text>> = |error| error.into();
        /// Sets all headers at once.
        headers: Headers = |headers| headers;
    }

    /// Sets [`Message::body`].
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.0.body = body.into();
        self
    }

    /// Sets one header.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] as [`Headers::insert`].
    pub fn header(
        mut self,
        name: impl Into<Text>,
        value: impl Into<HeaderValue>,
    ) -> Result<Self, HeaderError> {
        self.0.head.headers.insert(name, value)?;
        Ok(self)
    }

    /// The headers as they are now.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.0.head.headers
    }

    /// The message.
    #[must_use]
    pub fn build(self) -> Message {
        Message(Arc::new(self.0))
    }
}

impl fmt::Debug for MessageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clone().build().fmt(f)
    }
}
