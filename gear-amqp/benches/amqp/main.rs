//! Measures gear-amqp beside raw lapin that gives the same guarantees.
//!
//! `GEAR_TEST_AMQP_URL=amqp://… cargo bench -p gear-amqp --bench amqp` prints the table that `BENCHMARKS.md`
//! explains. `-- NAME` runs only the groups with NAME in their titles, `-- NAME WHO` of those
//! only the contestants with WHO in their names. Contestants take turns, each with connections of
//! its own in each round; each figure is a median. What the broker was given is deleted at the
//! end.

mod both;
mod calls;
mod consuming;
mod measure;
mod place;
mod publishing;
mod raw;

use std::process::ExitCode;

use measure::Report;
use place::Place;

fn main() -> ExitCode {
    let Ok(url) = std::env::var("GEAR_TEST_AMQP_URL") else {
        eprintln!("set GEAR_TEST_AMQP_URL to the URL of a RabbitMQ, amqp://user:password@host/%2f");
        return ExitCode::from(2);
    };
    let place = Place::new(url);
    let mut report = Report::new();
    publishing::run(&mut report, &place);
    consuming::run(&mut report, &place);
    both::run(&mut report, &place);
    calls::run(&mut report, &place);
    report.print();
    ExitCode::SUCCESS
}
