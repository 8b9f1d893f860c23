//! What a [`Transport`](gear_api::Transport) does, one subject a file.

pub(crate) mod addressing;
pub(crate) mod alarms;
pub(crate) mod bodies;
pub(crate) mod closing;
pub(crate) mod concurrency;
pub(crate) mod consumers;
pub(crate) mod cuts;
pub(crate) mod dead_letters;
pub(crate) mod delays;
pub(crate) mod events;
pub(crate) mod expiry;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod order;
pub(crate) mod poison;
pub(crate) mod prefetch;
pub(crate) mod properties;
pub(crate) mod publishing;
pub(crate) mod redelivery;
pub(crate) mod replies;
pub(crate) mod restarts;
pub(crate) mod settlement;
pub(crate) mod sharing;
pub(crate) mod taps;
