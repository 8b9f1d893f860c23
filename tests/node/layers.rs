//! tower's layers around handlers, and Gear's own.

use std::{
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use gear::{CallError, Context, Fault, HandlerService, Reply, Request, Retry, code};
use tokio::time::Instant;
use tower::{
    Layer, Service, ServiceBuilder,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer},
    load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};

use crate::{CTRL, ECHO, Log, NOTE, Test, WHO, broker, client, node, note, who};

const SECOND: Duration = Duration::from_secs(1);

async fn slow(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SECOND * 2).await;
    Ok(text)
}

#[tokio::test(start_paused = true)]
async fn an_elapsed_timeout_is_a_timeout() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1")
        .on(WHO, who)
        .layer(TimeoutLayer::new(SECOND))
        .on(ECHO, slow)
        .start()
        .await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &"x".into()).await.unwrap_err();
    // It was cut off in the middle.
    assert_eq!((error.code(), error.retry()), (Some(code::TIMEOUT), Retry::IfIdempotent));
    assert_eq!(start.elapsed(), SECOND);
    // What was registered before the layer does not have it, and works.
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_shed_is_overloaded_and_may_be_tried_again() -> Test {
    let broker = broker();
    let shed = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(1));
    let _node =
        node(&broker, &CTRL, "host1").layer(shed.into_inner()).on(ECHO, slow).start().await?;
    let client = client(&broker).await;
    let first = client.call(CTRL, ECHO, &"x".into()).send();
    let second = client.call(CTRL, ECHO, &"y".into()).await.unwrap_err();
    assert_eq!((second.code(), second.retry()), (Some(code::OVERLOADED), Retry::Safe));
    assert_eq!(first.await?, "x");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_layer_blocks_no_other_operation() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1")
        .on(WHO, who)
        .layer(ConcurrencyLimitLayer::new(1))
        .on(ECHO, slow)
        .start()
        .await?;
    let client = client(&broker).await;
    let calls: Vec<_> = (0..3).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    let start = Instant::now();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert_eq!(start.elapsed(), Duration::ZERO);
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
        assert_eq!(start.elapsed(), SECOND * 2 * (n as u32 + 1), "one after another");
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
    type Error = gear::BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Reply, gear::BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), gear::BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.context().headers().get("tenant").is_none() {
            return Box::pin(async { Err(Fault::new("no-tenant", "who are you?").into()) });
        }
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_ones_own_answers_in_place_of_the_handler() -> Test {
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1")
        .state(log.clone())
        .layer(Tenants)
        .layer(TimeoutLayer::new(SECOND))
        .on(NOTE, note)
        .start()
        .await?;
    let client = client(&broker).await;
    let refused = client.call(CTRL, NOTE, &"x".into()).await;
    assert!(matches!(refused, Err(CallError::Remote(e)) if e.code == "no-tenant"));
    client.call(CTRL, NOTE, &"y".into()).header("tenant", "acme").await?;
    assert_eq!(log.take(), ["CTRL.host1 CTRL y"]);
    // A cast that a layer refuses is set aside, as one that a handler refuses.
    client.cast(CTRL, NOTE, &"z".into()).await?;
    broker.idle().await;
    assert_eq!((node.stats().set_aside, broker.messages("CTRL:dead").len()), (1, 1));
    Ok(())
}
