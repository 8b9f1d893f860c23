//! Whether the holder of an instance name is alive: it is asked, and its backend answers. A
//! connection that is dead, and of which the broker does not know yet, does not.

use std::time::Duration;

use futures_util::StreamExt;
use gear_api::{Address, Instance, Message, topology::exchange};
use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::timeout;

use crate::{
    link::declare::short,
    link::rpc::{ANSWER, RpcError, open_channel, within},
    wire::Names,
};

const OPERATION: &str = "gear.ping";
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn is_ping(message: &Message) -> bool {
    message.operation() == OPERATION && message.reply_to().is_some()
}

/// Whether somebody answers under this name.
pub(crate) async fn answers(connection: &Connection, names: &Names, instance: &Instance) -> bool {
    let Ok(channel) = open_channel(connection).await else { return false };
    let answers = ask(&channel, names, instance).await.unwrap_or(false);
    let _ = within(ANSWER, "closing a channel", channel.close(200, "done".into())).await;
    answers
}

async fn ask(channel: &Channel, names: &Names, instance: &Instance) -> Result<bool, RpcError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(ShortString::default(), options, FieldTable::default());
    let queue = within(ANSWER, "declaring a queue", declare).await?.name().clone();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consume = channel.basic_consume(
        queue.clone(),
        ShortString::default(),
        options,
        FieldTable::default(),
    );
    let mut replies = within(ANSWER, "starting to consume", consume).await?;
    let properties = BasicProperties::default()
        .with_type(OPERATION.into())
        .with_reply_to(queue)
        .with_expiration(short(PATIENCE.as_millis().to_string())?);
    let publish = channel.basic_publish(
        short(names.on_broker(&exchange::ENTRY))?,
        short(Address::from(instance).key().as_str())?,
        BasicPublishOptions::default(),
        &[],
        properties,
    );
    drop(within(ANSWER, "publishing", publish).await?);
    Ok(matches!(timeout(PATIENCE, replies.next()).await, Ok(Some(Ok(_)))))
}
