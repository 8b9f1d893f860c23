//! Events, groups and patterns as nodes have them; and taps, which only watch.

use std::sync::Arc;

use gear_api::{
    CastError, Context, Fault, Feed, Kind, Message, Operation, Pattern, Route, StartError, Topic,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "node-events";
    every_group_gets_one_copy_and_its_members_share(events): "in turn",
    a_group_has_handlers_by_pattern_and_event(events): "what no handler is for is counted",
    a_bare_event_goes_to_the_handler_of_its_topic(events): "a topic and a body are enough",
    an_event_of_a_pattern_that_was_given_up_is_counted(events): "and gone, not looped",
    a_failed_event_is_set_aside(events, dead_letters): "once",
    what_contradicts_is_refused_at_the_start(mandatory): "and the node has not joined",
    a_tap_sees_requests_and_takes_none_away(taps): "and no replies",
    a_tap_for_everything_makes_every_address_count_as_routed(taps, mandatory): "until it goes",
    a_tap_of_events(taps, events): "sees topics, and ends with its client",
}

const PLACED: Operation<u32, ()> = Operation::new("placed");
const PAID: Operation<u32, ()> = Operation::new("paid");

async fn got(log: Arc<Log>, cx: Context, n: u32) -> Result<(), Fault> {
    log.add(format!("{} {} {} {n}", cx.instance(), cx.message().operation(), cx.key()));
    Ok(())
}

async fn every_group_gets_one_copy_and_its_members_share(world: World) -> Test {
    let log = Log::default();
    let mut nodes = Vec::new();
    for (service, host) in [(&CTRL, "host1"), (&CTRL, "host2"), (&REPO, "host1")] {
        let node = world.node(service, host).await?.state(log.clone());
        let node = node.on_event("orders", Pattern::new("orders.#"), PLACED, got);
        nodes.push(node.start().await?);
    }
    let client = world.client().await?;
    for n in 0..2 {
        client.publish(Topic::new("orders.eu"), PLACED, &n).await?;
        eventually(|| log.len() == 2 * (n as usize + 1)).await;
    }
    client.publish(Topic::new("elsewhere"), PLACED, &9).await?; // nobody is interested
    let expected = [
        "CTRL.host1 placed orders.eu 0",
        "CTRL.host2 placed orders.eu 1",
        "REPO.host1 placed orders.eu 0",
        "REPO.host1 placed orders.eu 1",
    ];
    assert_eq!(log.sorted(4, &world).await, expected);
    Ok(())
}

async fn a_group_has_handlers_by_pattern_and_event(world: World) -> Test {
    async fn other(log: Arc<Log>, _: Context, n: u32) -> Result<(), Fault> {
        log.add(format!("other {n}"));
        Ok(())
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone());
    let node = node
        .on_event("g", Pattern::new("a.*"), PLACED, got)
        .on_event("g", Pattern::new("a.*"), PAID, got)
        .on_event("g", Pattern::new("b.#"), PLACED, other)
        .on_event("second", Pattern::new("b.c"), PLACED, got)
        .start()
        .await?;
    let client = world.client().await?;
    client.publish(Topic::new("a.x"), PLACED, &1).await?;
    client.publish(Topic::new("a.x"), PAID, &2).await?;
    client.publish(Topic::new("b.c"), PLACED, &3).await?;
    client.publish(Topic::new("b.c"), PAID, &4).await?; // nobody is for it: counted, and gone
    let expected =
        ["CTRL.host1 paid a.x 2", "CTRL.host1 placed a.x 1", "CTRL.host1 placed b.c 3", "other 3"];
    assert_eq!(log.sorted(4, &world).await, expected);
    eventually(|| node.stats().unknown == 2).await;
    assert_eq!(node.stats().set_aside, 0);
    Ok(())
}

async fn a_bare_event_goes_to_the_handler_of_its_topic(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone());
    let _node = node.on_event("g", Pattern::new("a.#"), PLACED, got).start().await?;
    let bare = Message::builder(Kind::Event, "").body("7").build();
    world.connect().await?.send(Route::Event(&Topic::new("a.b")), bare).await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host1  a.b 7"]);
    Ok(())
}

async fn an_event_of_a_pattern_that_was_given_up_is_counted(world: World) -> Test {
    let log = Log::default();
    let old = world.node(&CTRL, "host1").await?.state(log.clone());
    let old = old.on_event("g", Pattern::new("old.*"), PLACED, got).start().await?;
    assert!(old.shutdown(LONG).await.is_clean());
    let node = world.node(&CTRL, "host2").await?.state(log.clone());
    let node = node.on_event("g", Pattern::new("new.*"), PLACED, got).start().await?;
    let client = world.client().await?;
    client.publish(Topic::new("old.x"), PLACED, &1).await?;
    client.publish(Topic::new("new.x"), PLACED, &2).await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host2 placed new.x 2"]);
    assert_eq!(node.stats().misrouted, 1);
    Ok(())
}

async fn a_failed_event_is_set_aside(world: World) -> Test {
    async fn fail(_: Arc<()>, _: Context, _: u32) -> Result<(), Fault> {
        Err(Fault::new("no", "not today"))
    }
    let node = world.node(&CTRL, "host1").await?.retries(0);
    let node = node.on_event("g", Pattern::ALL, PLACED, fail).start().await?;
    world.client().await?.publish(Topic::new("a"), PLACED, &1).await?;
    eventually(|| node.stats().set_aside == 1).await;
    world.waits("CTRL:dead", 1).await?;
    world.quiet().await;
    assert_eq!(node.stats().failed, 1);
    Ok(())
}

async fn what_contradicts_is_refused_at_the_start(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.state(Log::default());
    let twice = node.on(NOTE, note).on(NOTE, note).start().await;
    assert!(matches!(twice, Err(StartError::TwoHandlers(name)) if name == "note"));
    let node = world.node(&CTRL, "host1").await?.state(Log::default());
    let group = node.on_event("a.b", Pattern::ALL, PLACED, got).start().await;
    assert!(matches!(group, Err(StartError::Name(_))));
    let node = world.node(&CTRL, "host1").await?.state(Log::default());
    let node = node.on_event("g", Pattern::ALL, PLACED, got);
    let twice = node.on_event("g", Pattern::ALL, PLACED, got).start().await;
    assert!(matches!(twice, Err(StartError::TwoHandlers(_))));
    // None of them has joined.
    let client = world.client().await?;
    for to in [CTRL.into(), CTRL.at("host1")?.into(), CTRL.all()] {
        let cast = client.cast(to, NOTE, &"x".into()).await;
        assert!(matches!(cast, Err(CastError::NotRouted)), "{cast:?}");
    }
    Ok(())
}

async fn a_tap_sees_requests_and_takes_none_away(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?;
    let node = node.on(ECHO, async |_: Arc<()>, _: Context, text: String| Ok(text));
    let _node = node.state(log.clone()).on(NOTE, note).start().await?;
    let client = world.client().await?;
    let mut all = client.tap(Feed::Requests, Pattern::ALL).await?;
    let mut groups = client.tap(Feed::Requests, Pattern::new("CTRL.*")).await?;
    client.call(CTRL, ECHO, &"x".into()).await?;
    client.cast(CTRL.at("host1")?, NOTE, &"y".into()).await?;
    client.cast(CTRL.all(), NOTE, &"z".into()).await?;
    let noted = ["CTRL.host1 CTRL.* z", "CTRL.host1 CTRL.host1 y"];
    assert_eq!(log.sorted(2, &world).await, noted);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let tapped = within(all.next()).await.ok_or("ended")?;
        let (kind, operation) = (tapped.message.kind(), tapped.message.operation());
        seen.push(format!("{} {kind} {operation}", tapped.key));
    }
    // The reply to the call is not among them.
    assert_eq!(seen, ["CTRL call echo", "CTRL.host1 cast note", "CTRL.* cast note"]);
    // In AMQP the wildcard is the tap's: it sees both.
    for key in ["CTRL.host1", "CTRL.*"] {
        assert_eq!(within(groups.next()).await.ok_or("ended")?.key, key);
    }
    Ok(())
}

async fn a_tap_for_everything_makes_every_address_count_as_routed(world: World) -> Test {
    let client = world.client().await?;
    let mut tap = client.tap(Feed::Requests, Pattern::ALL).await?;
    client.cast(WEB, NOTE, &"x".into()).await?;
    assert_eq!(within(tap.next()).await.ok_or("ended")?.key, "WEB");
    drop(tap);
    // The broker may take a moment to notice.
    within(async {
        while client.cast(WEB, NOTE, &"x".into()).await.is_ok() {
            tokio::time::sleep(ms(50)).await;
        }
    })
    .await;
    let cast = client.cast(WEB, NOTE, &"x".into()).await;
    assert!(matches!(cast, Err(CastError::NotRouted)), "{cast:?}");
    Ok(())
}

async fn a_tap_of_events(world: World) -> Test {
    let client = world.client().await?;
    let mut tap = client.tap(Feed::Events, Pattern::new("orders.*")).await?;
    client.publish(Topic::new("orders.eu"), PLACED, &5).await?;
    let tapped = within(tap.next()).await.ok_or("ended")?;
    assert_eq!((tapped.key.as_str(), &tapped.message.body()[..]), ("orders.eu", &b"5"[..]));
    client.close().await;
    assert!(within(tap.next()).await.is_none());
    Ok(())
}
