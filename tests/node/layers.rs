//! What layers can know and say of requests, and of the faults that come back.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use gear::{
    BoxError, CallError, Context, Fault, HandlerService, Operation, Reply, Request, Retry, code,
};
use tokio::time::Sleep;
use tower_layer::layer_fn;
use tower_service::Service;

use crate::{CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, broker, client, node, note};

type Answer = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

/// A layer that is a function of what is within and of the request.
#[derive(Clone)]
struct Around<S, F>(S, F);

impl<S, F> Service<Request> for Around<S, F>
where
    S: Service<Request, Response = Reply, Error = BoxError, Future = Answer> + Clone,
    F: Fn(S, Request) -> Answer,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Answer {
        (self.1)(self.0.clone(), request)
    }
}

/// Fails until it is asked for the third time.
async fn third_time(log: Arc<Log>, cx: Context, text: String) -> Result<String, Fault> {
    let number: u32 = *cx.extension().ok_or(Fault::new("no-number", "no layer has counted"))?;
    log.add(format!("try {number}"));
    if number < 3 { Err(Fault::new("not-yet", "try again")) } else { Ok(text) }
}

#[tokio::test(start_paused = true)]
async fn a_layer_tries_again_and_sees_why() -> Test {
    let (broker, log) = (broker(), Log::default());
    let seen = log.clone();
    let again = layer_fn(move |inner: HandlerService| {
        let seen = seen.clone();
        Around(inner, move |mut inner: HandlerService, request: Request| -> Answer {
            let seen = seen.clone();
            Box::pin(async move {
                let request = request.with_extension(0_u32).with_extension("another type");
                for number in 1_u32.. {
                    match inner.call(request.clone().with_extension(number)).await {
                        Err(error)
                            if Fault::find(&*error).is_some_and(|f| f.code() == "not-yet") =>
                        {
                            seen.add(error.to_string());
                        }
                        answer => return answer,
                    }
                }
                Err("there are no more numbers".into())
            })
        })
    });
    let plain = node(&broker, &REPO, "host1").state(log.clone()).on(ECHO, third_time);
    let plain = plain.start().await?;
    let layered = node(&broker, &CTRL, "host1").state(log.clone()).layer(again);
    let _layered = layered.on(ECHO, third_time).start().await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ECHO, &"x".into()).await?, "x");
    let lines = ["try 1", "not-yet: try again", "try 2", "not-yet: try again", "try 3"];
    assert_eq!(log.take(), lines);
    let error = client.call(REPO, ECHO, &"x".into()).await.expect_err("nobody counts");
    assert_eq!(error.code(), Some("no-number"));
    drop(plain);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("in the layer")]
struct Wrapped(#[source] BoxError);

#[tokio::test(start_paused = true)]
async fn a_fault_that_a_layer_wraps_is_still_the_fault() -> Test {
    const FAIL: Operation<bool, ()> = Operation::new("fail");
    async fn fail(_: Arc<()>, _: Context, known: bool) -> Result<(), Fault> {
        let details = serde_json::json!({ "at": 7 });
        match known {
            true => Err(Fault::new("known", "as agreed").details(details).retryable()),
            false => Err(std::fmt::Error.into()),
        }
    }
    let wrap = layer_fn(|inner| Around(inner, wrap));
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").layer(wrap).on(FAIL, fail).start().await?;
    let client = client(&broker).await;
    let known = client.call(CTRL, FAIL, &true).await.expect_err("it fails");
    let CallError::Remote(known) = known else { panic!("{known:?}") };
    assert_eq!((&*known.code, &*known.message, known.retryable), ("known", "as agreed", true));
    assert_eq!(known.details, Some(serde_json::json!({ "at": 7 })));
    let unknown = client.call(CTRL, FAIL, &false).await.expect_err("it fails");
    assert_eq!(unknown.code(), Some(code::FAILED));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_relayed_without_the_promise_that_nothing_was_done() -> Test {
    async fn ask(_: Arc<()>, cx: Context, text: String) -> Result<String, Fault> {
        match cx.client().call(REPO, ECHO, &text).await {
            Err(CallError::Remote(error)) => Err(Fault::relay(error)),
            answer => Ok(answer?),
        }
    }
    async fn refuse(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        let details = serde_json::json!({ "in": "REPO" });
        Err(Fault::new("no-such-word", "it is nowhere").details(details).retryable())
    }
    let broker = broker();
    let _repo = node(&broker, &REPO, "host1").on(ECHO, refuse).start().await?;
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, ask).start().await?;
    let error = client(&broker).await.call(CTRL, ECHO, &"x".into()).await.expect_err("refused");
    let CallError::Remote(error) = error else { panic!("{error:?}") };
    assert_eq!((&*error.code, &*error.message), ("no-such-word", "it is nowhere"));
    assert_eq!(
        (error.details, error.retryable),
        (Some(serde_json::json!({ "in": "REPO" })), false)
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_by_itself_does_so_when_it_is_relayed() -> Test {
    async fn ask(_: Arc<()>, cx: Context, how: String) -> Result<String, Fault> {
        let answer = cx.client().call(REPO, ECHO, &how).await;
        match (answer, &*how) {
            (Err(CallError::Remote(error)), "relayed") => Err(Fault::relay(error)),
            (Err(CallError::Remote(error)), "first of all") => Err(Fault::relay(error).retryable()),
            (answer, _) => Ok(answer?),
        }
    }
    async fn overloaded(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new(code::OVERLOADED, "too much to do").retryable())
    }
    let broker = broker();
    let _repo = node(&broker, &REPO, "host1").on(ECHO, overloaded).start().await?;
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, ask).start().await?;
    let client = client(&broker).await;
    for (how, code, retry) in [
        ("relayed", code::OVERLOADED, Retry::IfIdempotent),
        ("first of all", code::OVERLOADED, Retry::Safe),
        ("passed on", code::UNAVAILABLE, Retry::IfIdempotent),
    ] {
        let error = client.call(CTRL, ECHO, &how.to_owned()).await.expect_err("overloaded");
        assert_eq!((error.code(), error.retry()), (Some(code), retry), "{how}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cast_behind_a_layer_needs_no_answer_that_can_be_encoded() -> Test {
    type Odd = HashMap<(u8, u8), u8>;
    const ODD: Operation<(), Odd> = Operation::new("odd");
    async fn odd(_: Arc<()>, _: Context, (): ()) -> Result<Odd, Fault> {
        Ok(Odd::from([((1, 2), 3)])) // JSON has text alone for names
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").layer(layer_fn(|inner: HandlerService| inner));
    let node = node.on(ODD, odd).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, ODD, &()).await?;
    broker.idle().await;
    assert_eq!(node.stats().set_aside, 0);
    let error = client.call(CTRL, ODD, &()).await.unwrap_err();
    assert_eq!(error.code(), Some(code::UNENCODABLE));
    Ok(())
}

/// Wraps every error that comes out.
fn wrap(mut inner: HandlerService, request: Request) -> Answer {
    let answer = inner.call(request);
    Box::pin(async { answer.await.map_err(|error| Wrapped(error).into()) })
}

/// A layer that is ready after two seconds, for each request.
struct Slow(HandlerService, Option<Pin<Box<Sleep>>>);

impl Clone for Slow {
    fn clone(&self) -> Self {
        Self(self.0.clone(), None)
    }
}

impl Service<Request> for Slow {
    type Response = Reply;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        let sleep = self.1.get_or_insert_with(|| Box::pin(tokio::time::sleep(SECOND * 2)));
        sleep.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, request: Request) -> Answer {
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_layer_beyond_its_deadline_is_dropped_whatever_is_around_it() -> Test {
    let (broker, log) = (broker(), Log::default());
    let slow = || layer_fn(|inner| Slow(inner, None));
    let plain = node(&broker, &CTRL, "host1").state(log.clone()).layer(slow());
    let wrapped = node(&broker, &REPO, "host1").state(log.clone());
    let wrapped = wrapped.layer(layer_fn(|inner| Around(inner, wrap))).layer(slow());
    let client = client(&broker).await;
    for (service, node) in [(CTRL, plain), (REPO, wrapped)] {
        let node = node.on(NOTE, note).start().await?;
        client.cast(service.clone(), NOTE, &"late".into()).expires(SECOND).await?;
        client.cast(service, NOTE, &"in time".into()).expires(SECOND * 3).await?;
        broker.idle().await;
        assert_eq!((log.take().len(), node.stats().expired), (1, 1));
        assert_eq!((node.stats().failed, node.stats().set_aside), (0, 0));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_layer_whose_own_call_fails_answers_as_a_handler_would() -> Test {
    async fn hang(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        std::future::pending().await
    }
    async fn ask(_: Arc<()>, cx: Context, text: String) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, ECHO, &text).timeout(SECOND).await?)
    }
    fn asking(_: HandlerService, request: Request) -> Answer {
        Box::pin(async move {
            let client = request.context().client();
            let answer = client.call(REPO, ECHO, &String::new()).timeout(SECOND).await;
            Err(answer.expect_err("nobody answers").into())
        })
    }
    let broker = broker();
    let handler = node(&broker, &CTRL, "handler").on(ECHO, ask).start().await?;
    let layer = node(&broker, &CTRL, "layer").layer(layer_fn(|inner| Around(inner, asking)));
    let layer = layer.on(ECHO, ask).start().await?;
    let wrapped = node(&broker, &CTRL, "wrapped").layer(layer_fn(|inner| Around(inner, wrap)));
    let wrapped = wrapped.layer(layer_fn(|inner| Around(inner, asking)));
    let wrapped = wrapped.on(ECHO, ask).start().await?;
    let client = client(&broker).await;
    let ask_all = async |code| {
        for node in [&handler, &layer, &wrapped] {
            let answer = client.call(node.instance().clone(), ECHO, &String::new()).await;
            let error = answer.expect_err("nobody answers");
            assert_eq!((error.code(), error.retry()), (Some(code), Retry::IfIdempotent));
        }
    };
    ask_all(code::UNAVAILABLE).await; // nobody is there
    let _repo = node(&broker, &REPO, "host1").on(ECHO, hang).start().await?;
    ask_all(code::TIMEOUT).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_layer_answers_by_itself_and_changes_answers() -> Test {
    fn cached(mut inner: HandlerService, request: Request) -> Answer {
        let known = request.context().message().body() == "\"known\"";
        let answer = (!known).then(|| inner.call(request));
        Box::pin(async {
            let Some(answer) = answer else {
                return Ok(Reply::new("application/json", "\"kept\""));
            };
            let mut reply = answer.await?;
            reply.body = reply.body.to_ascii_uppercase().into();
            Ok(reply)
        })
    }
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").layer(layer_fn(|inner| Around(inner, cached)));
    let _node = node.on(ECHO, echo).start().await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ECHO, &"known".into()).await?, "kept");
    assert_eq!(client.call(CTRL, ECHO, &"new".into()).await?, "NEW");
    Ok(())
}
