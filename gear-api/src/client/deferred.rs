//! A request that is answered later, by whoever holds the right to.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use super::{Client, NotSent, RemoteError, Sending, call};
use crate::{
    Codec, Fault, Id, Json, Message, Publish, ReplyTo, Route, Text, Timestamp, clock::after,
};

/// The right to answer a request, to be kept while it takes: in memory, in a file, in another message. Any
/// client of the same system answers with it, wherever it runs.
///
/// The request is forgotten once its handler has returned, so what is to outlive the process is saved
/// before. Nobody notices when it is lost: whoever asked then waits until the deadline. Answered
/// twice, the first answer counts. It is as good as the deadline, which does not move; and it is
/// what it looks like, so whoever can read it can answer.
///
/// From [`Caller::defer`](crate::Caller::defer), which has an example.
#[must_use = "whoever asked waits for the answer"]
pub struct Deferred<Rep, C = Json> {
    asked: Asked,
    types: PhantomData<fn(C) -> Rep>,
}

/// What an answer needs to know of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
}

impl<Rep, C> Deferred<Rep, C> {
    pub(crate) fn of(request: &Message, wants_answer: bool) -> Self {
        let correlation = request.correlation().or(request.id());
        Self {
            asked: Asked {
                operation: request.operation().to_string(),
                reply_to: request.reply_to().filter(|_| wants_answer).map(ToString::to_string),
                correlation: correlation.map(ToString::to_string),
                deadline: request.deadline().map(Timestamp::unix_ms),
            },
            types: PhantomData,
        }
    }

    /// What was asked.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.asked.operation
    }

    /// When the answer is of no more use to anybody.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.asked.deadline.map(Timestamp::from_unix_ms)
    }

    /// Answers. Awaiting it waits until the broker has the answer. A cast wants none: nothing is sent then.
    ///
    /// # Errors
    ///
    /// [`CastError::NotRouted`](crate::CastError::NotRouted) if whoever asked is gone;
    /// [`CastError::NotSent`](crate::CastError::NotSent) if the answer has no encoded form, or is too large: an
    /// [error](Self::fail) can still be sent then.
    pub fn reply(&self, client: &Client, reply: &Rep) -> Sending
    where
        C: Codec<Rep>,
    {
        let body = call::encode::<Rep, C>(client.core(), reply);
        self.send(client, C::CONTENT_TYPE, body, None)
    }

    /// Answers that it failed. Of a fault made of an error with `?` or
    /// [`from_error`](Fault::from_error) the log learns nothing here.
    ///
    /// # Errors
    ///
    /// As for [`reply`](Self::reply).
    pub fn fail(&self, client: &Client, fault: impl Into<Fault>) -> Sending {
        let error = fault.into().shown().clone();
        let code = Text::from(error.code.as_str());
        self.send(client, RemoteError::CONTENT_TYPE, Ok(error.to_body()), Some(code))
    }

    fn send(
        &self,
        client: &Client,
        content_type: Text,
        body: Result<Bytes, NotSent>,
        error: Option<Text>,
    ) -> Sending {
        let core = client.core();
        let Asked { operation, reply_to, correlation, deadline: _ } = &self.asked;
        let Some(to) = reply_to.as_deref().map(ReplyTo::queue) else {
            return Sending::of_answer(operation, &"", Ok(Publish::ready(Ok(()))), Instant::now());
        };
        let publish = body.map(|body| {
            let correlation = correlation.as_deref().map(Id::from);
            let operation = Text::from(operation.as_str());
            let mut head = core.reply_head(operation, correlation, self.deadline(), error);
            head.content_type = content_type;
            core.transport.send(Route::Reply(&to), head.message(body))
        });
        let give_up = after(Instant::now(), core.settings.send_timeout);
        Sending::of_answer(operation, &to, publish, give_up)
    }
}

// Not derived: that would ask the same of the types, of which it holds no value.
impl<Rep, C> Clone for Deferred<Rep, C> {
    fn clone(&self) -> Self {
        Self { asked: self.asked.clone(), types: PhantomData }
    }
}

impl<Rep, C> PartialEq for Deferred<Rep, C> {
    fn eq(&self, other: &Self) -> bool {
        self.asked == other.asked
    }
}

impl<Rep, C> Eq for Deferred<Rep, C> {}

impl<Rep, C> Serialize for Deferred<Rep, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.asked.serialize(serializer)
    }
}

impl<'de, Rep, C> Deserialize<'de> for Deferred<Rep, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { asked: Asked::deserialize(deserializer)?, types: PhantomData })
    }
}

impl<Rep, C> fmt::Debug for Deferred<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("operation", &self.asked.operation)
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}
