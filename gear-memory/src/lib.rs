//! A broker in the process, with RabbitMQ's rules: exchanges, bindings, queues, consumers,
//! acknowledgements, prefetch, redelivery, expiry, dead letters, limits, confirms.
//!
//! Business logic that is tested on it behaves the same on the network: it goes through the
//! same [`Transport`](gear_api::Transport) and the same [`Node`](gear_api::Node), and what
//! RabbitMQ does, it does. What is more than a real broker can give:
//!
//! - **virtual time**: under tokio's paused clock, timeouts, expiry and reconnects happen
//!   at once, in the same order each time; with a [`seed`](MemoryBrokerBuilder::seed), the
//!   same run down to the ids;
//! - **faults on demand**: [`MemoryTransport::cut`], [`MemoryBroker::restart`],
//!   [`raise_alarm`](MemoryBroker::raise_alarm), [`delete_queue`](MemoryBroker::delete_queue),
//!   [`expire`](MemoryBroker::expire) and [`inject`](MemoryBroker::inject) with a [`BrokerFault`];
//! - **the record**: [`MemoryBroker::recorded`], what happened, to read when an assertion
//!   fails;
//! - **an exact idle**: [`MemoryBroker::idle`] returns when nothing more will happen,
//!   instead of sleeping and hoping.
//!
//! ```
//! use gear_api::{Client, Context, Node, Operation, Service};
//! use gear_memory::{BrokerFault, MemoryBroker};
//! use std::{sync::Arc, time::Duration};
//!
//! const CTRL: Service = Service::new("CTRL");
//! const PING: Operation<(), String> = Operation::new("ping");
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = MemoryBroker::builder().seed(7).record(100).build();
//! let node = Node::builder(broker.connect(), CTRL.at("host1")?)
//!     .on(PING, async |_: Arc<()>, _: Context, ()| Ok("pong".to_owned()))
//!     .start()
//!     .await?;
//! let client = Client::builder(broker.connect(), "CLI.test".parse()?).start().await?;
//!
//! broker.inject(BrokerFault::LoseMessage);
//! let lost = client.call(CTRL, PING, &()).timeout(Duration::from_secs(30)).await;
//! assert!(lost.is_err()); // 30 seconds of virtual time later, which took none
//! assert_eq!(client.call(CTRL, PING, &()).await?, "pong");
//!
//! broker.idle().await;
//! for line in broker.recorded() {
//!     println!("{line}"); // e.g. "30s  deliver  call ping [...] from CTRL to 0"
//! }
//! # drop(node);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from RabbitMQ, on purpose
//!
//! - Nothing is on a disk: what is durable survives [`MemoryBroker::restart`], not the process.
//! - A confirm is immediate: there is no moment between storing and confirming.
//! - [`Policy::delivery_limit`] counts as RabbitMQ 4.3 does, and a quorum queue says so in the headers
//!   of 4.3. There is no consumer timeout.
//! - Every connection learns of an alarm at once. Over a network the first message has left by then,
//!   so that at its deadline nobody knows, where here it was not sent.
//! - Where another node takes an instance's name during a cut, its [`Consumer`](gear_api::Consumer)
//!   ends, and the connection is [`Ready`](gear_api::Status::Ready) all the same; `gear-amqp` waits for
//!   the name. A node has its name again, when it is free, with both.
//! - On several threads, messages of one publisher may change places on their way into a
//!   [`DeliverySink`](gear_api::DeliverySink), as a node has one: whoever publishes or settles brings
//!   there what that delivers. On one thread, and for whoever takes them from a
//!   [`Consumer`](gear_api::Consumer), their order is the queue's.

mod broker;
mod fault;
mod headers;
mod inbox;
mod model;
mod now;
mod publishing;
mod record;
mod shared;
mod subscribed;
mod ticker;
mod transport;
mod waiting;
mod wake;

pub use broker::{MemoryBroker, MemoryBrokerBuilder, QueueInfo};
pub use fault::{BrokerFault, Injection};
pub use model::{DeathReason, Overflow, Policy};
pub use record::{Event, Label, Recorded};
pub use transport::MemoryTransport;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
