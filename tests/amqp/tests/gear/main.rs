//! gear-amqp on a real RabbitMQ: what it promises beyond the conformance suite, each trap of lapin
//! and RabbitMQ that is known, and a program in another language. With them the brokers that tests
//! get here, and the faults between: one program, so that tests that wait and tests that work take
//! turns on one broker.

mod bare;
mod breaking;
mod cleanup;
mod cluster;
mod consuming;
mod cycles;
mod example;
mod foreign;
mod handshake;
mod interop;
mod lifecycle;
mod moments;
mod names;
mod outages;
mod overdue;
mod proxy;
mod publishing;
mod security;
mod shared;
mod tls;
mod topology;
mod unconfirmed;

use std::time::{Duration, Instant};

use gear_amqp::{AmqpBuilder, AmqpTransport};
use gear_api::{Consumer, Delivery, Id, Kind, Message, Service, Subscription, Transport};
use gear_test_amqp::{Broker, Proxy, unique_system};
use lapin::{Channel, Connection, ConnectionProperties};

pub(crate) type Test<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) const CTRL: Service = Service::new("CTRL");
pub(crate) const REPO: Service = Service::new("REPO");

/// How long what must come is awaited.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A system of one's own on a broker.
pub(crate) struct System {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl System {
    pub(crate) async fn new() -> Self {
        Self::on(Broker::shared().await)
    }

    pub(crate) fn on(broker: &Broker) -> Self {
        Self::at(broker.url())
    }

    pub(crate) fn at(url: String) -> Self {
        Self { url, name: unique_system() }
    }

    /// One that reaches the broker by way of a proxy, which can fail.
    pub(crate) async fn behind_proxy() -> (Proxy, Self) {
        let proxy = Broker::shared().await.proxy().await;
        let system = Self::at(proxy.url());
        (proxy, system)
    }

    /// The same one, without anything between.
    pub(crate) async fn direct(&self) -> Self {
        Self { url: Broker::shared().await.url(), name: self.name.clone() }
    }

    pub(crate) fn builder(&self) -> AmqpBuilder {
        let builder = AmqpTransport::builder(&self.url).expect("the helper's URLs are good");
        builder.system(&self.name).expect("the helper's names are good")
    }

    pub(crate) async fn connect(&self) -> AmqpTransport {
        self.builder().connect().await.expect("the broker is up")
    }

    /// The name on the broker.
    pub(crate) fn on_broker(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// A program that knows nothing of Gear.
    pub(crate) async fn foreign(&self) -> Result<(Connection, Channel), lapin::Error> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

pub(crate) fn cast(text: &str) -> Message {
    let id = Id::from(text);
    Message::builder(Kind::Cast, "note").id(id).body(text.to_owned()).durable(true).build()
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

pub(crate) async fn serve(on: &AmqpTransport, service: &Service, prefetch: u16) -> Consumer {
    let subscription = Subscription::Service { service: service.clone(), prefetch };
    on.subscribe(subscription).await.expect("it can be consumed")
}

/// The next delivery, which must come.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("it comes in time").expect("the consumer goes on")
}

/// Nothing more comes.
pub(crate) async fn nothing(consumer: &mut Consumer) {
    let next = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Waits for what must become true.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until publishing and all subscriptions work.
pub(crate) async fn ready(transport: &AmqpTransport) {
    let mut status = transport.status();
    let ready = status.wait_for(gear_api::Status::is_ready);
    tokio::time::timeout(PATIENCE, ready).await.expect("ready in time").expect("not closed");
}
