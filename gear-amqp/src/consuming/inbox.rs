//! Between the task that reads from the broker and whoever takes the deliveries.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use gear_api::{ConsumerEnd, Delivery, DeliverySink, Source};
use tokio::sync::Notify;

use crate::consuming::{acks::Acks, subscribed::TAP_PREFETCH};

/// A delivery that waits to be taken, and what is acked then: taps need no settling.
pub(crate) struct Item {
    pub(crate) delivery: Delivery,
    pub(crate) ack_when_taken: Option<(Arc<Acks>, u64)>,
}

impl Item {
    /// Somebody takes it.
    fn taken(self) -> Delivery {
        if let Some((acks, tag)) = self.ack_when_taken {
            acks.ack(tag);
        }
        self.delivery
    }

    /// Nobody will take it. What a tap would have shown is nobody else's, and stays unsettled on the
    /// channel of all taps if it is not acked.
    fn back(self) {
        match self.ack_when_taken {
            Some((acks, tag)) => acks.ack(tag),
            None => self.delivery.requeue(),
        }
    }
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    end: Option<ConsumerEnd>,
    waker: Option<Waker>,
    /// Somebody sees to it that `stop` is heard.
    attended: bool,
    /// Somebody gives the sink what was kept from it.
    releasing: bool,
}

pub(crate) struct Inbox {
    state: Mutex<State>,
    sink: OnceLock<Arc<dyn DeliverySink>>,
    /// The sink has so many unsettled deliveries, at most. The broker counts those of one connection;
    /// after another has taken its place there are those of both.
    limit: usize,
    /// Deliveries that are not settled, here or with whoever has taken them.
    unsettled: AtomicUsize,
    /// Whether items are kept from the sink.
    keeps: AtomicBool,
    stopping: OnceLock<()>,
    closing: OnceLock<()>,
    /// How often what was delivered went back by itself.
    losses: AtomicU64,
    /// Somebody called `stop`.
    pub(crate) stop: Notify,
}

impl Inbox {
    pub(crate) fn new(prefetch: u16) -> Self {
        Self {
            state: Mutex::default(),
            sink: OnceLock::new(),
            limit: prefetch.into(),
            unsettled: AtomicUsize::new(0),
            keeps: AtomicBool::new(false),
            stopping: OnceLock::new(),
            closing: OnceLock::new(),
            losses: AtomicU64::new(0),
            stop: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, item: Item) {
        // Those of a tap are settled by whoever shows them.
        let is_tap = item.ack_when_taken.is_some();
        let before = if is_tap { 0 } else { self.unsettled.fetch_add(1, Ordering::SeqCst) };
        let sink = self.sink.get();
        if let Some(sink) = sink
            && before < self.limit
            && !self.keeps.load(Ordering::SeqCst)
        {
            return sink.deliver(item.taken());
        }
        let mut state = self.state();
        // Also when it has ended: what is given back later goes in the order in which it came.
        state.items.push_back(item);
        // A sink may have been set meanwhile; then everything earlier has gone there.
        if self.sink.get().is_some() {
            self.keeps.store(true, Ordering::SeqCst);
            drop(state);
            return self.release();
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// One that was here is settled, whoever had it.
    pub(crate) fn settled(&self) {
        self.unsettled.fetch_sub(1, Ordering::SeqCst);
        if self.keeps.load(Ordering::SeqCst) {
            self.release();
        }
    }

    /// Gives the sink what was kept from it, as far as it may have it.
    fn release(&self) {
        let Some(sink) = self.sink.get() else { return };
        let mut state = self.state();
        // Whoever does, looks again before he leaves; and the sink may settle while it takes one.
        if state.releasing {
            return;
        }
        state.releasing = true;
        while !self.is_stopping() && self.unsettled_elsewhere(&state) < self.limit {
            let Some(item) = state.items.pop_front() else { break };
            drop(state);
            sink.deliver(item.taken());
            state = self.state();
        }
        state.releasing = false;
        self.keeps.store(!state.items.is_empty(), Ordering::SeqCst);
    }

    fn unsettled_elsewhere(&self, state: &State) -> usize {
        self.unsettled.load(Ordering::SeqCst).saturating_sub(state.items.len())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get().is_some() || self.closing.get().is_some()
    }

    /// The connection is about to be closed: as if somebody had stopped it. What its consumer has
    /// taken out, and shown to nobody, goes back with the rest.
    pub(crate) fn close(&self) {
        self.end(ConsumerEnd::Closed);
        let _ = self.closing.set(());
        // Whoever sees this sees that it is closing, and takes out no more.
        self.losses.fetch_add(1, Ordering::Release);
        self.stop.notify_one();
    }

    /// Somebody begins, or ceases, to hear `stop`. Without anybody, stopping is ending.
    pub(crate) fn attend(&self, attended: bool) {
        self.state().attended = attended;
        if !attended && self.is_stopping() {
            self.give_back();
            self.end(ConsumerEnd::Stopped);
        }
    }

    /// Ends it, unless it has ended.
    pub(crate) fn end(&self, end: ConsumerEnd) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives back what nobody has taken, in its order. **Requires** that the broker sends no more:
    /// it would send this again at once, behind what is on its way, and a quorum queue keeps what
    /// comes back in the order in which it does.
    pub(crate) fn give_back(&self) {
        let items = std::mem::take(&mut self.state().items);
        items.into_iter().for_each(Item::back);
    }
}

impl Inbox {
    /// The connection is gone, and the broker has back what nobody has taken yet: it comes again.
    /// What a tap has seen does not; as when it runs full, the newest are kept.
    pub(crate) fn lost(&self) {
        let mut state = self.state();
        self.losses.fetch_add(1, Ordering::Release);
        let gone = take_lost(&mut state.items);
        let surplus = state.items.len().saturating_sub(TAP_PREFETCH.into());
        state.items.drain(..surplus);
        drop(state);
        gone.into_iter().for_each(|item| item.delivery.requeue());
    }
}

fn take_lost(items: &mut VecDeque<Item>) -> VecDeque<Item> {
    let all = std::mem::take(items).into_iter();
    let (seen, gone) = all.partition::<VecDeque<_>, _>(|item| item.ack_when_taken.is_some());
    *items = seen;
    gone
}

/// The end of an inbox that its consumer holds.
pub(crate) struct InboxSource {
    inbox: Arc<Inbox>,
    /// Taken out of the inbox all at once: a lock for each would cost more than the rest.
    taken: VecDeque<Item>,
    /// Of the inbox, when these were taken.
    losses: u64,
}

impl InboxSource {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, taken: VecDeque::new(), losses: 0 }
    }
}

impl Source for InboxSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, ConsumerEnd>> {
        let losses = self.inbox.losses.load(Ordering::Acquire);
        if losses != self.losses {
            self.losses = losses;
            take_lost(&mut self.taken).into_iter().for_each(|item| item.delivery.requeue());
        }
        if self.taken.is_empty() {
            let mut state = self.inbox.state();
            self.losses = self.inbox.losses.load(Ordering::Acquire);
            // Once it is stopped, what is left goes back; and what is kept from a sink is for it.
            if !self.inbox.is_stopping() && self.inbox.sink.get().is_none() {
                std::mem::swap(&mut self.taken, &mut state.items);
            }
            if self.taken.is_empty() {
                if let Some(end) = &state.end {
                    return Poll::Ready(Err(end.clone()));
                }
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let Some(item) = self.taken.pop_front() else { return Poll::Pending };
        Poll::Ready(Ok(item.taken()))
    }

    fn stop(&mut self) {
        if self.inbox.stopping.set(()).is_ok() {
            let mut state = self.inbox.state();
            let later = std::mem::replace(&mut state.items, std::mem::take(&mut self.taken));
            state.items.extend(later);
            let attended = state.attended;
            drop(state);
            self.inbox.stop.notify_one();
            if !attended {
                self.inbox.give_back();
                self.inbox.end(ConsumerEnd::Stopped);
            }
        }
    }

    fn forward(&mut self, sink: Arc<dyn DeliverySink>) -> bool {
        let mut state = self.inbox.state();
        let later = std::mem::replace(&mut state.items, std::mem::take(&mut self.taken));
        state.items.extend(later);
        self.inbox.keeps.store(true, Ordering::SeqCst);
        let _ = self.inbox.sink.set(sink);
        drop(state);
        self.inbox.release();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use gear_api::{Kind, Message, Settle, Settlement, Text, Verdict};

    use super::*;

    struct Told(Arc<Inbox>);

    impl Settle for Told {
        fn settle(&self, _: u64, _: Verdict) {
            self.0.settled();
        }
    }

    #[derive(Default)]
    struct Sink(Mutex<VecDeque<Delivery>>);

    impl DeliverySink for Sink {
        fn deliver(&self, delivery: Delivery) {
            self.0.lock().expect("no panic").push_back(delivery);
        }
    }

    impl Sink {
        fn len(&self) -> usize {
            self.0.lock().expect("no panic").len()
        }

        /// Settles the oldest, and returns what it was.
        fn ack(&self) -> Text {
            let oldest = self.0.lock().expect("no panic").pop_front().expect("there is one");
            let key = oldest.key().clone();
            oldest.ack();
            key
        }
    }

    fn put(inbox: &Arc<Inbox>, key: &str) {
        let settle: Arc<dyn Settle> = Arc::new(Told(Arc::clone(inbox)));
        let message = Message::builder(Kind::Cast, "note").build();
        let delivery = Delivery::new(message, key.into(), false, Settlement::new(settle, 1));
        inbox.put(Item { delivery, ack_when_taken: None });
    }

    #[test]
    fn a_sink_has_no_more_than_the_limit_over_all_connections() {
        let inbox = Arc::new(Inbox::new(2));
        let mut source = InboxSource::new(Arc::clone(&inbox));
        for key in ["a", "b", "c"] {
            put(&inbox, key);
        }
        let sink = Arc::new(Sink::default());
        assert!(source.forward(Arc::<Sink>::clone(&sink)));
        assert_eq!(sink.len(), 2);
        assert!(poll_fn(|cx| source.poll_next(cx)).now_or_never().is_none(), "it is the sink's");
        assert_eq!(sink.ack(), "a");
        assert_eq!(sink.len(), 2, "another one for it");
        put(&inbox, "d");
        // The next connection brings again what was not settled.
        inbox.lost();
        put(&inbox, "b");
        assert_eq!(sink.len(), 2);
        assert_eq!([sink.ack(), sink.ack(), sink.ack()], ["b", "c", "b"]);
        put(&inbox, "e");
        assert_eq!((sink.len(), inbox.unsettled.load(Ordering::SeqCst)), (1, 1));
    }
}
