//! The broker as its users see it, over `dyn Transport`, beyond what every backend is asked by
//! `gear-conformance`: its faults, its record, its idle, its exact times. In virtual time (but for `stress`):
//! nothing sleeps for real, and a test that waits for something that never comes fails after
//! an hour that takes no time.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod deletions;
mod faults;
mod found;
mod idle;
mod lifetime;
mod poison;
mod pressure;
mod quorum;
mod record;
mod replies;
mod routes;
mod settlement;
mod sinks;
mod stress;
mod subscriptions;
mod taps;

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gear_api::{
    Address, Consumer, Delivery, DeliverySink, Kind, Message, PublishError, ReplySink, ReplyTo,
    Route, Service, Status, SubscribeError, Subscription, Transport,
};
use gear_memory::{MemoryBroker, MemoryTransport};
use tokio::time::Instant;

const CTRL: Service = Service::new("CTRL");

type Result<T = (), E = PublishError> = std::result::Result<T, E>;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn message(body: &str) -> Message {
    Message::builder(Kind::Cast, "test").body(body.to_owned()).build()
}

fn durable(body: &str) -> Message {
    message(body).to_builder().durable(true).build()
}

/// A message that is of no use to anybody so long from now.
fn expiring(body: &str, on: &dyn Transport, time: Duration) -> Message {
    message(body).to_builder().deadline(on.clock().now() + time).build()
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

/// The body of a delivery, with `!` if it is marked as redelivered.
fn label(delivery: &Delivery) -> String {
    let mark = if delivery.is_redelivered() { "!" } else { "" };
    format!("{}{mark}", text(delivery.message()))
}

fn connect(broker: &MemoryBroker) -> Arc<dyn Transport> {
    broker.connect().into()
}

/// A link that a test can cut, and the transport that goes over it.
fn link(broker: &MemoryBroker) -> (MemoryTransport, Arc<dyn Transport>) {
    let link = broker.connect();
    (link.clone(), link.into())
}

async fn send(on: &dyn Transport, to: &str, body: &str) -> Result {
    on.send(Route::Address(&address(to)), message(body)).await
}

async fn send_all(on: &dyn Transport, to: &str, bodies: &[&str]) {
    for body in bodies {
        send(on, to, body).await.unwrap();
    }
}

async fn serve(on: &dyn Transport, prefetch: u16) -> Consumer {
    on.subscribe(Subscription::Service { service: CTRL, prefetch }).await.unwrap()
}

async fn join(on: &dyn Transport, instance: &str) -> Result<Consumer, SubscribeError> {
    let instance = instance.parse().unwrap();
    on.subscribe(Subscription::Instance { instance, prefetch: 10 }).await
}

/// The result of `future`, within an hour of virtual time.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(3_600);
    tokio::time::timeout(limit, future).await.expect("this comes in less than an hour")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    soon(consumer.next()).await.expect("a delivery, not the end")
}

/// The next so many bodies, acked.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        taken.push(label(&delivery));
        delivery.ack();
    }
    taken
}

/// What is here already, acked.
fn take_ready(consumer: &mut Consumer) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some(delivery) = consumer.try_next() {
        taken.push(label(&delivery));
        delivery.ack();
    }
    taken
}

/// What the broker holds back in a queue.
fn ready(broker: &MemoryBroker, queue: &str) -> Vec<String> {
    broker.messages(queue).iter().map(text).collect()
}

fn status(on: &dyn Transport) -> Status {
    on.status().borrow().clone()
}

/// How much virtual time `future` takes.
async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let output = soon(future).await;
    (output, start.elapsed())
}

/// Takes replies, and remembers where they are taken.
#[derive(Default)]
struct Sink {
    at: Mutex<Vec<ReplyTo>>,
    replies: Mutex<Vec<Message>>,
}

impl ReplySink for Sink {
    fn listening(&self, at: ReplyTo) {
        self.at.lock().unwrap().push(at);
    }

    fn deliver(&self, reply: Message) {
        self.replies.lock().unwrap().push(reply);
    }
}

impl Sink {
    fn at(&self) -> ReplyTo {
        self.at.lock().unwrap().last().cloned().expect("it listens")
    }

    fn bodies(&self) -> Vec<String> {
        self.replies.lock().unwrap().iter().map(text).collect()
    }
}

async fn ask_as(on: &dyn Transport, instance: &str) -> (Consumer, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let instance = instance.parse().unwrap();
    let subscription = Subscription::Replies { instance, sink: sink.clone() };
    (on.subscribe(subscription).await.unwrap(), sink)
}

/// Takes deliveries as they come, writes them down and acks them, never one within another.
#[derive(Default)]
struct Acks {
    labels: Mutex<Vec<String>>,
    busy: AtomicBool,
}

impl DeliverySink for Acks {
    fn deliver(&self, delivery: Delivery) {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "one within another");
        self.labels.lock().unwrap().push(label(&delivery));
        delivery.ack();
        self.busy.store(false, Ordering::SeqCst);
    }
}

impl Acks {
    /// What has come since this was asked last.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.labels.lock().unwrap())
    }
}
