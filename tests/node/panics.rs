//! What is a service's own may panic: its handlers, their layers, their codecs. On the broker in
//! memory a message is delivered on the stack of whoever sends it, so a panic in the wrong place
//! would hit somebody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use gear::{
    CallError, Client, Codec, CodecError, Context, Fault, HandlerService, Node, Operation, Request,
    Retry, Text, code,
};
use tower_layer::layer_fn;
use tower_service::Service;

use crate::{CTRL, REPO, Test, WHO, broker, client, node, who};

const ECHO: Operation<String, String> = Operation::new("echo");

async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    Ok(text)
}

/// Panics once, when it is next copied.
#[derive(Debug, Default)]
struct Brittle(Arc<AtomicBool>);

impl Brittle {
    fn new() -> (Self, Arc<AtomicBool>) {
        let breaks = Arc::default();
        (Self(Arc::clone(&breaks)), breaks)
    }
}

impl Clone for Brittle {
    fn clone(&self) -> Self {
        assert!(!self.0.swap(false, Ordering::SeqCst), "a copy that panics");
        Self(Arc::clone(&self.0))
    }
}

/// Where a layer panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Ready,
    Call,
}

/// A service around a handler that panics where it is told.
#[derive(Debug, Clone)]
struct Panicking {
    inner: HandlerService,
    at: Option<At>,
    _brittle: Brittle,
}

impl Service<Request> for Panicking {
    type Response = <HandlerService as Service<Request>>::Response;
    type Error = <HandlerService as Service<Request>>::Error;
    type Future = <HandlerService as Service<Request>>::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        assert_ne!(self.at, Some(At::Ready), "a layer that panics");
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        assert_ne!(self.at, Some(At::Call), "a layer that panics");
        self.inner.call(request)
    }
}

/// A codec that panics at some texts.
#[derive(Debug)]
enum Picky {}

impl Codec<String> for Picky {
    const CONTENT_TYPE: Text = Text::from_static("text/plain");

    fn encode(value: &String) -> Result<bytes::Bytes, CodecError> {
        assert_ne!(value, "answer", "a codec that panics");
        Ok(bytes::Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(body: &bytes::Bytes) -> Result<String, CodecError> {
        assert_ne!(&body[..], b"request", "a codec that panics");
        Ok(String::from_utf8_lossy(body).into_owned())
    }
}

/// A call that panics somewhere is answered, and nobody else notices.
async fn panics<C: Codec<String>>(
    client: &Client,
    node: &Node,
    operation: Operation<String, String, C>,
    text: &str,
) -> Test {
    let before = node.stats().panicked;
    let error = client.call(CTRL, operation, &text.to_owned()).await.expect_err("it panics");
    assert!(matches!(&error, CallError::Remote(_)), "{error:?}");
    assert_eq!((error.code(), error.retry()), (Some(code::PANICKED), Retry::Useless));
    assert_eq!(node.stats().panicked, before + 1);
    // The node that it happened in, and another one.
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert_eq!(client.call(REPO, WHO, &()).await?, "REPO.host1");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_panics_takes_only_its_request_down() -> Test {
    for at in [None, Some(At::Ready), Some(At::Call)] {
        let broker = broker();
        let (brittle, breaks) = Brittle::new();
        let copied = std::sync::Mutex::new(Some(brittle));
        let layer = layer_fn(move |inner| {
            let brittle = copied.lock().expect("no panic in here").take().unwrap_or_default();
            Panicking { inner, at, _brittle: brittle }
        });
        let ctrl = node(&broker, &CTRL, "host1").on(WHO, who).layer(layer).on(ECHO, echo);
        let ctrl = ctrl.start().await?;
        let _repo = node(&broker, &REPO, "host1").on(WHO, who).start().await?;
        let client = client(&broker).await;
        breaks.store(at.is_none(), Ordering::SeqCst);
        panics(&client, &ctrl, ECHO, "x").await?;
        if at.is_none() {
            assert_eq!(client.call(CTRL, ECHO, &"x".to_owned()).await?, "x");
        }
        assert!(ctrl.shutdown(crate::SECOND).await.is_clean());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_can_not_be_copied_takes_only_its_request_down() -> Test {
    let broker = broker();
    let (brittle, breaks) = Brittle::new();
    let handler = move |_: Arc<()>, _: Context, text: String| {
        let _ = &brittle;
        async { Ok(text) }
    };
    let ctrl = node(&broker, &CTRL, "host1").on(WHO, who).on(ECHO, handler).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    breaks.store(true, Ordering::SeqCst);
    panics(&client, &ctrl, ECHO, "x").await?;
    assert_eq!(client.call(CTRL, ECHO, &"x".to_owned()).await?, "x");

    // A cast is tried again.
    breaks.store(true, Ordering::SeqCst);
    client.cast(CTRL, ECHO, &"x".to_owned()).await?;
    broker.idle().await;
    assert_eq!((ctrl.stats().retried, ctrl.stats().set_aside), (1, 0));
    assert!(ctrl.shutdown(crate::SECOND).await.is_clean());
    Ok(())
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a drop that panics");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("an error")]
struct Explosive(#[source] Box<BombError>);

#[derive(Debug, thiserror::Error)]
#[error("with a bomb")]
struct BombError;

impl Drop for BombError {
    fn drop(&mut self) {
        panic!("a drop that panics");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_handler_leaves_behind_may_panic_and_goes_round_no_more() -> Test {
    const LOUD: Operation<bool, ()> = Operation::new("loud");
    async fn explode(runs: Arc<AtomicUsize>, _: Context, panics: bool) -> Result<(), Fault> {
        let runs = runs.fetch_add(1, Ordering::SeqCst);
        assert!(runs < 100, "it goes round and round");
        match panics {
            true => std::panic::panic_any(Bomb),
            false => Err(Explosive(Box::new(BombError)).into()),
        }
    }
    let (broker, runs) = (broker(), Arc::new(AtomicUsize::new(0)));
    let ctrl = node(&broker, &CTRL, "host1").on(WHO, who).state(Arc::clone(&runs));
    let ctrl = ctrl.on(LOUD, explode).start().await?;
    let client = client(&broker).await;
    for (n, panics) in [true, false].into_iter().enumerate() {
        client.cast(CTRL, LOUD, &panics).await?;
        broker.idle().await;
        assert_eq!(broker.messages("CTRL:dead").len(), n + 1);
        assert!(client.call(CTRL, LOUD, &panics).await.is_err());
    }
    assert!(runs.load(Ordering::SeqCst) < 50);
    assert!(ctrl.shutdown(crate::SECOND).await.is_clean());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_may_panic_and_is_not_lost() -> Test {
    async fn hold(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        let _bomb = Bomb;
        tokio::time::sleep(crate::SECOND * 60).await;
        Ok(text)
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").on(ECHO, hold).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, ECHO, &"x".to_owned()).await?;
    let call = client.call(CTRL, ECHO, &"x".to_owned()).timeout(crate::SECOND * 60).send();
    tokio::time::sleep(crate::SECOND).await;
    let report = ctrl.shutdown(crate::SECOND).await;
    assert_eq!(report.unfinished.len(), 2);
    assert_eq!(call.await.unwrap_err().code(), Some(code::DROPPED));
    assert_eq!(broker.messages("CTRL").len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_is_told_of_elsewhere_is_none_here() -> Test {
    async fn ask(_: Arc<()>, cx: Context, text: String) -> Result<String, Fault> {
        match cx.client().call(REPO, ECHO, &text).await {
            Err(CallError::Remote(error)) => Err(Fault::relay(error)),
            answer => Ok(answer?),
        }
    }
    async fn panic(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        panic!("{text}")
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").on(ECHO, ask).start().await?;
    let repo = node(&broker, &REPO, "host1").on(ECHO, panic).start().await?;
    let error = client(&broker).await.call(CTRL, ECHO, &"x".to_owned()).await.unwrap_err();
    assert_eq!(error.code(), Some(code::PANICKED));
    let counts = |node: &Node| (node.stats().failed, node.stats().panicked);
    assert_eq!((counts(&ctrl), counts(&repo)), ((1, 0), (0, 1)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_panics_takes_only_its_request_down() -> Test {
    const PICKY: Operation<String, String, Picky> = Operation::new("picky");
    async fn answer(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(if text == "well" { text } else { "answer".into() })
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").on(WHO, who).on(PICKY, answer).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    for text in ["request", "any"] {
        panics(&client, &ctrl, PICKY, text).await?;
    }
    assert_eq!(client.call(CTRL, PICKY, &"well".to_owned()).await?, "well");
    assert!(ctrl.shutdown(crate::SECOND).await.is_clean());
    Ok(())
}
