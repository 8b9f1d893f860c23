//! RabbitMQ as a backend of Gear: real AMQP 0-9-1 over [lapin](https://docs.rs/lapin), on
//! RabbitMQ 3.10 and later, 4.3 included.
//!
//! ```no_run
//! use gear_amqp::AmqpTransport;
//! use gear_api::{Context, Fault, Node, Operation, Service};
//! use std::sync::Arc;
//!
//! const CTRL: Service = Service::new("CTRL");
//! const SHOUT: Operation<String, String> = Operation::new("shout");
//!
//! async fn shout(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
//!     Ok(text.to_uppercase())
//! }
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let transport = AmqpTransport::connect("amqp://user:password@broker/shop?heartbeat=5").await?;
//! let node = Node::builder(transport, CTRL.at("host1")?).on(SHOUT, shout).start().await?;
//! # drop(node);
//! # Ok(())
//! # }
//! ```
//!
//! [`AmqpBuilder`] has the options, [`AmqpError`] says why there is no connection, and
//! [`Definitions`] is what an operator may import.
//!
//! # What it does
//!
//! - **Three channels**: one publishes, one consumes the queue that the instances of a service
//!   share, one consumes what is this instance's own; taps have a fourth, and who reads dead
//!   letters a fifth. Over two connections, because RabbitMQ under an alarm does not read those that publish, acks included.
//! - **Publishing**: persistent where the message asks for it, confirmed always, mandatory where
//!   somebody must be there. 1,000 are on their way at a time; each ends in exactly one outcome.
//!   What is unconfirmed when a connection is lost is sent again under the same id.
//! - **Consuming**: with prefetch. Acks are coalesced (those of 5 ms, or 64, or half of the
//!   prefetch; what is acked in such a moment comes again if the connection is lost in it), and wait
//!   for the reply that belongs to them, though no longer than 100 ms where that can not leave, as over
//!   a link that is stalled. What is settled after a reconnect does
//!   nothing: the broker delivers it again.
//! - **Staying up**: heartbeats, several brokers, growing pauses with jitter, every wait with the
//!   broker bounded. Queues that are deleted are declared again. A broker that stays silent
//!   while the link is open is left for the next one.
//!
//! # Promises under faults
//!
//! What was confirmed as routed is not lost while its queue lives; it may come twice, at most as
//! many for each fault as were unconfirmed and unsettled then, under one message id. A call has
//! one outcome. A connection that is lost is noticed within 2.5 heartbeats, and service is back
//! within seconds of the broker.
//!
//! # Whom it trusts
//!
//! Whoever may publish to its queues. lapin 4.12 reads what they send before this crate sees it:
//!
//! - A property or header name that is not UTF-8, which AMQP allows and RabbitMQ passes on, ends the
//!   connection, and the next one, until an operator removes the message. An error in the log says so.
//! - Headers nested thousands deep (hundreds, in an unoptimised build) overflow the stack of lapin's
//!   thread, which ends the process. With `RUST_MIN_STACK=67108864` in its environment there is room for
//!   as much as fits into a frame of 128 KiB.
//!
//! # Logs
//!
//! What matters is logged under the target `gear_amqp`. Have the log leave out lapin's
//! (`lapin=off`): it logs as errors what is expected here (a queue that is looked for and not
//! there), at WARN messages that were returned with all that is in them, and at TRACE its frames,
//! the login among them. Nothing of this crate ever shows a password.

mod builder;
mod consuming;
mod definitions;
mod endpoint;
mod error;
mod link;
mod publishing;
mod settings;
mod transport;
mod wire;

pub use {
    builder::{AmqpBuilder, TopologyMode},
    definitions::Definitions,
    error::AmqpError,
    transport::AmqpTransport,
};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
