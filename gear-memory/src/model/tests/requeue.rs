//! What comes back: to which place, with which mark, and how often.

use gear_api::HeaderValue;

use super::*;

/// A consumer of `q` that holds 1 to 5, while 6 waits.
fn holding(spec: &topology::Queue) -> (Broker, Mailbox, Vec<Delivered>) {
    let mut broker = Broker::new();
    broker.queue(spec);
    let consumer = broker.consume("q", 5);
    broker.send_all("q", &["1", "2", "3", "4", "5", "6"]);
    let held = std::iter::from_fn(|| consumer.try_next()).collect();
    broker.cancel(&consumer);
    (broker, consumer, held)
}

#[test]
fn a_classic_queue_puts_a_message_back_where_it_was() {
    let (mut broker, consumer, held) = holding(&queue("q"));
    for n in [3, 0, 4, 1] {
        broker.settle(&consumer, &held[n], Verdict::Requeue);
    }
    assert_eq!(broker.ready("q"), ["1", "2", "4", "5", "6"]);
    broker.settle(&consumer, &held[2], Verdict::Requeue);
    assert_eq!(broker.ready("q"), ["1", "2", "3", "4", "5", "6"]);
}

#[test]
fn a_quorum_queue_serves_what_came_back_first_in_the_order_of_its_return() {
    let (mut broker, consumer, held) = holding(&quorum("q"));
    for n in [3, 0, 4] {
        broker.settle(&consumer, &held[n], Verdict::Requeue);
    }
    assert_eq!(broker.ready("q"), ["4", "1", "5", "6"]);
}

#[test]
fn a_requeued_message_comes_again_before_what_came_later() {
    for spec in [queue("q"), quorum("q")] {
        let mut broker = Broker::new();
        broker.queue(&spec);
        let consumer = broker.consume("q", 1);
        broker.send_all("q", &["1", "2"]);
        broker.settle_next(&consumer, Verdict::Requeue);
        assert_eq!(consumer.take(), ["1!"], "{:?}", spec.queue_type);
    }
}

#[test]
fn only_what_was_delivered_before_is_marked_as_redelivered() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_all("q", &["1", "2"]);
    assert_eq!(broker.settle_next(&consumer, Verdict::Requeue), "1");
    assert_eq!(broker.settle_next(&consumer, Verdict::Ack), "1!");
    assert_eq!(broker.settle_next(&consumer, Verdict::Ack), "2");
}

#[test]
fn a_requeue_reaches_its_queue_alone() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("a", &[("t", "#")]);
    broker.bound("b", &[("t", "#")]);
    let consumer = broker.consume("a", 1);
    broker.publish("t", "k", "m");
    broker.settle_next(&consumer, Verdict::Requeue);
    assert_eq!(consumer.take(), ["m!"]);
    assert_eq!(broker.ready("b"), ["m"], "no second copy");
}

#[test]
fn a_requeued_message_goes_to_whoever_has_the_turn() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (a, b) = (broker.consume("q", 1), broker.consume("q", 1));
    broker.send("q", "m");
    broker.settle_next(&a, Verdict::Requeue);
    assert_eq!(b.take(), ["m!"], "b waited longer");
}

#[test]
fn what_a_lost_connection_held_comes_back_in_its_old_order() {
    for spec in [queue("q"), quorum("q")] {
        let mut broker = Broker::new();
        broker.queue(&spec);
        let connection = broker.connect();
        let consumer = broker.consume_as("q", Consume { prefetch: 3, ..consume(connection) });
        broker.send_all("q", &["1", "2", "3", "4"]);
        let held = [consumer.next(), consumer.next(), consumer.next()];
        broker.settle(&consumer, &held[1], Verdict::Ack);
        let consumer = broker.consume("q", 0);
        assert!(consumer.take().is_empty(), "4 went to the first one");
        broker.send("q", "5");
        broker.drop_connection(connection);
        assert_eq!(consumer.take(), ["5", "1!", "3!", "4!"], "{:?}", spec.queue_type);
    }
}

#[test]
fn what_a_lost_connection_held_is_not_given_to_another_of_its_consumers() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    let one = broker.consume_as("q", Consume { prefetch: 1, ..consume(connection) });
    let two = broker.consume_as("q", Consume { prefetch: 5, ..consume(connection) });
    broker.send("q", "m");
    assert_eq!(one.take(), ["m"]);
    broker.drop_connection(connection);
    assert!(two.take().is_empty());
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn what_a_cancelled_consumer_held_comes_back_with_its_connection() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    let consumer = broker.consume_as("q", consume(connection));
    broker.send("q", "m");
    broker.cancel(&consumer);
    broker.drop_connection(connection);
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn a_settlement_that_comes_after_the_connection_is_lost_does_nothing() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    let consumer = broker.consume_as("q", consume(connection));
    broker.send("q", "m");
    let delivered = consumer.next();
    broker.drop_connection(connection);
    broker.settle(&consumer, &delivered, Verdict::Ack);
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn a_handler_that_fails_does_not_lose_the_message() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    broker.settle_next(&consumer, Verdict::Dropped);
    assert_eq!(consumer.take(), ["m!"]);
}

// The delivery limit of quorum queues, counted as RabbitMQ 4.3 counts.

/// A quorum queue `q` with a limit of 2, which dead-letters to `dead`.
fn limited() -> Broker {
    let mut broker = Broker::new();
    broker.queue(&queue("dead"));
    broker.topic("dlx");
    broker.bind("dead", "dlx", "#").unwrap();
    broker.queue(&topology::Queue { dead_letter_exchange: Some(key("dlx")), ..quorum("q") });
    broker.policy("q", Policy::new().delivery_limit(2));
    broker
}

#[test]
fn a_message_that_fails_more_often_than_the_limit_is_dead_lettered() {
    let mut broker = limited();
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    for _ in 0..2 {
        broker.settle_next(&consumer, Verdict::Dropped);
        assert!(broker.ready("dead").is_empty());
    }
    broker.settle_next(&consumer, Verdict::Dropped);
    assert!(consumer.take().is_empty());
    assert_eq!(broker.ready("dead"), ["m"]);
}

#[test]
fn a_lost_connection_counts_towards_the_limit() {
    let mut broker = limited();
    broker.send("q", "m");
    for _ in 0..3 {
        assert!(broker.ready("dead").is_empty());
        let connection = broker.connect();
        broker.consume_as("q", consume(connection));
        broker.drop_connection(connection);
    }
    assert_eq!(broker.ready("dead"), ["m"]);
}

#[test]
fn a_requeue_does_not_count_towards_the_limit() {
    let mut broker = limited();
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    for _ in 0..50 {
        broker.settle_next(&consumer, Verdict::Requeue);
    }
    assert!(broker.ready("dead").is_empty());
}

#[test]
fn a_classic_queue_has_no_delivery_limit() {
    let mut broker = Broker::new();
    broker.policy("q", Policy::new().delivery_limit(2));
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    for _ in 0..50 {
        broker.settle_next(&consumer, Verdict::Dropped);
    }
    assert_eq!(consumer.take(), ["m!"]);
}

// What Gear's own backends do with a message that is lost again and again.

fn setting_aside(broker: &mut Broker) -> Mailbox {
    let connection = broker.connect();
    let set_aside = Some(key("CTRL"));
    broker.consume_as("q", Consume { prefetch: 1, set_aside, ..consume(connection) })
}

#[test]
fn a_message_that_is_lost_20_times_is_set_aside_with_the_reason() {
    let mut broker = Broker::new().with_contract();
    broker.declaration(&topology::dead(&gear_api::Service::new("CTRL")));
    broker.queue(&queue("q"));
    let consumer = setting_aside(&mut broker);
    broker.send_all("q", &["poison", "neighbour"]);
    for _ in 1..Verdict::MAX_RETURNS {
        broker.settle_next(&consumer, Verdict::Dropped);
    }
    assert!(broker.ready("CTRL:dead").is_empty());
    broker.settle_next(&consumer, Verdict::Dropped);
    assert_eq!(consumer.take(), ["neighbour"]);

    let dead = broker.ready_messages("CTRL:dead");
    let header = |name| dead[0].headers().get(name).and_then(HeaderValue::as_str);
    assert_eq!(text(&dead[0]), "poison");
    assert_eq!(header(topology::header::DEAD_REASON), Some("dropped 20 times"));
    assert_eq!(header(topology::header::DEAD_QUEUE), Some("q"));
}

#[test]
fn two_at_once_do_not_both_fit_where_there_is_room_for_one() {
    for mut broker in [Broker::new(), Broker::recording()].map(Broker::with_contract) {
        broker.declaration(&topology::dead(&gear_api::Service::new("CTRL")));
        let one = Policy::new().max_length(1).overflow(Overflow::RejectPublish);
        broker.policy("CTRL:dead", one);
        broker.queue(&queue("q"));
        let (connection, set_aside) = (broker.connect(), Some(key("CTRL")));
        let consumer = broker.consume_as("q", Consume { set_aside, ..consume(connection) });
        broker.send_all("q", &["1", "2"]);
        for _ in 0..Verdict::MAX_RETURNS {
            let both = [consumer.next(), consumer.next()];
            broker.settle_all(&consumer, &both.each_ref(), Verdict::Dropped);
        }
        assert_eq!(broker.ready("CTRL:dead"), ["1"]);
        broker.drop_connection(connection);
        assert_eq!(broker.ready("q"), ["2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_not_be_set_aside_stays_and_comes_again_a_second_later() {
    let mut broker = Broker::new().with_contract();
    broker.queue(&queue("q"));
    let consumer = setting_aside(&mut broker);
    broker.send_all("q", &["poison", "neighbour"]);
    for _ in 0..3 {
        for _ in 0..Verdict::MAX_RETURNS {
            broker.settle_next(&consumer, Verdict::Dropped);
        }
        broker.pass(ms(999)).await;
        assert!(consumer.take().is_empty());
        broker.pass(ms(1)).await;
    }
    assert_eq!(consumer.take(), ["poison!"]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_was_cancelled_is_rid_of_what_could_not_be_set_aside() {
    let mut broker = Broker::new().with_contract();
    broker.queue(&queue("q"));
    let consumer = setting_aside(&mut broker);
    broker.send("q", "poison");
    for _ in 1..Verdict::MAX_RETURNS {
        broker.settle_next(&consumer, Verdict::Dropped);
    }
    let held = consumer.next();
    broker.cancel(&consumer);
    broker.settle(&consumer, &held, Verdict::Dropped);
    broker.pass(ms(1_000)).await;
    assert_eq!(broker.ready("q"), ["poison"]);
    assert!(broker.model.consumers.is_empty());
}

#[test]
fn requeues_do_not_count_towards_being_set_aside() {
    let mut broker = Broker::new().with_contract();
    broker.declaration(&topology::dead(&gear_api::Service::new("CTRL")));
    broker.queue(&queue("q"));
    let consumer = setting_aside(&mut broker);
    broker.send("q", "m");
    for _ in 0..50 {
        broker.settle_next(&consumer, Verdict::Requeue);
    }
    assert!(broker.ready("CTRL:dead").is_empty());
}
