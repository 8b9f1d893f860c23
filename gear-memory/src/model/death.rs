//! The history of a message that was dead-lettered: the headers `x-death`, `x-first-death-…` and
//! `x-last-death-…`.

use gear_api::{HeaderValue, Message, Text};

/// Why a message was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// Its time, or the queue's, was over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It came back too often.
    DeliveryLimit,
}

impl DeathReason {
    /// The word in `x-death`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

const HEADER: &str = "x-death";

fn field<'a>(death: &'a HeaderValue, name: &str) -> Option<&'a HeaderValue> {
    match death {
        HeaderValue::Table(fields) => fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v),
        _ => None,
    }
}

fn is(death: &HeaderValue, name: &str, text: &str) -> bool {
    field(death, name).and_then(HeaderValue::as_str) == Some(text)
}

fn deaths(message: &Message) -> &[HeaderValue] {
    match message.headers().get(HEADER) {
        Some(HeaderValue::List(deaths)) => deaths,
        _ => &[],
    }
}

/// Whether a dead letter would come round to `queue` without anybody having rejected it
/// since it was there: RabbitMQ keeps it out then, or it would go round for ever.
pub(crate) fn is_cycle(message: &Message, queue: &str) -> bool {
    let deaths = deaths(message);
    let Some(last) = deaths.iter().position(|death| is(death, "queue", queue)) else {
        return false;
    };
    !deaths[..=last].iter().any(|death| is(death, "reason", DeathReason::Rejected.as_str()))
}

/// The message as it arrives at the dead-letter exchange: one entry for each
/// (queue, reason), the latest first, with a count.
pub(crate) fn mark(
    message: &Message,
    queue: &Text,
    reason: DeathReason,
    exchange: &Text,
    key: &Text,
) -> Message {
    let mut history = deaths(message).to_vec();
    let earlier = history
        .iter()
        .position(|death| is(death, "queue", queue) && is(death, "reason", reason.as_str()))
        .map(|at| history.remove(at));
    let count = earlier.as_ref().and_then(|death| field(death, "count")?.as_int()).unwrap_or(0);
    let text = |text: &Text| HeaderValue::Text(text.clone());
    history.insert(
        0,
        HeaderValue::Table(vec![
            (Text::from_static("count"), HeaderValue::Int(count + 1)),
            (Text::from_static("reason"), Text::from_static(reason.as_str()).into()),
            (Text::from_static("queue"), text(queue)),
            (Text::from_static("exchange"), text(exchange)),
            (Text::from_static("routing-keys"), HeaderValue::List(vec![text(key)])),
        ]),
    );
    let mut marked = message.to_builder();
    let headers = marked.headers_mut();
    // Headers that are full already lose the history, not the message.
    let _ = headers.insert_reserved(Text::from_static(HEADER), HeaderValue::List(history));
    let reason = Text::from_static(reason.as_str());
    for (first, last, value) in [
        ("x-first-death-reason", "x-last-death-reason", &reason),
        ("x-first-death-queue", "x-last-death-queue", queue),
        ("x-first-death-exchange", "x-last-death-exchange", exchange),
    ] {
        if headers.get(first).is_none() {
            let _ = headers.insert_reserved(Text::from_static(first), text(value));
        }
        let _ = headers.insert_reserved(Text::from_static(last), text(value));
    }
    marked.build()
}
