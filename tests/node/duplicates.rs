//! Messages that come twice: at the same time, after a loss, beyond what is remembered, and where the memory
//! itself fails.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gear::{
    BoxError, Caller, Context, Deduplicate, Fault, Id, Inbox, InboxKey, Kind, Known, Message, Node,
    Operation, Outcome, Reply, Route, Transport, Window,
    memory::{BrokerFault, MemoryBroker},
};

use crate::{CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, broker, client, node, note, to_repo};

const ASK: Operation<String, String> = Operation::new("ask");

/// Sends a cast with this id.
async fn cast(broker: &MemoryBroker, id: &str, text: &str) -> Test {
    let message = Message::builder(Kind::Cast, NOTE.name()).id(Id::from(id));
    let message = message.body(format!("{text:?}")).build();
    broker.connect().send(Route::Address(&CTRL.into()), message).await?;
    Ok(())
}

/// A connection that is lost while its handlers run brings their messages again, to the same node.
#[tokio::test(start_paused = true)]
async fn one_that_comes_again_while_it_is_handled_waits_for_the_first() -> Test {
    async fn slow(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        log.add(format!("begins {text}"));
        tokio::time::sleep(SECOND * 10).await;
        log.add(format!("ends {text}"));
        Ok(text)
    }
    let (broker, log) = (broker(), Log::default());
    let link = broker.connect();
    let ctrl = Node::builder(link.clone(), CTRL.at("host1")?);
    let ctrl = ctrl.layer(Deduplicate::new(Window::default())).state(log.clone()).on(ECHO, slow);
    let ctrl = ctrl.start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::time::sleep(SECOND).await;
    link.cut();
    assert_eq!(call.await?, "x");
    broker.idle().await;
    assert_eq!(ctrl.stats().operations[0].1, 2, "it came again");
    assert_eq!(log.take(), ["begins x", "ends x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_a_first_that_fails_is_handled() -> Test {
    async fn fail_first(tries: Arc<AtomicUsize>, _: Context, _: String) -> Result<(), Fault> {
        let before = tries.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(SECOND).await;
        if before == 0 { Err(Fault::new("no", "not yet")) } else { Ok(()) }
    }
    let (broker, tries) = (broker(), Arc::new(AtomicUsize::new(0)));
    let node = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
    let node = node.retries(0).state(Arc::clone(&tries)).on(NOTE, fail_first).start().await?;
    for _ in 0..3 {
        cast(&broker, "one", "x").await?;
    }
    broker.idle().await;
    assert_eq!((tries.load(Ordering::SeqCst), node.stats().set_aside), (2, 1));
    Ok(())
}

/// A handler that is cut off, or panics, leaves nobody waiting.
#[tokio::test(start_paused = true)]
async fn one_whose_first_was_cut_off_is_handled() -> Test {
    async fn hang_first(tries: Arc<AtomicUsize>, _: Context, text: String) -> Result<(), Fault> {
        match (tries.fetch_add(1, Ordering::SeqCst), &*text) {
            (0, "panic") => panic!("as it was told"),
            (0, _) => std::future::pending().await,
            _ => Ok(()),
        }
    }
    let broker = broker();
    for how in ["panic", "hang"] {
        let (window, tries) = (Arc::new(Window::default()), Arc::new(AtomicUsize::new(0)));
        let layer = Deduplicate::new(window);
        let first = node(&broker, &CTRL, "host1").layer(layer.clone()).retries(0);
        let first = first.state(Arc::clone(&tries)).on(NOTE, hang_first).start().await?;
        let second = node(&broker, &CTRL, "host2").layer(layer);
        let second = second.state(Arc::clone(&tries)).on(NOTE, hang_first).start().await?;
        cast(&broker, "one", how).await?;
        cast(&broker, "one", how).await?;
        tokio::time::sleep(SECOND).await;
        first.shutdown(Duration::ZERO).await;
        tokio::time::sleep(SECOND).await;
        second.shutdown(SECOND).await;
        assert!(tries.load(Ordering::SeqCst) >= 2, "{how}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_window_forgets_what_is_too_much_and_too_old() -> Test {
    async fn long(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        log.add(text.clone());
        Ok(text.repeat(100))
    }
    let broker = broker();
    let ask = async |window: Window, sent: &[&str]| -> Test<Vec<String>> {
        let log = Log::default();
        let node = node(&broker, &CTRL, "host1").layer(Deduplicate::new(window));
        let node = node.state(log.clone()).on(ECHO, long).start().await?;
        let to_reply = gear::ReplyTo::queue("WEB.gone:reply.1");
        for id in sent {
            let message = Message::builder(Kind::Call, ECHO.name()).id(Id::from(*id));
            let message = message.reply_to(to_reply.clone()).body(format!("{id:?}")).build();
            broker.connect().send(Route::Address(&CTRL.into()), message).await?;
            broker.idle().await;
            tokio::time::sleep(SECOND).await;
        }
        assert!(node.shutdown(SECOND).await.is_clean());
        Ok(log.take())
    };
    let sent = ["a", "b", "c", "c", "b", "a"];
    assert_eq!(ask(Window::default(), &sent).await?, ["a", "b", "c"]);
    // Two messages; three seconds; two answers, of 102 bytes each.
    for window in [
        Window::new(2),
        Window::default().age(SECOND * 3 + SECOND / 2),
        Window::default().bytes(250),
    ] {
        let shown = format!("{window:?}");
        assert_eq!(ask(window, &sent).await?, ["a", "b", "c", "a"], "{shown}");
    }
    // An answer that is larger than all of it is not remembered, and no other is forgotten for it.
    assert_eq!(ask(Window::default().bytes(101), &["a", "a"]).await?, ["a", "a"]);
    Ok(())
}

/// The same request comes to a service twice on its way, and each time it is another one.
#[tokio::test(start_paused = true)]
async fn what_is_handed_on_in_a_circle_is_no_duplicate() -> Test {
    const ASK: Operation<u32, String> = Operation::new("ask");
    async fn around(
        log: Arc<Log>,
        cx: Context,
        left: u32,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        log.add(format!("{} {left}", cx.queue()));
        match left {
            0 => caller.reply(&"round".into()),
            left if left % 2 == 0 => Ok(caller.forward(REPO, ASK, &(left - 1)).await?),
            left => Ok(caller.forward(CTRL, ASK, &(left - 1)).await?),
        }
    }
    let (broker, log) = (broker(), Log::default());
    let layer = Deduplicate::new(Window::default());
    let mut nodes = Vec::new();
    for service in [&CTRL, &REPO] {
        let node = node(&broker, service, "host1").layer(layer.clone()).state(log.clone());
        nodes.push(node.on_with_caller(ASK, around).start().await?);
    }
    let client = client(&broker).await;
    broker.inject(BrokerFault::Duplicate);
    assert_eq!(client.call(CTRL, ASK, &4).await?, "round");
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL 4", "REPO 3", "CTRL 2", "REPO 1", "CTRL 0"]);
    Ok(())
}

/// A store that fails when it is told to.
#[derive(Default)]
struct Store {
    handled: Mutex<HashMap<String, Reply>>,
    no_begin: AtomicBool,
    no_commit: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
struct Full;

impl Inbox for Store {
    type Transaction = Arc<Mutex<Vec<String>>>;

    async fn begin(&self, key: &InboxKey) -> Result<Known<Self::Transaction>, BoxError> {
        if self.no_begin.load(Ordering::SeqCst) {
            return Err(Full.into());
        }
        let handled = self.handled.lock().expect("no test panics in here");
        let reply = handled.get(&key.to_string()).cloned();
        Ok(reply.map_or_else(|| Known::New(Arc::default()), Known::Handled))
    }

    async fn commit(
        &self,
        key: &InboxKey,
        _: Self::Transaction,
        reply: &Reply,
    ) -> Result<(), BoxError> {
        if self.no_commit.load(Ordering::SeqCst) {
            return Err(Full.into());
        }
        let mut handled = self.handled.lock().expect("no test panics in here");
        handled.insert(key.to_string(), reply.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_keeps_messages_from_being_handled() -> Test {
    let (broker, log, store) = (broker(), Log::default(), Arc::new(Store::default()));
    let node = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Arc::clone(&store)));
    let node = node.state(log.clone()).on(NOTE, note).start().await?;
    let client = client(&broker).await;
    store.no_begin.store(true, Ordering::SeqCst);
    let error = client.call(CTRL, NOTE, &"x".into()).await.unwrap_err();
    assert_eq!((error.code(), log.take().len()), (Some(gear::code::UNAVAILABLE), 0));
    assert_eq!(error.retry(), gear::Retry::IfIdempotent);

    // What can not be written down has failed, though the handler has not.
    store.no_begin.store(false, Ordering::SeqCst);
    store.no_commit.store(true, Ordering::SeqCst);
    client.cast(CTRL, NOTE, &"y".into()).await?;
    tokio::time::sleep(SECOND / 2).await;
    store.no_commit.store(false, Ordering::SeqCst);
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL y"; 2]);
    assert_eq!((node.stats().retried, store.handled.lock().map(|h| h.len()).ok()), (1, Some(1)));
    Ok(())
}

/// A store whose second user finds that the first was faster.
#[derive(Default)]
struct Contended(Store);

impl Inbox for Contended {
    type Transaction = Arc<Mutex<Vec<String>>>;

    async fn begin(&self, key: &InboxKey) -> Result<Known<Self::Transaction>, BoxError> {
        self.0.begin(key).await
    }

    async fn commit(
        &self,
        key: &InboxKey,
        _: Self::Transaction,
        reply: &Reply,
    ) -> Result<(), BoxError> {
        let mut handled = self.0.handled.lock().expect("no test panics in here");
        if handled.contains_key(&key.to_string()) {
            return Err("another was faster".into());
        }
        handled.insert(key.to_string(), reply.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_instances_at_once_the_second_gives_the_answer_of_the_first() -> Test {
    async fn slow(_: Arc<()>, cx: Context, _: String) -> Result<String, Fault> {
        tokio::time::sleep(SECOND).await;
        Ok(cx.instance().to_string())
    }
    let (broker, store) = (broker(), Arc::new(Contended::default()));
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let node = node(&broker, &CTRL, host).layer(Deduplicate::new(Arc::clone(&store)));
        nodes.push(node.on(ECHO, slow).start().await?);
    }
    let client = client(&broker).await;
    let calls = [(); 2].map(|()| client.call(CTRL, ECHO, &"x".into()).id("one").send());
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await?);
    }
    assert_eq!(answers, ["CTRL.host1", "CTRL.host1"]);
    assert!(nodes.iter().all(|node| node.stats().operations[0].1 == 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_first_waits_no_longer_than_his_deadline() -> Test {
    async fn stuck(log: Arc<Log>, _: Context, text: String) -> Result<(), Fault> {
        log.add(text);
        tokio::time::sleep(SECOND * 60).await;
        Err(Fault::new("no", "it was stuck"))
    }
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
    let node = node.concurrency(2).retries(0).state(log.clone()).on(NOTE, stuck).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, NOTE, &"x".into()).id("one").await?;
    client.cast(CTRL, NOTE, &"x".into()).id("one").expires(SECOND * 5).await?;
    tokio::time::sleep(SECOND * 6).await;
    assert_eq!(node.stats().expired, 1);
    // Its place is free.
    client.cast(CTRL, NOTE, &"y".into()).id("two").await?;
    tokio::time::sleep(SECOND).await;
    assert_eq!(log.take(), ["x", "y"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_given_twice_is_one() -> Test {
    let (broker, log) = (broker(), Log::default());
    let layer = Deduplicate::new(Window::default());
    let node = node(&broker, &CTRL, "host1").state(log.clone()).layer(layer.clone()).on(NOTE, note);
    let other = Operation::<String, ()>::new("other");
    let _node = node.layer(layer).on(other, note).start().await?;
    let client = client(&broker).await;
    for _ in 0..2 {
        client.call(CTRL, other, &"x".into()).id("one").timeout(SECOND).await?;
    }
    assert_eq!(log.take(), ["CTRL.host1 CTRL x"]);
    Ok(())
}

/// A store keeps what it is given: an answer that another service gives is none of this one.
#[tokio::test(start_paused = true)]
async fn what_was_handed_on_is_not_answered_when_it_comes_again() -> Test {
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        tokio::time::sleep(SECOND).await;
        Ok(text)
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
    let ctrl = ctrl.on_with_caller(ASK, to_repo).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(ECHO, echo).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::Duplicate);
    assert_eq!(client.call(CTRL, ASK, &"x".into()).await?, "x");
    broker.idle().await;
    assert_eq!((ctrl.stats().operations[0].1, client.stats().late_replies), (2, 0));
    Ok(())
}

/// Whoever asks again by himself is no copy: he is told at once that he will not be answered, or is handled.
#[tokio::test(start_paused = true)]
async fn who_asks_again_with_the_same_id_does_not_wait_for_nothing() -> Test {
    async fn fail_first(
        tries: Arc<AtomicUsize>,
        _: Context,
        text: String,
    ) -> Result<String, Fault> {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Fault::new(gear::code::OVERLOADED, "too much to do").retryable()),
            _ => Ok(text),
        }
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
    let ctrl = ctrl.on_with_caller(ASK, to_repo).state(AtomicUsize::new(0)).on(ECHO, fail_first);
    let _ctrl = ctrl.start().await?;
    let _repo = node(&broker, &REPO, "host1").start().await?;
    let client = client(&broker).await;
    // REPO does not answer, so the first one ends at its deadline.
    broker.inject(BrokerFault::LoseMessage);
    let mut errors = Vec::new();
    for _ in 0..2 {
        let call = client.call(CTRL, ASK, &"x".into()).id("one").timeout(SECOND * 60);
        errors.push(call.await.unwrap_err());
    }
    assert!(errors.iter().all(|error| error.retry() != gear::Retry::Safe), "{errors:?}");
    // One that failed is handled once more.
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(client.call(CTRL, ECHO, &"x".into()).id("two").await.ok());
    }
    assert_eq!(told, [None, Some("x".to_owned())]);
    Ok(())
}

/// A layer that tries again, around this one.
#[derive(Clone)]
struct Twice<S>(S);

impl<S> tower::Service<gear::Request> for Twice<S>
where
    S: tower::Service<gear::Request, Response = Reply, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: gear::Request) -> Self::Future {
        let mut service = self.0.clone();
        Box::pin(async move {
            match service.call(request.clone()).await {
                Err(_) => service.call(request).await,
                reply => reply,
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_it_may_try_again() -> Test {
    async fn fail_first(log: Arc<Log>, cx: Context, text: String) -> Result<String, Fault> {
        let transaction: &Arc<Mutex<Vec<String>>> = cx.extension().expect("one has begun");
        let mut written = transaction.lock().expect("no test panics in here");
        written.push(text.clone());
        log.add(format!("{} {}", written.len(), log.len()));
        if log.len() == 1 { panic!("the first time") } else { Ok(text) }
    }
    let (broker, log, store) = (broker(), Log::default(), Arc::new(Store::default()));
    let stack = tower::ServiceBuilder::new()
        .layer(tower::layer::layer_fn(Twice))
        .layer(Deduplicate::new(Arc::clone(&store)));
    let node = node(&broker, &CTRL, "host1").layer(stack);
    let _node = node.state(log.clone()).on(ECHO, fail_first).start().await?;
    assert_eq!(client(&broker).await.call(CTRL, ECHO, &"x".into()).await?, "x");
    // Each try has its own transaction.
    assert_eq!(log.take(), ["1 0", "1 1"]);
    // A copy has the answer of the one that succeeded.
    let client = client(&broker).await;
    broker.inject(BrokerFault::Duplicate);
    log.take();
    assert_eq!(client.call(CTRL, ECHO, &"y".into()).await?, "y");
    broker.idle().await;
    assert_eq!((log.take().len(), client.stats().late_replies), (2, 1));
    let handled = store.handled.lock().expect("no test panics in here");
    assert_eq!(handled.len(), 2);
    Ok(())
}

/// An effect and a panic: whoever asked was told, and a copy does not do it again.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_call_that_panicked_is_told_the_same() -> Test {
    async fn explode(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        log.add(text);
        panic!("after the effect")
    }
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1").layer(Deduplicate::new(Window::default()));
    let node = node.state(log.clone()).on(ECHO, explode).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::Duplicate);
    let error = client.call(CTRL, ECHO, &"x".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(gear::code::PANICKED));
    broker.idle().await;
    assert_eq!((log.take().len(), node.stats().operations[0].1), (1, 2));
    Ok(())
}
