//! Taps: they see what passes and change nothing, but for one thing that is told here, too.

use gear_api::{Feed, PublishError, Route, Topic};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "taps";
    a_tap_sees_copies_and_never_competes(taps): "the consumers get all the same",
    several_taps_see_everything_each(taps): "they do not compete with each other",
    a_tap_sees_the_keys_that_its_pattern_matches(taps): "among them the groups' as they are sent",
    a_tap_sees_requests_or_events_and_no_replies(taps, events): "the feeds are apart",
    what_a_tap_shows_needs_no_settling(taps): "nothing comes back, whatever is done with it",
    a_tap_on_everything_makes_every_key_count_as_routed(taps, mandatory): "until it is dropped",
    a_tap_misses_nothing_that_is_sent_after_it_opened(taps): "200 in a row, in their order",
}

async fn a_tap_sees_copies_and_never_competes(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let mut tap = tap(&*world.connect().await?, Feed::Requests, "CTRL").await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    assert_eq!(take_all(&world, &mut ctrl, 3).await, ["1", "2", "3"]);
    assert_eq!(take_all(&world, &mut tap, 3).await, ["1", "2", "3"]);
    Ok(())
}

async fn several_taps_see_everything_each(world: World) -> Test {
    let web = world.connect().await?;
    let mut one = tap(&*world.connect().await?, Feed::Requests, "#").await?;
    let mut two = tap(&*world.connect().await?, Feed::Requests, "#").await?;
    let _ctrl = serve(&*web, 10).await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    assert_eq!(take(&mut one, 2).await, ["1", "2"]);
    assert_eq!(take(&mut two, 2).await, ["1", "2"]);
    Ok(())
}

async fn a_tap_sees_the_keys_that_its_pattern_matches(world: World) -> Test {
    let web = world.connect().await?;
    let mut service = serve(&*web, 10).await?;
    let mut h1 = join(&*web, "CTRL.h1").await?;
    let mut tap = tap(&*world.connect().await?, Feed::Requests, "CTRL.*").await?;
    send(&*web, "CTRL", "service").await?;
    send(&*web, "CTRL.h1", "instance").await?;
    send(&*web, "CTRL.*", "multicast").await?;
    send(&*web, "*.*", "broadcast").await?;
    take(&mut service, 1).await;
    take(&mut h1, 3).await;
    // In AMQP the wildcard is the tap's: it sees both.
    assert_eq!(take_all(&world, &mut tap, 2).await, ["instance", "multicast"]);
    Ok(())
}

async fn a_tap_sees_requests_or_events_and_no_replies(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    let (_replies, sink) = ask_as(&*web, "CTRL.h1").await?;
    let mut requests = tap(&*world.connect().await?, Feed::Requests, "#").await?;
    let mut events = tap(&*world.connect().await?, Feed::Events, "#").await?;
    send(&*web, "CTRL", "request").await?;
    web.send(Route::Event(&Topic::new("t")), message("event")).await?;
    web.send(Route::Reply(&sink.at()), message("reply")).await?;
    take(&mut ctrl, 1).await;
    assert_eq!(sink.exactly(1, &world).await, ["reply"]);
    let taken = take_each(&world, [(&mut requests, 1), (&mut events, 1)]).await;
    assert_eq!(taken, [["request"], ["event"]]);
    Ok(())
}

async fn what_a_tap_shows_needs_no_settling(world: World) -> Test {
    let web = world.connect().await?;
    let mut tap = tap(&*world.connect().await?, Feed::Requests, "#").await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    drop(next(&mut tap).await);
    next(&mut tap).await.requeue();
    assert_eq!(take_all(&world, &mut tap, 1).await, ["3"]);
    Ok(())
}

async fn a_tap_on_everything_makes_every_key_count_as_routed(world: World) -> Test {
    let web = world.connect().await?;
    let mut tap = tap(&*web, Feed::Requests, "#").await?;
    send(&*web, "NOBODY", "m").await?;
    assert_eq!(take(&mut tap, 1).await, ["m"]);
    drop(tap);
    // The broker may take a moment to notice.
    within(async {
        while send(&*web, "NOBODY", "m").await.is_ok() {
            tokio::time::sleep(ms(50)).await;
        }
    })
    .await;
    assert_eq!(send(&*web, "NOBODY", "m").await, Err(PublishError::NotRouted));
    Ok(())
}

async fn a_tap_misses_nothing_that_is_sent_after_it_opened(world: World) -> Test {
    let web = world.connect().await?;
    let mut tap = tap(&*world.connect().await?, Feed::Requests, "#").await?;
    let bodies: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let sent: Vec<_> = bodies.iter().map(|body| publish(&*web, "CTRL", message(body))).collect();
    for answer in sent {
        answer.await?;
    }
    assert_eq!(take_all(&world, &mut tap, 200).await, bodies);
    Ok(())
}
