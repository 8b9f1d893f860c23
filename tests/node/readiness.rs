//! Requests that wait for a layer to be ready, and those that it turns away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use gear::{
    BoxError, CallError, Context, Fault, HandlerService, Node, Reply, Request, Retry, code,
};
use tower::load_shed::LoadShed;
use tower_layer::layer_fn;
use tower_service::Service;

use crate::{CTRL, ECHO, Log, SECOND, Test, WHO, broker, client, node, slow_echo, who};

/// Takes one request, and is never ready again.
#[derive(Clone)]
struct Once {
    inner: HandlerService,
    full: Arc<AtomicBool>,
}

fn once(inner: HandlerService) -> Once {
    Once { inner, full: Arc::default() }
}

/// Is never ready.
fn never(inner: HandlerService) -> Once {
    Once { inner, full: Arc::new(true.into()) }
}

impl Service<Request> for Once {
    type Response = Reply;
    type Error = BoxError;
    type Future = <HandlerService as Service<Request>>::Future;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        // Nobody is ever woken, as by a semaphore whose permits are all lent for good.
        match self.full.swap(true, Ordering::SeqCst) {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.inner.call(request)
    }
}

async fn hang(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_has_a_place_for_no_longer_than_it_is_of_use() -> Test {
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").concurrency(2).on(WHO, who);
    let ctrl = ctrl.layer(layer_fn(once)).on(ECHO, hang).start().await?;
    let client = client(&broker).await;
    let echo = |timeout| client.call(CTRL, ECHO, &"x".into()).timeout(timeout).send();
    let (begun, waiting) = (echo(SECOND * 60), echo(SECOND));
    assert!(matches!(waiting.await, Err(CallError::DeadlinePassed)));
    // One place is taken by who has begun, and the other is free again.
    assert_eq!(client.call(CTRL, WHO, &()).timeout(SECOND).await?, "CTRL.host1");
    assert_eq!(ctrl.stats().expired, 1);
    drop(begun);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_has_not_begun_and_goes_back() -> Test {
    let broker = broker();
    let first = node(&broker, &CTRL, "host1").layer(layer_fn(once)).on(ECHO, hang);
    let first = first.start().await?;
    let client = client(&broker).await;
    let echo = |text: &str| client.call(CTRL, ECHO, &text.into()).timeout(SECOND * 60).send();
    let (begun, waiting) = (echo("begun"), echo("waiting"));
    tokio::time::sleep(SECOND).await;
    let report = first.shutdown(SECOND).await;
    assert_eq!(report.unfinished.len(), 1);
    assert_eq!(begun.await.unwrap_err().code(), Some(code::DROPPED));
    let _second = node(&broker, &CTRL, "host2").on(ECHO, slow_echo).start().await?;
    assert_eq!(waiting.await?, "waiting");
    Ok(())
}

/// Whoever sheds what it has not begun says so; but another one may have.
#[tokio::test(start_paused = true)]
async fn what_is_shed_is_safe_to_ask_again_only_if_nobody_had_it_before() -> Test {
    async fn pay(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        tokio::time::sleep(SECOND * 5).await;
        log.add(text.clone());
        Ok(text)
    }
    let (broker, log) = (broker(), Log::default());
    let link = broker.connect();
    let first = Node::builder(link.clone(), CTRL.at("host1")?).state(log.clone());
    let _first = first.on(ECHO, pay).start().await?;
    let client = client(&broker).await;
    let paying = client.call(CTRL, ECHO, &"paid".into()).send();
    tokio::time::sleep(SECOND).await;
    let busy = node(&broker, &CTRL, "host2").layer(layer_fn(|inner| LoadShed::new(never(inner))));
    let _busy = busy.on(ECHO, slow_echo).start().await?;
    link.cut_for(SECOND * 60);

    let again = paying.await.unwrap_err();
    assert_eq!((again.code(), again.retry()), (Some(code::OVERLOADED), Retry::IfIdempotent));
    tokio::time::sleep(SECOND * 5).await;
    assert_eq!(log.take(), ["paid"]);
    let fresh = client.call(CTRL.at("host2")?, ECHO, &"x".into()).await.unwrap_err();
    assert_eq!((fresh.code(), fresh.retry()), (Some(code::OVERLOADED), Retry::Safe));
    Ok(())
}
