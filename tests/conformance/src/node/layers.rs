//! tower's layers around handlers, and Gear's own.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use gear_api::{BoxError, CallError, Context, Fault, HandlerService, Reply, Request, Retry, code};
use tokio::time::Instant;
use tower::{
    Layer, Service, ServiceBuilder,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer},
    load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-layers";
    an_elapsed_timeout_is_a_timeout: "and only of what was registered after the layer",
    what_is_shed_is_overloaded_and_may_be_tried_again: "it was surely not done",
    what_waits_for_a_layer_beyond_its_deadline_is_not_handled: "nobody is there for the answer",
    waiting_for_a_layer_blocks_no_other_operation: "nor the same one's answers",
    a_layer_of_ones_own_answers_in_place_of_the_handler: "and may let requests through",
    a_cast_that_a_layer_refuses_is_set_aside(dead_letters): "as one that a handler refuses",
}

async fn slow(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(ms(1000)).await;
    Ok(text)
}

async fn an_elapsed_timeout_is_a_timeout(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.on(WHO, who);
    let _node = node.layer(TimeoutLayer::new(SHORT)).on(ECHO, slow).start().await?;
    let client = world.client().await?;
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &"x".into()).await.expect_err("it takes too long");
    // It was cut off in the middle.
    assert_eq!((error.code(), error.retry()), (Some(code::TIMEOUT), Retry::IfIdempotent));
    world.took(start, SHORT);
    // What was registered before the layer does not have it, and works.
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    Ok(())
}

async fn what_is_shed_is_overloaded_and_may_be_tried_again(world: World) -> Test {
    let shed = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.layer(shed.into_inner());
    let _node = node.state(gate.clone()).on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let first = client.call(CTRL, ECHO, &"x".into()).timeout(LONG).send();
    gate.begun(1).await;
    let second = client.call(CTRL, ECHO, &"y".into()).await.expect_err("there is no place");
    assert_eq!((second.code(), second.retry()), (Some(code::OVERLOADED), Retry::Safe));
    gate.open();
    assert_eq!(first.await?, "x");
    Ok(())
}

async fn what_waits_for_a_layer_beyond_its_deadline_is_not_handled(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.layer(ConcurrencyLimitLayer::new(1));
    let node = node.state(gate.clone()).on(ECHO, gated).start().await?;
    let client = world.client().await?;
    let first = client.call(CTRL, ECHO, &"x".into()).timeout(LONG).send();
    gate.begun(1).await;
    let second = client.call(CTRL, ECHO, &"y".into()).timeout(SHORT).await;
    assert!(matches!(second, Err(CallError::DeadlinePassed)), "{second:?}");
    gate.open();
    assert_eq!(first.await?, "x");
    eventually(|| node.stats().expired == 1).await;
    let stats = node.stats();
    assert_eq!((stats.failed, gate.count()), (0, 1), "{stats:?}");
    Ok(())
}

async fn waiting_for_a_layer_blocks_no_other_operation(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.on(WHO, who);
    let _node = node.layer(ConcurrencyLimitLayer::new(1)).on(ECHO, slow_echo).start().await?;
    let client = world.client().await?;
    let start = Instant::now();
    let calls: Vec<_> = (0..3).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    world.took(start, Duration::ZERO);
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
        world.took(start, SHORT * (n as u32 + 1)); // one after another
    }
    Ok(())
}

/// Lets only those in who name a tenant.
#[derive(Clone)]
struct Tenants;

#[derive(Clone)]
struct TenantsOnly(HandlerService);

impl Layer<HandlerService> for Tenants {
    type Service = TenantsOnly;
    fn layer(&self, inner: HandlerService) -> TenantsOnly {
        TenantsOnly(inner)
    }
}

impl Service<Request> for TenantsOnly {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.context().headers().get("tenant").is_none() {
            return Box::pin(async { Err(Fault::new("no-tenant", "who are you?").into()) });
        }
        self.0.call(request)
    }
}

async fn a_layer_of_ones_own_answers_in_place_of_the_handler(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone());
    let _node = node.layer(Tenants).layer(TimeoutLayer::new(LONG)).on(NOTE, note).start().await?;
    let client = world.client().await?;
    let refused = client.call(CTRL, NOTE, &"x".into()).await;
    assert!(matches!(refused, Err(CallError::Remote(e)) if e.code == "no-tenant"));
    client.call(CTRL, NOTE, &"y".into()).header("tenant", "acme").await?;
    assert_eq!(log.exactly(1, &world).await, ["CTRL.host1 CTRL y"]);
    Ok(())
}

async fn a_cast_that_a_layer_refuses_is_set_aside(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.state(Log::default());
    let node = node.retries(0).layer(Tenants).on(NOTE, note).start().await?;
    let client = world.client().await?;
    client.cast(CTRL, NOTE, &"z".into()).await?;
    eventually(|| node.stats().set_aside == 1).await;
    Ok(())
}
