//! One connection's life: its channels, and those that others took the place of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lapin::Connection;
use tokio::sync::mpsc;

use super::{
    acks::Acks,
    subscribed::{Slot, Subscribed},
};
use crate::publishing::gate::Gate;

pub(super) struct Epoch {
    pub(super) connection: Arc<Connection>,
    /// By [`Slot`].
    channels: [tokio::sync::Mutex<Option<Arc<Acks>>>; 4],
    /// Those that others took the place of, and that their other consumers still use.
    retired: Mutex<Vec<Weak<Acks>>>,
    added: mpsc::UnboundedSender<Arc<Subscribed>>,
}

impl Epoch {
    /// Also returns where the subscriptions come that are [added](Self::add) meanwhile.
    pub(super) fn new(
        connection: &Arc<Connection>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Subscribed>>) {
        let (added, new) = mpsc::unbounded_channel();
        let epoch = Self {
            connection: Arc::clone(connection),
            channels: Default::default(),
            retired: Mutex::default(),
            added,
        };
        (Arc::new(epoch), new)
    }

    pub(super) fn add(&self, subscribed: Arc<Subscribed>) {
        let _ = self.added.send(subscribed);
    }

    /// The channel of this slot, if there is one. Locked while a consumer is added: the prefetch
    /// that is set last counts for the next one.
    pub(super) async fn channel(
        &self,
        slot: Slot,
    ) -> tokio::sync::MutexGuard<'_, Option<Arc<Acks>>> {
        self.channels[slot as usize].lock().await
    }

    /// A consumer of this channel has ended, mostly because its queue was deleted: whoever begins
    /// to consume gets another channel. RabbitMQ knows deliveries by the name of their queue and
    /// their number in it; what is settled late would settle a delivery of the queue that is
    /// declared again under this name, if that came by the same channel.
    pub(super) async fn retire(&self, slot: Slot, acks: Arc<Acks>) {
        let mut current = self.channel(slot).await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &acks)) {
            self.leave(&mut current);
        }
    }

    /// Another channel takes the place of this one, which its consumers still use.
    pub(super) fn leave(&self, slot: &mut Option<Arc<Acks>>) {
        if let Some(acks) = slot.take() {
            let mut retired = self.retired();
            retired.retain(|acks| acks.strong_count() > 0);
            retired.push(Arc::downgrade(&acks));
        }
    }

    /// Tells the broker what was acked, without waiting for more.
    pub(super) async fn flush(&self, gate: &Gate) {
        gate.passed().await;
        for channel in &self.channels {
            if let Some(acks) = &*channel.lock().await {
                acks.flush();
            }
        }
        self.retired().iter().filter_map(Weak::upgrade).for_each(|acks| acks.flush());
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Weak<Acks>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
