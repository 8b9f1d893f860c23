//! A stream of deliveries.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::task::coop::unconstrained;

use super::Delivery;
use crate::Text;

/// Why a consumer ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerEnd {
    /// [`Consumer::stop`] was called.
    #[error("it was stopped")]
    Stopped,
    /// The transport was closed.
    #[error("the connection was closed")]
    Closed,
    /// The broker ended it for good: after a reconnect, or after its queue was deleted, it refused
    /// to start it again, e.g. because another node has its name by now.
    #[error("the broker ended it: {0}")]
    Broker(Text),
}

/// Takes deliveries as they come; see [`Consumer::forward`].
///
/// **Requires** that it neither blocks nor handles anything itself: it may be called on the
/// stack of whoever publishes or settles.
pub trait DeliverySink: Send + Sync {
    /// A delivery.
    fn deliver(&self, delivery: Delivery);
}

/// What a backend gives to a [`Consumer`].
pub trait Source: Send {
    /// The next delivery, or why there will be none.
    ///
    /// **Behaves** as [`Stream::poll_next`], and keeps returning the reason once it ended.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, ConsumerEnd>>;

    /// Asks for no more deliveries. What was delivered and not taken goes back to the
    /// queue; then [`poll_next`](Self::poll_next) returns [`ConsumerEnd::Stopped`].
    fn stop(&mut self);

    /// Sends deliveries straight to `sink` from now on, if the backend can do that with less
    /// than a task in between; then [`poll_next`](Self::poll_next) returns only the end.
    /// Returns whether it does.
    ///
    /// **Behaves**: the sink has no more unsettled deliveries than the prefetch says, over all
    /// connections.
    fn forward(&mut self, sink: Arc<dyn DeliverySink>) -> bool {
        let _ = sink;
        false
    }
}

/// A stream of deliveries that survives reconnects, and the deletion of its queue.
///
/// Dropping it is stopping it. Deliveries that were taken from it stay settleable after
/// it ended, as long as the connection they came by lives. Those of a queue that was deleted
/// settle nothing.
pub struct Consumer {
    source: Box<dyn Source>,
    end: Option<ConsumerEnd>,
}

impl Consumer {
    /// A consumer of what `source` gives. For backends.
    #[must_use]
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), end: None }
    }

    /// The next delivery; none when it ended, and [`end`](Self::end) tells why.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, no delivery is lost.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// A delivery that is here already. Never waits.
    pub fn try_next(&mut self) -> Option<Delivery> {
        // Where it may be polled no more for now, there would seem to be nothing.
        let next = pin!(unconstrained(poll_fn(|cx| self.poll(cx))));
        match next.poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(delivery) => delivery,
            Poll::Pending => None,
        }
    }

    /// Asks for no more deliveries: what was not taken goes back, then the stream ends.
    pub fn stop(&mut self) {
        self.source.stop();
    }

    /// Lets deliveries go straight to `sink`, if the backend can. Returns whether it can; if
    /// not, nothing changes. Either way the consumer is to be polled on for its end.
    ///
    /// Deliveries may still come for a moment after [`stop`](Self::stop). The sink never has more
    /// unsettled ones than the prefetch says, those of lost connections and deleted queues included:
    /// settling them, which means nothing to the broker any more, makes room for others.
    pub fn forward(&mut self, sink: Arc<dyn DeliverySink>) -> bool {
        self.source.forward(sink)
    }

    /// Why it ended; none while it has not.
    #[must_use]
    pub fn end(&self) -> Option<&ConsumerEnd> {
        self.end.as_ref()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        match self.source.poll_next(cx) {
            Poll::Ready(Ok(delivery)) => Poll::Ready(Some(delivery)),
            Poll::Ready(Err(end)) => {
                self.end = Some(end);
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Stream for Consumer {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll(cx)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.source.stop();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("end", &self.end).finish_non_exhaustive()
    }
}
