//! The model, gear-memory and a RabbitMQ that others may use too.

mod questions;
mod sequences;
mod topics;
