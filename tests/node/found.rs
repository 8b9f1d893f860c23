//! What a review of the sources found, one test for each: waits without end, circles, and
//! outcomes that were told wrongly.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, CastError, Client, Context, Fault, Node, Operation, Pattern, Retry, code,
    memory::{BrokerFault, MemoryBroker},
};
use tokio::time::Instant;

use crate::{CTRL, ECHO, Log, NOTE, Test, WHO, broker, client, node, note, who};

const SECOND: Duration = Duration::from_secs(1);

async fn slow_echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SECOND).await;
    Ok(text)
}

async fn hang(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_connection_closes_after_its_queue_was_deleted_comes_to_rest() -> Test {
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(WHO, hang).start().await?;
    let _call = client(&broker).await.call(CTRL, WHO, &()).send();
    tokio::time::sleep(SECOND).await;
    broker.delete_queue("CTRL");
    node.client().close().await;
    // And its shutdown is bounded, whatever its handlers do.
    let start = Instant::now();
    let report = node.shutdown(SECOND).await;
    assert_eq!((start.elapsed(), report.unfinished.len()), (SECOND, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_connection_that_is_down() -> Test {
    let broker = broker();
    let link = broker.connect();
    let node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    broker.delete_queue("CTRL");
    link.cut_for(SECOND * 7200);
    tokio::time::sleep(SECOND).await;
    let start = Instant::now();
    assert!(node.shutdown(SECOND).await.is_clean());
    assert!(start.elapsed() <= SECOND);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_left_after_waiting_is_not_said_to_have_stayed() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let link = broker.connect();
    let client = Client::builder(link.clone(), "CLI.test".parse()?).start().await?;
    link.cut_for(SECOND);
    broker.inject(BrokerFault::LoseConfirm);
    let cast = client.cast(CTRL, NOTE, &"x".into()).timeout(SECOND * 5).await;
    let error = cast.unwrap_err();
    assert!(matches!(error, CastError::Unknown(_)), "{error:?}");
    assert_eq!(error.retry(), Retry::IfIdempotent);
    assert_eq!(log.take().len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_ended_does_not_come_back_as_a_ghost() -> Test {
    let broker = broker();
    let link = broker.connect();
    let _node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    broker.delete_queue("CTRL.host1");
    link.cut();
    broker.idle().await;
    assert_eq!(client(&broker).await.call(CTRL.at("host1")?, WHO, &()).await?, "CTRL.host1");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_a_duration_too() -> Test {
    let broker = broker();
    let link = broker.connect();
    let node = Node::builder(link.clone(), CTRL.at("host1")?)
        .call_timeout(Duration::MAX)
        .send_timeout(Duration::MAX)
        .on(WHO, who)
        .start()
        .await?;
    let client = client(&broker).await;
    client.call(CTRL, WHO, &()).timeout(Duration::MAX).await?;
    client.cast(CTRL, WHO, &()).timeout(Duration::MAX).expires(Duration::MAX).await?;
    let mut answers = client.gather(CTRL, WHO, &()).timeout(Duration::MAX).await?;
    assert!(answers.next().await.is_some());
    drop(answers);
    broker.inject(BrokerFault::Delay(Duration::MAX));
    client.cast(CTRL, WHO, &()).await?;
    broker.set_policy(Pattern::ALL, gear::memory::Policy::new().message_ttl(Duration::MAX));
    client.call(CTRL, WHO, &()).await?;
    assert!(node.shutdown(Duration::MAX).await.is_clean());
    link.cut_for(Duration::MAX);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_group_that_one_of_them_refuses_goes_on() -> Test {
    let broker = broker();
    let _a = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    broker.inject(BrokerFault::Refuse);
    // Nobody has it here, which a publisher to several queues can not know.
    let call = client(&broker).await.call(CTRL.all(), WHO, &()).timeout(SECOND).await;
    assert!(matches!(call, Err(CallError::DeadlinePassed)), "{call:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gather_whose_confirm_is_lost_has_its_answers_at_once() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::LoseConfirm);
    let start = Instant::now();
    let gather = client.gather(CTRL.all(), WHO, &()).expect([CTRL.at("host1")?]);
    let mut answers = gather.await?;
    assert!(answers.next().await.is_some_and(|answer| answer.result.is_ok()));
    assert!(answers.next().await.is_none());
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(answers);
    // One that nobody ever polls leaves nothing behind either.
    drop(client.gather(CTRL.all(), WHO, &()).into_future());
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_waits_for_a_blocked_broker() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.raise_alarm("disk");
    let cast = client.cast(CTRL, WHO, &()).send();
    client.close().await;
    assert!(matches!(cast.await, Err(CastError::Closed)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_has_begun_goes_back_when_its_node_is_dropped() -> Test {
    let broker = broker();
    let first = node(&broker, &CTRL, "host1").concurrency(1).on(WHO, hang).start().await?;
    let client = client(&broker).await;
    let begun = client.call(CTRL, WHO, &()).send();
    let waiting = client.call(CTRL, WHO, &()).send();
    tokio::time::sleep(SECOND).await;
    drop(first);
    let _second = node(&broker, &CTRL, "host2").on(WHO, who).start().await?;
    assert_eq!(waiting.await?, "CTRL.host2");
    let error = begun.await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(code::DROPPED), Retry::IfIdempotent));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_set_aside_is_not_lost_and_not_spun() -> Test {
    const FAIL: Operation<(), ()> = Operation::new("fail");
    async fn fail(_: Arc<()>, _: Context, (): ()) -> Result<(), Fault> {
        Err(Fault::new("no", "it fails"))
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(FAIL, fail).start().await?;
    broker.delete_queue("CTRL:dead");
    client(&broker).await.cast(CTRL, FAIL, &()).await?;
    tokio::time::sleep(SECOND * 60).await;
    assert!((55..=61).contains(&node.stats().failed), "{:?}", node.stats());
    drop(node);
    tokio::time::sleep(SECOND).await;
    assert_eq!(broker.queue("CTRL").map(|queue| queue.ready), Some(1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_consumes_too_cannot_starve_itself_at_the_watermark() -> Test {
    use gear::{Address, Kind, Message, Route, Subscription, Transport};
    let broker = MemoryBroker::builder().watermark(3000).build();
    let link = broker.connect();
    let subscription = Subscription::Service { service: CTRL, prefetch: 1000 };
    let mut queue = link.subscribe(subscription).await?;
    let to = Address::from(CTRL);
    for _ in 0..100 {
        let message = Message::builder(Kind::Cast, "x").body(vec![0; 1000]).build();
        link.send(Route::Address(&to), message).await?;
        queue.next().await.ok_or("ended")?.ack();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_leaves_before_its_request_is_gone() -> Test {
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::time::sleep(SECOND / 2).await;
    broker.raise_alarm("memory");
    tokio::time::sleep(SECOND).await;
    // Handled, and not yet answered: it must not be forgotten.
    assert_eq!(broker.queue("CTRL").map(|queue| queue.unsettled), Some(1));
    broker.clear_alarm();
    assert_eq!(call.await?, "x");
    drop(node);
    Ok(())
}
