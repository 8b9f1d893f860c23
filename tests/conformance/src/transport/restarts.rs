//! The broker goes down and comes back. These tests run alone.

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "restarts";
    what_is_durable_survives(durable, alone): "in its order",
    consumers_survive(durable, alone): "and get again what they held",
    what_was_acked_does_not_come_again(durable, alone): "once the broker has written it down",
    what_is_sent_afterwards_arrives(alone): "connections come back by themselves",
}

async fn what_is_durable_survives(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    for body in ["1", "2", "3"] {
        publish(&*web, "CTRL", durable(body)).await?;
    }
    world.restart().await?;
    let mut back = serve(&*world.connect().await?, 10).await?;
    let taken = take_all(&world, &mut back, 3).await;
    let bodies: Vec<_> = taken.iter().map(|label| label.trim_end_matches('!')).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    Ok(())
}

async fn consumers_survive(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut consumer = serve(&*ctrl, 10).await?;
    publish(&*web, "CTRL", durable("held")).await?;
    let held = next(&mut consumer).await;
    world.restart().await?;
    held.ack(); // too late
    assert_eq!(take_all(&world, &mut consumer, 1).await, ["held!"]);
    Ok(())
}

async fn what_was_acked_does_not_come_again(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut consumer = serve(&*ctrl, 10).await?;
    publish(&*web, "CTRL", durable("done")).await?;
    take(&mut consumer, 1).await;
    ctrl.close().await;
    // Nobody confirms an ack, and RabbitMQ writes it down when it has nothing else to do.
    tokio::time::sleep(ms(2000)).await;
    world.restart().await?;
    let mut next = serve(&*world.connect().await?, 10).await?;
    assert!(take_all(&world, &mut next, 0).await.is_empty());
    Ok(())
}

async fn what_is_sent_afterwards_arrives(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut h1 = join(&*ctrl, "CTRL.h1").await?;
    world.restart().await?;
    world.ready(&*ctrl).await?;
    send(&*web, "*.*", "m").await?;
    assert_eq!(take_all(&world, &mut h1, 1).await, ["m"]);
    Ok(())
}
