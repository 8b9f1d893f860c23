//! The model, gear-memory and a RabbitMQ that others may use too.

mod flaws;
mod questions;
mod sequences;
mod topics;
