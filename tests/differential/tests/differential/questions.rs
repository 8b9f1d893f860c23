//! Questions that documents leave open, asked of the broker itself. What gear-memory does, its own
//! tests show, except where it is asked here too.

use std::{sync::Arc, time::Duration};

use gear_amqp::AmqpTransport;
use gear_api::{
    Address, HeaderValue, Kind, Message, Pattern, Route, Service, Subscription, Transport,
    topology::QueueType,
};
use gear_differential::page;
use gear_memory::{MemoryBroker, Policy};
use gear_test_amqp::Broker;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::*,
    types::{AMQPValue, FieldTable},
};

type Test<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn declare(channel: &Channel, queue: &str, arguments: &[(&str, AMQPValue)]) -> Test {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, table).await?;
    Ok(())
}

async fn publish(channel: &Channel, queue: &str, body: &str) -> Test {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let publish =
        channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
    publish.await?.await?;
    Ok(())
}

/// The next message of a queue, not settled; none if it is empty.
async fn get(channel: &Channel, queue: &str) -> Test<Option<(String, u64)>> {
    let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?;
    let Some(message) = message else { return Ok(None) };
    Ok(Some((String::from_utf8(message.delivery.data.clone())?, message.delivery.delivery_tag)))
}

/// All that is in a queue.
async fn empty(channel: &Channel, queue: &str) -> Test<Vec<String>> {
    let mut bodies = Vec::new();
    while let Some((body, tag)) = get(channel, queue).await? {
        channel.basic_ack(tag, BasicAckOptions::default()).await?;
        bodies.push(body);
    }
    Ok(bodies)
}

async fn requeue(channel: &Channel, tag: u64) -> Test {
    let options = BasicNackOptions { requeue: true, multiple: false };
    channel.basic_nack(tag, options).await?;
    Ok(())
}

fn text(word: &str) -> AMQPValue {
    AMQPValue::LongString(word.into())
}

struct Open {
    name: String,
    channel: Channel,
    _connection: Connection,
    _vhost: gear_test_amqp::Vhost,
}

async fn open() -> Test<Open> {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let connection = Connection::connect(&vhost.url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let name = format!("RabbitMQ {}", broker.version());
    Ok(Open { name, channel, _connection: connection, _vhost: vhost })
}

/// In a classic queue what comes back is the head again, and so what goes; in a quorum queue too,
/// if it counts deliveries up to some limit, as Gear's do, and since 4.3 always. Before, without a
/// limit (the default of 3.x, and -1 in 4.x), what comes back is put at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requeueing_into_a_full_queue_drops_its_head() -> Test {
    let Open { name, channel, .. } = &open().await?;
    let version = name.trim_start_matches("RabbitMQ ");
    let is_new = !["3.", "4.0.", "4.1.", "4.2."].iter().any(|old| version.starts_with(old));
    let max_length = ("x-max-length", AMQPValue::LongInt(2));
    let delivery_limit = |limit| ("x-delivery-limit", AMQPValue::LongInt(limit));
    let [classic, quorum] = ["classic", "quorum"].map(|kind| ("x-queue-type", text(kind)));
    let mut uncounted = vec![quorum.clone(), max_length.clone()];
    if !version.starts_with("3.") {
        uncounted.push(delivery_limit(-1));
    }
    let counted = vec![quorum, max_length.clone(), delivery_limit(1_000_000)];
    let kinds = [
        ("classic", vec![classic, max_length], ["m2", "m3"]),
        ("counted", counted, ["m2", "m3"]),
        ("uncounted", uncounted, if is_new { ["m2", "m3"] } else { ["m3", "m1"] }),
    ];
    let mut wrong = Vec::new();
    for (queue, arguments, expected) in kinds {
        declare(channel, queue, &arguments).await?;
        publish(channel, queue, "m1").await?;
        let (_, tag) = get(channel, queue).await?.ok_or("it is there")?;
        publish(channel, queue, "m2").await?;
        publish(channel, queue, "m3").await?;
        requeue(channel, tag).await?;
        let left = empty(channel, queue).await?;
        if left != expected {
            wrong.push(format!("{queue}: {left:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    page::proven(name, "requeueing into a full queue drops its head", "settled");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn requeueing_into_a_full_queue_drops_its_head_in_memory() -> Test {
    const CTRL: Service = Service::new("CTRL");
    let broker = MemoryBroker::new();
    broker.set_policy(Pattern::new("CTRL"), Policy::new().max_length(2));
    let node = broker.connect();
    let mut queue = node.subscribe(Subscription::Service { service: CTRL, prefetch: 1 }).await?;
    for body in ["m1", "m2", "m3"] {
        let message = Message::builder(Kind::Cast, "note").body(body).build();
        node.send(Route::Address(&Address::from(CTRL)), message).await?;
    }
    let first = queue.next().await.ok_or("it is there")?;
    queue.stop(); // or it would get it again at once, and nothing would be full
    first.requeue();
    let left: Vec<_> = broker.messages("CTRL").iter().map(|m| m.body().clone()).collect();
    assert_eq!(left, ["m2", "m3"]);
    page::proven("gear-memory", "requeueing into a full queue drops its head", "settled");
    Ok(())
}

/// A message that goes round by itself is dropped when it would come to where it was; one that
/// somebody rejected on the way goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_goes_round_only_if_somebody_rejected_it() -> Test {
    const TTL: u64 = 100;
    let Open { name, channel, .. } = &open().await?;
    let to =
        |queue| [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(queue))];
    let ttl = ("x-message-ttl", AMQPValue::LongInt(TTL as i32));
    declare(channel, "one", &[&to("two")[..], std::slice::from_ref(&ttl)].concat()).await?;
    declare(channel, "two", &[&to("one")[..], std::slice::from_ref(&ttl)].concat()).await?;
    declare(channel, "rejecting", &to("waiting")).await?;
    declare(channel, "waiting", &[&to("rejecting")[..], std::slice::from_ref(&ttl)].concat())
        .await?;

    publish(channel, "one", "m").await?;
    tokio::time::sleep(Duration::from_millis(3 * 2 * TTL)).await;
    for queue in ["one", "two"] {
        assert_eq!(empty(channel, queue).await?, [""; 0], "{queue}");
    }
    publish(channel, "rejecting", "m").await?;
    for round in 0..3 {
        let (_, tag) = get(channel, "rejecting").await?.ok_or(format!("round {round}"))?;
        let options = BasicRejectOptions { requeue: false };
        channel.basic_reject(tag, options).await?;
        tokio::time::sleep(Duration::from_millis(3 * TTL)).await;
    }
    page::proven(name, "a circle of dead letters ends, unless somebody rejects", "settled");
    Ok(())
}

/// What three of a quorum queue look like that a connection had when it was lost, of which the first
/// had come back before.
async fn lost(one: Arc<dyn Transport>, other: Arc<dyn Transport>) -> Test<Vec<String>> {
    const CTRL: Service = Service::new("CTRL");
    let serve = async |on: &dyn Transport| {
        on.subscribe(Subscription::Service { service: CTRL, prefetch: 3 }).await
    };
    let mut queue = serve(&*one).await?;
    for body in ["m1", "m2", "m3"] {
        let message = Message::builder(Kind::Cast, "note").body(body).build();
        one.send(Route::Address(&Address::from(CTRL)), message).await?;
    }
    queue.next().await.ok_or("it is there")?.requeue();
    let mut held = Vec::new();
    while held.len() < 3 {
        held.push(queue.next().await.ok_or("it is there")?);
    }
    one.close().await;
    let mut queue = serve(&*other).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let delivery = queue.next().await.ok_or("it is there")?;
        let count = delivery.message().headers().get("x-delivery-count");
        let count = count.and_then(HeaderValue::as_int).ok_or("it was delivered before")?;
        // Before RabbitMQ 4.3 what came back without a failure was counted as well.
        seen.push(format!("{} {}", String::from_utf8_lossy(delivery.message().body()), count > 0));
        delivery.ack();
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_connection_had_of_a_quorum_queue_comes_back_as_it_was_taken() -> Test {
    const IS_TAKEN: [&str; 3] = ["m2 true", "m3 true", "m1 true"];
    let what = "what a lost connection had of a quorum queue comes back as it was taken";
    let memory = MemoryBroker::builder().queue_type(QueueType::Quorum).build();
    assert_eq!(lost(memory.connect().into(), memory.connect().into()).await?, IS_TAKEN);
    page::proven("gear-memory", what, "settled");

    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let url = format!("{}?queue_type=quorum", vhost.url());
    let connect = || AmqpTransport::connect(&url);
    assert_eq!(lost(connect().await?.into(), connect().await?.into()).await?, IS_TAKEN);
    page::proven(&format!("RabbitMQ {}", broker.version()), what, "settled");
    Ok(())
}
