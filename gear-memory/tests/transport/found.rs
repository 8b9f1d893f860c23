//! What a review of the sources found, one test for each: idle that came too early or never,
//! waits that were told wrongly, time that was too long.

use super::*;
use gear_memory::BrokerFault;

/// Somebody waits for idle, and has looked around once already.
async fn begin_to_idle(broker: &MemoryBroker) -> tokio::task::JoinHandle<()> {
    let waits = broker.clone();
    let idle = tokio::spawn(async move { waits.idle().await });
    tokio::time::sleep(ms(10)).await;
    idle
}

async fn idles_after(change: impl FnOnce(&MemoryBroker, MemoryTransport)) {
    let broker = MemoryBroker::new();
    let (link, ctrl) = link(&broker);
    let mut consumer = serve(&*ctrl, 1).await;
    drop(ctrl);
    send(&*connect(&broker), "CTRL", "m").await.unwrap();
    let _held = next(&mut consumer).await;
    let idle = begin_to_idle(&broker).await;
    change(&broker, link);
    soon(idle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_the_queue_of_a_busy_handler_is_deleted() {
    idles_after(|broker, link| {
        broker.delete_queue("CTRL");
        std::mem::forget(link);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_the_connection_of_a_busy_handler_is_closed() {
    idles_after(|_, link| drop(link)).await;
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_a_connection_that_is_down_is_closed() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(10_000_000));
    let idle = begin_to_idle(&broker).await;
    web.close().await;
    soon(idle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_what_waited_to_be_sent_is_refused() {
    for fault in [BrokerFault::Refuse, BrokerFault::LoseMessage] {
        let broker = MemoryBroker::new();
        let web = connect(&broker);
        let _ctrl = serve(&*web, 1).await;
        broker.raise_alarm("no disk");
        broker.inject(fault);
        web.send(Route::Address(&address("CTRL")), message("m")).detach();
        let idle = begin_to_idle(&broker).await;
        broker.clear_alarm();
        soon(idle).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_those_who_waited_to_send_are_closed() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    broker.raise_alarm("no disk");
    web.send(Route::Address(&address("CTRL")), message("m")).detach();
    let idle = begin_to_idle(&broker).await;
    web.close().await;
    soon(idle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_what_a_task_is_about_to_send_during_an_alarm() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    broker.raise_alarm("no disk");
    let sender = Arc::clone(&web);
    tokio::spawn(async move { send(&*sender, "CTRL", "m").await });
    assert!(tokio::time::timeout(ms(10_000), broker.idle()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_what_a_task_is_about_to_send_into_a_delay() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    broker.inject(BrokerFault::Delay(ms(250)));
    let sender = Arc::clone(&web);
    tokio::spawn(async move { send(&*sender, "CTRL", "m").await });
    tokio::spawn(async move {
        while let Some(d) = ctrl.next().await {
            d.ack();
        }
    });
    assert_eq!(timed(broker.idle()).await.1, ms(251));
}

#[tokio::test(start_paused = true)]
async fn what_waits_beyond_its_deadline_is_not_sent_even_if_nobody_asks() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(1_000));
    let late = expiring("m", &*web, ms(300));
    let waiting = web.send(Route::Address(&address("CTRL")), late);
    tokio::time::sleep(ms(2_000)).await;
    assert!(take_ready(&mut consumer).is_empty());
    let answer = soon(waiting).await;
    assert!(matches!(answer, Err(PublishError::NotSent(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_shorten_a_cut() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(5_000));
    broker.restart();
    let (_, time) = timed(web.status().wait_for(Status::is_ready)).await;
    assert_eq!(time, ms(5_000));
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_direct_reply_address_need_not_reach_anybody() {
    let web = connect(&MemoryBroker::new());
    let to = ReplyTo::queue("amq.rabbitmq.reply-to.g1h2");
    web.send(Route::Reply(&to), message("m")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_delay() {
    let web = connect(&MemoryBroker::new());
    let _ = web
        .send(Route::Delayed { delay: Duration::MAX, jitter: ms(0), queue: "CTRL" }, message("m"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_cut() {
    let broker = MemoryBroker::new();
    let (link, _web) = link(&broker);
    link.cut_for(Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_fault() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 1).await;
    broker.inject(BrokerFault::Delay(Duration::MAX));
    let _ = send(&*web, "CTRL", "m").await;
}

#[tokio::test(start_paused = true)]
async fn cuts_alone_do_not_count_as_lost_by_a_bug() {
    let broker = MemoryBroker::builder().reconnect_delay(ms(1)).build();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 1).await;
    web.send(Route::Address(&address("CTRL")), durable("m")).await.unwrap();
    for _ in 0..30 {
        let held = next(&mut consumer).await;
        link.cut();
        drop(held);
    }
    drop(next(&mut consumer).await); // the first time that somebody loses it
    assert!(ready(&broker, "CTRL:dead").is_empty());
}

#[tokio::test(start_paused = true)]
async fn sending_a_delayed_message_on_a_closed_connection_declares_nothing() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    web.close().await;
    let route = Route::Delayed { delay: ms(1_000), jitter: ms(0), queue: "CTRL" };
    assert_eq!(web.send(route, message("m")).await, Err(PublishError::Closed));
    assert_eq!(broker.queues(), []);
}

/// Polls all the time, so that it looks in the very moment of a reconnect, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reconnect_never_shows_deliveries_that_can_not_be_settled_yet() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let broker = MemoryBroker::builder().reconnect_delay(ms(0)).build();
    let (link, ctrl) = link(&broker);
    let mut consumer = serve(&*ctrl, 1).await;
    send(&*ctrl, "CTRL", "m").await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(AtomicU64::new(0));
    let (o, s) = (over.clone(), seen.clone());
    let thread = std::thread::spawn(move || {
        while !o.load(Ordering::Relaxed) {
            if let Some(delivery) = consumer.try_next() {
                s.fetch_add(1, Ordering::Relaxed);
                delivery.requeue();
            }
        }
    });
    for n in 0..3000 {
        link.cut();
        let _ = link.status().wait_for(Status::is_ready).await;
        let before = seen.load(Ordering::Relaxed);
        let start = std::time::Instant::now();
        while seen.load(Ordering::Relaxed) == before {
            assert!(start.elapsed() < Duration::from_secs(2), "stuck after {n} cuts");
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_left_says_so_even_if_its_confirm_is_lost() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    for fault in [BrokerFault::LoseConfirm, BrokerFault::Duplicate, BrokerFault::Delay(ms(1))] {
        broker.inject(fault);
        let sent = web.send(Route::Address(&address("CTRL")), message("m"));
        assert!(sent.is_handed_over(), "{fault:?}");
    }
    take(&mut ctrl, 4).await;
}

#[tokio::test(start_paused = true)]
async fn idle_returns_when_what_waited_to_be_sent_is_withdrawn() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    broker.raise_alarm("no disk");
    let waiting = ["1", "2"].map(|body| web.send(Route::Address(&address("CTRL")), message(body)));
    let idles = [broker.clone(), broker.clone()]
        .map(|broker| tokio::spawn(async move { broker.idle().await }));
    tokio::time::sleep(ms(10)).await;
    for publish in waiting {
        drop(publish);
        tokio::task::yield_now().await;
    }
    for idle in idles {
        soon(idle).await.unwrap();
    }
}

/// As over `gear-amqp`, which does not send it.
#[tokio::test(start_paused = true)]
async fn what_is_sent_after_its_deadline_is_not_sent() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let late = || expiring("late", &*web, ms(0));
    let answer = web.send(Route::Address(&address("CTRL")), late()).await;
    assert!(matches!(answer, Err(PublishError::NotSent(_))), "{answer:?}");
    let answer = web.send(Route::Event(&"a".parse().unwrap()), late()).await;
    assert!(matches!(answer, Err(PublishError::NotSent(_))), "{answer:?}");
    assert!(take_ready(&mut ctrl).is_empty());
}

/// What is kept, or answers, has no deadline of its own: that of the request says nothing of it.
#[tokio::test(start_paused = true)]
async fn what_is_set_aside_waits_for_the_broker_beyond_the_deadline_of_the_request() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 10).await);
    broker.raise_alarm("no memory");
    let request = expiring("m", &*web, ms(100));
    let aside = web.send(Route::Dead(&CTRL), request);
    tokio::time::sleep(ms(300)).await;
    broker.clear_alarm();
    assert_eq!(soon(aside).await, Ok(()));
    assert_eq!(ready(&broker, "CTRL:dead"), ["m"]);
}
