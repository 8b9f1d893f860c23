//! A message on its way to a handler, and the token that settles it, once.

use std::{any::Any, fmt, sync::Arc};

use crate::{Message, Text};

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Done: the broker forgets it.
    Ack,
    /// Not wanted: the broker drops it, or dead-letters it where the queue says so.
    Reject,
    /// Not begun: it goes back to where it was, for anybody.
    Requeue,
    /// Lost by a bug: it goes back as a failure and is counted; after
    /// [`Verdict::MAX_RETURNS`] times it is set aside.
    Dropped,
}

impl Verdict {
    /// So often may one message be lost before it is set aside. Otherwise a bug loops
    /// for ever, and with a paused clock in no time.
    pub const MAX_RETURNS: u32 = 20;
}

/// What a backend does when a delivery is settled.
///
/// **Requires** that it neither blocks on the network nor runs anybody's handler: it is
/// called from `Drop` and from any thread.
///
/// **Behaves**: a tag of a connection that is gone is ignored.
pub trait Settle: Any + Send + Sync {
    /// Settles the delivery `tag`.
    fn settle(&self, tag: u64, verdict: Verdict);

    /// Whether settling means something to the broker: not once the connection is gone that a delivery
    /// came by, since it then comes again by itself.
    ///
    /// **Behaves**: where it can not tell, it does.
    fn is_open(&self) -> bool {
        true
    }
}

/// A message with what the broker says of it. Settled by value, so settling twice does
/// not compile; one that is dropped goes back to its queue and is counted.
///
/// ```
/// # use gear_api::Delivery;
/// fn look(delivery: Delivery) {
///     if delivery.message().body().is_empty() {
///         delivery.reject();
///     } else {
///         delivery.ack();
///     }
/// }
/// ```
#[must_use = "a delivery that is dropped goes back to its queue"]
pub struct Delivery {
    message: Message,
    key: Text,
    redelivered: bool,
    settlement: Settlement,
}

impl Delivery {
    /// A delivery that `settle` settles under `tag`. For backends.
    #[inline]
    pub fn new(message: Message, key: Text, redelivered: bool, settlement: Settlement) -> Self {
        Self { message, key, redelivered, settlement }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn key(&self) -> &Text {
        &self.key
    }

    /// Whether somebody may have had it before.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// Done: the broker forgets it.
    #[inline]
    pub fn ack(self) {
        self.settlement.ack();
    }

    /// Not wanted: the broker drops it, or dead-letters it where the queue says so.
    pub fn reject(self) {
        self.settlement.reject();
    }

    /// Not begun: it goes back to where it was in its queue, for anybody.
    pub fn requeue(self) {
        self.settlement.requeue();
    }

    /// The message, and the token that settles it.
    pub fn into_parts(self) -> (Message, Settlement) {
        (self.message, self.settlement)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("key", &self.key)
            .field("redelivered", &self.redelivered)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// The duty to settle one delivery. Dropped, it counts as [`Verdict::Dropped`].
#[must_use = "an unsettled delivery goes back to its queue"]
pub struct Settlement(Option<(Arc<dyn Settle>, u64)>);

impl Settlement {
    /// The duty to settle `tag`. For backends.
    #[inline]
    pub fn new(settle: Arc<dyn Settle>, tag: u64) -> Self {
        Self(Some((settle, tag)))
    }

    /// Nothing to settle: the broker forgot it when it delivered it. For backends.
    pub const fn none() -> Self {
        Self(None)
    }

    /// What settles it, if that is a `T`, and under which tag. For backends, which may have a shorter
    /// way than [`Settle::settle`]; who has gone it says so with [`forget`](Self::forget).
    #[inline]
    pub fn by<T: Settle>(&self) -> Option<(&T, u64)> {
        let (settle, tag) = self.0.as_ref()?;
        let settle: &dyn Any = &**settle;
        Some((settle.downcast_ref()?, *tag))
    }

    /// Whether settling it means something to the broker: not once the connection is gone that it came by,
    /// since it then comes again by itself.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|(settle, _)| settle.is_open())
    }

    /// It is settled already. For backends.
    #[inline]
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// See [`Delivery::ack`].
    #[inline]
    pub fn ack(self) {
        self.settle(Verdict::Ack);
    }

    /// See [`Delivery::reject`].
    pub fn reject(self) {
        self.settle(Verdict::Reject);
    }

    /// See [`Delivery::requeue`].
    pub fn requeue(self) {
        self.settle(Verdict::Requeue);
    }

    #[inline]
    fn settle(mut self, verdict: Verdict) {
        if let Some((settle, tag)) = self.0.take() {
            settle.settle(tag, verdict);
        }
    }
}

impl Drop for Settlement {
    #[inline]
    fn drop(&mut self) {
        if let Some((settle, tag)) = self.0.take() {
            settle.settle(tag, Verdict::Dropped);
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settlement").field(&self.0.as_ref().map(|(_, tag)| tag)).finish()
    }
}
