//! Whatever becomes of a message, its bytes are counted once and given back once. (That the
//! count is right after every step of every other test, [`Broker::check`] sees to.)

use super::*;

/// What a message costs beside its body and its headers.
const OVERHEAD: usize = 640;

#[test]
fn a_message_costs_its_body_its_headers_and_a_constant_in_every_queue() {
    let mut broker = Broker::new();
    broker.exchange("f", topology::ExchangeKind::Fanout);
    for name in ["a", "b", "c"] {
        broker.bound(name, &[("f", "")]);
    }
    let message = message("0123456789").to_builder().header("name", "value").unwrap().build();
    let each = 10 + message.headers().size() + OVERHEAD;
    broker.publish_message("f", "", message, None);
    assert_eq!(broker.bytes(), 3 * each);
}

type Way = (&'static str, fn(&mut Broker));

/// Every way out of the broker, for the one message in `q`.
const WAYS: &[Way] = &[
    ("ack", |broker| settle_one(broker, Verdict::Ack)),
    ("reject", |broker| settle_one(broker, Verdict::Reject)),
    ("requeue, then ack", |broker| {
        settle_one(broker, Verdict::Requeue);
        settle_one(broker, Verdict::Ack);
    }),
    ("failure, then ack", |broker| {
        settle_one(broker, Verdict::Dropped);
        settle_one(broker, Verdict::Ack);
    }),
    ("lost connection, then ack", |broker| {
        broker.consume("q", 0);
        broker.drop_all_connections();
        settle_one(broker, Verdict::Ack);
    }),
    ("no ack", |broker| {
        let connection = broker.connect();
        broker.consume_as("q", Consume { no_ack: true, ..consume(connection) });
    }),
    ("delete", |broker| drop(broker.delete("q"))),
    ("delete while it is unsettled", |broker| {
        broker.consume("q", 0);
        broker.delete("q");
    }),
    ("delete while a cancelled consumer has it", |broker| {
        let consumer = broker.consume("q", 0);
        broker.cancel(&consumer);
        broker.delete("q");
    }),
    ("restart, then delete", |broker| {
        broker.restart();
        broker.delete("q");
    }),
    ("restart while it is unsettled, then delete", |broker| {
        broker.consume("q", 0);
        broker.restart();
        broker.delete("q");
    }),
    ("too long a queue", |broker| {
        broker.policy("q", Policy::new().max_length(0));
        broker.send("q", "more");
    }),
    ("set aside, then delete", |broker| {
        broker.exchange(&topology::exchange::DEAD, topology::ExchangeKind::Direct);
        broker.bound("dead", &[(&topology::exchange::DEAD, "CTRL")]);
        let set_aside = Some(key("CTRL"));
        let connection = broker.connect();
        let consumer = broker.consume_as("q", Consume { set_aside, ..consume(connection) });
        for _ in 0..Verdict::MAX_RETURNS {
            broker.settle_next(&consumer, Verdict::Dropped);
        }
        broker.delete("dead");
    }),
];

fn settle_one(broker: &mut Broker, verdict: Verdict) {
    let consumer = broker.consume("q", 1);
    broker.settle_next(&consumer, verdict);
    broker.drop_all_connections();
}

#[test]
fn every_way_out_gives_back_what_the_way_in_has_taken() {
    for spec in [queue("q"), quorum("q")] {
        for make in [Broker::new, Broker::recording] {
            for (name, way) in WAYS {
                let mut broker = make();
                broker.queue(&spec);
                broker.send("q", "m");
                assert!(broker.bytes() > 0);
                way(&mut broker);
                assert_eq!(broker.bytes(), 0, "{name}, {:?}", spec.queue_type);
            }
        }
    }
}

#[test]
fn a_refused_or_unroutable_message_costs_nothing() {
    let mut broker = Broker::new();
    broker.policy("q", Policy::new().max_length(0).overflow(Overflow::RejectPublish));
    broker.queue(&queue("q"));
    assert!(broker.send("q", "m").refused);
    assert_eq!(broker.send("nobody", "m").queues, 0);
    assert_eq!(broker.bytes(), 0);
}
