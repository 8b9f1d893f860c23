//! The broker takes no more messages for a while. These tests run alone.

use gear_api::{PublishError, Status};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "alarms";
    publishers_wait_and_are_told_why(alone): "until it is over, and nothing is lost",
    deliveries_and_settlements_go_on(alone): "queues can drain",
    a_blocked_message_ends_at_its_deadline(alone): "with one outcome, and is not delivered late",
}

fn is_blocked(status: &Status) -> bool {
    matches!(status, Status::Blocked(_))
}

async fn publishers_wait_and_are_told_why(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.alarm(true).await?;
    let waiting = ["1", "2"].map(|body| publish(&*web, "CTRL", message(body)));
    let mut status = web.status();
    let why = match within(status.wait_for(is_blocked)).await?.clone() {
        Status::Blocked(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(!why.is_empty(), "it says why");
    world.pause().await;
    assert!(ctrl.try_next().is_none());
    world.alarm(false).await?;
    for publish in waiting {
        within(publish).await?;
    }
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["1", "2"]);
    world.ready(&*web).await
}

async fn deliveries_and_settlements_go_on(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut consumer = serve(&*ctrl, 1).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let first = next(&mut consumer).await;
    world.alarm(true).await?;
    first.ack();
    // Each must be acked for the next to come.
    let taken = take(&mut consumer, 2).await;
    world.alarm(false).await?;
    assert_eq!(taken, ["2", "3"]);
    Ok(())
}

async fn a_blocked_message_ends_at_its_deadline(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.alarm(true).await?;
    // The first makes some brokers notice that somebody publishes.
    let first = publish(&*web, "CTRL", message("first"));
    within(web.status().wait_for(is_blocked)).await?;
    let start = Instant::now();
    let answer = within(publish(&*web, "CTRL", expiring("late", &*web, SHORT))).await;
    world.took(start, SHORT);
    let told = matches!(answer, Err(PublishError::NotSent(_) | PublishError::Unknown(_)));
    assert!(told, "{answer:?}");
    world.alarm(false).await?;
    within(first).await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["first"]);
    Ok(())
}
