//! Handlers that say themselves how whoever asked is answered: by another service, or later.

use std::sync::{Arc, Mutex, PoisonError};

use gear_api::{
    Address, CallError, Caller, CastError, Client, Context, Deduplicate, Deferred, Fault,
    HeaderValue, Id, Kind, Message, NotSent, Operation, Outcome, RemoteError, Retry, Service,
    Window, code, topology::MAX_HOPS,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "node-handing-on";
    a_third_service_answers_who_asked: "and whoever handed it on has nothing more to do with it",
    what_is_handed_on_is_the_same_request: "deadline, headers, correlation and durability",
    whoever_takes_the_answer_knows_what_was_asked: "also where it was handed on as something else",
    who_gathers_knows_who_was_asked: "whoever answers, and whenever",
    each_of_a_group_hands_on_a_message_of_its_own: "which are no duplicates",
    one_place_in_each_service_is_enough: "where a nested call would wait for itself",
    a_circle_ends_in_an_error: "after so many hops",
    what_can_not_be_handed_on_is_an_error_at_once(mandatory): "nobody waits for his deadline",
    a_cast_is_handed_on_as_a_cast: "and nobody is answered",
    any_instance_may_get_the_answer: "as whoever asked has said",
    another_program_may_answer_later: "with what was saved, after the first one is gone",
    what_is_put_off_may_fail: "with the error that is chosen",
    a_cast_that_is_put_off_wants_no_answer: "and gets none",
}

const ASK: Operation<String, String> = Operation::new("ask");
const NOBODY: Service = Service::new("NOBODY");

/// Who shall have it, in the text before the first space.
async fn hand_on(
    log: Arc<Log>,
    cx: Context,
    text: String,
    caller: Caller<String>,
) -> Result<Outcome, Fault> {
    log.add(format!("{} hands on {text}", cx.instance()));
    let Some((to, rest)) = text.split_once(' ') else { return caller.reply(&text) };
    let to: Address = to.parse()?;
    Ok(caller.forward(to, ASK, &rest.to_owned()).await?)
}

/// Says who answers.
async fn answer(log: Arc<Log>, cx: Context, text: String) -> Result<String, Fault> {
    log.add(format!("{} answers {text}", cx.instance()));
    Ok(format!("{text}, says {}", cx.instance()))
}

async fn a_third_service_answers_who_asked(world: World) -> Test {
    let log = Log::default();
    let ctrl = world.node(&CTRL, "host1").await?.state(log.clone());
    let ctrl = ctrl.on_with_caller(ASK, hand_on).start().await?;
    let mut repos = Vec::new();
    for host in ["host1", "host2"] {
        let repo = world.node(&REPO, host).await?.state(log.clone());
        repos.push(repo.on(ASK, answer).start().await?);
    }
    let client = world.client().await?;
    let said = client.call(CTRL, ASK, &"REPO.host2 x".into()).await?;
    assert_eq!(said, "x, says REPO.host2");
    assert_eq!(
        log.exactly(2, &world).await,
        ["CTRL.host1 hands on REPO.host2 x", "REPO.host2 answers x"]
    );
    // Or it answers itself.
    assert_eq!(client.call(CTRL, ASK, &"y".into()).await?, "y");
    for queue in ["CTRL", "REPO.host2"] {
        world.waits(queue, 0).await?;
    }
    assert!(ctrl.shutdown(LONG).await.is_clean());
    Ok(())
}

async fn what_is_handed_on_is_the_same_request(world: World) -> Test {
    async fn tell(_: Arc<()>, cx: Context, _: String) -> Result<String, Fault> {
        let message = cx.message();
        let n = cx.headers().get("n").and_then(HeaderValue::as_int);
        let sender = cx.sender().map(|sender| sender.to_string());
        let told = (message.correlation(), n, sender, message.hops(), message.kind());
        Ok(format!("{told:?} {} {:?}", message.is_durable(), cx.deadline()))
    }
    let ctrl = world.node(&CTRL, "host1").await?.state(Log::default());
    let _ctrl = ctrl.on_with_caller(ASK, hand_on).start().await?;
    let repo = world.node(&REPO, "host1").await?.on(ASK, tell);
    let _repo = repo.on(WHO, async |_: Arc<()>, _: Context, ()| Ok(String::new())).start().await?;
    let web = world.connect().await?;
    let (_replies, sink) = ask_as(&*web, "WEB.host1").await?;
    let deadline = web.clock().now() + LONG;
    let request = Message::builder(Kind::Call, "ask").id(Id::from("one")).reply_to(sink.at());
    let request = request.deadline(deadline).durable(true).header("n", 7)?;
    publish(&*web, "CTRL", request.body("\"CTRL REPO x\"").build()).await?;
    let sender = Some("CTRL.host1".to_owned());
    let told = (Some(&Id::from("one")), Some(7), sender, 2, Kind::Call);
    let expected = format!("{told:?} true {:?}", Some(deadline));
    assert_eq!(sink.exactly(1, &world).await, [serde_json::to_string(&expected)?]);
    Ok(())
}

/// Asks for something else.
async fn as_echo(
    _: Arc<()>,
    _: Context,
    text: String,
    caller: Caller<String>,
) -> Result<Outcome, Fault> {
    Ok(caller.forward(REPO, ECHO, &text).await?)
}

async fn echo_or_fail(log: Arc<Log>, cx: Context, text: String) -> Result<String, Fault> {
    log.add(format!("{} {text}", cx.instance()));
    if text == "fail" { Err(Fault::new("no", "not that").retryable()) } else { Ok(text) }
}

async fn whoever_takes_the_answer_knows_what_was_asked(world: World) -> Test {
    async fn answered(
        log: Arc<Log>,
        _: Context,
        answer: Result<String, RemoteError>,
    ) -> Result<(), Fault> {
        log.add(match answer {
            Ok(text) => text,
            // What was done before it was handed on nobody knows there.
            Err(error) => format!("{} {}", error.code, error.retryable),
        });
        Ok(())
    }
    let log = Log::default();
    let _ctrl = world.node(&CTRL, "host1").await?.on_with_caller(ASK, as_echo).start().await?;
    let repo = world.node(&REPO, "host1").await?.state(Log::default());
    let _repo = repo.on(ECHO, echo_or_fail).start().await?;
    let web = world.node(&WEB, "host1").await?.state(log.clone());
    let web = web.on_reply(ASK, answered).start().await?;
    for text in ["x", "fail"] {
        web.client().call(CTRL, ASK, &text.to_owned()).reply_to(&WEB).await?;
    }
    assert_eq!(log.sorted(2, &world).await, ["no false", "x"]);
    assert_eq!(web.stats().unknown, 0);
    let error = web.client().call(CTRL, ASK, &"fail".into()).await.expect_err("it fails");
    assert_eq!(error.retry(), Retry::Useless);
    Ok(())
}

async fn who_gathers_knows_who_was_asked(world: World) -> Test {
    const LATER: Operation<String, String> = Operation::new("later");
    let saved = Arc::new(Saved::default());
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let ctrl = world.node(&CTRL, host).await?.on_with_caller(ASK, as_echo);
        let ctrl = ctrl.state(Arc::clone(&saved)).on_with_caller(LATER, Saved::put_off);
        nodes.push(ctrl.start().await?);
    }
    let repo = world.node(&REPO, "host1").await?.state(Log::default());
    let repo = repo.on(ECHO, echo_or_fail).start().await?;
    let client = world.client().await?;
    let asked = [CTRL.at("host1")?, CTRL.at("host2")?];
    for operation in [ASK, LATER] {
        let gather = client.gather(CTRL.all(), operation, &"x".into()).expect(&asked).send();
        if operation.name() == LATER.name() {
            eventually(|| saved.len() == 2).await;
            for _ in &asked {
                saved.take()?.reply(repo.client(), &"x".into()).await?;
            }
        }
        let mut answers = within(gather).await?;
        let mut from = Vec::new();
        while let Some(answer) = within(answers.next()).await {
            assert_eq!(answer.result?, "x");
            from.extend(answer.from);
        }
        from.sort();
        assert_eq!(from, asked);
    }
    Ok(())
}

async fn each_of_a_group_hands_on_a_message_of_its_own(world: World) -> Test {
    /// In two parts.
    async fn parts(
        _: Arc<()>,
        cx: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        let part = |n| format!("{text}{n} of {}", cx.instance());
        let _first = caller.forward(REPO, ECHO, &part(1)).await?;
        Ok(caller.forward(REPO, ECHO, &part(2)).await?)
    }
    let log = Log::default();
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let ctrl = world.node(&CTRL, host).await?.on_with_caller(ASK, parts);
        nodes.push(ctrl.start().await?);
    }
    let repo = world.node(&REPO, "host1").await?.layer(Deduplicate::new(Window::default()));
    let _repo = repo.state(log.clone()).on(ECHO, echo_or_fail).start().await?;
    // It comes twice, and so do its parts.
    let web = world.connect().await?;
    let message = Message::builder(Kind::Cast, "ask").id(Id::from("one")).body("\"x\"").build();
    for _ in 0..2 {
        publish(&*web, "CTRL.*", message.clone()).await?;
    }
    let parts = ["x1 of CTRL.host1", "x1 of CTRL.host2", "x2 of CTRL.host1", "x2 of CTRL.host2"];
    assert_eq!(log.sorted(4, &world).await, parts.map(|part| format!("REPO.host1 {part}")));
    Ok(())
}

async fn one_place_in_each_service_is_enough(world: World) -> Test {
    let log = Log::default();
    let mut nodes = Vec::new();
    for service in [&CTRL, &REPO] {
        let node = world.node(service, "host1").await?.concurrency(1).state(log.clone());
        nodes.push(node.on_with_caller(ASK, hand_on).start().await?);
    }
    let client = world.client().await?;
    let calls: Vec<_> = (0..10)
        .map(|n| client.call(CTRL, ASK, &format!("REPO CTRL REPO CTRL {n}")).send())
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    Ok(())
}

async fn a_circle_ends_in_an_error(world: World) -> Test {
    async fn again(
        log: Arc<Log>,
        _: Context,
        text: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        log.add("once more");
        let sent = caller.forward(CTRL, ASK, &text).await;
        if let Err(CastError::NotSent(NotSent::TooManyHops)) = sent {
            log.add("that is enough");
        }
        Ok(sent?)
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.state(log.clone());
    let node = node.on_with_caller(ASK, again).start().await?;
    let client = world.client().await?;
    let error = client.call(CTRL, ASK, &"x".into()).await.expect_err("it has no end");
    assert_eq!(error.code(), Some(code::LOOP));
    let lines = log.exactly(MAX_HOPS as usize + 2, &world).await;
    assert_eq!(lines.last().map(String::as_str), Some("that is enough"));
    // Nor is a cast that goes in a circle tried again.
    client.cast(CTRL, ASK, &"x".into()).await?;
    eventually(|| node.stats().failed == 2).await;
    assert_eq!(node.stats().retried, 0);
    Ok(())
}

async fn what_can_not_be_handed_on_is_an_error_at_once(world: World) -> Test {
    let ctrl = world.node(&CTRL, "host1").await?.state(Log::default());
    let _ctrl = ctrl.on_with_caller(ASK, hand_on).start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ASK, &format!("{NOBODY} x")).timeout(LONG * 4);
    let error = within(call.send()).await.expect_err("nobody is there");
    assert_eq!(error.code(), Some(code::UNAVAILABLE), "{error}");
    Ok(())
}

async fn a_cast_is_handed_on_as_a_cast(world: World) -> Test {
    let log = Log::default();
    let ctrl = world.node(&CTRL, "host1").await?.state(log.clone());
    let _ctrl = ctrl.on_with_caller(ASK, hand_on).start().await?;
    let repo = world.node(&REPO, "host1").await?.state(log.clone());
    let _repo = repo.on(ASK, answer).start().await?;
    let client = world.client().await?;
    client.cast(CTRL, ASK, &"REPO x".into()).await?;
    assert_eq!(
        log.exactly(2, &world).await,
        ["CTRL.host1 hands on REPO x", "REPO.host1 answers x"]
    );
    assert_eq!(client.stats().late_replies, 0);
    Ok(())
}

async fn any_instance_may_get_the_answer(world: World) -> Test {
    async fn answered(
        log: Arc<Log>,
        _: Context,
        answer: Result<String, RemoteError>,
    ) -> Result<(), Fault> {
        log.add(answer?);
        Ok(())
    }
    let log = Log::default();
    let ctrl = world.node(&CTRL, "host1").await?.state(log.clone());
    let _ctrl = ctrl.on_with_caller(ASK, hand_on).start().await?;
    let web = world.node(&WEB, "host1").await?.state(log.clone());
    let web = web.on_reply(ASK, answered).start().await?;
    web.client().call(CTRL, ASK, &"CTRL x".into()).reply_to(&WEB).await?;
    let expected = ["CTRL.host1 hands on CTRL x", "CTRL.host1 hands on x", "x"];
    assert_eq!(log.exactly(3, &world).await, expected);
    Ok(())
}

/// Stands for a database.
#[derive(Default)]
struct Saved(Mutex<Vec<String>>);

impl Saved {
    async fn put_off(
        self: Arc<Self>,
        _: Context,
        _: String,
        caller: Caller<String>,
    ) -> Result<Outcome, Fault> {
        let (deferred, outcome) = caller.defer();
        let text = serde_json::to_string(&deferred)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        Ok(outcome)
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Test<Deferred<String>> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(serde_json::from_str(&text.ok_or("nothing was saved")?)?)
    }
}

async fn put_off(world: &World, request: &str) -> Test<(Client, Response, Arc<Saved>)> {
    let saved = Arc::new(Saved::default());
    let node = world.node(&CTRL, "host1").await?.state(Arc::clone(&saved));
    let node = node.on_with_caller(ASK, Saved::put_off).start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ASK, &request.to_owned()).send();
    eventually(|| saved.len() == 1).await;
    assert!(node.shutdown(LONG).await.is_clean());
    world.waits("CTRL", 0).await?;
    Ok((client, call, saved))
}

type Response = gear_api::Response<String, gear_api::Json>;

async fn another_program_may_answer_later(world: World) -> Test {
    let (_client, call, saved) = put_off(&world, "x").await?;
    let other = world.client().await?;
    let deferred = saved.take()?;
    assert_eq!(deferred.operation(), "ask");
    assert!(deferred.deadline().is_some());
    deferred.reply(&other, &"at last".to_owned()).await?;
    assert_eq!(call.await?, "at last");
    Ok(())
}

async fn what_is_put_off_may_fail(world: World) -> Test {
    let (client, call, saved) = put_off(&world, "x").await?;
    saved.take()?.fail(&client, Fault::new("sold-out", "there is none left")).await?;
    let error = call.await;
    assert!(matches!(&error, Err(CallError::Remote(e)) if e.code == "sold-out"), "{error:?}");
    Ok(())
}

async fn a_cast_that_is_put_off_wants_no_answer(world: World) -> Test {
    let saved = Arc::new(Saved::default());
    let node = world.node(&CTRL, "host1").await?.state(Arc::clone(&saved));
    let _node = node.on_with_caller(ASK, Saved::put_off).start().await?;
    let client = world.client().await?;
    client.cast(CTRL, ASK, &"x".into()).await?;
    eventually(|| saved.len() == 1).await;
    saved.take()?.reply(&client, &"nobody hears it".to_owned()).await?;
    world.quiet().await;
    assert_eq!(client.stats().late_replies, 0);
    Ok(())
}
