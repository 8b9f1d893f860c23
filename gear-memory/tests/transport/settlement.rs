//! When settlements reach the broker.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_settled_before_a_cut_is_settled() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    next(&mut ctrl).await.ack();
    tokio::time::sleep(ms(3_600_000)).await;
    link.cut();
    assert_eq!(take(&mut ctrl, 1).await, ["2!"]);
    assert!(ctrl.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_after_a_cut_comes_again() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let held = next(&mut ctrl).await;
    link.cut();
    held.ack();
    assert_eq!(take(&mut ctrl, 2).await, ["1!", "2!"]);
}

#[tokio::test(start_paused = true)]
async fn acks_reach_the_broker_even_if_the_consumer_is_never_looked_at_again() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let (mut one, mut two) = (serve(&*web, 10).await, serve(&*web, 10).await);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    next(&mut one).await.ack();
    next(&mut two).await.ack();
    assert_eq!(broker.stored_bytes(), 0);
}

/// An ack is kept for a batch, but not for long: what expires behind it is RabbitMQ's to say.
#[tokio::test(start_paused = true)]
async fn an_ack_reaches_the_broker_within_5_ms() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 4).await;
    send_all(&*web, "CTRL", &["1", "2", "3", "4"]).await;
    let to = address("CTRL");
    web.send(Route::Address(&to), expiring("5", &*web, ms(100))).await.unwrap();
    next(&mut ctrl).await.ack();
    // Whoever took it does something else for a while.
    tokio::time::sleep(ms(200)).await;
    assert_eq!(take_ready(&mut ctrl), ["2", "3", "4", "5"]);
    assert!(broker.messages("CTRL").is_empty());
}
