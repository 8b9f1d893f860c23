//! Casts: delivered once, set aside when they can not be handled, never looped.

use std::{sync::Arc, time::Duration};

use gear::{
    Address, CastError, Context, Fault, HeaderValue, Kind, Message, NotSent, Operation, Retry,
    Route, Transport,
    memory::{BrokerFault, Overflow, Policy},
    topology,
};

use crate::{CTRL, ECHO, Log, NOTE, Test, broker, client, node, note};

/// Why the messages in a dead queue are there.
fn reasons(broker: &gear::memory::MemoryBroker, queue: &str) -> Vec<String> {
    let reason = |message: &Message| match message.headers().get(topology::header::DEAD_REASON) {
        Some(HeaderValue::Text(reason)) => reason.to_string(),
        other => format!("{other:?}"),
    };
    broker.messages(queue).iter().map(reason).collect()
}

/// Makes the queues of CTRL, and leaves them without anybody.
async fn declare(broker: &gear::memory::MemoryBroker) -> Test {
    let report = node(broker, &CTRL, "host1").start().await?.shutdown(Duration::ZERO).await;
    assert!(report.is_clean());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cast_returns_when_the_broker_has_it() -> Test {
    let (broker, log) = (broker(), Log::default());
    // Nobody serves yet, but the queue is there.
    declare(&broker).await?;
    client(&broker).await.cast(CTRL, NOTE, &"x".into()).await?;
    assert_eq!(broker.queue("CTRL").map(|queue| queue.ready), Some(1));
    let _node = node(&broker, &CTRL, "host2").state(log.clone()).on(NOTE, note).start().await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host2 CTRL x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cast_that_cannot_be_handled_is_set_aside_with_the_reason() -> Test {
    const WRONG: Operation<u32, ()> = Operation::new("note");
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new("broken", "it always fails"))
    }
    async fn explode(_: Arc<Log>, _: Context, _: String) -> Result<(), Fault> {
        panic!("it always panics")
    }
    const BOMB: Operation<String, ()> = Operation::new("bomb");
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1")
        .on(ECHO, fail)
        .state(log.clone())
        .on(NOTE, note)
        .on(BOMB, explode)
        .start()
        .await?;
    let client = client(&broker).await;
    let text = String::from("x");
    client.cast(CTRL, WRONG, &1).await?;
    client.cast(CTRL, ECHO, &text).await?;
    client.cast(CTRL, BOMB, &text).await?;
    client.cast(CTRL, crate::WHO, &()).await?;
    client.cast(CTRL, NOTE, &text).await?; // its neighbours do not suffer
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL x"]);
    let mut told = reasons(&broker, "CTRL:dead");
    told.sort();
    let expected = [
        "broken: it always fails",
        "panicked: the handler panicked",
        "there is no operation \"who\" here",
        "undecodable: the body is not what the operation says",
    ];
    assert_eq!(told, expected);
    let first = &broker.messages("CTRL:dead")[0];
    assert_eq!(
        first.headers().get(topology::header::DEAD_QUEUE).and_then(HeaderValue::as_str),
        Some("CTRL")
    );
    assert!(first.is_durable());
    assert_eq!(node.stats().set_aside, 4);
    assert_eq!(broker.queue("CTRL").map(|queue| (queue.ready, queue.unsettled)), Some((0, 0)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_set_aside_goes_back() -> Test {
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new("broken", "it always fails"))
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(ECHO, fail).start().await?;
    let client = client(&broker).await;
    let refuse = gear::memory::Injection::new(BrokerFault::Refuse).on(gear::Pattern::new("CTRL"));
    client.cast(CTRL, ECHO, &"x".into()).send().detach();
    // The next message with that key is the dead letter.
    broker.inject(refuse);
    broker.idle().await;
    assert_eq!(node.stats().failed, 2, "it came back once");
    assert_eq!(broker.messages("CTRL:dead").len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_group_is_told_without_knowing_what_each_handles() -> Test {
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").start().await?;
    let client = client(&broker).await;
    client.cast(CTRL.all(), NOTE, &"x".into()).await?;
    client.cast(Address::Broadcast, NOTE, &"x".into()).await?;
    broker.idle().await;
    assert_eq!((ctrl.stats().unknown, ctrl.stats().set_aside), (2, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_bare_message_of_a_foreign_program_is_a_cast_or_set_aside() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let link = broker.connect();
    let to = Address::from(CTRL);
    // A body, a key, a type: nothing else.
    let named = Message::builder(Kind::Cast, "note").body("\"x\"").build();
    link.send(Route::Address(&to), named).await?;
    link.send(Route::Address(&to), Message::builder(Kind::Cast, "").body("?").build()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL x"]);
    assert_eq!(reasons(&broker, "CTRL:dead"), ["the message names no operation"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cast_expires_where_it_says_so() -> Test {
    let (broker, log) = (broker(), Log::default());
    declare(&broker).await?;
    let client = client(&broker).await;
    client.cast(CTRL, NOTE, &"short".into()).expires(Duration::from_secs(1)).await?;
    client.cast(CTRL, NOTE, &"for ever".into()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL for ever"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_durable_cast_survives_a_restart_of_the_broker() -> Test {
    let (broker, log) = (broker(), Log::default());
    declare(&broker).await?;
    let client = client(&broker).await;
    client.cast(CTRL, NOTE, &"gone".into()).durable(false).await?;
    client.cast(CTRL, NOTE, &"kept".into()).await?;
    broker.restart();
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL kept"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_way_a_cast_can_fail() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").start().await?;
    let client = client(&broker).await;
    let text = String::from("x");

    broker.inject(BrokerFault::Refuse);
    let refused = client.cast(CTRL, NOTE, &text).await.unwrap_err();
    assert!(matches!(refused, CastError::NotSent(NotSent::Refused(_))));
    assert_eq!(refused.retry(), Retry::Safe);

    // Of several queues the others may have it.
    broker.inject(BrokerFault::Refuse);
    let refused = client.cast(CTRL.all(), NOTE, &text).await.unwrap_err();
    assert!(matches!(refused, CastError::Unknown(_)));
    assert_eq!(refused.retry(), Retry::IfIdempotent);

    broker.inject(BrokerFault::LoseConfirm);
    let start = tokio::time::Instant::now();
    let lost = client.cast(CTRL, NOTE, &text).timeout(Duration::from_secs(3)).await;
    assert!(matches!(lost, Err(CastError::Unknown(_))));
    assert_eq!(start.elapsed(), Duration::from_secs(3));

    broker.raise_alarm("disk");
    let blocked = client.cast(CTRL, NOTE, &text).timeout(Duration::from_secs(3)).await;
    assert!(matches!(blocked, Err(CastError::NotSent(NotSent::Unavailable(_)))));
    broker.clear_alarm();

    let reserved = client.cast(CTRL, NOTE, &text).header("CC", "x").await;
    assert!(matches!(reserved, Err(CastError::NotSent(NotSent::Header(_)))));

    client.close().await;
    assert!(matches!(client.cast(CTRL, NOTE, &text).await, Err(CastError::Closed)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_or_drops_its_oldest_as_the_policy_says() -> Test {
    let broker = broker();
    declare(&broker).await?;
    let client = client(&broker).await;
    let names = gear::Pattern::new("CTRL");
    broker.set_policy(names.clone(), Policy::new().max_length(2).overflow(Overflow::RejectPublish));
    for n in 0..2 {
        client.cast(CTRL, NOTE, &n.to_string()).await?;
    }
    let third = client.cast(CTRL, NOTE, &"2".into()).await;
    assert!(matches!(third, Err(CastError::NotSent(NotSent::Refused(_)))), "{third:?}");
    broker.set_policy(names, Policy::new().max_length(2));
    client.cast(CTRL, NOTE, &"3".into()).await?;
    let bodies: Vec<_> = broker.messages("CTRL").iter().map(|m| m.body().clone()).collect();
    assert_eq!(bodies, ["\"1\"", "\"3\""]);
    Ok(())
}
