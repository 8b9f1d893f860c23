//! The four ways to address.

use std::collections::BTreeMap;

use gear_api::{Address, CallError, CastError, Node};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "node-addressing";
    a_service_is_one_instance_in_turn: "calls one after another go round the instances",
    an_instance_is_that_one_and_nobody_else: "point to point does not leak",
    a_multicast_is_every_instance_of_the_service_once: "no more, no less, nobody else",
    a_broadcast_is_everybody_once_and_the_sender_too: "no more, no less",
    nobody_there_is_not_routed_for_each_form(mandatory): "for calls, casts and gathers",
    host_names_may_have_dots: "in each form of address",
}

/// Two instances of CTRL, two of REPO, one of WEB, all noting what they get.
async fn five(world: &World, log: &Log) -> Test<Vec<Node>> {
    let mut nodes = Vec::new();
    for (service, host) in
        [(&CTRL, "host1"), (&CTRL, "host2"), (&REPO, "host1"), (&REPO, "host2"), (&WEB, "host1")]
    {
        let node = world.node(service, host).await?.on(WHO, who);
        nodes.push(node.state(log.clone()).on(NOTE, note).start().await?);
    }
    Ok(nodes)
}

async fn a_service_is_one_instance_in_turn(world: World) -> Test {
    let _nodes = five(&world, &Log::default()).await?;
    let client = world.client().await?;
    let mut answers = BTreeMap::new();
    for _ in 0..10 {
        *answers.entry(client.call(CTRL, WHO, &()).await?).or_insert(0) += 1;
    }
    assert_eq!(answers, [("CTRL.host1".into(), 5), ("CTRL.host2".into(), 5)].into());
    Ok(())
}

async fn an_instance_is_that_one_and_nobody_else(world: World) -> Test {
    let log = Log::default();
    let _nodes = five(&world, &log).await?;
    let client = world.client().await?;
    for _ in 0..3 {
        client.cast(REPO.at("host2")?, NOTE, &"x".into()).await?;
    }
    assert_eq!(log.exactly(3, &world).await, ["REPO.host2 REPO.host2 x"; 3]);
    Ok(())
}

async fn a_multicast_is_every_instance_of_the_service_once(world: World) -> Test {
    let log = Log::default();
    let _nodes = five(&world, &log).await?;
    world.client().await?.cast(CTRL.all(), NOTE, &"x".into()).await?;
    assert_eq!(log.sorted(2, &world).await, ["CTRL.host1 CTRL.* x", "CTRL.host2 CTRL.* x"]);
    Ok(())
}

async fn a_broadcast_is_everybody_once_and_the_sender_too(world: World) -> Test {
    let log = Log::default();
    let nodes = five(&world, &log).await?;
    nodes[4].client().cast(Address::Broadcast, NOTE, &"x".into()).await?;
    let everybody = ["CTRL.host1", "CTRL.host2", "REPO.host1", "REPO.host2", "WEB.host1"];
    let expected = everybody.map(|instance| format!("{instance} *.* x"));
    assert_eq!(log.sorted(5, &world).await, expected);
    Ok(())
}

async fn nobody_there_is_not_routed_for_each_form(world: World) -> Test {
    let client = world.client().await?;
    for to in ["GONE", "GONE.host1", "GONE.*", "*.*"] {
        let to: Address = to.parse()?;
        let call = client.call(&to, WHO, &()).await;
        assert!(matches!(call, Err(CallError::NotRouted)), "{to}: {call:?}");
        let cast = client.cast(&to, NOTE, &"x".into()).await;
        assert!(matches!(cast, Err(CastError::NotRouted)), "{to}: {cast:?}");
        let gather = client.gather(&to, WHO, &()).await;
        assert!(matches!(gather, Err(CallError::NotRouted)), "{to}");
    }
    Ok(())
}

async fn host_names_may_have_dots(world: World) -> Test {
    let _node = world.node(&REPO, "db-1.eu.example.com").await?.on(WHO, who).start().await?;
    let client = world.client().await?;
    let exact = "REPO.db-1.eu.example.com";
    assert_eq!(client.call(exact.parse::<Address>()?, WHO, &()).await?, exact);
    assert_eq!(client.call(REPO.all(), WHO, &()).await?, exact);
    assert_eq!(client.call(Address::Broadcast, WHO, &()).await?, exact);
    Ok(())
}
