//! Length limits and times to live: what is refused, dropped or expired, and when.

use super::*;

// Length.

#[test]
fn a_full_queue_drops_its_oldest_message() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { max_length: Some(2), ..queue("q") });
    for body in ["1", "2", "3", "4"] {
        assert!(!broker.send("q", body).refused);
    }
    assert_eq!(broker.ready("q"), ["3", "4"]);
}

#[test]
fn a_queue_that_rejects_publishes_keeps_what_it_has() {
    let mut broker = Broker::new();
    broker.policy("q", Policy::new().max_length(2).overflow(Overflow::RejectPublish));
    broker.queue(&queue("q"));
    let refused = ["1", "2", "3"].map(|body| broker.send("q", body).refused);
    assert_eq!(refused, [false, false, true]);
    assert_eq!(broker.ready("q"), ["1", "2"]);
}

#[test]
fn one_queue_may_refuse_what_the_others_keep() {
    let mut broker = Broker::new();
    broker.exchange("f", topology::ExchangeKind::Fanout);
    for name in ["a", "full", "z"] {
        broker.bound(name, &[("f", "")]);
    }
    broker.policy("full", Policy::new().max_length(1).overflow(Overflow::RejectPublish));
    broker.publish("f", "", "1");
    let outcome = broker.publish("f", "", "2");
    assert_eq!(outcome, Outcome { queues: 3, refused: true });
    assert_eq!(broker.ready("a"), ["1", "2"]);
    assert_eq!(broker.ready("full"), ["1"]);
    assert_eq!(broker.ready("z"), ["1", "2"]);
}

#[test]
fn unsettled_messages_do_not_count_towards_the_length() {
    for overflow in [Overflow::DropHead, Overflow::RejectPublish] {
        let mut broker = Broker::new();
        broker.policy("q", Policy::new().max_length(1).overflow(overflow));
        broker.queue(&queue("q"));
        let consumer = broker.consume("q", 3);
        for body in ["1", "2", "3", "4"] {
            assert!(!broker.send("q", body).refused, "{overflow:?}");
        }
        assert_eq!(consumer.take(), ["1", "2", "3"]);
        assert_eq!(broker.ready("q"), ["4"]);
    }
}

#[test]
fn a_message_that_goes_straight_to_a_consumer_needs_no_room() {
    let mut broker = Broker::new();
    broker.queue(&topology::Queue { max_length: Some(0), ..queue("q") });
    broker.send("q", "nobody there");
    assert!(broker.ready("q").is_empty());
    let consumer = broker.consume("q", 0);
    broker.send("q", "m");
    assert_eq!(consumer.take(), ["m"]);
}

#[test]
fn the_smaller_of_the_two_lengths_counts() {
    let mut broker = Broker::new();
    broker.policy("*", Policy::new().max_length(2));
    broker.queue(&topology::Queue { max_length: Some(1), ..queue("a") });
    broker.queue(&topology::Queue { max_length: Some(9), ..queue("b") });
    for name in ["a", "b"] {
        broker.send_all(name, &["1", "2", "3"]);
    }
    assert_eq!((broker.ready("a").len(), broker.ready("b").len()), (1, 2));
}

#[test]
fn the_last_policy_that_matches_wins_for_queues_old_and_new() {
    let mut broker = Broker::new();
    broker.queue(&queue("old"));
    broker.policy("#", Policy::new().max_length(1));
    broker.policy("*", Policy::new().max_length(2));
    broker.policy("other", Policy::new().max_length(3));
    broker.queue(&queue("new"));
    for name in ["old", "new"] {
        broker.send_all(name, &["1", "2", "3", "4"]);
        assert_eq!(broker.ready(name), ["3", "4"], "{name}");
    }
}

// Expiry of messages.

#[tokio::test(start_paused = true)]
async fn a_message_expires_when_its_time_is_over_and_not_before() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    broker.send_expiring("q", "m", ms(100));
    broker.pass(ms(99)).await;
    assert_eq!(broker.ready("q"), ["m"]);
    broker.pass(ms(1)).await;
    assert!(broker.ready("q").is_empty());
    assert_eq!(broker.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_expire_at_the_head_of_the_queue_alone() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    broker.send_expiring("q", "1", ms(300));
    broker.send_expiring("q", "2", ms(100));
    broker.send("q", "3");
    broker.pass(ms(200)).await;
    assert_eq!(broker.ready("q"), ["1", "2", "3"], "2 hides behind 1");
    broker.pass(ms(100)).await;
    assert_eq!(broker.ready("q"), ["3"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_never_delivered() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send("q", "held");
    broker.send_expiring("q", "late", ms(100));
    broker.send("q", "next");
    tokio::time::advance(ms(100)).await; // and no tick: the delivery looks for itself
    assert_eq!(broker.settle_next(&consumer, Verdict::Ack), "held");
    assert_eq!(consumer.take(), ["next"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_being_handled_does_not_expire() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_expiring("q", "m", ms(100));
    broker.pass(ms(200)).await;
    assert_eq!(broker.model.queue_state("q").unwrap().unsettled(), 1);
    broker.settle_next(&consumer, Verdict::Requeue);
    assert!(consumer.take().is_empty(), "it expires when it comes back");
    assert_eq!(broker.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_delivered_at_once_does_not_expire_however_short_its_time() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_expiring("q", "now", ms(0));
    broker.send_expiring("q", "too late", ms(0));
    assert_eq!(consumer.take(), ["now"]);
    assert!(broker.ready("q").is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_shortest_of_all_times_to_live_counts() {
    let mut broker = Broker::new();
    broker.policy("q", Policy::new().message_ttl(ms(200)));
    broker.queue(&topology::Queue { message_ttl: Some(ms(100)), ..queue("q") });
    broker.policy("p", Policy::new().message_ttl(ms(100)));
    broker.queue(&topology::Queue { message_ttl: Some(ms(200)), ..queue("p") });
    broker.queue(&topology::Queue { message_ttl: Some(ms(900)), ..queue("m") });
    for name in ["q", "p", "m"] {
        broker.send_expiring(name, "own time", ms(100));
        broker.send_expiring(name, "long time", ms(100_000));
    }
    broker.pass(ms(100)).await;
    assert_eq!(broker.ready("m"), ["long time"]);
    assert!(broker.ready("q").is_empty());
    assert!(broker.ready("p").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_requeued_message_keeps_the_time_it_had_left() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    let consumer = broker.consume("q", 1);
    broker.send_expiring("q", "m", ms(100));
    broker.cancel(&consumer);
    broker.pass(ms(60)).await;
    broker.settle_next(&consumer, Verdict::Requeue);
    broker.pass(ms(39)).await;
    assert_eq!(broker.ready("q"), ["m"]);
    broker.pass(ms(1)).await;
    assert!(broker.ready("q").is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_timer_is_that_of_the_head() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    assert_eq!(broker.model.next_timer(), None);
    broker.send_expiring("q", "m", ms(100));
    assert_eq!(broker.model.next_timer(), Some(Instant::now() + ms(100)));
    broker.pass(ms(100)).await;
    assert_eq!(broker.model.next_timer(), None);
}

#[tokio::test(start_paused = true)]
async fn no_time_to_live_is_too_long() {
    let mut broker = Broker::new();
    let (message_ttl, expires) = (Some(Duration::MAX), Some(Duration::MAX));
    broker.queue(&topology::Queue { message_ttl, expires, ..queue("q") });
    broker.send("q", "m");
    broker.pass(ms(1_000_000)).await;
    assert_eq!(broker.ready("q"), ["m"]);
}

// Expiry of queues.

fn expiring(name: &str) -> topology::Queue {
    topology::Queue { expires: Some(ms(100)), ..queue(name) }
}

#[tokio::test(start_paused = true)]
async fn an_unused_queue_goes_with_what_is_in_it_and_without_dead_letters() {
    let mut broker = Broker::new();
    broker.topic("dlx");
    broker.bound("dead", &[("dlx", "#")]);
    broker.queue(&topology::Queue { dead_letter_exchange: Some(key("dlx")), ..expiring("q") });
    broker.send("q", "m");
    broker.pass(ms(99)).await;
    assert!(broker.exists("q"));
    broker.pass(ms(1)).await;
    assert!(!broker.exists("q"));
    assert!(broker.ready("dead").is_empty());
    assert_eq!(broker.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_comes_in_use_again_and_again_has_one_timer_and_goes_in_its_time() {
    let mut broker = Broker::new();
    for _ in 0..50 {
        broker.queue(&expiring("q"));
        let consumer = broker.consume("q", 0);
        broker.cancel(&consumer);
        assert_eq!(broker.model.timers.len(), 1);
        broker.pass(ms(7)).await;
    }
    broker.pass(ms(92)).await;
    assert!(broker.exists("q"));
    broker.pass(ms(1)).await;
    assert!(!broker.exists("q"));

    broker.queue(&expiring("q"));
    broker.delete("q");
    assert!(broker.model.timers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_a_consumer_is_in_use() {
    let mut broker = Broker::new();
    broker.queue(&expiring("q"));
    broker.pass(ms(50)).await;
    let consumer = broker.consume("q", 0);
    broker.pass(ms(10_000)).await;
    assert!(broker.exists("q"));
    broker.cancel(&consumer);
    broker.pass(ms(99)).await;
    assert!(broker.exists("q"), "its time starts when the consumer goes");
    broker.pass(ms(1)).await;
    assert!(!broker.exists("q"));
}

#[tokio::test(start_paused = true)]
async fn declaring_a_queue_again_is_using_it() {
    let mut broker = Broker::new();
    broker.queue(&expiring("q"));
    broker.pass(ms(60)).await;
    broker.queue(&expiring("q"));
    broker.pass(ms(60)).await;
    assert!(broker.exists("q"));
    broker.pass(ms(40)).await;
    assert!(!broker.exists("q"));
}

#[tokio::test(start_paused = true)]
async fn messages_do_not_keep_a_queue_alive() {
    let mut broker = Broker::new();
    broker.queue(&expiring("q"));
    broker.pass(ms(60)).await;
    broker.send("q", "m");
    broker.pass(ms(40)).await;
    assert!(!broker.exists("q"));
}

#[tokio::test(start_paused = true)]
async fn a_new_queue_does_not_inherit_the_timers_of_its_name() {
    let mut broker = Broker::new();
    broker.queue(&expiring("q"));
    broker.send_expiring("q", "m", ms(50));
    broker.delete("q");
    broker.queue(&queue("q"));
    broker.send("q", "m");
    broker.pass(ms(1_000)).await;
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn a_policy_shortens_a_queue_at_once_if_it_drops_the_oldest() {
    let mut broker = Broker::new();
    broker.queue(&queue("dead"));
    broker.topic("dlx");
    broker.bind("dead", "dlx", "#").unwrap();
    broker.queue(&topology::Queue { dead_letter_exchange: Some(key("dlx")), ..queue("q") });
    broker.queue(&queue("other"));
    for name in ["q", "other"] {
        broker.send_all(name, &["1", "2", "3", "4"]);
    }
    let refusing = Policy::new().max_length(1).overflow(Overflow::RejectPublish);
    broker.policy("q", refusing);
    assert_eq!(broker.ready("q").len(), 4);
    broker.policy("q", Policy::new().max_length(2));
    assert_eq!(broker.ready("q"), ["3", "4"]);
    assert_eq!(broker.ready("dead"), ["1", "2"]);
    assert_eq!(broker.ready("other").len(), 4);
}
