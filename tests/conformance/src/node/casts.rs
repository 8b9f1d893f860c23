//! Casts: delivered once, set aside when they can not be handled, never looped.

use std::{sync::Arc, time::Duration};

use gear_api::{
    Address, CastError, Context, Fault, HeaderValue, Kind, Message, NotSent, Operation, Route,
    topology::header,
};

use crate::{
    backend::Full,
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-casts";
    a_cast_returns_when_the_broker_has_it(confirms): "it waits for a service that is away",
    what_cannot_be_handled_is_set_aside(dead_letters): "with the reason; others do not suffer",
    a_group_is_told_without_knowing_what_each_handles: "nothing is set aside for that",
    a_bare_message_of_a_foreign_program_is_a_cast: "a key, a type and a body are enough",
    a_message_that_names_nothing_is_set_aside(dead_letters): "with the reason",
    a_cast_expires_where_it_says_so(expiry): "and waits for as long as it takes where not",
    a_durable_cast_survives_a_restart_of_the_broker(durable, alone): "others may not",
    a_cast_that_is_not_allowed_is_not_sent: "a reserved header, a closed client",
    a_full_queue_refuses(confirms): "and the caster is told",
    a_full_queue_may_drop_its_oldest: "and goes on with the rest",
}

/// Makes the queues of CTRL, and leaves them without anybody.
async fn declare(world: &World) -> Test {
    let node = world.node(&CTRL, "host1").await?.start().await?;
    assert!(node.shutdown(Duration::from_secs(5)).await.is_clean());
    Ok(())
}

/// Why a message was set aside.
fn reason(message: &Message) -> String {
    match message.headers().get(header::DEAD_REASON) {
        Some(HeaderValue::Text(reason)) => reason.to_string(),
        other => format!("{other:?}"),
    }
}

async fn a_cast_returns_when_the_broker_has_it(world: World) -> Test {
    let log = Log::default();
    declare(&world).await?;
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"x".into()).await?;
    client.close().await;
    let node = world.node(&CTRL, "host2").await?.state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host2 CTRL x"]);
    Ok(())
}

async fn what_cannot_be_handled_is_set_aside(world: World) -> Test {
    const WRONG: Operation<u32, ()> = Operation::new("note");
    const BOMB: Operation<String, ()> = Operation::new("bomb");
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new("broken", "it always fails"))
    }
    async fn explode(_: Arc<Log>, _: Context, _: String) -> Result<(), Fault> {
        panic!("it always panics")
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.retries(0).on(ECHO, fail).state(log.clone());
    let node = node.on(NOTE, note).on(BOMB, explode).start().await?;
    let client = world.client().await?;
    let text = String::from("x");
    client.cast(CTRL, WRONG, &1).await?;
    client.cast(CTRL, ECHO, &text).await?;
    client.cast(CTRL, BOMB, &text).await?;
    client.cast(CTRL, WHO, &()).await?;
    client.cast(CTRL, NOTE, &text).await?; // its neighbours do not suffer
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host1 CTRL x"]);
    eventually(|| node.stats().set_aside == 4).await;

    let dead = world.waits("CTRL:dead", 4).await?;
    let mut told: Vec<_> = dead.iter().map(reason).collect();
    told.sort();
    let expected = [
        "broken: it always fails",
        "panicked: the handler panicked",
        "there is no operation \"who\" here",
        "undecodable: the body is not what the operation says",
    ];
    assert_eq!(told, expected);
    for message in &dead {
        let queue = message.headers().get(header::DEAD_QUEUE).and_then(HeaderValue::as_str);
        assert_eq!(queue, Some("CTRL"));
        assert!(message.is_durable());
    }
    world.waits("CTRL", 0).await?;
    Ok(())
}

async fn a_group_is_told_without_knowing_what_each_handles(world: World) -> Test {
    let ctrl = world.node(&CTRL, "host1").await?.start().await?;
    let client = world.client().await?;
    client.cast(CTRL.all(), NOTE, &"x".into()).await?;
    client.cast(Address::Broadcast, NOTE, &"x".into()).await?;
    eventually(|| ctrl.stats().unknown == 2).await;
    world.quiet().await;
    assert_eq!((ctrl.stats().unknown, ctrl.stats().set_aside), (2, 0));
    Ok(())
}

async fn a_bare_message_of_a_foreign_program_is_a_cast(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    let bare = Message::builder(Kind::Cast, "note").body("\"x\"").build();
    publish(&*world.connect().await?, "CTRL", bare).await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host1 CTRL x"]);
    Ok(())
}

async fn a_message_that_names_nothing_is_set_aside(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.start().await?;
    let nameless = Message::builder(Kind::Cast, "").body("?").build();
    let to = Address::from(CTRL);
    world.connect().await?.send(Route::Address(&to), nameless).await?;
    let dead = world.waits("CTRL:dead", 1).await?;
    assert_eq!(reason(&dead[0]), "the message names no operation");
    Ok(())
}

async fn a_cast_expires_where_it_says_so(world: World) -> Test {
    let log = Log::default();
    declare(&world).await?;
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"short".into()).expires(SHORT).await?;
    client.cast(CTRL, NOTE, &"for ever".into()).await?;
    tokio::time::sleep(SHORT * 2).await;
    let node = world.node(&CTRL, "host2").await?.state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host2 CTRL for ever"]);
    Ok(())
}

async fn a_durable_cast_survives_a_restart_of_the_broker(world: World) -> Test {
    let log = Log::default();
    declare(&world).await?;
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"may go".into()).durable(false).await?;
    client.cast(CTRL, NOTE, &"kept".into()).await?;
    world.restart().await?;
    let node = world.node(&CTRL, "host2").await?.state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    // A quorum queue keeps all.
    let got = log.exactly(1, &world).await;
    assert_eq!(got.last().map(String::as_str), Some("CTRL.host2 CTRL kept"));
    Ok(())
}

async fn a_cast_that_is_not_allowed_is_not_sent(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.start().await?;
    let client = world.client().await?;
    let text = String::from("x");
    let reserved = client.cast(CTRL, NOTE, &text).header("CC", "x").await;
    assert!(matches!(reserved, Err(CastError::NotSent(NotSent::Header(_)))), "{reserved:?}");
    client.close().await;
    let closed = client.cast(CTRL, NOTE, &text).await;
    assert!(matches!(closed, Err(CastError::Closed)), "{closed:?}");
    Ok(())
}

async fn a_full_queue_refuses(world: World) -> Test {
    declare(&world).await?;
    let client = world.client().await?;
    world.limit_queue("CTRL", 2, Full::Refuses).await?;
    for n in 0..2 {
        client.cast(CTRL, NOTE, &n.to_string()).await?;
    }
    let third = client.cast(CTRL, NOTE, &"2".into()).await;
    assert!(matches!(third, Err(CastError::NotSent(NotSent::Refused(_)))), "{third:?}");
    Ok(())
}

async fn a_full_queue_may_drop_its_oldest(world: World) -> Test {
    let log = Log::default();
    declare(&world).await?;
    let client = world.client().await?;
    world.limit_queue("CTRL", 2, Full::DropsOldest).await?;
    for n in 0..3 {
        client.cast(CTRL, NOTE, &n.to_string()).await?;
    }
    let node = world.node(&CTRL, "host2").await?.state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    let expected = ["CTRL.host2 CTRL 1", "CTRL.host2 CTRL 2"];
    assert_eq!(log.sorted(2, &world).await, expected);
    Ok(())
}
