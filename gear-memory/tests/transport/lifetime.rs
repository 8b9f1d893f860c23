//! Closing, dropping, and that nothing stays behind.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use gear_api::ConsumerEnd;

use super::*;

#[tokio::test(start_paused = true)]
async fn closing_twice_does_nothing() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    web.close().await;
    web.close().await;
    assert!(matches!(status(&*web), Status::Closed(_)));
}

#[tokio::test(start_paused = true)]
async fn after_a_close_nothing_is_sent_or_subscribed() {
    let broker = MemoryBroker::new();
    let (web, ctrl) = (connect(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 1).await;
    web.close().await;
    assert_eq!(send(&*web, "CTRL", "m").await, Err(PublishError::Closed));
    assert_eq!(join(&*web, "WEB.h1").await.map(drop), Err(SubscribeError::Closed));
    assert!(consumer.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_the_consumers_and_gives_back_what_they_had() {
    let broker = MemoryBroker::new();
    let (one, two) = (connect(&broker), connect(&broker));
    let mut first = serve(&*one, 10).await;
    send_all(&*two, "CTRL", &["acked", "held", "arrived"]).await;
    next(&mut first).await.ack();
    let held = next(&mut first).await;
    let mut second = serve(&*two, 10).await;
    one.close().await;
    assert!(first.next().await.is_none());
    assert_eq!(first.end(), Some(&ConsumerEnd::Closed));
    assert_eq!(take_ready(&mut second), ["held!", "arrived!"]);
    held.ack();
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_close_answers_those_who_wait_to_send() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut();
    let waiting = web.send(Route::Address(&address("CTRL")), message("m"));
    web.close().await;
    assert_eq!(soon(waiting).await, Err(PublishError::Closed));
    assert_eq!(idle_time(&broker).await, ms(1), "and nobody waits for it to come back");
}

async fn idle_time(broker: &MemoryBroker) -> Duration {
    timed(broker.idle()).await.1
}

#[tokio::test(start_paused = true)]
async fn a_close_answers_those_who_are_blocked() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    broker.raise_alarm("no disk");
    let waiting = web.send(Route::Address(&address("CTRL")), message("m"));
    web.close().await;
    assert_eq!(soon(waiting).await, Err(PublishError::Closed));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_of_a_connection_closes_it() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut status = web.status();
    let mut ctrl = serve(&*web, 1).await;
    drop(web);
    assert!(ctrl.try_next().is_none());
    assert_eq!(ctrl.end(), None, "a clone is left");
    drop(link);
    assert!(ctrl.next().await.is_none());
    assert_eq!(ctrl.end(), Some(&ConsumerEnd::Closed));
    assert!(matches!(&*status.borrow_and_update(), Status::Closed(_)));
}

#[tokio::test(start_paused = true)]
async fn connections_and_brokers_are_independent_of_the_handle_they_came_from() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    drop(broker);
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(take(&mut ctrl, 1).await, ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_named_broker_is_one_for_all_who_ask() {
    let (one, two) = (MemoryBroker::named("lifetime"), MemoryBroker::named("lifetime"));
    let _ctrl = serve(&*connect(&one), 1).await;
    assert!(two.queue("CTRL").is_some());
    assert!(MemoryBroker::named("another").queue("CTRL").is_none());
}

// Nothing stays behind: a body tells when it is freed.

/// Counts the bodies that are alive.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct Body(Alive);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        b"body"
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Alive {
    fn message(&self) -> Message {
        self.0.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from_owner(Body(self.clone()));
        Message::builder(Kind::Cast, "test").body(body).build()
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A broker with a message in every place where one can be.
async fn full_broker(alive: &Alive) -> (MemoryBroker, Vec<MemoryTransport>, Vec<Consumer>) {
    let broker = MemoryBroker::builder().record(100).build();
    let ((away, gone), (here, ctrl)) = (link(&broker), link(&broker));
    let to = |name: &str| address(name);
    let consumers = vec![
        serve(&*ctrl, 1).await,
        join(&*ctrl, "CTRL.h1").await.unwrap(),
        ask_as(&*ctrl, "CTRL.h1").await.0,
        join(&*gone, "CTRL.h2").await.unwrap(),
    ];
    for _ in 0..2 {
        ctrl.send(Route::Address(&to("CTRL")), alive.message()).await.unwrap(); // held, ready
    }
    ctrl.send(Route::Address(&to("*.*")), alive.message()).await.unwrap();
    let delayed = Route::Delayed { delay: ms(60_000), jitter: ms(0), queue: "CTRL" };
    ctrl.send(delayed, alive.message()).await.unwrap();
    broker.inject(gear_memory::BrokerFault::Delay(ms(60_000)));
    ctrl.send(Route::Address(&to("CTRL")), alive.message()).await.unwrap();
    away.cut_for(ms(60_000));
    gone.send(Route::Address(&to("CTRL")), alive.message()).detach();
    tokio::task::yield_now().await;
    assert_eq!(alive.count(), 6);
    (broker, vec![away, here], consumers)
}

/// Lets tasks that were told to end do so.
async fn settle_down() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_freed_with_its_last_handle_in_whatever_order_they_go() {
    for order in 0..6 {
        let alive = Alive::default();
        let (broker, links, consumers) = full_broker(&alive).await;
        let (mut broker, mut links, mut consumers) = (Some(broker), Some(links), Some(consumers));
        // The six orders of three things.
        let first = order % 3;
        let second = (first + 1 + order / 3) % 3;
        for which in [first, second, 3 - first - second] {
            match which {
                0 => drop(broker.take()),
                1 => drop(links.take()),
                _ => drop(consumers.take()),
            }
        }
        settle_down().await;
        assert_eq!(alive.count(), 0, "order {order}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_freed_after_cuts_restarts_and_deleted_queues() {
    let alive = Alive::default();
    let (broker, links, mut consumers) = full_broker(&alive).await;
    let held = next(&mut consumers[0]).await;
    broker.delete_queue("CTRL.h1");
    links[1].cut();
    tokio::time::sleep(ms(1_000)).await;
    broker.restart();
    tokio::time::sleep(ms(1_000)).await;
    drop((broker, links, consumers));
    settle_down().await;
    assert!(alive.count() > 0, "a delivery keeps its broker");
    drop(held);
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_acked_message_is_freed_at_once() {
    let alive = Alive::default();
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    web.send(Route::Address(&address("CTRL")), alive.message()).await.unwrap();
    next(&mut ctrl).await.ack();
    assert_eq!(broker.stored_bytes(), 0);
    assert_eq!(alive.count(), 0);
}

#[test]
fn a_broker_outlives_the_runtime_that_had_its_timers() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    runtime().block_on(async {
        drop(serve(&*web, 1).await);
        let message = expiring("1", &*web, ms(1));
        web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    });
    runtime().block_on(async {
        tokio::time::pause();
        let message = expiring("2", &*web, ms(60_000));
        web.send(Route::Address(&address("CTRL")), message).await.unwrap();
        tokio::time::sleep(ms(60_001)).await;
        assert!(ready(&broker, "CTRL").is_empty());
    });
}
