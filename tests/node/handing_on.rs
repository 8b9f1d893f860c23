//! Requests that are handed on, or put off, when something is in the way.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use gear::{
    Address, BoxError, CallError, Caller, CastError, Context, Deferred, Fault, HandlerService,
    NotSent, Operation, Outcome, Pattern, Reply, Request,
    memory::{BrokerFault, Injection},
};
use tokio::time::Instant;
use tower::layer::layer_fn;

use crate::{CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, broker, client, node, note};

const ASK: Operation<String, String> = Operation::new("ask");

async fn to_repo(
    _: Arc<()>,
    _: Context,
    text: String,
    caller: Caller<String>,
) -> Result<Outcome, Fault> {
    Ok(caller.forward(REPO, ECHO, &text).await?)
}

async fn echo(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
    log.add(text.clone());
    Ok(text)
}

type Kept = Mutex<Option<Deferred<String>>>;

async fn keep(
    kept: Arc<Kept>,
    _: Context,
    _: String,
    caller: Caller<String>,
) -> Result<Outcome, Fault> {
    let (deferred, outcome) = caller.defer();
    *kept.lock().expect("no test panics in here") = Some(deferred);
    Ok(outcome)
}

#[tokio::test(start_paused = true)]
async fn what_is_put_off_and_forgotten_ends_at_its_deadline() -> Test {
    let (broker, kept) = (broker(), Arc::new(Kept::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&kept)).on_with_caller(ASK, keep);
    let _node = node.start().await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let call = client.call(CTRL, ASK, &"x".into()).timeout(SECOND * 3).await;
    assert!(matches!(call, Err(CallError::DeadlinePassed)), "{call:?}");
    assert_eq!(start.elapsed(), SECOND * 3);
    Ok(())
}

/// At least once: who hands on may be lost before the request is, and hands it on again.
#[tokio::test(start_paused = true)]
async fn what_is_handed_on_twice_has_one_outcome() -> Test {
    let (broker, log) = (broker(), Log::default());
    let link = broker.connect();
    let to_cut = link.clone();
    let forward = move |_: Arc<()>, cx: Context, text: String, caller: Caller<String>| {
        let to_cut = to_cut.clone();
        async move {
            let handed_on = caller.forward(REPO, ECHO, &text).await?;
            if !cx.is_redelivered() {
                to_cut.cut();
            }
            Ok(handed_on)
        }
    };
    let ctrl = gear::Node::builder(link, CTRL.at("host1")?).on_with_caller(ASK, forward);
    let _ctrl = ctrl.start().await?;
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on(ECHO, echo).start().await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ASK, &"x".into()).await?, "x");
    broker.idle().await;
    assert_eq!((log.take().len(), client.stats().late_replies), (2, 1));
    assert_eq!(repo.stats().failed, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_refuses_to_hand_on_is_an_error() -> Test {
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, to_repo).start().await?;
    let _repo = node(&broker, &REPO, "host1").start().await?;
    let client = client(&broker).await;
    broker.inject(Injection::new(BrokerFault::Refuse).on(Pattern::new("REPO")));
    let error = client.call(CTRL, ASK, &"x".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(gear::code::UNAVAILABLE), "{error}");
    // As it does if it is too large for the node that hands it on.
    let small = node(&broker, &CTRL, "host2").max_body_bytes(10).on_with_caller(ASK, to_repo);
    let _small = small.start().await?;
    let to: Address = CTRL.at("host2")?.into();
    let error = client.call(to, ASK, &"x".repeat(100)).await.unwrap_err();
    assert_eq!(error.code(), Some(gear::code::FAILED), "{error}");
    Ok(())
}

/// A handler that can not be asked where it should be asks elsewhere, or answers itself.
#[tokio::test(start_paused = true)]
async fn who_can_not_hand_on_may_answer() -> Test {
    async fn or_answer(
        _: Arc<()>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        match caller.forward(REPO, ECHO, &text).await {
            Err(CastError::NotRouted) => caller.reply(&format!("{text}, instead of REPO")),
            outcome => Ok(outcome?),
        }
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, or_answer).start().await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ASK, &"x".into()).await?, "x, instead of REPO");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_too_late_or_is_too_large_is_an_error_to_who_answers() -> Test {
    let (broker, kept) = (broker(), Arc::new(Kept::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&kept)).on_with_caller(ASK, keep);
    let node = node.max_body_bytes(100).start().await?;
    let asks = client(&broker).await;
    let call = asks.call(CTRL, ASK, &"x".into()).send();
    broker.idle().await;
    let deferred = kept.lock().expect("no test panics in here").take().ok_or("it was put off")?;
    let large = deferred.reply(node.client(), &"x".repeat(200)).await;
    assert!(matches!(large, Err(CastError::NotSent(NotSent::TooLarge { .. }))), "{large:?}");
    deferred.fail(node.client(), Fault::new("too-much", "it is too much")).await?;
    assert_eq!(call.await.unwrap_err().code(), Some("too-much"));
    // The second answer finds nobody who waits; and then nobody who is there.
    deferred.reply(node.client(), &"y".into()).await?;
    broker.idle().await;
    assert_eq!(asks.stats().late_replies, 1);
    asks.close().await;
    let gone = deferred.reply(node.client(), &"y".into()).await;
    assert!(matches!(gone, Err(CastError::NotRouted)), "{gone:?}");
    Ok(())
}

/// Puts a mark on what it answers itself.
#[derive(Clone)]
struct Marking(HandlerService, Log);

impl tower::Service<Request> for Marking {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (answer, log) = (self.0.call(request), self.1.clone());
        Box::pin(async move {
            let answer = answer.await?;
            log.add(if answer.is_elsewhere() { "elsewhere" } else { "here" });
            Ok(answer)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn layers_see_who_answers() -> Test {
    let (broker, log) = (broker(), Log::default());
    let seen = log.clone();
    let ctrl = node(&broker, &CTRL, "host1");
    let ctrl = ctrl.layer(layer_fn(move |inner| Marking(inner, seen.clone())));
    let ctrl = ctrl.on_with_caller(ASK, to_repo).state(Log::default()).on(NOTE, note);
    let _ctrl = ctrl.start().await?;
    let repo = node(&broker, &REPO, "host1").state(Log::default()).on(ECHO, echo);
    let _repo = repo.start().await?;
    let client = client(&broker).await;
    assert_eq!(client.call(CTRL, ASK, &"x".into()).await?, "x");
    client.call(CTRL, NOTE, &"x".into()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["elsewhere", "here"]);
    Ok(())
}

/// A request that is tried again and then handed on, or the other way round, keeps its key and begins anew.
#[tokio::test(start_paused = true)]
async fn what_was_tried_before_is_handed_on_as_new() -> Test {
    async fn late(
        _: Arc<()>,
        cx: Context,
        text: String,
        caller: Caller<()>,
    ) -> Result<Outcome, Fault> {
        match cx.attempt() {
            0 => Err(Fault::new("later", "not yet")),
            _ => Ok(caller.forward(REPO.all(), NOTE, &text).await?),
        }
    }
    async fn tell(log: Arc<Log>, cx: Context, text: String) -> Result<(), Fault> {
        log.add(format!("{} {} {} {text}", cx.key(), cx.attempt(), cx.headers().len()));
        Ok(())
    }
    let (broker, log) = (broker(), Log::default());
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(NOTE, late).start().await?;
    let _repo = node(&broker, &REPO, "host1").state(log.clone()).on(NOTE, tell).start().await?;
    client(&broker).await.cast(CTRL.all(), NOTE, &"x".into()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["REPO.* 0 0 x"]);
    Ok(())
}
