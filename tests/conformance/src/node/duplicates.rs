//! Messages that come twice, and are handled once.

use std::sync::Arc;

use gear_api::{
    Address, Context, Deduplicate, Fault, Id, Kind, Message, Operation, RemoteError, ReplyTo,
    Route, Transport, Window,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-duplicates";
    a_message_that_comes_twice_is_handled_once: "each of another id, and each without one, is new",
    a_call_that_comes_twice_has_the_answer_of_the_first: "also if that was a failure",
    an_answer_that_comes_twice_is_handled_once: "by a reply handler",
    what_is_sent_again_may_have_the_id_of_the_first: "a cast, a call",
    what_failed_is_not_remembered: "it is to be tried again",
    instances_may_share_what_they_remember: "whoever gets the second copy",
    each_queue_handles_its_own_copy: "of what is sent to all",
}

/// A cast that says who it is, as often as somebody sends it.
async fn cast(on: &dyn Transport, to: &str, id: Option<&str>, text: &str) -> Test {
    let to: Address = to.parse()?;
    let message = Message::builder(Kind::Cast, "note").id(id.map(Id::from));
    let message = message.body(format!("{text:?}")).durable(true).build();
    on.send(Route::Address(&to), message).await?;
    Ok(())
}

async fn a_message_that_comes_twice_is_handled_once(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.layer(Deduplicate::new(Window::default()));
    let node = node.state(log.clone()).on(NOTE, note).start().await?;
    let web = world.connect().await?;
    for (id, text) in [("one", "a"), ("one", "a"), ("two", "b")] {
        cast(&*web, "CTRL", Some(id), text).await?;
    }
    cast(&*web, "CTRL", None, "c").await?;
    cast(&*web, "CTRL", None, "c").await?;
    eventually(|| node.stats().operations[0].1 == 5).await;
    let expected = ["CTRL.host1 CTRL a", "CTRL.host1 CTRL b", "CTRL.host1 CTRL c"];
    let expected = [&expected[..], &expected[2..]].concat();
    assert_eq!(log.sorted(4, &world).await, expected);
    world.waits("CTRL", 0).await?;
    Ok(())
}

async fn a_call_that_comes_twice_has_the_answer_of_the_first(world: World) -> Test {
    const COUNT: Operation<String, String> = Operation::new("count");
    async fn count(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        let fails = text == "fail";
        log.add(text);
        if fails {
            Err(Fault::new("no", "not that").retryable())
        } else {
            Ok(log.len().to_string())
        }
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.layer(Deduplicate::new(Window::default()));
    let node = node.state(log.clone()).on(COUNT, count).start().await?;
    let web = world.connect().await?;
    let (_replies, sink) = ask_as(&*web, "WEB.host1").await?;
    let request = Message::builder(Kind::Call, "count").id(Id::from("one")).reply_to(sink.at());
    let request = request.body("\"x\"").build();
    for _ in 0..2 {
        publish(&*web, "CTRL", request.clone()).await?;
    }
    assert_eq!(sink.exactly(2, &world).await, ["\"1\"", "\"1\""]);
    assert!(sink.replies().iter().all(|reply| reply.correlation() == request.id()));
    eventually(|| node.stats().operations[0].1 == 2).await;
    assert_eq!(log.exactly(1, &world).await, ["x"]);
    // Whoever was told that it failed may have asked once more.
    let request = request.to_builder().id(Id::from("two")).body("\"fail\"").build();
    for _ in 0..2 {
        publish(&*web, "CTRL", request.clone()).await?;
    }
    sink.exactly(4, &world).await;
    let errors: Vec<_> = sink.replies()[2..].iter().map(|reply| reply.error().cloned()).collect();
    assert_eq!(errors, [Some("no".into()), Some("no".into())]);
    assert_eq!(log.exactly(1, &world).await, ["fail"]);
    Ok(())
}

async fn an_answer_that_comes_twice_is_handled_once(world: World) -> Test {
    async fn answered(
        log: Arc<Log>,
        _: Context,
        answer: Result<String, RemoteError>,
    ) -> Result<(), Fault> {
        log.add(answer?);
        Ok(())
    }
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    let log = Log::default();
    let repo = world.node(&REPO, "host1").await?.on(ECHO, echo).start().await?;
    let web = world.node(&WEB, "host1").await?.layer(Deduplicate::new(Window::default()));
    let web = web.state(log.clone()).on_reply(ECHO, answered).start().await?;
    let request = Message::builder(Kind::Call, "echo").reply_to(ReplyTo::service(&WEB));
    let on = world.connect().await?;
    for (id, text) in [("one", "x"), ("one", "x"), ("two", "y")] {
        let request = request.clone().id(Id::from(id)).body(format!("{text:?}")).build();
        publish(&*on, "REPO", request).await?;
    }
    eventually(|| web.stats().operations[0].1 == 3).await;
    assert_eq!(log.sorted(2, &world).await, ["x", "y"]);
    assert_eq!(repo.stats().operations[0].1, 3);
    Ok(())
}

async fn what_is_sent_again_may_have_the_id_of_the_first(world: World) -> Test {
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.layer(Deduplicate::new(Window::default()));
    let node = node.state(log.clone()).on(NOTE, note).start().await?;
    let client = world.client().await?;
    for _ in 0..2 {
        client.cast(CTRL, NOTE, &"a".into()).id("first").await?;
        client.call(CTRL, NOTE, &"b".into()).id("second").await?;
        client.call(CTRL, NOTE, &"c".into()).await?;
    }
    // Also while the first one waits for its answer.
    let calls = [(); 2].map(|()| client.call(CTRL, NOTE, &"d".into()).id("third").send());
    for call in calls {
        call.await?;
    }
    eventually(|| node.stats().operations[0].1 == 8).await;
    let expected = ["a", "b", "c", "c", "d"].map(|text| format!("CTRL.host1 CTRL {text}"));
    assert_eq!(log.sorted(5, &world).await, expected);
    Ok(())
}

async fn what_failed_is_not_remembered(world: World) -> Test {
    async fn fail_first(log: Arc<Log>, _: Context, text: String) -> Result<(), Fault> {
        log.add(text);
        if log.len() == 1 { Err(Fault::new("no", "not yet")) } else { Ok(()) }
    }
    let log = Log::default();
    let node = world.node(&CTRL, "host1").await?.layer(Deduplicate::new(Window::default()));
    let node = node.retries(0).state(log.clone()).on(NOTE, fail_first).start().await?;
    let web = world.connect().await?;
    for n in 1..=3 {
        cast(&*web, "CTRL", Some("one"), "x").await?;
        eventually(|| node.stats().operations[0].1 == n).await;
    }
    assert_eq!(log.exactly(2, &world).await, ["x", "x"]);
    Ok(())
}

async fn instances_may_share_what_they_remember(world: World) -> Test {
    let (log, layer) = (Log::default(), Deduplicate::new(Window::default()));
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let node = world.node(&CTRL, host).await?.layer(layer.clone());
        nodes.push(node.state(log.clone()).on(NOTE, note).start().await?);
    }
    let web = world.connect().await?;
    let handled = || nodes.iter().map(|node| node.stats().operations[0].1).sum::<u64>();
    for n in 1..=4 {
        cast(&*web, "CTRL", Some("one"), "x").await?;
        eventually(|| handled() == n).await;
    }
    let each: Vec<u64> = nodes.iter().map(|node| node.stats().operations[0].1).collect();
    assert!(each.iter().all(|n| *n > 0), "{each:?}");
    assert_eq!(log.exactly(1, &world).await.len(), 1);
    Ok(())
}

async fn each_queue_handles_its_own_copy(world: World) -> Test {
    let (log, window) = (Log::default(), Arc::new(Window::default()));
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let node = world.node(&CTRL, host).await?.layer(Deduplicate::new(Arc::clone(&window)));
        nodes.push(node.state(log.clone()).on(NOTE, note).start().await?);
    }
    let web = world.connect().await?;
    cast(&*web, "CTRL.*", Some("one"), "x").await?;
    cast(&*web, "CTRL.*", Some("one"), "x").await?;
    cast(&*web, "CTRL", Some("one"), "x").await?;
    let told = log.sorted(3, &world).await;
    let to_all = ["CTRL.host1 CTRL.* x", "CTRL.host2 CTRL.* x"];
    assert!(to_all.iter().all(|line| told.iter().any(|told| told == line)), "{told:?}");
    Ok(())
}
