//! The tests of the tests: transports that are broken on purpose, each in one way, and the
//! tests that must catch it. A flaw that slips through fails the build.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod flaws {
    pub(crate) mod consumer;
    pub(crate) mod list;
    pub(crate) mod transport;
}
#[path = "memory_backend/system.rs"]
mod system;

use std::{collections::BTreeSet, time::Duration};

use gear_conformance::{Outcome, Report, Run};

use flaws::{
    list::{FLAWS, Flaw},
    transport::Flawed,
};

/// Long enough for any test in virtual time; short, since a flaw may make one go round.
const WALL_LIMIT: Duration = Duration::from_secs(10);

fn run(flaw: Option<&'static Flaw>, only: impl Fn(&str) -> bool + 'static) -> Report {
    Run::default().wall_limit(WALL_LIMIT).only(only).on(Flawed(flaw), |_| {})
}

/// What is wrong with the list, or with the tests, in one line each.
fn check(flaw: &'static Flaw) -> Vec<String> {
    let mut slips = Vec::new();
    for test in flaw.caught_by {
        let report = run(Some(flaw), move |name| name == *test);
        match report.results.first().map(|result| &result.outcome) {
            Some(Outcome::Failed(_)) => {}
            Some(other) => slips.push(format!("{:?}: {test} {other:?}", flaw.name)),
            None => slips.push(format!("{:?}: there is no test {test}", flaw.name)),
        }
    }
    slips
}

#[test]
fn every_flaw_is_caught_by_the_tests_that_are_named() {
    assert!(FLAWS.len() >= 25);
    let slips: Vec<_> = FLAWS.iter().flat_map(check).collect();
    assert!(slips.is_empty(), "not caught:\n{}", slips.join("\n"));
}

#[test]
fn without_a_flaw_everything_is_claimed_and_passes() {
    let report = run(None, |_| true);
    let failed: Vec<_> = report.failed().map(|(result, why)| (result.full_name(), why)).collect();
    let unclaimed: Vec<_> = report.not_claimed().map(|(result, _)| result.full_name()).collect();
    assert!(failed.is_empty() && unclaimed.is_empty(), "{failed:?} {unclaimed:?}");
    // And each suite is of use: it catches something.
    let named = |suite: &str| {
        let mut tests = FLAWS.iter().flat_map(|flaw| flaw.caught_by);
        tests.any(|test| test.starts_with(&format!("{suite}::")))
    };
    let idle: BTreeSet<_> =
        report.results.iter().map(|result| result.suite).filter(|suite| !named(suite)).collect();
    assert!(idle.is_empty(), "no flaw is caught by {idle:?}");
}

/// What a backend gives up, whoever stands on top of it takes up again.
#[test]
fn nodes_and_clients_go_on_where_a_deletion_ends_their_consumers() {
    let flaw = FLAWS.iter().find(|flaw| flaw.name == "a deleted queue ends its consumers").unwrap();
    for test in [
        "node-faults::a_queue_that_is_deleted_is_declared_and_consumed_again",
        "node-faults::a_reply_queue_that_is_deleted_is_replaced",
        "node-faults::a_subscription_that_ended_does_not_come_back_as_a_ghost",
    ] {
        let report = run(Some(flaw), move |name| name == test);
        let outcomes: Vec<_> = report.results.iter().map(|result| &result.outcome).collect();
        assert!(matches!(outcomes[..], [Outcome::Passed]), "{test}: {outcomes:?}");
    }
}

/// All tests on all flaws: how many catch each. Takes minutes.
#[test]
fn how_many_tests_catch_each_flaw() {
    if std::env::var_os("GEAR_TEST_LONG").is_none() {
        return;
    }
    for flaw in FLAWS {
        let report = run(Some(flaw), |_| true);
        let failed = report.failed().count();
        println!("{failed:4} tests catch: {}", flaw.name);
        assert!(failed > 0);
    }
}
