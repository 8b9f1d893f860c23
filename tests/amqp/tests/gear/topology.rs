//! Who declares what, and what happens when it is there already, otherwise.

use std::time::Duration;

use gear_amqp::{AmqpError, Definitions, TopologyMode};
use gear_api::{
    Address, Client, Context, Fault, Node, Operation, PublishError, Route, SubscribeError,
    Subscription, Transport, topology::QueueType,
};
use gear_test_amqp::Broker;
use lapin::{options::*, types::*};

use crate::{CTRL, REPO, System, Test, cast, next, serve, text};

const ECHO: Operation<u64, u64> = Operation::new("echo").idempotent();

async fn echo(_: std::sync::Arc<()>, _: Context, number: u64) -> Result<u64, Fault> {
    Ok(number)
}

/// A queue CTRL with other arguments than ours.
async fn other_queue(system: &System) -> Result<(), lapin::Error> {
    let (_connection, channel) = system.foreign().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1_000));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(system.on_broker("CTRL").into(), options, arguments).await?;
    Ok(())
}

fn shared() -> Subscription {
    Subscription::Service { service: CTRL, prefetch: 10 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_used_as_it_is() -> Test {
    let system = System::new().await;
    other_queue(&system).await?;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    Ok(())
}

/// What an operator has made is the operator's to decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passive_uses_a_queue_with_other_arguments_as_it_is() -> Test {
    let system = System::new().await;
    drop(system.connect().await.subscribe(shared()).await?); // exchanges, and the dead queue
    let (_connection, channel) = system.foreign().await?;
    let name: ShortString = system.on_broker("CTRL").into();
    channel.queue_delete(name.clone(), QueueDeleteOptions::default()).await?;
    other_queue(&system).await?;
    let exchange = system.on_broker("gear").into();
    let (key, bind) = ("CTRL".into(), QueueBindOptions::default());
    channel.queue_bind(name.clone(), exchange, key, bind, FieldTable::default()).await?;
    let transport = system.builder().topology(TopologyMode::Passive).connect().await?;
    let mut queue = serve(&transport, &CTRL, 10).await;
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    // It still is as it was: another declaration of the same arguments is no error.
    other_queue(&system).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_refuses_other_arguments_in_the_brokers_words() -> Test {
    let system = System::new().await;
    let transport = system.builder().topology(TopologyMode::Strict).connect().await?;
    other_queue(&system).await?;
    let error = transport.subscribe(shared()).await.expect_err("other arguments");
    let SubscribeError::Refused(words) = &error else { panic!("{error:?}") };
    assert!(words.contains("inequivalent arg"), "{words}");
    // Nothing else suffers.
    serve(&transport, &REPO, 1).await;
    Ok(())
}

/// RabbitMQ says in the same way that there may be no more queues, as that there is another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_may_not_be_is_refused_in_the_brokers_words() -> Test {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let transport = System::at(vhost.url()).connect().await;
    let limit = format!("/api/vhost-limits/{}/max-queues", vhost.name());
    broker.api("PUT", &limit, Some(r#"{"value":0}"#)).await?;
    let error = transport.subscribe(shared()).await.expect_err("none may be");
    let SubscribeError::Refused(words) = &error else { panic!("{error:?}") };
    assert!(words.contains("limit"), "{words}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passive_refuses_what_is_missing_and_declares_nothing() -> Test {
    let system = System::new().await;
    let error = system.builder().topology(TopologyMode::Passive).connect().await;
    let error = error.expect_err("there are no exchanges");
    assert!(
        matches!(&error, AmqpError::Topology(words) if words.contains("no exchange")),
        "{error}"
    );
    drop(system.connect().await); // now there are
    let transport = system.builder().topology(TopologyMode::Passive).connect().await?;
    let error = transport.subscribe(shared()).await.expect_err("there is no queue");
    assert!(
        matches!(&error, SubscribeError::Refused(words) if words.contains("no queue")),
        "{error}"
    );
    Ok(())
}

/// No operator knows which instances there will be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passive_node_declares_what_is_its_own() -> Test {
    let broker = Broker::private().await;
    broker.add_user("ctrl-user", "secret").await;
    let system = System::on(&broker);
    let file = Definitions::new("/", &system.name)?.service(&CTRL, "ctrl-user").to_string();
    broker.api("POST", "/api/definitions", Some(&file)).await?;
    let url = format!("amqp://ctrl-user:secret@127.0.0.1:{}/%2f", broker.port());
    let mine = System { url, name: system.name.clone() };
    let passive = || mine.builder().topology(TopologyMode::Passive);
    let instance = CTRL.at("host1")?;
    let node =
        Node::builder(passive().connect().await?, instance.clone()).on(ECHO, echo).start().await?;
    let client = Client::builder(passive().connect().await?, "CTRL.cli".parse()?).start().await?;
    let to_all = CTRL.all();
    for to in [Address::from(&CTRL), Address::from(&instance)] {
        assert_eq!(client.call(to, ECHO, &7).await?, 7);
    }
    // Its queue is bound for what goes to all instances, too.
    let transport = passive().connect().await?;
    transport.send(Route::Address(&to_all), cast("x")).await?;
    node.shutdown(crate::PATIENCE).await;
    Ok(())
}

/// What the library prints, an operator imports; services then need no rights but their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_all_that_a_service_with_few_rights_needs() -> Test {
    let broker = Broker::private().await;
    broker.add_user("ctrl-user", "secret").await;
    let system = System::on(&broker);
    let file = Definitions::new("/", &system.name)?
        .queue_type(QueueType::Quorum)
        .service(&CTRL, "ctrl-user")
        .delay(Duration::from_millis(20))
        .to_string();
    broker.api("POST", "/api/definitions", Some(&file)).await?;
    let url = format!("amqp://ctrl-user:secret@127.0.0.1:{}/%2f", broker.port());
    let mine = System { url, name: system.name.clone() };
    // Who declares what is missing finds that nothing is.
    let declaring = mine.builder().connect().await?;
    let mut queue = declaring.subscribe(shared()).await?;
    let [first, ..] = gear_api::topology::RETRY_STEPS;
    let again = Route::Delayed { delay: first, jitter: first, queue: "CTRL" };
    declaring.send(again, cast("again")).await?;
    let delivery = next(&mut queue).await;
    assert_eq!(text(delivery.message()), "again");
    delivery.ack();
    declaring.close().await;
    let transport = mine.builder().topology(TopologyMode::Passive).connect().await?;
    let mut queue = transport.subscribe(shared()).await?;
    let node = gear_api::Client::builder(transport.clone(), "CTRL.host1".parse()?).start().await?;
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    let mut delay = Duration::from_millis(20);
    transport
        .send(Route::Delayed { delay, jitter: Duration::ZERO, queue: "CTRL" }, cast("later"))
        .await?;
    let later = next(&mut queue).await;
    assert_eq!(text(later.message()), "later");
    later.ack();
    // As are those before another try.
    transport.send(again, cast("again")).await?;
    assert_eq!(text(next(&mut queue).await.message()), "again");
    // One that the file has not is not its own to make.
    delay += delay;
    let refused = transport
        .send(Route::Delayed { delay, jitter: Duration::ZERO, queue: "CTRL" }, cast("never"))
        .await;
    assert!(matches!(&refused, Err(PublishError::Refused(_))), "{refused:?}");
    drop(node);
    // Somebody else's queue is not its own.
    let other = Subscription::Service { service: REPO, prefetch: 1 };
    assert!(transport.subscribe(other).await.is_err());
    Ok(())
}

/// Each refusal costs a channel, of which a connection has 2,047 in its life: what is refused is not asked
/// for all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_that_is_refused_again_and_again_costs_no_connection() -> Test {
    let system = System::new().await;
    drop(serve(&system.connect().await, &CTRL, 1).await);
    let transport = system.builder().topology(TopologyMode::Passive).connect().await?;
    let mut status = transport.status();
    status.mark_unchanged();
    let delay = Duration::from_millis(77);
    let route = Route::Delayed { delay, jitter: Duration::ZERO, queue: "CTRL" };
    for n in 0..3_000 {
        let refused = transport.send(route, cast("x")).await;
        assert!(matches!(&refused, Err(PublishError::Refused(_))), "{n}: {refused:?}");
    }
    assert!(!status.has_changed()?, "{:?}", *status.borrow());
    Ok(())
}

/// An operator deletes it to change its type, for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_a_delay_that_is_deleted_is_declared_again() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let delay = Duration::from_millis(50);
    let route = Route::Delayed { delay, jitter: Duration::ZERO, queue: "CTRL" };
    let (_connection, channel) = system.foreign().await?;
    for n in 0..3 {
        transport.send(route, cast(&n.to_string())).await?;
        let delivery = next(&mut queue).await;
        assert_eq!(text(delivery.message()), n.to_string());
        delivery.ack();
        let name = system.on_broker("gear:retry.50").into();
        channel.queue_delete(name, lapin::options::QueueDeleteOptions::default()).await?;
    }
    // What is for nobody comes back as before.
    let nobody = Route::Delayed { delay, jitter: Duration::ZERO, queue: "NOBODY" };
    transport.send(nobody, cast("x")).await?; // it is held, and then lost
    Ok(())
}

/// An absent type would mean the virtual host's default, and no limit of returns is ours to set
/// on RabbitMQ 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_queues_are_of_the_type_that_was_asked_for() -> Test {
    let system = System::new().await;
    let transport = system.builder().queue_type(QueueType::Quorum).connect().await?;
    let mut queue = serve(&transport, &CTRL, 10).await;
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    // A quorum queue returns more often than RabbitMQ 4 would by default.
    for _ in 0..30 {
        next(&mut queue).await.requeue();
    }
    next(&mut queue).await.ack();
    let (_connection, channel) = system.foreign().await?;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let name = system.on_broker("CTRL").into();
    let refused = channel.queue_declare(name, options, arguments).await.expect_err("another type");
    assert!(refused.to_string().contains("x-queue-type"), "{refused}");
    Ok(())
}

/// Bindings are additive: an older layout's would bring every message of a service to each of its
/// instances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pattern_bindings_of_an_older_layout_are_removed() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let instance = CTRL.at("host1")?;
    let own = Subscription::Instance { instance, prefetch: 10 };
    drop(transport.subscribe(own.clone()).await?);
    let (_connection, channel) = system.foreign().await?;
    let (queue, exchange): (ShortString, ShortString) =
        (system.on_broker("CTRL.host1").into(), system.on_broker("gear").into());
    for pattern in ["CTRL.*", "*.*"] {
        channel
            .queue_bind(
                queue.clone(),
                exchange.clone(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    let joins = system.connect().await;
    let mut queue = loop {
        // The one before may still be leaving.
        match joins.subscribe(own.clone()).await {
            Ok(queue) => break queue,
            Err(SubscribeError::NameInUse(_)) => {}
            Err(other) => return Err(other.into()),
        }
    };
    let elsewhere: Address = "CTRL.host2".parse()?;
    let outcome = joins.send(Route::Address(&elsewhere), cast("x")).await;
    assert_eq!(outcome, Err(gear_api::PublishError::NotRouted));
    crate::nothing(&mut queue).await;
    Ok(())
}
