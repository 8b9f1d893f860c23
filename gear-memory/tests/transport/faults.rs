//! Every fault on demand, with its exact outcome and its exact time.

use gear_api::{Pattern, Publish};
use gear_memory::{BrokerFault, Injection, Overflow, Policy};

use super::*;

/// A broker and a node that serves.
async fn setting() -> (MemoryBroker, Arc<dyn Transport>, Consumer) {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let ctrl = serve(&*web, 10).await;
    (broker, web, ctrl)
}

#[tokio::test(start_paused = true)]
async fn refuse_tells_the_publisher_and_stores_nothing() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::Refuse);
    assert!(matches!(send(&*web, "CTRL", "1").await, Err(PublishError::Refused(_))));
    send(&*web, "CTRL", "2").await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn lose_confirm_stores_the_message_and_leaves_its_publisher_in_the_dark_for_30_s() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::LoseConfirm);
    let sent = web.send(Route::Address(&address("CTRL")), message("m"));
    assert_eq!(take_ready(&mut ctrl), ["m"]);
    let (answer, time) = timed(sent).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    assert_eq!(time, ms(30_000));
}

#[tokio::test(start_paused = true)]
async fn lose_confirm_ends_at_the_deadline_of_the_message() {
    let (broker, web, _ctrl) = setting().await;
    broker.inject(BrokerFault::LoseConfirm);
    let message = expiring("m", &*web, ms(400));
    let (answer, time) = timed(web.send(Route::Address(&address("CTRL")), message)).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    assert_eq!(time, ms(400));
}

#[tokio::test(start_paused = true)]
async fn lose_message_confirms_what_never_arrives() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::LoseMessage);
    send(&*web, "CTRL", "1").await.unwrap();
    send(&*web, "CTRL", "2").await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["2"]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn duplicate_delivers_twice_and_neither_is_marked() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::Duplicate);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    assert_eq!(take_ready(&mut ctrl), ["1", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn delay_confirms_at_once_and_delivers_in_exactly_its_time() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::Delay(ms(250)));
    let (sent, time) = timed(send(&*web, "CTRL", "late")).await;
    assert_eq!((sent, time), (Ok(()), ms(0)));
    send(&*web, "CTRL", "overtakes").await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["overtakes"]);
    let (taken, time) = timed(take(&mut ctrl, 1)).await;
    assert_eq!((taken, time), (vec!["late".to_owned()], ms(250)));
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_arrive_in_the_order_of_their_times_and_then_of_sending() {
    let (broker, web, mut ctrl) = setting().await;
    for delay in [300, 100, 100] {
        broker.inject(BrokerFault::Delay(ms(delay)));
    }
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(take(&mut ctrl, 3).await, ["2", "3", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_does_not_hide_that_nobody_is_there() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    for fault in [BrokerFault::LoseMessage, BrokerFault::Delay(ms(1)), BrokerFault::Duplicate] {
        broker.inject(fault);
        assert_eq!(send(&*web, "CTRL", "m").await, Err(PublishError::NotRouted), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_injection_hits_so_many_messages_with_such_keys_and_no_others() {
    let (broker, web, mut ctrl) = setting().await;
    let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
    broker.inject(Injection::new(BrokerFault::LoseMessage).on(Pattern::new("CTRL")).times(2));
    broker.inject(Injection::new(BrokerFault::Refuse).times(0));
    for body in ["1", "2", "3"] {
        send_all(&*web, "CTRL.h1", &[body]).await;
        send_all(&*web, "CTRL", &[body]).await;
    }
    assert_eq!(take_ready(&mut ctrl), ["3"]);
    assert_eq!(take_ready(&mut h1), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_injection_that_fits_comes_first() {
    let (broker, web, mut ctrl) = setting().await;
    broker.inject(BrokerFault::LoseMessage);
    broker.inject(BrokerFault::Duplicate);
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(take_ready(&mut ctrl), ["2", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_while_the_others_keep_their_copies() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    for name in ["CTRL.h1", "CTRL.h2"] {
        drop(join(&*web, name).await.unwrap());
    }
    let full = Policy::new().max_length(1).overflow(Overflow::RejectPublish);
    broker.set_policy(Pattern::new("CTRL.h2"), full);
    send(&*web, "CTRL.*", "1").await.unwrap();
    let answer = send(&*web, "CTRL.*", "2").await;
    assert!(matches!(&answer, Err(error @ PublishError::Refused(_)) if error.may_have_arrived()));
    assert_eq!(ready(&broker, "CTRL.h1"), ["1", "2"]);
    assert_eq!(ready(&broker, "CTRL.h2"), ["1"]);
}

// Cuts.

#[tokio::test(start_paused = true)]
async fn a_cut_lasts_as_long_as_the_broker_says() {
    let broker = MemoryBroker::builder().reconnect_delay(ms(40)).build();
    let (link, web) = link(&broker);
    let mut changes = web.status();
    link.cut();
    assert_eq!(status(&*web), Status::Connecting);
    let (_, time) = timed(changes.wait_for(Status::is_ready)).await;
    assert_eq!(time, ms(40));
}

#[tokio::test(start_paused = true)]
async fn a_cut_for_a_time_lasts_that_time() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(12_345));
    let (_, time) = timed(web.status().wait_for(Status::is_ready)).await;
    assert_eq!(time, ms(12_345));
}

#[tokio::test(start_paused = true)]
async fn a_cut_of_a_connection_that_is_down_changes_nothing() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(500));
    link.cut_for(ms(5_000));
    link.cut_for(ms(5));
    let (_, time) = timed(web.status().wait_for(Status::is_ready)).await;
    assert_eq!(time, ms(500));
}

#[tokio::test(start_paused = true)]
async fn no_cut_and_no_delay_is_too_long() {
    let broker = MemoryBroker::new();
    let ((link, _web), other) = (link(&broker), connect(&broker));
    link.cut_for(Duration::MAX);
    let mut ctrl = serve(&*other, 1).await;
    broker.inject(BrokerFault::Delay(Duration::MAX));
    send_all(&*other, "CTRL", &["never", "now"]).await;
    assert_eq!(take_ready(&mut ctrl), ["now"]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_hits_one_connection_alone() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let other = connect(&broker);
    link.cut();
    assert_eq!(status(&*web), Status::Connecting);
    assert_eq!(status(&*other), Status::Ready);
    drop(serve(&*other, 1).await);
    send(&*other, "CTRL", "m").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_survives_a_cut_and_gets_again_what_it_had_not_settled() {
    let broker = MemoryBroker::new();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 2).await;
    send_all(&*web, "CTRL", &["taken", "arrived", "waits"]).await;
    let _taken = next(&mut consumer).await;
    link.cut();
    assert!(consumer.try_next().is_none(), "what had arrived is lost with the connection");
    assert_eq!(ready(&broker, "CTRL"), ["taken", "arrived", "waits"]);
    assert_eq!(take(&mut consumer, 3).await, ["taken!", "arrived!", "waits"]);
}

#[tokio::test(start_paused = true)]
async fn during_a_cut_the_others_get_what_the_lost_consumer_held() {
    let broker = MemoryBroker::new();
    let ((link, one), two) = (link(&broker), connect(&broker));
    let mut first = serve(&*one, 10).await;
    send_all(&*two, "CTRL", &["1", "2"]).await;
    let mut second = serve(&*two, 10).await;
    link.cut();
    assert_eq!(take(&mut second, 2).await, ["1!", "2!"]);
    soon(broker.idle()).await;
    assert!(take_ready(&mut first).is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_subscriptions_of_a_connection_come_back() {
    let broker = MemoryBroker::new();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut service = serve(&*ctrl, 1).await;
    let mut instance = join(&*ctrl, "CTRL.h1").await.unwrap();
    let (_replies, sink) = ask_as(&*ctrl, "CTRL.h1").await;
    link.cut();
    soon(broker.idle()).await;
    send(&*web, "CTRL", "1").await.unwrap();
    send(&*web, "CTRL.*", "2").await.unwrap();
    web.send(Route::Reply(&sink.at()), message("3")).await.unwrap();
    assert_eq!(take_ready(&mut service), ["1"]);
    assert_eq!(take_ready(&mut instance), ["2"]);
    assert_eq!(sink.bodies(), ["3"]);
}

// Restarts.

#[tokio::test(start_paused = true)]
async fn a_restart_cuts_everybody_and_loses_what_is_not_durable() {
    let broker = MemoryBroker::new();
    let (web, ctrl) = (connect(&broker), connect(&broker));
    drop(serve(&*ctrl, 1).await);
    for message in [durable("1"), message("2"), durable("3")] {
        web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    }
    broker.restart();
    assert_eq!(status(&*web), Status::Connecting);
    assert_eq!(status(&*ctrl), Status::Connecting);
    let (mut consumer, time) = timed(serve(&*ctrl, 10)).await;
    assert_eq!(time, ms(100), "the reconnect delay");
    assert_eq!(take(&mut consumer, 2).await, ["1!", "3!"]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn consumers_survive_a_restart() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    web.send(Route::Address(&address("CTRL")), durable("held")).await.unwrap();
    let held = next(&mut ctrl).await;
    broker.restart();
    held.ack();
    assert_eq!(take(&mut ctrl, 1).await, ["held!"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_before_a_restart_does_not_come_again() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    web.send(Route::Address(&address("CTRL")), durable("m")).await.unwrap();
    next(&mut ctrl).await.ack();
    broker.restart();
    soon(broker.idle()).await;
    assert!(take_ready(&mut ctrl).is_empty());
}

#[tokio::test(start_paused = true)]
async fn expire_lets_what_waits_go_before_its_time() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 10).await);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    assert_eq!(broker.expire("CTRL"), 2);
    assert_eq!((broker.stored_bytes(), broker.expire("CTRL"), broker.expire("none")), (0, 0, 0));

    // What was held back for an hour is there now.
    let delay = Duration::from_secs(3_600);
    web.send(Route::Delayed { delay, jitter: ms(0), queue: "CTRL" }, message("m")).await.unwrap();
    assert_eq!(broker.expire("gear:retry.3600000"), 1);
    assert_eq!(ready(&broker, "CTRL"), ["m"]);
}

// Confirms that are lost when their connection is.

/// Who serves, and the link of somebody who publishes.
struct Unconfirmed {
    broker: MemoryBroker,
    link: MemoryTransport,
    web: Arc<dyn Transport>,
    ctrl: Consumer,
    _serves: Arc<dyn Transport>,
}

impl Unconfirmed {
    async fn new() -> Self {
        let broker = MemoryBroker::new();
        let ((link, web), serves) = (link(&broker), connect(&broker));
        let ctrl = serve(&*serves, 10).await;
        Self { broker, link, web, ctrl, _serves: serves }
    }

    /// A message that the broker gets, and whose confirm is lost.
    fn send(&mut self, message: Message) -> Publish {
        self.broker.inject(BrokerFault::LoseConfirm);
        let body = text(&message);
        let sent = self.web.send(Route::Address(&address("CTRL")), message);
        assert_eq!(take_ready(&mut self.ctrl), [body]);
        sent
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_before_a_cut_is_sent_again_after_it_and_confirmed() {
    let mut test = Unconfirmed::new().await;
    let sent = test.send(message("m"));
    test.link.cut();
    assert_eq!(timed(sent).await, (Ok(()), ms(100)));
    assert_eq!(take_ready(&mut test.ctrl), ["m"], "the second copy");
}

#[tokio::test(start_paused = true)]
async fn of_what_is_refused_when_it_is_sent_again_nobody_knows_whether_it_arrived() {
    let mut test = Unconfirmed::new().await;
    let sent = test.send(message("m"));
    test.link.cut();
    test.broker.inject(BrokerFault::Refuse);
    let outcome = soon(sent).await;
    assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_goes_before_what_was_sent_after_it() {
    let mut test = Unconfirmed::new().await;
    test.broker.raise_alarm("no disk");
    let waiting = ["1", "2", "3"].map(|body| {
        test.broker.inject(BrokerFault::LoseConfirm);
        test.web.send(Route::Address(&address("CTRL")), message(body))
    });
    test.broker.clear_alarm();
    assert_eq!(take_ready(&mut test.ctrl), ["1", "2", "3"]);
    test.link.cut();
    let later = test.web.send(Route::Address(&address("CTRL")), message("4"));
    assert_eq!(soon(later).await, Ok(()));
    for sent in waiting {
        assert_eq!(soon(sent).await, Ok(()));
    }
    assert_eq!(take_ready(&mut test.ctrl), ["1", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_may_hit_what_is_sent_again() {
    let mut test = Unconfirmed::new().await;
    let sent = test.send(message("m"));
    test.broker.inject(BrokerFault::LoseConfirm);
    tokio::time::sleep(ms(10_000)).await;
    test.link.cut();
    let (answer, time) = timed(sent).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    assert_eq!(time, ms(100 + 30_000));
    assert_eq!(take_ready(&mut test.ctrl), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn no_cut_is_so_long_that_what_was_not_confirmed_is_given_up_before_its_deadline() {
    for (deadline, expected) in [(None, Ok(())), (Some(ms(40_000)), Err(ms(40_000)))] {
        let mut test = Unconfirmed::new().await;
        let sent = test.send(match deadline {
            Some(deadline) => expiring("m", &*test.web, deadline),
            None => message("m"),
        });
        test.link.cut_for(ms(60_000));
        let (answer, time) = timed(sent).await;
        match expected {
            Ok(()) => assert_eq!((answer, time), (Ok(()), ms(60_000))),
            Err(at) => {
                assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
                assert_eq!(time, at);
                soon(test.broker.idle()).await;
                assert!(take_ready(&mut test.ctrl).is_empty(), "it is not sent again");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_says_at_once_that_nobody_knows_of_what_was_not_confirmed() {
    for is_cut in [false, true] {
        let mut test = Unconfirmed::new().await;
        let sent = test.send(message("m"));
        if is_cut {
            test.link.cut();
        }
        test.link.close().await;
        let (answer, time) = timed(sent).await;
        assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
        assert_eq!(time, ms(0));
        assert_eq!(timed(test.broker.idle()).await.1, ms(1));
        assert!(take_ready(&mut test.ctrl).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_another_connection_confirms_nothing() {
    let mut test = Unconfirmed::new().await;
    let ((other, _two), three) = (link(&test.broker), connect(&test.broker));
    let sent = test.send(message("m"));
    other.cut();
    three.close().await;
    let (answer, time) = timed(sent).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    assert_eq!(time, ms(30_000));
    assert!(take_ready(&mut test.ctrl).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_is_sent_again_even_if_nobody_asks() {
    let mut test = Unconfirmed::new().await;
    test.send(message("1")).detach();
    drop(test.send(message("2")));
    assert_eq!(timed(test.broker.idle()).await.1, ms(1));
    test.link.cut();
    assert_eq!(take(&mut test.ctrl, 2).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_lost_before_its_confirm_is_there_when_it_is_confirmed() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    broker.inject(BrokerFault::LoseConfirm);
    let sent = web.send(Route::Address(&address("CTRL")), message("not durable"));
    assert_eq!(ready(&broker, "CTRL"), ["not durable"]);
    broker.restart();
    assert!(ready(&broker, "CTRL").is_empty());
    assert_eq!(timed(sent).await, (Ok(()), ms(100)));
    assert_eq!(ready(&broker, "CTRL"), ["not durable"]);
}
