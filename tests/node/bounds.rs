//! How many requests a node handles at a time, whatever becomes of its consumers; and what no
//! message has room for.

use std::sync::Arc;

use gear::{
    CallError, Codec, CodecError, Context, Fault, Node, NotSent, Operation, Retry, Subscription,
    Text, Transport,
};

use crate::{CTRL, Log, NOTE, SECOND, Test, broker, client, node};

/// A codec that says too much of what it does.
#[derive(Debug)]
enum Wordy {}

impl Codec<String> for Wordy {
    const CONTENT_TYPE: Text = Text::from_static(
        "application/x-of-more-than-255-bytes-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    );

    fn encode(value: &String) -> Result<bytes::Bytes, CodecError> {
        Ok(bytes::Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(body: &bytes::Bytes) -> Result<String, CodecError> {
        Ok(String::from_utf8_lossy(body).into_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_message_has_room_for_is_not_worth_another_try() -> Test {
    const WORDY: Operation<String, String, Wordy> = Operation::new("wordy");
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(WORDY, echo).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, WORDY, &"x".to_owned()).await.unwrap_err();
    assert!(matches!(call, CallError::NotSent(NotSent::Invalid(_))), "{call:?}");
    let cast = client.cast(CTRL, WORDY, &"x".to_owned()).await.unwrap_err();
    assert_eq!((call.retry(), cast.retry()), (Retry::Useless, Retry::Useless));
    Ok(())
}

async fn a_minute(log: Arc<Log>, _: Context, text: String) -> Result<(), Fault> {
    log.add(format!("{text} begins"));
    tokio::time::sleep(SECOND * 60).await;
    log.add(format!("{text} ends"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_still_handled_counts_for_the_consumer_that_is_subscribed_instead() -> Test {
    let (broker, log) = (broker(), Log::default());
    let (link, instance) = (broker.connect(), CTRL.at("host1")?);
    let ctrl = Node::builder(link.clone(), instance.clone()).concurrency(1).state(log.clone());
    let _ctrl = ctrl.on(NOTE, a_minute).start().await?;
    client(&broker).await.cast(&instance, NOTE, &"one".into()).await?;
    tokio::time::sleep(SECOND).await;
    link.cut_for(SECOND * 5);
    // Another one takes its name, so that its consumer ends when the link is back.
    let other = broker.connect();
    let holder = other.subscribe(Subscription::Instance { instance, prefetch: 1 }).await?;
    tokio::time::sleep(SECOND * 10).await;
    drop(holder);
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(log.take(), ["one begins"]);
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(log.take(), ["one ends", "one begins"]);
    Ok(())
}
