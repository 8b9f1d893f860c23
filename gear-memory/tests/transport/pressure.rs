//! Publishers that have to wait: for a connection, for the end of an alarm, for room in the
//! broker's memory. And how they stop waiting.

use super::*;

fn publish(on: &dyn Transport, message: Message) -> gear_api::Publish {
    on.send(Route::Address(&address("CTRL")), message)
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_during_a_cut_waits_and_is_then_sent_once_and_in_order() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(300));
    let waiting = ["1", "2", "3"].map(|body| publish(&*web, message(body)));
    assert!(waiting.iter().all(|publish| !publish.is_handed_over()));
    tokio::time::sleep(ms(299)).await;
    assert!(consumer.try_next().is_none());
    // The answers are asked for in another order.
    for publish in waiting.into_iter().rev() {
        soon(publish).await.unwrap();
    }
    send(&*web, "CTRL", "4").await.unwrap();
    assert_eq!(take_ready(&mut consumer), ["1", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_does_not_hold_up_the_messages_of_others() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut();
    let waiting = publish(&*web, message("waits"));
    send(&*ctrl, "CTRL", "passes").await.unwrap();
    assert_eq!(take_ready(&mut consumer), ["passes"]);
    soon(waiting).await.unwrap();
    assert_eq!(take_ready(&mut consumer), ["waits"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_until_its_deadline_is_not_sent() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(1_000));
    let message = expiring("m", &*web, ms(300));
    let (answer, time) = timed(publish(&*web, message)).await;
    assert!(matches!(&answer, Err(error @ PublishError::NotSent(_)) if !error.may_have_arrived()));
    assert_eq!(time, ms(300));
    soon(broker.idle()).await;
    assert!(take_ready(&mut consumer).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_beyond_its_deadline_is_not_sent_even_if_nobody_polls() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(1_000));
    let waiting = publish(&*web, expiring("m", &*web, ms(300)));
    tokio::time::sleep(ms(2_000)).await;
    assert!(take_ready(&mut consumer).is_empty());
    let answer = soon(waiting).await;
    assert!(matches!(answer, Err(PublishError::NotSent(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_publish_that_is_dropped_is_not_sent() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut();
    let dropped = publish(&*web, message("dropped"));
    let kept = publish(&*web, message("kept"));
    let aborted = tokio::spawn(publish(&*web, message("aborted")));
    tokio::task::yield_now().await;
    drop(dropped);
    aborted.abort();
    soon(kept).await.unwrap();
    assert_eq!(take_ready(&mut consumer), ["kept"]);
    soon(broker.idle()).await;
    assert!(take_ready(&mut consumer).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_publish_that_is_detached_is_sent_in_its_turn() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut();
    publish(&*web, message("1")).detach();
    publish(&*web, message("2")).detach();
    assert_eq!(take(&mut consumer, 2).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_detached_publish_ends_at_its_deadline_too() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(500));
    publish(&*web, expiring("m", &*web, ms(300))).detach();
    soon(broker.idle()).await;
    assert!(take_ready(&mut consumer).is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_a_waiting_publish_learns_it_after_the_cut() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut();
    assert_eq!(soon(send(&*web, "CTRL", "m")).await, Err(PublishError::NotRouted));
}

#[tokio::test(start_paused = true)]
async fn a_fault_hits_a_message_when_it_is_handed_over() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 10).await;
    link.cut_for(ms(200));
    let refused = publish(&*web, message("refused"));
    let unknown = publish(&*web, message("unknown"));
    broker.inject(gear_memory::BrokerFault::Refuse);
    broker.inject(gear_memory::BrokerFault::LoseConfirm);
    assert!(matches!(soon(refused).await, Err(PublishError::Refused(_))));
    let (answer, time) = timed(unknown).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    assert_eq!(time, ms(30_000));
    assert_eq!(take_ready(&mut ctrl), ["unknown"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_sent_survives_a_restart_of_the_broker() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    broker.raise_alarm("no disk");
    let waiting = publish(&*web, message("not durable, and not there yet"));
    broker.restart();
    broker.clear_alarm();
    soon(waiting).await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["not durable, and not there yet"]);
}

// Alarms.

fn blocked(on: &dyn Transport) -> Option<String> {
    match status(on) {
        Status::Blocked(why) => Some(why.to_string()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_alarm_blocks_publishers_and_says_why_until_it_is_over() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    broker.raise_alarm("no disk");
    assert_eq!(blocked(&*web).as_deref(), Some("no disk"));
    assert_eq!(blocked(&*connect(&broker)).as_deref(), Some("no disk"), "whoever comes later, too");
    let waiting = ["1", "2"].map(|body| publish(&*web, message(body)));
    tokio::time::sleep(ms(10_000)).await;
    assert!(ctrl.try_next().is_none());
    broker.clear_alarm();
    assert_eq!(status(&*web), Status::Ready);
    assert_eq!(take_ready(&mut ctrl), ["1", "2"]);
    for publish in waiting {
        soon(publish).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_alarm_does_not_hold_up_deliveries_settlements_and_subscriptions() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    broker.raise_alarm("no disk");
    let mut ctrl = serve(&*web, 1).await;
    assert_eq!(take(&mut ctrl, 2).await, ["1", "2"]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_publish_ends_at_its_deadline() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    broker.raise_alarm("no disk");
    let (answer, time) = timed(publish(&*web, expiring("m", &*web, ms(700)))).await;
    assert!(matches!(answer, Err(PublishError::NotSent(_))), "{answer:?}");
    assert_eq!(time, ms(700));
    broker.clear_alarm();
    assert!(take_ready(&mut ctrl).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_back_during_an_alarm_is_blocked() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    broker.raise_alarm("no disk");
    link.cut();
    assert_eq!(status(&*web), Status::Connecting);
    let mut changes = web.status();
    soon(changes.wait_for(|status| *status != Status::Connecting)).await.unwrap();
    assert_eq!(blocked(&*web).as_deref(), Some("no disk"));
    broker.clear_alarm();
    assert_eq!(status(&*web), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn above_the_watermark_publishers_wait_until_the_queue_is_drained() {
    let broker = MemoryBroker::builder().watermark(2_000).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    // 640 bytes each, and the body.
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(status(&*web), Status::Ready);
    send(&*web, "CTRL", "4").await.unwrap();
    assert!(blocked(&*web).is_some_and(|why| why.contains("watermark")));
    assert_eq!(broker.stored_bytes(), 4 * 641);

    let waiting = publish(&*web, message("5"));
    assert!(!waiting.is_handed_over());
    let mut ctrl = serve(&*web, 1).await;
    assert_eq!(take(&mut ctrl, 5).await, ["1", "2", "3", "4", "5"]);
    soon(waiting).await.unwrap();
    assert_eq!(status(&*web), Status::Ready);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_at_the_watermark_are_let_through_one_by_one() {
    let broker = MemoryBroker::builder().watermark(1_000).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let waiting = ["3", "4", "5"].map(|body| publish(&*web, message(body)));
    let mut ctrl = serve(&*web, 1).await;
    for expected in ["1", "2", "3", "4", "5"] {
        assert!(broker.stored_bytes() <= 2 * 641, "never more than one above");
        assert_eq!(take(&mut ctrl, 1).await, [expected]);
    }
    for publish in waiting {
        soon(publish).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_makes_room_too() {
    let broker = MemoryBroker::builder().watermark(600).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    soon(publish(&*web, expiring("1", &*web, ms(400)))).await.unwrap();
    let (answer, time) = timed(publish(&*web, message("2"))).await;
    assert_eq!((answer, time), (Ok(()), ms(400)));
    assert_eq!(ready(&broker, "CTRL"), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_room_and_then_for_its_connection_keeps_its_order() {
    let broker = MemoryBroker::new();
    let ((link, web), other) = (link(&broker), connect(&broker));
    let mut ctrl = serve(&*other, 10).await;
    let to = address("CTRL");
    broker.raise_alarm("no disk");
    let send_later =
        |on: &dyn Transport, body| on.send(Route::Address(&to), message(body)).detach();
    send_later(&*web, "1");
    send_later(&*other, "other's");
    send_later(&*web, "2");
    link.cut();
    send_later(&*web, "3");
    broker.clear_alarm();
    assert_eq!(take_ready(&mut ctrl), ["other's"]);
    send(&*other, "CTRL", "another").await.unwrap();
    broker.raise_alarm("no memory");
    tokio::time::sleep(ms(200)).await;
    assert_eq!(take_ready(&mut ctrl), ["another"]);
    send_later(&*web, "4");
    broker.clear_alarm();
    assert_eq!(take_ready(&mut ctrl), ["1", "2", "3", "4"]);
}
