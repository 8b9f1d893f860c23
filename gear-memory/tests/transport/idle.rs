//! `idle`: exactly when nothing more will happen by itself, and never later.

use gear_memory::BrokerFault;

use super::*;

/// Handles each message for so long.
fn handle_for(time: Duration, mut consumer: Consumer) {
    tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            tokio::time::sleep(time).await;
            delivery.ack();
        }
    });
}

async fn idle_time(broker: &MemoryBroker) -> Duration {
    timed(broker.idle()).await.1
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_do_it_takes_a_millisecond() {
    let broker = MemoryBroker::new();
    assert_eq!(idle_time(&broker).await, ms(1));
    let web = connect(&broker);
    let _ctrl = serve(&*web, 1).await;
    assert_eq!(idle_time(&broker).await, ms(1));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_busy_handler() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(300), serve(&*web, 1).await);
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(idle_time(&broker).await, ms(901));
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_what_a_handler_sends() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut first = serve(&*web, 1).await;
    handle_for(ms(50), join(&*web, "CTRL.h1").await.unwrap());
    let sender = Arc::clone(&web);
    tokio::spawn(async move {
        while let Some(delivery) = first.next().await {
            tokio::time::sleep(ms(20)).await;
            send(&*sender, "CTRL.h1", "and on").await.unwrap();
            delivery.ack();
        }
    });
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(71));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_delayed_message_and_its_handler() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(5), serve(&*web, 1).await);
    let route = Route::Delayed { delay: ms(1_000), jitter: ms(0), queue: "CTRL" };
    web.send(route, message("m")).await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(1_006));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_message_that_a_fault_holds_back() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(5), serve(&*web, 1).await);
    broker.inject(BrokerFault::Delay(ms(250)));
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(256));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_publisher_whose_confirm_is_lost_as_long_as_it_waits_itself() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let publish = || {
        broker.inject(BrokerFault::LoseConfirm);
        web.send(Route::Address(&address("CTRL")), message("m"))
    };
    let waits = tokio::spawn(publish());
    assert_eq!(idle_time(&broker).await, ms(30_001));
    assert!(matches!(waits.await.unwrap(), Err(PublishError::Unknown(_))));

    publish().detach();
    assert_eq!(idle_time(&broker).await, ms(1));

    let gives_up = tokio::spawn(tokio::time::timeout(ms(200), publish()));
    assert_eq!(idle_time(&broker).await, ms(201));
    assert!(gives_up.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_connection_to_come_back() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(400));
    assert_eq!(idle_time(&broker).await, ms(401));
    assert_eq!(status(&*web), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_those_who_wait_to_send() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(5), serve(&*web, 1).await);
    broker.raise_alarm("no disk");
    web.send(Route::Address(&address("CTRL")), message("m")).detach();
    assert!(tokio::time::timeout(ms(10_000), broker.idle()).await.is_err());
    broker.clear_alarm();
    assert_eq!(idle_time(&broker).await, ms(6));
}

#[tokio::test(start_paused = true)]
async fn it_does_not_wait_for_what_nobody_consumes() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let late = expiring("m", &*web, ms(10_000));
    web.send(Route::Address(&address("CTRL")), late).await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(1));
    assert_eq!(ready(&broker, "CTRL"), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_wait_for_a_tap_that_nobody_reads() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let feed = gear_api::Feed::Requests;
    let pattern = gear_api::Pattern::ALL;
    let mut tap = web.subscribe(Subscription::Tap { feed, pattern }).await.unwrap();
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(1));
    assert_eq!(take_ready(&mut tap), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_delivery_that_somebody_holds() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let held = next(&mut ctrl).await;
    assert!(tokio::time::timeout(ms(10_000), broker.idle()).await.is_err());
    held.ack();
    assert_eq!(idle_time(&broker).await, ms(1));
}

#[tokio::test(start_paused = true)]
async fn two_at_once_return_at_the_same_time() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(300), serve(&*web, 1).await);
    send(&*web, "CTRL", "m").await.unwrap();
    let (one, two) = tokio::join!(idle_time(&broker), idle_time(&broker));
    assert_eq!((one, two), (ms(301), ms(301)));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_leaves_the_others_alone() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    handle_for(ms(300), serve(&*web, 1).await);
    send(&*web, "CTRL", "m").await.unwrap();
    let (given_up, time) =
        tokio::join!(tokio::time::timeout(ms(100), broker.idle()), idle_time(&broker));
    assert!(given_up.is_err());
    assert_eq!(time, ms(301));
}

#[tokio::test(start_paused = true)]
async fn it_returns_when_every_task_has_come_to_rest() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    let done = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&done);
    tokio::spawn(async move {
        ctrl.next().await.unwrap().ack();
        for _ in 0..1_000 {
            tokio::task::yield_now().await; // busy, though the broker does not know
        }
        mark.store(true, Ordering::Relaxed);
    });
    send(&*web, "CTRL", "m").await.unwrap();
    soon(broker.idle()).await;
    assert!(done.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn it_sees_the_end_of_a_poison_message() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    tokio::spawn(async move { while ctrl.next().await.is_some() {} });
    send(&*web, "CTRL", "poison").await.unwrap();
    assert_eq!(idle_time(&broker).await, ms(1));
    assert_eq!(ready(&broker, "CTRL:dead"), ["poison"]);
}

/// Waits for idle while somebody holds a delivery, and then does something about it.
async fn idles_after(change: impl FnOnce(&MemoryBroker)) {
    let broker = MemoryBroker::new();
    let ctrl = connect(&broker);
    let mut consumer = serve(&*ctrl, 1).await;
    send(&*ctrl, "CTRL", "m").await.unwrap();
    let _held = next(&mut consumer).await;
    let waits = broker.clone();
    let idle = tokio::spawn(async move { waits.idle().await });
    tokio::time::sleep(ms(10)).await;
    change(&broker);
    soon(idle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_returns_when_the_queue_of_a_busy_handler_is_deleted() {
    idles_after(|broker| assert!(broker.delete_queue("CTRL"))).await;
}

#[tokio::test(start_paused = true)]
async fn it_sees_an_ack_that_a_consumer_would_keep_for_a_batch() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let delivery = next(&mut ctrl).await;
    tokio::spawn(async move {
        tokio::time::sleep(ms(10)).await;
        delivery.ack();
    });
    assert_eq!(idle_time(&broker).await, ms(11));

    send_all(&*web, "CTRL", &["1", "2"]).await;
    let held = [next(&mut ctrl).await, next(&mut ctrl).await];
    let given_up = tokio::time::timeout(ms(5), broker.idle());
    assert!(given_up.await.is_err());
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(broker.stored_bytes(), 0);
}

/// A delivery whose queue is deleted before its consumer takes it.
async fn idles_with_a_deleted_one(take: impl FnOnce(Consumer)) {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let ctrl = serve(&*web, 10).await;
    send(&*web, "CTRL", "m").await.unwrap();
    assert!(broker.delete_queue("CTRL"));
    let waits = broker.clone();
    let idle = tokio::spawn(async move { waits.idle().await });
    tokio::time::sleep(ms(10)).await;
    assert!(!idle.is_finished());
    take(ctrl);
    soon(idle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_returns_when_what_came_from_a_deleted_queue_is_taken() {
    idles_with_a_deleted_one(|mut ctrl| {
        tokio::spawn(async move {
            while let Some(delivery) = ctrl.next().await {
                delivery.ack();
            }
        });
    })
    .await;
    let sink = Arc::new(Acks::default());
    idles_with_a_deleted_one(|mut ctrl| {
        ctrl.forward(sink.clone());
        std::mem::forget(ctrl);
    })
    .await;
    assert_eq!(sink.take(), ["m"]);
    idles_with_a_deleted_one(drop).await;
}
