//! Between the broker and one consumer: deliveries in batches one way, or straight to a sink,
//! and settlements in batches the other, so that neither takes the broker's lock for each
//! message where there are many.

mod lease;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crossbeam_utils::CachePadded;
use gear_api::{
    ConsumerEnd, Delivery, DeliverySink, Message, ReplySink, Settlement, Source, Verdict,
};

pub(crate) use self::lease::Lease;
use crate::{
    model::{ConsumerId, Delivered, Outlet, Tag},
    shared::Shared,
    wake,
};

/// Settlements that are collected before they go to the broker, at most.
const SETTLE_BATCH: usize = 64;

/// One subscription, over all reconnects of its connection.
#[repr(align(128))]
pub(crate) struct Inbox {
    state: CachePadded<Mutex<State>>,
    /// Settlements that have not gone to the broker yet. A lock of its own, which publishers
    /// never take.
    settled: CachePadded<Mutex<Settled>>,
    /// Whether the consumer's task waits, has ended, or lets others take the deliveries: then
    /// nobody else takes the settlements to the broker. Written before `settled` is looked at, read after it was
    /// added to, so that its lock orders the two.
    unattended: CachePadded<AtomicBool>,
    /// Where deliveries go at once, when somebody wants that.
    forward: OnceLock<Arc<dyn DeliverySink>>,
    /// Replies go there at once, and are never settled.
    sink: Option<Arc<dyn ReplySink>>,
    /// Settlements go to the broker when so many are here.
    batch: usize,
}

#[derive(Default)]
struct State {
    /// The broker's consumer while the connection is up.
    lease: Option<Arc<Lease>>,
    arrived: VecDeque<Delivered>,
    /// Set while the consumer's task waits.
    waker: Option<Waker>,
    end: Option<ConsumerEnd>,
    /// The broker's consumers before, whose deliveries somebody may still be at.
    earlier: Vec<ConsumerId>,
}

/// Settlements of one consumer.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) consumer: ConsumerId,
    pub(crate) verdicts: Vec<(Tag, Verdict)>,
    /// Whether a task is there that brings them in time.
    timed: bool,
}

/// What is to be done once the broker is unlocked.
pub(crate) enum Wake {
    Task(Waker),
    Reply(Arc<dyn ReplySink>, Message),
    Delivery(Arc<Lease>, Delivered),
}

impl Wake {
    pub(crate) fn run(self) {
        match self {
            Self::Task(waker) => waker.wake(),
            Self::Reply(sink, message) => sink.deliver(message),
            Self::Delivery(lease, delivered) => {
                // The lease was counted just now: its count is in this thread's cache.
                if let Some(sink) = lease.inbox.forward.get() {
                    sink.deliver(delivered.into_delivery(Arc::clone(&lease)));
                }
            }
        }
    }
}

impl State {
    /// Whether the first of what has arrived is from a queue that was deleted since: the broker does
    /// not hear of it when it is settled.
    fn begins_with_deleted(&self) -> bool {
        self.arrived.front().is_some_and(|delivered| delivered.tag.is_none())
    }

    /// Takes out what has arrived, to go to the sink. Without a lease it waits for one.
    fn forward(&mut self) -> Vec<Wake> {
        let Some(lease) = &self.lease else { return Vec::new() };
        let wake = |delivered| Wake::Delivery(Arc::clone(lease), delivered);
        self.arrived.drain(..).map(wake).collect()
    }
}

impl Inbox {
    pub(crate) fn new(prefetch: u32, sink: Option<Arc<dyn ReplySink>>) -> Arc<Self> {
        // With half the prefetch settled the broker can go on while the rest is handled.
        let batch = (prefetch as usize / 2).clamp(1, SETTLE_BATCH);
        Arc::new(Self {
            state: CachePadded::default(),
            settled: CachePadded::default(),
            unattended: CachePadded::default(),
            forward: OnceLock::new(),
            sink,
            batch,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker has a consumer for it again.
    ///
    /// Returns what has to be done about what was delivered just before.
    pub(crate) fn attach(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        consumer: ConsumerId,
    ) -> Vec<Wake> {
        let lease = Arc::new(Lease {
            shared: Arc::clone(shared),
            inbox: Arc::clone(self),
            consumer,
            over: AtomicBool::new(false),
            undone: AtomicBool::new(false),
        });
        let mut state = self.lock();
        state.lease = Some(lease);
        if self.forward.get().is_some() {
            state.forward()
        } else if state.arrived.is_empty() {
            Vec::new()
        } else {
            state.waker.take().map(Wake::Task).into_iter().collect()
        }
    }

    /// The connection is lost, and with it whatever was delivered or settled meanwhile.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        let ended = self.end_lease(&mut state);
        if let Some(lease) = &ended {
            lease.undone.store(true, Ordering::Release);
        }
        state.arrived.clear();
        drop(state);
        self.leave_late(ended);
    }

    fn end_lease(&self, state: &mut State) -> Option<Arc<Lease>> {
        let lease = state.lease.take()?;
        lease.over.store(true, Ordering::Release);
        if self.forward.get().is_some() {
            state.earlier.push(lease.consumer);
        }
        Some(lease)
    }

    /// What was settled in the last moment is late: whoever takes it in finds the consumer gone.
    fn leave_late(&self, ended: Option<Arc<Lease>>) {
        // `over` is set before this and read under this lock: nothing stale comes in later.
        let mut settled = self.lock_settled();
        if let Some(lease) = ended.filter(|_| !settled.verdicts.is_empty()) {
            lease.shared.leave_settled(&mut settled);
        }
    }

    /// The broker's consumers that there were before, as far as they still matter.
    pub(crate) fn earlier(&self, matters: impl Fn(ConsumerId) -> bool) -> Vec<ConsumerId> {
        let mut state = self.lock();
        state.earlier.retain(|id| matters(*id));
        state.earlier.clone()
    }

    /// The queue is gone, and with it whatever was not settled. What was delivered does not come
    /// again: whoever takes it may still handle it, and settles nothing. Of what nobody has taken
    /// yet, the newest are kept, at most so many.
    pub(crate) fn detach_from_deleted(&self, keep: usize) {
        let mut state = self.lock();
        let ended = self.end_lease(&mut state);
        let surplus = state.arrived.len().saturating_sub(keep);
        let surplus: Vec<Delivered> = state.arrived.drain(..surplus).collect();
        // The next lease must not take these tags for its own.
        state.arrived.iter_mut().for_each(|delivered| delivered.tag = None);
        drop(state);
        drop(surplus);
        self.leave_late(ended);
    }

    pub(crate) fn consumer(&self) -> Option<ConsumerId> {
        self.lock().lease.as_ref().map(|lease| lease.consumer)
    }

    /// Brings to the broker what has been settled.
    fn bring_settled(&self, shared: &Arc<Shared>) {
        let mut settled = self.lock_settled();
        if !settled.verdicts.is_empty() {
            shared.leave_settled(&mut settled);
            drop(settled);
            shared.take_in_settled();
        }
    }

    /// Takes the settlements that have not gone to the broker yet.
    pub(crate) fn take_settled(&self) -> Option<Settled> {
        let mut settled = self.lock_settled();
        let verdicts = std::mem::take(&mut settled.verdicts);
        let consumer = settled.consumer;
        (!verdicts.is_empty()).then_some(Settled { consumer, verdicts, timed: false })
    }

    /// Takes out what has arrived and nobody has taken, to go back to the broker's consumer.
    pub(crate) fn take_arrived(&self) -> Option<(ConsumerId, Vec<Tag>)> {
        let mut state = self.lock();
        let consumer = state.lease.as_ref()?.consumer;
        let arrived = std::mem::take(&mut state.arrived);
        Some((consumer, arrived.into_iter().filter_map(|delivered| delivered.tag).collect()))
    }

    /// No more deliveries. Returns the tags of those that nobody took.
    pub(crate) fn finish(&self, end: ConsumerEnd) -> (Vec<Tag>, Option<Wake>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.unattended.store(true, Ordering::Relaxed);
        // What is still to be settled holds the lease itself.
        state.lease = None;
        let untaken = std::mem::take(&mut state.arrived);
        let tags = untaken.into_iter().filter_map(|delivered| delivered.tag).collect();
        (tags, state.waker.take().map(Wake::Task))
    }

    pub(crate) fn takes_replies(&self) -> bool {
        self.sink.is_some()
    }

    /// Whether it will not be consumed again.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Whether something has arrived that nobody has taken.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.lock().arrived.is_empty()
    }
}

impl Outlet for Arc<Inbox> {
    type Wake = Wake;

    #[inline(always)]
    fn deliver(&self, delivered: Delivered) -> Option<Wake> {
        if let Some(sink) = &self.sink {
            return Some(Wake::Reply(Arc::clone(sink), delivered.message));
        }
        let mut state = self.lock();
        if let (Some(_), Some(lease)) = (self.forward.get(), &state.lease) {
            return Some(Wake::Delivery(Arc::clone(lease), delivered));
        }
        state.arrived.push_back(delivered);
        state.waker.take().map(Wake::Task)
    }

    fn is_bounded(&self) -> bool {
        self.forward.get().is_some()
    }
}

/// The consumer's end of an inbox.
pub(crate) struct InboxSource {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    lease: Option<Arc<Lease>>,
    batch: VecDeque<Delivered>,
    /// Taps settle what they show.
    settles_itself: bool,
    stopped: bool,
}

impl InboxSource {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, settles_itself: bool) -> Self {
        Self { shared, inbox, lease: None, batch: VecDeque::new(), settles_itself, stopped: false }
    }

    /// The next of the batch.
    #[inline(always)]
    fn take(&mut self) -> Option<(Delivered, Arc<Lease>)> {
        let lease = self.lease.as_ref()?;
        if lease.undone.load(Ordering::Acquire) {
            self.forget_batch();
            return None;
        }
        Some((self.batch.pop_front()?, Arc::clone(lease)))
    }

    /// Delivered by a connection that is gone: it will come again.
    #[cold]
    fn forget_batch(&mut self) {
        self.batch.clear();
        self.lease = None;
    }
}

/// What a tap shows.
#[cold]
fn settled(delivery: Delivery) -> Delivery {
    let (key, redelivered) = (delivery.key().clone(), delivery.is_redelivered());
    let (message, settlement) = delivery.into_parts();
    settlement.ack();
    Delivery::new(message, key, redelivered, Settlement::none())
}

impl Source for InboxSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, ConsumerEnd>> {
        let progress = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let attended = !self.stopped && self.inbox.forward.get().is_none();
        if attended && self.inbox.unattended.load(Ordering::Relaxed) {
            self.inbox.unattended.store(false, Ordering::Relaxed);
        }
        loop {
            if let Some((delivered, lease)) = self.take() {
                progress.made_progress();
                if self.settles_itself {
                    return Poll::Ready(Ok(settled(delivered.into_delivery(lease))));
                }
                return Poll::Ready(Ok(delivered.into_delivery(lease)));
            }
            let mut state = self.inbox.lock();
            // Between being consumed again and the lease nothing can be settled yet; the task is
            // woken for it. What is not to be settled need not wait for that.
            if !state.arrived.is_empty() && state.lease.is_some() {
                let settles_nothing = state.begins_with_deleted();
                std::mem::swap(&mut self.batch, &mut state.arrived);
                self.lease.clone_from(&state.lease);
                drop(state);
                if settles_nothing {
                    self.shared.note_taken();
                }
                continue;
            }
            if state.begins_with_deleted()
                && let Some(delivered) = state.arrived.pop_front()
            {
                drop(state);
                self.shared.note_taken();
                progress.made_progress();
                return Poll::Ready(Ok(delivered.into_settled()));
            }
            if let Some(end) = &state.end {
                return Poll::Ready(Err(end.clone()));
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            drop(state);
            self.inbox.unattended.store(true, Ordering::Relaxed);
            self.inbox.bring_settled(&self.shared);
            return Poll::Pending;
        }
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let untaken = self.batch.drain(..).filter_map(|delivered| delivered.tag).collect();
        // Tags count within their consumer, and after a cut there is another one.
        let untaken = self.lease.as_ref().map(|lease| (lease.consumer, untaken));
        self.shared.stop(&self.inbox, untaken);
    }

    fn forward(&mut self, sink: Arc<dyn DeliverySink>) -> bool {
        if self.settles_itself {
            return false; // it does so when it is polled
        }
        // From now on nobody brings settlements to the broker but who makes them.
        self.inbox.unattended.store(true, Ordering::Relaxed);
        // What has come before goes first, as far as one thread can tell. Between threads there is no
        // order: that of the broker ends with its lock, and another would cost every delivery.
        let mut wakes: Vec<Wake> = Vec::new();
        while let Some((delivered, lease)) = self.take() {
            wakes.push(Wake::Delivery(lease, delivered));
        }
        let mut state = self.inbox.lock();
        let _ = self.inbox.forward.set(sink);
        let settles_nothing = state.begins_with_deleted();
        wakes.extend(state.forward());
        drop(state);
        wake::run(wakes);
        if settles_nothing {
            self.shared.note_taken();
        }
        // Only now: it makes room for more.
        self.inbox.bring_settled(&self.shared);
        true
    }
}
