//! The same work with nothing but lapin, by somebody who knows it well, and by somebody who does
//! not.

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions,
    },
    types::{FieldTable, ShortString},
};

use crate::place::{Place, SINK};

pub(crate) const UNCONFIRMED: usize = 1_000;
pub(crate) const PREFETCH: u16 = 500;
/// Deliveries for each multiple ack.
const ACK_EVERY: usize = 100;

/// A body of 256 bytes.
pub(crate) fn body() -> Bytes {
    Bytes::from_static(&[b'x'; 256])
}

/// The id of the `n`th message, a UUID: what comes twice must be known by it.
pub(crate) fn id(n: usize) -> [u8; 16] {
    (0x0199_d9a4_7b3c_7000_8000_u128 << 48 | n as u128).to_be_bytes()
}

/// The same as it is written.
pub(crate) fn written_id(n: usize) -> String {
    uuid::Uuid::from_bytes(id(n)).to_string()
}

/// What is in the properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Persistent, with an id.
    Bare,
    /// All that Gear sends.
    Gear,
}

fn properties(shape: Shape, n: usize) -> BasicProperties {
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_message_id(written_id(n).into());
    match shape {
        Shape::Bare => properties,
        Shape::Gear => properties.with_type("take".into()),
    }
}

/// A connection with a channel that confirms.
pub(crate) async fn publisher(place: &Place) -> (Connection, Channel) {
    let connection = place.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    (connection, channel)
}

pub(crate) async fn consumer(
    place: &Place,
    queue: &str,
    no_ack: bool,
) -> (Connection, Channel, Consumer) {
    let connection = place.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.expect("prefetch");
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    let consume = channel.basic_consume(
        place.name(queue),
        ShortString::default(),
        options,
        FieldTable::default(),
    );
    let consumer = consume.await.expect("the queue exists");
    (connection, channel, consumer)
}

pub(crate) async fn close(connection: &Connection) {
    // It fails if a channel is being closed just then, which harms nobody.
    let _ = connection.close(200, "done".into()).await;
}

pub(crate) const MANDATORY: BasicPublishOptions =
    BasicPublishOptions { mandatory: true, immediate: false };

/// Publishes one message, and awaits the broker's answer.
async fn publish(channel: &Channel, to: ShortString, shape: Shape, n: usize) {
    let (key, body) = (SINK.as_str().into(), body());
    let publish = channel.basic_publish(to, key, MANDATORY, &body, properties(shape, n));
    let confirm = publish.await.expect("it is written").await.expect("an answer");
    assert!(confirm.is_ack() && confirm.take_message().is_none());
}

pub(crate) async fn publish_tuned(channel: &Channel, to: ShortString, shape: Shape, count: usize) {
    let mut unconfirmed = FuturesUnordered::new();
    for n in 0..count {
        if unconfirmed.len() == UNCONFIRMED {
            unconfirmed.next().await;
        }
        unconfirmed.push(publish(channel, to.clone(), shape, n));
    }
    while unconfirmed.next().await.is_some() {}
}

pub(crate) async fn publish_naively(channel: &Channel, to: ShortString, count: usize) {
    for n in 0..count {
        publish(channel, to.clone(), Shape::Bare, n).await;
    }
}

/// Takes `count` deliveries, a multiple of a hundred.
pub(crate) async fn consume_tuned(channel: &Channel, consumer: &mut Consumer, count: usize) {
    for n in 1..=count {
        let delivery = consumer.next().await.expect("the queue lives").expect("a delivery");
        assert_eq!(delivery.data.len(), body().len());
        if n % ACK_EVERY == 0 {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(delivery.delivery_tag, options).await.expect("it is written");
        }
    }
}

pub(crate) async fn consume_naively(consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        let delivery = consumer.next().await.expect("the queue lives").expect("a delivery");
        assert_eq!(delivery.data.len(), body().len());
        delivery.ack(BasicAckOptions::default()).await.expect("it is written");
    }
}
