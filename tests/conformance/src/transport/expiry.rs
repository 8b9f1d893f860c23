//! Deadlines: what is of no use to anybody any more is dropped.

use std::time::Duration;

use gear_api::{Route, Topic};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "expiry";
    a_message_is_dropped_at_its_deadline(expiry): "nobody gets it, who comes later gets the next",
    a_message_before_its_deadline_arrives(expiry): "and tells how long it has",
    a_message_without_a_deadline_waits: "for as long as it takes",
    each_copy_of_a_multicast_expires(expiry): "in every queue",
    an_event_expires(expiry, events): "in the queue of its group",
    what_goes_back_late_has_expired(expiry): "a requeue does not renew it",
}

/// Much later than any deadline of these tests.
async fn later() {
    tokio::time::sleep(SHORT * 3).await;
}

async fn a_message_is_dropped_at_its_deadline(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    for body in ["1", "2"] {
        publish(&*web, "CTRL", expiring(body, &*web, SHORT)).await?;
    }
    send(&*web, "CTRL", "3").await?;
    later().await;
    let mut back = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut back, 1).await, ["3"]);
    Ok(())
}

async fn a_message_before_its_deadline_arrives(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let sent = expiring("m", &*web, LONG);
    let deadline = sent.deadline().ok_or("none was set")?;
    publish(&*web, "CTRL", sent).await?;
    let delivery = next(&mut ctrl).await;
    let told = delivery.message().deadline().ok_or("the deadline is lost")?;
    // A network may take its share, and must not add any.
    let taken = if world.is_virtual() { Duration::ZERO } else { Duration::from_secs(10) };
    assert!(told <= deadline && told + taken >= deadline, "{told} for {deadline}");
    delivery.ack();
    Ok(())
}

async fn a_message_without_a_deadline_waits(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    send(&*web, "CTRL", "m").await?;
    later().await;
    let mut back = serve(&*world.connect().await?, 10).await?;
    let delivery = next(&mut back).await;
    assert_eq!(delivery.message().deadline(), None);
    delivery.ack();
    Ok(())
}

async fn each_copy_of_a_multicast_expires(world: World) -> Test {
    let web = world.connect().await?;
    let names = ["CTRL.h1", "CTRL.h2"];
    for name in names {
        let ctrl = world.connect().await?;
        drop(join(&*ctrl, name).await?);
        ctrl.close().await;
    }
    publish(&*web, "CTRL.*", expiring("short", &*web, SHORT)).await?;
    send(&*web, "CTRL.*", "stays").await?;
    later().await;
    for name in names {
        let mut back = join_again(&*world.connect().await?, name).await?;
        assert_eq!(take_all(&world, &mut back, 1).await, ["stays"], "{name}");
    }
    Ok(())
}

async fn an_event_expires(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(listen(&*ctrl, "g", &["t"]).await?);
    ctrl.close().await;
    web.send(Route::Event(&Topic::new("t")), expiring("short", &*web, SHORT)).await?;
    event(&*web, "t", "stays").await?;
    later().await;
    let mut back = listen(&*world.connect().await?, "g", &["t"]).await?;
    assert_eq!(take_all(&world, &mut back, 1).await, ["stays"]);
    Ok(())
}

async fn what_goes_back_late_has_expired(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    // Time enough to be delivered on a slow machine.
    publish(&*web, "CTRL", expiring("short", &*web, SHORT * 5)).await?;
    let held = next(&mut ctrl).await;
    tokio::time::sleep(SHORT * 6).await;
    held.requeue();
    send(&*web, "CTRL", "stays").await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["stays"]);
    Ok(())
}
