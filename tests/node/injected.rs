//! What goes wrong with a message between a node and its broker, one fault at a time, as only
//! a broker that makes them can show.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, CastError, Client, Context, Fault, Feed, Headers, Node, NotSent, Operation, Pattern,
    Retry, StartError, code,
    memory::{BrokerFault, Injection, MemoryBroker, Overflow, Policy},
};
use tokio::time::Instant;

use crate::{
    CTRL, ECHO, Log, NOTE, REPO, SECOND, Test, WHO, broker, client, node, note, slow_echo, who,
};

async fn echoing(broker: &MemoryBroker) -> Result<(Node, Client), StartError> {
    let node = node(broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    Ok((node, client(broker).await))
}

#[tokio::test(start_paused = true)]
async fn a_cast_whose_answer_nobody_wants_waits_no_longer_than_another() -> Test {
    let (broker, log) = (broker(), Log::default());
    let ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note);
    let _ctrl = ctrl.start().await?;
    let client = client(&broker).await;
    let send = |text: &str, timeout| {
        client.cast(CTRL, NOTE, &text.to_owned()).timeout(timeout).send().detach();
    };
    broker.raise_alarm("no memory");
    send("in time", SECOND * 3);
    send("too late", SECOND);
    tokio::time::sleep(SECOND * 2).await;
    broker.clear_alarm();
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL in time"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_not_waited_for() -> Test {
    let broker = broker();
    let (_node, client) = echoing(&broker).await?;
    let start = Instant::now();
    broker.inject(BrokerFault::Refuse);
    let error = client.call(CTRL, ECHO, &"x".into()).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Refused(_))));
    assert_eq!(error.retry(), Retry::IfIdempotent);
    assert_eq!(start.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_another_queue_refuses_may_have_been_done_and_answered() -> Test {
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1").on(WHO, who).state(log.clone()).on(NOTE, note);
    let _node = node.start().await?;
    let client = client(&broker).await;
    let before = broker.queues();
    let _tap = client.tap(Feed::Requests, Pattern::new("CTRL")).await?;
    let queues = broker.queues().into_iter();
    let of_tap = queues.map(|queue| queue.name).find(|name| before.iter().all(|q| q.name != *name));
    let full = Policy::new().max_length(0).overflow(Overflow::RejectPublish);
    broker.set_policy(of_tap.ok_or("a tap has a queue")?.parse()?, full);

    let error = client.cast(CTRL, NOTE, &"x".into()).await.unwrap_err();
    assert!(matches!(error, CastError::NotSent(NotSent::Refused(_))), "{error:?}");
    broker.idle().await;
    assert_eq!(log.take().len(), 1, "the service has it");
    assert_eq!(error.retry(), Retry::IfIdempotent);

    let call = client.call(CTRL, WHO, &()).send();
    let gather = client.gather(CTRL, WHO, &()).send();
    broker.idle().await;
    assert_eq!(call.await?, "CTRL.host1");
    assert!(gather.await?.next().await.is_some_and(|answer| answer.result.is_ok()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_that_was_surely_not_done_may_be_tried_again_if_all_is_idempotent() -> Test {
    const ASK: Operation<(), String> = Operation::new("ask");
    async fn ask(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, ASK, &()).await?)
    }
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(ASK, ask).start().await?;
    let _repo = node(&broker, &REPO, "host1").on(ASK, ask).start().await?;
    broker.inject(Injection::new(BrokerFault::Refuse).on(Pattern::new("REPO")));
    let error = client(&broker).await.call(CTRL, ASK, &()).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(code::UNAVAILABLE), Retry::IfIdempotent));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_nested_cast_that_did_not_arrive_may_be_tried_again_if_all_is_idempotent() -> Test {
    const TELL: Operation<(), ()> = Operation::new("tell");
    async fn tell(_: Arc<()>, cx: Context, (): ()) -> Result<(), Fault> {
        Ok(cx.client().cast(REPO, NOTE, &"x".into()).await?)
    }
    async fn not_allowed(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        cx.client().cast(REPO, NOTE, &"x".into()).header("x-reserved", 1).await?;
        Ok("sent".into())
    }
    let broker = broker();
    let ctrl = node(&broker, &CTRL, "host1").on(TELL, tell).on(WHO, not_allowed);
    let _ctrl = ctrl.start().await?;
    let client = client(&broker).await;
    let again = |error: CallError| {
        assert_eq!((error.code(), error.retry()), (Some(code::UNAVAILABLE), Retry::IfIdempotent));
    };
    // Nobody is there, and then it is refused, or may have arrived.
    again(client.call(CTRL, TELL, &()).await.unwrap_err());
    let _repo = node(&broker, &REPO, "host1").start().await?;
    for fault in [BrokerFault::Refuse, BrokerFault::LoseConfirm] {
        broker.inject(Injection::new(fault).on(Pattern::new("REPO")));
        again(client.call(CTRL, TELL, &()).timeout(SECOND * 60).await.unwrap_err());
    }
    // What can never be sent ends the same each time.
    let error = client.call(CTRL, WHO, &()).await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(code::FAILED), Retry::Useless));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_does_not_end_a_call_that_is_answered() -> Test {
    let broker = broker();
    let (_node, client) = echoing(&broker).await?;
    broker.inject(BrokerFault::LoseConfirm);
    assert_eq!(client.call(CTRL, ECHO, &"x".into()).await?, "x");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_request_has_one_outcome() -> Test {
    let broker = broker();
    let (_node, client) = echoing(&broker).await?;
    broker.inject(BrokerFault::Duplicate);
    assert_eq!(client.call(CTRL, ECHO, &"x".into()).await?, "x");
    broker.idle().await;
    assert_eq!((client.stats().late_replies, client.stats().open_calls), (1, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_noticed_by_the_deadline() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::LoseMessage);
    let call = client.call(CTRL, WHO, &()).timeout(SECOND).await;
    assert!(matches!(call, Err(CallError::DeadlinePassed)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_arrives_late() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(Injection::new(BrokerFault::Delay(SECOND * 3)).on(Pattern::new("CTRL")));
    let start = Instant::now();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert_eq!(start.elapsed(), SECOND * 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_set_aside_goes_back() -> Test {
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Fault::new("broken", "it always fails"))
    }
    let broker = broker();
    let node = node(&broker, &CTRL, "host1").retries(0).on(ECHO, fail).start().await?;
    let client = client(&broker).await;
    let refuse = Injection::new(BrokerFault::Refuse).on(Pattern::new("CTRL"));
    client.cast(CTRL, ECHO, &"x".into()).send().detach();
    // The next message with that key is the dead letter.
    broker.inject(refuse);
    broker.idle().await;
    assert_eq!(node.stats().failed, 2, "it came back once");
    assert_eq!(broker.messages("CTRL:dead").len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cast_that_is_refused_and_one_whose_confirm_is_lost() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").start().await?;
    let client = client(&broker).await;
    let text = String::from("x");

    broker.inject(BrokerFault::Refuse);
    let refused = client.cast(CTRL, NOTE, &text).await.unwrap_err();
    assert!(matches!(refused, CastError::NotSent(NotSent::Refused(_))));
    assert_eq!(refused.retry(), Retry::IfIdempotent);

    // Of several queues the others may have it.
    broker.inject(BrokerFault::Refuse);
    let refused = client.cast(CTRL.all(), NOTE, &text).await.unwrap_err();
    assert!(matches!(refused, CastError::Unknown(_)));
    assert_eq!(refused.retry(), Retry::IfIdempotent);

    broker.inject(BrokerFault::LoseConfirm);
    let start = Instant::now();
    let lost = client.cast(CTRL, NOTE, &text).timeout(SECOND * 3).await;
    assert!(matches!(lost, Err(CastError::Unknown(_))));
    assert_eq!(start.elapsed(), SECOND * 3);
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
async fn a_node_whose_name_was_taken_during_a_cut_serves_when_it_is_free_again() -> Test {
    let broker = broker();
    let link = broker.connect();
    let _node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    link.cut_for(SECOND);
    let other = node(&broker, &CTRL, "host1").start().await?;
    tokio::time::sleep(SECOND * 5).await;
    let client = client(&broker).await;
    let asked = client.call(CTRL.at("host1")?, WHO, &()).await;
    assert!(matches!(asked, Err(CallError::Remote(_))), "{asked:?}");
    assert!(other.shutdown(SECOND).await.is_clean());
    tokio::time::sleep(SECOND).await;
    assert_eq!(client.call(CTRL.at("host1")?, WHO, &()).await?, "CTRL.host1");
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
async fn a_cast_of_a_request_whose_time_is_over_is_not_sent() -> Test {
    const ASK: Operation<(), ()> = Operation::new("ask");
    async fn ask(log: Arc<Log>, cx: Context, (): ()) -> Result<(), Fault> {
        tokio::time::sleep(SECOND * 2).await;
        let cast = cx.client().cast(REPO, NOTE, &"late".into()).await;
        log.add(format!("{cast:?}"));
        Ok(())
    }
    let broker = broker();
    let log = Log::default();
    let _ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(ASK, ask).start().await?;
    let _repo = node(&broker, &REPO, "host1").state(log.clone()).on(NOTE, note).start().await?;
    assert!(client(&broker).await.call(CTRL, ASK, &()).timeout(SECOND).await.is_err());
    broker.idle().await;
    assert_eq!(log.take(), ["Err(NotSent(TooLate))"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_headers_of_a_trace_leave_a_cast_all_of_its_own() -> Test {
    const ASK: Operation<(), ()> = Operation::new("ask");
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    async fn ask(_: Arc<Log>, cx: Context, (): ()) -> Result<(), Fault> {
        let client = cx.client();
        let mut cast = client.cast(REPO, ASK, &());
        let mut call = client.call(REPO, ASK, &());
        let mut away = client.call(REPO, ASK, &()).reply_to(&CTRL);
        for n in 0..Headers::MAX_COUNT {
            cast = cast.header(format!("h{n}"), 1);
            call = call.header(format!("h{n}"), 1);
            away = away.header(format!("h{n}"), 1);
        }
        call.await?;
        cast.await?;
        away.await?;
        // Where there is room, both; of the same name, the user's.
        let away = client.call(REPO, ASK, &()).header("a", 1).reply_to(&CTRL);
        away.header("b", 2).await?;
        client.cast(REPO, ASK, &()).header("traceparent", "mine").await?;
        Ok(())
    }
    async fn asked(log: Arc<Log>, cx: Context, (): ()) -> Result<(), Fault> {
        let trace = cx.headers().get("traceparent").and_then(|trace| trace.as_str());
        log.add(format!("{} {trace:?}", cx.headers().len()));
        Ok(())
    }
    let (broker, log) = (broker(), Log::default());
    let ctrl = node(&broker, &CTRL, "host1").state(log.clone()).on(ASK, ask).start().await?;
    let _repo = node(&broker, &REPO, "host1").state(log.clone()).on(ASK, asked).start().await?;
    let client = client(&broker).await;
    client.call(CTRL, ASK, &()).header("traceparent", TRACE).await?;
    broker.idle().await;
    let own = format!("{} None", Headers::MAX_COUNT);
    let both = format!("3 Some({TRACE:?})");
    assert_eq!(log.take(), [&own, &own, &own, &both, "1 Some(\"mine\")"]);
    drop(ctrl);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_handler_learns_that_its_request_was_delivered_before() -> Test {
    async fn slow(log: Arc<Log>, cx: Context, text: String) -> Result<(), Fault> {
        log.add(format!("{text} {}", cx.is_redelivered()));
        tokio::time::sleep(SECOND).await;
        Ok(())
    }
    let (broker, log) = (broker(), Log::default());
    let link = broker.connect();
    let ctrl = Node::builder(link.clone(), CTRL.at("host1")?).state(log.clone());
    let _ctrl = ctrl.on(NOTE, slow).start().await?;
    let client = client(&broker).await;
    client.cast(CTRL, NOTE, &"one".into()).await?;
    tokio::time::sleep(SECOND / 2).await;
    link.cut();
    client.cast(CTRL, NOTE, &"two".into()).await?;
    broker.idle().await;
    assert_eq!(log.take(), ["one false", "one true", "two false"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_has_left_is_not_said_to_have_stayed_because_the_client_is_closed() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let link = broker.connect();
    let client = Client::builder(link.clone(), "CLI.test".parse()?).start().await?;
    broker.inject(BrokerFault::LoseConfirm);
    let cast = client.cast(CTRL, NOTE, &"x".into()).send();
    tokio::time::sleep(SECOND).await;
    link.cut_for(SECOND * 60);
    client.close().await;
    let error = cast.await.unwrap_err();
    assert!(matches!(error, CastError::Unknown(_)), "{error:?}");
    assert_eq!(log.take().len(), 1);

    // From then on nothing leaves.
    let error = client.cast(CTRL, NOTE, &"y".into()).await.unwrap_err();
    assert!(matches!(error, CastError::Closed), "{error:?}");
    let error = client.call(CTRL, NOTE, &"z".into()).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Closed)), "{error:?}");
    assert_eq!(error.retry(), Retry::Useless);
    broker.idle().await;
    assert_eq!(log.take(), [""; 0]);
    Ok(())
}
