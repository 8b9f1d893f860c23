//! The small promises of a node: statistics, dropping, states.

use std::{sync::Arc, time::Duration};

use gear::{Context, Fault, Operation};

use crate::{CTRL, ECHO, Log, NOTE, Test, WHO, broker, client, node, note, who};

#[tokio::test(start_paused = true)]
async fn statistics_count_by_operation_in_the_order_of_registration() -> Test {
    let broker = broker();
    let node = node(&broker, &CTRL, "host1")
        .on(WHO, who)
        .state(Log::default())
        .on(NOTE, note)
        .start()
        .await?;
    let client = client(&broker).await;
    for _ in 0..3 {
        client.call(CTRL, WHO, &()).await?;
    }
    client.cast(CTRL, NOTE, &"x".into()).await?;
    broker.idle().await;
    assert_eq!(node.stats().operations, [("who".into(), 3), ("note".into(), 1)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn handlers_of_one_node_may_have_different_states() -> Test {
    const ADD: Operation<u32, u32> = Operation::new("add");
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1")
        .state(40)
        .on(ADD, async |base: Arc<u32>, _: Context, n: u32| Ok(*base + n))
        .state(String::from("hello "))
        .on(ECHO, async |prefix: Arc<String>, _: Context, text: String| {
            Ok(format!("{prefix}{text}"))
        })
        .start()
        .await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ADD, &2).await?, 42);
    assert_eq!(client.call(CTRL, ECHO, &"you".into()).await?, "hello you");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_dropped_node_is_gone_and_others_take_over() -> Test {
    async fn hang(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        std::future::pending().await
    }
    let (broker, log) = (broker(), Log::default());
    let first = node(&broker, &CTRL, "host1")
        .on(NOTE, async |_: Arc<()>, _: Context, _: String| std::future::pending().await);
    let first = first.on(ECHO, hang).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, NOTE, &"x".into()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(first);
    tokio::task::yield_now().await;
    let _second = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL x"]);
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
