//! Casts and events whose handler fails: the broker holds them back, and they are tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gear_api::{Context, Fault, Operation, Pattern, Topic, topology::header};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-retries";
    a_failed_cast_is_tried_again(delays): "later, as the same message, and holds up nobody",
    what_goes_on_failing_is_set_aside(delays, dead_letters): "with the reason, and how often",
    another_instance_may_try_again(delays): "after the first is gone",
    each_of_a_group_tries_again_for_itself(delays): "under the key of the group",
    an_event_is_tried_again_under_its_topic(delays, events): "by the handler that failed",
    what_would_fail_again_is_set_aside_at_once(delays, dead_letters): "as the handler says",
}

/// The least that the first delay takes.
const FIRST: Duration = ms(800);

/// Fails so often, and writes down each try.
struct Flaky {
    failures: AtomicU32,
    log: Log,
}

impl Flaky {
    fn new(failures: u32, log: &Log) -> Self {
        Self { failures: failures.into(), log: log.clone() }
    }

    async fn run(self: Arc<Self>, cx: Context, text: String) -> Result<(), Fault> {
        let (instance, key, attempt) = (cx.instance(), cx.key(), cx.attempt());
        self.log.add(format!("{instance} {key} {text} {attempt}"));
        let fails = |left: u32| left.checked_sub(1);
        match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails) {
            Ok(_) => Err(Fault::new("flaky", "not this time")),
            Err(_) => Ok(()),
        }
    }
}

async fn a_failed_cast_is_tried_again(world: World) -> Test {
    const ID: Operation<String, ()> = Operation::new("id");
    async fn id(log: Arc<Log>, cx: Context, text: String) -> Result<(), Fault> {
        log.add(format!("{text} {} {:?}", cx.attempt(), cx.message().id()));
        if cx.attempt() == 0 && text == "x" { Err(Fault::new("no", "not yet")) } else { Ok(()) }
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.concurrency(1).state(log.clone());
    let node = node.on(ID, id).start().await?;
    let client = world.client().await?;
    let start = Instant::now();
    client.cast(CTRL, ID, &"x".into()).header("n", 7).await?;
    client.cast(CTRL, ID, &"y".into()).await?;
    eventually(|| log.len() == 3).await;
    assert!(start.elapsed() >= FIRST, "{:?}", start.elapsed());
    let tries = log.exactly(3, &world).await;
    assert!(tries[1].starts_with("y 0"), "{tries:?}");
    assert_eq!(tries[2], tries[0].replace("x 0", "x 1"));
    eventually(|| node.stats().retried == 1).await;
    assert_eq!((node.stats().failed, node.stats().set_aside), (1, 0));
    world.waits("CTRL", 0).await?;
    Ok(())
}

async fn what_goes_on_failing_is_set_aside(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.retries(1).state(Flaky::new(9, &log));
    let node = node.on(NOTE, Flaky::run).start().await?;
    world.client().await?.cast(CTRL, NOTE, &"x".into()).await?;
    eventually(|| node.stats().set_aside == 1).await;
    assert_eq!(log.exactly(2, &world).await, ["CTRL.host1 CTRL x 0", "CTRL.host1 CTRL x 1"]);
    let dead = world.waits("CTRL:dead", 1).await?;
    let headers = dead[0].headers();
    let text = |name| headers.get(name).and_then(|value| value.as_str());
    assert_eq!(text(header::DEAD_REASON), Some("flaky: not this time (tried 2 times)"));
    assert_eq!(text(header::DEAD_QUEUE), Some("CTRL"));
    // Whoever puts it back has it tried anew.
    assert_eq!(dead[0].attempt(), 0);
    Ok(())
}

async fn another_instance_may_try_again(world: World) -> Test {
    let log = Log::default();
    let first = world.node(&CTRL, "host1").await?.state(Flaky::new(1, &log));
    let first = first.on(NOTE, Flaky::run).start().await?;
    world.client().await?.cast(CTRL, NOTE, &"x".into()).await?;
    eventually(|| first.stats().retried == 1).await;
    assert!(first.shutdown(LONG).await.is_clean());
    let second = world.node(&CTRL, "host2").await?.state(Flaky::new(0, &log));
    let _second = second.on(NOTE, Flaky::run).start().await?;
    assert_eq!(log.exactly(2, &world).await, ["CTRL.host1 CTRL x 0", "CTRL.host2 CTRL x 1"]);
    Ok(())
}

async fn each_of_a_group_tries_again_for_itself(world: World) -> Test {
    let log = Log::default();
    let mut nodes = Vec::new();
    for (host, failures) in [("host1", 1), ("host2", 0)] {
        let node = world.node(&CTRL, host).await?.state(Flaky::new(failures, &log));
        nodes.push(node.on(NOTE, Flaky::run).start().await?);
    }
    world.client().await?.cast(CTRL.all(), NOTE, &"x".into()).await?;
    let expected = ["CTRL.host1 CTRL.* x 0", "CTRL.host1 CTRL.* x 1", "CTRL.host2 CTRL.* x 0"];
    assert_eq!(log.sorted(3, &world).await, expected);
    Ok(())
}

async fn an_event_is_tried_again_under_its_topic(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(Flaky::new(0, &log));
    let node = node.on_event("g", Pattern::new("a.*"), NOTE, Flaky::run);
    let node = node.on_event("other", Pattern::new("b.*"), NOTE, Flaky::run);
    let node = node.state(Flaky::new(1, &log)).on_event("g", Pattern::new("b.*"), NOTE, Flaky::run);
    let _node = node.start().await?;
    world.client().await?.publish(Topic::new("b.x"), NOTE, &"e".into()).await?;
    let expected = ["CTRL.host1 b.x e 0", "CTRL.host1 b.x e 0", "CTRL.host1 b.x e 1"];
    assert_eq!(log.sorted(3, &world).await, expected);
    Ok(())
}

async fn what_would_fail_again_is_set_aside_at_once(world: World) -> Test {
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<(), Fault> {
        Err(Fault::new("never", "not at all").permanent())
    }
    let node = world.node(&CTRL, "host1").await?.on(NOTE, fail).start().await?;
    world.client().await?.cast(CTRL, NOTE, &"x".into()).await?;
    world.waits("CTRL:dead", 1).await?;
    eventually(|| node.stats().set_aside == 1).await;
    assert_eq!((node.stats().failed, node.stats().retried), (1, 0));
    Ok(())
}
