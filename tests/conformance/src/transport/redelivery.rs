//! What comes again when a consumer is lost, and how it is marked.

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "redelivery";
    the_first_delivery_is_not_marked: "of anything",
    what_a_lost_connection_held_comes_again: "marked, and before what came later",
    what_a_stopped_consumer_had_not_given_out_goes_back: "in its order",
    what_a_dropped_consumer_had_not_given_out_goes_back: "in its order",
    it_is_the_same_message: "id, body and headers are those of the first time",
    a_closed_connection_gives_back_without_being_asked: "unsettled deliveries need not be dropped",
}

async fn the_first_delivery_is_not_marked(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    let mut h1 = join(&*web, "CTRL.h1").await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    send_all(&*web, "CTRL.*", &["3"]).await?;
    assert_eq!(take(&mut ctrl, 2).await, ["1", "2"]);
    assert_eq!(take(&mut h1, 1).await, ["3"]);
    Ok(())
}

async fn what_a_lost_connection_held_comes_again(world: World) -> Test {
    let (web, lost) = (world.connect().await?, world.connect().await?);
    let mut first = serve(&*lost, 2).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let held = [next(&mut first).await, next(&mut first).await];
    lost.close().await;
    world.pause().await;
    let mut second = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take(&mut second, 3).await, ["1!", "2!", "3"]);
    drop(held); // long after it means anything
    world.quiet().await;
    assert!(take_ready(&mut second).is_empty());
    Ok(())
}

async fn what_a_stopped_consumer_had_not_given_out_goes_back(world: World) -> Test {
    let web = world.connect().await?;
    let sent: Vec<_> = (1..=40).map(|number| number.to_string()).collect();
    let sent: Vec<_> = sent.iter().map(String::as_str).collect();
    // With the less, an ack makes room for more; with the other, all are on their way.
    for prefetch in [20, 100] {
        let ctrl = world.connect().await?;
        let mut first = serve(&*ctrl, prefetch).await?;
        send_all(&*web, "CTRL", &sent).await?;
        next(&mut first).await.ack();
        first.stop();
        // What was here before may still be given out: it is not to be lost.
        let mut back = Vec::new();
        while let Some(delivery) = crate::world::within(first.next()).await {
            back.push(delivery);
        }
        back.into_iter().for_each(gear_api::Delivery::requeue);
        world.quiet().await;
        let other = world.connect().await?;
        let mut second = serve(&*other, 10).await?;
        let taken = take_all(&world, &mut second, sent.len() - 1).await;
        let bodies: Vec<_> = taken.iter().map(|label| label.trim_end_matches('!')).collect();
        assert_eq!(bodies, sent[1..]);
        other.close().await;
    }
    Ok(())
}

async fn what_a_dropped_consumer_had_not_given_out_goes_back(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let first = serve(&*ctrl, 10).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    world.pause().await;
    drop(first);
    world.quiet().await;
    let mut second = serve(&*world.connect().await?, 10).await?;
    let taken = take_all(&world, &mut second, 3).await;
    let bodies: Vec<_> = taken.iter().map(|label| label.trim_end_matches('!')).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    Ok(())
}

async fn it_is_the_same_message(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    let sent = message("m").to_builder().id(gear_api::Id::from("the-one")).header("n", 7)?.build();
    publish(&*web, "CTRL", sent).await?;
    let first = next(&mut ctrl).await;
    let before = first.message().clone();
    first.requeue();
    let second = next(&mut ctrl).await;
    assert_eq!(second.message().id(), before.id());
    assert_eq!(second.message().body(), before.body());
    assert_eq!(second.message().headers().get("n"), before.headers().get("n"));
    assert_eq!(second.key(), "CTRL");
    second.ack();
    Ok(())
}

async fn a_closed_connection_gives_back_without_being_asked(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut first = serve(&*ctrl, 10).await?;
    send(&*web, "CTRL", "m").await?;
    let held = next(&mut first).await;
    ctrl.close().await;
    let mut second = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take(&mut second, 1).await, ["m!"]);
    held.ack(); // of a connection that is gone: it settles nothing
    Ok(())
}
