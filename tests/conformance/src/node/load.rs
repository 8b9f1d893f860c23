//! Many at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gear_api::{CallError, CastError, Client, Context, Fault, Operation};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-load";
    thousands_of_calls_in_flight: "run at once, and each has its own answer",
    concurrency_is_bounded_for_each_queue: "never more handlers than the node allows",
    nothing_is_lost_while_nodes_come_and_go(confirms): "every cast once, every call one answer",
}

const COUNT: Operation<u64, u64> = Operation::new("count");

async fn thousands_of_calls_in_flight(world: World) -> Test {
    const CALLS: usize = 3000;
    let node = world.node(&CTRL, "host1").await?.concurrency(u16::MAX).on(ECHO, slow_echo);
    let node = node.start().await?;
    let client = world.client().await?;
    let calls: Vec<_> =
        (0..CALLS).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    let start = Instant::now();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    world.took(start, SHORT);
    assert_eq!((client.stats().open_calls, node.stats().operations[0].1), (0, CALLS as u64));
    Ok(())
}

async fn concurrency_is_bounded_for_each_queue(world: World) -> Test {
    async fn watch(most: Arc<[AtomicUsize; 2]>, _: Context, _: u64) -> Result<u64, Fault> {
        let running = most[0].fetch_add(1, Ordering::SeqCst) + 1;
        most[1].fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(ms(100)).await;
        most[0].fetch_sub(1, Ordering::SeqCst);
        Ok(0)
    }
    let most = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let node = world.node(&CTRL, "host1").await?.concurrency(3).state(Arc::clone(&most));
    let _node = node.on(COUNT, watch).start().await?;
    let client = world.client().await?;
    let calls: Vec<_> = (0..12).map(|n| client.call(CTRL, COUNT, &n).send()).collect();
    for call in calls {
        call.await?;
    }
    assert_eq!(most[1].load(Ordering::SeqCst), 3);
    Ok(())
}

/// Producers never stop while one node after another joins, serves and leaves.
async fn nothing_is_lost_while_nodes_come_and_go(world: World) -> Test {
    const CASTS: u64 = 1000;
    async fn sum(done: Arc<AtomicUsize>, _: Context, n: u64) -> Result<u64, Fault> {
        done.fetch_add(1, Ordering::SeqCst);
        if n.is_multiple_of(7) {
            tokio::task::yield_now().await;
        }
        Ok(n)
    }
    let done = Arc::new(AtomicUsize::new(0));
    let start = async |host: String| -> Test<gear_api::Node> {
        let node = world.node(&CTRL, &host).await?.concurrency(16).state(Arc::clone(&done));
        Ok(node.on(COUNT, sum).start().await?)
    };
    let mut nodes = VecDeque::from([start("host0".into()).await?]);

    let casting = tokio::spawn(cast_all(world.client().await?, CASTS));
    let calling = tokio::spawn(call_all(world.client().await?, CASTS / 4));
    for n in 1..10 {
        nodes.push_back(start(format!("host{n}")).await?);
        if let Some(oldest) = nodes.pop_front() {
            let report = oldest.shutdown(Duration::from_secs(10)).await;
            assert!(report.is_clean(), "{report:?}");
        }
    }
    casting.await??;
    calling.await??;
    // Nobody lost a connection, so nothing came twice either.
    let all = (CASTS + CASTS / 4) as usize;
    eventually(|| done.load(Ordering::SeqCst) >= all).await;
    world.quiet().await;
    assert_eq!(done.load(Ordering::SeqCst), all);
    Ok(())
}

async fn cast_all(client: Client, casts: u64) -> Result<(), CastError> {
    for n in 0..casts {
        client.cast(CTRL, COUNT, &n).await?;
    }
    Ok(())
}

async fn call_all(client: Client, calls: u64) -> Result<(), CallError> {
    for n in 0..calls {
        assert_eq!(client.call(CTRL, COUNT, &n).await?, n);
    }
    Ok(())
}
