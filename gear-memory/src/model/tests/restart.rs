//! What a restart of the broker leaves.

use super::*;

#[test]
fn only_durable_messages_survive() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    for (body, is_durable) in [("1", true), ("2", false), ("3", true)] {
        let message = if is_durable { durable(body) } else { message(body) };
        broker.publish_message("", "q", message, None);
    }
    broker.restart();
    assert_eq!(broker.ready("q"), ["1", "3"]);
}

#[test]
fn unsettled_messages_return_to_their_places() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    broker.consume("q", 2);
    for body in ["1", "2", "3"] {
        broker.publish_message("", "q", durable(body), None);
    }
    broker.restart();
    assert_eq!(broker.ready("q"), ["1", "2", "3"]);
}

#[test]
fn recovered_messages_of_a_classic_queue_count_as_redelivered() {
    let mut broker = Broker::new();
    for spec in [queue("classic"), quorum("quorum")] {
        broker.queue(&spec);
        broker.publish_message("", &spec.name, durable("m"), None);
    }
    broker.restart();
    assert_eq!(broker.consume("classic", 0).take(), ["m!"]);
    assert_eq!(broker.consume("quorum", 0).take(), ["m"], "it counts deliveries exactly");
}

#[test]
fn exclusive_queues_are_gone() {
    let mut broker = Broker::new();
    let connection = broker.connect();
    let spec = topology::Queue { exclusive: true, ..queue("q") };
    broker.declare_for(connection, &spec).unwrap();
    broker.publish_message("", "q", durable("m"), None);
    broker.restart();
    assert!(!broker.exists("q"));
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn exchanges_bindings_and_queues_survive() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a.#")]);
    broker.restart();
    assert_eq!(broker.publish("t", "a.b", "m").queues, 1);
    assert_eq!(broker.consume("q", 0).take(), ["m"]);
}

#[test]
fn consumers_do_not_survive() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 0);
    broker.restart();
    broker.send("q", "m");
    assert!(consumer.take().is_empty());
    assert_eq!(broker.ready("q"), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_unused_queue_starts_again() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { expires: Some(ms(100)), ..queue("q") });
    broker.consume("q", 0);
    broker.pass(ms(1_000)).await;
    broker.restart();
    broker.pass(ms(99)).await;
    assert!(broker.exists("q"));
    broker.pass(ms(1)).await;
    assert!(!broker.exists("q"));
}

/// Also of one that nobody used before (<https://www.rabbitmq.com/docs/ttl#queue-ttl>).
#[tokio::test(start_paused = true)]
async fn the_time_of_a_queue_without_consumers_starts_again() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { expires: Some(ms(100)), ..queue("q") });
    broker.pass(ms(60)).await;
    broker.restart();
    broker.pass(ms(99)).await;
    assert!(broker.exists("q"));
    broker.pass(ms(1)).await;
    assert!(!broker.exists("q"));
}
