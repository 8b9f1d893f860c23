//! Each outcome of a call, and that there is exactly one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gear_api::{
    CallError, Client, Codec, CodecError, Context, Fault, Node, NotSent, Operation, Raw, Retry,
    Text, code,
};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "node-calls";
    a_reply: "the caller gets what the handler returned",
    a_remote_error_says_what_the_service_chose: "code, message, details and retryable arrive",
    the_text_of_a_foreign_error_stays_with_the_service: "`?` shows the caller nothing of it",
    an_unknown_operation_is_answered_at_once: "the caller does not wait for its deadline",
    an_undecodable_body_is_answered_at_once: "the caller learns that it is not understood",
    a_panic_is_answered_and_takes_nothing_else_down: "neither other requests nor the node",
    a_request_that_is_dropped_is_answered: "the caller does not wait for its deadline",
    a_reply_that_is_too_large_is_an_error: "and not silence",
    a_reply_that_cannot_be_read: "is an outcome of its own",
    nobody_is_there(mandatory): "a call to nobody ends at once, and may be tried again",
    a_deadline_that_passes: "ends the call, in time",
    a_request_whose_deadline_passed_is_not_handled(expiry): "work for nobody is not done",
    a_late_answer_is_counted_and_disturbs_nobody: "it is not taken for another's",
    bad_input_is_refused_before_anything_is_sent: "headers, values without a form, large bodies",
    a_body_larger_than_the_broker_takes_is_not_sent(limit): "it is refused, and nothing breaks",
    closing_ends_open_calls_and_refuses_new_ones: "with an outcome each",
    a_call_that_is_given_up_leaves_nothing_behind: "its answer is counted as late",
    bodies_of_any_size_and_headers_of_any_script_arrive: "0 bytes to 4 MiB, both ways",
    who_asks_and_how_long_is_known_to_the_handler: "sender and time left travel",
}

/// The code of the failure that a call reports.
fn code_of<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Err(CallError::Remote(error)) => error.code,
        other => format!("{other:?}"),
    }
}

/// A service that behaves as it is told.
async fn obey(_: Arc<()>, _: Context, order: String) -> Result<String, Fault> {
    match order.as_str() {
        "fail" => Err(Fault::new("broken", "as ordered").details(serde_json::json!({"n": 1}))),
        "later" => Err(Fault::new("busy", "as ordered").retryable()),
        "?" => Ok("x".parse::<u32>().map(|n| n.to_string())?),
        "panic" => panic!("as ordered"),
        "hang" => std::future::pending().await,
        "long" => Ok("x".repeat(2000)),
        _ => Ok(order),
    }
}

async fn obedient(world: &World) -> Test<(Node, Client)> {
    let node =
        world.node(&CTRL, "host1").await?.max_body_bytes(1000).on(ECHO, obey).start().await?;
    Ok((node, world.client().await?))
}

async fn a_reply(world: World) -> Test {
    let (_node, client) = obedient(&world).await?;
    assert_eq!(client.call(CTRL, ECHO, &"hello".into()).await?, "hello");
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

async fn a_remote_error_says_what_the_service_chose(world: World) -> Test {
    let (_node, client) = obedient(&world).await?;
    let Err(CallError::Remote(error)) = client.call(CTRL, ECHO, &"fail".into()).await else {
        panic!("it was told to fail")
    };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("broken", "as ordered"));
    assert_eq!(error.details, Some(serde_json::json!({"n": 1})));
    assert!(!error.retryable);
    let later = client.call(CTRL, ECHO, &"later".into()).await.expect_err("it was told to fail");
    assert_eq!((later.retry(), later.code()), (Retry::Safe, Some("busy")));
    Ok(())
}

async fn the_text_of_a_foreign_error_stays_with_the_service(world: World) -> Test {
    let (node, client) = obedient(&world).await?;
    let error = client.call(CTRL, ECHO, &"?".into()).await.expect_err("it was told to fail");
    assert_eq!(error.code(), Some(code::FAILED));
    assert!(!format!("{error:?} {error}").contains("digit"), "{error:?}");
    assert_eq!(node.stats().failed, 1);
    Ok(())
}

async fn an_unknown_operation_is_answered_at_once(world: World) -> Test {
    let (node, client) = obedient(&world).await?;
    let start = Instant::now();
    assert_eq!(code_of(client.call(CTRL, WHO, &()).await), code::UNKNOWN_OPERATION);
    world.took(start, Duration::ZERO);
    assert_eq!(node.stats().unknown, 1);
    Ok(())
}

async fn an_undecodable_body_is_answered_at_once(world: World) -> Test {
    const NUMBERS: Operation<Vec<u32>, String> = Operation::new("echo");
    let (_node, client) = obedient(&world).await?;
    let start = Instant::now();
    assert_eq!(code_of(client.call(CTRL, NUMBERS, &vec![1]).await), code::UNDECODABLE);
    world.took(start, Duration::ZERO);
    Ok(())
}

async fn a_panic_is_answered_and_takes_nothing_else_down(world: World) -> Test {
    let (node, client) = obedient(&world).await?;
    let hanging = client.call(CTRL, ECHO, &"hang".into()).timeout(ms(1000)).send();
    assert_eq!(code_of(client.call(CTRL, ECHO, &"panic".into()).await), code::PANICKED);
    assert_eq!(client.call(CTRL, ECHO, &"still here".into()).await?, "still here");
    assert!(matches!(hanging.await, Err(CallError::DeadlinePassed)));
    assert_eq!(node.stats().panicked, 1);
    Ok(())
}

async fn a_request_that_is_dropped_is_answered(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let node = node.start().await?;
    let client = world.client().await?;
    let start = Instant::now();
    let hanging = client.call(CTRL, ECHO, &"x".into()).timeout(LONG).send();
    gate.begun(1).await;
    drop(node);
    assert_eq!(code_of(hanging.await), code::DROPPED);
    assert!(start.elapsed() < LONG, "it did not wait for its deadline");
    Ok(())
}

async fn a_reply_that_is_too_large_is_an_error(world: World) -> Test {
    let (_node, client) = obedient(&world).await?;
    assert_eq!(code_of(client.call(CTRL, ECHO, &"long".into()).await), code::TOO_LARGE);
    Ok(())
}

async fn a_reply_that_cannot_be_read(world: World) -> Test {
    const AS_NUMBER: Operation<String, u32> = Operation::new("echo");
    let (_node, client) = obedient(&world).await?;
    let error = client.call(CTRL, AS_NUMBER, &"text".into()).await.expect_err("no number");
    assert!(matches!(error, CallError::ReplyNotDecodable(_)));
    assert_eq!(error.retry(), Retry::Useless);
    Ok(())
}

async fn nobody_is_there(world: World) -> Test {
    let client = world.client().await?;
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &"x".into()).await.expect_err("nobody is there");
    assert!(matches!(error, CallError::NotRouted), "{error:?}");
    assert_eq!(error.retry(), Retry::Safe);
    world.took(start, Duration::ZERO);
    Ok(())
}

async fn a_deadline_that_passes(world: World) -> Test {
    let (_node, client) = obedient(&world).await?;
    let start = Instant::now();
    let call = client.call(CTRL, ECHO, &"hang".into()).timeout(SHORT);
    let error = call.await.expect_err("nobody answers");
    assert!(matches!(error, CallError::DeadlinePassed), "{error:?}");
    assert_eq!(error.retry(), Retry::IfIdempotent);
    world.took(start, SHORT);
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

async fn a_request_whose_deadline_passed_is_not_handled(world: World) -> Test {
    let node = world.node(&CTRL, "host1").await?.concurrency(1).on(ECHO, obey).start().await?;
    let client = world.client().await?;
    // The first holds the only place until the second is too late.
    let first = client.call(CTRL, ECHO, &"hang".into()).timeout(SHORT * 2).send();
    let second = client.call(CTRL, ECHO, &"late".into()).timeout(SHORT).send();
    assert!(matches!(second.await, Err(CallError::DeadlinePassed)));
    assert!(matches!(first.await, Err(CallError::DeadlinePassed)));
    drop(node);
    world.quiet().await;
    let again = world.node(&CTRL, "host2").await?.on(ECHO, obey).start().await?;
    world.quiet().await;
    assert_eq!(again.stats().operations[0].1, 0);
    Ok(())
}

async fn a_late_answer_is_counted_and_disturbs_nobody(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let _node = node.start().await?;
    let client = world.client().await?;
    let early = client.call(CTRL, ECHO, &"early".into()).timeout(ms(1500)).send();
    gate.begun(1).await;
    let early = early.await;
    assert!(matches!(early, Err(CallError::DeadlinePassed)), "{early:?}");
    gate.open();
    assert_eq!(client.call(CTRL, ECHO, &"next".into()).await?, "next");
    eventually(|| client.stats().late_replies == 1).await;
    Ok(())
}

/// Has no encoded form.
#[derive(Debug)]
enum Never {}

impl Codec<()> for Never {
    const CONTENT_TYPE: Text = Text::EMPTY;
    fn encode((): &()) -> Result<Bytes, CodecError> {
        Err(CodecError::new("there is no form for it"))
    }
    fn decode(_: &Bytes) -> Result<(), CodecError> {
        Ok(())
    }
}

async fn bad_input_is_refused_before_anything_is_sent(world: World) -> Test {
    const FORMLESS: Operation<(), (), Never> = Operation::new("echo");
    const LARGE: Operation<Bytes, Bytes, Raw> = Operation::new("echo");
    let (node, client) = obedient(&world).await?;

    let reserved = client.call(CTRL, ECHO, &"x".into()).header("gear-kind", "reply").await;
    assert!(matches!(reserved, Err(CallError::NotSent(NotSent::Header(_)))), "{reserved:?}");
    let formless = client.call(CTRL, FORMLESS, &()).await;
    assert!(matches!(formless, Err(CallError::NotSent(NotSent::Encode(_)))), "{formless:?}");
    let limit = 4 * 1024 * 1024;
    let large = client.call(CTRL, LARGE, &Bytes::from(vec![0; limit + 1])).await;
    let large = large.expect_err("it is too large");
    let told = matches!(large, CallError::NotSent(NotSent::TooLarge { bytes, limit: told })
        if (bytes, told) == (limit + 1, limit));
    assert!(told, "{large:?}");
    assert_eq!(large.retry(), Retry::Useless);
    // The largest that is allowed does arrive, and is the first that does.
    let largest = client.call(CTRL, LARGE, &Bytes::from(vec![0; limit])).await;
    assert_eq!(code_of(largest), code::UNDECODABLE);
    assert_eq!(node.stats().operations[0].1, 1);
    Ok(())
}

async fn a_body_larger_than_the_broker_takes_is_not_sent(world: World) -> Test {
    const LARGE: Operation<Bytes, Bytes, Raw> = Operation::new("echo");
    let _node = world.node(&CTRL, "host1").await?.on(ECHO, obey).start().await?;
    let link = world.connect().await?;
    let limit = link.capabilities().max_message_bytes;
    let client = Client::builder(link, "CLI.test".parse()?).max_body_bytes(usize::MAX);
    let client = client.start().await?;
    let result = client.call(CTRL, LARGE, &Bytes::from(vec![0; limit + 1])).await;
    let told = matches!(result, Err(CallError::NotSent(NotSent::TooLarge { bytes, limit: told }))
        if (bytes, told) == (limit + 1, limit));
    assert!(told, "{result:?}");
    assert_eq!(client.call(CTRL, ECHO, &"small".into()).await?, "small");
    Ok(())
}

async fn closing_ends_open_calls_and_refuses_new_ones(world: World) -> Test {
    let (_node, client) = obedient(&world).await?;
    let open = client.call(CTRL, ECHO, &"hang".into()).send();
    client.close().await;
    assert!(matches!(open.await, Err(CallError::Closed)));
    let late = client.call(CTRL, ECHO, &"x".into()).await;
    assert!(matches!(late, Err(CallError::NotSent(NotSent::Closed))), "{late:?}");
    client.close().await;
    Ok(())
}

async fn a_call_that_is_given_up_leaves_nothing_behind(world: World) -> Test {
    let gate = Gate::new();
    let node = world.node(&CTRL, "host1").await?.state(gate.clone()).on(ECHO, gated);
    let _node = node.start().await?;
    let client = world.client().await?;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    gate.begun(1).await;
    drop(call);
    assert_eq!(client.stats().open_calls, 0);
    gate.open();
    eventually(|| client.stats().late_replies == 1).await;
    Ok(())
}

async fn bodies_of_any_size_and_headers_of_any_script_arrive(world: World) -> Test {
    const BYTES: Operation<Bytes, Bytes, Raw> = Operation::new("bytes");
    async fn both(_: Arc<()>, cx: Context, body: Bytes) -> Result<Bytes, Fault> {
        assert_eq!(cx.headers().get("имя").and_then(|v| v.as_str()), Some("значение ✓"));
        Ok(body)
    }
    let _node = world.node(&CTRL, "host1").await?.on(BYTES, both).start().await?;
    let client = world.client().await?;
    for size in [0, 1, 255, 256, 65_535, 65_536, 4 * 1024 * 1024] {
        let body = Bytes::from(vec![7; size]);
        let answer = client.call(CTRL, BYTES, &body).header("имя", "значение ✓").await?;
        assert!(answer == body, "a body of {size} bytes came back as one of {}", answer.len());
    }
    Ok(())
}

async fn who_asks_and_how_long_is_known_to_the_handler(world: World) -> Test {
    const TIME: Operation<(), (String, u64)> = Operation::new("time");
    async fn asked(_: Arc<()>, cx: Context, (): ()) -> Result<(String, u64), Fault> {
        let sender = cx.sender().map(|instance| instance.to_string()).unwrap_or_default();
        let left = cx.remaining().ok_or(Fault::new("none", "it has no deadline"))?;
        Ok((sender, left.as_millis() as u64))
    }
    let _node = world.node(&CTRL, "host1").await?.on(TIME, asked).start().await?;
    let call = world.client().await?.call(CTRL, TIME, &()).timeout(LONG);
    let (sender, left) = call.await?;
    assert_eq!(sender, "CLI.test");
    let all = LONG.as_millis() as u64;
    let least = if world.is_virtual() { all } else { 1 };
    assert!((least..=all).contains(&left), "{left} ms of {all} are left");
    Ok(())
}
