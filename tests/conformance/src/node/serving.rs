//! The small promises of a node: names, statistics, states, time without end.

use std::{sync::Arc, time::Duration};

use gear_api::{Context, Node, Operation, StartError, SubscribeError};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-serving";
    a_name_in_use_is_refused(exclusive_instances): "and nothing is taken from its holder",
    statistics_count_by_operation: "in the order of registration",
    handlers_of_one_node_may_have_different_states: "each has that which was given before it",
    for_ever_is_a_duration_too: "`Duration::MAX` overflows nowhere",
}

async fn a_name_in_use_is_refused(world: World) -> Test {
    let first = world.node(&CTRL, "host1").await?.on(WHO, who).start().await?;
    let second = world.node(&CTRL, "host1").await?.on(WHO, who).start().await;
    let Err(StartError::Subscribe(SubscribeError::NameInUse(name))) = second else {
        panic!("{second:?}")
    };
    assert_eq!(name, CTRL.at("host1")?);
    let client = world.client().await?;
    for _ in 0..3 {
        client.call(CTRL, WHO, &()).await?;
    }
    assert_eq!(first.stats().operations[0].1, 3);
    Ok(())
}

async fn statistics_count_by_operation(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.on(WHO, who);
    let node = node.state(Log::default()).on(NOTE, note).start().await?;
    let client = world.client().await?;
    for _ in 0..3 {
        client.call(CTRL, WHO, &()).await?;
    }
    client.cast(CTRL, NOTE, &"x".into()).await?;
    eventually(|| node.stats().operations[1].1 == 1).await;
    assert_eq!(node.stats().operations, [("who".into(), 3), ("note".into(), 1)]);
    Ok(())
}

async fn handlers_of_one_node_may_have_different_states(world: World) -> Test {
    const ADD: Operation<u32, u32> = Operation::new("add");
    let node = world.node(&CTRL, "host1").await?;
    let node = node.state(40).on(ADD, async |base: Arc<u32>, _: Context, n: u32| Ok(*base + n));
    let greet = async |prefix: Arc<String>, _: Context, text: String| Ok(format!("{prefix}{text}"));
    let _node = node.state(String::from("hello ")).on(ECHO, greet).start().await?;
    let client = world.client().await?;
    assert_eq!(client.call(CTRL, ADD, &2).await?, 42);
    assert_eq!(client.call(CTRL, ECHO, &"you".into()).await?, "hello you");
    Ok(())
}

async fn for_ever_is_a_duration_too(world: World) -> Test {
    let node: Node = world
        .node(&CTRL, "host1")
        .await?
        .call_timeout(Duration::MAX)
        .send_timeout(Duration::MAX)
        .on(WHO, who)
        .start()
        .await?;
    let client = world.client().await?;
    client.call(CTRL, WHO, &()).timeout(Duration::MAX).await?;
    client.cast(CTRL, WHO, &()).timeout(Duration::MAX).expires(Duration::MAX).await?;
    let mut answers = client.gather(CTRL, WHO, &()).timeout(Duration::MAX).await?;
    assert!(answers.next().await.is_some());
    drop(answers);
    eventually(|| node.stats().operations[0].1 == 3).await;
    assert!(node.shutdown(Duration::MAX).await.is_clean());
    Ok(())
}
