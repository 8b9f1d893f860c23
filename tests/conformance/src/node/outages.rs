//! The whole broker goes down, or takes no more messages. These tests run alone.

use gear_api::{CallError, Status};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "node-outages";
    after_a_restart_calls_go_on(alone): "and one that was lost is told by its deadline",
    an_alarm_blocks_casts_until_it_is_over(alone): "and `status` says so",
    a_reply_that_must_wait_for_the_broker_still_arrives(alone): "and its request is not forgotten",
}

async fn after_a_restart_calls_go_on(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.on(WHO, who);
    let _node = node.state(gate.clone()).on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ECHO, &"x".into()).timeout(LONG).send();
    gate.begun(1).await;
    world.restart().await?;
    gate.open();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    // Whether it is answered depends on the moment of the restart; that it ends does not.
    match within(call).await {
        Ok(answer) => assert_eq!(answer, "x"),
        Err(CallError::DeadlinePassed) => {}
        Err(other) => return Err(other.into()),
    }
    Ok(())
}

async fn an_alarm_blocks_casts_until_it_is_over(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone()).on(NOTE, note).start().await?;
    let client = world.client().await?;
    world.alarm(true).await?;
    let cast = client.cast(CTRL, NOTE, &"x".into()).timeout(LONG).send();
    within(client.status().wait_for(|status| matches!(status, Status::Blocked(_)))).await?;
    world.pause().await;
    assert_eq!(log.len(), 0, "it waits");
    world.alarm(false).await?;
    cast.await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host1 CTRL x"]);
    within(node.status().wait_for(Status::is_ready)).await?;
    Ok(())
}

async fn a_reply_that_must_wait_for_the_broker_still_arrives(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let _node = node.start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ECHO, &"x".into()).timeout(LONG).send();
    gate.begun(1).await;
    world.alarm(true).await?;
    gate.open();
    world.pause().await;
    world.alarm(false).await?;
    assert_eq!(call.await?, "x");
    Ok(())
}
