//! Confirms that come late, or never while others do: those of a quorum queue without a majority, for
//! example.

use std::time::{Duration, Instant, SystemTime};

use gear_amqp::AmqpTransport;
use gear_api::{Address, Consumer, Id, PublishError, Route, Timestamp, Transport};
use gear_test_amqp::Broker;
use tokio::time::timeout;

use crate::{
    CTRL, PATIENCE, System, Test, cast, eventually,
    handshake::{Handshake, Then},
    next, nothing, serve, text,
};

struct Scene {
    between: Handshake,
    sender: AmqpTransport,
    queue: Consumer,
    _receiver: AmqpTransport,
}

impl Scene {
    async fn new(options: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let broker = Broker::shared().await;
        let between = Handshake::before(broker, Then::GoesOn).await?;
        let system = System::at(format!("{}?{options}", between.url()));
        let sender = system.connect().await;
        let receiver = system.direct().await.connect().await;
        let queue = serve(&receiver, &CTRL, 1_000).await;
        Ok(Self { between, sender, queue, _receiver: receiver })
    }

    async fn send(&self, text: &str) -> Result<(), PublishError> {
        let to = Address::from(&CTRL);
        let sent = self.sender.send(Route::Address(&to), cast(text));
        timeout(PATIENCE, sent).await.expect("it is in nobody's way")
    }

    /// It arrives, its confirm is lost, and its sender waits no longer.
    async fn send_in_vain(&self, text: &str) {
        self.between.lose_a_confirm();
        let to = Address::from(&CTRL);
        let soon = Timestamp::from(SystemTime::now()) + Duration::from_millis(100);
        let message = cast(text).to_builder().deadline(soon).build();
        let outcome = self.sender.send(Route::Address(&to), message).await;
        assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    }

    async fn expect(&mut self, expected: &str) {
        let delivery = next(&mut self.queue).await;
        assert_eq!(text(delivery.message()), expected);
        delivery.ack();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_unconfirmed_is_in_nobodys_way() -> Test {
    let mut scene = Scene::new("unconfirmed=1").await?;
    let channels = scene.between.channels();
    for n in 0..25 {
        scene.send_in_vain(&format!("in vain {n}")).await;
        scene.send(&n.to_string()).await?;
        scene.expect(&format!("in vain {n}")).await;
        scene.expect(&n.to_string()).await;
    }
    // Neither is it kept for ever: ten times as many as may be on their way.
    assert_eq!(scene.between.channels(), channels + 2, "another channel for each ten");
    assert_eq!(scene.between.accepted(), 2, "over the same connections");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_never_confirmed_has_its_connection_tested() -> Test {
    let mut scene = Scene::new("confirm_timeout=300").await?;
    let channels = scene.between.channels();
    scene.between.lose_a_confirm();
    let to = Address::from(&CTRL);
    let waiting = scene.sender.send(Route::Address(&to), cast("never"));
    scene.expect("never").await;
    // Others are confirmed all the time.
    let (start, mut n) = (Instant::now(), 0);
    while scene.between.channels() < channels + 3 {
        scene.send(&n.to_string()).await?;
        scene.expect(&n.to_string()).await;
        n += 1;
        assert!(start.elapsed() < PATIENCE, "nobody asks the broker");
    }
    assert_eq!(scene.between.accepted(), 2, "it answers, so it stays");
    scene.between.change(Then::GoesOn);
    eventually("it is connected again", || scene.between.accepted() >= 4).await;
    timeout(PATIENCE, waiting).await??;
    scene.expect("never").await;
    Ok(())
}

/// Another one that is confirmed is an answer, too: the node may be well, and its metadata locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_confirms_others_is_not_left_for_one() -> Test {
    let mut scene = Scene::new("confirm_timeout=300").await?;
    let channels = scene.between.channels();
    scene.between.lose_binds();
    scene.between.lose_a_confirm();
    let to = Address::from(&CTRL);
    let _waiting = scene.sender.send(Route::Address(&to), cast("never"));
    scene.expect("never").await;
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(7) {
        scene.send(&n.to_string()).await?;
        scene.expect(&n.to_string()).await;
        n += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(scene.between.channels() > channels, "it was asked");
    assert_eq!(scene.between.accepted(), 2, "and not left");
    Ok(())
}

/// Nor for a delay that it can not bind; and nobody else waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_confirms_others_is_not_left_for_a_delay() -> Test {
    let mut scene = Scene::new("heartbeat=60").await?;
    scene.between.lose_binds();
    let route =
        Route::Delayed { delay: Duration::from_millis(50), jitter: Duration::ZERO, queue: "CTRL" };
    let _waiting = scene.sender.send(route, cast("later"));
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(17) {
        let sent = Instant::now();
        scene.send(&n.to_string()).await?;
        assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
        scene.expect(&n.to_string()).await;
        n += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(scene.between.accepted(), 2, "it is not left");
    Ok(())
}

/// A broker that has not got a message yet can not confirm it; and one that expires meanwhile is on the
/// link all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_has_the_time_that_a_slow_link_needs() -> Test {
    let expires = Some(Duration::from_secs(2));
    tokio::try_join!(send_a_large_one_slowly(None), send_a_large_one_slowly(expires))?;
    Ok(())
}

async fn send_a_large_one_slowly(expires: Option<Duration>) -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let builder = system.builder().max_message_bytes(16 << 20);
    let sender = builder.confirm_timeout(Duration::from_millis(500)).connect().await?;
    let receiver = system.direct().await.connect().await;
    let mut queue = serve(&receiver, &CTRL, 10).await;
    let accepted = proxy.accepted();
    proxy.throttle(800_000);
    let body = "x".repeat(9 << 20);
    let expires = expires.map(|after| Timestamp::from(SystemTime::now()) + after);
    let message = cast(&body).to_builder().id(Id::from("large")).deadline(expires).build();
    let to = Address::from(&CTRL);
    let outcome = timeout(PATIENCE, sender.send(Route::Address(&to), message)).await?;
    match expires {
        None => outcome?,
        Some(_) => assert!(matches!(outcome, Err(PublishError::Unknown(_))), "{outcome:?}"),
    }
    let delivery = next(&mut queue).await;
    assert_eq!(delivery.message().body().len(), 9 << 20);
    delivery.ack();
    nothing(&mut queue).await;
    assert_eq!(proxy.accepted(), accepted, "over the connections that there were");
    Ok(())
}

/// A node that is cut off from its cluster gives no error: only confirms stay away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_confirms_nothing_is_left_for_another() -> Test {
    let broker = Broker::shared().await;
    let (stuck, good) = (broker.proxy().await, broker.proxy().await);
    let system = System::at(stuck.url());
    // It starts at either; the one that it is at freezes its answers.
    let transport = system
        .builder()
        .url(&good.url())?
        .heartbeat(Duration::from_secs(60))
        .confirm_timeout(Duration::from_millis(500))
        .connect()
        .await?;
    let mut queue = serve(&transport, &CTRL, 50).await;
    let to = Address::from(&CTRL);
    transport.send(Route::Address(&to), cast("before")).await?;
    next(&mut queue).await.ack();
    let (from, other) = if stuck.connections() > 0 { (stuck, good) } else { (good, stuck) };
    let before = other.accepted();
    from.freeze_answers();
    let sent = transport.send(Route::Address(&to), cast("after"));
    tokio::time::timeout(PATIENCE, sent).await??;
    assert!(other.accepted() > before, "it went to the other one");
    // And so does the connection that consumes, which by itself sees nothing wrong yet.
    assert_eq!(text(next(&mut queue).await.message()), "after");
    // Nobody there says goodbye.
    eventually("what is left of them is given back", || from.connections() == 0).await;
    Ok(())
}

/// Whoever only consumes there has no confirm to miss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_answer_a_consumer_is_left_for_another() -> Test {
    let broker = Broker::shared().await;
    let (one, two) = (broker.proxy().await, broker.proxy().await);
    let system = System::at(one.url());
    let builder = system.builder().url(&two.url())?.heartbeat(Duration::from_secs(60));
    let transport = builder.confirm_timeout(Duration::from_millis(500)).connect().await?;
    let mut queue = serve(&transport, &CTRL, 50).await;
    // It looks several times, finds everything well, and leaves nothing open for that.
    let accepted = one.accepted() + two.accepted();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(one.accepted() + two.accepted(), accepted);
    if one.connections() > 0 {
        one.freeze_answers();
    } else {
        two.freeze_answers();
    }

    let elsewhere = system.direct().await.connect().await;
    elsewhere.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    assert_eq!(text(next(&mut queue).await.message()), "x");
    Ok(())
}

/// lapin itself would wait for the broker's goodbye, with its thread and its socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_is_closed_over_a_dead_link_leaves_nothing_behind() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(60)).connect().await?;
    assert_eq!(proxy.connections(), 2);
    proxy.freeze_answers();
    timeout(PATIENCE, transport.close()).await?;
    eventually("its connections end", || proxy.connections() == 0).await;
    Ok(())
}
