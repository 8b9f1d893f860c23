//! Each outcome of a call, and that there is exactly one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gear::{
    CallError, Client, Codec, CodecError, Context, Fault, NotSent, Operation, Raw, Retry, Text,
    code,
    memory::{BrokerFault, MemoryBroker},
};
use tokio::time::Instant;

use crate::{CTRL, ECHO, Test, WHO, broker, client, node};

const SECOND: Duration = Duration::from_secs(1);

/// The code of the failure that a call reports.
fn code_of<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Err(CallError::Remote(error)) => error.code,
        other => format!("{other:?}"),
    }
}

/// A service that behaves as it is told.
async fn obey(_: Arc<()>, cx: Context, order: String) -> Result<String, Fault> {
    match order.as_str() {
        "fail" => Err(Fault::new("broken", "as ordered").details(serde_json::json!({"n": 1}))),
        "later" => Err(Fault::new("busy", "as ordered").retryable()),
        "?" => Ok("x".parse::<u32>().map(|n| n.to_string())?),
        "panic" => panic!("as ordered"),
        "hang" => std::future::pending().await,
        "long" => Ok("x".repeat(2000)),
        "remaining" => Ok(format!("{:?}", cx.remaining())),
        _ => Ok(order),
    }
}

async fn obedient(broker: &MemoryBroker) -> Result<(gear::Node, Client), gear::StartError> {
    let node = node(broker, &CTRL, "host1").max_body_bytes(1000).on(ECHO, obey).start().await?;
    Ok((node, client(broker).await))
}

#[tokio::test(start_paused = true)]
async fn a_reply() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    assert_eq!(client.call(CTRL, ECHO, &"hello".into()).await?, "hello");
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_remote_error_says_what_the_service_chose() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    let Err(CallError::Remote(error)) = client.call(CTRL, ECHO, &"fail".into()).await else {
        panic!("it was told to fail")
    };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("broken", "as ordered"));
    assert_eq!(error.details, Some(serde_json::json!({"n": 1})));
    assert!(!error.retryable);
    let later = client.call(CTRL, ECHO, &"later".into()).await.unwrap_err();
    assert_eq!((later.retry(), later.code()), (Retry::Safe, Some("busy")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_foreign_error_stays_with_the_service() -> Test {
    let broker = broker();
    let (node, client) = obedient(&broker).await?;
    let error = client.call(CTRL, ECHO, &"?".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(code::FAILED));
    assert!(!format!("{error:?} {error}").contains("digit"), "{error:?}");
    assert_eq!(node.stats().failed, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_unknown_operation_is_answered_at_once() -> Test {
    let broker = broker();
    let (node, client) = obedient(&broker).await?;
    let start = Instant::now();
    assert_eq!(code_of(client.call(CTRL, WHO, &()).await), code::UNKNOWN_OPERATION);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(node.stats().unknown, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_body_is_answered_at_once() -> Test {
    const NUMBERS: Operation<Vec<u32>, String> = Operation::new("echo");
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    assert_eq!(code_of(client.call(CTRL, NUMBERS, &vec![1]).await), code::UNDECODABLE);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_answered_and_takes_nothing_else_down() -> Test {
    let broker = broker();
    let (node, client) = obedient(&broker).await?;
    let hanging = client.call(CTRL, ECHO, &"hang".into()).timeout(SECOND).send();
    assert_eq!(code_of(client.call(CTRL, ECHO, &"panic".into()).await), code::PANICKED);
    assert_eq!(client.call(CTRL, ECHO, &"still here".into()).await?, "still here");
    assert!(matches!(hanging.await, Err(CallError::DeadlinePassed)));
    assert_eq!(node.stats().panicked, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_is_answered() -> Test {
    let broker = broker();
    let (node, client) = obedient(&broker).await?;
    let start = Instant::now();
    let hanging = client.call(CTRL, ECHO, &"hang".into()).send();
    tokio::time::sleep(SECOND).await;
    drop(node);
    assert_eq!(code_of(hanging.await), code::DROPPED);
    assert_eq!(start.elapsed(), SECOND, "it did not wait for its deadline");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_too_large_is_an_error_and_not_silence() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    assert_eq!(code_of(client.call(CTRL, ECHO, &"long".into()).await), code::TOO_LARGE);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_cannot_be_read() -> Test {
    const AS_NUMBER: Operation<String, u32> = Operation::new("echo");
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    let error = client.call(CTRL, AS_NUMBER, &"text".into()).await.unwrap_err();
    assert!(matches!(error, CallError::ReplyNotDecodable(_)));
    assert_eq!(error.retry(), Retry::Useless);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_first_of_call_operation_and_client() -> Test {
    const SLOW: Operation<String, String> = Operation::new("echo").timeout(Duration::from_secs(5));
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, obey).start().await?;
    let client = Client::builder(broker.connect(), "CLI.test".parse()?)
        .call_timeout(Duration::from_secs(7))
        .start()
        .await?;
    let hang = String::from("hang");
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &hang).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlinePassed));
    assert_eq!(error.retry(), Retry::IfIdempotent);
    assert_eq!(start.elapsed(), SECOND * 7);
    let start = Instant::now();
    assert!(client.call(CTRL, SLOW, &hang).await.is_err());
    assert_eq!(start.elapsed(), SECOND * 5);
    let start = Instant::now();
    assert!(client.call(CTRL, SLOW, &hang).timeout(SECOND * 9).await.is_err());
    assert_eq!(start.elapsed(), SECOND * 9);
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_deadline_passed_is_not_handled() -> Test {
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").concurrency(1).on(ECHO, obey).start().await?;
    let client = client(&broker).await;
    // The first holds the only place until the second is too late.
    let first = client.call(CTRL, ECHO, &"hang".into()).timeout(SECOND * 2).send();
    let second = client.call(CTRL, ECHO, &"late".into()).timeout(SECOND).send();
    assert!(matches!(second.await, Err(CallError::DeadlinePassed)));
    assert!(matches!(first.await, Err(CallError::DeadlinePassed)));
    drop(node);
    broker.idle().await;
    let again = crate::node(&broker, &CTRL, "host1").on(ECHO, obey).start().await?;
    broker.idle().await;
    assert_eq!(again.stats().operations[0].1, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_counted_and_disturbs_nobody() -> Test {
    async fn slow(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
        tokio::time::sleep(SECOND * 2).await;
        Ok("late".into())
    }
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, slow).start().await?;
    let client = client(&broker).await;
    let early = client.call(CTRL, WHO, &()).timeout(SECOND).await;
    assert!(matches!(early, Err(CallError::DeadlinePassed)));
    assert_eq!(client.call(CTRL, WHO, &()).await?, "late");
    assert_eq!(client.stats().late_replies, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_refused_before_anything_is_sent() -> Test {
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
    const FORMLESS: Operation<(), (), Never> = Operation::new("echo");
    const LARGE: Operation<Bytes, Bytes, Raw> = Operation::new("echo");

    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    let published =
        || broker.recorded().iter().filter(|e| e.to_string().contains("publish")).count();
    let before = published();

    let reserved = client.call(CTRL, ECHO, &"x".into()).header("gear-kind", "reply").await;
    assert!(matches!(reserved, Err(CallError::NotSent(NotSent::Header(_)))), "{reserved:?}");
    let formless = client.call(CTRL, FORMLESS, &()).await;
    assert!(matches!(formless, Err(CallError::NotSent(NotSent::Encode(_)))), "{formless:?}");
    let limit = 4 * 1024 * 1024;
    let large = client.call(CTRL, LARGE, &Bytes::from(vec![0; limit + 1])).await.unwrap_err();
    assert!(
        matches!(large, CallError::NotSent(NotSent::TooLarge { bytes, limit: l }) if bytes == limit + 1 && l == limit)
    );
    assert_eq!(large.retry(), Retry::Useless);
    assert_eq!(published(), before);
    // The largest that is allowed does arrive, and so does the smallest.
    assert_eq!(
        code_of(client.call(CTRL, LARGE, &Bytes::from(vec![0; limit])).await),
        code::UNDECODABLE
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_body_larger_than_the_broker_takes_is_not_sent() -> Test {
    let broker = MemoryBroker::builder().max_message_bytes(100).build();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, obey).start().await?;
    let result = client(&broker).await.call(CTRL, ECHO, &"x".repeat(200)).await;
    assert!(
        matches!(result, Err(CallError::NotSent(NotSent::TooLarge { bytes: 202, limit: 100 }))),
        "{result:?}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_was_not_sent() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    broker.inject(BrokerFault::Refuse);
    let error = client.call(CTRL, ECHO, &"x".into()).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Refused(_))));
    assert_eq!(error.retry(), Retry::Safe);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_broker_until_its_deadline_was_not_sent() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    broker.raise_alarm("memory");
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &"x".into()).timeout(SECOND).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Unavailable(_))), "{error:?}");
    assert_eq!((error.retry(), start.elapsed()), (Retry::Safe, SECOND));
    broker.clear_alarm();
    broker.idle().await;
    assert_eq!(client.call(CTRL, ECHO, &"y".into()).await?, "y");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_does_not_end_a_call_that_is_answered() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    broker.inject(BrokerFault::LoseConfirm);
    assert_eq!(client.call(CTRL, ECHO, &"x".into()).await?, "x");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn closing_ends_open_calls_and_refuses_new_ones() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    let open = client.call(CTRL, ECHO, &"hang".into()).send();
    client.close().await;
    assert!(matches!(open.await, Err(CallError::Closed)));
    assert!(matches!(client.call(CTRL, ECHO, &"x".into()).await, Err(CallError::Closed)));
    client.close().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_request_has_one_outcome() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    broker.inject(BrokerFault::Duplicate);
    assert_eq!(client.call(CTRL, ECHO, &"x".into()).await?, "x");
    broker.idle().await;
    assert_eq!((client.stats().late_replies, client.stats().open_calls), (1, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_leaves_nothing_behind() -> Test {
    let broker = broker();
    let (_node, client) = obedient(&broker).await?;
    drop(client.call(CTRL, ECHO, &"x".into()).send());
    assert_eq!(client.stats().open_calls, 0);
    broker.raise_alarm("memory");
    drop(client.call(CTRL, ECHO, &"never sent".into()).send());
    broker.clear_alarm();
    broker.idle().await;
    assert_eq!(client.stats().late_replies, 1, "only of the first");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn bodies_of_any_size_and_headers_of_any_script_arrive() -> Test {
    const BYTES: Operation<Bytes, Bytes, Raw> = Operation::new("bytes");
    async fn both(_: Arc<()>, cx: Context, body: Bytes) -> Result<Bytes, Fault> {
        assert_eq!(cx.headers().get("имя").and_then(|v| v.as_str()), Some("значение ✓"));
        Ok(body)
    }
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(BYTES, both).start().await?;
    let client = client(&broker).await;
    for size in [0, 1, 255, 256, 65_535, 65_536, 4 * 1024 * 1024] {
        let body = Bytes::from(vec![7; size]);
        let answer = client.call(CTRL, BYTES, &body).header("имя", "значение ✓").await?;
        assert_eq!(answer, body);
        // In memory nobody copies a body.
        assert!(size == 0 || answer.as_ptr() == body.as_ptr());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_known_to_the_handler() -> Test {
    async fn asked(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(format!("{:?} {:?}", cx.sender().map(|i| i.to_string()), cx.remaining()))
    }
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, asked).start().await?;
    let answer = client(&broker).await.call(CTRL, WHO, &()).timeout(SECOND * 3).await?;
    assert_eq!(answer, r#"Some("CLI.test") Some(3s)"#);
    Ok(())
}
