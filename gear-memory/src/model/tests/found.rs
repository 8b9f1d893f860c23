//! What a review of the model against the sources of RabbitMQ found, one test for each.

use super::*;

#[test]
fn an_exclusive_queue_is_locked_for_consumers_of_other_connections() {
    let mut broker = Broker::new();
    let (mine, other) = (broker.connect(), broker.connect());
    broker.declare_for(mine, &topology::Queue { exclusive: true, ..queue("q") }).unwrap();
    let refused = broker.try_consume("q", consume(other));
    assert!(matches!(refused, Err(Refusal::ResourceLocked(_))), "{refused:?}");
    broker.consume_as("q", consume(mine));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_forth_when_the_oldest_is_dropped_expires_in_its_time() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { max_length: Some(1), ..queue("q") });
    broker.send("q", "without a time");
    broker.send_expiring("q", "m", ms(100));
    assert_eq!(broker.ready("q"), ["m"]);
    broker.pass(ms(100)).await;
    assert!(broker.ready("q").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_forth_in_a_restart_expires_in_its_time() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    broker.send("q", "not durable");
    broker.publish_message("", "q", durable("m"), Some(ms(100)));
    broker.restart();
    broker.pass(ms(100)).await;
    assert!(broker.ready("q").is_empty());
}

#[test]
fn a_message_that_comes_back_to_a_full_queue_drops_the_oldest() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { max_length: Some(1), ..queue("q") });
    let consumer = broker.consume("q", 1);
    broker.send_all("q", &["1", "2"]);
    broker.cancel(&consumer);
    broker.settle_next(&consumer, Verdict::Requeue);
    assert_eq!(broker.ready("q"), ["2"]);
}

#[test]
fn what_two_consumers_of_a_lost_connection_held_comes_back_in_its_old_order() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    for _ in 0..2 {
        broker.consume_as("q", Consume { prefetch: 2, ..consume(connection) });
    }
    broker.send_all("q", &["1", "2", "3", "4"]);
    let other = broker.consume("q", 0);
    broker.drop_connection(connection);
    assert_eq!(other.take(), ["1!", "2!", "3!", "4!"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_never_comes_back_by_itself_to_a_queue_where_it_expired() {
    // RabbitMQ looks at where it would go, not at where it has been before.
    let mut broker = Broker::new();
    broker.topic("dlx");
    broker.queue(&topology::Queue {
        message_ttl: Some(ms(10)),
        dead_letter_exchange: Some(key("dlx")),
        ..queue("q")
    });
    broker.bind("q", "dlx", "#").unwrap();
    broker.bound("other", &[("dlx", "#")]);
    broker.send("q", "m");
    broker.pass(ms(10)).await;
    assert_eq!(broker.ready("other"), ["m"], "only the queue in the circle does not get it");
    assert!(broker.ready("q").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_may_be_delayed_again_with_the_headers_it_came_with() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (exchange, declaration) = topology::delay(ms(1000));
    broker.model.declare_exchange(&exchange).unwrap();
    broker.declaration(&declaration);
    let consumer = broker.consume("q", 1);
    let mut again = message("m");
    for round in 0..3 {
        broker.publish_message(&exchange.name, "q", again, None);
        broker.pass(ms(1000)).await;
        let delivered = consumer.try_next().unwrap_or_else(|| panic!("lost in round {round}"));
        broker.settle(&consumer, &delivered, Verdict::Ack);
        again = delivered.message;
    }
}

#[test]
fn a_fanout_exchange_keeps_a_queue_until_its_last_binding_goes() {
    let mut broker = Broker::new();
    broker.exchange("f", topology::ExchangeKind::Fanout);
    broker.bound("q", &[("f", "a"), ("f", "b")]);
    broker.unbind("q", "f", "a");
    assert_eq!(broker.publish("f", "", "m").queues, 1);
}

#[test]
fn a_quorum_queue_stores_every_message_on_disk() {
    let mut broker = Broker::new();
    broker.queue(&quorum("q"));
    broker.send("q", "m");
    broker.restart();
    assert_eq!(broker.ready("q"), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_of_any_length_is_taken() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { message_ttl: Some(Duration::MAX), ..queue("q") });
    broker.send("q", "m");
}
