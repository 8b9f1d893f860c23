//! Work that spans several services: deadlines that travel, and no deadlock.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, Client, Context, Fault, Node, Operation, Pattern, Retry, Service, code,
    memory::{BrokerFault, Injection, MemoryBroker},
};
use tokio::time::Instant;

use crate::{CTRL, ECHO, REPO, Test, broker, client, node};

const SECOND: Duration = Duration::from_secs(1);
const CHAIN: [Service; 5] =
    [Service::new("A"), Service::new("B"), Service::new("C"), Service::new("D"), Service::new("E")];
const DOWN: Operation<usize, String> = Operation::new("down");

/// Asks the next service of the chain, unless it is the last.
async fn down(name: Arc<String>, cx: Context, next: usize) -> Result<String, Fault> {
    match CHAIN.get(next) {
        None => Ok(name.to_string()),
        Some(service) => {
            let rest = cx.client().call(service, DOWN, &(next + 1)).await?;
            Ok(format!("{name}{rest}"))
        }
    }
}

async fn chain(broker: &MemoryBroker) -> Result<Vec<Node>, gear::StartError> {
    let mut nodes = Vec::new();
    for service in &CHAIN {
        let name = service.to_string();
        nodes.push(
            node(broker, service, "host1")
                .concurrency(1)
                .state(name)
                .on(DOWN, down)
                .start()
                .await?,
        );
    }
    Ok(nodes)
}

#[tokio::test(start_paused = true)]
async fn five_services_with_one_place_each_do_not_deadlock() -> Test {
    let broker = broker();
    let _nodes = chain(&broker).await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let calls: Vec<_> = (0..50).map(|_| client.call(&CHAIN[0], DOWN, &1).send()).collect();
    for call in calls {
        assert_eq!(call.await?, "ABCDE");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn going_round_into_a_busy_instance_ends_at_the_deadline_and_not_later() -> Test {
    const ROUND: Operation<(), ()> = Operation::new("round");
    async fn round(_: Arc<()>, cx: Context, (): ()) -> Result<(), Fault> {
        Ok(cx.client().call(CTRL, ROUND, &()).timeout(SECOND * 60).await?)
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").concurrency(1).on(ROUND, round).start().await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let result = client.call(CTRL, ROUND, &()).timeout(SECOND * 2).await;
    assert!(matches!(result, Err(CallError::DeadlinePassed)), "{result:?}");
    assert_eq!(start.elapsed(), SECOND * 2);
    broker.idle().await;
    assert_eq!(node.stats().open_calls, 0);
    assert_eq!(broker.queue("CTRL").map(|queue| (queue.ready, queue.unsettled)), Some((0, 0)));
    // And it serves on.
    assert!(client.call(CTRL, ECHO, &"x".into()).await.unwrap_err().code().is_some());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_cannot_outlive_its_parent() -> Test {
    const ASK: Operation<(), String> = Operation::new("ask");
    /// Notes how long the nested call took, and how it ended.
    async fn ask(log: Arc<crate::Log>, cx: Context, (): ()) -> Result<String, Fault> {
        tokio::time::sleep(SECOND).await;
        let start = Instant::now();
        let result = cx.client().call(REPO, ASK, &()).timeout(SECOND * 60).await;
        log.add(format!(
            "{:?} {:?}",
            start.elapsed(),
            result.as_ref().map_err(ToString::to_string)
        ));
        Ok(result?)
    }
    async fn never(log: Arc<crate::Log>, cx: Context, (): ()) -> Result<String, Fault> {
        log.add(format!("remaining {:?}", cx.remaining()));
        std::future::pending().await
    }
    let (broker, log) = (broker(), crate::Log::default());
    let _ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(ASK, ask).start().await?;
    let _repo = node(&broker, &REPO, "host1").state(log.clone()).on(ASK, never).start().await?;
    let result = client(&broker).await.call(CTRL, ASK, &()).timeout(SECOND * 3).await;
    assert!(matches!(result, Err(CallError::DeadlinePassed)));
    tokio::time::sleep(SECOND).await;
    let failed = r#"2s Err("no answer came before the deadline")"#;
    assert_eq!(log.take(), ["remaining Some(2s)", failed]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_timeout_is_a_timeout_to_the_caller_too() -> Test {
    const ASK: Operation<(), String> = Operation::new("ask");
    async fn ask(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, ASK, &()).timeout(SECOND).await?)
    }
    async fn never(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
        std::future::pending().await
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(ASK, ask).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(ASK, never).start().await?;
    let client = client(&broker).await;
    let error = client.call(CTRL, ASK, &()).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(code::TIMEOUT), Retry::IfIdempotent));
    // Whereas what was surely not done may be tried again.
    broker.inject(Injection::new(BrokerFault::Refuse).on(Pattern::new("REPO")));
    let error = client.call(CTRL, ASK, &()).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(code::FAILED), Retry::Safe));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_after_the_deadline_is_not_sent() -> Test {
    const LATE: Operation<(), ()> = Operation::new("late");
    async fn late(log: Arc<crate::Log>, cx: Context, (): ()) -> Result<(), Fault> {
        tokio::time::sleep(SECOND * 2).await;
        let nested = cx.client().call(REPO, LATE, &()).await;
        log.add(format!("{:?}", nested.map_err(|error| error.to_string())));
        Ok(())
    }
    let (broker, log) = (broker(), crate::Log::default());
    let _ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(LATE, late).start().await?;
    let result = client(&broker).await.call(CTRL, LATE, &()).timeout(SECOND).await;
    assert!(matches!(result, Err(CallError::DeadlinePassed)));
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(log.take(), [r#"Err("the request was not sent: its deadline had passed already")"#]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_trace_goes_on_through_nested_calls() -> Test {
    const TRACE: Operation<(), String> = Operation::new("trace");
    async fn pass_on(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, TRACE, &()).await?)
    }
    async fn show(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        let of = |name| cx.headers().get(name).and_then(|v| v.as_str()).unwrap_or("none");
        Ok(format!("{} {} {}", of("traceparent"), of("tracestate"), of("tenant")))
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(TRACE, pass_on).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(TRACE, show).start().await?;
    let client: Client = client(&broker).await;
    let call = client
        .call(CTRL, TRACE, &())
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("tracestate", "a=1")
        .header("tenant", "acme");
    // What is not of the trace is the handler's to pass on.
    assert_eq!(call.await?, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1 none");
    Ok(())
}
