//! The two ways to answer: to the instance that asked, and to any instance of its service.

use std::sync::Arc;

use gear_api::{Context, Fault, RemoteError};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-answers";
    an_answer_goes_to_the_instance_that_asked: "and not to another client of that name",
    answers_in_another_order_find_their_calls: "the first that is asked is answered last",
    an_answer_to_a_service_goes_to_a_reply_handler: "answers and failures, to one instance each",
    an_answer_that_no_handler_takes_is_counted_and_gone: "and not set aside",
}

async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    if text == "fail" { Err(Fault::new("told-to", "it was told to fail")) } else { Ok(text) }
}

async fn an_answer_goes_to_the_instance_that_asked(world: World) -> Test {
    let _ctrl = world.node(&CTRL, "host1").await?.on(ECHO, echo).start().await?;
    // Two clients of one name: the ids of their calls may meet, their queues do not.
    let (a, b) = (world.client().await?, world.client().await?);
    let (from_a, from_b) = tokio::join!(
        a.call(CTRL, ECHO, &"a".into()).send(),
        b.call(CTRL, ECHO, &"b".into()).send(),
    );
    assert_eq!((from_a?, from_b?), ("a".into(), "b".into()));
    world.quiet().await;
    assert_eq!((a.stats().late_replies, b.stats().late_replies), (0, 0));
    Ok(())
}

async fn answers_in_another_order_find_their_calls(world: World) -> Test {
    async fn later(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        let wait = 20 - text.parse::<u64>()?;
        tokio::time::sleep(ms(10) * wait as u32).await;
        Ok(text)
    }
    let _ctrl = world.node(&CTRL, "host1").await?.on(ECHO, later).start().await?;
    let client = world.client().await?;
    let calls: Vec<_> = (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await?, n.to_string());
    }
    Ok(())
}

async fn an_answer_to_a_service_goes_to_a_reply_handler(world: World) -> Test {
    async fn answered(
        log: Arc<Log>,
        cx: Context,
        answer: Result<String, RemoteError>,
    ) -> Result<(), Fault> {
        let answer = answer.unwrap_or_else(|error| error.code);
        log.add(format!("{} {answer} from {}", cx.instance(), cx.message().sender()));
        Ok(())
    }
    let log = Log::default();
    let _ctrl = world.node(&CTRL, "host1").await?.on(ECHO, echo).start().await?;
    let mut webs = Vec::new();
    for host in ["host1", "host2"] {
        let web = world.node(&WEB, host).await?.state(log.clone()).on_reply(ECHO, answered);
        webs.push(web.start().await?);
    }
    for (n, text) in ["one", "fail"].into_iter().enumerate() {
        webs[0].client().call(CTRL, ECHO, &text.into()).reply_to(&WEB).await?;
        eventually(|| log.len() == n + 1).await;
    }
    // Round-robin: the two answers went to the two instances.
    let expected = ["WEB.host1 one from CTRL.host1", "WEB.host2 told-to from CTRL.host1"];
    assert_eq!(log.sorted(2, &world).await, expected);
    Ok(())
}

async fn an_answer_that_no_handler_takes_is_counted_and_gone(world: World) -> Test {
    let _ctrl = world.node(&CTRL, "host1").await?.on(ECHO, echo).start().await?;
    let web = world.node(&WEB, "host1").await?.start().await?;
    web.client().call(CTRL, ECHO, &"x".into()).reply_to(&WEB).await?;
    eventually(|| web.stats().unknown == 1).await;
    world.quiet().await;
    assert_eq!((web.stats().unknown, web.stats().set_aside), (1, 0));
    Ok(())
}
