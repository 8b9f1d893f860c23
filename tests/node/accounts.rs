//! What is left behind, counted to the byte: after cuts, at the watermark, when all have gone.

use std::{sync::Arc, time::Duration};

use gear::{
    Address, CallError, Kind, Message, Node, NotSent, Operation, Route, Subscription, Transport,
    memory::{BrokerFault, Injection, MemoryBroker},
};

use crate::{CTRL, ECHO, REPO, SECOND, Test, WHO, broker, client, node, slow_echo, who};

#[tokio::test(start_paused = true)]
async fn a_thousand_cuts_leave_nothing_behind() -> Test {
    let broker = MemoryBroker::new();
    let link = broker.connect();
    let _node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    let client = client(&broker).await;
    client.call(CTRL, WHO, &()).await?;
    broker.idle().await;
    let queues = broker.queues();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut before = 0;
    for cut in 0..1000 {
        if cut == 10 {
            // By now there are as many tasks for handlers as ran at the same time.
            before = tasks();
        }
        let call = client.call(CTRL, WHO, &()).send();
        link.cut();
        assert_eq!(call.await?, "CTRL.host1");
    }
    broker.idle().await;
    assert_eq!(broker.queues(), queues);
    assert_eq!(tasks(), before);
    assert_eq!((client.stats().open_calls, broker.stored_bytes()), (0, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn tasks_of_handlers_are_used_again_and_end_with_their_node() -> Test {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let broker = broker();
    let client = client(&broker).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        let ctrl = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
        broker.idle().await;
        let before = tasks();
        for _ in 0..10 {
            let calls = [(); 3].map(|()| client.call(CTRL, ECHO, &"x".into()).send());
            for call in calls {
                assert_eq!(call.await?, "x");
            }
        }
        assert_eq!(tasks(), before + 3);
        assert!(ctrl.shutdown(SECOND).await.is_clean());
        broker.idle().await;
        left.push(tasks());
    }
    // The broker has one of its own from when it has something to wait for.
    assert_eq!(left[1], left[0]);
    assert_eq!(left[2], left[0]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_ends_when_its_node_shuts_down_and_outlives_one_that_is_dropped() -> Test {
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let repo = node(&broker, &REPO, "host1").on(WHO, who).start().await?;
    let client = repo.client().clone();
    let open = client.call(CTRL, ECHO, &"x".into()).send();
    drop(repo);
    assert_eq!(open.await?, "x");
    assert_eq!(client.call(CTRL, ECHO, &"y".into()).await?, "y");
    let served = client.call(REPO, WHO, &()).timeout(SECOND).await;
    assert!(matches!(served, Err(CallError::DeadlinePassed)), "{served:?}");
    client.close().await;

    let repo = node(&broker, &REPO, "host2").start().await?;
    let client = repo.client().clone();
    repo.shutdown(SECOND).await;
    let closed = client.call(CTRL, ECHO, &"z".into()).await;
    assert!(matches!(closed, Err(CallError::NotSent(NotSent::Closed))), "{closed:?}");
    Ok(())
}

/// As two tests do that share a client in a static.
#[test]
fn calls_end_when_the_runtime_of_their_client_has() -> Test {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build()
    };
    let (first, second) = (runtime()?, runtime()?);
    let broker = broker();
    let (client, _node, open) = first.block_on(async {
        let node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
        let client = client(&broker).await;
        let open = client.call(CTRL, ECHO, &"x".into()).send();
        Ok::<_, gear::StartError>((client, node, open))
    })?;
    drop(first);
    let late = client.call(CTRL, ECHO, &"y".into()).send();
    let outcome = |call| second.block_on(async { tokio::time::timeout(SECOND, call).await });
    let ended = outcome(open)?;
    assert!(matches!(ended, Err(CallError::Closed)), "{ended:?}");
    let ended = outcome(late)?;
    assert!(matches!(ended, Err(CallError::NotSent(NotSent::Closed))), "{ended:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_freed_with_the_last_of_its_users() -> Test {
    struct Flag(Arc<std::sync::atomic::AtomicBool>);
    impl AsRef<[u8]> for Flag {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    const RAW: Operation<bytes::Bytes, (), gear::Raw> = Operation::new("raw");
    let freed = Arc::default();
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    client.call(CTRL, WHO, &()).await?;
    node.shutdown(Duration::from_secs(1)).await;
    // It waits in the queue of a service that nobody serves any more.
    let body = bytes::Bytes::from_owner(Flag(Arc::clone(&freed)));
    client.cast(CTRL, RAW, &body).await?;
    drop((broker, client, body));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(freed.load(std::sync::atomic::Ordering::SeqCst));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_consumes_too_cannot_starve_itself_at_the_watermark() -> Test {
    let broker = MemoryBroker::builder().watermark(3000).build();
    let link = broker.connect();
    let subscription = Subscription::Service { service: CTRL, prefetch: 1000 };
    let mut queue = link.subscribe(subscription).await?;
    let to = Address::from(CTRL);
    for _ in 0..100 {
        let message = Message::builder(Kind::Cast, "x").body(vec![0; 1000]).build();
        link.send(Route::Address(&to), message).await?;
        queue.next().await.ok_or("ended")?.ack();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_calls_are_in_flight_at_once() -> Test {
    const CALLS: usize = 10_000;
    let broker = MemoryBroker::new();
    let node = node(&broker, &CTRL, "host1").concurrency(u16::MAX).on(ECHO, slow_echo);
    let node = node.start().await?;
    let client = client(&broker).await;
    let calls: Vec<_> =
        (0..CALLS).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    assert_eq!(client.stats().open_calls, CALLS);
    let start = tokio::time::Instant::now();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    assert_eq!(start.elapsed(), SECOND, "all of them were handled together");
    assert_eq!((client.stats().open_calls, node.stats().operations[0].1), (0, CALLS as u64));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() -> Test {
    async fn run() -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let broker = MemoryBroker::builder().seed(42).record(10_000).build();
        let mut nodes = Vec::new();
        for host in ["a", "b", "c"] {
            nodes.push(node(&broker, &CTRL, host).on(ECHO, slow_echo).on(WHO, who).start().await?);
        }
        let client = client(&broker).await;
        broker.inject(Injection::new(BrokerFault::Duplicate).times(3));
        let calls: Vec<_> =
            (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
        tokio::time::sleep(SECOND / 2).await;
        broker.restart();
        for call in calls {
            let _ = call.await;
        }
        broker.idle().await;
        // What is cut off goes in an order, too.
        let open: Vec<_> =
            (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
        tokio::time::sleep(SECOND / 2).await;
        for node in nodes {
            node.shutdown(Duration::ZERO).await;
        }
        client.close().await;
        drop(open);
        broker.idle().await;
        Ok(broker.recorded().iter().map(ToString::to_string).collect())
    }
    let (first, second) = (run().await?, run().await?);
    assert!(first.len() > 50, "{}", first.len());
    assert_eq!(first, second);
    Ok(())
}
