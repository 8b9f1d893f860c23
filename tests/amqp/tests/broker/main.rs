//! The helper that all tests on a real broker use, tested on real brokers.

mod cleanup;
mod cluster;
mod lifecycle;
mod proxy;
mod shared;
mod tls;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use std::{future::Future, time::Duration};

/// More than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A connection, and a channel in confirm mode on it.
async fn open(url: &str) -> (Connection, Channel) {
    let connection = within(Connection::connect(url, ConnectionProperties::default()))
        .await
        .expect("the broker takes a connection");
    let channel = within(connection.create_channel()).await.expect("and a channel");
    let confirms = ConfirmSelectOptions::default();
    within(channel.confirm_select(confirms)).await.expect("which confirms");
    (connection, channel)
}

async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    within(declared).await.expect("a queue is declared");
}

/// Publishes a persistent message, and waits for the broker's word.
async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await
}

/// Takes the next message of `queue`.
async fn get(channel: &Channel, queue: &str) -> Option<Vec<u8>> {
    let options = BasicGetOptions { no_ack: true };
    let got = within(channel.basic_get(queue.into(), options)).await.expect("the queue is there");
    got.map(|message| message.delivery.data)
}

/// Consumes `queue` until a message comes.
async fn next(channel: &Channel, queue: &str) -> Vec<u8> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = within(consumer).await.expect("the queue is there");
    within(consumer.next()).await.expect("a message").expect("a whole one").data
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it does not take this long")
}

/// Waits until `done`, which some other thread brings about.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
