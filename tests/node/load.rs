//! Many at once, and shutting down in the middle of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gear::{CallError, CastError, Client, Context, Fault, Operation, code, memory::MemoryBroker};

use crate::{CTRL, ECHO, Test, client, node};

const SECOND: Duration = Duration::from_secs(1);
const COUNT: Operation<u64, u64> = Operation::new("count");

async fn slow_echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SECOND).await;
    Ok(text)
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_calls_in_flight() -> Test {
    let broker = MemoryBroker::new();
    let node =
        node(&broker, &CTRL, "host1").concurrency(u16::MAX).on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let calls: Vec<_> =
        (0..10_000).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    assert_eq!(client.stats().open_calls, 10_000);
    let start = tokio::time::Instant::now();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    assert_eq!(start.elapsed(), SECOND, "all of them ran at once");
    assert_eq!((client.stats().open_calls, node.stats().operations[0].1), (0, 10_000));
    assert_eq!(broker.stored_bytes(), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_bounded_for_each_queue() -> Test {
    async fn watch(most: Arc<[AtomicUsize; 2]>, _: Context, _: u64) -> Result<u64, Fault> {
        let running = most[0].fetch_add(1, Ordering::SeqCst) + 1;
        most[1].fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(SECOND).await;
        most[0].fetch_sub(1, Ordering::SeqCst);
        Ok(0)
    }
    let broker = MemoryBroker::new();
    let most = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let _node = node(&broker, &CTRL, "host1")
        .concurrency(3)
        .state(Arc::clone(&most))
        .on(COUNT, watch)
        .start()
        .await?;
    let client = client(&broker).await;
    let calls: Vec<_> = (0..12).map(|n| client.call(CTRL, COUNT, &n).send()).collect();
    for call in calls {
        call.await?;
    }
    assert_eq!(most[1].load(Ordering::SeqCst), 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_was_begun_and_gives_back_the_rest() -> Test {
    let broker = MemoryBroker::new();
    let first = node(&broker, &CTRL, "host1").concurrency(5).on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let calls: Vec<_> = (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    tokio::time::sleep(SECOND / 2).await;
    let report = first.shutdown(SECOND * 5).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.stats.operations[0].1, 5);
    assert_eq!(broker.queue("CTRL").map(|queue| (queue.ready, queue.unsettled)), Some((15, 0)));
    // Another instance does the rest, in the same order.
    let _second = node(&broker, &CTRL, "host2").on(ECHO, slow_echo).start().await?;
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_patience_reports_what_it_cut_off() -> Test {
    async fn hang(_: Arc<()>, _: Context, _: u64) -> Result<u64, Fault> {
        std::future::pending().await
    }
    let broker = MemoryBroker::new();
    let node = node(&broker, &CTRL, "host1").on(COUNT, hang).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, COUNT, &1).send();
    client.cast(CTRL, COUNT, &2).await?;
    tokio::time::sleep(SECOND).await;
    let start = tokio::time::Instant::now();
    let report = node.shutdown(SECOND * 3).await;
    assert_eq!(start.elapsed(), SECOND * 3);
    let cut_off: Vec<_> = report.unfinished.iter().map(|u| (&*u.operation, &*u.sender)).collect();
    assert_eq!(cut_off, [("count", "CLI.test"); 2]);
    assert!(matches!(call.await, Err(CallError::Remote(e)) if e.code == code::DROPPED));
    // The cast went back; somebody else will do it.
    assert_eq!(broker.queue("CTRL").map(|queue| queue.ready), Some(1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_calls_that_are_open() -> Test {
    async fn hang(_: Arc<()>, _: Context, _: u64) -> Result<u64, Fault> {
        std::future::pending().await
    }
    let broker = MemoryBroker::new();
    let _server = node(&broker, &CTRL, "host1").on(COUNT, hang).start().await?;
    let node = node(&broker, &crate::WEB, "host1").start().await?;
    let call = node.client().call(CTRL, COUNT, &1).send();
    let report = node.shutdown(SECOND).await;
    assert_eq!(report.open_calls, 1);
    assert!(matches!(call.await, Err(CallError::Closed)));
    Ok(())
}

/// On real threads: producers never stop while one node after another joins, serves and
/// leaves. Every cast that was confirmed is handled, and every call has one outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_nodes_come_and_go_under_load() -> Test {
    const CASTS: u64 = 4000;
    async fn sum(done: Arc<AtomicUsize>, _: Context, n: u64) -> Result<u64, Fault> {
        done.fetch_add(1, Ordering::Relaxed);
        if n.is_multiple_of(7) {
            tokio::task::yield_now().await;
        }
        Ok(n)
    }
    let broker = MemoryBroker::new();
    let done = Arc::new(AtomicUsize::new(0));
    let start = |host: String| {
        node(&broker, &CTRL, &host).concurrency(16).state(Arc::clone(&done)).on(COUNT, sum).start()
    };
    let mut nodes = std::collections::VecDeque::from([start("host0".into()).await?]);

    let casting = tokio::spawn(cast_all(client(&broker).await, CASTS));
    let calling = tokio::spawn(call_all(client(&broker).await, CASTS / 4));
    for n in 1..20 {
        nodes.push_back(start(format!("host{n}")).await?);
        if let Some(oldest) = nodes.pop_front() {
            let report = oldest.shutdown(SECOND * 10).await;
            assert!(report.is_clean(), "{report:?}");
        }
    }
    let confirmed = casting.await??;
    let answered = calling.await??;
    broker.idle().await;
    assert_eq!(confirmed, CASTS);
    assert_eq!(answered, CASTS / 4);
    // Nobody lost a connection, so nothing came twice either.
    assert_eq!(done.load(Ordering::Relaxed) as u64, CASTS + CASTS / 4);
    assert_eq!(broker.stored_bytes(), 0);
    Ok(())
}

async fn cast_all(client: Client, casts: u64) -> Result<u64, CastError> {
    for n in 0..casts {
        client.cast(CTRL, COUNT, &n).await?;
    }
    Ok(casts)
}

async fn call_all(client: Client, calls: u64) -> Result<u64, CallError> {
    for n in 0..calls {
        assert_eq!(client.call(CTRL, COUNT, &n).await?, n);
    }
    Ok(calls)
}
