//! Work that spans several services: deadlines that travel, and no deadlock.

use std::{sync::Arc, time::Duration};

use gear_api::{CallError, Context, Fault, Node, Operation, Retry, Service, code};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-nested";
    five_services_with_one_place_each_do_not_deadlock: "50 calls through a chain of five",
    going_round_into_a_busy_instance_ends_at_the_deadline: "not later, and it serves on",
    a_nested_call_cannot_outlive_its_parent: "whatever timeout it asks for",
    a_nested_timeout_is_a_timeout_to_the_caller_too: "and may be tried if it is idempotent",
    a_nested_call_after_the_deadline_is_not_sent: "and says why",
    the_trace_goes_on_through_nested_calls: "and other headers do not",
}

const CHAIN: [Service; 5] =
    [Service::new("A"), Service::new("B"), Service::new("C"), Service::new("D"), Service::new("E")];
const DOWN: Operation<usize, String> = Operation::new("down");
const ASK: Operation<(), String> = Operation::new("ask");

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

async fn chain(world: &World) -> Test<Vec<Node>> {
    let mut nodes = Vec::new();
    for service in &CHAIN {
        let node = world.node(service, "host1").await?.concurrency(1).state(service.to_string());
        nodes.push(node.on(DOWN, down).start().await?);
    }
    Ok(nodes)
}

async fn never(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
    std::future::pending().await
}

/// Whether the time of a call was up. Where a nested call ends at the same moment, either may be
/// first to tell.
fn ran_out<T>(result: &Result<T, CallError>) -> bool {
    match result {
        Err(CallError::Remote(error)) => error.code == code::TIMEOUT,
        other => matches!(other, Err(CallError::DeadlinePassed)),
    }
}

async fn five_services_with_one_place_each_do_not_deadlock(world: World) -> Test {
    let _nodes = chain(&world).await?;
    let client = world.client().await?;
    let start = Instant::now();
    let calls: Vec<_> = (0..50).map(|_| client.call(&CHAIN[0], DOWN, &1).send()).collect();
    for call in calls {
        assert_eq!(call.await?, "ABCDE");
    }
    // In the world's time the calls' own deadlines are the limit.
    if world.is_virtual() {
        world.took(start, Duration::ZERO);
    }
    Ok(())
}

async fn going_round_into_a_busy_instance_ends_at_the_deadline(world: World) -> Test {
    const ROUND: Operation<(), ()> = Operation::new("round");
    async fn round(_: Arc<()>, cx: Context, (): ()) -> Result<(), Fault> {
        Ok(cx.client().call(CTRL, ROUND, &()).timeout(LONG).await?)
    }
    let node = world.node(&CTRL, "host1").await?.concurrency(1).on(ROUND, round).start().await?;
    let client = world.client().await?;
    let start = Instant::now();
    let result = client.call(CTRL, ROUND, &()).timeout(ms(1000)).await;
    assert!(ran_out(&result), "{result:?}");
    world.took(start, ms(1000));
    eventually(|| node.stats().open_calls == 0).await;
    // And it serves on.
    let strange = client.call(CTRL, ECHO, &"x".into()).await;
    assert_eq!(strange.expect_err("it has none").code(), Some(code::UNKNOWN_OPERATION));
    Ok(())
}

async fn a_nested_call_cannot_outlive_its_parent(world: World) -> Test {
    /// Notes how the nested call ended, and whether in time.
    async fn ask(log: Arc<Log>, cx: Context, (): ()) -> Result<String, Fault> {
        let left = cx.remaining().ok_or(Fault::new("none", "it has no deadline"))?;
        let start = Instant::now();
        let result = cx.client().call(REPO, ASK, &()).timeout(LONG).await;
        let passed = matches!(result, Err(CallError::DeadlinePassed));
        log.add(format!("{passed} {}", start.elapsed() <= left + ms(5000)));
        Ok(result?)
    }
    let log = Log::default();
    let ctrl = world.node(&CTRL, "host1").await?.state(log.clone()).on(ASK, ask);
    let _ctrl = ctrl.start().await?;
    let _repo = world.node(&REPO, "host1").await?.on(ASK, never).start().await?;
    let start = Instant::now();
    let result = world.client().await?.call(CTRL, ASK, &()).timeout(ms(2000)).await;
    assert!(ran_out(&result), "{result:?}");
    world.took(start, ms(2000));
    eventually(|| log.len() == 1).await;
    assert_eq!(log.take(), ["true true"]);
    Ok(())
}

async fn a_nested_timeout_is_a_timeout_to_the_caller_too(world: World) -> Test {
    async fn ask(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, ASK, &()).timeout(SHORT).await?)
    }
    let _ctrl = world.node(&CTRL, "host1").await?.on(ASK, ask).start().await?;
    let _repo = world.node(&REPO, "host1").await?.on(ASK, never).start().await?;
    let error = world.client().await?.call(CTRL, ASK, &()).await.expect_err("nobody answers");
    assert_eq!((error.code(), error.retry()), (Some(code::TIMEOUT), Retry::IfIdempotent));
    Ok(())
}

async fn a_nested_call_after_the_deadline_is_not_sent(world: World) -> Test {
    async fn late(log: Arc<Log>, cx: Context, (): ()) -> Result<String, Fault> {
        tokio::time::sleep(ms(2000)).await;
        let nested = cx.client().call(REPO, ASK, &()).await;
        log.add(format!("{:?}", nested.map_err(|error| error.to_string())));
        Ok(String::new())
    }
    let log = Log::default();
    let ctrl = world.node(&CTRL, "host1").await?.state(log.clone()).on(ASK, late);
    let _ctrl = ctrl.start().await?;
    let result = world.client().await?.call(CTRL, ASK, &()).timeout(ms(1500)).await;
    assert!(matches!(result, Err(CallError::DeadlinePassed)), "{result:?}");
    let told = [r#"Err("the request was not sent: its deadline had passed already")"#];
    assert_eq!(log.exactly(1, &world).await, told);
    Ok(())
}

async fn the_trace_goes_on_through_nested_calls(world: World) -> Test {
    const TRACE: Operation<(), String> = Operation::new("trace");
    async fn pass_on(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, TRACE, &()).await?)
    }
    async fn show(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        let of = |name| cx.headers().get(name).and_then(|v| v.as_str()).unwrap_or("none");
        Ok(format!("{} {} {}", of("traceparent"), of("tracestate"), of("tenant")))
    }
    let _ctrl = world.node(&CTRL, "host1").await?.on(TRACE, pass_on).start().await?;
    let _repo = world.node(&REPO, "host1").await?.on(TRACE, show).start().await?;
    let client = world.client().await?;
    let call = client
        .call(CTRL, TRACE, &())
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("tracestate", "a=1")
        .header("tenant", "acme");
    // What is not of the trace is the handler's to pass on.
    assert_eq!(call.await?, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1 none");
    Ok(())
}
