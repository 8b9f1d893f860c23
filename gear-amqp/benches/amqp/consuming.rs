//! Consuming a queue that is full, every message acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use gear_api::{Consumer, Delivery, DeliverySink, Subscription, Transport};
use tokio::sync::Notify;

use crate::{
    measure::{Figures, Report, Stopwatch, round},
    place::{Place, SINK},
    raw::{self, PREFETCH, Shape, body},
};

const MESSAGES: usize = 30_000;
/// Before the clock starts: what a new consumer needs.
const WARM_UP: usize = 100;

pub(crate) fn run(report: &mut Report, place: &Place) {
    report.compare(
        "consuming with acks",
        &[
            ("lapin, one multiple ack per 100", &|| tuned(place, Shape::Bare)),
            ("the same, with Gear's properties", &|| tuned(place, Shape::Gear)),
            ("lapin, each ack awaited", &|| naive(place)),
            ("gear, `Consumer::next`", &|| gear(place, false)),
            ("gear, `Consumer::forward`", &|| gear(place, true)),
        ],
    );
}

async fn fill(place: &Place, shape: Shape) {
    let (connection, channel) = raw::publisher(place).await;
    raw::publish_tuned(&channel, place.entry(), shape, WARM_UP + MESSAGES).await;
    raw::close(&connection).await;
}

/// Every ack has arrived.
pub(crate) async fn drained(place: &Place) {
    assert_eq!(place.purge(SINK.as_str()).await, 0);
}

fn tuned(place: &Place, shape: Shape) -> Figures {
    let place = place.clone();
    round(async move {
        fill(&place, shape).await;
        let (connection, channel, mut consumer) = raw::consumer(&place, SINK.as_str(), false).await;
        raw::consume_tuned(&channel, &mut consumer, WARM_UP).await;
        let watch = Stopwatch::start();
        raw::consume_tuned(&channel, &mut consumer, MESSAGES).await;
        let figures = watch.stop(MESSAGES);
        raw::close(&connection).await;
        drained(&place).await;
        figures
    })
}

fn naive(place: &Place) -> Figures {
    let place = place.clone();
    round(async move {
        fill(&place, Shape::Bare).await;
        let (connection, _channel, mut consumer) =
            raw::consumer(&place, SINK.as_str(), false).await;
        raw::consume_naively(&mut consumer, WARM_UP).await;
        let watch = Stopwatch::start();
        raw::consume_naively(&mut consumer, MESSAGES).await;
        let figures = watch.stop(MESSAGES);
        raw::close(&connection).await;
        drained(&place).await;
        figures
    })
}

pub(crate) async fn subscribe(transport: &dyn Transport) -> Consumer {
    let subscription = Subscription::Service { service: SINK, prefetch: PREFETCH };
    transport.subscribe(subscription).await.expect("the broker lets us consume")
}

pub(crate) async fn consume(consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        let delivery = consumer.next().await.expect("the queue lives");
        assert_eq!(delivery.message().body().len(), body().len());
        delivery.ack();
    }
}

fn gear(place: &Place, forward: bool) -> Figures {
    let place = place.clone();
    round(async move {
        fill(&place, Shape::Gear).await;
        let transport: Arc<dyn Transport> = place.transport().await.into();
        let mut consumer = subscribe(&*transport).await;
        let figures = if forward {
            let counting = Arc::new(Counting::default());
            assert!(consumer.forward(Arc::<Counting>::clone(&counting)));
            counting.warm.notified().await;
            let watch = Stopwatch::start();
            counting.done.notified().await;
            watch.stop(MESSAGES)
        } else {
            consume(&mut consumer, WARM_UP).await;
            let watch = Stopwatch::start();
            consume(&mut consumer, MESSAGES).await;
            watch.stop(MESSAGES)
        };
        transport.close().await;
        drained(&place).await;
        figures
    })
}

/// Acks everything, and tells how far it is.
#[derive(Default)]
struct Counting {
    seen: AtomicUsize,
    warm: Notify,
    done: Notify,
}

impl DeliverySink for Counting {
    fn deliver(&self, delivery: Delivery) {
        assert_eq!(delivery.message().body().len(), body().len());
        delivery.ack();
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == WARM_UP {
            self.warm.notify_one();
        }
        if seen == WARM_UP + MESSAGES {
            self.done.notify_one();
        }
    }
}
