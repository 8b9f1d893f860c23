//! The conformance suite on a real RabbitMQ: what every backend of Gear passes.
//!
//! Each test has a virtual host of its own on one broker, and each connection a proxy of its own,
//! which can be cut. The broker is this process's alone, so the tests that run alone may kill it;
//! only one from `GEAR_TEST_AMQP_URL` is somebody else's.

mod look;
mod system;

use std::sync::OnceLock;

use async_trait::async_trait;
use gear_api::BoxError;
use gear_conformance::{Backend, System, Time};
use gear_test_amqp::Broker;

use system::Host;

/// gear-amqp on the broker of this process.
struct Rabbit;

#[async_trait]
impl Backend for Rabbit {
    fn name(&self) -> String {
        static VERSION: OnceLock<String> = OnceLock::new();
        let version = VERSION.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            runtime.block_on(async { Broker::shared().await.version().to_owned() })
        });
        format!("RabbitMQ {version}{}", options())
    }

    fn time(&self) -> Time {
        Time::Real
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        Ok(Box::new(Host::new(Broker::shared().await).await))
    }
}

/// What `GEAR_TEST_AMQP_OPTIONS` adds to every URL, as a URL has it: `?connections=1`, or nothing.
fn options() -> String {
    let options = std::env::var("GEAR_TEST_AMQP_OPTIONS").unwrap_or_default();
    if options.is_empty() { options } else { format!("?{options}") }
}

fn main() -> std::process::ExitCode {
    gear_conformance::main(Rabbit)
}
