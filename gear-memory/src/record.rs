//! What happened in the broker, to be read when an assertion fails.

use std::{collections::VecDeque, fmt, time::Duration};

use gear_api::{Id, Kind, Message, Text, Verdict};
use tokio::time::Instant;

use crate::{fault::BrokerFault, model::DeathReason};

/// One thing that happened, and when. Shown, it is one line.
///
/// ```
/// use gear_api::{Client, CastError, Operation, Service};
/// use gear_memory::{Event, MemoryBroker};
///
/// const CTRL: Service = Service::new("CTRL");
/// const NOTE: Operation<String, ()> = Operation::new("note");
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::builder().seed(7).record(1_000).build();
/// let client = Client::builder(broker.connect(), "CLI.test".parse()?).start().await?;
/// let sent = client.cast(CTRL, NOTE, &"hello".to_owned()).await;
/// assert!(matches!(sent, Err(CastError::NotRouted)));
///
/// let recorded = broker.recorded();
/// // e.g. "  0.000ns  publish  cast note [019b…] to "gear" CTRL: nobody"
/// assert!(recorded[0].to_string().ends_with(r#"to "gear" CTRL: nobody"#));
/// assert!(matches!(&recorded[0].event, Event::Published { queues, .. } if queues.is_empty()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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
    /// A message was published.
    #[non_exhaustive]
    Published {
        /// The exchange.
        exchange: Text,
        /// The routing key.
        key: Text,
        /// What it was.
        message: Label,
        /// The queues that took it.
        queues: Vec<Text>,
        /// The queues that it was for and that refused it, because they were full. It was not
        /// routed if there are none of either.
        refused: Vec<Text>,
    },
    /// A message went to a consumer.
    #[non_exhaustive]
    Delivered {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// The number of the consumer's connection, from 0 in the order of `connect`.
        connection: u64,
        /// Whether it may have been delivered before.
        redelivered: bool,
    },
    /// A consumer settled a message.
    #[non_exhaustive]
    Settled {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// The number of the consumer's connection.
        connection: u64,
        /// How.
        verdict: Verdict,
    },
    /// A message expired, was rejected, or had no more room.
    #[non_exhaustive]
    Died {
        /// The queue that it was in.
        queue: Text,
        /// What it was.
        message: Label,
        /// Why.
        reason: DeathReason,
    },
    /// A connection was lost, or came back.
    #[non_exhaustive]
    Connection {
        /// The number of the connection, from 0 in the order of `connect`.
        number: u64,
        /// Whether it came back.
        up: bool,
    },
    /// A connection was closed by its owner.
    #[non_exhaustive]
    Closed {
        /// The number of the connection.
        number: u64,
    },
    /// A fault that was injected hit a message that was to be published.
    #[non_exhaustive]
    Fault {
        /// What went wrong.
        fault: BrokerFault,
        /// The routing key.
        key: Text,
        /// What it was.
        message: Label,
    },
    /// Publishers began to wait, or need not wait any more: an alarm, or the watermark.
    #[non_exhaustive]
    Blocked {
        /// Why they wait; none when they do not.
        why: Option<Text>,
    },
    /// The broker was restarted.
    #[non_exhaustive]
    Restarted {
        /// How many messages were lost because they were not durable.
        messages: usize,
    },
    /// A queue was deleted, expired, or went with its connection.
    #[non_exhaustive]
    QueueDeleted {
        /// Its name.
        queue: Text,
        /// How many messages went with it, those included that were not settled.
        messages: usize,
    },
}

/// Enough of a message to know it again.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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
        refused: Vec<Text>,
    ) -> Self {
        Self::Published { exchange, key, message: message.into(), queues, refused }
    }

    pub(crate) fn delivered(
        queue: Text,
        message: &Message,
        connection: u64,
        redelivered: bool,
    ) -> Self {
        Self::Delivered { queue, message: message.into(), connection, redelivered }
    }

    pub(crate) fn settled(
        queue: Text,
        message: &Message,
        connection: u64,
        verdict: Verdict,
    ) -> Self {
        Self::Settled { queue, message: message.into(), connection, verdict }
    }

    pub(crate) fn fault(fault: BrokerFault, key: Text, message: &Message) -> Self {
        Self::Fault { fault, key, message: message.into() }
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
            Event::Published { exchange, key, message, queues, refused } => {
                write!(f, "publish  {message} to {exchange:?} {key}: ")?;
                if queues.is_empty() {
                    f.write_str("nobody")?;
                }
                f.write_str(&queues.join(", "))?;
                if refused.is_empty() {
                    return Ok(());
                }
                write!(f, "; refused by {}", refused.join(", "))
            }
            Event::Delivered { queue, message, connection, redelivered } => {
                let again = if *redelivered { " again" } else { "" };
                write!(f, "deliver  {message} from {queue} to {connection}{again}")
            }
            Event::Settled { queue, message, connection, verdict } => {
                write!(f, "settle   {message} from {queue} by {connection}: {verdict:?}")
            }
            Event::Died { queue, message, reason } => {
                write!(f, "die      {message} in {queue}: {}", reason.as_str())
            }
            Event::Connection { number, up: true } => write!(f, "connect  {number}"),
            Event::Connection { number, up: false } => write!(f, "cut      {number}"),
            Event::Closed { number } => write!(f, "close    {number}"),
            Event::Fault { fault, key, message } => {
                write!(f, "fault    {message} to {key}: {fault:?}")
            }
            Event::Blocked { why: Some(why) } => write!(f, "block    {why}"),
            Event::Blocked { why: None } => f.write_str("unblock"),
            Event::Restarted { messages } => write!(f, "restart  {messages} messages lost"),
            Event::QueueDeleted { queue, messages } => {
                write!(f, "delete   {queue}: {messages} messages")
            }
        }
    }
}
