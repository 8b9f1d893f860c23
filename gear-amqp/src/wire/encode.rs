//! A message to AMQP properties.

use std::time::Duration;

use gear_api::{Kind, Message, Text, Timestamp, topology::header};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::{Names, value};

/// Why a message can not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotEncodable {
    /// Its deadline has passed.
    TooLate,
    /// A property or a header is longer than the wire allows.
    TooLong(&'static str),
    /// Its properties and headers take more than one frame of the connection.
    FrameTooSmall { bytes: usize, limit: usize },
}

/// The bytes of one property: a short string of AMQP 0-9-1 (section 4.2.5.3).
fn short(what: &'static str, text: impl Into<String>) -> Result<ShortString, NotEncodable> {
    ShortString::try_new(text).map_err(|_| NotEncodable::TooLong(what))
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// What a message is sent for: how long the broker keeps it, and whether it must say what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be handled, before its deadline; one that has passed is an error. What comes through the
    /// entry and says nothing of itself is a cast, so a plain cast does not say it: its first header
    /// costs the broker, and the clients at both ends, a tenth of what the message costs.
    Request,
    /// As a request, but what says nothing of itself among events is an event.
    Event,
    /// To whoever asked. After the deadline it still reaches whoever takes it at once: it is of no use
    /// any more, but its caller may want to know how late it is.
    Answer,
    /// To be held back or set aside: its deadline does not end it, but it may leave before the queue
    /// sends it on.
    Storage { expires: Option<Duration> },
}

/// The properties of a message that is sent at `now`, which is asked only if it matters.
pub(crate) fn encode(
    message: &Message,
    names: &Names,
    user: Option<&str>,
    purpose: Purpose,
    now: impl FnOnce() -> Timestamp,
) -> Result<BasicProperties, NotEncodable> {
    let mut properties =
        BasicProperties::default().with_delivery_mode(if message.is_durable() { 2 } else { 1 });
    let set = |text: &Text| !text.is_empty();
    if set(message.operation()) {
        properties = properties.with_type(short("the operation", message.operation().as_str())?);
    }
    if set(message.content_type()) {
        let content_type = short("the content type", message.content_type().as_str())?;
        properties = properties.with_content_type(content_type);
    }
    if let Some(id) = message.id() {
        properties = properties.with_message_id(short("the message id", id.to_string())?);
    }
    if let Some(id) = message.correlation() {
        properties = properties.with_correlation_id(short("the correlation", id.to_string())?);
    }
    if let Some(to) = message.reply_to() {
        properties = properties.with_reply_to(short("reply_to", names.reply_to(to))?);
    }
    if set(message.sender()) {
        properties = properties.with_app_id(short("the sender", message.sender().as_str())?);
    }
    if let Some(at) = message.sent_at() {
        properties = properties.with_timestamp(at.unix_ms() / 1000);
    }
    if let Some(user) = user {
        properties = properties.with_user_id(short("the user", user)?);
    }
    let left = match (purpose, message.deadline()) {
        (Purpose::Storage { expires }, _) => expires,
        (_, deadline) => deadline.map(|deadline| deadline.since(now())),
    };
    if let Some(left) = left.map(|left| left.as_millis()) {
        if left == 0 && matches!(purpose, Purpose::Request | Purpose::Event) {
            return Err(NotEncodable::TooLate);
        }
        // RabbitMQ takes less than 2^32 ms.
        let left = left.min(u32::MAX.into());
        properties = properties.with_expiration(short("the expiration", left.to_string())?);
    }
    let headers = headers(message, purpose)?;
    Ok(if headers.inner().is_empty() { properties } else { properties.with_headers(headers) })
}

fn headers(message: &Message, purpose: Purpose) -> Result<FieldTable, NotEncodable> {
    let mut table = FieldTable::default();
    for (name, value) in message.headers().iter() {
        // What the broker has added on an earlier way is not ours to send on: `CC` would
        // multiply the message.
        if name.starts_with("x-") || name == "CC" || name == "BCC" {
            continue;
        }
        let too_long = NotEncodable::TooLong("a header");
        let value = value::to_amqp(value).ok_or(too_long)?;
        table.insert(short("a header", name)?, value);
    }
    let mut set = |name: &str, value: AMQPValue| {
        table.insert(ShortString::from(name), value);
    };
    // With one of these it would be taken for a call, or by some for an answer.
    let asks_nothing = message.reply_to().is_none() && message.correlation().is_none();
    if !(purpose == Purpose::Request && message.kind() == Kind::Cast && asks_nothing) {
        set(header::KIND, long(message.kind().as_str()));
    }
    if let Some(deadline) = message.deadline() {
        let ms = i64::try_from(deadline.unix_ms()).unwrap_or(i64::MAX);
        set(header::DEADLINE, AMQPValue::LongLongInt(ms));
    }
    if message.attempt() > 0 {
        set(header::ATTEMPT, AMQPValue::LongLongInt(message.attempt().into()));
    }
    if message.hops() > 0 {
        set(header::HOPS, AMQPValue::LongLongInt(message.hops().into()));
    }
    if let Some(error) = message.error() {
        set(header::ERROR, long(error));
    }
    Ok(table)
}
