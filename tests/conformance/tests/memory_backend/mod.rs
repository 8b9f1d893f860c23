//! gear-memory as a backend under test.

mod system;

use async_trait::async_trait;
use gear_api::BoxError;
use gear_conformance::{Backend, System, Time};
use gear_memory::MemoryBroker;

use system::Broker;

/// The broker in memory, a new one for each system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Whether on a paused clock or on threads.
    pub(crate) time: Time,
}

#[async_trait]
impl Backend for Memory {
    fn name(&self) -> String {
        match self.time {
            Time::Virtual => "gear-memory in virtual time".to_owned(),
            Time::Real => "gear-memory on threads".to_owned(),
        }
    }

    fn time(&self) -> Time {
        self.time
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        Ok(Box::new(Broker(MemoryBroker::new())))
    }
}
