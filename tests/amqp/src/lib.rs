//! RabbitMQ brokers for tests, and the faults to try on them.
//!
//! | | |
//! |---|---|
//! | [`Broker::shared`] | the one broker of this process's tests; isolate with [`Broker::vhost`] or [`unique_system`] |
//! | [`Broker::private`] | one's own, to be killed, stopped and restarted; [`Options`] for TLS and settings |
//! | [`Proxy`] | stands between client and broker, and cuts, freezes or ignores |
//! | [`Cluster`] | three nodes in containers, to be killed, paused and cut off |
//!
//! Where RabbitMQ comes from, in this order:
//!
//! 1. `GEAR_TEST_AMQP_URL`: a broker that runs already (never stopped, never private).
//! 2. Docker, through testcontainers. The image is `GEAR_TEST_RABBITMQ_IMAGE`, by default
//!    [`DEFAULT_IMAGE`]. One that is not here is pulled, or else built from Debian's packages by
//!    `scripts/broker-image/build.sh`. `GEAR_TEST_RABBITMQ_IMAGE=none` goes straight to 3.
//! 3. A `rabbitmq-server` that is installed here, as a child process with ports and folders of
//!    its own. A private broker is one of these where that is possible, because it starts and
//!    dies faster, unless an image was asked for.
//!
//! Without any of them a test panics with one line that says what to install: it never passes by
//! skipping. Whatever was started goes when it is dropped, or when this process ends, even by
//! `kill -9`.
//!
//! What is here blocks threads of its own, never a test's runtime, and belongs to no runtime: many
//! `#[tokio::test]` of one process can share it.

mod broker;
mod cluster;
mod command;
mod error;
mod http;
mod io;
mod machine;
mod ports;
mod probe;
mod proxy;
mod tls;
mod unique;
mod vhost;
mod watchdog;

pub use broker::{Broker, Options, image, private_is_container};
pub use cluster::Cluster;
pub use error::Error;
pub use machine::DEFAULT_IMAGE;
pub use proxy::{Proxy, Target};
pub use tls::{Tls, USER as TLS_USER};
pub use unique::unique_system;
pub use vhost::Vhost;
