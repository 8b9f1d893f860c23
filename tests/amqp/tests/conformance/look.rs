//! Looking into queues and deleting them, as any program with an AMQP library can.

use std::time::{Duration, Instant};

use gear_api::{BoxError, HeaderValue, Id, Kind, Message, topology::header};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;

/// How long messages that were given back may take to be in their queue again.
const PATIENCE: Duration = Duration::from_secs(10);

async fn open(url: &str) -> Result<(Connection, Channel), BoxError> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(error) if error.get_id() == 404)
}

/// How many messages wait in a queue.
async fn count(channel: &Channel, queue: &str) -> Result<u32, lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(declared.message_count())
}

/// What waits in a queue, in its order; it stays there.
pub(crate) async fn messages(url: &str, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
    let (connection, channel) = open(url).await?;
    match count(&channel, queue).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut taken = Vec::new();
    while let Some(BasicGetMessage { delivery, .. }) =
        channel.basic_get(queue.into(), BasicGetOptions::default()).await?
    {
        taken.push(message(&delivery.properties, delivery.data));
    }
    if !taken.is_empty() {
        let options = BasicNackOptions { multiple: true, requeue: true };
        channel.basic_nack(0, options).await?;
        let start = Instant::now();
        while (count(&channel, queue).await? as usize) < taken.len() {
            if start.elapsed() > PATIENCE {
                return Err(format!("{queue} does not take back what was looked at").into());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
    connection.close(200, "done".into()).await?;
    Ok(Some(taken))
}

pub(crate) async fn delete(url: &str, queue: &str) -> Result<(), BoxError> {
    let (connection, channel) = open(url).await?;
    count(&channel, queue).await?; // the broker deletes what is not there without a word
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// As much of a message as tests look at, read without gear-amqp.
fn message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(|value| value.as_str().to_owned())
    };
    let headers = || properties.headers().iter().flat_map(FieldTable::inner);
    let kind = headers().find(|(name, _)| name.as_str() == header::KIND);
    let kind = kind.and_then(|(_, value)| Kind::from_wire(words(value)?));
    let operation = text(properties.kind()).unwrap_or_default();
    let mut message = Message::builder(kind.unwrap_or(Kind::Cast), operation)
        .body(body)
        .id(text(properties.message_id()).map(|id| Id::from(&*id)))
        .correlation(text(properties.correlation_id()).map(|id| Id::from(&*id)))
        .sender(text(properties.app_id()).unwrap_or_default())
        .content_type(text(properties.content_type()).unwrap_or_default())
        .durable(*properties.delivery_mode() == Some(2));
    for (name, value) in headers() {
        if let Some(text) = words(value) {
            let value = HeaderValue::Text(text.to_owned().into());
            let _ = message.headers_mut().insert_reserved(name.as_str().into(), value);
        }
    }
    message.build()
}

fn words(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}
