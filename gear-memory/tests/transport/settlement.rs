//! What becomes of a delivery: by each verdict, dropped, and after its connection is gone.

use gear_api::{HeaderValue, Verdict, topology::header};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_acked_message_is_forgotten() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send(&*web, "CTRL", "m").await.unwrap();
    next(&mut ctrl).await.ack();
    assert_eq!(broker.stored_bytes(), 0);
    assert!(take_ready(&mut ctrl).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_dropped() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send(&*web, "CTRL", "m").await.unwrap();
    next(&mut ctrl).await.reject();
    assert_eq!(broker.stored_bytes(), 0);
    assert!(take_ready(&mut ctrl).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_requeued_message_comes_again_before_its_successors() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    next(&mut ctrl).await.requeue();
    assert_eq!(take(&mut ctrl, 2).await, ["1!", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_requeue_may_go_on_for_ever() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    for _ in 0..100 {
        next(&mut ctrl).await.requeue();
    }
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_comes_again() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    drop(next(&mut ctrl).await);
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_token_is_a_dropped_delivery() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let (message, token) = next(&mut ctrl).await.into_parts();
    drop(message);
    assert!(ctrl.try_next().is_none(), "the token is what counts");
    drop(token);
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_does_not_lose_the_message() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let delivery = next(&mut ctrl).await;
    let handler = tokio::spawn(async move {
        let _held = delivery;
        // Not a panic message on the console of every test run.
        std::panic::resume_unwind(Box::new("a bug"));
    });
    assert!(handler.await.is_err());
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
}

/// Drops whatever comes, and counts, until nothing more comes.
async fn drop_all(broker: &MemoryBroker, consumer: &mut Consumer) -> u32 {
    let mut dropped = 0;
    loop {
        match consumer.try_next() {
            Some(delivery) => {
                dropped += 1;
                drop(delivery);
            }
            None => {
                soon(broker.idle()).await;
                return dropped;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_dropped_20_times_is_set_aside_with_the_reason() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "poison").await.unwrap();
    assert_eq!(drop_all(&broker, &mut ctrl).await, Verdict::MAX_RETURNS);

    let dead = broker.messages("CTRL:dead");
    let header = |name| dead[0].headers().get(name).and_then(HeaderValue::as_str);
    assert_eq!(text(&dead[0]), "poison");
    assert_eq!(header(header::DEAD_REASON), Some("given up after 20 lost deliveries"));
    assert_eq!(header(header::DEAD_QUEUE), Some("CTRL"));
}

#[tokio::test(start_paused = true)]
async fn a_poison_message_of_an_instance_is_set_aside_with_its_service() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
    send(&*web, "CTRL.h1", "poison").await.unwrap();
    drop_all(&broker, &mut h1).await;
    assert_eq!(ready(&broker, "CTRL:dead"), ["poison"]);
}

#[tokio::test(start_paused = true)]
async fn a_poison_message_does_not_block_its_neighbours() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 2).await;
    send_all(&*web, "CTRL", &["poison", "1", "2", "3"]).await;
    let mut handled = Vec::new();
    while let Some(delivery) = ctrl.try_next() {
        match &*label(&delivery) {
            "poison" | "poison!" => drop(delivery),
            other => {
                handled.push(other.to_owned());
                delivery.ack();
            }
        }
    }
    assert_eq!(handled, ["1", "2", "3"]);
    assert_eq!(ready(&broker, "CTRL:dead"), ["poison"]);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_after_a_cut_is_ignored() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    let held = [next(&mut ctrl).await, next(&mut ctrl).await, next(&mut ctrl).await];
    link.cut();
    let [one, two, three] = held;
    one.ack();
    two.reject();
    drop(three);
    assert_eq!(take(&mut ctrl, 3).await, ["1!", "2!", "3!"]);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_after_the_reconnect_settles_nothing_of_the_new_connection() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let stale = next(&mut ctrl).await;
    link.cut();
    let again = next(&mut ctrl).await;
    stale.ack();
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 1);
    again.requeue();
    assert_eq!(take(&mut ctrl, 1).await, ["m!"]);
}

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

#[tokio::test(start_paused = true)]
async fn settling_from_another_thread_works() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let delivery = next(&mut ctrl).await;
    std::thread::spawn(move || delivery.ack()).join().unwrap();
    assert_eq!(take(&mut ctrl, 1).await, ["2"]);
}
