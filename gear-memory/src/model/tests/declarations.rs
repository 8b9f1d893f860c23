//! Names, declaring the same again, exclusive queues, and how queues end.

use topology::{ExchangeKind, QueueType};

use super::*;

#[test]
fn the_prefix_amq_is_reserved() {
    let mut broker = Broker::new();
    let refused = broker.declare(&queue("amq.mine"));
    assert!(matches!(refused, Err(Refusal::AccessRefused(_))), "{refused:?}");
    let refused = broker.model.declare_exchange(&exchange("amq.mine", ExchangeKind::Topic));
    assert!(matches!(refused, Err(Refusal::AccessRefused(_))), "{refused:?}");
    broker.queue(&queue("amqp"));
}

#[test]
fn line_breaks_are_stripped_from_names() {
    let mut broker = Broker::new();
    let id = broker.queue(&queue("a\r\nb\n"));
    assert_eq!(broker.queue(&queue("ab")), id, "the same queue");
    assert_eq!(broker.send("ab", "m").queues, 1);
    let one = broker.model.declare_exchange(&exchange("t\r\n", ExchangeKind::Topic)).unwrap();
    assert_eq!(broker.model.exchange("t"), Ok(one));
}

#[test]
fn line_breaks_stay_in_routing_keys() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a\n")]);
    assert_eq!(broker.publish("t", "a", "m").queues, 0);
    assert_eq!(broker.publish("t", "a\n", "m").queues, 1);
}

#[test]
fn an_empty_name_lets_the_broker_choose_a_new_one_each_time() {
    let mut broker = Broker::new();
    let ids = [broker.queue(&queue("")), broker.queue(&queue("")), broker.queue(&queue("\r\n"))];
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    for state in broker.model.queues() {
        assert!(state.name().starts_with("amq.gen-"), "{}", state.name());
    }
}

#[test]
fn a_name_has_at_most_255_bytes() {
    let mut broker = Broker::new();
    broker.queue(&queue(&"q".repeat(255)));
    let refused = broker.declare(&queue(&"q".repeat(256)));
    assert!(matches!(refused, Err(Refusal::PreconditionFailed(_))), "{refused:?}");
}

#[test]
fn names_are_case_sensitive() {
    let mut broker = Broker::new();
    broker.bound("q", &[]);
    broker.bound("Q", &[]);
    broker.send("Q", "m");
    assert_eq!(broker.reached(), ["Q"]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut broker = Broker::new();
    assert!(matches!(broker.model.queue("q"), Err(Refusal::NotFound(_))));
    assert!(matches!(broker.model.exchange("t"), Err(Refusal::NotFound(_))));
    let options = consume(ConnectionId::default());
    assert!(matches!(broker.try_consume("q", options), Err(Refusal::NotFound(_))));
}

#[test]
fn declaring_the_same_again_changes_nothing() {
    let mut broker = Broker::new();
    let spec = topology::Queue { max_length: Some(9), ..queue("q") };
    let id = broker.queue(&spec);
    broker.send("q", "m");
    assert_eq!(broker.queue(&spec), id);
    assert_eq!(broker.ready("q"), ["m"]);

    let spec = exchange("t", ExchangeKind::Topic);
    let id = broker.model.declare_exchange(&spec).unwrap();
    broker.bind("q", "t", "a").unwrap();
    assert_eq!(broker.model.declare_exchange(&spec), Ok(id));
    assert_eq!(broker.publish("t", "a", "m").queues, 1);
}

#[test]
fn declaring_a_queue_with_any_other_argument_is_refused() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    for other in [
        topology::Queue { exclusive: true, ..queue("q") },
        topology::Queue { auto_delete: true, ..queue("q") },
        topology::Queue { queue_type: QueueType::Quorum, ..queue("q") },
        topology::Queue { expires: Some(ms(1)), ..queue("q") },
        topology::Queue { message_ttl: Some(ms(1)), ..queue("q") },
        topology::Queue { dead_letter_exchange: Some(key("")), ..queue("q") },
        topology::Queue { max_length: Some(1), ..queue("q") },
    ] {
        let refused = broker.declare(&other);
        assert!(matches!(refused, Err(Refusal::PreconditionFailed(_))), "{other:?}: {refused:?}");
    }
}

#[test]
fn declaring_an_exchange_of_another_kind_is_refused() {
    let mut broker = Broker::new();
    broker.topic("t");
    let internal = topology::Exchange { internal: true, ..exchange("t", ExchangeKind::Topic) };
    for other in [exchange("t", ExchangeKind::Direct), internal] {
        let refused = broker.model.declare_exchange(&other);
        assert!(matches!(refused, Err(Refusal::PreconditionFailed(_))), "{other:?}: {refused:?}");
    }
}

#[test]
fn an_exclusive_queue_is_locked_for_other_connections_and_goes_with_its_own() {
    let mut broker = Broker::new();
    let (mine, other) = (broker.connect(), broker.connect());
    let spec = topology::Queue { exclusive: true, ..queue("q") };
    let id = broker.declare_for(mine, &spec).unwrap();
    assert_eq!(broker.declare_for(mine, &spec), Ok(id));
    let refused = broker.declare_for(other, &spec);
    assert!(matches!(refused, Err(Refusal::ResourceLocked(_))), "{refused:?}");

    broker.send("q", "m");
    broker.drop_connection(mine);
    assert!(!broker.exists("q"));
    assert_eq!(broker.bytes(), 0);
    broker.declare_for(other, &spec).expect("nobody holds the name any more");
}

#[test]
fn an_exclusive_consumer_keeps_everybody_else_out_until_it_ends() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let alone = |broker: &mut Broker| Consume { exclusive: true, ..consume(broker.connect()) };
    let options = alone(&mut broker);
    let holder = broker.consume_as("q", options);
    let connection = broker.connect();
    for options in [alone(&mut broker), consume(connection)] {
        let refused = broker.try_consume("q", options);
        assert!(matches!(refused, Err(Refusal::AccessRefused(_))), "{refused:?}");
    }
    broker.cancel(&holder);
    let shared = broker.consume("q", 0);
    let options = alone(&mut broker);
    let refused = broker.try_consume("q", options.clone());
    assert!(matches!(refused, Err(Refusal::AccessRefused(_))), "it is in use: {refused:?}");
    broker.cancel(&shared);
    broker.consume_as("q", options);
}

#[test]
fn an_exclusive_consumer_lets_go_when_its_connection_is_lost() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let connection = broker.connect();
    broker.consume_as("q", Consume { exclusive: true, ..consume(connection) });
    broker.drop_connection(connection);
    broker.consume("q", 0);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { auto_delete: true, ..queue("q") });
    assert!(broker.exists("q"), "it waits for its first consumer");
    let (a, b) = (broker.consume("q", 1), broker.consume("q", 1));
    broker.send_all("q", &["1", "2", "3"]);
    broker.cancel(&a);
    assert!(broker.exists("q"));
    broker.cancel(&b);
    assert!(!broker.exists("q"));
    assert_eq!(broker.bytes(), 0, "with all that was in it, and all that was unsettled");
}

#[test]
fn an_auto_delete_queue_goes_with_the_connection_of_its_last_consumer() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { auto_delete: true, ..queue("q") });
    let connection = broker.connect();
    broker.consume_as("q", consume(connection));
    broker.send("q", "m");
    broker.drop_connection(connection);
    assert!(!broker.exists("q"));
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn a_queue_that_is_deleted_ends_its_consumers_and_leaves_no_binding() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a"), ("t", "#")]);
    broker.bound("other", &[]);
    let (mine, others) = (broker.consume("q", 1), broker.consume("other", 1));
    broker.send_all("q", &["unsettled", "ready"]);
    assert_eq!(broker.delete("q"), [mine.id]);
    assert_eq!(broker.publish("t", "a", "m").queues, 0);
    assert_eq!(broker.send("q", "m").queues, 0);
    assert_eq!(broker.bytes(), 0);
    broker.send("other", "m");
    assert_eq!(others.take(), ["m"]);
}

#[test]
fn a_consumer_that_was_cancelled_is_not_among_those_of_a_queue_that_is_deleted() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 0);
    broker.send("q", "m");
    let delivered = consumer.next();
    broker.cancel(&consumer);
    assert_eq!(broker.delete("q"), []);
    broker.settle(&consumer, &delivered, Verdict::Requeue);
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn a_queue_declared_again_after_its_end_starts_empty() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a")]);
    broker.send("q", "m");
    broker.delete("q");
    broker.queue(&queue("q"));
    assert!(broker.ready("q").is_empty());
    assert_eq!(broker.publish("t", "a", "m").queues, 0, "its bindings went, too");
}
