//! Dead letters: why, where to, with which history, and how circles end.

use gear_api::HeaderValue;

use super::*;

/// `q` dead-letters to `dead`, by way of the exchange `dlx`.
fn with_dead_letters(spec: topology::Queue) -> Broker {
    let mut broker = Broker::new();
    broker.topic("dlx");
    broker.bound("dead", &[("dlx", "#")]);
    broker.queue(&topology::Queue { dead_letter_exchange: Some(key("dlx")), ..spec });
    broker
}

/// The entries of `x-death`, as `count reason queue exchange key`.
fn history(message: &Message) -> Vec<String> {
    let Some(HeaderValue::List(deaths)) = message.headers().get("x-death") else {
        return Vec::new();
    };
    deaths.iter().map(entry).collect()
}

fn entry(death: &HeaderValue) -> String {
    let HeaderValue::Table(fields) = death else { panic!("not a table: {death:?}") };
    let field = |name: &str| &fields.iter().find(|(other, _)| *other == name).unwrap().1;
    let text = |name| field(name).as_str().unwrap();
    let HeaderValue::List(keys) = field("routing-keys") else { panic!("no keys") };
    let keys: Vec<&str> = keys.iter().filter_map(HeaderValue::as_str).collect();
    let count = field("count").as_int().unwrap();
    let (reason, queue, exchange) = (text("reason"), text("queue"), text("exchange"));
    format!("{count} {reason} {queue} {exchange:?} {}", keys.join(","))
}

#[track_caller]
fn only_history(broker: &Broker, queue: &str) -> Vec<String> {
    let messages = broker.ready_messages(queue);
    assert_eq!(messages.len(), 1, "{messages:?}");
    history(&messages[0])
}

#[test]
fn a_rejected_message_is_dead_lettered_as_rejected() {
    let mut broker = with_dead_letters(queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    broker.settle_next(&consumer, Verdict::Reject);
    assert_eq!(only_history(&broker, "dead"), ["1 rejected q \"\" q"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_dead_lettered_as_expired_and_expires_no_more() {
    let mut broker = with_dead_letters(queue("q"));
    broker.send_expiring("q", "m", ms(100));
    broker.pass(ms(100)).await;
    assert_eq!(only_history(&broker, "dead"), ["1 expired q \"\" q"]);
    broker.pass(ms(1_000_000)).await;
    assert_eq!(broker.ready("dead"), ["m"]);
}

#[test]
fn a_surplus_message_is_dead_lettered_as_maxlen() {
    let mut broker = with_dead_letters(topology::Queue { max_length: Some(1), ..queue("q") });
    broker.send_all("q", &["old", "new"]);
    assert_eq!(broker.ready("dead"), ["old"]);
    assert_eq!(only_history(&broker, "dead"), ["1 maxlen q \"\" q"]);
}

#[test]
fn a_message_that_failed_too_often_is_dead_lettered_as_delivery_limit() {
    let mut broker = with_dead_letters(quorum("q"));
    broker.policy("q", Policy::new().delivery_limit(0));
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    broker.settle_next(&consumer, Verdict::Dropped);
    assert_eq!(only_history(&broker, "dead"), ["1 delivery_limit q \"\" q"]);
}

#[test]
fn a_refused_message_is_no_dead_letter() {
    let mut broker = with_dead_letters(queue("q"));
    broker.policy("q", Policy::new().max_length(1).overflow(Overflow::RejectPublish));
    broker.send("q", "1");
    assert!(broker.send("q", "2").refused);
    assert!(broker.ready("dead").is_empty());
}

#[test]
fn neither_acked_nor_deleted_messages_are_dead_lettered() {
    let mut broker = with_dead_letters(queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_all("q", &["acked", "unsettled", "ready"]);
    broker.settle_next(&consumer, Verdict::Ack);
    broker.delete("q");
    assert!(broker.ready("dead").is_empty());
}

#[test]
fn without_a_dead_letter_exchange_a_rejected_message_is_gone() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    broker.settle_next(&consumer, Verdict::Reject);
    assert!(consumer.take().is_empty());
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn a_dead_letter_for_an_absent_exchange_is_gone() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { dead_letter_exchange: Some(key("none")), ..queue("q") });
    let consumer = broker.consume("q", 1);
    broker.send("q", "m");
    broker.settle_next(&consumer, Verdict::Reject);
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn a_dead_letter_keeps_its_key_and_knows_its_exchange() {
    let mut broker = with_dead_letters(queue("q"));
    broker.topic("t");
    broker.bind("q", "t", "#").unwrap();
    let (consumer, dead) = (broker.consume("q", 1), broker.consume("dead", 1));
    broker.publish("t", "a.b", "m");
    broker.settle_next(&consumer, Verdict::Reject);
    let delivered = dead.next();
    assert_eq!(delivered.key, "a.b");
    assert_eq!(history(&delivered.message), ["1 rejected q \"t\" a.b"]);
    assert!(!delivered.redelivered, "it is new in this queue");
}

#[test]
fn the_history_has_one_entry_for_each_queue_and_reason_the_latest_first() {
    // A consumer of q rejects, and one of dead sends it back with its headers, as a retry does.
    let mut broker = with_dead_letters(topology::Queue { max_length: Some(1), ..queue("q") });
    let mut again = message("m");
    for _ in 0..3 {
        let consumer = broker.consume("q", 1);
        broker.publish_message("", "q", again, None);
        broker.settle_next(&consumer, Verdict::Reject);
        broker.cancel(&consumer);
        again = take_dead(&mut broker);
    }
    assert_eq!(history(&again), ["3 rejected q \"\" q"]);

    broker.publish_message("", "q", again, None);
    broker.send("q", "pushes it out");
    let again = take_dead(&mut broker);
    assert_eq!(history(&again), ["1 maxlen q \"\" q", "3 rejected q \"\" q"]);

    let consumer = broker.consume("q", 1);
    broker.settle_next(&consumer, Verdict::Ack);
    broker.publish_message("", "q", again, None);
    broker.settle_next(&consumer, Verdict::Reject);
    let again = take_dead(&mut broker);
    assert_eq!(history(&again), ["4 rejected q \"\" q", "1 maxlen q \"\" q"]);
}

fn take_dead(broker: &mut Broker) -> Message {
    let dead = broker.consume("dead", 1);
    let delivered = dead.next();
    broker.settle(&dead, &delivered, Verdict::Ack);
    broker.cancel(&dead);
    delivered.message
}

#[test]
fn a_history_that_does_not_fit_the_headers_does_not_lose_the_message() {
    let mut broker = with_dead_letters(queue("q"));
    let consumer = broker.consume("q", 1);
    let mut full = message("m").to_builder();
    full.headers_mut().insert("big", "x".repeat(16 * 1024 - 20)).unwrap();
    broker.publish_message("", "q", full.build(), None);
    broker.settle_next(&consumer, Verdict::Reject);
    assert_eq!(broker.ready("dead"), ["m"]);
}

#[test]
fn a_dead_letter_may_die_again_on_its_way() {
    let mut broker = with_dead_letters(topology::Queue { max_length: Some(0), ..queue("q") });
    broker.bound("end", &[]);
    broker.queue(&topology::Queue {
        max_length: Some(0),
        dead_letter_exchange: Some(key("dlx")),
        ..queue("second")
    });
    broker.exchange("first", topology::ExchangeKind::Direct);
    broker.bind("second", "first", "k").unwrap();
    broker.queue(&topology::Queue {
        max_length: Some(0),
        dead_letter_exchange: Some(key("first")),
        ..queue("k")
    });
    broker.send("k", "m");
    assert_eq!(only_history(&broker, "dead"), ["1 maxlen second \"first\" k", "1 maxlen k \"\" k"]);
}

#[test]
fn a_message_that_is_rejected_may_go_in_circles() {
    // Two queues that send each other what they reject: a consumer decides, so it may go on.
    let mut broker = Broker::new();
    broker.topic("to.a");
    broker.topic("to.b");
    for (name, other, own) in [("a", "to.b", "to.a"), ("b", "to.a", "to.b")] {
        broker.queue(&topology::Queue { dead_letter_exchange: Some(key(other)), ..queue(name) });
        broker.bind(name, own, "#").unwrap();
    }
    let (a, b) = (broker.consume("a", 1), broker.consume("b", 1));
    broker.publish("to.a", "k", "m");
    for _ in 0..5 {
        broker.settle_next(&a, Verdict::Reject);
        broker.settle_next(&b, Verdict::Reject);
    }
    let last = a.next();
    assert_eq!(history(&last.message), ["5 rejected b \"to.b\" k", "5 rejected a \"to.a\" k",]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_goes_in_circles_by_itself_is_dropped() {
    let mut broker = Broker::new();
    for (name, other) in [("a", "to.b"), ("b", "to.a")] {
        broker.queue(&topology::Queue {
            message_ttl: Some(ms(10)),
            dead_letter_exchange: Some(key(other)),
            ..queue(name)
        });
    }
    for (name, own) in [("a", "to.a"), ("b", "to.b")] {
        broker.topic(own);
        broker.bind(name, own, "#").unwrap();
    }
    broker.send("a", "m");
    for _ in 0..10 {
        broker.pass(ms(10)).await;
    }
    assert_eq!(broker.bytes(), 0);
}

// The delayed retry of the wire contract.

const SECOND: Duration = Duration::from_secs(1);

/// The exchange of a delay of one second, declared.
fn delay(broker: &mut Broker) -> Text {
    let (exchange, declaration) = topology::delay(SECOND);
    broker.model.declare_exchange(&exchange).unwrap();
    broker.declaration(&declaration);
    exchange.name
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_returns_to_exactly_the_queue_it_came_from() {
    let mut broker = Broker::new().with_contract();
    let ctrl = gear_api::Service::new("CTRL");
    broker.declaration(&topology::service(&ctrl));
    for host in ["h1", "h2"] {
        broker.declaration(&topology::instance(&ctrl.at(host).unwrap()));
    }
    let retry = delay(&mut broker);
    // One copy of a multicast failed, at h1: h2 must not hear of it again.
    broker.publish(&retry, "CTRL.h1", "m");
    broker.pass(SECOND - ms(1)).await;
    assert!(broker.ready("CTRL.h1").is_empty());
    broker.pass(ms(1)).await;
    assert_eq!(
        only_history(&broker, "CTRL.h1"),
        ["1 expired gear:retry.1000 \"gear.retry.1000\" CTRL.h1"]
    );
    assert_eq!(broker.reached(), ["CTRL.h1"]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_whose_queue_is_gone_is_gone() {
    let mut broker = Broker::new();
    let retry = delay(&mut broker);
    assert_eq!(broker.publish(&retry, "nobody", "m").queues, 1, "nobody looks there yet");
    broker.pass(SECOND).await;
    assert_eq!(broker.bytes(), 0);
    assert!(!broker.exists("nobody"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_shorter_expiration_returns_earlier() {
    // The jitter: 80 to 100 % of the step, by an expiration of each message.
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let retry = delay(&mut broker);
    broker.publish_message(&retry, "q", message("m"), Some(ms(800)));
    broker.pass(ms(800)).await;
    assert_eq!(broker.ready("q"), ["m"]);
}
