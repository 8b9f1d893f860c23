//! Which queues a key leads to: patterns, literal keys, hops between exchanges, and the
//! group keys of the wire contract.

use gear_api::{Address, EventGroup, Feed, Instance, Pattern, ReplyTo, Service, topology};
use topology::ExchangeKind::{Direct, Fanout};

use super::*;

/// Whether a binding with `pattern` leads `key` on, through an exchange.
fn leads(pattern: &str, key: &str) -> bool {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", pattern)]);
    broker.publish("t", key, "m").queues == 1
}

#[test]
fn the_empty_key_has_no_words_and_no_star_matches_it() {
    assert!(leads("", ""));
    assert!(leads("#", ""));
    assert!(leads("#.#", ""));
    assert!(!leads("*", ""));
    assert!(!leads("#.*", ""));
    assert!(!leads("", "a"));
}

#[test]
fn a_star_matches_exactly_one_word_and_never_a_dot() {
    assert!(leads("*", "a"));
    assert!(leads("a.*.c", "a.b.c"));
    assert!(!leads("a.*", "a"));
    assert!(!leads("a.*", "a.b.c"));
    assert!(!leads("*", "a.b"));
}

#[test]
fn a_star_matches_an_empty_word() {
    assert!(leads("*.*", "."));
    assert!(leads("a.*", "a."));
    assert!(leads("*.a", ".a"));
    assert!(!leads("*", "."));
}

#[test]
fn a_hash_matches_zero_or_more_words_wherever_it_stands() {
    for key in ["a", "a.b", "a.b.c"] {
        assert!(leads("a.#", key), "{key}");
        assert!(leads("#", key), "{key}");
    }
    for key in ["z", "a.z", "a.b.z"] {
        assert!(leads("#.z", key), "{key}");
    }
    for key in ["a.z", "a.b.z", "a.z.z", "a.b.c.z"] {
        assert!(leads("a.#.z", key), "{key}");
    }
    assert!(!leads("a.#.z", "a.b"));
    assert!(!leads("a.#", "b.a"));
    assert!(leads("#.b.#", "a.b.c"));
}

#[test]
fn a_wildcard_within_a_word_is_literal() {
    assert!(leads("a#b", "a#b"));
    assert!(!leads("a#b", "axb"));
    assert!(!leads("a*", "ab"));
    assert!(!leads("#b.x", "b.x"));
}

#[test]
fn keys_are_case_sensitive() {
    assert!(!leads("a.b", "A.b"));
}

#[test]
fn wildcards_in_a_key_are_ordinary_words() {
    assert!(leads("A.*", "A.*"));
    assert!(leads("*.*", "A.*"));
    assert!(leads("A.#", "A.*"));
    assert!(!leads("A.h1", "A.*"));
    assert!(!leads("A.b", "#"));
}

#[test]
fn a_pattern_has_at_most_two_hashes() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.exchange("d", Direct);
    broker.bound("q", &[("t", "#.a.#")]);
    let refused = broker.bind("q", "t", "#.a.#.b.#");
    assert!(matches!(refused, Err(Refusal::PreconditionFailed(_))), "{refused:?}");
    broker.bind("q", "t", "a#.b#.c#").expect("these are letters");
    broker.bind("q", "d", "#.#.#").expect("a direct exchange has no patterns");

    let ids = (broker.model.exchange("t").unwrap(), broker.model.exchange("d").unwrap());
    let refused = broker.model.bind_exchange(ids.0, ids.1, &key("#.#.#"));
    assert!(matches!(refused, Err(Refusal::PreconditionFailed(_))), "{refused:?}");
}

#[test]
fn a_direct_exchange_compares_literally() {
    let mut broker = Broker::new();
    broker.exchange("d", Direct);
    broker.bound("star", &[("d", "a.*")]);
    broker.bound("word", &[("d", "a.b")]);
    broker.publish("d", "a.b", "m");
    assert_eq!(broker.reached(), ["word"]);
    broker.publish("d", "a.*", "m");
    assert_eq!(broker.reached(), ["star"]);
}

#[test]
fn a_fanout_exchange_ignores_the_key() {
    let mut broker = Broker::new();
    broker.exchange("f", Fanout);
    broker.bound("a", &[("f", "")]);
    broker.bound("b", &[("f", "other")]);
    assert_eq!(broker.publish("f", "whatever", "m").queues, 2);
    assert_eq!(broker.reached(), ["a", "b"]);
}

#[test]
fn a_queue_with_several_matching_bindings_gets_one_copy() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a.b"), ("t", "a.*"), ("t", "#"), ("t", "#.b")]);
    assert_eq!(broker.publish("t", "a.b", "m").queues, 1);
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn a_queue_at_the_end_of_several_hops_gets_one_copy() {
    let mut broker = Broker::new();
    for name in ["t", "left", "right", "end"] {
        broker.topic(name);
    }
    for (source, to) in [("t", "left"), ("t", "right"), ("left", "end"), ("right", "end")] {
        broker.bind_exchange(source, to, "#");
    }
    broker.bound("q", &[("t", "a"), ("left", "a"), ("end", "*")]);
    assert_eq!(broker.publish("t", "a", "m").queues, 1);
    assert_eq!(broker.ready("q"), ["m"]);
}

#[test]
fn exchanges_that_lead_in_a_circle_deliver_once() {
    let mut broker = Broker::new();
    for name in ["a", "b", "c"] {
        broker.topic(name);
    }
    for (source, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")] {
        broker.bind_exchange(source, to, "#");
    }
    broker.bound("q", &[("a", "#"), ("c", "#")]);
    for start in ["a", "b", "c"] {
        broker.publish(start, "x", "m");
        assert_eq!(broker.reached(), ["q"], "from {start}");
    }
}

#[test]
fn every_hop_compares_the_key_by_its_own_rule() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.exchange("d", Direct);
    broker.bind_exchange("t", "d", "*.*");
    broker.bound("q", &[("d", "a.*")]);
    assert_eq!(broker.publish("t", "a.b", "m").queues, 0);
    assert_eq!(broker.publish("t", "a.*", "m").queues, 1);
}

#[test]
fn an_unbound_queue_gets_nothing_more() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a"), ("t", "#")]);
    broker.unbind("q", "t", "#");
    assert_eq!(broker.publish("t", "b", "m").queues, 0);
    assert_eq!(broker.publish("t", "a", "m").queues, 1);
    broker.unbind("q", "t", "a");
    broker.unbind("q", "t", "never there");
    assert_eq!(broker.publish("t", "a", "m").queues, 0);
}

#[test]
fn a_queue_bound_twice_by_one_key_is_unbound_at_once() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("q", &[("t", "a"), ("t", "a")]);
    broker.unbind("q", "t", "a");
    assert_eq!(broker.publish("t", "a", "m").queues, 0);
}

#[test]
fn unbinding_one_queue_leaves_the_others_with_the_same_key() {
    let mut broker = Broker::new();
    broker.topic("t");
    broker.bound("a", &[("t", "k.#")]);
    broker.bound("b", &[("t", "k.#")]);
    broker.unbind("a", "t", "k.#");
    broker.publish("t", "k", "m");
    assert_eq!(broker.reached(), ["b"]);
}

#[test]
fn the_default_exchange_leads_to_every_queue_by_its_name_alone() {
    let mut broker = Broker::new();
    broker.bound("a.*", &[]);
    broker.bound("a.b", &[]);
    broker.send("a.*", "m");
    assert_eq!(broker.reached(), ["a.*"]);
    let refused = broker.bind("a.b", "", "a.*");
    assert!(matches!(refused, Err(Refusal::AccessRefused(_))), "{refused:?}");
}

#[test]
fn a_message_for_nobody_is_stored_nowhere() {
    let mut broker = Broker::new();
    broker.topic("t");
    let outcome = broker.publish("t", "a", "m");
    assert_eq!(outcome, Outcome { queues: 0, refused: false });
    assert_eq!(broker.bytes(), 0);
}

#[test]
fn sending_to_an_absent_queue_does_not_create_it() {
    let mut broker = Broker::new();
    assert_eq!(broker.send("q", "m").queues, 0);
    assert!(!broker.exists("q"));
    assert_eq!(broker.model.queues().count(), 0);
}

#[test]
fn a_durable_queue_without_consumers_counts_as_routed() {
    let mut broker = Broker::new();
    broker.queue(&queue("q"));
    assert_eq!(broker.send("q", "m"), Outcome { queues: 1, refused: false });
}

#[test]
fn copies_in_several_queues_share_one_body() {
    let mut broker = Broker::new();
    broker.exchange("f", Fanout);
    broker.bound("a", &[("f", "")]);
    broker.bound("b", &[("f", "")]);
    broker.publish("f", "", "one body for all");
    let bodies = ["a", "b"].map(|queue| broker.ready_messages(queue)[0].body().as_ptr());
    assert_eq!(bodies[0], bodies[1]);
}

// The wire contract: who hears which of the four forms of an address.

const CTRL: Service = Service::new("CTRL");
const REPO: Service = Service::new("REPO");

fn at(service: &Service, host: &str) -> Instance {
    service.at(host).unwrap()
}

/// Two instances of CTRL and one of REPO, with every kind of queue.
fn system() -> Broker {
    let mut broker = Broker::new().with_contract();
    for service in [CTRL, REPO] {
        broker.declaration(&topology::service(&service));
        broker.declaration(&topology::dead(&service));
    }
    for instance in [at(&CTRL, "h1"), at(&CTRL, "h2"), at(&REPO, "h1")] {
        broker.declaration(&topology::instance(&instance));
        let replies = ReplyTo::instance(&instance, "1");
        broker.declaration(&topology::replies(&replies));
    }
    let group = EventGroup::new(CTRL, "g").unwrap();
    broker.declaration(&topology::events(&group, &[Pattern::ALL]));
    broker
}

fn hearing(broker: &mut Broker, address: &Address) -> Vec<String> {
    broker.publish(&topology::exchange::ENTRY, &address.key(), "m");
    broker.reached()
}

#[test]
fn a_service_address_reaches_the_shared_queue_alone() {
    assert_eq!(hearing(&mut system(), &CTRL.into()), ["CTRL"]);
}

#[test]
fn an_instance_address_reaches_that_instance_alone() {
    assert_eq!(hearing(&mut system(), &at(&CTRL, "h1").into()), ["CTRL.h1"]);
}

#[test]
fn a_multicast_reaches_every_instance_of_the_service_once() {
    assert_eq!(hearing(&mut system(), &CTRL.all()), ["CTRL.h1", "CTRL.h2"]);
}

#[test]
fn a_broadcast_reaches_every_instance_once() {
    assert_eq!(hearing(&mut system(), &Address::Broadcast), ["CTRL.h1", "CTRL.h2", "REPO.h1"]);
}

#[test]
fn a_multicast_reaches_instances_whose_hosts_have_dots() {
    let mut broker = Broker::new().with_contract();
    broker.declaration(&topology::instance(&at(&CTRL, "db.example.com")));
    assert_eq!(hearing(&mut broker, &CTRL.all()), ["CTRL.db.example.com"]);
    assert_eq!(hearing(&mut broker, &Address::Broadcast), ["CTRL.db.example.com"]);
}

#[test]
fn an_address_of_somebody_absent_reaches_nobody() {
    let mut broker = system();
    assert!(hearing(&mut broker, &at(&CTRL, "h9").into()).is_empty());
    assert!(hearing(&mut broker, &Service::new("NONE").all()).is_empty());
}

#[test]
fn a_pattern_binding_of_an_older_layout_would_overhear_and_is_removed() {
    let mut broker = system();
    let instance = topology::instance(&at(&CTRL, "h1"));
    for stale in &instance.stale {
        broker.bind("CTRL.h1", &stale.exchange, &stale.key).unwrap();
    }
    assert_eq!(hearing(&mut broker, &at(&REPO, "h1").into()), ["CTRL.h1", "REPO.h1"]);
    for stale in &instance.stale {
        broker.unbind("CTRL.h1", &stale.exchange, &stale.key);
    }
    assert_eq!(hearing(&mut broker, &at(&REPO, "h1").into()), ["REPO.h1"]);
    assert_eq!(hearing(&mut broker, &Address::Broadcast), ["CTRL.h1", "CTRL.h2", "REPO.h1"]);
}

#[test]
fn the_reply_exchange_reaches_reply_queues_and_services_alone() {
    let mut broker = system();
    let queues: Vec<String> = broker.model.queues().map(|queue| queue.name().to_string()).collect();
    let mut open: Vec<String> = queues
        .into_iter()
        .chain(["CTRL.*".into(), "*.*".into(), "#".into(), "gear:retry.1000".into()])
        .filter(|name| broker.publish(&topology::exchange::REPLY, name, "m").queues > 0)
        .collect();
    open.sort();
    assert_eq!(open, ["CTRL", "CTRL.h1:reply.1", "CTRL.h2:reply.1", "REPO", "REPO.h1:reply.1"]);
}

#[test]
fn a_tap_on_everything_makes_every_key_count_as_routed() {
    let mut broker = system();
    let connection = broker.connect();
    let tap = topology::tap(Feed::Requests, &Pattern::ALL);
    let id = broker.declare_for(connection, &tap.queue).unwrap();
    let entry = broker.model.exchange(&topology::exchange::ENTRY).unwrap();
    broker.model.bind(id, entry, &tap.bindings[0].key).unwrap();
    assert_eq!(broker.publish("gear", "NOBODY", "m").queues, 1);
    assert_eq!(broker.publish("gear.reply", "NOBODY", "m").queues, 0, "taps do not see replies");
    broker.drop_connection(connection);
    assert_eq!(broker.publish("gear", "NOBODY", "m").queues, 0);
}
