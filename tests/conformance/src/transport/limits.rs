//! Queues that are full.

use gear_api::PublishError;

use crate::{
    backend::Full,
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "limits";
    a_full_queue_refuses(confirms): "and keeps what it has",
    of_several_queues_the_others_keep_their_copies(confirms): "the publisher learns of the doubt",
    a_full_queue_drops_its_oldest: "where it is told to, and confirms",
    there_is_room_again_when_something_is_acked(confirms): "the limit is on what waits",
}

/// Makes a queue, with nobody to take from it.
async fn declare(world: &World, name: &str) -> Test {
    let on = world.connect().await?;
    match name.contains('.') {
        true => drop(join(&*on, name).await?),
        false => drop(serve(&*on, 1).await?),
    }
    on.close().await;
    Ok(())
}

async fn a_full_queue_refuses(world: World) -> Test {
    declare(&world, "CTRL").await?;
    world.limit_queue("CTRL", 2, Full::Refuses).await?;
    let web = world.connect().await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    let answer = send(&*web, "CTRL", "3").await;
    assert!(matches!(answer, Err(PublishError::Refused(_))), "{answer:?}");
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["1", "2"]);
    Ok(())
}

async fn of_several_queues_the_others_keep_their_copies(world: World) -> Test {
    let names = ["CTRL.h1", "CTRL.h2"];
    for name in names {
        declare(&world, name).await?;
    }
    world.limit_queue("CTRL.h2", 1, Full::Refuses).await?;
    let web = world.connect().await?;
    send(&*web, "CTRL.*", "1").await?;
    let answer = send(&*web, "CTRL.*", "2").await;
    let told = matches!(&answer, Err(error @ PublishError::Refused(_)) if error.may_have_arrived());
    assert!(told, "{answer:?}");
    for (name, expected) in names.into_iter().zip([&["1", "2"][..], &["1"]]) {
        let mut back = join_again(&*world.connect().await?, name).await?;
        assert_eq!(take_all(&world, &mut back, expected.len()).await, expected, "{name}");
    }
    Ok(())
}

async fn a_full_queue_drops_its_oldest(world: World) -> Test {
    declare(&world, "CTRL").await?;
    world.limit_queue("CTRL", 2, Full::DropsOldest).await?;
    let web = world.connect().await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["2", "3"]);
    Ok(())
}

async fn there_is_room_again_when_something_is_acked(world: World) -> Test {
    declare(&world, "CTRL").await?;
    world.limit_queue("CTRL", 1, Full::Refuses).await?;
    let web = world.connect().await?;
    send(&*web, "CTRL", "1").await?;
    assert!(send(&*web, "CTRL", "2").await.is_err());
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["1"]);
    send(&*web, "CTRL", "3").await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["3"]);
    Ok(())
}
