//! Whether the holder of an instance name is alive: it is asked, and its backend answers. A
//! connection that is dead, and of which the broker does not know yet, does not.

use std::time::Duration;

use futures_util::StreamExt;
use gear_api::{Address, Instance, Kind, Message, ReplyTo, Route, Text};
use lapin::{
    Channel, Connection,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::timeout;

use crate::{
    link::rpc::{ANSWER, RpcError, close, open_channel, within},
    publishing::{Publisher, now},
};

const OPERATION: Text = Text::from_static("gear.ping");
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn is_ping(message: &Message) -> bool {
    *message.operation() == OPERATION && message.reply_to().is_some()
}

/// Whether somebody answers under this name.
pub(crate) async fn answers(
    connection: &Connection,
    publisher: &Publisher,
    instance: &Instance,
) -> bool {
    let Ok(channel) = open_channel(connection).await else { return false };
    let answers = ask(&channel, publisher, instance).await.unwrap_or(false);
    close(channel).await;
    answers
}

async fn ask(
    channel: &Channel,
    publisher: &Publisher,
    instance: &Instance,
) -> Result<bool, RpcError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let own = channel.clone();
    let declare = async move {
        own.queue_declare(ShortString::default(), options, FieldTable::default()).await
    };
    let queue = within(ANSWER, "declaring a queue", declare).await?.name().clone();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let (own, from) = (channel.clone(), queue.clone());
    let consume = async move {
        own.basic_consume(from, ShortString::default(), options, FieldTable::default()).await
    };
    let mut replies = within(ANSWER, "starting to consume", consume).await?;
    // Not by this channel: under an alarm the broker reads no more from a connection that publishes
    // (<https://www.rabbitmq.com/docs/connection-blocked>), and acks come by this one.
    let ping = Message::builder(Kind::Call, OPERATION)
        .reply_to(ReplyTo::queue(queue.as_str()))
        .deadline(now() + PATIENCE)
        .build();
    publisher.send(Route::Address(&Address::from(instance)), ping).detach();
    Ok(matches!(timeout(PATIENCE, replies.next()).await, Ok(Some(Ok(_)))))
}
