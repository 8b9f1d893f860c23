//! What a service has set aside: to be looked at, put back, or thrown away.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::time::Instant;

use super::{CastError, Core, NotSent, Sending};
use crate::{
    Consumer, HeaderValue, Kind, Message, Route, Service, Settlement, SubscribeError, Subscription,
    Text, clock::after, topology::header,
};

/// So many letters that nobody has decided about are shown at a time.
const PREFETCH: u16 = 1_000;

/// What a service has set aside, the oldest first, as a stream: see
/// [`Client::dead_letters`](super::Client::dead_letters).
///
/// A letter that is neither put back nor discarded stays where it is, and is not shown a second time by
/// this stream, unless the connection is lost: then all that are left come again. Up to 1,000 such letters are shown;
/// the next one comes when one of them is decided about. Dropping the stream gives them back. Two streams of one
/// service show each letter to one of them. RabbitMQ loses patience with who looks at one for half an hour, and
/// shows it again.
///
/// # Cancel safety
///
/// Dropped before `next` returns, no letter is lost.
pub struct DeadLetters {
    core: Arc<Core>,
    service: Service,
    consumer: Consumer,
    undecided: Arc<Undecided>,
}

/// What is given back when nobody looks any more: before that it would be shown again and again.
#[derive(Default)]
struct Undecided(Mutex<Vec<Settlement>>);

impl Drop for Undecided {
    fn drop(&mut self) {
        let settlements = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        settlements.drain(..).for_each(Settlement::requeue);
    }
}

impl DeadLetters {
    pub(super) async fn open(core: &Arc<Core>, service: &Service) -> Result<Self, SubscribeError> {
        let subscription = Subscription::Dead { service: service.clone(), prefetch: PREFETCH };
        Ok(Self {
            core: Arc::clone(core),
            service: service.clone(),
            consumer: core.transport.subscribe(subscription).await?,
            undecided: Arc::default(),
        })
    }

    /// The next letter, when there is one; none when the client is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, no letter is lost.
    pub async fn next(&mut self) -> Option<DeadLetter> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for DeadLetters {
    type Item = DeadLetter;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DeadLetter>> {
        Pin::new(&mut self.consumer).poll_next(cx).map(|delivery| {
            let (message, settlement) = delivery?.into_parts();
            Some(DeadLetter {
                core: Arc::clone(&self.core),
                service: self.service.clone(),
                undecided: Arc::downgrade(&self.undecided),
                message,
                settlement: Some(settlement),
            })
        })
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("service", &self.service).finish_non_exhaustive()
    }
}

/// A cast, an event or an answer that failed for good. Dropped, it stays where it is.
#[must_use = "it stays where it is until it is put back or discarded"]
pub struct DeadLetter {
    core: Arc<Core>,
    service: Service,
    undecided: Weak<Undecided>,
    message: Message,
    settlement: Option<Settlement>,
}

impl DeadLetter {
    /// The message, with the headers that say why it is here.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Why it was set aside; empty if that is not said.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.header(header::DEAD_REASON).unwrap_or_default()
    }

    /// The queue that it came from; the service's if that is not said.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.header(header::DEAD_QUEUE).unwrap_or(self.service.as_str())
    }

    /// The key that it was sent under: an address, or the topic of an event.
    #[must_use]
    pub fn key(&self) -> &str {
        self.header(header::KEY).unwrap_or(self.queue())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.message.headers().get(name).and_then(HeaderValue::as_str)
    }

    /// Puts it back into the queue that it came from, where it is handled as if it were new, by whoever the
    /// queue is for. Awaiting it waits until the broker has it there, for the client's `send_timeout` at
    /// most; only then it leaves the dead letters. A program that ends after that closes its client first, so
    /// that the broker learns of it.
    ///
    /// # Errors
    ///
    /// As a cast: [`CastError::NotRouted`] if there is no such queue any more. [`NotSent::Unavailable`] if
    /// the connection that it came by is gone: then it is shown again. [`NotSent::Invalid`] if it is an event
    /// that does not say which queue it came from. With each of these it stays; with [`CastError::Unknown`] it
    /// may be in both places.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it may be in both places.
    pub async fn put_back(mut self) -> Result<(), CastError> {
        let gone = || Text::from_static("the connection that it came by is gone");
        if !self.settlement.as_ref().is_some_and(Settlement::is_open) {
            return Err(CastError::NotSent(NotSent::Unavailable(gone())));
        }
        if self.message.kind() == Kind::Event && self.header(header::DEAD_QUEUE).is_none() {
            let why = Text::from_static("it does not say which queue it came from");
            return Err(CastError::NotSent(NotSent::Invalid(why)));
        }
        let mut message = self.message.to_builder();
        for name in [header::DEAD_REASON, header::DEAD_QUEUE] {
            message.headers_mut().remove(name);
        }
        let publish = self.core.transport.send(Route::Queue(self.queue()), message.build());
        let give_up = after(Instant::now(), self.core.settings.send_timeout);
        Sending::untraced(publish, give_up).await?;
        match self.settlement.take() {
            Some(settlement) if settlement.is_open() => settlement.ack(),
            _ => return Err(CastError::Unknown(gone())),
        }
        Ok(())
    }

    /// Throws it away. Returns whether that counts: not if the connection that it came by is gone, since it is
    /// then shown again. A program that ends after that closes its client first.
    pub fn discard(mut self) -> bool {
        let Some(settlement) = self.settlement.take() else { return false };
        let counts = settlement.is_open();
        settlement.ack();
        counts
    }
}

impl Drop for DeadLetter {
    fn drop(&mut self) {
        let Some(settlement) = self.settlement.take() else { return };
        match self.undecided.upgrade() {
            Some(undecided) => {
                let mut all = undecided.0.lock().unwrap_or_else(PoisonError::into_inner);
                // Those of a connection that is gone have come back by themselves.
                all.retain(Settlement::is_open);
                all.push(settlement);
            }
            None => settlement.requeue(),
        }
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("reason", &self.reason())
            .field("queue", &self.queue())
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
