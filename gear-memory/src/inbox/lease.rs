//! What settles deliveries: at once, or in batches on their way into the broker.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gear_api::{Delivery, Settle, Settlement, Verdict};
use slotmap::{Key, KeyData};
use tokio::runtime::Handle;

use super::{Inbox, Settled};
use crate::{
    model::{ConsumerId, Delivered, Tag},
    now::Now,
    shared::{self, Shared},
};

/// For so long settlements are collected, at most, as over `gear-amqp`.
const SETTLE_TIME: Duration = Duration::from_millis(5);

/// The time of one of the broker's consumers: deliveries of an earlier one can not be settled.
#[repr(align(128))]
pub(crate) struct Lease {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(crate) consumer: ConsumerId,
    pub(super) over: AtomicBool,
    /// What nobody has taken will come again.
    pub(super) undone: AtomicBool,
}

impl Lease {
    /// Acknowledges a request while its broker is locked. Returns whether it is one of that broker.
    pub(crate) fn acknowledge(
        request: &Settlement,
        shared: &Arc<Shared>,
        broker: &mut shared::State,
        now: &Now,
    ) -> bool {
        match request.by::<Self>() {
            Some((lease, tag)) if Arc::ptr_eq(&lease.shared, shared) => {
                broker.model.settle(lease.consumer, [(tag_of(tag), Verdict::Ack)], now);
                true
            }
            _ => false,
        }
    }

    /// The consumer is gone, and another may wait for the place that this took up.
    #[cold]
    fn settle_late(&self, tag: Tag, verdict: Verdict) {
        let mut late =
            Settled { consumer: self.consumer, verdicts: vec![(tag, verdict)], timed: false };
        self.shared.leave_settled(&mut late);
        self.shared.take_in_settled();
    }
}

/// Brings settlements to the broker when it is dropped: in time, or when its runtime ends.
struct InTime(Weak<Shared>, Weak<Inbox>);

impl Drop for InTime {
    fn drop(&mut self) {
        if let (Some(shared), Some(inbox)) = (self.0.upgrade(), self.1.upgrade()) {
            inbox.lock_settled().timed = false;
            inbox.bring_settled(&shared);
        }
    }
}

fn tag_of(tag: u64) -> Tag {
    Tag::from(KeyData::from_ffi(tag))
}

impl Settle for Lease {
    fn is_open(&self) -> bool {
        !self.undone.load(Ordering::Acquire)
    }

    fn settle(&self, tag: u64, verdict: Verdict) {
        let tag = tag_of(tag);
        let unattended = self.inbox.unattended.load(Ordering::Relaxed);
        if unattended && self.shared.settle_now(self.consumer, tag, verdict) {
            return;
        }
        let mut settled = self.inbox.lock_settled();
        if self.over.load(Ordering::Acquire) {
            drop(settled);
            return self.settle_late(tag, verdict);
        }
        settled.consumer = self.consumer;
        settled.verdicts.push((tag, verdict));
        // What is not an ack goes at once: somebody waits for the message to come back.
        let now = settled.verdicts.len() >= self.inbox.batch
            || verdict != Verdict::Ack
            || self.shared.is_blocked.load(Ordering::Relaxed)
            || self.shared.is_watched.load(Ordering::Relaxed)
            || self.inbox.unattended.load(Ordering::Relaxed);
        let runtime = if now || settled.timed { None } else { Handle::try_current().ok() };
        if now || (!settled.timed && runtime.is_none()) {
            // The connection may be lost by then; the broker then does not know the consumer.
            self.shared.leave_settled(&mut settled);
            drop(settled);
            self.shared.take_in_settled();
        } else if let Some(runtime) = runtime {
            // Whoever acknowledges one and does not ask for the next may do something else for long.
            settled.timed = true;
            drop(settled);
            let in_time = InTime(Arc::downgrade(&self.shared), Arc::downgrade(&self.inbox));
            runtime.spawn(async move {
                tokio::time::sleep(SETTLE_TIME).await;
                drop(in_time);
            });
        }
    }
}

impl Delivered {
    /// As its consumer gets it, to be settled under this lease.
    #[inline(always)]
    pub(super) fn into_delivery(self, lease: Arc<Lease>) -> Delivery {
        let settlement = match self.tag {
            Some(tag) => Settlement::new(lease, tag.data().as_ffi()),
            None => return self.into_settled(),
        };
        Delivery::new(self.message, self.key, self.redelivered, settlement)
    }

    /// As its consumer gets it, with nothing to be settled.
    #[cold]
    pub(super) fn into_settled(self) -> Delivery {
        Delivery::new(self.message, self.key, self.redelivered, Settlement::none())
    }
}
