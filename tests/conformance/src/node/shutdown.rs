//! Leaving: what was begun is finished, the rest goes back, and what was not done is said.

use gear_api::{CallError, Retry, code};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "node-shutdown";
    it_finishes_what_was_begun_and_gives_back_the_rest: "to who comes next",
    without_patience_it_reports_what_it_cut_off: "calls are answered, casts go back",
    it_ends_calls_that_are_open: "with an outcome",
    its_name_is_free_afterwards(exclusive_instances): "for the next start of the same instance",
    it_takes_nothing_more: "what comes later waits for another",
    a_dropped_node_is_gone_and_others_take_over: "what it had not finished comes again",
    what_nobody_has_begun_goes_back_when_a_node_is_dropped: "and is not answered with an error",
}

async fn it_finishes_what_was_begun_and_gives_back_the_rest(world: World) -> Test {
    let gate = Gate::new();
    let first = world.node(&CTRL, "host1").await?.concurrency(5).state(gate.clone());
    let first = first.on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let calls: Vec<_> = (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    gate.begun(5).await;
    let (report, ()) = tokio::join!(first.shutdown(LONG), async {
        world.pause().await;
        gate.open();
    });
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(gate.count(), 5);
    let second = world.node(&CTRL, "host2").await?.state(gate.clone()).on(ECHO, gated);
    let _second = second.start().await?;
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    assert_eq!(gate.count(), 20, "each was handled once");
    Ok(())
}

async fn without_patience_it_reports_what_it_cut_off(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let node = node.start().await?;
    let client = world.client().await?;
    let text = String::from("x");
    let call = client.call(CTRL, ECHO, &text).send();
    client.cast(CTRL, ECHO, &text).await?;
    gate.begun(2).await;
    let start = Instant::now();
    let report = node.shutdown(SHORT).await;
    world.took(start, SHORT);
    let cut_off: Vec<_> = report.unfinished.iter().map(|u| (&*u.operation, &*u.sender)).collect();
    assert_eq!(cut_off, [("echo", "CLI.test"); 2]);
    assert!(matches!(call.await, Err(CallError::Remote(e)) if e.code == code::DROPPED));
    // The cast went back; somebody else does it.
    let node = world.node(&CTRL, "host2").await?.state(gate.clone()).on(ECHO, gated);
    let _node = node.start().await?;
    gate.begun(3).await;
    Ok(())
}

async fn it_ends_calls_that_are_open(world: World) -> Test {
    let server = world.node(&CTRL, "host1").await?.state(Gate::new()).on(ECHO, gated);
    let _server = server.start().await?;
    let node = world.node(&WEB, "host1").await?.start().await?;
    let call = node.client().call(CTRL, ECHO, &"x".into()).send();
    let report = node.shutdown(LONG).await;
    assert_eq!(report.open_calls, 1);
    assert!(matches!(call.await, Err(CallError::Closed)));
    Ok(())
}

async fn its_name_is_free_afterwards(world: World) -> Test {
    for _ in 0..3 {
        let node = world.node(&CTRL, "host1").await?.on(WHO, who).start().await?;
        assert_eq!(node.client().call(CTRL, WHO, &()).await?, "CTRL.host1");
        assert!(node.shutdown(LONG).await.is_clean());
    }
    Ok(())
}

async fn it_takes_nothing_more(world: World) -> Test {
    let log = Log::default();
    let first = world.node(&CTRL, "host1").await?.state(log.clone()).on(NOTE, note);
    let report = first.start().await?.shutdown(LONG).await;
    assert!(report.is_clean(), "{report:?}");
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"x".into()).await?;
    world.quiet().await;
    assert_eq!(log.len(), 0);
    let second = world.node(&CTRL, "host2").await?.state(log.clone()).on(NOTE, note);
    let _second = second.start().await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host2 CTRL x"]);
    Ok(())
}

async fn a_dropped_node_is_gone_and_others_take_over(world: World) -> Test {
    let gate = Gate::new();
    let first = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let first = first.start().await?;
    let client = world.client().await?;
    client.cast(CTRL, ECHO, &"x".into()).await?;
    gate.begun(1).await;
    drop(first);
    let second = world.node(&CTRL, "host2").await?.state(gate.clone()).on(ECHO, gated);
    let _second = second.start().await?;
    // Not earlier: the first handler might still get through the gate.
    gate.begun(2).await;
    gate.open();
    world.quiet().await;
    assert_eq!(gate.count(), 2);
    Ok(())
}

async fn what_nobody_has_begun_goes_back_when_a_node_is_dropped(world: World) -> Test {
    let gate = Gate::new();
    let first = world.node(&CTRL, "host1").await?.concurrency(1).state(gate.clone());
    let first = first.on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let begun = client.call(CTRL, ECHO, &"begun".into()).send();
    let waiting = client.call(CTRL, ECHO, &"waiting".into()).send();
    gate.begun(1).await;
    drop(first);
    let error = begun.await.expect_err("it was cut off");
    assert_eq!((error.code(), error.retry()), (Some(code::DROPPED), Retry::IfIdempotent));
    gate.open();
    let second = world.node(&CTRL, "host2").await?.state(gate.clone()).on(ECHO, gated);
    let _second = second.start().await?;
    assert_eq!(waiting.await?, "waiting");
    Ok(())
}
