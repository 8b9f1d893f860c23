//! Lost links and deleted queues, as nodes and clients see them.

use std::{sync::Arc, time::Duration};

use gear_api::{
    CallError, CastError, Client, Context, Fault, Node, NotSent, Operation, Retry, Status,
};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "node-faults";
    a_call_survives_a_cut_of_its_caller: "the answer waits in the queue",
    a_request_comes_again_when_its_handler_is_cut_off: "handled twice, answered once of use",
    no_more_are_handled_at_a_time_after_a_cut: "those that still are count, too",
    no_more_are_handled_at_a_time_after_a_deletion: "of the queue that they came by",
    what_is_sent_during_a_cut_waits_and_goes_in_order: "once each",
    what_waits_until_its_deadline_was_not_sent: "and may be tried again",
    a_call_that_is_given_up_during_a_cut_is_not_sent: "its handler never sees it",
    closing_ends_what_waits_for_the_connection: "with an outcome",
    a_queue_that_is_deleted_is_declared_and_consumed_again: "of the service and the instance",
    a_reply_queue_that_is_deleted_is_replaced: "and calls go on",
    a_subscription_that_ended_does_not_come_back_as_a_ghost: "after a deletion and a cut at once",
    a_node_that_lost_its_queue_and_its_connection_shuts_down: "in the time it is given",
    a_shutdown_does_not_wait_for_a_connection_that_is_down: "longer than it is given",
}

/// A client and the link that it goes over.
async fn client_over_link(world: &World) -> Test<(crate::Connection, Client)> {
    let link = world.link().await?;
    let client = Client::builder(link.transport.clone(), "CLI.test".parse()?).start().await?;
    Ok((link, client))
}

async fn a_call_survives_a_cut_of_its_caller(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let _node = node.start().await?;
    let (link, client) = client_over_link(&world).await?;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    gate.begun(1).await;
    let start = Instant::now();
    world.cut(&link, ms(2000)).await?;
    // Replies are not acked: what the broker sends before it knows of the cut is lost.
    tokio::time::sleep(ms(1000)).await;
    gate.open();
    assert_eq!(*client.status().borrow(), Status::Connecting);
    assert_eq!(call.await?, "x");
    world.took(start, ms(2000));
    within(client.status().wait_for(Status::is_ready)).await?;
    Ok(())
}

async fn a_request_comes_again_when_its_handler_is_cut_off(world: World) -> Test {
    let link = world.link().await?;
    let gate = Gate::new();
    let node = Node::builder(link.transport.clone(), CTRL.at("host1")?).state(gate.clone());
    let _node = node.on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    gate.begun(1).await;
    world.cut(&link, SHORT).await?;
    gate.open();
    assert_eq!(call.await?, "x");
    // It was handled twice, which is what at-least-once means, and answered once of use.
    eventually(|| client.stats().late_replies == 1).await;
    world.quiet().await;
    assert_eq!((gate.count(), client.stats().late_replies), (2, 1));
    Ok(())
}

async fn no_more_are_handled_at_a_time_after_a_cut(world: World) -> Test {
    let link = world.link().await?;
    let gate = Gate::new();
    let node = Node::builder(link.transport.clone(), CTRL.at("host1")?).concurrency(2);
    let _node = node.state(gate.clone()).on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let call = |n: u32| client.call(CTRL, ECHO, &n.to_string()).timeout(LONG).send();
    let calls: Vec<_> = (0..4).map(call).collect();
    gate.begun(2).await;
    // What waits is lost in its turn, and waits again.
    for _ in 0..2 {
        world.cut(&link, SHORT).await?;
        world.ready(&*link.transport).await?;
        world.pause().await;
        assert_eq!(gate.count(), 2, "what comes again waits");
    }
    gate.open();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    eventually(|| client.stats().late_replies == 2).await;
    assert_eq!(gate.count(), 6);
    Ok(())
}

async fn no_more_are_handled_at_a_time_after_a_deletion(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.concurrency(2).state(gate.clone());
    let _node = node.on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let call = |n: u32| client.call(CTRL, ECHO, &n.to_string()).timeout(LONG).send();
    let calls: Vec<_> = (0..2).map(call).collect();
    gate.begun(2).await;
    world.delete_queue("CTRL").await?;
    let declared = async {
        while world.messages("CTRL").await.is_err() {
            tokio::time::sleep(ms(10)).await;
        }
    };
    within(declared).await;
    let again: Vec<_> = (2..5).map(call).collect();
    world.pause().await;
    assert_eq!(gate.count(), 2, "what comes by the new queue waits");
    gate.open();
    for (n, call) in calls.into_iter().chain(again).enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    assert_eq!(gate.count(), 5);
    Ok(())
}

async fn what_is_sent_during_a_cut_waits_and_goes_in_order(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.concurrency(1).state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    let (link, client) = client_over_link(&world).await?;
    world.cut(&link, SHORT).await?;
    let mut casts = Vec::new();
    for n in 0..5 {
        casts.push(client.cast(CTRL.at("host1")?, NOTE, &n.to_string()).send());
    }
    for cast in casts {
        cast.await?;
    }
    let expected: Vec<_> = (0..5).map(|n| format!("CTRL.host1 CTRL.host1 {n}")).collect();
    assert_eq!(log.exactly(5, &world).await, expected);
    Ok(())
}

async fn what_waits_until_its_deadline_was_not_sent(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.on(WHO, who).state(log.clone()).on(NOTE, note);
    let node = node.start().await?;
    let (link, client) = client_over_link(&world).await?;
    world.cut(&link, ms(3000)).await?;
    let start = Instant::now();
    let call = client.call(CTRL, WHO, &()).timeout(SHORT).send();
    let cast = client.cast(CTRL, NOTE, &"x".into()).timeout(SHORT).send();
    let call = call.await.expect_err("there is no connection");
    assert!(matches!(call, CallError::NotSent(NotSent::Unavailable(_))), "{call:?}");
    assert_eq!(call.retry(), Retry::Safe);
    let cast = cast.await.expect_err("there is no connection");
    assert!(matches!(cast, CastError::NotSent(NotSent::Unavailable(_))), "{cast:?}");
    world.took(start, SHORT);
    within(client.status().wait_for(Status::is_ready)).await?;
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    world.quiet().await;
    let counts: Vec<_> = node.stats().operations.iter().map(|(_, n)| *n).collect();
    assert_eq!(counts, [1, 0]);
    Ok(())
}

async fn a_call_that_is_given_up_during_a_cut_is_not_sent(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.on(WHO, who).start().await?;
    let (link, client) = client_over_link(&world).await?;
    world.cut(&link, SHORT).await?;
    drop(client.call(CTRL, WHO, &()).send());
    assert_eq!(client.stats().open_calls, 0);
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    world.quiet().await;
    assert_eq!((node.stats().operations[0].1, client.stats().late_replies), (1, 0));
    Ok(())
}

async fn closing_ends_what_waits_for_the_connection(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.on(WHO, who).start().await?;
    let (link, client) = client_over_link(&world).await?;
    world.cut(&link, LONG).await?;
    let cast = client.cast(CTRL, WHO, &()).send();
    client.close().await;
    let cast = within(cast).await;
    assert!(matches!(cast, Err(CastError::Closed)), "{cast:?}");
    Ok(())
}

/// The answer of whoever serves, as soon as it does again.
async fn served(client: &Client, to: impl Into<gear_api::Address>) -> Test<String> {
    let to = to.into();
    within(async {
        loop {
            match client.call(&to, WHO, &()).timeout(ms(1000)).await {
                Ok(name) => return Ok(name),
                Err(CallError::NotRouted | CallError::DeadlinePassed) => {
                    tokio::time::sleep(ms(50)).await;
                }
                Err(other) => return Err(other.into()),
            }
        }
    })
    .await
}

async fn a_queue_that_is_deleted_is_declared_and_consumed_again(world: World) -> Test {
    let _node = world.node(&CTRL, "host1").await?.on(WHO, who).start().await?;
    let client = world.client().await?;
    for queue in ["CTRL", "CTRL.host1"] {
        world.delete_queue(queue).await?;
        assert_eq!(served(&client, CTRL).await?, "CTRL.host1");
        assert_eq!(served(&client, CTRL.at("host1")?).await?, "CTRL.host1");
    }
    Ok(())
}

async fn a_reply_queue_that_is_deleted_is_replaced(world: World) -> Test {
    const WHERE: Operation<(), String> = Operation::new("where");
    async fn whence(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.message().reply_to().map(ToString::to_string).unwrap_or_default())
    }
    let _node = world.node(&CTRL, "host1").await?.on(WHERE, whence).start().await?;
    let client = world.client().await?;
    let before = client.call(CTRL, WHERE, &()).await?;
    world.delete_queue(&before).await?;
    // Under the name that it had or under another: calls go on.
    let after = within(async {
        loop {
            match client.call(CTRL, WHERE, &()).timeout(ms(1000)).await {
                Err(CallError::DeadlinePassed) => {}
                other => return other,
            }
        }
    });
    assert!(after.await?.starts_with("CLI.test:reply."));
    Ok(())
}

async fn a_subscription_that_ended_does_not_come_back_as_a_ghost(world: World) -> Test {
    let link = world.link().await?;
    let node = Node::builder(link.transport.clone(), CTRL.at("host1")?).on(WHO, who);
    let _node = node.start().await?;
    world.delete_queue("CTRL.host1").await?;
    world.cut(&link, SHORT).await?;
    let client = world.client().await?;
    assert_eq!(served(&client, CTRL.at("host1")?).await?, "CTRL.host1");
    Ok(())
}

async fn a_node_that_lost_its_queue_and_its_connection_shuts_down(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let node = node.start().await?;
    let client = world.client().await?;
    let _call = client.call(CTRL, ECHO, &"x".into()).send();
    gate.begun(1).await;
    world.delete_queue("CTRL").await?;
    node.client().close().await;
    let start = Instant::now();
    let report = node.shutdown(SHORT).await;
    world.took(start, SHORT);
    assert_eq!(report.unfinished.len(), 1);
    Ok(())
}

async fn a_shutdown_does_not_wait_for_a_connection_that_is_down(world: World) -> Test {
    let link = world.link().await?;
    let node = Node::builder(link.transport.clone(), CTRL.at("host1")?).on(WHO, who);
    let node = node.start().await?;
    world.cut(&link, Duration::from_secs(60)).await?;
    let start = Instant::now();
    assert!(node.shutdown(SHORT).await.is_clean());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    Ok(())
}
