//! The tests that every backend of Gear passes: over [`Transport`](gear_api::Transport), and over
//! [`Node`](gear_api::Node) and [`Client`](gear_api::Client) on top of it.
//!
//! Whoever writes a backend adds this crate to the dev-dependencies and a test target with
//! `harness = false`, says in some forty lines how a test gets a system of its own ([`Backend`],
//! [`System`]), and has them all:
//!
//! ```no_run
//! use async_trait::async_trait;
//! use gear_api::BoxError;
//! use gear_conformance::{Backend, Connection, System, Time};
//! use gear_memory::MemoryBroker;
//!
//! struct Memory;
//!
//! #[async_trait]
//! impl Backend for Memory {
//!     fn name(&self) -> String {
//!         "memory".to_owned()
//!     }
//!
//!     fn time(&self) -> Time {
//!         Time::Virtual
//!     }
//!
//!     async fn system(&self) -> Result<Box<dyn System>, BoxError> {
//!         Ok(Box::new(Broker(MemoryBroker::new())))
//!     }
//! }
//!
//! struct Broker(MemoryBroker);
//!
//! #[async_trait]
//! impl System for Broker {
//!     async fn connect(&self) -> Result<Connection, BoxError> {
//!         Ok(Connection::new(self.0.connect()))
//!     }
//!
//!     async fn quiet(&self) {
//!         self.0.idle().await;
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     gear_conformance::main(Memory)
//! }
//! ```
//!
//! What a system can do beyond that (cut a link, restart, look into a queue) it says by writing
//! more methods; each lets more tests run.
//!
//! # What a run tells
//!
//! A test has a name, and one line on what it proves (`--explain`). It ends as passed, failed or
//! not claimed: what [`Capabilities`](gear_api::Capabilities) does not promise is checked to be
//! refused with the typed error instead, and what a system can not bring about is said. The
//! table at the end is also written as Markdown (`--markdown FILE`).
//!
//! # Time
//!
//! On a backend with virtual time every test is exact. On a real broker the tests are sound: what
//! must come is awaited for 30 s, what must not come is looked for after all that must, and a
//! deadline that must pass is short. So a correct backend passes on a slow machine, too.

mod backend;
mod churn;
mod cli;
mod kit;
mod node;
mod refused;
mod report;
mod run;
mod suite;
mod transport;
mod world;

pub use backend::{Backend, Cannot, Connection, Full, Link, System, Time};
pub use cli::main;
pub use report::{Outcome, Report, TestResult};
pub use run::Run;

/// All tests, from the bottom up.
const SUITES: &[suite::Suite] = &[
    transport::addressing::SUITE,
    transport::sharing::SUITE,
    transport::order::SUITE,
    transport::prefetch::SUITE,
    transport::settlement::SUITE,
    transport::redelivery::SUITE,
    transport::poison::SUITE,
    transport::publishing::SUITE,
    transport::expiry::SUITE,
    transport::events::SUITE,
    transport::taps::SUITE,
    transport::replies::SUITE,
    transport::properties::SUITE,
    transport::headers::SUITE,
    transport::bodies::SUITE,
    transport::delays::SUITE,
    transport::dead_letters::SUITE,
    transport::limits::SUITE,
    transport::consumers::SUITE,
    transport::closing::SUITE,
    transport::concurrency::SUITE,
    transport::cuts::SUITE,
    transport::restarts::SUITE,
    transport::alarms::SUITE,
    node::addressing::SUITE,
    node::answers::SUITE,
    node::gathers::SUITE,
    node::calls::SUITE,
    node::casts::SUITE,
    node::retries::SUITE,
    node::dead_letters::SUITE,
    node::duplicates::SUITE,
    node::events::SUITE,
    node::nested::SUITE,
    node::handing_on::SUITE,
    node::serving::SUITE,
    node::shutdown::SUITE,
    node::layers::SUITE,
    node::load::SUITE,
    node::faults::SUITE,
    node::outages::SUITE,
];
