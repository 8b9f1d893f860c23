//! The headers that are the broker's own: a message does not take them along to its next way, as
//! with `gear-amqp`.

use gear_api::{HeaderValue, Message, Text};

/// The message as it is sent: `x-death` of an earlier way would be counted on.
#[inline]
pub(crate) fn to_send(message: Message) -> Message {
    if message.headers().iter().any(|(name, _)| is_brokers(name)) {
        return without_brokers(&message);
    }
    message
}

fn is_brokers(name: &str) -> bool {
    name.starts_with("x-") || name == "CC" || name == "BCC"
}

/// What a quorum queue says of a message that it delivers again: how often it came back, and how
/// often as a failure (RabbitMQ 4.3).
#[cold]
pub(crate) fn of_redelivery(message: &Message, returns: u32, failures: u32) -> Message {
    let mut builder = message.to_builder();
    for (name, count) in [("x-acquired-count", returns), ("x-delivery-count", failures)] {
        if count > 0 {
            let value = HeaderValue::Int(count.into());
            // Headers that are full already lose the count, not the message.
            let _ = builder.headers_mut().insert_reserved(Text::from_static(name), value);
        }
    }
    builder.build()
}

#[cold]
fn without_brokers(message: &Message) -> Message {
    let mut builder = message.to_builder();
    for (name, _) in message.headers().iter().filter(|(name, _)| is_brokers(name)) {
        builder.headers_mut().remove(name);
    }
    builder.build()
}
