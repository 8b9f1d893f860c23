//! The outcomes of calls and casts that are not success.
//!
//! Each shows all there is in its own text. What is within it is reached by its variant, and is not
//! its `source` as well: a log that prints one line misses nothing, and one that prints the chain
//! of causes says nothing twice.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    CodecError, HeaderError, Message, Operation, PublishError, SubscribeError, Text, code,
};

/// Whether asking again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing was done, or the service says that asking again is fine.
    Safe,
    /// Nobody knows whether it was done: only where doing it twice does no harm.
    IfIdempotent,
    /// The same again would end the same.
    Useless,
}

impl Retry {
    /// Whether `operation` may be asked again: yes if it is safe, and yes if nobody knows
    /// but doing it twice does no harm.
    ///
    /// ```
    /// use gear_api::{CallError, Operation};
    ///
    /// const READ: Operation<String, String> = Operation::new("read").idempotent();
    /// const PAY: Operation<u64, ()> = Operation::new("pay");
    ///
    /// let error = CallError::DeadlinePassed; // it may have been done
    /// assert!(error.retry().allows(READ));
    /// assert!(!error.retry().allows(PAY));
    /// ```
    #[must_use]
    pub fn allows<Req, Rep, C>(self, operation: Operation<Req, Rep, C>) -> bool {
        match self {
            Self::Safe => true,
            Self::IfIdempotent => operation.is_idempotent(),
            Self::Useless => false,
        }
    }
}

/// How a call ended, other than with a reply. A call has exactly one outcome, at the
/// latest at its deadline.
///
/// | outcome | was it done? | [`retry`](Self::retry) |
/// |---|---|---|
/// | [`Remote`](Self::Remote) | the service says | as it says; if idempotent where it ended in the middle |
/// | [`NotRouted`](Self::NotRouted) | no | safe |
/// | [`NotSent`](Self::NotSent) | no; hardly, if it was [refused](NotSent::Refused) | safe, or useless where the request itself is at fault or the client is closed; if idempotent where it was refused |
/// | [`DeadlinePassed`](Self::DeadlinePassed) | unknown | if idempotent |
/// | [`ReplyNotDecodable`](Self::ReplyNotDecodable) | yes | useless |
/// | [`Closed`](Self::Closed) | unknown | if idempotent, by another client |
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The service answered that it failed.
    #[error(transparent)]
    Remote(RemoteError),
    /// There is no such service or instance: it never joined. One that has left keeps its
    /// queue for a while (an instance for a day), so that it misses nothing when it comes
    /// back; until then a call to it ends at its deadline.
    #[error("nobody is there: no such service or instance")]
    NotRouted,
    /// The request never left, or was turned away.
    #[error("the request was not sent: {0}")]
    NotSent(NotSent),
    /// No answer came in time. The request may have been handled, or still be.
    #[error("no answer came before the deadline")]
    DeadlinePassed,
    /// An answer came, and is not what the operation says.
    #[error("the reply could not be decoded: {0}")]
    ReplyNotDecodable(CodecError),
    /// The client was closed when the request had left: it may have been handled, or still be. It takes
    /// another client to ask again. What had not left, or was called later, is [`NotSent::Closed`].
    #[error("the client was closed")]
    Closed,
}

/// Codes of what ended in the middle, here or behind the service that says so: another try may well end
/// otherwise.
const PASSING: [&str; 4] = [code::TIMEOUT, code::DROPPED, code::UNAVAILABLE, code::OVERLOADED];

impl CallError {
    /// Whether asking again makes sense; with [`Retry::allows`], for a given operation.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Remote(error) if error.retryable => Retry::Safe,
            Self::Remote(error) if PASSING.contains(&&*error.code) => Retry::IfIdempotent,
            Self::Remote(_) | Self::ReplyNotDecodable(_) => Retry::Useless,
            Self::NotRouted => Retry::Safe,
            Self::NotSent(why) => why.retry(),
            Self::DeadlinePassed | Self::Closed => Retry::IfIdempotent,
        }
    }

    /// The error of a call that others have, too: that one of them has done nothing is true of that one
    /// alone.
    pub(super) fn of_one_of_many(mut self) -> Self {
        if let Self::Remote(error) = &mut self {
            error.retryable = false;
        }
        self
    }

    /// Which one it is, for the log.
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Remote(error) => &error.code,
            Self::NotRouted => "not-routed",
            Self::NotSent(_) => "not-sent",
            Self::DeadlinePassed => "deadline-passed",
            Self::ReplyNotDecodable(_) => "reply-not-decodable",
            Self::Closed => "closed",
        }
    }

    /// The code of a failure that the service reported.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Remote(error) => Some(&error.code),
            _ => None,
        }
    }
}

/// How a cast or an event ended, other than confirmed by the broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CastError {
    /// There is no such service or instance: it never joined. One that has left keeps its
    /// queue for a while (an instance for a day), and gets the message when it comes back.
    #[error("nobody is there: no such service or instance")]
    NotRouted,
    /// The message never left, or was turned away.
    #[error("the message was not sent: {0}")]
    NotSent(NotSent),
    /// The broker's answer was lost, or one of several queues refused the message. It may
    /// have arrived.
    #[error("nobody knows whether the message arrived: {0}")]
    Unknown(Text),
    /// The client is closed, and the message was not sent: one that has left when it is closed ends as
    /// [`Unknown`](Self::Unknown). Nor will this client send it another time.
    #[error("the client is closed")]
    Closed,
}

impl CastError {
    /// Whether sending it again makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotRouted => Retry::Safe,
            Self::NotSent(why) => why.retry(),
            Self::Unknown(_) => Retry::IfIdempotent,
            Self::Closed => Retry::Useless,
        }
    }

    /// Which one it is, for the log.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::NotRouted => "not-routed",
            Self::NotSent(_) => "not-sent",
            Self::Unknown(_) => "unknown",
            Self::Closed => "closed",
        }
    }

    pub(crate) fn of_publish(error: PublishError, group: bool) -> Self {
        match error {
            PublishError::NotRouted => Self::NotRouted,
            PublishError::Refused(why) if group => Self::Unknown(why),
            PublishError::Refused(why) => Self::NotSent(NotSent::Refused(why)),
            PublishError::NotSent(why) => Self::NotSent(NotSent::Unavailable(why)),
            PublishError::Invalid(why) => Self::NotSent(NotSent::Invalid(why)),
            PublishError::Unknown(why) => Self::Unknown(why),
            PublishError::TooLarge { bytes, limit } => {
                Self::NotSent(NotSent::TooLarge { bytes, limit })
            }
            PublishError::Unsupported(what) => Self::NotSent(NotSent::Unsupported(what)),
            PublishError::Closed => Self::Closed,
        }
    }
}

/// Why a message never left, or was turned away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// A header is not allowed.
    #[error(transparent)]
    Header(HeaderError),
    /// The codec has no form for the value.
    #[error("the body could not be encoded: {0}")]
    Encode(CodecError),
    /// The body is larger than the limit of the client or of the broker.
    #[error("a body of {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The broker's protocol has no room for it: a property, as the codec's content type, is too long, or
    /// the headers are more than this connection takes.
    #[error("{0}")]
    Invalid(Text),
    /// The broker refused it, e.g. because the queue is full. Mostly nobody has it then; but where a tap, or
    /// an operator, has bound another queue to the same key, it may be that one which refused it, and
    /// the service has it. Who asks again is to be idempotent for that.
    #[error("the broker refused it: {0}")]
    Refused(Text),
    /// Its deadline had passed before it was sent: that of the request that it is part of, or
    /// a timeout of zero.
    #[error("its deadline had passed already")]
    TooLate,
    /// It was handed on [so often](crate::topology::MAX_HOPS) before: services hand it on in a circle.
    #[error("it was handed on too often")]
    TooManyHops,
    /// The connection was down, or the broker took no messages, until the deadline.
    #[error("{0}")]
    Unavailable(Text),
    /// The backend does not do this.
    #[error("this backend has no {0}")]
    Unsupported(&'static str),
    /// The client was closed before it left. Nor will it send this another time.
    #[error("the client is closed")]
    Closed,
}

impl NotSent {
    /// Whether sending it again makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable(_) => Retry::Safe,
            Self::Refused(_) => Retry::IfIdempotent,
            Self::Header(_)
            | Self::Encode(_)
            | Self::TooLarge { .. }
            | Self::Invalid(_)
            | Self::TooLate
            | Self::TooManyHops
            | Self::Closed
            | Self::Unsupported(_) => Retry::Useless,
        }
    }
}

/// Why a client or a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A subscription was refused; [`SubscribeError::NameInUse`] among the reasons.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// Two handlers for one operation, or two for one event in a group.
    #[error("there are two handlers for {0:?}")]
    TwoHandlers(String),
    /// The name of an event group makes no queue name.
    #[error(transparent)]
    Name(#[from] crate::NameError),
}

/// A failure that a service reported: what its [`Fault`](crate::Fault) chose to show.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct RemoteError {
    /// A stable word for programs; Gear's own are in [`code`](crate::code).
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Whether nothing was done, so that asking again is safe for any operation. Whether asking again makes
    /// sense at all says [`CallError::retry`].
    #[serde(default)]
    pub retryable: bool,
    /// Whatever else the service wants to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl RemoteError {
    pub(crate) const CONTENT_TYPE: Text = Text::from_static("application/json");

    pub(crate) fn new(code: &str, message: impl Into<String>, retryable: bool) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable, details: None }
    }

    /// The same without what may be too long.
    pub(crate) fn shortened(&self) -> Self {
        Self::new(&self.code, "what failed is too long to be told", self.retryable)
    }

    /// Reads a reply: its failure, if it reports one.
    pub(crate) fn of_reply(reply: &Message) -> Option<Self> {
        let code = reply.error()?;
        // The header says that it failed, whatever the body says.
        Some(match serde_json::from_slice::<Self>(reply.body()) {
            Ok(error) => Self { code: code.to_string(), ..error },
            Err(_) => Self::new(code, String::from_utf8_lossy(reply.body()), false),
        })
    }

    pub(crate) fn to_body(&self) -> Bytes {
        // Strings, a bool and a JSON value always have a form.
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    /// A codec's error with a cause of its own.
    fn codec_error() -> CodecError {
        #[derive(Debug, thiserror::Error)]
        #[error("bad frame")]
        struct BadFrame(#[source] std::num::ParseIntError);
        CodecError::new(BadFrame("x".parse::<u8>().unwrap_err()))
    }

    /// As programs print an error with its causes.
    fn chain(error: &dyn Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }

    #[test]
    fn a_chain_of_causes_says_everything_once_and_so_does_the_error_alone() {
        let header = HeaderError::TooMany;
        let name = "a b".parse::<crate::Service>().unwrap_err();
        let bad = "bad frame: invalid digit found in string";
        let errors: [(Box<dyn Error>, String); 7] = [
            (Box::new(codec_error()), bad.to_owned()),
            (
                Box::new(CallError::NotSent(NotSent::Encode(codec_error()))),
                format!("the request was not sent: the body could not be encoded: {bad}"),
            ),
            (
                Box::new(CallError::ReplyNotDecodable(codec_error())),
                format!("the reply could not be decoded: {bad}"),
            ),
            (
                Box::new(CallError::Remote(RemoteError::new("odd", "it is odd", false))),
                "odd: it is odd".to_owned(),
            ),
            (
                Box::new(CastError::NotSent(NotSent::Header(header.clone()))),
                format!("the message was not sent: {header}"),
            ),
            (
                Box::new(StartError::Subscribe(SubscribeError::Refused("no".into()))),
                "the broker refused: no".to_owned(),
            ),
            (Box::new(StartError::Name(name.clone())), name.to_string()),
        ];
        for (error, text) in errors {
            assert_eq!(error.to_string(), text);
            assert_eq!(chain(&*error), text);
        }
        assert!(codec_error().get_ref().to_string() == "bad frame");
    }
}
