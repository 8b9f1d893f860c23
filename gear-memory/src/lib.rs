//! placeholder
mod broker;
mod fault;
mod inbox;
mod model;
mod now;
mod record;
mod shared;
mod ticker;
mod transport;

pub use broker::{MemoryBroker, MemoryBrokerBuilder, QueueInfo};
pub use fault::{Fault, Injection};
pub use model::{DeathReason, Overflow, Policy, Refusal};
pub use record::{Event, Label, Recorded};
pub use transport::MemoryTransport;
