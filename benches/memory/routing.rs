//! What unrelated bindings cost: the same ten addresses among ever more of them.

use std::sync::Arc;

use gear::{
    Address, EventGroup, Kind, Message, Pattern, Route, Service, Subscription, Text, Topic,
    Transport, memory::MemoryBroker,
};

use crate::{body, compare, rate};

const MESSAGES: usize = 200_000;

pub(crate) fn run() {
    compare(
        "publishing to ten addresses among others",
        &[("10 keys bound", &|| keys(10)), ("100,000 keys bound", &|| keys(100_000))],
    );
    compare(
        "publishing to ten topics among other patterns",
        &[("10 patterns bound", &|| patterns(10)), ("10,000 patterns bound", &|| patterns(10_000))],
    );
}

fn message() -> Message {
    Message::builder(Kind::Cast, Text::from_static("take")).body(body()).build()
}

/// Rates are of publishing alone: the setting up is not timed.
fn timed(runtime_work: impl Future<Output = std::time::Duration> + Send + 'static) -> f64 {
    let (sender, receiver) = std::sync::mpsc::channel();
    rate(1, async move {
        sender.send(runtime_work.await).expect("the receiver lives");
    });
    MESSAGES as f64 / receiver.recv().expect("a time").as_secs_f64()
}

fn keys(bound: usize) -> f64 {
    timed(async move {
        let broker = MemoryBroker::new();
        let link: Arc<dyn Transport> = broker.connect().into();
        let mut addresses = Vec::new();
        let mut consumers = Vec::new();
        for n in 0..bound {
            let service: Service = format!("S{n}").parse().expect("a valid name");
            let subscription = Subscription::Service { service: service.clone(), prefetch: 1000 };
            let consumer = link.subscribe(subscription).await.expect("the broker is up");
            if n % (bound / 10) == 0 {
                addresses.push(Address::from(service));
                consumers.push(consumer);
            }
        }
        let start = std::time::Instant::now();
        for n in 0..MESSAGES {
            let at = n % addresses.len();
            link.send(Route::Address(&addresses[at]), message()).await.expect("it is routed");
            consumers[at].next().await.expect("it is delivered").ack();
        }
        start.elapsed()
    })
}

fn patterns(bound: usize) -> f64 {
    timed(async move {
        let broker = MemoryBroker::new();
        let link: Arc<dyn Transport> = broker.connect().into();
        let service = Service::new("S");
        let mut topics = Vec::new();
        let mut consumers = Vec::new();
        for n in 0..bound {
            // Every kind of wildcard, at every place.
            let pattern: Pattern = match n % 4 {
                0 => format!("a{n}.*.c"),
                1 => format!("*.b{n}.c"),
                2 => format!("a{n}.#"),
                _ => format!("#.c{n}"),
            }
            .parse()
            .expect("a valid pattern");
            let group = EventGroup::new(service.clone(), &format!("g{n}")).expect("a valid name");
            let subscription =
                Subscription::Events { group, patterns: vec![pattern], prefetch: 1000 };
            let consumer = link.subscribe(subscription).await.expect("the broker is up");
            if n % (bound / 10) == 0 {
                let topic: Topic = match n % 4 {
                    0 => format!("a{n}.b.c"),
                    1 => format!("a.b{n}.c"),
                    2 => format!("a{n}.b.c"),
                    _ => format!("a.b.c{n}"),
                }
                .parse()
                .expect("a valid topic");
                topics.push(topic);
                consumers.push(consumer);
            }
        }
        let start = std::time::Instant::now();
        for n in 0..MESSAGES {
            let at = n % topics.len();
            link.send(Route::Event(&topics[at]), message()).await.expect("it is stored");
            consumers[at].next().await.expect("it is delivered").ack();
        }
        start.elapsed()
    })
}
