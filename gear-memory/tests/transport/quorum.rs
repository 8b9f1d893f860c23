//! Quorum queues, as the builder asks for them: which queues they are, and what they do.

use gear_api::{Pattern, topology::QueueType};
use gear_memory::{Policy, Recorded};

use super::*;

fn quorum() -> MemoryBroker {
    MemoryBroker::builder().queue_type(QueueType::Quorum).record(100).build()
}

/// What died, and why.
fn deaths(broker: &MemoryBroker) -> Vec<String> {
    let lines = broker.recorded().into_iter().map(|line: Recorded| line.to_string());
    lines.filter_map(|line| Some(line.split_once("die      ")?.1.to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_back_more_often_than_the_limit_is_dropped() {
    let broker = quorum();
    broker.set_policy(Pattern::new("CTRL"), Policy::new().delivery_limit(2));
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send_all(&*web, "CTRL", &["fails", "next"]).await;
    for _ in 0..3 {
        next(&mut ctrl).await.requeue(); // not begun, so no failure
        drop(next(&mut ctrl).await);
    }
    assert_eq!(take(&mut ctrl, 1).await, ["next"]);
    assert_eq!(deaths(&broker), ["cast test in CTRL: delivery_limit"]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_counts_towards_the_limit() {
    let broker = quorum();
    broker.set_policy(Pattern::new("CTRL"), Policy::new().delivery_limit(1));
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    for _ in 0..2 {
        let _held = next(&mut ctrl).await;
        link.cut();
    }
    soon(broker.idle()).await;
    assert!(take_ready(&mut ctrl).is_empty());
    assert_eq!(deaths(&broker), ["cast test in CTRL: delivery_limit"]);
}

#[tokio::test(start_paused = true)]
async fn a_classic_queue_knows_no_such_limit() {
    let broker = MemoryBroker::builder().record(100).build();
    broker.set_policy(Pattern::new("CTRL"), Policy::new().delivery_limit(1));
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    for _ in 0..10 {
        drop(next(&mut ctrl).await);
    }
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
    assert!(deaths(&broker).is_empty());
}

/// Only quorum queues keep over a restart what is not durable.
#[tokio::test(start_paused = true)]
async fn those_that_instances_share_are_quorum_queues_and_no_others() {
    let broker = quorum();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    drop(join(&*web, "CTRL.h1").await.unwrap());
    let group = gear_api::EventGroup::new("CTRL".parse().unwrap(), "log").unwrap();
    let queue = group.as_str().to_owned();
    let patterns = vec![Pattern::ALL];
    drop(web.subscribe(Subscription::Events { group, patterns, prefetch: 1 }).await.unwrap());

    send_all(&*web, "CTRL", &["shared"]).await;
    send_all(&*web, "CTRL.h1", &["own"]).await;
    let topic = "a".parse().unwrap();
    web.send(Route::Event(&topic), message("event")).await.unwrap();
    let service = "CTRL".parse().unwrap();
    web.send(Route::Dead(&service), message("dead")).await.unwrap();
    web.send(Route::Delayed { delay: ms(5_000), jitter: ms(0), queue: "CTRL" }, message("later"))
        .await
        .unwrap();
    broker.restart();
    soon(broker.idle()).await;
    let kept = |queue: &str| ready(&broker, queue);
    assert_eq!(kept("CTRL"), ["shared", "later"]);
    assert_eq!(kept(&queue), ["event"]);
    assert_eq!(kept("CTRL:dead"), ["dead"]);
    assert!(kept("CTRL.h1").is_empty());
}

/// As RabbitMQ does; a classic queue has them in their old order.
#[tokio::test(start_paused = true)]
async fn what_a_lost_connection_had_comes_back_in_the_order_in_which_it_was_taken() {
    for (broker, expected) in
        [(quorum(), ["2!", "3!", "1!"]), (MemoryBroker::new(), ["1!", "2!", "3!"])]
    {
        let (link, web) = link(&broker);
        let mut ctrl = serve(&*web, 3).await;
        send_all(&*web, "CTRL", &["1", "2", "3"]).await;
        next(&mut ctrl).await.requeue();
        let _held = [next(&mut ctrl).await, next(&mut ctrl).await, next(&mut ctrl).await];
        link.cut();
        assert_eq!(take(&mut ctrl, 3).await, expected);
    }
}

/// As RabbitMQ 4.3 counts them.
#[tokio::test(start_paused = true)]
async fn a_message_says_how_often_it_came_back_and_how_often_as_a_failure() {
    fn counts(delivery: &Delivery) -> [Option<i64>; 2] {
        let headers = delivery.message().headers();
        ["x-acquired-count", "x-delivery-count"].map(|name| headers.get(name)?.as_int())
    }
    let broker = quorum();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let delivery = next(&mut ctrl).await;
    assert_eq!(counts(&delivery), [None, None]);
    delivery.requeue();
    let delivery = next(&mut ctrl).await;
    assert_eq!(counts(&delivery), [Some(1), None]);
    link.cut();
    let again = next(&mut ctrl).await;
    assert_eq!(counts(&again), [Some(2), Some(1)]);
    // They are the broker's, and not sent on.
    let (message, settlement) = again.into_parts();
    settlement.ack();
    web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    assert_eq!(counts(&next(&mut ctrl).await), [None, None]);
    drop(delivery);
}

/// Closing gives back what nobody has looked at: that is no failure of anybody.
#[tokio::test(start_paused = true)]
async fn closing_does_not_count_towards_the_limit_what_nobody_took() {
    let broker = quorum();
    broker.set_policy(Pattern::new("CTRL"), Policy::new().delivery_limit(1));
    let sender = connect(&broker);
    drop(serve(&*sender, 1).await);
    send(&*sender, "CTRL", "m").await.unwrap();
    for _ in 0..3 {
        let web = connect(&broker);
        let _never_looked_at = serve(&*web, 10).await;
        web.close().await;
    }
    assert_eq!(ready(&broker, "CTRL"), ["m"]);
}
