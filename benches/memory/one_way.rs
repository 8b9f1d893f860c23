//! One publisher, one consumer, every message acknowledged.

use std::sync::Arc;

use gear::{Address, Delivery, Route, Service, Subscription, Transport, memory::MemoryBroker};
use tokio::sync::mpsc;

use crate::{
    body, compare,
    delivery::{Settled, delivery, message},
    rate, take_all,
};

const MESSAGES: usize = 500_000;
const SINK: Service = Service::new("SINK");

pub(crate) fn run() {
    compare(
        "one-way: F is a bounded channel of 1,000",
        &[
            ("F", &channel),
            ("F with messages that are built and settled", &settled_channel),
            ("dyn Transport, acked", &|| transport(true)),
            ("dyn Transport, one message cloned", &|| transport(false)),
        ],
    );
}

fn channel() -> f64 {
    rate(MESSAGES, through_channel(body, drop))
}

fn settled_channel() -> f64 {
    rate(MESSAGES, async {
        let settled = Arc::new(Settled::default());
        through_channel(|| delivery(message(), &settled), Delivery::ack).await;
        assert_eq!(settled.count(), MESSAGES);
    })
}

async fn through_channel<T: Send + 'static>(make: impl Fn() -> T, take: fn(T)) {
    let (sender, receiver) = mpsc::channel(1000);
    let consumer = tokio::spawn(take_all(receiver, take, MESSAGES));
    for _ in 0..MESSAGES {
        assert!(sender.send(make()).await.is_ok(), "the receiver lives");
    }
    drop(sender);
    consumer.await.expect("the consumer lives");
}

fn transport(build_each: bool) -> f64 {
    rate(MESSAGES, async move {
        let broker = MemoryBroker::new();
        let publisher: Arc<dyn Transport> = broker.connect().into();
        let consumer: Arc<dyn Transport> = broker.connect().into();
        let subscription = Subscription::Service { service: SINK, prefetch: 1000 };
        let mut queue = consumer.subscribe(subscription).await.expect("it is empty");
        let consuming = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                queue.next().await.expect("the queue is open").ack();
            }
        });
        let to = Address::from(SINK);
        let one = message();
        for _ in 0..MESSAGES {
            let message = if build_each { message() } else { one.clone() };
            publisher.send(Route::Address(&to), message).await.expect("somebody listens");
        }
        consuming.await.expect("the consumer lives");
        assert_eq!(broker.stored_bytes(), 0);
    })
}
