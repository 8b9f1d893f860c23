//! What of routing only a broker in the process can show: exact times, and bodies that are shared.

use gear_api::{HeaderValue, Id};

use super::*;

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
async fn a_delayed_message_reaches_exactly_its_queue_after_exactly_its_delay() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
    let mut h2 = join(&*web, "CTRL.h2").await.unwrap();
    let route = Route::Delayed { delay: ms(1_500), jitter: ms(0), queue: "CTRL.h1" };
    web.send(route, message("m")).await.unwrap();
    let (delivery, time) = timed(next(&mut h1)).await;
    assert_eq!((label(&delivery), time), ("m".into(), ms(1_500)));
    assert_eq!(delivery.key(), "CTRL.h1");
    delivery.ack();
    assert!(take_ready(&mut h2).is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_a_delay_whole_milliseconds_count() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    for micros in [1_000, 1_500] {
        let delay = Duration::from_micros(micros);
        web.send(Route::Delayed { delay, jitter: ms(0), queue: "CTRL" }, message("m"))
            .await
            .unwrap();
    }
    assert_eq!(timed(take(&mut ctrl, 2)).await.1, ms(1));
}

#[tokio::test(start_paused = true)]
async fn no_delay_is_too_long() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 10).await;
    let route = Route::Delayed { delay: Duration::MAX, jitter: ms(0), queue: "CTRL" };
    let _ = web.send(route, message("m")).await; // whatever the answer is, it is no panic
    assert_eq!(send(&*web, "CTRL", "m").await, Ok(()));
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
async fn everything_that_the_trait_knows_is_promised() {
    let web = connect(&MemoryBroker::new());
    let all = web.capabilities();
    assert!(all.confirms && all.mandatory && all.durable && all.expiry && all.delays);
    assert!(all.dead_letters && all.events && all.taps);
    assert!(all.exclusive_instances && all.virtual_time);
}

#[tokio::test(start_paused = true)]
async fn what_amqp_has_no_room_for_is_refused_here_too() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let long = "x".repeat(256);
    let to = ReplyTo::queue(long.as_str());
    let outcome = web.send(Route::Reply(&to), message("m")).await;
    assert!(matches!(outcome, Err(PublishError::Invalid(_))), "{outcome:?}");
    for message in [
        Message::builder(Kind::Cast, long.as_str()).build(),
        message("m").to_builder().content_type(long.as_str()).build(),
        message("m").to_builder().sender(long.as_str()).build(),
        message("m").to_builder().id(Id::from(long.as_str())).build(),
        message("m").to_builder().correlation(Id::from(long.as_str())).build(),
        message("m").to_builder().reply_to(to).build(),
    ] {
        let outcome = web.send(Route::Address(&address("CTRL")), message).await;
        let Err(PublishError::Invalid(why)) = outcome else { panic!("{outcome:?}") };
        assert!(why.contains("longer than 255 bytes"), "{why}");
    }
    assert!(take_ready(&mut ctrl).is_empty());

    let fits = Id::from("x".repeat(255).as_str());
    let message = message("m").to_builder().id(fits.clone()).correlation(fits).build();
    web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_delayed_again_does_not_remember_the_first_time() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    let mut delayed = message("m").to_builder().header("mine", 1).unwrap().build();
    for _ in 0..2 {
        web.send(Route::Delayed { delay: ms(100), jitter: ms(0), queue: "CTRL" }, delayed)
            .await
            .unwrap();
        let (message, settlement) = next(&mut ctrl).await.into_parts();
        settlement.ack();
        let Some(HeaderValue::List(deaths)) = message.headers().get("x-death") else { panic!() };
        let [HeaderValue::Table(death)] = &deaths[..] else { panic!("{deaths:?}") };
        let count = death.iter().find(|(name, _)| *name == "count");
        assert_eq!(count.and_then(|(_, count)| count.as_int()), Some(1));
        let others = message.headers().iter().filter(|(name, _)| *name != "x-death");
        let mut others: Vec<_> = others.map(|(name, value)| (name, value.as_str())).collect();
        others.sort_unstable();
        let (exchange, queue) = (Some("gear.retry.100"), Some("gear:retry.100"));
        let expected = [
            ("mine", None),
            ("x-first-death-exchange", exchange),
            ("x-first-death-queue", queue),
            ("x-first-death-reason", Some("expired")),
            ("x-last-death-exchange", exchange),
            ("x-last-death-queue", queue),
            ("x-last-death-reason", Some("expired")),
        ];
        assert_eq!(others, expected);
        delayed = message;
    }
}
