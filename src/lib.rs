//! Services that talk to each other through a broker, without knowing where the others run,
//! how many there are, or which broker it is.
//!
//! This is the façade: everything of [`gear_api`], the backends by feature, and
//! [`connect`], which picks one by URL. A library of business logic depends on `gear-api`
//! alone.
//!
//! | feature | brings |
//! |---|---|
//! | `memory` (default) | `gear::memory`, the broker in the process, and `memory://name` |
//! | `amqp` | `gear::amqp`, RabbitMQ, and `amqp://…`, `amqps://…` |
//!
//! Start with [`Node`] to serve, [`Client`] to talk, [`Operation`] for what is asked,
//! [`Address`] for whom.
//!
//! ```
//! use gear::{Client, Context, Fault, Node, Operation, Service};
//! use std::sync::Arc;
//!
//! const CTRL: Service = Service::new("CTRL");
//! const SHOUT: Operation<String, String> = Operation::new("shout");
//!
//! async fn shout(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
//!     Ok(text.to_uppercase())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "memory://guide";
//! let node = Node::builder(gear::connect(url).await?, CTRL.at("host1")?)
//!     .on(SHOUT, shout)
//!     .start()
//!     .await?;
//! let client = Client::builder(gear::connect(url).await?, "CLI.laptop".parse()?).start().await?;
//! assert_eq!(client.call(CTRL, SHOUT, &"hello".to_owned()).await?, "HELLO");
//! # drop(node);
//! # Ok(())
//! # }
//! ```

mod connect;

pub use connect::{ConnectError, connect};
/// RabbitMQ, with its options.
#[cfg(feature = "amqp")]
pub use gear_amqp as amqp;
pub use gear_api::*;
/// The broker in the process, with its faults, its record and its exact idle.
#[cfg(feature = "memory")]
pub use gear_memory as memory;
