//! Programs that know the wire contract, or only a part of it, and nothing of Gear.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use gear_api::{
    Client, Context, Fault, Kind, Node, Operation, Raw, Subscription, Transport, Verdict,
};
use lapin::{
    BasicProperties,
    options::*,
    types::{FieldTable, ShortString},
};

use crate::{CTRL, PATIENCE, REPO, System, Test, next, nothing, serve, text};

const SHOUT: Operation<String, String> = Operation::new("shout");

async fn shout(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    Ok(text.to_uppercase())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_message_is_a_cast() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let (_connection, channel) = system.foreign().await?;
    let exchange = system.on_broker("gear").into();
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(exchange, "CTRL".into(), options, b"hello", BasicProperties::default())
        .await?
        .await?;
    let delivery = next(&mut queue).await;
    let message = delivery.message();
    assert_eq!((message.kind(), text(message).as_str()), (Kind::Cast, "hello"));
    assert!(message.operation().is_empty() && message.id().is_none());
    assert_eq!(delivery.key().as_str(), "CTRL");
    delivery.ack();
    Ok(())
}

/// It has no id to be known by when it comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_message_that_is_always_dropped_is_set_aside() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let (_connection, channel) = system.foreign().await?;
    let options = BasicPublishOptions::default();
    for body in ["poison", "wine"] {
        let exchange = system.on_broker("gear").into();
        let properties = BasicProperties::default();
        channel
            .basic_publish(exchange, "CTRL".into(), options, body.as_bytes(), properties)
            .await?
            .await?;
    }
    let (mut drops, mut wine) = (0, 0);
    while drops < Verdict::MAX_RETURNS {
        let delivery = next(&mut queue).await;
        if text(delivery.message()) == "poison" {
            drops += 1;
            drop(delivery);
        } else {
            wine += 1;
            delivery.ack();
        }
    }
    nothing(&mut queue).await;
    assert_eq!(wine, 1, "another without an id is another");
    let dead = system.on_broker("CTRL:dead").into();
    let dead = channel.basic_get(dead, BasicGetOptions { no_ack: true }).await?;
    assert_eq!(dead.ok_or("it was set aside")?.data, b"poison");
    Ok(())
}

/// Calls the service with these properties; returns what comes to `replies`.
async fn reply_to_caller(
    system: &System,
    reply_to: Option<&str>,
) -> Result<lapin::message::Delivery, Box<dyn std::error::Error + Send + Sync>> {
    let (_connection, channel) = system.foreign().await?;
    let queue = match reply_to {
        Some(name) => name.into(),
        None => {
            let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
            let declare = channel.queue_declare("".into(), options, FieldTable::default());
            declare.await?.name().clone()
        }
    };
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut replies =
        channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
    let properties = BasicProperties::default()
        .with_type("shout".into())
        .with_reply_to(queue)
        .with_correlation_id("call-1".into());
    let exchange = system.on_broker("gear").into();
    channel
        .basic_publish(
            exchange,
            "CTRL".into(),
            BasicPublishOptions::default(),
            b"\"hi\"",
            properties,
        )
        .await?
        .await?;
    let reply = tokio::time::timeout(crate::PATIENCE, replies.next()).await?;
    Ok(reply.ok_or("the consumer ended")??)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_caller_is_answered_at_its_own_queue() -> Test {
    let system = System::new().await;
    let node =
        Node::builder(system.connect().await, CTRL.at("host1")?).on(SHOUT, shout).start().await?;
    let reply = reply_to_caller(&system, None).await?;
    assert_eq!(reply.data, b"\"HI\"");
    assert_eq!(reply.properties.correlation_id().as_ref().map(ShortString::as_str), Some("call-1"));
    assert_eq!(reply.properties.app_id().as_ref().map(ShortString::as_str), Some("CTRL.host1"));
    node.shutdown(PATIENCE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_direct_reply_to_is_answered() -> Test {
    let system = System::new().await;
    let node =
        Node::builder(system.connect().await, CTRL.at("host1")?).on(SHOUT, shout).start().await?;
    let reply = reply_to_caller(&system, Some("amq.rabbitmq.reply-to")).await?;
    assert_eq!(reply.data, b"\"HI\"");
    assert_eq!(reply.properties.correlation_id().as_ref().map(ShortString::as_str), Some("call-1"));
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// A request as a foreign program makes it; returns once the broker has it.
async fn ask(system: &System, reply_to: &str) -> Test {
    let (_connection, channel) = system.foreign().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default()
        .with_type("shout".into())
        .with_reply_to(reply_to.into())
        .with_correlation_id("call-1".into());
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let exchange = system.on_broker("gear").into();
    let sent = channel.basic_publish(exchange, "CTRL".into(), options, b"\"hi\"", properties);
    assert!(sent.await?.await?.take_message().is_none(), "it reached the service");
    Ok(())
}

/// Where any instance may take the answer, it is known by its correlation id alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_answer_to_a_service_is_an_answer() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let (_connection, channel) = system.foreign().await?;
    let (queue_name, entry) = (system.on_broker("CTRL"), system.on_broker("gear"));
    let replies = system.on_broker("gear.reply");
    for (exchange, key, kind) in [
        ("", queue_name.as_str(), Kind::Reply),
        (replies.as_str(), "CTRL", Kind::Reply),
        (entry.as_str(), "CTRL", Kind::Cast),
    ] {
        let properties = BasicProperties::default().with_correlation_id("call-1".into());
        let options = BasicPublishOptions::default();
        let (exchange, key) = (exchange.into(), key.into());
        channel.basic_publish(exchange, key, options, b"pong", properties).await?.await?;
        let delivery = next(&mut queue).await;
        assert_eq!(delivery.message().kind(), kind);
        delivery.ack();
    }
    Ok(())
}

/// Messages that wait in a queue.
async fn waiting(system: &System, queue: &str) -> Result<u32, lapin::Error> {
    let (_connection, channel) = system.foreign().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?.message_count())
}

/// Through the default exchange every queue can be reached by its name, which the caller gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_leads_a_reply_to_a_queue_that_is_not_for_replies() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let group = gear_api::EventGroup::new(REPO, "mail")?;
    let patterns = vec!["a.b".parse()?];
    drop(transport.subscribe(Subscription::Events { group, patterns, prefetch: 1 }).await?);
    let route = gear_api::Route::Delayed {
        delay: Duration::from_secs(3600),
        jitter: Duration::ZERO,
        queue: "REPO",
    };
    transport.send(route, crate::cast("later")).await?;
    let node =
        Node::builder(system.connect().await, CTRL.at("host1")?).on(SHOUT, shout).start().await?;
    let queues = ["REPO:dead", "REPO:events.mail", "gear:retry.3600000"];
    for queue in queues {
        let queue = system.on_broker(queue);
        let to = gear_api::ReplyTo::queue(queue.as_str());
        let outcome = transport.send(gear_api::Route::Reply(&to), crate::cast("x")).await;
        assert!(matches!(outcome, Err(gear_api::PublishError::Invalid(_))), "{outcome:?}");
        ask(&system, &queue).await?;
    }
    // It has handled all of them, and answers others.
    assert_eq!(reply_to_caller(&system, None).await?.data, b"\"HI\"");
    node.shutdown(PATIENCE).await;
    for queue in queues {
        let expected = u32::from(queue.starts_with("gear:retry"));
        assert_eq!(waiting(&system, &system.on_broker(queue)).await?, expected, "{queue}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_reply_queues_can_be_forbidden() -> Test {
    let system = System::new().await;
    let strict = || system.builder().foreign_replies(false).connect();
    let (_connection, channel) = system.foreign().await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let declared = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let foreign = declared.name().as_str();
    let node = Node::builder(strict().await?, CTRL.at("host1")?).on(SHOUT, shout).start().await?;
    ask(&system, foreign).await?;
    let client = Client::builder(strict().await?, "CLI.test".parse()?).start().await?;
    assert_eq!(client.call(CTRL, SHOUT, &"hello".to_owned()).await?, "HELLO");
    // Whether somebody holds a name is asked at a queue that the broker names.
    let own = Subscription::Instance { instance: CTRL.at("host1")?, prefetch: 1 };
    let start = std::time::Instant::now();
    assert!(strict().await?.subscribe(own).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    node.shutdown(PATIENCE).await;
    assert_eq!(waiting(&system, foreign).await?, 0);
    channel.queue_delete(foreign.into(), QueueDeleteOptions::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_server_needs_only_reply_to_and_correlation_id() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    drop(serve(&transport, &REPO, 1).await); // the queue REPO is there now
    let (_connection, channel) = system.foreign().await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let queue = system.on_broker("REPO").into();
    let mut requests =
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    let server = tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            let properties = &request.properties;
            let (Some(to), Some(id)) = (properties.reply_to(), properties.correlation_id()) else {
                continue;
            };
            let reply = BasicProperties::default().with_correlation_id(id.clone());
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), to.clone(), options, b"pong", reply).await;
            drop(sent.expect("sent"));
        }
    });
    const PING: Operation<gear_api::Bytes, gear_api::Bytes, Raw> = Operation::new("ping");
    let client = Client::builder(system.connect().await, "CLI.test".parse()?).start().await?;
    let call = client.call(REPO, PING, &gear_api::Bytes::from_static(b"ping"));
    assert_eq!(call.timeout(Duration::from_secs(20)).await?, "pong");
    server.abort();
    Ok(())
}

/// A system on the same broker, or none, does not hear what is not for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systems_are_apart() -> Test {
    let (one, other) = (System::new().await, System::new().await);
    let (here, there) = (one.connect().await, other.connect().await);
    let instance = CTRL.at("host1")?;
    let subscription = Subscription::Instance { instance, prefetch: 1 };
    let _here = here.subscribe(subscription.clone()).await?;
    let mut queue = there.subscribe(subscription).await?;
    let everybody = gear_api::Address::Broadcast;
    here.send(gear_api::Route::Address(&everybody), crate::cast("x")).await?;
    crate::nothing(&mut queue).await;
    Ok(())
}

/// Whoever reads `app_id` has only the sender's word; the broker verifies `user_id`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_may_name_the_user_who_sends_them() -> Test {
    let system = System::new().await;
    let transport = system.builder().send_user_id(true).connect().await?;
    drop(serve(&transport, &REPO, 1).await);
    let to = gear_api::Address::from(&REPO);
    transport.send(gear_api::Route::Address(&to), crate::cast("x")).await?;
    let (_connection, channel) = system.foreign().await?;
    let queue = system.on_broker("REPO").into();
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get(queue, options).await?.ok_or("it is there")?;
    assert_eq!(got.properties.user_id().as_ref().map(ShortString::as_str), Some("guest"));
    assert_eq!(*got.properties.delivery_mode(), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_all_that_a_program_needs() -> Test {
    let system = System::new().await;
    let url = format!("{}?system={}&heartbeat=5", system.url, system.name);
    let node = Node::builder(gear::connect(&url).await?, CTRL.at("host1")?)
        .on(SHOUT, shout)
        .start()
        .await?;
    let client = Client::builder(gear::connect(&url).await?, "CLI.test".parse()?).start().await?;
    assert_eq!(client.call(CTRL, SHOUT, &"hello".to_owned()).await?, "HELLO");
    node.shutdown(PATIENCE).await;
    let error = gear::connect("amqp://guest:canary@127.0.0.1:1").await.expect_err("nobody there");
    assert!(!format!("{error} {error:?}").contains("canary"));
    Ok(())
}
