//! When settlements reach the broker.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_settled_before_a_cut_is_settled_when_it_had_reached_the_broker() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    next(&mut ctrl).await.ack();
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 1, "looking brings it there");
    link.cut();
    assert_eq!(take(&mut ctrl, 1).await, ["2!"]);
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
