//! Time that is exact, and long waits that take none.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, CastError, Client, Context, Fault, Node, NotSent, Operation, Pattern, Retry,
    memory::{BrokerFault, Policy},
};
use tokio::time::Instant;

use crate::{
    CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, WHO, broker, client, node, note, slow_echo, who,
};

#[tokio::test(start_paused = true)]
async fn a_test_of_many_years_goes_on() -> Test {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    tokio::time::advance(YEAR * 31).await;
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_first_of_call_operation_and_client() -> Test {
    async fn hang(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        std::future::pending().await
    }
    const SLOW: Operation<String, String> = Operation::new("echo").timeout(Duration::from_secs(5));
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, hang).start().await?;
    let client = Client::builder(broker.connect(), "CLI.test".parse()?)
        .call_timeout(Duration::from_secs(7))
        .start()
        .await?;
    let text = String::from("x");
    let start = Instant::now();
    let error = client.call(CTRL, ECHO, &text).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlinePassed));
    assert_eq!(error.retry(), Retry::IfIdempotent);
    assert_eq!(start.elapsed(), SECOND * 7);
    let start = Instant::now();
    assert!(client.call(CTRL, SLOW, &text).await.is_err());
    assert_eq!(start.elapsed(), SECOND * 5);
    let start = Instant::now();
    assert!(client.call(CTRL, SLOW, &text).timeout(SECOND * 9).await.is_err());
    assert_eq!(start.elapsed(), SECOND * 9);
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_delay_without_end_overflows_nowhere() -> Test {
    let broker = broker();
    let link = broker.connect();
    let node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::Delay(Duration::MAX));
    client.cast(CTRL, WHO, &()).await?;
    broker.set_policy(Pattern::ALL, Policy::new().message_ttl(Duration::MAX));
    client.call(CTRL, WHO, &()).await?;
    assert!(node.shutdown(Duration::MAX).await.is_clean());
    link.cut_for(Duration::MAX);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_set_aside_is_not_lost_and_not_spun() -> Test {
    const FAIL: Operation<(), ()> = Operation::new("fail");
    async fn fail(_: Arc<()>, _: Context, (): ()) -> Result<(), Fault> {
        Err(Fault::new("no", "it fails"))
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").retries(0).on(FAIL, fail).start().await?;
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

#[tokio::test(start_paused = true)]
async fn what_has_expired_before_it_is_sent_is_not_sent() -> Test {
    let broker = broker();
    let log = Log::default();
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let client = client(&broker).await;
    let cast = client.cast(CTRL, NOTE, &"late".into()).expires(SECOND);
    let call = client.call(CTRL, NOTE, &"late".into()).timeout(SECOND);
    tokio::time::sleep(SECOND).await;
    assert!(matches!(cast.await, Err(CastError::NotSent(NotSent::TooLate))));
    assert!(matches!(call.await, Err(CallError::NotSent(NotSent::TooLate))));
    broker.idle().await;
    assert_eq!(log.take(), [""; 0]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_request_cannot_outlive_its_parent_wherever_its_answer_goes() -> Test {
    const ASK: Operation<(), ()> = Operation::new("ask");
    async fn ask(_: Arc<Log>, cx: Context, (): ()) -> Result<(), Fault> {
        let call = cx.client().call(REPO, ASK, &()).reply_to(&CTRL);
        Ok(call.expires(SECOND * 3600).await?)
    }
    async fn left(log: Arc<Log>, cx: Context, (): ()) -> Result<(), Fault> {
        log.add(format!("{:?}", cx.remaining()));
        Ok(())
    }
    let broker = broker();
    let log = Log::default();
    let ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(ASK, ask);
    let _ctrl = ctrl.start().await?;
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on(ASK, left);
    let _repo = repo.start().await?;
    client(&broker).await.call(CTRL, ASK, &()).timeout(SECOND * 2).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["Some(2s)"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_tries_again_and_again_lets_others_run() -> Test {
    let broker = broker();
    let client = client(&broker).await;
    client.close().await;
    let calling = tokio::spawn({
        let client = client.clone();
        async move { while client.call(CTRL, WHO, &()).await.is_err() {} }
    });
    let casting =
        tokio::spawn(
            async move { while client.cast(CTRL, NOTE, &String::new()).await.is_err() {} },
        );
    // On the one thread that there is.
    tokio::task::yield_now().await;
    calling.abort();
    casting.abort();
    Ok(())
}
