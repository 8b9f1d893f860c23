//! A request that is answered later, by whoever holds the right to.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use super::{Client, NotSent, RemoteError, Sending, asked::Asked, call};
use crate::{
    CastError, Codec, Fault, Id, Json, PublishError, ReplyTo, Route, Text, Timestamp, clock::after,
};

/// The right to answer a request, to be kept while it takes: in memory, in a file, in another message. Any
/// client of the same system answers with it, wherever it runs. What is saved does not say what `Rep` is: read
/// as another type, it makes answers that nobody can decode.
///
/// The request is forgotten once its handler has returned, so what is to outlive the process is saved
/// before. Nobody notices when it is lost: whoever asked then waits until the deadline, which
/// does not move. Of several answers to a call the first counts; reply handlers get all of them, with one id
/// ([`Deduplicate`](crate::Deduplicate) tells them apart from others). It is what it looks like: whoever can read it
/// can answer.
///
/// It is for calls. A cast that is put off is done with: nobody learns whether it fails later, and it is
/// neither tried again nor set aside.
///
/// From [`Caller::defer`](crate::Caller::defer), which has an example.
#[must_use = "whoever asked waits for the answer"]
pub struct Deferred<Rep, C = Json> {
    asked: Asked,
    /// None if no answer is wanted.
    reply_to: Option<ReplyTo>,
    types: PhantomData<fn(C) -> Rep>,
}

/// Its form in a store. Formats may know fields by their place: none is left out, and new ones come last.
#[derive(Serialize, Deserialize)]
struct Saved {
    operation: String,
    reply_to: Option<String>,
    correlation: Option<String>,
    /// Milliseconds since 1970.
    deadline: Option<u64>,
    answer_id: Option<String>,
    instance: Option<String>,
    #[serde(default)]
    handed_on: bool,
}

impl<Rep, C> Deferred<Rep, C> {
    pub(crate) fn of(asked: Asked, reply_to: Option<ReplyTo>) -> Self {
        Self { asked, reply_to, types: PhantomData }
    }

    /// What was asked.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.asked.operation
    }

    /// When the answer is of no more use to anybody.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.asked.deadline
    }

    /// Whether somebody waits for the answer: not if it was a cast.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        self.reply_to.is_some()
    }

    /// Answers. Awaiting it waits until the broker has the answer. To a cast nothing is sent.
    ///
    /// # Errors
    ///
    /// [`CastError::NotRouted`] if whoever asked is gone, which is final here, though `retry` says otherwise.
    /// [`CastError::NotSent`] if the deadline has passed; or if the answer has no encoded form or is too large,
    /// of which an [error](Self::fail) can still tell. [`CastError::Unknown`] if the broker did not confirm it
    /// within the client's `send_timeout`: then it may be sent again. [`CastError::Closed`].
    pub fn reply(&self, client: &Client, reply: &Rep) -> Sending
    where
        C: Codec<Rep>,
    {
        self.send(client, C::CONTENT_TYPE, call::encode::<Rep, C>(client.core(), reply), None)
    }

    /// Answers that it failed. What is behind the fault is not sent, and not logged either.
    ///
    /// # Errors
    ///
    /// As for [`reply`](Self::reply).
    pub fn fail(&self, client: &Client, fault: impl Into<Fault>) -> Sending {
        let fault = fault.into();
        let mut error = fault.shown().clone();
        error.retryable &= !self.asked.handed_on;
        if !self.wants_answer() {
            tracing::warn!(operation = %self.asked.operation, "a cast that was put off failed: {error}");
        }
        let send = |error: &RemoteError| {
            let code = Text::from(error.code.as_str());
            self.send(client, RemoteError::CONTENT_TYPE, Ok(error.to_body()), Some(code))
        };
        let sending = send(&error);
        match sending.failed() {
            Some(PublishError::TooLarge { .. }) => send(&error.shortened()),
            _ => sending,
        }
    }

    fn send(
        &self,
        client: &Client,
        content_type: Text,
        body: Result<Bytes, NotSent>,
        error: Option<Text>,
    ) -> Sending {
        let Some(to) = &self.reply_to else { return Sending::nothing() };
        let core = client.core();
        let too_late = self.asked.deadline.is_some_and(|deadline| deadline <= core.clock.now());
        let publish = match body {
            _ if core.pending.is_closed() => Err(CastError::Closed),
            _ if too_late => Err(CastError::NotSent(NotSent::TooLate)),
            Err(why) => Err(CastError::NotSent(why)),
            Ok(body) => {
                let answer = core.answer(self.asked.clone(), content_type, body, error);
                Ok(core.transport.send(Route::Reply(to), answer))
            }
        };
        let give_up = after(Instant::now(), core.settings.send_timeout);
        Sending::of_answer(&self.asked.operation, to, publish, give_up)
    }
}

// Not derived: that would ask the same of the types, of which it holds no value.
impl<Rep, C> Clone for Deferred<Rep, C> {
    fn clone(&self) -> Self {
        Self::of(self.asked.clone(), self.reply_to.clone())
    }
}

impl<Rep, C> PartialEq for Deferred<Rep, C> {
    fn eq(&self, other: &Self) -> bool {
        self.asked == other.asked && self.reply_to == other.reply_to
    }
}

impl<Rep, C> Eq for Deferred<Rep, C> {}

impl<Rep, C> Serialize for Deferred<Rep, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |id: &Id| id.to_string();
        Saved {
            operation: self.asked.operation.to_string(),
            reply_to: self.reply_to.as_ref().map(ToString::to_string),
            correlation: self.asked.correlation.as_ref().map(text),
            deadline: self.asked.deadline.map(Timestamp::unix_ms),
            answer_id: self.asked.answer_id.as_ref().map(text),
            instance: self.asked.instance.as_ref().map(ToString::to_string),
            handed_on: self.asked.handed_on,
        }
        .serialize(serializer)
    }
}

impl<'de, Rep, C> Deserialize<'de> for Deferred<Rep, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let saved = Saved::deserialize(deserializer)?;
        let id = |text: String| Id::from(text.as_str());
        let asked = Asked {
            operation: saved.operation.into(),
            correlation: saved.correlation.map(id),
            deadline: saved.deadline.map(Timestamp::from_unix_ms),
            answer_id: saved.answer_id.map(id),
            instance: saved.instance.map(Text::from),
            handed_on: saved.handed_on,
        };
        Ok(Self::of(asked, saved.reply_to.map(ReplyTo::queue)))
    }
}

impl<Rep, C> fmt::Debug for Deferred<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("operation", &self.asked.operation)
            .field("deadline", &self.asked.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that were saved before an update are answered after it.
    #[test]
    fn its_form_in_a_store_stays() {
        let all = r#"{"operation":"buy","reply_to":"WEB.h1:reply.7","correlation":"0199d9a4-7b3c-7000-8000-000000000001","deadline":1800000000000,"answer_id":"a-1","instance":"SHOP.h1","handed_on":true}"#;
        let deferred: Deferred<u64> = serde_json::from_str(all).unwrap();
        assert_eq!((deferred.operation(), deferred.wants_answer()), ("buy", true));
        assert_eq!(deferred.deadline(), Some(Timestamp::from_unix_ms(1_800_000_000_000)));
        assert_eq!(serde_json::to_string(&deferred).unwrap(), all);
        let least = r#"{"operation":"buy","what comes later":1}"#;
        let deferred: Deferred<u64> = serde_json::from_str(least).unwrap();
        assert!(!deferred.wants_answer());
        // Every field has a place.
        let nulls = r#"{"operation":"buy","reply_to":null,"correlation":null,"deadline":null,"answer_id":null,"instance":null,"handed_on":false}"#;
        assert_eq!(serde_json::to_string(&deferred).unwrap(), nulls);
    }
}
