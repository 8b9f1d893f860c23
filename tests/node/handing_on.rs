//! Requests that are handed on, or put off, when something is in the way.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use gear::{
    Address, BoxError, CallError, Caller, CastError, Context, Deduplicate, Deferred, Fault,
    HandlerService, NotSent, Operation, Outcome, Pattern, Reply, Request, Window,
    memory::{BrokerFault, Injection},
};
use tokio::time::Instant;
use tower::layer::layer_fn;

use crate::{CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, broker, client, node, note, to_repo};

const ASK: Operation<String, String> = Operation::new("ask");

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
    assert_eq!(log.take(), ["REPO.* 0 1 x"], "it came through a group");
    Ok(())
}

/// Once another service has it, whatever becomes of the one that handed it on is its own affair.
#[tokio::test(start_paused = true)]
async fn who_has_handed_on_answers_nothing_any_more() -> Test {
    async fn then(
        _: Arc<()>,
        _: Context,
        how: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        let _outcome = caller.forward(REPO, ECHO, &how).await?;
        match &*how {
            "fails" => Err(Fault::new("no", "too late")),
            "panics" => panic!("as it was told"),
            "hangs" => std::future::pending().await,
            _ => caller.reply(&"from here, too".into()),
        }
    }
    async fn slow(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        tokio::time::sleep(SECOND * 5).await;
        Ok(text)
    }
    let cases = ["fails", "panics", "hangs", "answers"].map(|how| [(how, false), (how, true)]);
    for (how, comes_twice) in cases.concat() {
        let broker = broker();
        let _repo = node(&broker, &REPO, "host1").on(ECHO, slow).start().await?;
        let client = client(&broker).await;
        let ctrl = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
        let ctrl = ctrl.on_with_caller(ASK, then).start().await?;
        // The copy has its answer from there as well, or goes back.
        if comes_twice {
            broker.inject(BrokerFault::Duplicate);
        }
        let call = client.call(CTRL, ASK, &how.into()).send();
        tokio::time::sleep(SECOND).await;
        ctrl.shutdown(SECOND).await;
        assert_eq!(call.await?, how);
        broker.idle().await;
        assert_eq!(client.stats().late_replies, 0, "{how} {comes_twice}");
    }
    Ok(())
}

/// It may have arrived: then the answer comes, and an error would be wrong.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_handed_on_is_not_an_error() -> Test {
    let (broker, log) = (broker(), Log::default());
    let ctrl = node(&broker, &CTRL, "host1").send_timeout(SECOND).on_with_caller(ASK, to_repo);
    let ctrl = ctrl.start().await?;
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on(ECHO, echo).start().await?;
    let client = client(&broker).await;
    broker.inject(Injection::new(BrokerFault::LoseConfirm).on(Pattern::new("REPO")));
    assert_eq!(client.call(CTRL, ASK, &"x".into()).await?, "x");
    broker.idle().await;
    assert_eq!((ctrl.stats().failed, client.stats().late_replies), (0, 0));
    // A cast is tried again, since nobody waits for it.
    broker.inject(Injection::new(BrokerFault::LoseConfirm).on(Pattern::new("REPO")));
    client.cast(CTRL, ASK, &"y".into()).await?;
    broker.idle().await;
    assert_eq!((ctrl.stats().retried, repo.stats().operations[0].1), (1, 3));
    Ok(())
}

/// What was done before a service was asked that had too much to do, that one does not know.
#[tokio::test(start_paused = true)]
async fn no_error_of_what_was_handed_on_says_that_nothing_was_done() -> Test {
    async fn busy(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new(gear::code::OVERLOADED, "too much to do").retryable())
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, to_repo).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(ECHO, busy).start().await?;
    let client = client(&broker).await;
    let direct = client.call(REPO, ECHO, &"x".into()).await.unwrap_err();
    assert_eq!(direct.retry(), gear::Retry::Safe);
    let handed_on = client.call(CTRL, ASK, &"x".into()).await.unwrap_err();
    assert_eq!(handed_on.code(), Some(gear::code::OVERLOADED));
    assert_eq!(handed_on.retry(), gear::Retry::IfIdempotent);
    Ok(())
}

/// From group to group it would be three times as much with every hop.
#[tokio::test(start_paused = true)]
async fn a_circle_through_groups_ends_before_it_is_many() -> Test {
    async fn around(
        log: Arc<Log>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        log.add(&*text);
        Ok(caller.forward(CTRL.all(), ASK, &text).await?)
    }
    let (broker, log) = (broker(), Log::default());
    let mut nodes = Vec::new();
    for host in ["host1", "host2", "host3"] {
        let node = node(&broker, &CTRL, host).state(log.clone());
        nodes.push(node.on_with_caller(ASK, around).start().await?);
    }
    let client = client(&broker).await;
    let error = client.call(CTRL, ASK, &"x".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(gear::code::LOOP));
    broker.idle().await;
    assert_eq!(log.take().len(), 1 + 3);
    Ok(())
}

/// What went in a circle is handled as new when the services are mended.
#[tokio::test(start_paused = true)]
async fn what_was_set_aside_for_its_hops_may_be_put_back() -> Test {
    async fn around(
        _: Arc<()>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        Ok(caller.forward(CTRL, ASK, &text).await?)
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, around).start().await?;
    client(&broker).await.cast(CTRL, ASK, &"x".into()).await?;
    broker.idle().await;
    let dead = broker.messages("CTRL:dead").remove(0);
    assert_eq!((dead.hops(), ctrl.stats().failed), (0, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_the_deadline_is_not_sent() -> Test {
    let (broker, kept) = (broker(), Arc::new(Kept::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&kept)).on_with_caller(ASK, keep);
    let node = node.start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ASK, &"x".into()).timeout(SECOND).await;
    assert!(matches!(call, Err(CallError::DeadlinePassed)), "{call:?}");
    let deferred = kept.lock().expect("no test panics in here").take().ok_or("it was put off")?;
    assert!(deferred.wants_answer());
    let late = deferred.reply(node.client(), &"y".into()).await;
    assert!(matches!(late, Err(CastError::NotSent(NotSent::TooLate))), "{late:?}");
    client.cast(CTRL, ASK, &"x".into()).await?;
    broker.idle().await;
    let deferred = kept.lock().expect("no test panics in here").take().ok_or("it was put off")?;
    assert!(!deferred.wants_answer());
    deferred.fail(node.client(), Fault::new("no", "nobody hears it")).await?;
    Ok(())
}

/// What was done is skipped when the rest is tried again, and the rest is no copy of it.
#[tokio::test(start_paused = true)]
async fn a_part_that_is_handed_on_later_is_another_one() -> Test {
    async fn parts(
        done: Arc<Mutex<Vec<String>>>,
        cx: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        let mut last = None;
        for part in text.chars().map(String::from) {
            if done.lock().expect("no test panics in here").contains(&part) {
                continue;
            }
            if part == "b" && cx.attempt() == 0 {
                return Err(Fault::new("later", "b is not to be had yet"));
            }
            last = Some(caller.forward(REPO, ECHO, &part).await?);
            done.lock().expect("no test panics in here").push(part);
        }
        last.ok_or_else(|| Fault::new("none", "there are no parts"))
    }
    let (broker, log) = (broker(), Log::default());
    let ctrl = node(&broker, &CTRL, "host1").state(Mutex::new(Vec::new()));
    let _ctrl = ctrl.on_with_caller(ASK, parts).start().await?;
    let repo = node(&broker, &REPO, "host1").layer(Deduplicate::new(Window::default()));
    let _repo = repo.state(log.clone()).on(ECHO, echo).start().await?;
    client(&broker).await.cast(CTRL, ASK, &"abc".into()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["a", "b", "c"]);
    Ok(())
}

/// A group that asks a service that asks the group.
#[tokio::test(start_paused = true)]
async fn a_circle_that_only_passes_through_a_group_ends_as_well() -> Test {
    async fn to_service(
        log: Arc<Log>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        log.add("group");
        Ok(caller.forward(REPO, ASK, &text).await?)
    }
    async fn to_group(
        _: Arc<Log>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        Ok(caller.forward(CTRL.all(), ASK, &text).await?)
    }
    let (broker, log) = (broker(), Log::default());
    let mut nodes = Vec::new();
    for host in ["host1", "host2", "host3"] {
        let node = node(&broker, &CTRL, host).state(log.clone());
        nodes.push(node.on_with_caller(ASK, to_service).start().await?);
    }
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on_with_caller(ASK, to_group);
    let repo = repo.start().await?;
    client(&broker).await.cast(CTRL.all(), ASK, &"x".into()).await?;
    broker.idle().await;
    assert_eq!((log.take().len(), repo.stats().failed, repo.stats().retried), (3, 3, 0));
    Ok(())
}

/// An instance that hands on what it was asked by name is the one that has answered.
#[tokio::test(start_paused = true)]
async fn who_gathers_from_one_instance_knows_its_answer() -> Test {
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, to_repo).start().await?;
    let repo = node(&broker, &REPO, "host1").state(Log::default()).on(ECHO, echo).start().await?;
    let asked = CTRL.at("host1")?;
    let gather = repo.client().gather(asked.clone(), ASK, &"x".into()).expect([&asked]);
    let mut answers = gather.timeout(SECOND * 60).await?;
    let start = Instant::now();
    let answer = answers.next().await.ok_or("it has answered")?;
    assert_eq!((answer.from, answer.result?), (Some(asked), "x".to_owned()));
    assert!(answers.next().await.is_none());
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    Ok(())
}

/// Whoever answers later does not know what was done before, either.
#[tokio::test(start_paused = true)]
async fn what_was_handed_on_and_put_off_is_not_safe_to_ask_again() -> Test {
    let (broker, kept) = (broker(), Arc::new(Kept::default()));
    let _ctrl = node(&broker, &CTRL, "host1").on_with_caller(ASK, to_repo).start().await?;
    let repo = node(&broker, &REPO, "host1").state(Arc::clone(&kept)).on_with_caller(ECHO, keep);
    let repo = repo.start().await?;
    let call = client(&broker).await.call(CTRL, ASK, &"x".into()).send();
    broker.idle().await;
    let deferred = kept.lock().expect("no test panics in here").take().ok_or("it was put off")?;
    let busy = Fault::new(gear::code::OVERLOADED, "too much to do").retryable();
    deferred.fail(repo.client(), busy).await?;
    assert_eq!(call.await.unwrap_err().retry(), gear::Retry::IfIdempotent);
    Ok(())
}
