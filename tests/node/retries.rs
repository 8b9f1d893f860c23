//! Casts and events that fail, over hours, and what stands in the way of trying them again.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
    time::Duration,
};

use gear::{
    Address, BoxError, Context, Fault, HandlerService, Message, Operation, Pattern, Reply, Request,
    Route, Topic, Transport,
    memory::{BrokerFault, Injection, MemoryBroker},
    topology::{RETRY_STEPS, header},
};
use tokio::time::Instant;
use tower::layer::layer_fn;

use crate::{CTRL, Log, REPO, SECOND, Test, broker, client, node, note};

const SEND: Operation<String, ()> = Operation::new("send");
const FAILS: &str = "flaky: not this time";

/// When each try began, and fails always.
#[derive(Default)]
struct Tries(Mutex<Vec<(u32, Instant)>>);

impl Tries {
    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Instant)>> {
        self.0.lock().expect("no test panics in here")
    }

    async fn fail(self: Arc<Self>, cx: Context, _: String) -> Result<(), Fault> {
        self.lock().push((cx.attempt(), Instant::now()));
        Err(Fault::new("flaky", "not this time"))
    }

    fn len(&self) -> usize {
        self.lock().len()
    }
}

fn text(message: &Message, name: &str) -> Option<String> {
    message.headers().get(name).and_then(|value| value.as_str()).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn the_delays_grow_and_the_last_one_stays() -> Test {
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(9);
    let node = node.on(SEND, Tries::fail).start().await?;
    client(&broker).await.cast(CTRL, SEND, &"x".into()).await?;
    broker.idle().await;
    let tries = tries.lock();
    let attempts: Vec<u32> = tries.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, Vec::from_iter(0..=9));
    let last = RETRY_STEPS[5];
    for (pair, step) in tries.windows(2).zip(RETRY_STEPS.into_iter().chain([last; 3])) {
        let waited = pair[1].1 - pair[0].1;
        assert!(waited <= step && waited >= step * 4 / 5, "{waited:?} of {step:?}");
    }
    let dead = broker.messages("CTRL:dead");
    assert_eq!(text(&dead[0], header::DEAD_REASON), Some(format!("{FAILS} (tried 10 times)")));
    assert_eq!((node.stats().retried, node.stats().failed, node.stats().set_aside), (9, 10, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_failed_together_does_not_come_back_together() -> Test {
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(1);
    let _node = node.on(SEND, Tries::fail).start().await?;
    let client = client(&broker).await;
    for _ in 0..20 {
        client.cast(CTRL, SEND, &"x".into()).await?;
        broker.idle().await;
    }
    let tries = tries.lock();
    let waited: BTreeSet<Duration> = tries.chunks(2).map(|pair| pair[1].1 - pair[0].1).collect();
    assert!(waited.len() > 15, "{waited:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_would_come_too_late_is_set_aside_at_once() -> Test {
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries));
    let _node = node.on(SEND, Tries::fail).start().await?;
    let client = client(&broker).await;
    // Each delay begins when the one before is over: 1 s, and 5 s more.
    for (seconds, times) in [(1, 1), (5, 2), (60, 4)] {
        let before = tries.len();
        client.cast(CTRL, SEND, &"x".into()).expires(SECOND * seconds).await?;
        broker.idle().await;
        assert_eq!(tries.len() - before, times, "within {seconds} s");
        let dead = broker.messages("CTRL:dead");
        let reason = dead.last().and_then(|dead| text(dead, header::DEAD_REASON));
        let often = if times == 1 { String::new() } else { format!(" (tried {times} times)") };
        assert_eq!(reason, Some(format!("{FAILS}{often}")));
    }
    Ok(())
}

/// Wraps the errors of handlers, as layers do.
#[derive(Clone)]
struct Wrapping(HandlerService);

#[derive(Debug, thiserror::Error)]
#[error("wrapped")]
struct Wrapped(#[source] BoxError);

impl tower::Service<Request> for Wrapping {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async { answer.await.map_err(|error| Wrapped(error).into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_is_permanent_is_so_behind_layers() -> Test {
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<(), Fault> {
        Err(Fault::new("never", "not at all").permanent())
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").layer(layer_fn(Wrapping)).on(SEND, fail);
    let node = node.start().await?;
    client(&broker).await.cast(CTRL, SEND, &"x".into()).await?;
    broker.idle().await;
    assert_eq!((node.stats().failed, node.stats().set_aside), (1, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_handlers_that_follow_are_tried_as_often_as_was_said() -> Test {
    const OTHER: Operation<String, ()> = Operation::new("other");
    let (broker, tries, other) = (broker(), Arc::new(Tries::default()), Arc::default());
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(2);
    let node = node.on(SEND, Tries::fail).retries(0).state(Arc::clone(&other));
    let _node = node.on(OTHER, Tries::fail).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, SEND, &"x".into()).await?;
    client.cast(CTRL, OTHER, &"x".into()).await?;
    broker.idle().await;
    assert_eq!((tries.len(), other.len()), (3, 1));
    Ok(())
}

/// A call has its answer at once, and whoever asked decides.
#[tokio::test(start_paused = true)]
async fn a_call_is_not_tried_again_and_an_answer_to_a_handler_is() -> Test {
    const LATER: Operation<String, String> = Operation::new("later");
    async fn on_reply(
        tries: Arc<Tries>,
        cx: Context,
        _: Result<String, gear::RemoteError>,
    ) -> Result<(), Fault> {
        tries.fail(cx, String::new()).await
    }
    let (broker, tries, replies) = (broker(), Arc::new(Tries::default()), Arc::default());
    let node_ = node(&broker, &CTRL, "host1").state(Arc::clone(&tries));
    let _node = node_.on(SEND, Tries::fail).on(LATER, echo_later).start().await?;
    let repo = node(&broker, &REPO, "host1").state(Arc::clone(&replies)).retries(1);
    let repo = repo.on_reply(LATER, on_reply).start().await?;
    let error = repo.client().call(CTRL, SEND, &"x".into()).await.unwrap_err();
    assert_eq!(error.code(), Some("flaky"));
    repo.client().call(CTRL, LATER, &"x".into()).reply_to(&REPO).await?;
    broker.idle().await;
    assert_eq!((tries.len(), replies.len()), (1, 2));
    assert_eq!(broker.messages("REPO:dead").len(), 1);
    Ok(())
}

async fn echo_later(_: Arc<Tries>, _: Context, text: String) -> Result<String, Fault> {
    Ok(text)
}

/// What an operator puts back is tried as often as what is new, and knows its topic.
#[tokio::test(start_paused = true)]
async fn what_is_put_back_begins_anew() -> Test {
    let (broker, tries, log) = (broker(), Arc::new(Tries::default()), Log::default());
    let (pattern, topic) = (Pattern::new("orders.*"), Topic::new("orders.eu"));
    let failing = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(1);
    let failing = failing.on_event("g", pattern.clone(), SEND, Tries::fail).start().await?;
    failing.client().publish(topic, SEND, &"x".into()).await?;
    broker.idle().await;
    assert!(failing.shutdown(SECOND).await.is_clean());

    let mended = node(&broker, &CTRL, "host2").state(log.clone());
    let mended = mended.on_event("g", pattern, SEND, note).start().await?;
    let dead = broker.messages("CTRL:dead").remove(0);
    let queue = text(&dead, header::DEAD_QUEUE).ok_or("it says where it came from")?;
    let back = Route::Delayed { delay: SECOND, jitter: SECOND, queue: &queue };
    broker.connect().send(back, dead.clone()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host2 orders.eu x"]);
    assert_eq!((dead.attempt(), mended.stats().failed), (0, 0));
    Ok(())
}

/// The broker refuses to hold it back, or nobody knows whether it does.
#[tokio::test(start_paused = true)]
async fn what_can_not_be_held_back_is_set_aside_or_goes_back() -> Test {
    /// The next message that is sent after a handler has failed.
    type Next = Mutex<Option<BrokerFault>>;
    async fn fail(state: Arc<(MemoryBroker, Next)>, _: Context, _: String) -> Result<(), Fault> {
        if let Some(fault) = state.1.lock().expect("no test panics in here").take() {
            state.0.inject(Injection::new(fault).on(Pattern::new("CTRL")));
        }
        Err(Fault::new("flaky", "not this time"))
    }
    let broker = broker();
    let state = Arc::new((broker.clone(), Next::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&state)).retries(1);
    let node = node.on(SEND, fail).start().await?;
    let client = client(&broker).await;
    *state.1.lock().expect("no test panics in here") = Some(BrokerFault::Refuse);
    client.cast(CTRL, SEND, &"x".into()).await?;
    broker.idle().await;
    let stats = node.stats();
    assert_eq!((stats.failed, stats.retried, stats.set_aside), (1, 0, 1));

    // It is held back, and nobody knows it: so it also comes again. At least once, as ever.
    *state.1.lock().expect("no test panics in here") = Some(BrokerFault::LoseConfirm);
    client.cast(CTRL, SEND, &"x".into()).await?;
    broker.idle().await;
    let stats = node.stats();
    assert_eq!((stats.failed, stats.retried, stats.set_aside), (1 + 4, 1, 1 + 2));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_loses_nothing_that_is_to_be_tried_again() -> Test {
    let (broker, tries, log) = (broker(), Arc::new(Tries::default()), Log::default());
    let failing = node(&broker, &CTRL, "host1").state(Arc::clone(&tries));
    let failing = failing.on(SEND, Tries::fail).start().await?;
    let to = Address::from(CTRL);
    for n in 0..10 {
        let message = Message::builder(gear::Kind::Cast, "send").body(format!("\"{n}\""));
        let _ = broker.connect().send(Route::Address(&to), message.build()).await;
    }
    // Nothing can be held back, and so goes back.
    broker.raise_alarm("memory");
    let report = failing.shutdown(SECOND).await;
    broker.clear_alarm();
    let _node = node(&broker, &CTRL, "host2").state(log.clone()).on(SEND, note).start().await?;
    broker.idle().await;
    let mut got = log.take();
    got.sort();
    assert_eq!(got, Vec::from_iter((0..10).map(|n| format!("CTRL.host2 CTRL {n}"))), "{report:?}");
    Ok(())
}

/// What was set aside may be put back where others are: its key is not for that queue, and it is.
#[tokio::test(start_paused = true)]
async fn what_is_put_back_elsewhere_is_handled_there() -> Test {
    let (broker, tries, log) = (broker(), Arc::new(Tries::default()), Log::default());
    let gone = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(0);
    let gone = gone.on(SEND, Tries::fail).start().await?;
    gone.client().cast(CTRL.all(), SEND, &"x".into()).await?;
    broker.idle().await;
    assert!(gone.shutdown(SECOND).await.is_clean());
    let _node = node(&broker, &CTRL, "host2").state(log.clone()).on(SEND, note).start().await?;
    let dead = broker.messages("CTRL:dead").remove(0);
    assert_eq!(text(&dead, header::DEAD_QUEUE).as_deref(), Some("CTRL.host1"));
    let back = Route::Delayed { delay: SECOND, jitter: SECOND, queue: "CTRL" };
    broker.connect().send(back, dead).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host2 CTRL x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_event_with_all_its_headers_is_tried_again_by_its_handler() -> Test {
    async fn other(_: Arc<Log>, cx: Context, _: String) -> Result<(), Fault> {
        panic!("{} is not for this one", cx.key())
    }
    async fn fail_first(log: Arc<Log>, cx: Context, _: String) -> Result<(), Fault> {
        let own = cx.headers().iter().filter(|(name, _)| name.starts_with("own")).count();
        log.add(format!("{} {} {own}", cx.key(), cx.is_redelivered()));
        if cx.attempt() == 0 { Err(Fault::new("flaky", "not this time")) } else { Ok(()) }
    }
    let (broker, log) = (broker(), Log::default());
    let ctrl = node(&broker, &CTRL, "host1").state(log.clone());
    let ctrl = ctrl.on_event("g", Pattern::new("a.*"), SEND, other);
    let _ctrl = ctrl.on_event("g", Pattern::new("b.*"), SEND, fail_first).start().await?;
    let client = client(&broker).await;
    let mut event = client.publish(Topic::new("b.x"), SEND, &"x".into());
    for n in 0..gear::Headers::MAX_COUNT {
        event = event.header(format!("own {n}"), 1);
    }
    event.await?;
    broker.idle().await;
    assert_eq!(log.take(), ["b.x false 64", "b.x true 64"]);
    Ok(())
}

/// What fails when its connection is gone comes again by itself, and has no copy beside it.
#[tokio::test(start_paused = true)]
async fn what_fails_after_a_cut_is_tried_in_one_row() -> Test {
    async fn fail(tries: Arc<Tries>, cx: Context, text: String) -> Result<(), Fault> {
        if tries.len() == 0 {
            tokio::time::sleep(SECOND * 2).await;
        }
        tries.fail(cx, text).await
    }
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let link = broker.connect();
    let ctrl = gear::Node::builder(link.clone(), CTRL.at("host1")?).state(Arc::clone(&tries));
    let ctrl = ctrl.concurrency(1).retries(2).on(SEND, fail).start().await?;
    client(&broker).await.cast(CTRL, SEND, &"x".into()).await?;
    tokio::time::sleep(SECOND).await;
    link.cut_for(SECOND * 5);
    broker.idle().await;
    let attempts: Vec<u32> = tries.lock().iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!((attempts, ctrl.stats().set_aside), (vec![0, 0, 1, 2], 1));
    Ok(())
}

/// What waits for the broker to take it is held back from then on.
#[tokio::test(start_paused = true)]
async fn a_delay_begins_when_the_broker_has_the_message() -> Test {
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(1);
    let _node = node.on(SEND, Tries::fail).start().await?;
    client(&broker).await.cast(CTRL, SEND, &"x".into()).await?;
    broker.raise_alarm("memory");
    tokio::time::sleep(SECOND * 5).await;
    broker.clear_alarm();
    let cleared = Instant::now();
    broker.idle().await;
    let waited = tries.lock()[1].1 - cleared;
    assert!(waited >= SECOND * 4 / 5, "{waited:?}");
    Ok(())
}

/// A letter whose connection is gone comes again: what is decided about it before does not count.
#[tokio::test(start_paused = true)]
async fn a_letter_of_a_connection_that_is_gone_is_shown_again() -> Test {
    let (broker, tries) = (broker(), Arc::new(Tries::default()));
    let node = node(&broker, &CTRL, "host1").state(Arc::clone(&tries)).retries(0);
    let node = node.on(SEND, Tries::fail).start().await?;
    node.client().cast(CTRL, SEND, &"x".into()).await?;
    broker.idle().await;
    let link = broker.connect();
    let operator = gear::Client::builder(link.clone(), "CLI.op".parse()?).start().await?;
    let mut dead = operator.dead_letters(&CTRL).await?;
    for decides in [true, false] {
        let letter = dead.next().await.ok_or("it is there")?;
        link.cut();
        if decides {
            let gone = letter.put_back().await.unwrap_err();
            assert_eq!(gone.retry(), gear::Retry::Safe, "{gone:?}");
        } else {
            assert!(!letter.discard());
        }
    }
    assert_eq!(tries.len(), 1);
    dead.next().await.ok_or("it is there")?.put_back().await?;
    let letter = dead.next().await.ok_or("it has failed again")?;
    assert_eq!(tries.len(), 2);
    // The broker takes nothing: that is told in time, and the letter stays.
    broker.raise_alarm("memory");
    let start = Instant::now();
    let late = letter.put_back().await.unwrap_err();
    assert_eq!((late.retry(), start.elapsed()), (gear::Retry::Safe, SECOND * 30));
    broker.clear_alarm();
    drop(dead);
    assert_eq!(broker.messages("CTRL:dead").len(), 1);
    Ok(())
}
