//! Settling the deliveries of one channel, with as few frames as possible.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use gear_api::{Message, Settle, Text, Verdict};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions},
};
use tokio::{sync::Notify, time::timeout};

use super::{
    drops::Drops,
    inbox::Inbox,
    tags::{Ack, Tag, Tags},
};
use crate::publishing::gate::Gate;

/// The deliveries of one channel, for as long as that channel lives. A channel that is gone takes
/// its unsettled deliveries back by itself, so settling them then does nothing.
pub(crate) struct Acks {
    channel: Channel,
    state: Mutex<Tags>,
    gate: Arc<Gate>,
    /// The first ack is due.
    due: Notify,
    /// So many are due that they are not to wait any longer,
    full: Notify,
    /// namely so many.
    at_once: AtomicUsize,
}

/// So many acks are sent without waiting for more.
const AT_ONCE: usize = 64;
/// How long the first waits for others to go with it: an ack by itself costs as much as the
/// delivery did.
const MOMENT: Duration = Duration::from_millis(5);

impl Acks {
    pub(crate) fn start(channel: Channel, gate: Arc<Gate>) -> Arc<Self> {
        let acks = Arc::new(Self {
            channel,
            state: Mutex::new(Tags::new()),
            gate,
            due: Notify::new(),
            full: Notify::new(),
            at_once: AtomicUsize::new(AT_ONCE),
        });
        tokio::spawn(flush_when_due(Arc::downgrade(&acks)));
        acks
    }

    fn state(&self) -> MutexGuard<'_, Tags> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// There is a consumer with this prefetch: with half of it acked and not told, the broker has
    /// to know, lest it stops to deliver.
    pub(crate) fn serve(&self, prefetch: u16) {
        self.at_once.fetch_min(usize::from(prefetch / 2).max(1), Ordering::Relaxed);
    }

    /// A delivery that somebody will settle.
    pub(crate) fn out(&self, tag: u64) {
        self.state().seen(tag, Tag::Out);
    }

    /// A delivery that the broker forgot when it sent it.
    pub(crate) fn needs_none(&self, tag: u64) {
        self.state().seen(tag, Tag::Gone);
    }

    pub(crate) fn ack(&self, tag: u64) {
        let mut state = self.state();
        if !state.settle(tag, Tag::Acked) {
            return;
        }
        let due = state.due.len();
        drop(state);
        if due == 1 {
            self.due.notify_one();
        }
        if due == self.at_once.load(Ordering::Relaxed) {
            self.full.notify_one();
        }
    }

    fn is_full(&self) -> bool {
        self.state().due.len() >= self.at_once.load(Ordering::Relaxed)
    }

    /// Tells the broker what is due. In order: `basic_ack` queues its frame when it is polled
    /// first, and whether it was written is of no interest, since a lost one only means a
    /// redelivery.
    pub(crate) fn flush(&self) {
        self.flush_first(usize::MAX);
    }

    /// Only those that were due first. Returns whether others are left.
    fn flush_first(&self, count: usize) -> bool {
        let mut acks = Vec::new();
        let mut state = self.state();
        state.flush(count, &mut acks);
        for Ack { tag, multiple } in acks {
            once(self.channel.basic_ack(tag, BasicAckOptions { multiple }));
        }
        !state.due.is_empty()
    }

    /// It goes back. `as_failure` counts towards the broker's limit, where it has one: RabbitMQ
    /// 4.3 counts `basic.reject`, and not `basic.nack`.
    pub(crate) fn give_back(&self, tag: u64, as_failure: bool) {
        let mut state = self.state();
        if !state.settle(tag, Tag::Gone) {
            return;
        }
        if as_failure {
            once(self.channel.basic_reject(tag, BasicRejectOptions { requeue: true }));
        } else {
            let options = BasicNackOptions { requeue: true, multiple: false };
            once(self.channel.basic_nack(tag, options));
        }
    }

    pub(crate) fn reject(&self, tag: u64) {
        let mut state = self.state();
        if state.settle(tag, Tag::Gone) {
            once(self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }));
        }
    }
}

fn once<T>(future: impl Future<Output = T>) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// Acks go together: those of a moment, or as many as the prefetch allows to wait.
async fn flush_when_due(acks: Weak<Acks>) {
    loop {
        let Some(acks) = acks.upgrade() else { return };
        if !acks.channel.status().connected() {
            return;
        }
        if timeout(Duration::from_secs(1), acks.due.notified()).await.is_err() {
            continue;
        }
        let moment = async {
            while !acks.is_full() {
                acks.full.notified().await;
            }
        };
        let _ = timeout(MOMENT, moment).await;
        // Those that come while these wait have replies of their own to wait for.
        let count = acks.state().due.len();
        acks.gate.passed().await;
        if acks.flush_first(count) {
            acks.due.notify_one();
        }
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A consumer's way to settle, and its memory of what was lost by a bug.
pub(crate) struct Settler {
    pub(crate) acks: Arc<Acks>,
    drops: Arc<Drops>,
    /// It holds deliveries, and they hold this.
    inbox: Weak<Inbox>,
    /// No other consumer of this process has it.
    number: u64,
}

impl Settler {
    pub(crate) fn new(acks: Arc<Acks>, drops: Arc<Drops>, inbox: Weak<Inbox>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self { acks, drops, inbox, number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// A message goes out that has been out before.
    pub(crate) fn out_again(&self, tag: u64, message: &Message, key: &Text) {
        self.drops.out_again((self.number, tag), message, key);
    }
}

impl Settle for Settler {
    fn is_open(&self) -> bool {
        self.acks.channel.status().connected()
    }

    fn settle(&self, tag: u64, verdict: Verdict) {
        let held = (self.number, tag);
        match verdict {
            Verdict::Ack => {
                self.drops.settled(held);
                self.acks.ack(tag);
            }
            Verdict::Reject => {
                self.drops.settled(held);
                self.acks.reject(tag);
            }
            Verdict::Dropped => self.drops.dropped(held, &self.acks),
            _ => {
                self.drops.given_back(held);
                self.acks.give_back(tag, false);
            }
        }
        // Told last: there is room for another one.
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.settled();
        }
    }
}

/// Nobody holds anything of it any more.
impl Drop for Settler {
    fn drop(&mut self) {
        self.drops.consumer_gone(self.number);
    }
}
