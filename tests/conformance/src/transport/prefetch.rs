//! How many unsettled deliveries a consumer may hold.

use gear_api::Delivery;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "prefetch";
    no_more_than_that_many_are_held: "the next waits in the queue",
    each_settlement_makes_room_for_one: "whatever the verdict is",
    zero_counts_as_one: "it is not taken for no limit",
    each_consumer_has_its_own: "two on one connection hold twice as many",
    the_largest_is_no_less: "65,535 are accepted, and many are held",
}

async fn no_more_than_that_many_are_held(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 3).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4", "5"]).await?;
    let held = [next(&mut ctrl).await, next(&mut ctrl).await, next(&mut ctrl).await];
    world.pause().await;
    assert!(ctrl.try_next().is_none(), "a fourth");
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["4", "5"]);
    Ok(())
}

async fn each_settlement_makes_room_for_one(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 2).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4"]).await?;
    let (one, two) = (next(&mut ctrl).await, next(&mut ctrl).await);
    one.ack();
    let three = next(&mut ctrl).await;
    world.pause().await;
    assert!(ctrl.try_next().is_none(), "more than one for one");
    two.reject();
    let four = next(&mut ctrl).await;
    assert_eq!([label(&three), label(&four)], ["3", "4"]);
    three.ack();
    four.ack();
    Ok(())
}

async fn zero_counts_as_one(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 0).await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    let one = next(&mut ctrl).await;
    world.pause().await;
    assert!(ctrl.try_next().is_none());
    one.ack();
    assert_eq!(take(&mut ctrl, 1).await, ["2"]);
    Ok(())
}

async fn each_consumer_has_its_own(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = world.connect().await?;
    let (mut one, mut two) = (serve(&*ctrl, 1).await?, serve(&*ctrl, 1).await?);
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let held = [next(&mut one).await, next(&mut two).await];
    world.pause().await;
    assert!(one.try_next().is_none() && two.try_next().is_none());
    held.into_iter().for_each(Delivery::ack);
    Ok(())
}

async fn the_largest_is_no_less(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, u16::MAX).await?;
    let sent: Vec<_> = (0..300).map(|_| publish(&*web, "CTRL", message("m"))).collect();
    for answer in sent {
        answer.await?;
    }
    let mut held = Vec::new();
    while held.len() < 300 {
        held.push(next(&mut ctrl).await);
    }
    held.into_iter().for_each(Delivery::ack);
    Ok(())
}
