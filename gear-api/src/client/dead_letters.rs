//! What a service has set aside: to be looked at, put back, or thrown away.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{CastError, Core};
use crate::{
    Address, Consumer, HeaderValue, Instance, Message, Publish, Route, Service, Settlement,
    SubscribeError, Subscription,
    topology::{RETRY_STEPS, header},
};

/// So many letters that nobody has decided about are shown at a time.
const PREFETCH: u16 = 1_000;

/// What a service has set aside, the oldest first, as a stream: see
/// [`Client::dead_letters`](super::Client::dead_letters).
///
/// A letter that is neither put back nor discarded stays where it is, and is not shown a second time by
/// this stream. Up to 1,000 such letters are shown; the next one comes when one of them is decided about. Dropping
/// the stream gives them back. Two streams of one service show each letter to one of them.
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
    /// queue is for. Awaiting it waits until the broker has it there; only then it leaves the dead
    /// letters. Events of a group are held for up to a second on their way.
    ///
    /// # Errors
    ///
    /// As a cast: [`CastError::NotRouted`] if there is no such queue any more. The letter then stays.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it may be in both places.
    pub async fn put_back(mut self) -> Result<(), CastError> {
        let mut message = self.message.to_builder();
        for name in [header::DEAD_REASON, header::DEAD_QUEUE] {
            message.headers_mut().remove(name);
        }
        let message = message.build();
        self.send(message).await.map_err(|error| CastError::of_publish(error, false))?;
        if let Some(settlement) = self.settlement.take() {
            settlement.ack();
        }
        Ok(())
    }

    fn send(&self, message: Message) -> Publish {
        let queue = self.queue();
        let address = match (queue.parse::<Service>(), queue.parse::<Instance>()) {
            (Ok(service), _) => Address::from(service),
            (_, Ok(instance)) => Address::from(instance),
            // The queue of a group has no address, but it does not go by itself, either.
            _ => {
                let delay = RETRY_STEPS[0];
                let route = Route::Delayed { delay, jitter: delay, queue };
                return self.core.transport.send(route, message);
            }
        };
        self.core.transport.send(Route::Address(&address), message)
    }

    /// Throws it away.
    pub fn discard(mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.ack();
        }
    }
}

impl Drop for DeadLetter {
    fn drop(&mut self) {
        let Some(settlement) = self.settlement.take() else { return };
        match self.undecided.upgrade() {
            Some(undecided) => {
                undecided.0.lock().unwrap_or_else(PoisonError::into_inner).push(settlement);
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
