//! What happened in the broker, to be read when an assertion fails.

use std::{collections::VecDeque, fmt, time::Duration};

use gear_api::{Id, Kind, Message, Text, Verdict};
use tokio::time::Instant;

use crate::model::DeathReason;

/// One thing that happened, and when: the time since the broker was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Since the broker was made.
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

/// What happens in a broker.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A message was published, and stored in these queues.
    Published {
        /// The exchange.
        exchange: Text,
        /// The routing key.
        key: Text,
        /// What it was.
        message: Label,
        /// The queues; none if it was not routed.
        queues: Vec<Text>,
    },
    /// A message went to a consumer.
    Delivered {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// Whether it may have been delivered before.
        redelivered: bool,
    },
    /// A consumer settled a message.
    Settled {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// How.
        verdict: Verdict,
    },
    /// A message expired, was rejected, or had no more room.
    Died {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// Why.
        reason: DeathReason,
    },
    /// A connection was lost, or came back.
    Connection {
        /// The number of the connection, from 0 in the order of `connect`.
        number: u64,
        /// Whether it came back.
        up: bool,
    },
}

/// Enough of a message to know it again.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// What it is.
    pub kind: Kind,
    /// What is asked or answered.
    pub operation: Text,
    /// Its id.
    pub id: Option<Id>,
}

impl From<&Message> for Label {
    fn from(message: &Message) -> Self {
        Self {
            kind: message.kind(),
            operation: message.operation().clone(),
            id: message.id().cloned(),
        }
    }
}

impl Event {
    pub(crate) fn published(
        exchange: Text,
        key: Text,
        message: &Message,
        queues: Vec<Text>,
    ) -> Self {
        Self::Published { exchange, key, message: message.into(), queues }
    }

    pub(crate) fn delivered(queue: Text, message: &Message, redelivered: bool) -> Self {
        Self::Delivered { queue, message: message.into(), redelivered }
    }

    pub(crate) fn settled(queue: Text, message: &Message, verdict: Verdict) -> Self {
        Self::Settled { queue, message: message.into(), verdict }
    }

    pub(crate) fn died(queue: Text, message: &Message, reason: DeathReason) -> Self {
        Self::Died { queue, message: message.into(), reason }
    }
}

/// A ring of what happened last.
#[derive(Debug)]
pub(crate) struct Record {
    start: Instant,
    limit: usize,
    events: VecDeque<Recorded>,
}

impl Record {
    pub(crate) fn new(limit: usize, start: Instant) -> Self {
        Self { start, limit, events: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, now: Instant, event: Event) {
        if self.events.len() == self.limit {
            self.events.pop_front();
        }
        self.events.push_back(Recorded { at: now.duration_since(self.start), event });
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &Recorded> {
        self.events.iter()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.operation)?;
        match &self.id {
            Some(id) => write!(f, " [{id}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.3?}  ", self.at)?;
        match &self.event {
            Event::Published { exchange, key, message, queues } if queues.is_empty() => {
                write!(f, "publish  {message} to {exchange:?} {key}: nobody")
            }
            Event::Published { exchange, key, message, queues } => {
                write!(f, "publish  {message} to {exchange:?} {key}: {}", queues.join(", "))
            }
            Event::Delivered { queue, message, redelivered } => {
                let again = if *redelivered { " again" } else { "" };
                write!(f, "deliver  {message} from {queue}{again}")
            }
            Event::Settled { queue, message, verdict } => {
                write!(f, "settle   {message} from {queue}: {verdict:?}")
            }
            Event::Died { queue, message, reason } => {
                write!(f, "die      {message} in {queue}: {}", reason.as_str())
            }
            Event::Connection { number, up: true } => write!(f, "connect  {number}"),
            Event::Connection { number, up: false } => write!(f, "cut      {number}"),
        }
    }
}
