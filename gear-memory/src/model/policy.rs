//! Limits that an operator sets on queues, as RabbitMQ's policies.

use std::time::Duration;

/// What a full queue does with one message more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Drops its oldest message.
    #[default]
    DropHead,
    /// Refuses the new one: its publisher gets
    /// [`PublishError::Refused`](gear_api::PublishError::Refused).
    RejectPublish,
}

/// Limits that an operator sets on queues. No limit by default.
///
/// ```
/// use gear_memory::{Overflow, Policy};
/// use std::time::Duration;
///
/// let policy = Policy::new()
///     .max_length(1_000)
///     .overflow(Overflow::RejectPublish)
///     .message_ttl(Duration::from_secs(60));
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pub(crate) max_length: Option<u32>,
    pub(crate) overflow: Overflow,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) delivery_limit: Option<u32>,
}

impl Policy {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many messages that wait; unsettled ones do not count.
    #[must_use]
    pub fn max_length(mut self, messages: u32) -> Self {
        self.max_length = Some(messages);
        self
    }

    /// What happens to one more.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Messages expire after so long, at the head of the queue.
    #[must_use]
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.message_ttl = Some(ttl);
        self
    }

    /// For quorum queues ([`queue_type`](crate::MemoryBrokerBuilder::queue_type)): a message
    /// that comes back as a failure more often than this is dropped, by way of the dead-letter
    /// exchange where its queue has one. As RabbitMQ 4.3 counts: deliveries that were dropped or
    /// whose connection was lost are failures, those that were given back are not.
    #[must_use]
    pub fn delivery_limit(mut self, failures: u32) -> Self {
        self.delivery_limit = Some(failures);
        self
    }
}
