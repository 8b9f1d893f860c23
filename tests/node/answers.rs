//! What becomes of answers on their way back: to calls, and to gathers.

use std::{
    pin::pin,
    sync::{Arc, mpsc},
    task::{self, Wake},
    time::Duration,
};

use gear::{
    CallError, Client, Context, Fault, Kind, Message, NotSent, Operation, Pattern, PublishError,
    RemoteError, ReplyTo, Retry, Route, Subscription, Transport, code,
    memory::{BrokerFault, Injection, MemoryBroker},
};
use tokio::time::Instant;

use crate::{CTRL, ECHO, Log, REPO, SECOND, Test, WHO, broker, client, node, slow_echo, who};

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
async fn a_gather_is_sent_at_once_and_awaited_later() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let slow = client.gather(CTRL.all(), ECHO, &"x".into()).expect([CTRL.at("host1")?]).send();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    tokio::time::sleep(SECOND).await;
    let mut answers = slow.await?;
    assert!(answers.next().await.is_some_and(|answer| answer.result.is_ok()));
    assert_eq!(start.elapsed(), SECOND);
    let nobody = client.gather(REPO.all(), WHO, &()).send();
    assert!(matches!(nobody.await, Err(CallError::NotRouted)));
    let bad = client.gather(CTRL.all(), WHO, &()).header("x-bad", 1).send();
    assert!(matches!(bad.await, Err(CallError::NotSent(NotSent::Header(_)))));
    drop(answers);
    assert_eq!(client.stats().open_calls, 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gather_whose_client_is_closed_says_so() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    // It has left, and its confirm is still to come, as is the answer.
    broker.inject(BrokerFault::LoseConfirm);
    let (sent, ()) =
        tokio::join!(client.gather(CTRL.all(), ECHO, &"x".into()).into_future(), async {
            tokio::time::sleep(SECOND / 2).await;
            client.close().await;
        });
    // Closing says of the request that nobody knows, which is no reason to give up its answers.
    let closed = sent?.next().await.ok_or("it ends without a word")?;
    assert!(matches!(closed.result, Err(CallError::Closed)) && closed.from.is_none());

    // It is confirmed, and there is more to come.
    let client = crate::client(&broker).await;
    let mut answers = client.gather(CTRL.all(), ECHO, &"x".into()).await?;
    client.close().await;
    let answer = answers.next().await.ok_or("it ends without a word")?;
    assert!(matches!(answer.result, Err(CallError::Closed)) && answer.from.is_none());
    assert!(answers.next().await.is_none());
    assert!(answers.next().await.is_none());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gather_that_was_not_sent_by_its_deadline_says_so() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.raise_alarm("no memory");
    let error = client.gather(CTRL.all(), WHO, &()).timeout(SECOND).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Unavailable(_))), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_broker_does_not_take_is_a_failure_at_once() -> Test {
    const FAIL: Operation<(), String> = Operation::new("fail");
    async fn fail(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
        Err(Fault::new("odd", "x".repeat(2_000)).retryable())
    }
    async fn much(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
        Ok("x".repeat(2_000))
    }
    let broker = MemoryBroker::builder().max_message_bytes(1_000).build();
    let _node = node(&broker, &CTRL, "host1").on(FAIL, fail).on(WHO, much).start().await?;
    let client = client(&broker).await;
    let start = Instant::now();
    let error = client.call(CTRL, WHO, &()).await.unwrap_err();
    assert_eq!(error.code(), Some(code::TOO_LARGE));
    let error = client.call(CTRL, FAIL, &()).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some("odd"), Retry::Safe));
    assert_eq!(start.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_answer_can_not_leave_before_the_end_goes_back() -> Test {
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::time::sleep(SECOND / 2).await;
    broker.raise_alarm("no memory");
    node.shutdown(Duration::ZERO).await;
    assert_eq!(broker.queue("CTRL").map(|queue| queue.ready), Some(1));
    broker.clear_alarm();
    let _other = crate::node(&broker, &CTRL, "host2").on(ECHO, slow_echo).start().await?;
    assert_eq!(call.await?, "x");
    Ok(())
}

async fn answered(
    log: Arc<Log>,
    _: Context,
    answer: Result<String, RemoteError>,
) -> Result<(), Fault> {
    log.add(answer.unwrap_or_else(|error| error.code));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_answer_leaves_as_it_is_cut_off_is_not_answered_again() -> Test {
    let broker = broker();
    let log = Log::default();
    let ctrl = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on_reply(ECHO, answered);
    let repo = repo.start().await?;
    repo.client().call(CTRL, ECHO, &"x".into()).timeout(SECOND * 60).reply_to(&REPO).await?;
    tokio::time::sleep(SECOND / 2).await;
    broker.raise_alarm("no memory");
    tokio::time::sleep(SECOND).await;
    // The answer waits. It leaves in the moment in which the node has no more patience, and its
    // handler is cut off before it has seen that.
    let (report, ()) = tokio::join!(ctrl.shutdown(SECOND), async {
        tokio::time::sleep(SECOND).await;
        broker.clear_alarm();
    });
    broker.idle().await;
    assert_eq!(log.take(), ["x"]);
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_of_many_that_has_done_nothing_does_not_speak_for_the_others() -> Test {
    async fn busy(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new(code::OVERLOADED, "not now").retryable())
    }
    async fn pay(log: Arc<Log>, _: Context, text: String) -> Result<String, Fault> {
        log.add(text.clone());
        Ok(text)
    }
    let (broker, log) = (broker(), Log::default());
    let _busy = node(&broker, &CTRL, "host1").on(ECHO, busy).start().await?;
    let paying = node(&broker, &CTRL, "host2").state(log.clone()).on(ECHO, pay);
    let _paying = paying.start().await?;
    let client = client(&broker).await;
    let one = client.call(CTRL.at("host1")?, ECHO, &"x".into()).await.unwrap_err();
    assert_eq!(one.retry(), Retry::Safe);
    let one_of_many = client.call(CTRL.all(), ECHO, &"x".into()).await.unwrap_err();
    assert_eq!(one_of_many.retry(), Retry::IfIdempotent);
    broker.idle().await;
    assert_eq!(log.take(), ["x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_answer_has_left_is_not_answered_again() -> Test {
    let broker = broker();
    let log = Log::default();
    let ctrl = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let repo = node(&broker, &REPO, "host1").state(log.clone()).on_reply(ECHO, answered);
    let repo = repo.start().await?;
    let call = repo.client().call(CTRL, ECHO, &"x".into()).timeout(SECOND * 60);
    call.reply_to(&REPO).await?;
    tokio::time::sleep(SECOND / 2).await;
    broker.raise_alarm("no memory");
    tokio::time::sleep(SECOND).await;
    // The answer waits. Now it leaves, and nobody learns that it has arrived.
    broker.inject(Injection::new(BrokerFault::LoseConfirm).on(Pattern::new("REPO")));
    broker.clear_alarm();
    assert!(ctrl.shutdown(SECOND / 100).await.is_clean());
    broker.idle().await;
    assert_eq!(log.take(), ["x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_settles_its_request_only_if_it_leaves_at_once() -> Test {
    let broker = broker();
    let link: Arc<dyn Transport> = broker.connect().into();
    let mut queue = link.subscribe(Subscription::Service { service: CTRL, prefetch: 10 }).await?;
    let unsettled = || broker.queue("CTRL").map(|queue| queue.unsettled);
    let answer = || Message::builder(Kind::Reply, "who").build();
    let request = Message::builder(Kind::Call, "who").build();
    link.send(Route::Address(&CTRL.into()), request).await?;
    let (_, mut request) = queue.next().await.ok_or("it is open")?.into_parts();

    let gone = ReplyTo::instance(&"CLI.gone".parse()?, 1);
    assert_eq!(link.answer(&gone, answer(), &mut request).await, Err(PublishError::NotRouted));
    assert_eq!(unsettled(), Some(1));

    // A fault is in the way: it is for the caller to settle it.
    let here = ReplyTo::service(&CTRL);
    broker.inject(Injection::new(BrokerFault::Refuse));
    assert!(link.answer(&here, answer(), &mut request).await.is_err());
    assert_eq!(unsettled(), Some(1));

    link.answer(&here, answer(), &mut request).await?;
    assert_eq!(unsettled(), Some(1), "the answer, which is here, and the request is not");
    drop(request); // and is not settled twice
    assert_eq!(unsettled(), Some(1));
    queue.next().await.ok_or("it is open")?.ack();
    broker.idle().await;
    assert_eq!((unsettled(), broker.stored_bytes()), (Some(0), 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_is_woken_by_an_answer_may_look_at_the_client() -> Test {
    /// Looks from a thread of its own, so that the test does not hang where it can not.
    struct Looks(Client, mpsc::Sender<bool>);
    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            let (looked, done) = mpsc::channel();
            let client = self.0.clone();
            std::thread::spawn(move || looked.send(client.stats().open_calls));
            let _ = self.1.send(done.recv_timeout(SECOND * 5).is_ok());
        }
    }
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let mut answers = client.gather(CTRL.all(), ECHO, &"x".into()).await?;
    let (woken, looks) = mpsc::channel();
    let waker = Arc::new(Looks(client.clone(), woken)).into();
    {
        let mut next = pin!(answers.next());
        assert!(next.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
        tokio::time::sleep(SECOND * 2).await;
        assert!(next.await.is_some_and(|answer| answer.result.is_ok()));
    }
    assert!(looks.try_recv()?);
    Ok(())
}
