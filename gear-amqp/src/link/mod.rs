//! One connection to one broker, and what keeps it up.

pub(crate) mod board;
pub(crate) mod choice;
pub(crate) mod connection;
pub(crate) mod declare;
pub(crate) mod pause;
pub(crate) mod rpc;
pub(crate) mod supervisor;
