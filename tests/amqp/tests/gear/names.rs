//! One instance name, one node.

use std::time::{Duration, Instant};

use gear_api::{Address, Route, SubscribeError, Subscription, Transport};

use crate::{CTRL, PATIENCE, System, Test, cast, next};

fn own() -> Subscription {
    Subscription::Instance { instance: CTRL.at("host1").expect("a name"), prefetch: 10 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_under_a_name_in_use_is_refused_in_good_time() -> Test {
    let system = System::new().await;
    let (first, second) = (system.connect().await, system.connect().await);
    let mut queue = first.subscribe(own()).await?;
    let start = Instant::now();
    let error = second.subscribe(own()).await.expect_err("in use");
    assert_eq!(error, SubscribeError::NameInUse(CTRL.at("host1")?));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The holder noticed nothing.
    let to = Address::from(&CTRL.at("host1")?);
    second.send(Route::Address(&to), cast("x")).await?;
    next(&mut queue).await.ack();
    // And when it goes, the name is free.
    first.close().await;
    second.subscribe(own()).await?;
    Ok(())
}

/// The broker keeps a connection that is dead without a goodbye for three heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_link_waits_until_the_broker_lets_go() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(1)).connect().await?;
    let mut queue = transport.subscribe(own()).await?;
    // Nothing passes any more, and nobody hears of it: the old connections stay open at the
    // broker's end while the node comes back by another way.
    proxy.freeze();
    let direct = system.direct().await;
    let again = direct.builder().heartbeat(Duration::from_secs(1)).connect().await?;
    let start = Instant::now();
    let mut taken_over = tokio::time::timeout(PATIENCE, again.subscribe(own())).await??;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let to = Address::from(&CTRL.at("host1")?);
    again.send(Route::Address(&to), cast("x")).await?;
    next(&mut taken_over).await.ack();
    assert!(queue.try_next().is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_has_its_name_again() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(1)).connect().await?;
    let mut queue = transport.subscribe(own()).await?;
    proxy.freeze();
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.drop_connections();
    proxy.heal();
    let to = Address::from(&CTRL.at("host1")?);
    let sent = transport.send(Route::Address(&to), cast("x"));
    tokio::time::timeout(PATIENCE, sent).await??;
    next(&mut queue).await.ack();
    Ok(())
}
