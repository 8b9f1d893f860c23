//! Where each route leads, and what its publisher is told.

use gear_api::{EventGroup, Pattern, Topic};

use super::*;

async fn listen(on: &dyn Transport, group: &str, patterns: &[&'static str]) -> Consumer {
    let group = EventGroup::new(CTRL, group).unwrap();
    let patterns = patterns.iter().copied().map(Pattern::new).collect();
    on.subscribe(Subscription::Events { group, patterns, prefetch: 10 }).await.unwrap()
}

async fn publish(on: &dyn Transport, topic: &'static str, body: &str) -> Result {
    on.send(Route::Event(&Topic::new(topic)), message(body)).await
}

#[tokio::test(start_paused = true)]
async fn a_service_address_reaches_one_of_its_instances() {
    let broker = MemoryBroker::new();
    let (web, one, two) = (connect(&broker), connect(&broker), connect(&broker));
    let (mut one, mut two) = (serve(&*one, 10).await, serve(&*two, 10).await);
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(take_ready(&mut one), ["1", "3"]);
    assert_eq!(take_ready(&mut two), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_address_reaches_that_instance_alone() {
    let broker = MemoryBroker::new();
    let (web, one, two) = (connect(&broker), connect(&broker), connect(&broker));
    let mut h1 = join(&*one, "CTRL.h1").await.unwrap();
    let mut h2 = join(&*two, "CTRL.h2").await.unwrap();
    send(&*web, "CTRL.h1", "m").await.unwrap();
    assert_eq!(take_ready(&mut h1), ["m"]);
    assert!(take_ready(&mut h2).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_multicast_reaches_every_instance_of_the_service_and_a_broadcast_all() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut all = Vec::new();
    for name in ["CTRL.h1", "CTRL.h2", "REPO.h1"] {
        all.push(join(&*web, name).await.unwrap());
    }
    send(&*web, "CTRL.*", "service").await.unwrap();
    send(&*web, "*.*", "system").await.unwrap();
    let heard: Vec<_> = all.iter_mut().map(take_ready).collect();
    assert_eq!(heard, [vec!["service", "system"], vec!["service", "system"], vec!["system"]]);
}

#[tokio::test(start_paused = true)]
async fn a_multicast_copies_no_body() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
    let mut h2 = join(&*web, "CTRL.h2").await.unwrap();
    let sent = message("one body for all");
    web.send(Route::Address(&CTRL.all()), sent.clone()).await.unwrap();
    for consumer in [&mut h1, &mut h2] {
        let (received, settlement) = next(consumer).await.into_parts();
        assert_eq!(received.body().as_ptr(), sent.body().as_ptr());
        settlement.ack();
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_where_nobody_is_is_not_routed() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    for nobody in ["CTRL", "CTRL.h1", "CTRL.*", "*.*"] {
        assert_eq!(send(&*web, nobody, "m").await, Err(PublishError::NotRouted), "{nobody}");
    }
    assert_eq!(broker.queues(), []);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_has_left_still_has_its_queue() {
    let broker = MemoryBroker::new();
    let (web, ctrl) = (connect(&broker), connect(&broker));
    drop(serve(&*ctrl, 1).await);
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(take(&mut serve(&*ctrl, 1).await, 1).await, ["m"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_reaches_every_group_that_wants_it_and_one_member_of_each() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut bills = listen(&*web, "bills", &["orders.#"]).await;
    let mut one = listen(&*web, "stock", &["orders.*.placed"]).await;
    let mut two = listen(&*web, "stock", &["orders.*.placed"]).await;
    publish(&*web, "orders.eu.placed", "1").await.unwrap();
    publish(&*web, "orders.us.placed", "2").await.unwrap();
    publish(&*web, "orders.eu.sent", "3").await.unwrap();
    assert_eq!(take_ready(&mut bills), ["1", "2", "3"]);
    assert_eq!(take_ready(&mut one), ["1"]);
    assert_eq!(take_ready(&mut two), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_wants_is_confirmed() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut group = listen(&*web, "g", &["orders.#"]).await;
    publish(&*web, "other", "m").await.unwrap();
    assert!(take_ready(&mut group).is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_and_addresses_do_not_mix() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut group = listen(&*web, "g", &["#"]).await;
    let mut service = serve(&*web, 1).await;
    publish(&*web, "CTRL", "event").await.unwrap();
    send(&*web, "CTRL", "cast").await.unwrap();
    assert_eq!(take_ready(&mut group), ["event"]);
    assert_eq!(take_ready(&mut service), ["cast"]);
}

#[tokio::test(start_paused = true)]
async fn the_patterns_of_earlier_members_stay() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(listen(&*web, "g", &["a"]).await);
    let mut group = listen(&*web, "g", &["b"]).await;
    publish(&*web, "a", "1").await.unwrap();
    publish(&*web, "b", "2").await.unwrap();
    assert_eq!(take_ready(&mut group), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_reaches_exactly_its_queue_after_exactly_its_delay() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
    let mut h2 = join(&*web, "CTRL.h2").await.unwrap();
    let route = Route::Delayed { delay: ms(1_500), queue: "CTRL.h1" };
    web.send(route, message("m")).await.unwrap();
    let (delivery, time) = timed(next(&mut h1)).await;
    assert_eq!((label(&delivery), time), ("m".into(), ms(1_500)));
    assert_eq!(delivery.key(), "CTRL.h1");
    delivery.ack();
    assert!(take_ready(&mut h2).is_empty());
}

#[tokio::test(start_paused = true)]
async fn shorter_delays_overtake_longer_ones() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    for (delay, body) in [(ms(5_000), "late"), (ms(1_000), "early"), (ms(1_000), "early, too")] {
        web.send(Route::Delayed { delay, queue: "CTRL" }, message(body)).await.unwrap();
    }
    let (taken, time) = timed(take(&mut ctrl, 3)).await;
    assert_eq!(taken, ["early", "early, too", "late"]);
    assert_eq!(time, ms(5_000));
}

#[tokio::test(start_paused = true)]
async fn of_a_delay_whole_milliseconds_count() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    for micros in [1_000, 1_500] {
        let delay = Duration::from_micros(micros);
        web.send(Route::Delayed { delay, queue: "CTRL" }, message("m")).await.unwrap();
    }
    assert_eq!(timed(take(&mut ctrl, 2)).await.1, ms(1));
}

#[tokio::test(start_paused = true)]
async fn no_delay_is_too_long() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 10).await;
    let route = Route::Delayed { delay: Duration::MAX, queue: "CTRL" };
    let _ = web.send(route, message("m")).await; // whatever the answer is, it is no panic
    assert_eq!(send(&*web, "CTRL", "m").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_waits_in_the_queue_of_its_service() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let dead = Route::Dead(&CTRL);
    assert_eq!(web.send(dead, message("m")).await, Err(PublishError::NotRouted));
    let _ctrl = serve(&*web, 1).await;
    web.send(dead, message("m")).await.unwrap();
    assert_eq!(ready(&broker, "CTRL:dead"), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_does_not_expire() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 1).await;
    web.send(Route::Dead(&CTRL), expiring("m", &*web, ms(10))).await.unwrap();
    tokio::time::sleep(ms(100)).await;
    assert_eq!(ready(&broker, "CTRL:dead"), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_dropped_at_its_deadline() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let message = expiring("m", &*web, ms(100));
    web.send(Route::Address(&CTRL.into()), message).await.unwrap();
    tokio::time::sleep(ms(99)).await;
    assert_eq!(ready(&broker, "CTRL"), ["m"]);
    tokio::time::sleep(ms(2)).await;
    assert!(ready(&broker, "CTRL").is_empty());
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_larger_than_the_limit_is_refused_and_one_as_large_is_taken() {
    let broker = MemoryBroker::builder().max_message_bytes(4).build();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    assert_eq!(web.capabilities().max_message_bytes, 4);
    let error = send(&*web, "CTRL", "12345").await;
    assert_eq!(error, Err(PublishError::TooLarge { bytes: 5, limit: 4 }));
    send(&*web, "CTRL", "1234").await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["1234"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_handed_over_in_the_call_and_dropping_its_answer_does_not_unsend_it() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let address = Address::from(CTRL);
    let first = web.send(Route::Address(&address), message("1"));
    assert!(first.is_handed_over());
    drop(first);
    web.send(Route::Address(&address), message("2")).detach();
    assert_eq!(take_ready(&mut ctrl), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_connection_arrive_in_the_order_of_the_calls() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    let bodies: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let sent: Vec<_> = bodies
        .iter()
        .map(|body| web.send(Route::Address(&address("CTRL")), message(body)))
        .collect();
    for publish in sent.into_iter().rev() {
        publish.await.unwrap();
    }
    assert_eq!(take(&mut ctrl, 100).await, bodies);
}

#[tokio::test(start_paused = true)]
async fn everything_that_the_trait_knows_is_promised() {
    let web = connect(&MemoryBroker::new());
    let all = web.capabilities();
    assert!(all.confirms && all.mandatory && all.durable && all.expiry && all.delays);
    assert!(all.dead_letters && all.events && all.taps);
    assert!(all.exclusive_instances && all.virtual_time);
}
