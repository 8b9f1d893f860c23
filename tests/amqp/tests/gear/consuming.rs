//! What becomes of deliveries.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gear_api::{
    Address, Client, Context, EventGroup, Fault, Node, Operation, Publish, Route, Settlement,
    Subscription, Transport,
};
use lapin::{Channel, options::*, types::FieldTable};

use crate::{
    CTRL, REPO, System, Test, cast, eventually,
    handshake::{Handshake, Then},
    next, nothing, ready, serve, text,
};

async fn fill(on: &gear_amqp::AmqpTransport, service: &gear_api::Service, count: u32) -> Test {
    let to = Address::from(service);
    let sent: Vec<Publish> =
        (0..count).map(|n| on.send(Route::Address(&to), cast(&n.to_string()))).collect();
    for publish in sent {
        publish.await?;
    }
    Ok(())
}

/// The messages that wait in a queue.
async fn waiting(system: &System, queue: &str) -> Result<u32, lapin::Error> {
    let (_connection, channel) = system.foreign().await?;
    ready_in(&channel, &system.on_broker(queue)).await
}

async fn ready_in(channel: &Channel, queue: &str) -> Result<u32, lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(queue.message_count())
}

/// Acks of a prefetch window, in any order, while others are out: the broker must have all of
/// them, and none of those that were not acked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_are_neither_lost_nor_too_many() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 500).await;
    // Another consumer on the other channel, and replies, whose tags are in between.
    fill(&transport, &CTRL, 5_000).await?;
    let mut held: Vec<(String, Settlement)> = Vec::new();
    let mut random = 1u64;
    for _ in 0..5_000 {
        let (message, settlement) = next(&mut queue).await.into_parts();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match (random >> 33) % 10 {
            0 if held.len() < 100 => held.push((text(&message), settlement)),
            1 if !held.is_empty() => {
                let at = (random >> 40) as usize % held.len();
                held.swap_remove(at).1.ack();
                settlement.ack();
            }
            _ => settlement.ack(),
        }
    }
    let expected: BTreeSet<String> = held.iter().map(|(text, _)| text.clone()).collect();
    assert!(!expected.is_empty());
    // The connection goes: what was not acked comes back, and nothing else.
    transport.close().await;
    drop(held);
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 500).await;
    let mut again = BTreeSet::new();
    for _ in 0..expected.len() {
        let delivery = next(&mut queue).await;
        assert!(delivery.is_redelivered());
        again.insert(text(delivery.message()));
        delivery.ack();
    }
    assert_eq!(again, expected);
    nothing(&mut queue).await;
    Ok(())
}

/// lapin's acks go through a task of their own when a delivery settles itself, and were lost at
/// close; and a connection of which lapin has a channel to close when it is closed itself, ends
/// without a goodbye: one in a hundred lost its last acks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_right_after_an_ack_loses_it_not() -> Test {
    let system = System::new().await;
    let (_connection, channel) = system.foreign().await?;
    for round in 0..150 {
        let builder = system.builder().single_connection(round % 2 == 0);
        let transport = builder.connect().await?;
        let mut queue = serve(&transport, &CTRL, 100).await;
        fill(&transport, &CTRL, 5).await?;
        let mut held = Vec::new();
        for n in 0..5 {
            held.push(next(&mut queue).await);
            // A message of the round before would come first.
            assert!(!held[n].is_redelivered(), "round {round}");
        }
        if round % 4 < 2 {
            queue.stop();
            assert!(queue.next().await.is_none());
        }
        held.into_iter().for_each(gear_api::Delivery::ack);
        transport.close().await;
        assert_eq!(ready_in(&channel, &system.on_broker("CTRL")).await?, 0, "round {round}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_smaller_than_the_prefetch_is_acked_all_the_same() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 3).await;
    fill(&transport, &CTRL, 1_000).await?;
    for _ in 0..1_000 {
        next(&mut queue).await.ack();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_is_declared_and_consumed_again() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut shared = serve(&transport, &CTRL, 10).await;
    let instance = CTRL.at("host1")?;
    let subscription = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
    let mut own = transport.subscribe(subscription).await?;
    let (_connection, channel) = system.foreign().await?;
    for name in ["CTRL", "CTRL.host1"] {
        let name = system.on_broker(name).into();
        channel.queue_delete(name, QueueDeleteOptions::default()).await?;
    }
    for (to, queue) in [(Address::from(&CTRL), &mut shared), (Address::from(&instance), &mut own)] {
        // In between nobody is there.
        let until = std::time::Instant::now() + crate::PATIENCE;
        while transport.send(Route::Address(&to), cast("again")).await.is_err() {
            assert!(std::time::Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        next(queue).await.ack();
    }
    ready(&transport).await;
    Ok(())
}

/// The consumer that goes on does so on another channel, and leaves the others where they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_right_before_closing_count_beside_a_queue_that_was_deleted() -> Test {
    let system = System::new().await;
    let (_connection, channel) = system.foreign().await?;
    let sender = system.connect().await;
    let instance = CTRL.at("host1")?;
    let group = EventGroup::new(CTRL, "g")?;
    let events = system.on_broker(group.as_str());
    for _ in 0..10 {
        let transport = system.connect().await;
        let subscription = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
        let mut own = transport.subscribe(subscription).await?;
        let (group, patterns) = (group.clone(), vec!["#".parse()?]);
        let subscription = Subscription::Events { group, patterns, prefetch: 10 };
        let mut heard = transport.subscribe(subscription).await?;
        channel.queue_delete(events.as_str().into(), QueueDeleteOptions::default()).await?;
        let start = std::time::Instant::now();
        loop {
            sender.send(Route::Event(&"topic".parse()?), cast("event")).await?;
            match tokio::time::timeout(Duration::from_millis(20), heard.next()).await {
                Ok(event) => break event.ok_or("it ended")?.ack(),
                Err(_) => assert!(start.elapsed() < crate::PATIENCE),
            }
        }
        for text in ["1", "2", "3"] {
            sender.send(Route::Address(&Address::from(&instance)), cast(text)).await?;
        }
        for _ in 0..3 {
            let delivery = next(&mut own).await;
            assert!(!delivery.is_redelivered(), "the ack before was lost");
            delivery.ack();
        }
        transport.close().await;
    }
    Ok(())
}

/// Whoever loses interest while the broker begins to deliver leaves nothing with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_stopped_while_it_begins_keeps_nothing() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    drop(serve(&transport, &CTRL, 1).await);
    fill(&transport, &CTRL, 20).await?;
    let (_connection, channel) = system.foreign().await?;
    let queue = system.on_broker("CTRL");
    // At each moment of the some milliseconds that it takes.
    for delay in (0..8_000).step_by(40) {
        let subscription = Subscription::Service { service: CTRL, prefetch: 20 };
        let subscribing = transport.subscribe(subscription);
        let limit = Duration::from_micros(delay);
        drop(tokio::time::timeout(limit, subscribing).await);
    }
    let start = std::time::Instant::now();
    while ready_in(&channel, &queue).await? < 20 {
        assert!(start.elapsed() < crate::PATIENCE, "{}", ready_in(&channel, &queue).await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Both channels that consume, with all that is on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_closes_comes_back_with_all_its_consumers() -> Test {
    const ECHO: Operation<u64, u64> = Operation::new("echo");
    async fn echo(_: Arc<()>, _: Context, number: u64) -> Result<u64, Fault> {
        Ok(number)
    }
    let broker = gear_test_amqp::Broker::shared().await;
    let between = Handshake::before(broker, Then::GoesOn).await?;
    let system = System::at(between.url());
    let node = Node::builder(system.connect().await, REPO.at("host1")?).on(ECHO, echo);
    let node = node.start().await?;
    let transport = system.connect().await;
    let client = Client::builder(transport.clone(), "CLI.test".parse()?).start().await?;
    let instance = CTRL.at("host1")?;
    let mut shared = serve(&transport, &CTRL, 10).await;
    let own = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
    let mut own = transport.subscribe(own).await?;
    let (group, patterns) = (EventGroup::new(CTRL, "all")?, vec!["a.#".parse()?]);
    let events = Subscription::Events { group, patterns, prefetch: 10 };
    let mut events = transport.subscribe(events).await?;
    let topic = "a.b".parse()?;
    let (to_service, to_instance) = (Address::from(&CTRL), Address::from(&instance));
    let routes = [Route::Address(&to_service), Route::Address(&to_instance), Route::Event(&topic)];
    let mut queues = [&mut shared, &mut own, &mut events];
    let mut held = Vec::new();
    for (route, queue) in routes.into_iter().zip(&mut queues) {
        transport.send(route, cast("held")).await?;
        held.push(next(queue).await);
    }
    let before = between.accepted();
    between.close_channels();
    for queue in &mut queues {
        let again = next(queue).await;
        assert!(again.is_redelivered());
        again.ack();
    }
    // Of a channel that is gone, and so nobody's to settle.
    held.into_iter().for_each(gear_api::Delivery::ack);
    for (route, queue) in routes.into_iter().zip(&mut queues) {
        transport.send(route, cast("new")).await?;
        let delivery = next(queue).await;
        assert_eq!((text(delivery.message()).as_str(), delivery.is_redelivered()), ("new", false));
        delivery.ack();
    }
    assert_eq!(client.call(REPO, ECHO, &7).timeout(crate::PATIENCE).await?, 7);
    assert_eq!(between.accepted(), before, "no connection was lost");
    ready(&transport).await;
    node.shutdown(crate::PATIENCE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_after_a_reconnect_does_nothing() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    fill(&transport, &CTRL, 3).await?;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(next(&mut queue).await);
    }
    let before = proxy.accepted();
    proxy.drop_connections();
    eventually("both connections are back", || proxy.accepted() >= before + 2).await;
    ready(&transport).await;
    // The same tags mean other deliveries now.
    old.into_iter().for_each(gear_api::Delivery::ack);
    for _ in 0..3 {
        let delivery = next(&mut queue).await;
        assert!(delivery.is_redelivered());
        delivery.ack();
    }
    nothing(&mut queue).await;
    transport.close().await;
    assert_eq!(waiting(&system, "CTRL").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_channels_on_two_connections_or_one() -> Test {
    let broker = gear_test_amqp::Broker::shared().await;
    for (single, connections) in [(false, 2), (true, 1)] {
        let vhost = broker.vhost().await;
        let proxy = broker.proxy().await;
        let system = System::at(proxy.through(&vhost.url()));
        let transport = system.builder().single_connection(single).connect().await?;
        let mut queue = serve(&transport, &CTRL, 10).await;
        let instance = CTRL.at("host1")?;
        let own = Subscription::Instance { instance, prefetch: 10 };
        let _own = transport.subscribe(own).await?;
        fill(&transport, &CTRL, 10).await?;
        for _ in 0..10 {
            next(&mut queue).await.ack();
        }
        assert_eq!(proxy.connections(), connections);
        if let Ok(channels) = broker.ctl(&["list_channels", "vhost"]).await {
            let ours = channels.lines().filter(|line| *line == vhost.name()).count();
            assert_eq!(ours, 3, "{channels}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_cap_the_prefetch() -> Test {
    let system = System::new().await;
    let transport = system.builder().max_prefetch(2).connect().await?;
    let mut queue = serve(&transport, &CTRL, 100).await;
    fill(&transport, &CTRL, 5).await?;
    let held = [next(&mut queue).await, next(&mut queue).await];
    nothing(&mut queue).await;
    held.into_iter().for_each(gear_api::Delivery::ack);
    for _ in 0..3 {
        next(&mut queue).await.ack();
    }
    Ok(())
}

/// With a system's prefix the queue's name on the broker is not the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_back_comes_under_the_name_of_its_queue() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &REPO, 10).await;
    let route =
        Route::Delayed { delay: Duration::from_millis(50), jitter: Duration::ZERO, queue: "REPO" };
    transport.send(route, cast("later")).await?;
    let delivery = next(&mut queue).await;
    assert_eq!(delivery.key().as_str(), "REPO");
    delivery.ack();
    Ok(())
}
