//! The headers that are the broker's own: a message does not take them along to its next way, as
//! with `gear-amqp`.

use gear_api::Message;

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

#[cold]
fn without_brokers(message: &Message) -> Message {
    let mut builder = message.to_builder();
    for (name, _) in message.headers().iter().filter(|(name, _)| is_brokers(name)) {
        builder.headers_mut().remove(name);
    }
    builder.build()
}
