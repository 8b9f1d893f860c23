//! AMQP properties to a message. Every property is optional: a bare body with a key is a valid
//! cast.

use std::time::Duration;

use bytes::Bytes;
use gear_api::{Headers, Id, Kind, Message, Text, Timestamp, topology::header};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{Names, value};

/// What a message without `gear-kind` is, from where it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Requests,
    /// The queue of a service, but not through the entry: requests that were held back, and answers
    /// that any instance may take.
    Either,
    Replies,
    Events,
}

/// Reads messages. Consecutive ones mostly have the same operation, sender and key: those texts
/// are shared.
pub(crate) struct Decoder<'n> {
    names: &'n Names,
    operation: Text,
    content_type: Text,
    sender: Text,
    key: Text,
}

impl<'n> Decoder<'n> {
    pub(crate) fn new(names: &'n Names) -> Self {
        let empty = || Text::EMPTY;
        Self { names, operation: empty(), content_type: empty(), sender: empty(), key: empty() }
    }

    /// A routing key.
    pub(crate) fn key(&mut self, key: &str) -> Text {
        shared(&mut self.key, key)
    }

    /// A message as it was received at `now`, which is asked only if it matters.
    pub(crate) fn decode(
        &mut self,
        properties: &BasicProperties,
        body: Vec<u8>,
        origin: Origin,
        now: impl FnOnce() -> Timestamp,
    ) -> Message {
        // What is empty says nothing.
        let id = |value: &Option<ShortString>| {
            value.as_ref().map(ShortString::as_str).filter(|text| !text.is_empty()).map(Id::from)
        };
        let correlation = id(properties.correlation_id());
        let reply_to = properties.reply_to().as_ref().filter(|to| !to.as_str().is_empty());

        let mut headers = Headers::new();
        let (mut kind, mut deadline, mut error) = (None, None, None);
        let (mut attempt, mut hops) = (0, 0);
        for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
            match name.as_str() {
                header::KIND => kind = words(value).and_then(Kind::from_wire),
                header::DEADLINE => deadline = number(value).map(Timestamp::from_unix_ms),
                header::ATTEMPT => attempt = count(value),
                header::HOPS => hops = count(value),
                header::ERROR => error = words(value).map(Text::from),
                // What does not fit is not read: a foreign program may send whatever it likes.
                name => drop(headers.insert_reserved(name.into(), value::from_amqp(value))),
            }
        }
        let kind = kind.unwrap_or(match origin {
            Origin::Replies => Kind::Reply,
            Origin::Events => Kind::Event,
            Origin::Requests | Origin::Either if reply_to.is_some() => Kind::Call,
            Origin::Either if correlation.is_some() => Kind::Reply,
            Origin::Requests | Origin::Either => Kind::Cast,
        });
        // The clocks of two hosts differ: nobody may have more time than the broker gives.
        let expires = properties.expiration().as_ref().and_then(|ms| ms.as_str().parse().ok());
        let expires = expires.map(|ms| now() + Duration::from_millis(ms));
        let deadline = match (deadline, expires) {
            (Some(deadline), Some(expires)) => Some(expires.min(deadline)),
            (deadline, expires) => deadline.or(expires),
        };
        Message::builder(kind, text(&mut self.operation, properties.kind()))
            .body(Bytes::from(body))
            .content_type(text(&mut self.content_type, properties.content_type()))
            .id(id(properties.message_id()))
            .correlation(correlation)
            .reply_to(reply_to.map(|to| self.names.read_reply_to(to.as_str())))
            .sender(text(&mut self.sender, properties.app_id()))
            .sent_at(
                properties.timestamp().map(|s| Timestamp::from_unix_ms(s.saturating_mul(1000))),
            )
            .deadline(deadline)
            .durable(*properties.delivery_mode() == Some(2))
            .attempt(attempt)
            .hops(hops)
            .error(error)
            .headers(headers)
            .build()
    }
}

/// A property that was mostly the same in the message before.
fn text(last: &mut Text, value: &Option<ShortString>) -> Text {
    value.as_ref().map_or(Text::EMPTY, |value| shared(last, value.as_str()))
}

fn shared(last: &mut Text, value: &str) -> Text {
    if last.as_str() != value {
        *last = Text::from(value);
    }
    last.clone()
}

fn words(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> Option<u64> {
    let number = match value::from_amqp(value) {
        gear_api::HeaderValue::Int(number) => u64::try_from(number).ok(),
        gear_api::HeaderValue::Time(seconds) => seconds.checked_mul(1000),
        _ => None,
    };
    number.or_else(|| words(value)?.parse().ok())
}

fn count(value: &AMQPValue) -> u32 {
    number(value).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NotEncodable, Purpose, encode};
    use gear_api::{HeaderValue, ReplyTo};

    fn decode(
        properties: &BasicProperties,
        body: Vec<u8>,
        origin: Origin,
        names: &Names,
        now: impl FnOnce() -> Timestamp,
    ) -> Message {
        Decoder::new(names).decode(properties, body, origin, now)
    }

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

    fn bare(origin: Origin) -> Message {
        decode(&BasicProperties::default(), b"x".to_vec(), origin, &Names::new(""), || NOW)
    }

    #[test]
    fn a_bare_message_is_what_its_place_says() {
        assert_eq!(bare(Origin::Requests).kind(), Kind::Cast);
        assert_eq!(bare(Origin::Replies).kind(), Kind::Reply);
        assert_eq!(bare(Origin::Events).kind(), Kind::Event);
        let properties = BasicProperties::default().with_reply_to("amq.gen-1".into());
        let names = Names::new("");
        let call = decode(&properties, Vec::new(), Origin::Requests, &names, || NOW);
        assert_eq!(call.kind(), Kind::Call);
        assert_eq!(call.reply_to(), Some(&ReplyTo::queue("amq.gen-1")));
        // A foreign program answers with the correlation id alone.
        assert_eq!(bare(Origin::Either).kind(), Kind::Cast);
        let kind = |properties: &BasicProperties, origin| {
            decode(properties, Vec::new(), origin, &names, || NOW).kind()
        };
        assert_eq!(kind(&properties, Origin::Either), Kind::Call);
        let empty = BasicProperties::default().with_correlation_id("".into());
        let empty = empty.with_message_id("".into()).with_reply_to("".into());
        let message = decode(&empty, Vec::new(), Origin::Either, &names, || NOW);
        assert_eq!((message.kind(), message.id(), message.correlation()), (Kind::Cast, None, None));
        let properties = BasicProperties::default().with_correlation_id("call-1".into());
        assert_eq!(kind(&properties, Origin::Either), Kind::Reply);
        assert_eq!(kind(&properties, Origin::Requests), Kind::Cast);
    }

    #[test]
    fn a_full_message_comes_back() {
        let names = Names::new("acme");
        let message = Message::builder(Kind::Call, "search")
            .body("{}")
            .content_type("application/json")
            .id(Id::from("m-1"))
            .correlation(Id::from("0199d9a4-7b3c-7000-8000-000000000001"))
            .reply_to(ReplyTo::queue("WEB.h1:reply.1"))
            .sender("WEB.h1")
            .sent_at(Timestamp::from_unix_ms(1_800_000_000_000))
            .deadline(NOW + Duration::from_secs(2))
            .durable(true)
            .attempt(3)
            .hops(2)
            .error(Text::from("oops"))
            .header("tenant", "acme")
            .unwrap()
            .header("n", HeaderValue::Int(7))
            .unwrap()
            .build();
        let properties = encode(&message, &names, Some("guest"), Purpose::Request, || NOW).unwrap();
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "2000");
        assert_eq!(properties.reply_to().as_ref().unwrap().as_str(), "acme/WEB.h1:reply.1");
        let back = decode(&properties, b"{}".to_vec(), Origin::Requests, &names, || NOW);
        // Headers come back in the order of their names.
        let sorted = ["n", "tenant"];
        assert!(back.headers().iter().map(|(name, _)| name).eq(sorted));
        let mut same = back.to_builder();
        *same.headers_mut() = message.headers().clone();
        assert_eq!(same.build(), message);
    }

    #[test]
    fn only_a_plain_cast_does_not_say_what_it_is() {
        let names = Names::new("");
        let correlated = |builder: gear_api::MessageBuilder| builder.correlation(Id::from("c"));
        let asking = |builder: gear_api::MessageBuilder| builder.reply_to(ReplyTo::queue("q"));
        for kind in [Kind::Cast, Kind::Call, Kind::Reply, Kind::Event] {
            let plain = Message::builder(kind, "x");
            let shapes = [plain.clone(), correlated(plain.clone()), asking(plain)];
            for (n, message) in shapes.map(gear_api::MessageBuilder::build).iter().enumerate() {
                for (purpose, origins) in [
                    (Purpose::Request, [Origin::Requests, Origin::Either]),
                    (Purpose::Event, [Origin::Events; 2]),
                    (Purpose::Answer, [Origin::Replies, Origin::Either]),
                    (Purpose::Storage { expires: None }, [Origin::Either, Origin::Events]),
                ] {
                    let properties = encode(message, &names, None, purpose, || NOW).unwrap();
                    let bare = kind == Kind::Cast && n == 0 && purpose == Purpose::Request;
                    assert_eq!(properties.headers().is_none(), bare, "{message:?} {purpose:?}");
                    for origin in origins {
                        let back = decode(&properties, Vec::new(), origin, &names, || NOW);
                        assert_eq!(back.kind(), kind, "{message:?} {purpose:?} {origin:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_has_more_time_than_the_broker_gives() {
        let names = Names::new("");
        let message =
            Message::builder(Kind::Call, "x").deadline(NOW + Duration::from_secs(5)).build();
        let properties = encode(&message, &names, None, Purpose::Request, || NOW).unwrap();
        // The receiver's clock is 3 s behind, or 3 s ahead.
        let behind = Timestamp::from_unix_ms(NOW.unix_ms() - 3_000);
        let ahead = NOW + Duration::from_secs(3);
        let at = |now| decode(&properties, Vec::new(), Origin::Requests, &names, || now).deadline();
        assert_eq!(at(behind), Some(behind + Duration::from_secs(5)));
        assert_eq!(at(ahead), Some(NOW + Duration::from_secs(5)));
    }

    #[test]
    fn what_is_too_late_or_too_long_is_not_written() {
        let names = Names::new("");
        let late = Message::builder(Kind::Cast, "x").deadline(NOW).build();
        assert_eq!(
            encode(&late, &names, None, Purpose::Request, || NOW).unwrap_err(),
            NotEncodable::TooLate
        );
        assert!(encode(&late, &names, None, Purpose::Storage { expires: None }, || NOW).is_ok());
        let reply = encode(&late, &names, None, Purpose::Answer, || NOW).unwrap();
        assert_eq!(reply.expiration().as_ref().unwrap().as_str(), "0");
        let long = Message::builder(Kind::Cast, "x".repeat(256)).build();
        assert!(encode(&long, &names, None, Purpose::Request, || NOW).is_err());
    }

    #[test]
    fn what_a_broker_added_is_not_sent_on() {
        let names = Names::new("");
        let mut builder = Message::builder(Kind::Cast, "x");
        for name in ["x-death", "CC", "gear-dead-reason"] {
            builder.headers_mut().insert_reserved(name.into(), "v".into()).unwrap();
        }
        let properties = encode(&builder.build(), &names, None, Purpose::Request, || NOW).unwrap();
        let headers = properties.headers().as_ref().unwrap().inner();
        assert!(headers.contains_key("gear-dead-reason"));
        assert!(!headers.contains_key("x-death") && !headers.contains_key("CC"));
    }

    #[test]
    fn odd_values_of_our_headers_do_no_harm() {
        let mut table = lapin::types::FieldTable::default();
        table.insert(header::KIND.into(), AMQPValue::LongString("nonsense".into()));
        table.insert(header::DEADLINE.into(), AMQPValue::LongString("12".into()));
        table.insert(header::ATTEMPT.into(), AMQPValue::LongLongInt(-1));
        table.insert(header::HOPS.into(), AMQPValue::LongLongInt(i64::MAX));
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_expiration("soon".into())
            .with_timestamp(u64::MAX);
        let message = decode(&properties, Vec::new(), Origin::Requests, &Names::new(""), || NOW);
        assert_eq!((message.kind(), message.attempt(), message.hops()), (Kind::Cast, 0, 0));
        assert_eq!(message.deadline(), Some(Timestamp::from_unix_ms(12)));
    }
}
