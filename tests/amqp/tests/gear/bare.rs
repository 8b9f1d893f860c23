//! AMQP without Gear, in confirm mode: what the tests of the brokers themselves speak.

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use std::future::Future;

use crate::PATIENCE;

/// A connection, and a channel in confirm mode on it.
pub(crate) async fn open(url: &str) -> (Connection, Channel) {
    let connection = within(Connection::connect(url, ConnectionProperties::default()))
        .await
        .expect("the broker takes a connection");
    let channel = within(connection.create_channel()).await.expect("and a channel");
    let confirms = ConfirmSelectOptions::default();
    within(channel.confirm_select(confirms)).await.expect("which confirms");
    (connection, channel)
}

pub(crate) async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    within(declared).await.expect("a queue is declared");
}

/// Publishes a persistent message, and waits for the broker's word.
pub(crate) async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await
}

/// Takes the next message of `queue`.
pub(crate) async fn get(channel: &Channel, queue: &str) -> Option<Vec<u8>> {
    let options = BasicGetOptions { no_ack: true };
    let got = within(channel.basic_get(queue.into(), options)).await.expect("the queue is there");
    got.map(|message| message.delivery.data)
}

/// Consumes `queue` until a message comes.
pub(crate) async fn next(channel: &Channel, queue: &str) -> Vec<u8> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = within(consumer).await.expect("the queue is there");
    within(consumer.next()).await.expect("a message").expect("a whole one").data
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take this long")
}
