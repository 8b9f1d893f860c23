//! Placeholder.

mod connect;

pub use connect::{ConnectError, connect};
pub use gear_api::*;
/// The broker in the process, with its faults, its record and its exact idle.
#[cfg(feature = "memory")]
pub use gear_memory as memory;
