//! The four forms of address: who gets a copy, and that nobody else does.

use gear_api::{Consumer, PublishError};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "addressing";
    a_service_address_reaches_one_instance: "of several that serve, and once",
    an_instance_address_reaches_that_instance_alone: "not the service, not its neighbour",
    a_multicast_reaches_every_instance_of_the_service_once: "and no other service",
    a_broadcast_reaches_every_instance_once: "the sender's own among them",
    the_key_tells_how_it_was_addressed: "each form arrives under the key it was sent with",
    nobody_there_is_not_routed(mandatory): "for each form, and nothing is created by that",
    names_are_compared_exactly(mandatory): "case counts, and so does the whole word",
    a_service_that_has_left_keeps_its_queue: "what is sent meanwhile waits for it",
    an_instance_that_has_left_keeps_its_queue: "its own messages and its share of groups wait",
    joining_again_makes_no_second_copy: "bindings that exist stay as they are",
    two_systems_do_not_hear_each_other: "the same names elsewhere are others",
}

async fn join_all(world: &World, names: &[&str]) -> Test<Vec<Consumer>> {
    let mut all = Vec::new();
    for name in names {
        all.push(join(&*world.connect().await?, name).await?);
    }
    Ok(all)
}

/// What each has got, when so many have come to each and nothing more does.
async fn heard<const N: usize>(
    world: &World,
    all: &mut [Consumer],
    counts: [usize; N],
) -> Vec<Vec<String>> {
    take_each(world, all.iter_mut().zip(counts).collect::<Vec<_>>()).await
}

async fn a_service_address_reaches_one_instance(world: World) -> Test {
    let web = world.connect().await?;
    let mut all = join_all(&world, &["CTRL.h1", "CTRL.h2"]).await?;
    for _ in 0..3 {
        all.push(serve(&*world.connect().await?, 10).await?);
    }
    send(&*web, "CTRL", "m").await?;
    let mut got = Vec::new();
    eventually(|| {
        got.extend(all.iter_mut().flat_map(take_ready));
        !got.is_empty()
    })
    .await;
    world.quiet().await;
    got.extend(all.iter_mut().flat_map(take_ready));
    assert_eq!(got, ["m"]);
    Ok(())
}

async fn an_instance_address_reaches_that_instance_alone(world: World) -> Test {
    let web = world.connect().await?;
    let mut all = join_all(&world, &["CTRL.h1", "CTRL.h2", "REPO.h1"]).await?;
    all.push(serve(&*web, 10).await?);
    send(&*web, "CTRL.h1", "m").await?;
    assert_eq!(heard(&world, &mut all, [1, 0, 0, 0]).await, [vec!["m"], vec![], vec![], vec![]]);
    Ok(())
}

async fn a_multicast_reaches_every_instance_of_the_service_once(world: World) -> Test {
    let web = world.connect().await?;
    let names = ["CTRL.h1", "CTRL.h2.eu.example", "CTRL2.h1", "REPO.CTRL"];
    let mut all = join_all(&world, &names).await?;
    all.push(serve(&*web, 10).await?);
    send(&*web, "CTRL.*", "m").await?;
    let heard = heard(&world, &mut all, [1, 1, 0, 0, 0]).await;
    assert_eq!(heard, [vec!["m"], vec!["m"], vec![], vec![], vec![]]);
    Ok(())
}

async fn a_broadcast_reaches_every_instance_once(world: World) -> Test {
    let mut all = join_all(&world, &["CTRL.h1", "CTRL.h2", "REPO.h1"]).await?;
    let web = world.connect().await?;
    all.push(join(&*web, "WEB.h1").await?);
    all.push(serve(&*web, 10).await?);
    send(&*web, "*.*", "m").await?;
    let heard = heard(&world, &mut all, [1, 1, 1, 1, 0]).await;
    assert_eq!(heard, [vec!["m"], vec!["m"], vec!["m"], vec!["m"], vec![]]);
    Ok(())
}

async fn the_key_tells_how_it_was_addressed(world: World) -> Test {
    let web = world.connect().await?;
    let (mut service, mut instance) = (serve(&*web, 10).await?, join(&*web, "CTRL.h.1").await?);
    for to in ["CTRL", "CTRL.h.1", "CTRL.*", "*.*"] {
        send(&*web, to, "m").await?;
        let from = if to == "CTRL" { &mut service } else { &mut instance };
        let delivery = next(from).await;
        assert_eq!(delivery.key(), to);
        delivery.ack();
    }
    Ok(())
}

async fn nobody_there_is_not_routed(world: World) -> Test {
    let web = world.connect().await?;
    for _ in 0..2 {
        for nobody in ["CTRL", "CTRL.h1", "CTRL.*", "*.*"] {
            let answer = send(&*web, nobody, "m").await;
            assert_eq!(answer, Err(PublishError::NotRouted), "{nobody}");
        }
    }
    Ok(())
}

async fn names_are_compared_exactly(world: World) -> Test {
    let web = world.connect().await?;
    let _all = join_all(&world, &["CTRL.h1"]).await?;
    let _service = serve(&*web, 1).await?;
    for stranger in ["ctrl", "CTRL.H1", "CTR", "CTRLS", "CTRL.h", "CTRL.h1.eu", "ctrl.*"] {
        let answer = send(&*web, stranger, "m").await;
        assert_eq!(answer, Err(PublishError::NotRouted), "{stranger}");
    }
    Ok(())
}

async fn a_service_that_has_left_keeps_its_queue(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = world.connect().await?;
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    let mut back = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut back, 2).await, ["1", "2"]);
    Ok(())
}

async fn an_instance_that_has_left_keeps_its_queue(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = world.connect().await?;
    drop(join(&*ctrl, "CTRL.h1").await?);
    ctrl.close().await;
    for to in ["CTRL.h1", "CTRL.*", "*.*"] {
        send(&*web, to, to).await?;
    }
    let mut back = join_again(&*world.connect().await?, "CTRL.h1").await?;
    assert_eq!(take_all(&world, &mut back, 3).await, ["CTRL.h1", "CTRL.*", "*.*"]);
    Ok(())
}

async fn joining_again_makes_no_second_copy(world: World) -> Test {
    let web = world.connect().await?;
    for _ in 0..2 {
        let ctrl = world.connect().await?;
        let mut h1 = join_again(&*ctrl, "CTRL.h1").await?;
        send_all(&*web, "CTRL.*", &["m"]).await?;
        send_all(&*web, "*.*", &["n"]).await?;
        assert_eq!(take_all(&world, &mut h1, 2).await, ["m", "n"]);
        ctrl.close().await;
    }
    Ok(())
}

async fn two_systems_do_not_hear_each_other(world: World) -> Test {
    let other = world.another().await?;
    let mut here = join(&*world.connect().await?, "CTRL.h1").await?;
    let mut there = join(&*other.connect().await?, "CTRL.h1").await?;
    send(&*world.connect().await?, "*.*", "here").await?;
    send(&*other.connect().await?, "*.*", "there").await?;
    assert_eq!(take_all(&world, &mut here, 1).await, ["here"]);
    assert_eq!(take_all(&other, &mut there, 1).await, ["there"]);
    other.end().await;
    Ok(())
}
