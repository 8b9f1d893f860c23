//! Events, groups and patterns; and taps, which only watch.

use std::sync::Arc;

use gear::{
    Context, Fault, Feed, Kind, Message, Operation, Pattern, Route, StartError, Topic, Transport,
};

use crate::{CTRL, ECHO, Log, NOTE, REPO, Test, WEB, broker, client, node, note};

const PLACED: Operation<u32, ()> = Operation::new("placed");
const PAID: Operation<u32, ()> = Operation::new("paid");

async fn got(log: Arc<Log>, cx: Context, n: u32) -> Result<(), Fault> {
    log.add(format!("{} {} {} {n}", cx.instance(), cx.message().operation(), cx.key()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn every_group_gets_one_copy_and_its_members_share() -> Test {
    let (broker, log) = (broker(), Log::default());
    let mut nodes = Vec::new();
    for (service, host) in [(&CTRL, "host1"), (&CTRL, "host2"), (&REPO, "host1")] {
        let node = node(&broker, service, host).state(log.clone());
        nodes.push(node.on_event("orders", Pattern::new("orders.#"), PLACED, got).start().await?);
    }
    let client = client(&broker).await;
    for n in 0..2 {
        client.publish(Topic::new("orders.eu"), PLACED, &n).await?;
    }
    client.publish(Topic::new("elsewhere"), PLACED, &9).await?; // nobody is interested
    broker.idle().await;
    let expected = [
        "CTRL.host1 placed orders.eu 0",
        "CTRL.host2 placed orders.eu 1",
        "REPO.host1 placed orders.eu 0",
        "REPO.host1 placed orders.eu 1",
    ];
    assert_eq!(log.sorted(), expected);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_group_has_handlers_by_pattern_and_event() -> Test {
    async fn other(log: Arc<Log>, _: Context, n: u32) -> Result<(), Fault> {
        log.add(format!("other {n}"));
        Ok(())
    }
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1")
        .state(log.clone())
        .on_event("g", Pattern::new("a.*"), PLACED, got)
        .on_event("g", Pattern::new("a.*"), PAID, got)
        .on_event("g", Pattern::new("b.#"), PLACED, other)
        .on_event("second", Pattern::new("b.c"), PLACED, got)
        .start()
        .await?;
    let client = client(&broker).await;
    client.publish(Topic::new("a.x"), PLACED, &1).await?;
    client.publish(Topic::new("a.x"), PAID, &2).await?;
    client.publish(Topic::new("b.c"), PLACED, &3).await?;
    client.publish(Topic::new("b.c"), PAID, &4).await?; // nobody is for it: counted, and gone
    broker.idle().await;
    let expected =
        ["CTRL.host1 paid a.x 2", "CTRL.host1 placed a.x 1", "CTRL.host1 placed b.c 3", "other 3"];
    assert_eq!(log.sorted(), expected);
    assert_eq!((node.stats().unknown, broker.messages("CTRL:dead").len()), (2, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_bare_event_goes_to_the_handler_of_its_topic() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1")
        .state(log.clone())
        .on_event("g", Pattern::new("a.#"), PLACED, got)
        .start()
        .await?;
    let bare = Message::builder(Kind::Event, "").body("7").build();
    broker.connect().send(Route::Event(&Topic::new("a.b")), bare).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1  a.b 7"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_pattern_that_was_given_up_is_acked_and_counted() -> Test {
    let (broker, log) = (broker(), Log::default());
    let build = |pattern: Pattern| {
        node(&broker, &CTRL, "host1").state(log.clone()).on_event("g", pattern, PLACED, got)
    };
    drop(build(Pattern::new("old.*")).start().await?);
    broker.idle().await;
    let node = build(Pattern::new("new.*")).start().await?;
    let client = client(&broker).await;
    client.publish(Topic::new("old.x"), PLACED, &1).await?;
    client.publish(Topic::new("new.x"), PLACED, &2).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 placed new.x 2"]);
    assert_eq!(node.stats().misrouted, 1);
    assert_eq!(broker.queue("CTRL:events.g").map(|queue| queue.ready), Some(0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failed_event_is_set_aside() -> Test {
    async fn fail(_: Arc<()>, _: Context, _: u32) -> Result<(), Fault> {
        Err(Fault::new("no", "not today"))
    }
    let broker = broker();
    let _node =
        node(&broker, &CTRL, "host1").on_event("g", Pattern::ALL, PLACED, fail).start().await?;
    client(&broker).await.publish(Topic::new("a"), PLACED, &1).await?;
    broker.idle().await;
    assert_eq!(broker.messages("CTRL:dead").len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn groups_and_handlers_that_contradict_are_refused_at_the_start() -> Test {
    let broker = broker();
    let build = || node(&broker, &CTRL, "host1").state(Log::default());
    let twice = build().on(NOTE, note).on(NOTE, note).start().await;
    assert!(matches!(twice, Err(StartError::TwoHandlers(name)) if name == "note"));
    let group = build().on_event("a.b", Pattern::ALL, PLACED, got).start().await;
    assert!(matches!(group, Err(StartError::Name(_))));
    let twice = build()
        .on_event("g", Pattern::ALL, PLACED, got)
        .on_event("g", Pattern::ALL, PLACED, got)
        .start()
        .await;
    assert!(matches!(twice, Err(StartError::TwoHandlers(_))));
    // None of them has joined.
    assert!(broker.queues().is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_tap_sees_requests_and_takes_none_away() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1")
        .on(ECHO, async |_: Arc<()>, _: Context, text: String| Ok(text))
        .state(log.clone())
        .on(NOTE, note)
        .start()
        .await?;
    let client = client(&broker).await;
    let mut all = client.tap(Feed::Requests, Pattern::ALL).await?;
    let mut groups = client.tap(Feed::Requests, Pattern::new("CTRL.*")).await?;
    client.call(CTRL, ECHO, &"x".into()).await?;
    client.cast(CTRL.at("host1")?, NOTE, &"y".into()).await?;
    client.cast(CTRL.all(), NOTE, &"z".into()).await?;
    broker.idle().await;
    assert_eq!(log.sorted(), ["CTRL.host1 CTRL.* z", "CTRL.host1 CTRL.host1 y"]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let tapped = all.next().await.ok_or("ended")?;
        seen.push(format!(
            "{} {} {}",
            tapped.key,
            tapped.message.kind(),
            tapped.message.operation()
        ));
    }
    // The reply to the call is not among them.
    assert_eq!(seen, ["CTRL call echo", "CTRL.host1 cast note", "CTRL.* cast note"]);
    // In AMQP the wildcard is the tap's: it sees both.
    assert_eq!(groups.next().await.ok_or("ended")?.key, "CTRL.host1");
    assert_eq!(groups.next().await.ok_or("ended")?.key, "CTRL.*");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_tap_for_everything_makes_every_address_count_as_routed() -> Test {
    let broker = broker();
    let client = client(&broker).await;
    let mut tap = client.tap(Feed::Requests, Pattern::ALL).await?;
    client.cast(WEB, NOTE, &"x".into()).await?;
    assert_eq!(tap.next().await.ok_or("ended")?.key, "WEB");
    drop(tap);
    let cast = client.cast(WEB, NOTE, &"x".into()).await;
    assert!(matches!(cast, Err(gear::CastError::NotRouted)), "{cast:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_tap_of_events() -> Test {
    let broker = broker();
    let client = client(&broker).await;
    let mut tap = client.tap(Feed::Events, Pattern::new("orders.*")).await?;
    client.publish(Topic::new("orders.eu"), PLACED, &5).await?;
    let tapped = tap.next().await.ok_or("ended")?;
    assert_eq!((tapped.key.as_str(), &tapped.message.body()[..]), ("orders.eu", &b"5"[..]));
    client.close().await;
    assert!(tap.next().await.is_none());
    Ok(())
}
