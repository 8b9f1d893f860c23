//! Watching what passes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::Core;
use crate::{Consumer, Feed, Message, Pattern, SubscribeError, Subscription, Text};

/// Copies of what passes, as a stream. See [`Client::tap`](super::Client::tap).
#[derive(Debug)]
pub struct Tap(Consumer);

/// A message that a tap saw.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tapped {
    /// The key that it was sent under: an address or a topic.
    pub key: Text,
    /// The message.
    pub message: Message,
}

impl Tap {
    pub(super) async fn open(
        core: &Core,
        feed: Feed,
        pattern: Pattern,
    ) -> Result<Self, SubscribeError> {
        core.transport.subscribe(Subscription::Tap { feed, pattern }).await.map(Self)
    }

    /// The next message; none when the client is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is lost.
    pub async fn next(&mut self) -> Option<Tapped> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Tap {
    type Item = Tapped;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Tapped>> {
        Pin::new(&mut self.0).poll_next(cx).map(|delivery| {
            delivery.map(|delivery| {
                let key = delivery.key().clone();
                let (message, settlement) = delivery.into_parts();
                settlement.ack();
                Tapped { key, message }
            })
        })
    }
}
