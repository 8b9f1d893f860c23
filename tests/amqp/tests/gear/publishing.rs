//! Each publish has one outcome, the right one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gear_amqp::AmqpTransport;
use gear_api::{
    Address, EventGroup, Id, Kind, Message, Publish, PublishError, Route, Subscription, Timestamp,
    Transport,
};
use gear_test_amqp::{Broker, Options};

use crate::{CTRL, REPO, System, Test, cast, next, nothing, serve, text};

/// A queue that takes nothing, so that what is for it is refused.
async fn full_queue(system: &System) -> Result<(), lapin::Error> {
    use lapin::{options::*, types::*};
    let (_connection, channel) = system.foreign().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let name: ShortString = system.on_broker("FULL").into();
    channel.queue_declare(name.clone(), options, arguments).await?;
    let exchange = system.on_broker("gear").into();
    let bind = QueueBindOptions::default();
    channel.queue_bind(name, exchange, "FULL".into(), bind, FieldTable::default()).await
}

/// lapin hands a return to whichever confirm it handles next, and the confirms of several
/// publishers to the wrong ones: each outcome must be the right one all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outcome_is_wrong_in_100_000_of_8_tasks_with_1_000_in_flight() -> Test {
    const EACH: u64 = 12_500;
    let system = System::new().await;
    let transport = system.connect().await;
    let mut sink = serve(&transport, &CTRL, 1000).await;
    full_queue(&system).await?;
    tokio::spawn(async move {
        while let Some(delivery) = sink.next().await {
            delivery.ack();
        }
    });
    let mut tasks = Vec::new();
    for task in 0..8u64 {
        let transport = transport.clone();
        tasks.push(tokio::spawn(mix(transport, task, EACH)));
    }
    let mut counts = [0u64; 3];
    for task in tasks {
        for (count, more) in counts.iter_mut().zip(task.await?) {
            *count += more;
        }
    }
    assert_eq!(counts.iter().sum::<u64>(), 8 * EACH);
    assert!(counts.iter().all(|count| *count > 8 * EACH / 6), "{counts:?}");
    Ok(())
}

/// Sends a mix, 125 at a time; returns how many were routed, not routed, refused.
async fn mix(transport: AmqpTransport, task: u64, count: u64) -> [u64; 3] {
    let mut random = task + 1;
    let mut counts = [0; 3];
    let mut sent = std::collections::VecDeque::<(usize, Publish)>::new();
    let to: [Address; 3] = ["CTRL", "GONE", "FULL"].map(|key| key.parse().expect("an address"));
    for number in 0..=count {
        if sent.len() == 125 || number == count {
            let rest = if number == count { 0 } else { 124 };
            while sent.len() > rest {
                let (kind, publish) = sent.pop_front().expect("there are some");
                let outcome = publish.await;
                let is_right = match kind {
                    0 => outcome == Ok(()),
                    1 => outcome == Err(PublishError::NotRouted),
                    _ => matches!(outcome, Err(PublishError::Refused(_))),
                };
                assert!(is_right, "{outcome:?} for {}", to[kind]);
                counts[kind] += 1;
            }
        }
        if number < count {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let kind = (random >> 33) as usize % 3;
            let id = Id::from(format!("{task}-{number}").as_str());
            let message = Message::builder(Kind::Cast, "x").id(id).durable(true).build();
            sent.push_back((kind, transport.send(Route::Address(&to[kind]), message)));
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_turn_keeps_its_order() -> Test {
    let system = System::new().await;
    let transport = system.builder().max_unconfirmed(3).connect().await?;
    let mut queue = serve(&transport, &CTRL, 1000).await;
    let to = Address::from(&CTRL);
    let sent: Vec<Publish> =
        (0..500).map(|n| transport.send(Route::Address(&to), cast(&n.to_string()))).collect();
    assert!(sent.iter().any(|publish| !publish.is_handed_over()), "some wait");
    for publish in sent {
        publish.await?;
    }
    for n in 0..500 {
        let delivery = next(&mut queue).await;
        assert_eq!(text(delivery.message()), n.to_string());
        delivery.ack();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_withdrawn_is_never_sent() -> Test {
    let system = System::new().await;
    let transport = system.builder().max_unconfirmed(1).connect().await?;
    let mut queue = serve(&transport, &CTRL, 1000).await;
    let to = Address::from(&CTRL);
    let mut kept = 0;
    for round in 0..200 {
        let first = transport.send(Route::Address(&to), cast(&format!("{round}-first")));
        let mut second = transport.send(Route::Address(&to), cast(&format!("{round}-second")));
        let withdrawn = second.withdraw();
        first.await?;
        if !withdrawn {
            second.await?;
            kept += 1;
        }
        kept += 1;
    }
    for _ in 0..kept {
        next(&mut queue).await.ack();
    }
    nothing(&mut queue).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_has_passed_is_not_sent() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let _queue = serve(&transport, &CTRL, 1).await;
    let late = cast("late").to_builder().deadline(Timestamp::from_unix_ms(1)).build();
    let outcome = transport.send(Route::Address(&Address::from(&CTRL)), late).await;
    assert!(matches!(outcome, Err(PublishError::NotSent(_))), "{outcome:?}");
    Ok(())
}

/// `ShortString::from` of lapin panics above 255 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_amqp_has_no_room_for_is_refused_before_it_is_sent() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let _queue = serve(&transport, &CTRL, 1).await;
    let to = Address::from(&CTRL);
    let long = "x".repeat(300);
    let reply = gear_api::ReplyTo::queue(long.as_str());
    let outcome = transport.send(Route::Reply(&reply), cast("x")).await;
    assert!(matches!(outcome, Err(PublishError::Invalid(_))), "{outcome:?}");
    for message in [
        Message::builder(Kind::Cast, long.as_str()).build(),
        cast("x").to_builder().id(Id::from(long.as_str())).build(),
        cast("x").to_builder().content_type(long.as_str()).build(),
        cast("x").to_builder().sender(long.as_str()).build(),
    ] {
        let outcome = transport.send(Route::Address(&to), message).await;
        let Err(PublishError::Invalid(why)) = outcome else { panic!("{outcome:?}") };
        assert!(why.contains("longer"), "{why}");
    }
    let large = transport.capabilities().max_message_bytes + 1;
    let outcome = transport.send(Route::Address(&to), cast(&"x".repeat(large))).await;
    assert_eq!(outcome, Err(PublishError::TooLarge { bytes: large, limit: large - 1 }));
    transport.send(Route::Address(&to), cast("and goes on")).await?;
    Ok(())
}

/// The broker closes the channel, with everybody's messages on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_brokers_limit_is_refused_and_harms_no_neighbour() -> Test {
    let conf = vec!["max_message_size = 2000".to_owned()];
    let broker = Broker::private_with(Options { conf, ..Options::default() }).await;
    let system = System::on(&broker);
    let transport = Arc::new(system.connect().await);
    let mut queue = serve(&transport, &CTRL, 1000).await;
    let to = Address::from(&CTRL);
    let sent: Vec<(usize, Publish)> = (0..300)
        .map(|n| {
            let body = if n % 100 == 50 { "x".repeat(5000) } else { "x".repeat(10) };
            let id = Id::from(format!("{n}").as_str());
            let message = cast(&body).to_builder().id(id).build();
            (n, transport.send(Route::Address(&to), message))
        })
        .collect();
    for (n, publish) in sent {
        let outcome = tokio::time::timeout(crate::PATIENCE, publish).await?;
        match n % 100 {
            50 => assert!(matches!(&outcome, Err(PublishError::Refused(_))), "{n}: {outcome:?}"),
            _ => assert_eq!(outcome, Ok(()), "{n}"),
        }
    }
    // Those that were on their way when the channel closed may have come twice.
    let mut seen = std::collections::BTreeSet::new();
    while let Ok(Some(delivery)) =
        tokio::time::timeout(Duration::from_millis(500), queue.next()).await
    {
        seen.insert(delivery.message().id().expect("it was set").to_string());
        delivery.ack();
    }
    assert_eq!(seen.len(), 297);
    Ok(())
}

/// The broker closes the channel, and mostly the connection is fine. Where it closes that, too, since it saw
/// frames on a channel that it had closed, nothing more is sent, and nobody is told that it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_a_channel_is_replaced_loses_no_message() -> Test {
    const MESSAGES: usize = 20;
    const ROUNDS: usize = 20;
    let conf = vec!["max_message_size = 2000".to_owned()];
    let broker = Broker::private_with(Options { conf, ..Options::default() }).await;
    let to = Address::from(&CTRL);
    let mut cut_short = 0;
    for round in 0..ROUNDS {
        let system = System::on(&broker);
        let receiver = system.connect().await;
        let mut queue = serve(&receiver, &CTRL, 100).await;
        let transport = system.connect().await;
        let large = cast("large").to_builder().body("x".repeat(5_000)).build();
        transport.send(Route::Address(&to), large).detach();
        let send = |n: usize| transport.send(Route::Address(&to), cast(&n.to_string()));
        let sent: Vec<_> = (0..MESSAGES).map(send).collect();
        transport.close().await;
        let mut confirmed = std::collections::BTreeSet::new();
        for (n, publish) in sent.into_iter().enumerate() {
            if publish.await.is_ok() {
                confirmed.insert(n.to_string());
            }
        }
        cut_short += usize::from(confirmed.len() < MESSAGES);
        while !confirmed.is_empty() {
            let delivery = tokio::time::timeout(Duration::from_secs(5), queue.next()).await;
            let delivery = delivery.map_err(|_| format!("round {round}: lost {confirmed:?}"))?;
            let delivery = delivery.ok_or("the consumer goes on")?;
            confirmed.remove(&text(delivery.message()));
            delivery.ack();
        }
    }
    assert!(cut_short <= ROUNDS / 5, "closing gave up in {cut_short} of {ROUNDS} rounds");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_gone_is_declared_again() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let group = EventGroup::new(CTRL, "group")?;
    let events = Subscription::Events { group, patterns: vec!["a.b".parse()?], prefetch: 10 };
    let mut events = transport.subscribe(events).await?;
    let (_connection, channel) = system.foreign().await?;
    for name in ["gear.events", "gear"] {
        let (name, options) = (system.on_broker(name).into(), Default::default());
        channel.exchange_delete(name, options).await?;
    }
    // An event needs nobody to hear it, so it is confirmed.
    let topic = "a.b".parse()?;
    let event = || Message::builder(Kind::Event, "x").build();
    transport.send(Route::Event(&topic), event()).await?;
    // What was bound there is again, a moment later: here, since this is who has found out.
    let start = Instant::now();
    while tokio::time::timeout(Duration::from_millis(100), events.next()).await.is_err() {
        assert!(start.elapsed() < crate::PATIENCE, "its events do not come");
        transport.send(Route::Event(&topic), event()).await?;
    }
    let to = Address::from(&CTRL);
    while transport.send(Route::Address(&to), cast("goes on")).await.is_err() {
        assert!(start.elapsed() < crate::PATIENCE, "its requests do not come");
    }
    next(&mut queue).await.ack();
    Ok(())
}

/// The four ways to address, at one queue each, and back to the sender where nobody is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_reach_nobody_come_back() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let _queue = serve(&transport, &REPO, 1).await;
    for key in ["CTRL", "CTRL.host1", "CTRL.*", "*.*", "REPO.host1"] {
        let to: Address = key.parse()?;
        let outcome = transport.send(Route::Address(&to), cast("x")).await;
        assert_eq!(outcome, Err(PublishError::NotRouted), "{key}");
    }
    Ok(())
}

/// What is set aside has the id of the message that it is a copy of, and a service's name as its
/// key, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_belongs_to_the_exchange_that_it_was_for() -> Test {
    let system = System::new().await;
    let transport = system.connect().await;
    let _queue = serve(&transport, &CTRL, 1).await;
    let (_connection, channel) = system.foreign().await?;
    let dead = system.on_broker("CTRL:dead").into();
    channel.queue_delete(dead, lapin::options::QueueDeleteOptions::default()).await?;
    let to = Address::from(&CTRL);
    let sent: Vec<[Publish; 2]> = (0..200)
        .map(|n| {
            let message = || cast(&n.to_string());
            let routed = transport.send(Route::Address(&to), message());
            [routed, transport.send(Route::Dead(&CTRL), message())]
        })
        .collect();
    for (n, [routed, returned]) in sent.into_iter().enumerate() {
        assert_eq!(routed.await, Ok(()), "{n}");
        assert_eq!(returned.await, Err(PublishError::NotRouted), "{n}");
    }
    Ok(())
}

/// Keys that no address of Gear has, as other programs may write them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_no_addresses_reach_nobody_either() -> Test {
    use lapin::options::*;
    let system = System::new().await;
    let transport = system.connect().await;
    let mut shared = serve(&transport, &CTRL, 1).await;
    let instance = CTRL.at("host1")?;
    let own = gear_api::Subscription::Instance { instance, prefetch: 1 };
    let mut own = transport.subscribe(own).await?;
    let (_connection, channel) = system.foreign().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    for key in ["", ".", "#", "*", "CTRL.#", "CTRL.", ".CTRL", "CTRL.unknown", "unknown", "ctrl"] {
        let exchange = system.on_broker("gear").into();
        let sent = channel.basic_publish(exchange, key.into(), options, b"x", Default::default());
        let returned = sent.await?.await?.take_message().ok_or(key)?;
        assert_eq!(returned.reply_code, 312, "{key}");
    }
    nothing(&mut shared).await;
    nothing(&mut own).await;
    Ok(())
}

/// It is internal: what is for all goes through the entry, where it can be returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_publishes_behind_the_entry() -> Test {
    use lapin::options::*;
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &REPO, 1).await;
    let (_connection, channel) = system.foreign().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let exchange = system.on_broker("gear.cast").into();
    let sent = channel.basic_publish(exchange, "REPO.*".into(), options, b"x", Default::default());
    let refused = sent.await?.await.expect_err("it is internal");
    assert!(refused.to_string().contains("ACCESS_REFUSED"), "{refused}");
    assert!(!channel.status().connected());
    for group in [REPO.all(), Address::Broadcast] {
        let outcome = transport.send(Route::Address(&group), cast("x")).await;
        assert_eq!(outcome, Err(PublishError::NotRouted), "{group}");
    }
    nothing(&mut queue).await;
    Ok(())
}

/// RabbitMQ's least is 8 KiB: bodies take many frames, and headers must fit one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_frames_carry_large_bodies_and_no_larger_headers() -> Test {
    let conf = vec!["frame_max = 8192".to_owned()];
    let broker = Broker::private_with(Options { conf, ..Options::default() }).await;
    let system = System::on(&broker);
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let to = Address::from(&CTRL);
    // Around one frame, around two, and many.
    for bytes in [0, 8183, 8184, 8185, 16_368, 16_369, 1024 * 1024] {
        let body: Vec<u8> = (0..bytes).map(|n: u32| (n % 251) as u8).collect();
        let message = cast("large").to_builder().body(body.clone()).build();
        transport.send(Route::Address(&to), message).await?;
        let delivery = next(&mut queue).await;
        assert_eq!(delivery.message().body(), &body, "{bytes} bytes");
        delivery.ack();
    }
    // The longest that fits is sent, and the broker takes it; the next one is not sent.
    let long = |bytes| {
        cast("x")
            .to_builder()
            .header("long", "x".repeat(bytes))
            .map(gear_api::MessageBuilder::build)
    };
    let mut bytes = 7_500;
    let outcome = loop {
        let sent = transport.send(Route::Address(&to), long(bytes)?);
        match tokio::time::timeout(crate::PATIENCE, sent).await? {
            Ok(()) => next(&mut queue).await.ack(),
            Err(error) => break error,
        }
        bytes += 1;
    };
    assert!(matches!(&outcome, PublishError::Invalid(why) if why.contains("8193")), "{outcome}");
    let outcome = transport.send(Route::Address(&to), long(15_000)?).await;
    assert!(matches!(outcome, Err(PublishError::Invalid(_))), "{outcome:?}");
    transport.send(Route::Address(&to), cast("goes on")).await?;
    assert_eq!(text(next(&mut queue).await.message()), "goes on");
    Ok(())
}
