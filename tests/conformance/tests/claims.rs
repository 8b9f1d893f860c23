//! What is not claimed: refused by the backend, or out of reach of its tests. Neither passes in
//! silence.

use async_trait::async_trait;
use gear_api::BoxError;
use gear_conformance::{Backend, Cannot, Connection, Outcome, Report, Run, System, Time};
use gear_memory::MemoryBroker;

/// A backend whose author has written no more than must be.
struct Least;

struct Broker(MemoryBroker);

#[async_trait]
impl Backend for Least {
    fn name(&self) -> String {
        "the least".to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        Ok(Box::new(Broker(MemoryBroker::new())))
    }
}

#[async_trait]
impl System for Broker {
    async fn connect(&self) -> Result<Connection, BoxError> {
        Ok(Connection::new(self.0.connect()))
    }
}

fn run() -> Report {
    Run::default().threads(2).on(Least, |_| {})
}

#[test]
fn what_tests_cannot_do_is_not_claimed_and_all_else_passes() {
    let report = run();
    let failed: Vec<_> = report.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
    for suite in ["cuts", "restarts", "alarms", "limits"] {
        let of_suite = report.results.iter().filter(|result| result.suite == suite);
        for result in of_suite {
            let outcome = &result.outcome;
            let told = matches!(outcome, Outcome::NotClaimed(why) if why.contains("can not"));
            assert!(told, "{}: {outcome:?}", result.full_name());
        }
    }
    let passed = report.results.iter().filter(|result| result.outcome == Outcome::Passed).count();
    assert!(passed > 180, "only {passed} need no more than a connection");
}

/// A backend whose broker is not there.
struct Away;

#[async_trait]
impl Backend for Away {
    fn name(&self) -> String {
        "away".to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        Ok(Box::new(Self))
    }
}

#[async_trait]
impl System for Away {
    async fn connect(&self) -> Result<Connection, BoxError> {
        Err(Cannot("reach the broker").into())
    }
}

#[test]
fn who_can_not_connect_has_proven_nothing() {
    let report = Run::default().on(Away, |_| {});
    assert!(!report.is_passed());
    assert_eq!(report.failed().count(), report.results.len());
}

#[test]
fn the_tables_count_and_name_them() {
    let report = Run::default().only(|test| test.starts_with("limits::")).on(Least, |_| {});
    assert!(report.is_passed());
    let markdown = report.to_markdown();
    assert!(markdown.contains("## Conformance of the least"), "{markdown}");
    assert!(markdown.contains("| limits | 0 | 0 | 4 |"), "{markdown}");
    assert!(markdown.contains("- `limits::a_full_queue_refuses`: and keeps what it has; "));
    assert!(report.to_string().contains("not claimed"));
}
