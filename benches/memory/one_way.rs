//! One publisher, one consumer, every message acknowledged.

use std::sync::Arc;

use gear::{
    Address, Kind, Message, Operation, Raw, Route, Service, Subscription, Text, Transport,
    memory::MemoryBroker,
};
use tokio::sync::mpsc;

use crate::{body, compare, rate};

const MESSAGES: usize = 500_000;
const SINK: Service = Service::new("SINK");
const OPERATION: Operation<(), (), Raw> = Operation::new("take");

pub(crate) fn run() {
    compare(
        "one-way: F is a bounded channel of 1,000",
        &[
            ("F", &channel),
            ("dyn Transport, acked", &|| transport(true)),
            ("dyn Transport, one message cloned", &|| transport(false)),
        ],
    );
}

fn channel() -> f64 {
    rate(MESSAGES, async {
        let (sender, mut receiver) = mpsc::channel(1000);
        let consumer = tokio::spawn(async move {
            let mut seen = 0;
            while receiver.recv().await.is_some() {
                seen += 1;
            }
            assert_eq!(seen, MESSAGES);
        });
        for _ in 0..MESSAGES {
            sender.send(body()).await.expect("the receiver lives");
        }
        drop(sender);
        consumer.await.expect("the consumer lives");
    })
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
        let make = || {
            Message::builder(Kind::Cast, Text::from_static(OPERATION.name())).body(body()).build()
        };
        let message = make();
        for _ in 0..MESSAGES {
            let message = if build_each { make() } else { message.clone() };
            publisher.send(Route::Address(&to), message).await.expect("somebody listens");
        }
        consuming.await.expect("the consumer lives");
        assert_eq!(broker.stored_bytes(), 0);
    })
}
