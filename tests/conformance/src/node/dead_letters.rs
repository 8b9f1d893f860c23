//! What a service has set aside: looked at, put back, thrown away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use gear_api::{
    CastError, Context, Fault, Kind, Message, NotSent, Pattern, Route, Topic,
    topology::{dead_letter, header},
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "node-dead-letters";
    what_is_put_back_is_handled_where_it_was(dead_letters, events): "under its own key",
    what_is_discarded_is_gone_and_what_is_left_stays(dead_letters): "with its reason",
    what_can_not_be_put_back_stays(dead_letters, mandatory): "its queue is gone",
    whoever_looks_shows_each_letter_once(dead_letters): "until nobody looks any more",
}

/// Fails until it is mended.
struct Broken {
    mended: AtomicBool,
    log: Log,
}

impl Broken {
    fn new() -> Arc<Self> {
        Arc::new(Self { mended: AtomicBool::new(false), log: Log::default() })
    }

    async fn run(self: Arc<Self>, cx: Context, text: String) -> Result<(), Fault> {
        if !self.mended.load(Ordering::SeqCst) {
            return Err(Fault::new("broken", "it is to be mended").permanent());
        }
        let left = cx.headers().get(header::DEAD_REASON).is_some();
        self.log.add(format!("{} {} {text} {left}", cx.queue(), cx.key()));
        Ok(())
    }
}

async fn what_is_put_back_is_handled_where_it_was(world: World) -> Test {
    let broken = Broken::new();
    let node = world.node(&CTRL, "host1").await?.state(Arc::clone(&broken));
    let node = node.on(NOTE, Broken::run).on_event("g", Pattern::new("a.*"), NOTE, Broken::run);
    let node = node.start().await?;
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"1".into()).await?;
    client.cast(CTRL.all(), NOTE, &"2".into()).await?;
    client.publish(Topic::new("a.b"), NOTE, &"3".into()).await?;
    eventually(|| node.stats().set_aside == 3).await;
    broken.mended.store(true, Ordering::SeqCst);
    let mut dead = within(client.dead_letters(&CTRL)).await?;
    for _ in 0..3 {
        let letter = within(dead.next()).await.ok_or("it is there")?;
        assert_eq!(letter.reason(), "broken: it is to be mended");
        letter.put_back().await?;
    }
    let handled = ["CTRL CTRL 1 false", "CTRL.host1 CTRL.* 2 false", "CTRL:events.g a.b 3 false"];
    assert_eq!(broken.log.sorted(3, &world).await, handled);
    drop(dead);
    world.waits("CTRL:dead", 0).await?;
    Ok(())
}

/// Sets messages with these bodies aside, as a node of CTRL does.
async fn set_aside(world: &World, queue: &str, bodies: &[&str]) -> Test {
    let on = world.connect().await?;
    for body in bodies {
        let dead = dead_letter(&message(body), queue, queue, &format!("no {body}"));
        on.send(Route::Dead(&CTRL), dead).await?;
    }
    Ok(())
}

async fn what_is_discarded_is_gone_and_what_is_left_stays(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.start().await?;
    set_aside(&world, "CTRL", &["a", "b", "c", "d"]).await?;
    let client = world.client().await?;
    let mut dead = within(client.dead_letters(&CTRL)).await?;
    let mut kept = Vec::new();
    for n in 0..4 {
        let letter = within(dead.next()).await.ok_or("it is there")?;
        assert_eq!((letter.queue(), letter.key()), ("CTRL", "CTRL"));
        match n {
            0 | 2 => assert!(letter.discard()),
            1 => kept.push(letter),
            _ => drop(letter),
        }
    }
    drop(dead);
    drop(kept); // outlives whoever has shown it
    let mut left = world.waits("CTRL:dead", 2).await?;
    left.sort_by_key(text); // a quorum queue has them in the order in which they came back
    assert_eq!(texts(&left), ["b", "d"]);
    let reasons = left.iter().map(|m| m.headers().get(header::DEAD_REASON).cloned());
    assert!(reasons.eq([Some("no b".into()), Some("no d".into())]));
    drop(node);
    Ok(())
}

async fn what_can_not_be_put_back_stays(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.start().await?;
    // Of an instance and of a group that are gone; and an event of nobody knows whom.
    set_aside(&world, "CTRL.never", &["a"]).await?;
    set_aside(&world, "CTRL:events.never", &["b"]).await?;
    let stray = Message::builder(Kind::Event, "e").body("c").build();
    world.connect().await?.send(Route::Dead(&CTRL), stray).await?;
    let client = world.client().await?;
    let mut dead = within(client.dead_letters(&CTRL)).await?;
    for body in ["a", "b", "c"] {
        let letter = within(dead.next()).await.ok_or("it is there")?;
        assert_eq!(text(letter.message()), body);
        let failed = letter.put_back().await;
        let as_expected = match body {
            "c" => matches!(failed, Err(CastError::NotSent(NotSent::Invalid(_)))),
            _ => matches!(failed, Err(CastError::NotRouted)),
        };
        assert!(as_expected, "{body}: {failed:?}");
    }
    drop(dead);
    let mut left = world.waits("CTRL:dead", 3).await?;
    left.sort_by_key(text);
    assert_eq!(texts(&left), ["a", "b", "c"]);
    Ok(())
}

async fn whoever_looks_shows_each_letter_once(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.start().await?;
    set_aside(&world, "CTRL", &["a", "b"]).await?;
    let client = world.client().await?;
    let mut dead = within(client.dead_letters(&CTRL)).await?;
    for expected in ["a", "b"] {
        let letter = within(dead.next()).await.ok_or("it is there")?;
        assert_eq!(text(letter.message()), expected);
    }
    // What comes later is shown, too.
    set_aside(&world, "CTRL", &["c"]).await?;
    let letter = within(dead.next()).await.ok_or("it is there")?;
    assert_eq!(text(letter.message()), "c");
    drop(letter);
    client.close().await;
    assert!(within(dead.next()).await.is_none());
    drop(dead);
    assert_eq!(texts(&world.waits("CTRL:dead", 3).await?), ["a", "b", "c"]);
    Ok(())
}
