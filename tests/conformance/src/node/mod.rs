//! What [`Node`](gear_api::Node) and [`Client`](gear_api::Client) do on top of a backend, one
//! subject a file. What is about virtual time, or about faults that only the broker in memory
//! can make, is tested beside it.

pub(crate) mod addressing;
pub(crate) mod answers;
pub(crate) mod calls;
pub(crate) mod casts;
pub(crate) mod dead_letters;
pub(crate) mod duplicates;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod gathers;
pub(crate) mod handing_on;
pub(crate) mod layers;
pub(crate) mod load;
pub(crate) mod nested;
pub(crate) mod outages;
pub(crate) mod retries;
pub(crate) mod serving;
pub(crate) mod shutdown;
