//! Where a message goes, in the terms of the wire contract.

use std::time::Duration;

use crate::{Address, ReplyTo, Service, Topic};

/// Where a message goes.
///
/// | route | exchange | must reach somebody |
/// |---|---|---|
/// | [`Address`](Self::Address) | `gear`, the address as key | yes |
/// | [`Reply`](Self::Reply) | `gear.reply`, or the default exchange for a foreign queue | yes, except to `amq.rabbitmq.reply-to.*` |
/// | [`Event`](Self::Event) | `gear.events`, the topic as key | no |
/// | [`Delayed`](Self::Delayed) | `gear.retry.MS`, the queue as key | yes |
/// | [`Dead`](Self::Dead) | `gear.dead`, the service as key | yes |
/// | [`Queue`](Self::Queue) | the default exchange, the queue as key | yes |
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Route<'a> {
    /// To services.
    Address(&'a Address),
    /// To who asked.
    Reply(&'a ReplyTo),
    /// To every group with a pattern that matches.
    Event(&'a Topic),
    /// To a queue by its name, after a while.
    Delayed {
        /// How long the broker holds it, in the queue for this delay; whole milliseconds count.
        delay: Duration,
        /// By how much sooner this one may leave: what was sent together need not come back together. It
        /// waits for those that were sent before it with the same delay, all the same.
        jitter: Duration,
        /// The queue that it then goes to.
        queue: &'a str,
    },
    /// To the messages of a service that were set aside.
    Dead(&'a Service),
    /// To a queue by its name, whatever is bound to it: back to where a message was set aside from.
    Queue(&'a str),
}
