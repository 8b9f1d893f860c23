//! Messages that the broker holds back.

use std::time::Duration;

use gear_api::Route;
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "delays";
    a_delayed_message_reaches_its_queue_after_its_delay(delays): "exactly there, not before",
    shorter_delays_overtake_longer_ones(delays): "and those of one delay keep their order",
    a_delayed_message_waits_for_who_is_away(delays): "in its queue, when its time has come",
    jitter_lets_a_message_leave_sooner(delays): "but not before those that were sent before it",
    a_delayed_message_is_the_same(delays): "body, id and headers",
}

async fn a_delayed_message_reaches_its_queue_after_its_delay(world: World) -> Test {
    let web = world.connect().await?;
    let mut h1 = join(&*world.connect().await?, "CTRL.h1").await?;
    let mut h2 = join(&*world.connect().await?, "CTRL.h2").await?;
    let start = Instant::now();
    let route = Route::Delayed { delay: SHORT, jitter: Duration::ZERO, queue: "CTRL.h1" };
    web.send(route, message("m")).await?;
    let delivery = next(&mut h1).await;
    world.took(start, SHORT);
    assert_eq!((label(&delivery).trim_end_matches('!'), delivery.key().as_str()), ("m", "CTRL.h1"));
    delivery.ack();
    world.quiet().await;
    assert!(take_ready(&mut h1).is_empty() && take_ready(&mut h2).is_empty());
    Ok(())
}

async fn shorter_delays_overtake_longer_ones(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let late = Duration::from_secs(3);
    for (delay, body) in [(late, "late"), (SHORT, "early"), (SHORT, "early, too")] {
        web.send(Route::Delayed { delay, jitter: Duration::ZERO, queue: "CTRL" }, message(body))
            .await?;
    }
    assert_eq!(take_all(&world, &mut ctrl, 3).await, ["early", "early, too", "late"]);
    Ok(())
}

async fn a_delayed_message_waits_for_who_is_away(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    web.send(Route::Delayed { delay: SHORT, jitter: Duration::ZERO, queue: "CTRL" }, message("m"))
        .await?;
    web.close().await;
    tokio::time::sleep(SHORT * 3).await;
    let mut back = serve(&*world.connect().await?, 1).await?;
    assert_eq!(take_all(&world, &mut back, 1).await, ["m"]);
    Ok(())
}

async fn jitter_lets_a_message_leave_sooner(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let delay = SHORT * 5;
    let start = Instant::now();
    for (body, jitter) in [("first", SHORT * 4), ("second", SHORT * 2), ("third", SHORT * 4)] {
        let route = Route::Delayed { delay, jitter, queue: "CTRL" };
        web.send(route, message(body)).await?;
    }
    for (expected, sooner) in [("first", SHORT * 4), ("second", SHORT * 2), ("third", SHORT * 2)] {
        let delivery = next(&mut ctrl).await;
        world.took(start, delay - sooner);
        assert_eq!(label(&delivery).trim_end_matches('!'), expected);
        delivery.ack();
    }
    Ok(())
}

async fn a_delayed_message_is_the_same(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    let sent = durable("m").to_builder().id(gear_api::Id::from("one")).attempt(2);
    let sent = sent.header("n", 7)?.build();
    web.send(Route::Delayed { delay: SHORT, jitter: Duration::ZERO, queue: "CTRL" }, sent.clone())
        .await?;
    let delivery = next(&mut ctrl).await;
    let got = delivery.message();
    assert_eq!((got.body(), got.id(), got.attempt()), (sent.body(), sent.id(), 2));
    assert_eq!(got.headers().get("n"), sent.headers().get("n"));
    assert!(got.is_durable());
    delivery.ack();
    Ok(())
}
