//! Who gets which message: order, turns, prefetch and priorities.

use super::*;

#[test]
fn messages_leave_in_the_order_in_which_they_came() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    broker.send_all("q", &["1", "2", "3"]);
    let consumer = broker.consume("q", 0);
    broker.send_all("q", &["4", "5"]);
    assert_eq!(consumer.take(), ["1", "2", "3", "4", "5"]);
}

#[test]
fn consumers_take_turns() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (a, b, c) = (broker.consume("q", 0), broker.consume("q", 0), broker.consume("q", 0));
    broker.send_all("q", &["1", "2", "3", "4", "5"]);
    assert_eq!(a.take(), ["1", "4"]);
    assert_eq!(b.take(), ["2", "5"]);
    assert_eq!(c.take(), ["3"]);
}

#[test]
fn a_message_goes_to_one_consumer_alone() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (a, b) = (broker.consume("q", 0), broker.consume("q", 0));
    broker.send("q", "m");
    assert_eq!((a.take().len(), b.take().len()), (1, 0));
}

#[test]
fn a_consumer_holds_no_more_than_its_prefetch() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 2);
    broker.send_all("q", &["1", "2", "3", "4"]);
    let (one, two) = (consumer.next(), consumer.next());
    assert!(consumer.try_next().is_none());
    assert_eq!(broker.ready("q"), ["3", "4"]);
    broker.settle(&consumer, &two, Verdict::Ack);
    assert_eq!(consumer.take(), ["3"]);
    broker.settle(&consumer, &one, Verdict::Reject);
    assert_eq!(consumer.take(), ["4"], "whatever the verdict, its place is free");
}

#[test]
fn a_full_consumer_is_skipped_and_rejoins_at_the_tail() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (a, b, c) = (broker.consume("q", 1), broker.consume("q", 0), broker.consume("q", 0));
    broker.send_all("q", &["a1", "b1", "c1", "b2", "c2", "b3"]);
    broker.settle_next(&a, Verdict::Ack);
    // The turn is c's; a comes behind it and behind b.
    broker.send_all("q", &["c3", "b4", "a2", "c4"]);
    assert_eq!(a.take(), ["a2"]);
    assert_eq!(b.take(), ["b1", "b2", "b3", "b4"]);
    assert_eq!(c.take(), ["c1", "c2", "c3", "c4"]);
}

/// So RabbitMQ does, 3.10 to 4.3.
#[test]
fn only_a_classic_queue_keeps_the_place_of_one_who_has_room_by_its_turn() {
    for (queue_type, first) in
        [(topology::QueueType::Classic, true), (topology::QueueType::Quorum, false)]
    {
        let mut broker = Broker::new();
        broker.queue(&topology::Queue { queue_type, ..queue("q") });
        let a = broker.consume("q", 1);
        broker.send("q", "a1");
        let b = broker.consume("q", 2);
        broker.settle_next(&a, Verdict::Ack);
        broker.send("q", "2");
        assert_eq!(a.take() == ["2"], first, "{queue_type:?}");
        assert_eq!(b.take() == ["2"], !first, "{queue_type:?}");
    }
}

#[test]
fn the_highest_priority_goes_first_while_it_has_capacity() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let mut join = |priority, prefetch| {
        let connection = broker.connect();
        broker.consume_as("q", Consume { priority, prefetch, ..consume(connection) })
    };
    let (low, high, also_high, middle) = (join(-1, 0), join(9, 1), join(9, 1), join(0, 1));
    broker.send_all("q", &["h1", "h2", "m", "l"]);
    assert_eq!(broker.settle_next(&also_high, Verdict::Ack), "h2");
    broker.send_all("q", &["h3", "l2"]);
    assert_eq!(high.take(), ["h1"]);
    assert_eq!(also_high.take(), ["h3"]);
    assert_eq!(middle.take(), ["m"]);
    assert_eq!(low.take(), ["l", "l2"]);
}

#[test]
fn consumers_of_the_same_priority_take_turns() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let mut join = |priority| {
        let connection = broker.connect();
        broker.consume_as("q", Consume { priority, ..consume(connection) })
    };
    let (a, low, b) = (join(5), join(1), join(5));
    broker.send_all("q", &["1", "2", "3", "4"]);
    assert_eq!(a.take(), ["1", "3"]);
    assert_eq!(b.take(), ["2", "4"]);
    assert!(low.take().is_empty());
}

#[test]
fn a_consumer_without_acks_has_settled_by_being_given() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    let options = Consume { no_ack: true, prefetch: 1, ..consume(connection) };
    let consumer = broker.consume_as("q", options);
    broker.send_all("q", &["1", "2"]);
    assert_eq!(broker.bytes(), 0);
    assert!(consumer.next().tag.is_none());
    broker.drop_connection(connection);
    assert!(broker.ready("q").is_empty(), "nothing comes back");
}

#[test]
fn the_key_travels_with_the_message() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "#")]);
    let consumer = broker.consume("q", 0);
    broker.publish("t", "a.b", "m");
    assert_eq!(consumer.next().key, "a.b");
}

#[test]
fn a_cancelled_consumer_gets_nothing_more_and_can_settle_what_it_has() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 2);
    broker.send_all("q", &["1", "2", "3"]);
    let (one, two) = (consumer.next(), consumer.next());
    broker.cancel(&consumer);
    broker.cancel(&consumer);
    broker.settle(&consumer, &one, Verdict::Ack);
    assert!(consumer.take().is_empty());
    assert_eq!(broker.ready("q"), ["3"]);
    broker.settle(&consumer, &two, Verdict::Requeue);
    assert_eq!(broker.ready("q"), ["2", "3"]);
}

#[test]
fn unsettled_messages_stay_unsettled_when_their_consumer_is_cancelled() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let (gone, other) = (broker.consume("q", 1), broker.consume("q", 0));
    broker.send("q", "m");
    broker.cancel(&gone);
    assert!(other.take().is_empty(), "gone may still settle it");
    assert_eq!(broker.model.queue_state("q").unwrap().unsettled(), 1);
}

#[test]
fn settling_twice_does_nothing() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 0);
    broker.send_all("q", &["1", "2"]);
    let one = consumer.next();
    broker.settle_all(&consumer, &[&one, &one], Verdict::Ack);
    broker.settle(&consumer, &one, Verdict::Requeue);
    assert_eq!(broker.model.queue_state("q").unwrap().unsettled(), 1);
    assert!(broker.ready("q").is_empty());
}

#[test]
fn a_tag_of_a_message_that_is_settled_does_not_settle_the_next_one() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_all("q", &["1", "2"]);
    let one = consumer.next();
    broker.settle(&consumer, &one, Verdict::Ack);
    let two = consumer.next();
    assert_ne!(one.tag, two.tag);
    broker.settle(&consumer, &one, Verdict::Ack);
    assert_eq!(broker.model.queue_state("q").unwrap().unsettled(), 1);
}

#[test]
fn one_queue_does_not_wait_for_another() {
    let mut broker = Broker::new();
    broker.exchange("f", topology::ExchangeKind::Fanout);
    broker.bound("slow", &[("f", "")]);
    broker.bound("fast", &[("f", "")]);
    broker.consume("slow", 1);
    let fast = broker.consume("fast", 0);
    for body in ["1", "2", "3"] {
        broker.publish("f", "", body);
    }
    assert_eq!(fast.take(), ["1", "2", "3"]);
    assert_eq!(broker.ready("slow"), ["2", "3"]);
}
