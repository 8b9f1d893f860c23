//! The model, gear-memory and RabbitMQ.

mod flaws;
mod questions;
mod sequences;
mod serial;
mod topics;
