//! One publisher, a hundred subscribers, everybody gets everything.

use std::sync::Arc;

use gear::{Delivery, Route, Service, Subscription, Transport, memory::MemoryBroker};
use tokio::sync::mpsc;

use crate::{
    body, compare,
    delivery::{Settled, delivery, message},
    rate,
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
    rate(MESSAGES * SUBSCRIBERS, async {
        let mut senders = Vec::new();
        let mut consumers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let (sender, mut receiver) = mpsc::channel(1000);
            senders.push(sender);
            consumers.push(tokio::spawn(async move {
                let mut seen = 0;
                while receiver.recv().await.is_some() {
                    seen += 1;
                }
                assert_eq!(seen, MESSAGES);
            }));
        }
        for _ in 0..MESSAGES {
            for sender in &senders {
                sender.send(body()).await.expect("the receiver lives");
            }
        }
        drop(senders);
        for consumer in consumers {
            consumer.await.expect("the consumer lives");
        }
    })
}

fn settled_channels() -> f64 {
    rate(MESSAGES * SUBSCRIBERS, async {
        let settled = Arc::new(Settled::default());
        let mut senders = Vec::new();
        let mut consumers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let (sender, mut receiver) = mpsc::channel(1000);
            senders.push(sender);
            consumers.push(tokio::spawn(async move {
                while let Some(delivery) = receiver.recv().await {
                    Delivery::ack(delivery);
                }
            }));
        }
        for _ in 0..MESSAGES {
            let message = message();
            for sender in &senders {
                let delivery = delivery(message.clone(), &settled);
                assert!(sender.send(delivery).await.is_ok(), "the receiver lives");
            }
        }
        drop(senders);
        for consumer in consumers {
            consumer.await.expect("the consumer lives");
        }
        assert_eq!(settled.count(), MESSAGES * SUBSCRIBERS);
    })
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
