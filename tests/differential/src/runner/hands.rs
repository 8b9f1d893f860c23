//! What one subscription gets, whichever way it comes.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use gear_api::{Consumer, Delivery, Message, ReplySink, ReplyTo};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::mark;
use crate::model::Number;

/// A subscription, as its node holds it.
pub(super) struct Hands {
    consumer: Consumer,
    /// Replies come this way.
    replies: Option<UnboundedReceiver<Message>>,
}

/// What came.
pub(super) struct Got {
    pub(super) number: Number,
    pub(super) key: String,
    pub(super) redelivered: bool,
    /// None for a reply.
    pub(super) delivery: Option<Delivery>,
}

impl Hands {
    pub(super) fn new(consumer: Consumer, replies: Option<UnboundedReceiver<Message>>) -> Self {
        Self { consumer, replies }
    }

    pub(super) async fn next(&mut self) -> Option<Got> {
        match &mut self.replies {
            Some(replies) => replies.recv().await.map(|reply| Got::reply(&reply)),
            None => self.consumer.next().await.map(Got::delivery),
        }
    }

    pub(super) fn try_next(&mut self) -> Option<Got> {
        match &mut self.replies {
            Some(replies) => replies.try_recv().ok().map(|reply| Got::reply(&reply)),
            None => self.consumer.try_next().map(Got::delivery),
        }
    }

    /// Stops, and returns what came all the same.
    pub(super) async fn stop(&mut self) -> Option<Got> {
        self.consumer.stop();
        self.consumer.next().await.map(Got::delivery)
    }
}

impl Got {
    fn delivery(delivery: Delivery) -> Self {
        Self {
            number: number(delivery.message()),
            key: delivery.key().to_string(),
            redelivered: delivery.is_redelivered(),
            delivery: Some(delivery),
        }
    }

    fn reply(reply: &Message) -> Self {
        Self { number: number(reply), key: String::new(), redelivered: false, delivery: None }
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{} under {}{}", self.number, self.key, mark(self.redelivered))
    }
}

/// Messages are numbered from 1; 0 is none of them.
fn number(message: &Message) -> Number {
    std::str::from_utf8(message.body()).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Takes replies, and says where.
struct Sink {
    replies: UnboundedSender<Message>,
    at: Arc<Listening>,
}

/// Where replies are taken.
#[derive(Default)]
pub(super) struct Listening(Mutex<Option<ReplyTo>>);

impl Listening {
    pub(super) fn take(&self) -> Option<ReplyTo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ReplySink for Sink {
    fn listening(&self, at: ReplyTo) {
        *self.at.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn deliver(&self, reply: Message) {
        let _ = self.replies.send(reply);
    }
}

pub(super) fn sink() -> (Arc<dyn ReplySink>, UnboundedReceiver<Message>, Arc<Listening>) {
    let (replies, receiver) = unbounded_channel();
    let at = Arc::<Listening>::default();
    (Arc::new(Sink { replies, at: Arc::clone(&at) }), receiver, at)
}
