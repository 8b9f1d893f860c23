//! The flaws of a consumer: in what it delivers, and in how that is settled.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use gear_api::{
    Address, Consumer, ConsumerEnd, Delivery, DeliverySink, Message, Route, Settle, Settlement,
    Source, Text, Transport, Verdict,
};
use gear_memory::MemoryTransport;

use super::{
    list::{Does, More},
    transport::Flawed,
};

/// What marks a message that was requeued by sending it again.
const AGAIN: &str = "gear-again";

/// A consumer that the flaw is in.
pub(crate) struct FlawedSource {
    inner: Consumer,
    shared: Arc<Shared>,
}

/// What its deliveries settle with.
struct Shared {
    flaw: Flawed,
    transport: MemoryTransport,
    /// The deliveries that are held, by tag, in their order.
    held: Mutex<Vec<Held>>,
    stopped: AtomicBool,
}

struct Held {
    tag: u64,
    key: Text,
    message: Message,
    /// None when it was settled in the name of another.
    settlement: Option<Settlement>,
}

impl FlawedSource {
    pub(crate) fn new(flaw: Flawed, inner: Consumer, transport: MemoryTransport) -> Self {
        let (held, stopped) = (Mutex::default(), AtomicBool::new(false));
        Self { inner, shared: Arc::new(Shared { flaw, transport, held, stopped }) }
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap()
    }

    /// A delivery as the flaw shows it.
    fn show(self: &Arc<Self>, delivery: Delivery) -> Delivery {
        let (mut key, mut again) = (delivery.key().clone(), delivery.is_redelivered());
        let (message, settlement) = delivery.into_parts();
        let mut shown = message.clone();
        match self.flaw.does() {
            Some(Does::Got(change)) => shown = change(shown),
            Some(Does::Marked(change)) => change(&mut key, &mut again),
            Some(Does::More(More::RequeueIsSent)) => {
                let mut builder = shown.to_builder();
                again |= builder.headers_mut().remove(AGAIN).is_some();
                shown = builder.build();
            }
            _ => {}
        }
        let mut held = self.held();
        let tag = held.last().map_or(0, |held| held.tag + 1);
        held.push(Held { tag, key: key.clone(), message, settlement: Some(settlement) });
        drop(held);
        let settle: Arc<dyn Settle> = Arc::<Self>::clone(self);
        Delivery::new(shown, key, again, Settlement::new(settle, tag))
    }

    fn take(&self, of: impl Fn(&Held) -> bool) -> Vec<Settlement> {
        self.held().iter_mut().filter(|held| of(held)).filter_map(|h| h.settlement.take()).collect()
    }
}

fn apply(settlement: Settlement, verdict: Verdict) {
    match verdict {
        Verdict::Ack => settlement.ack(),
        Verdict::Reject => settlement.reject(),
        Verdict::Requeue => settlement.requeue(),
        _ => drop(settlement),
    }
}

impl Settle for Shared {
    fn settle(&self, tag: u64, verdict: Verdict) {
        let mut verdict = verdict;
        match self.flaw.does() {
            Some(Does::Settled(change)) => verdict = change(verdict),
            Some(Does::More(More::AckTakesEarlierAlong)) if verdict == Verdict::Ack => {
                return self.take(|held| held.tag <= tag).into_iter().for_each(Settlement::ack);
            }
            Some(Does::More(More::AckOfOldCounts)) => {
                // All that are this message: those that came again later, too.
                let body = self
                    .held()
                    .iter()
                    .find(|held| held.tag == tag)
                    .map(|held| held.message.body().clone());
                let same = self.take(|held| Some(held.message.body()) == body.as_ref());
                return same.into_iter().for_each(|settlement| apply(settlement, verdict));
            }
            Some(Does::More(More::RequeueIsSent)) if verdict == Verdict::Requeue => {
                self.publish_anew(tag);
                verdict = Verdict::Ack;
            }
            Some(Does::More(More::StopForgetsHeld)) if self.stopped.load(Ordering::SeqCst) => {
                verdict = Verdict::Dropped;
            }
            _ => {}
        }
        for settlement in self.take(|held| held.tag == tag) {
            if self.flaw.is(More::AcksWait) {
                // Of a connection that is closed meanwhile the ack means nothing.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    apply(settlement, verdict);
                });
            } else {
                apply(settlement, verdict);
            }
        }
    }
}

impl Shared {
    fn publish_anew(&self, tag: u64) {
        let held = self.held();
        let Some(held) = held.iter().find(|held| held.tag == tag) else { return };
        let (Ok(to), mut copy) = (held.key.parse::<Address>(), held.message.to_builder()) else {
            return;
        };
        let _ = copy.headers_mut().insert_reserved(Text::from_static(AGAIN), true.into());
        self.transport.send(Route::Address(&to), copy.build()).detach();
    }
}

impl Source for FlawedSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, ConsumerEnd>> {
        match std::task::ready!(std::pin::Pin::new(&mut self.inner).poll_next(cx)) {
            Some(delivery) => Poll::Ready(Ok(self.shared.show(delivery))),
            None => {
                let end = self.inner.end().cloned().unwrap_or(ConsumerEnd::Closed);
                let deleted = matches!(end, ConsumerEnd::Closed);
                match self.shared.flaw.does() {
                    Some(Does::Ended(change)) => Poll::Ready(Err(change(end))),
                    Some(Does::More(More::DeletionIsTheEnd)) if deleted => {
                        let why = Text::from_static("its queue was deleted");
                        Poll::Ready(Err(ConsumerEnd::Broker(why)))
                    }
                    Some(Does::More(More::DeletionIsNotNoticed)) if deleted => Poll::Pending,
                    _ => Poll::Ready(Err(end)),
                }
            }
        }
    }

    fn stop(&mut self) {
        if self.shared.flaw.is(More::StopAcks) {
            while let Some(delivery) = self.inner.try_next() {
                delivery.ack();
            }
        }
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.inner.stop();
    }

    fn forward(&mut self, sink: Arc<dyn DeliverySink>) -> bool {
        let shared = Arc::clone(&self.shared);
        self.inner.forward(Arc::new(FlawedForward { shared, sink, state: Mutex::default() }))
    }
}

/// Brings deliveries to a sink, as the flaw shows them.
struct FlawedForward {
    shared: Arc<Shared>,
    sink: Arc<dyn DeliverySink>,
    /// How many there were, and one that the next is to overtake.
    state: Mutex<(usize, Option<Delivery>)>,
}

impl DeliverySink for FlawedForward {
    fn deliver(&self, delivery: Delivery) {
        let Self { shared, sink, state } = self;
        let mut state = state.lock().unwrap();
        state.0 += 1;
        let nth = state.0 % 5;
        if nth == 0 && shared.flaw.is(More::ForwardLoses) {
            drop(state);
            return delivery.ack();
        }
        if nth == 2 && shared.flaw.is(More::ForwardSwaps) {
            state.1 = Some(delivery);
            return;
        }
        let late = state.1.take();
        drop(state);
        [Some(delivery), late].into_iter().flatten().for_each(|d| sink.deliver(shared.show(d)));
    }
}
