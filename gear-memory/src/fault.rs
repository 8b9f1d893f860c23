//! Faults on demand: what a test needs and a real broker can not give.

use std::{collections::VecDeque, time::Duration};

use gear_api::Pattern;

/// What goes wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerFault {
    /// The broker refuses it: [`PublishError::Refused`](gear_api::PublishError::Refused).
    Refuse,
    /// The broker stores it, but the answer is lost: the publisher gets
    /// [`PublishError::Unknown`](gear_api::PublishError::Unknown) at the message's
    /// deadline, or after 30 s, or at once if the connection is closed. If it is cut, the message
    /// is sent again when it is back, as with RabbitMQ: so it may be there twice, and this time its
    /// publisher gets an answer.
    LoseConfirm,
    /// The broker confirms it and loses it.
    LoseMessage,
    /// It is delivered twice, as after a retry whose first try had arrived.
    Duplicate,
    /// It reaches its queues so much later.
    Delay(Duration),
}

/// Which messages a [`BrokerFault`] hits: the next one, unless it says more.
///
/// ```
/// use gear_api::Pattern;
/// use gear_memory::{BrokerFault, Injection, MemoryBroker};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let broker = MemoryBroker::new();
/// broker.inject(BrokerFault::Refuse); // the next message, whatever it is
/// broker.inject(Injection::new(BrokerFault::Duplicate).on(Pattern::new("CTRL")).times(3));
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    fault: BrokerFault,
    keys: Pattern,
    times: u32,
}

impl Injection {
    /// Hits the next message.
    #[must_use]
    pub fn new(fault: BrokerFault) -> Self {
        Self { fault, keys: Pattern::ALL, times: 1 }
    }

    /// Hits only messages whose routing key this matches.
    #[must_use]
    pub fn on(mut self, keys: Pattern) -> Self {
        self.keys = keys;
        self
    }

    /// Hits so many messages.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

impl From<BrokerFault> for Injection {
    fn from(fault: BrokerFault) -> Self {
        Self::new(fault)
    }
}

/// The faults that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults(VecDeque<Injection>);

impl Faults {
    pub(crate) fn add(&mut self, injection: Injection) {
        if injection.times > 0 {
            self.0.push_back(injection);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fault that hits a message with this key: the oldest that fits.
    pub(crate) fn next(&mut self, key: &str) -> Option<BrokerFault> {
        let at = self.0.iter().position(|injection| injection.keys.matches(key))?;
        let injection = &mut self.0[at];
        injection.times -= 1;
        let fault = injection.fault;
        if injection.times == 0 {
            self.0.remove(at);
        }
        Some(fault)
    }
}
