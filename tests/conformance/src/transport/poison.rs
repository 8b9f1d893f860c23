//! Messages that are lost again and again by whoever gets them.

use gear_api::{Consumer, HeaderValue, Verdict, topology::header};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "poison";
    a_message_that_is_always_dropped_is_set_aside(dead_letters): "after 20 times, with the reason",
    that_of_an_instance_is_set_aside_with_its_service(dead_letters): "where operators look",
    it_does_not_block_its_neighbours: "they are handled meanwhile",
    a_requeue_does_not_count: "what was not begun may go back for ever",
}

/// Drops whatever comes until nothing more does, and counts. Meanwhile time passes, if the
/// backend puts a pause between the tries.
async fn drop_all(world: &World, consumer: &mut Consumer) -> u32 {
    let mut dropped = 0;
    while dropped < Verdict::MAX_RETURNS {
        drop(next(consumer).await);
        dropped += 1;
    }
    world.quiet().await;
    while let Some(delivery) = consumer.try_next() {
        drop(delivery);
        dropped += 1;
        world.quiet().await;
        assert!(dropped < 2 * Verdict::MAX_RETURNS, "it goes round without end");
    }
    dropped
}

async fn a_message_that_is_always_dropped_is_set_aside(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    send(&*web, "CTRL", "poison").await?;
    assert_eq!(drop_all(&world, &mut ctrl).await, Verdict::MAX_RETURNS);
    let dead = world.waits("CTRL:dead", 1).await?;
    let header = |name| dead[0].headers().get(name).and_then(HeaderValue::as_str);
    assert_eq!(text(&dead[0]), "poison");
    assert!(dead[0].is_durable(), "it was not when it was sent");
    assert_eq!(header(header::DEAD_QUEUE), Some("CTRL"));
    assert!(header(header::DEAD_REASON).is_some_and(|why| why.contains("20")));
    Ok(())
}

async fn that_of_an_instance_is_set_aside_with_its_service(world: World) -> Test {
    let web = world.connect().await?;
    let mut h1 = join(&*world.connect().await?, "CTRL.h1").await?;
    send(&*web, "CTRL.h1", "poison").await?;
    drop_all(&world, &mut h1).await;
    assert_eq!(texts(&world.waits("CTRL:dead", 1).await?), ["poison"]);
    Ok(())
}

async fn it_does_not_block_its_neighbours(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 2).await?;
    send_all(&*web, "CTRL", &["poison", "1", "2", "3"]).await?;
    let mut handled = Vec::new();
    while handled.len() < 3 {
        let delivery = next(&mut ctrl).await;
        if text(delivery.message()) == "poison" {
            drop(delivery);
        } else {
            handled.push(text(delivery.message()));
            delivery.ack();
        }
    }
    assert_eq!(handled, ["1", "2", "3"]);
    Ok(())
}

async fn a_requeue_does_not_count(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    send(&*web, "CTRL", "m").await?;
    for _ in 0..2 * Verdict::MAX_RETURNS {
        next(&mut ctrl).await.requeue();
    }
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["m!"]);
    Ok(())
}
