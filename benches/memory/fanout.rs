//! One publisher, a hundred subscribers, everybody gets everything.

use std::sync::Arc;

use gear::{Delivery, Message, Route, Service, Subscription, Transport, memory::MemoryBroker};
use tokio::sync::mpsc;

use crate::{
    body, compare,
    delivery::{Settled, delivery, message},
    rate, take_all,
};

const SUBSCRIBERS: usize = 100;
const MESSAGES: usize = 10_000;
const SINK: Service = Service::new("SINK");

pub(crate) fn run() {
    compare(
        "one to 100: F is a bounded channel of 1,000 for each",
        &[
            ("F", &channels),
            ("F with copies that are settled", &settled_channels),
            ("multicast through dyn Transport, acked", &multicast),
        ],
    );
}

fn channels() -> f64 {
    rate(MESSAGES * SUBSCRIBERS, through_channels(body, |_| body(), drop))
}

fn settled_channels() -> f64 {
    rate(MESSAGES * SUBSCRIBERS, async {
        let settled = Arc::new(Settled::default());
        let copy = |message: &Message| delivery(message.clone(), &settled);
        through_channels(message, copy, Delivery::ack).await;
        assert_eq!(settled.count(), MESSAGES * SUBSCRIBERS);
    })
}

/// Makes each message, and sends a copy of it to everybody.
async fn through_channels<M, T: Send + 'static>(
    make: impl Fn() -> M,
    copy: impl Fn(&M) -> T,
    take: fn(T),
) {
    let mut senders = Vec::new();
    let mut consumers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let (sender, receiver) = mpsc::channel(1000);
        senders.push(sender);
        consumers.push(tokio::spawn(take_all(receiver, take, MESSAGES)));
    }
    for _ in 0..MESSAGES {
        let message = make();
        for sender in &senders {
            assert!(sender.send(copy(&message)).await.is_ok(), "the receiver lives");
        }
    }
    drop(senders);
    for consumer in consumers {
        consumer.await.expect("the consumer lives");
    }
}

fn multicast() -> f64 {
    rate(MESSAGES * SUBSCRIBERS, async {
        let broker = MemoryBroker::new();
        let publisher: Arc<dyn Transport> = broker.connect().into();
        let mut consumers = Vec::new();
        for n in 0..SUBSCRIBERS {
            let link: Arc<dyn Transport> = broker.connect().into();
            let instance = SINK.at(&format!("host{n}")).expect("a valid name");
            let subscription = Subscription::Instance { instance, prefetch: 1000 };
            let mut queue = link.subscribe(subscription).await.expect("nobody has the name");
            consumers.push(tokio::spawn(async move {
                for _ in 0..MESSAGES {
                    queue.next().await.expect("the queue is open").ack();
                }
                drop(link);
            }));
        }
        let all = SINK.all();
        for _ in 0..MESSAGES {
            publisher.send(Route::Address(&all), message()).await.expect("somebody listens");
        }
        for consumer in consumers {
            consumer.await.expect("the consumer lives");
        }
    })
}
