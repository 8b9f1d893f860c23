//! What a service needs to talk to others: addresses, typed operations, [`Node`] to serve,
//! [`Client`] to talk, and the [`Transport`] trait that a broker's backend implements. There
//! is no broker in here: a program adds one (`gear-memory`, or `gear-mq` with a feature),
//! while its business logic depends on this crate alone.
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | [`Service`] | a kind of program, e.g. `CTRL` |
//! | [`Instance`] | one running copy of it, `CTRL.host1` |
//! | [`Address`] | whom a message is for: `CTRL`, `REPO.host2`, `CTRL.*` or `*.*` |
//! | [`Operation`] | what is asked: a typed constant that both ends share |
//! | [`Node`] | what an instance runs: its name, its handlers, its shutdown |
//! | [`Client`] | what talks: [`call`](Client::call) wants an answer, [`cast`](Client::cast) does not, [`gather`](Client::gather) wants one from each, [`publish`](Client::publish) tells whom it concerns |
//! | [`Context`] | what a handler knows of its request; its client hands the deadline on |
//! | [`Caller`] | what a handler answers with where another service, or a later moment, gives the answer |
//! | [`Deduplicate`] | a layer that makes handlers idempotent consumers: a message that comes twice is handled once, as an [`Inbox`] remembers |
//! | [`DeadLetters`] | the dead-letter queue of a service, whose messages can be put back or thrown away |
//! | [`Request`] | what tower layers around handlers see; they can tell the handler what they know |
//! | [`Fault`] | what a handler returns when it fails; [`RemoteError`] is what the caller sees of it |
//! | [`CallError`] | how a call ended without a reply, and whether to [`retry`](CallError::retry) |
//!
//! # A service that asks another
//!
//! ```
//! use gear_api::{Client, Context, Fault, Node, Operation, Service};
//! use gear_memory::MemoryBroker;
//! use std::{sync::Arc, time::Duration};
//!
//! const CTRL: Service = Service::new("CTRL");
//! const REPO: Service = Service::new("REPO");
//! const FIND: Operation<String, Vec<u32>> = Operation::new("find");
//! const COUNT: Operation<String, usize> = Operation::new("count").timeout(Duration::from_secs(5));
//!
//! /// CTRL keeps nothing: it asks REPO on behalf of whoever asked it.
//! async fn count(_: Arc<()>, cx: Context, word: String) -> Result<usize, Fault> {
//!     let lines = cx.client().call(REPO, FIND, &word).await?; // within the caller's deadline
//!     Ok(lines.len())
//! }
//!
//! async fn find(lines: Arc<Vec<&'static str>>, _: Context, word: String) -> Result<Vec<u32>, Fault> {
//!     let found = (1..).zip(lines.iter()).filter(|(_, line)| line.contains(&word));
//!     Ok(found.map(|(number, _)| number).collect())
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = MemoryBroker::new();
//! let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(COUNT, count).start().await?;
//! let repo = Node::builder(broker.connect(), REPO.at("host1")?)
//!     .state(vec!["a rose", "is a rose", "is a thorn"])
//!     .on(FIND, find)
//!     .start()
//!     .await?;
//!
//! let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
//! assert_eq!(client.call(CTRL, COUNT, &"rose".to_owned()).await?, 2);
//! # drop((ctrl, repo));
//! # Ok(())
//! # }
//! ```
//!
//! # In the log
//!
//! With a subscriber of the crate `tracing`, what is sent and what is handled has a span, at the
//! level INFO. No span and no line shows a body: of one that can not be read it is said where, not
//! what. The texts of errors that handlers and layers return are shown, and so is what other services
//! say of their failures.
//!
//! | span | from … until … | `outcome` |
//! |---|---|---|
//! | `gear.call` | it is sent until it has its answer | `ok`, `error`, `given-up` |
//! | `gear.gather` | it is sent until its stream ends, with `answers`, their number | the same, or `incomplete` where an expected one is missing |
//! | `gear.cast`, `gear.publish`, `gear.request` (a call whose answer goes elsewhere) | it is sent until the broker has it | as a call, or `detached` |
//! | `gear.answer` (to a request that was put off) | the same | as a cast |
//! | `gear.handle` | the handler is called until its message is settled | `ok`, `error`, or `expired` where its deadline passed before the handler was called |
//!
//! All have `operation`; where they end in an error, `error.type` is the code of the failure that the
//! service reports, or in a word which [`CallError`] or [`CastError`] it is. The rest is named as
//! OpenTelemetry does: `messaging.destination.name` is the key that it was sent under,
//! `messaging.destination.subscription.name` the queue that it came by, and the
//! `messaging.message.id` is the same at both ends, and each time that it is tried; `attempt` is how
//! often it was tried before. What a handler sends through its [`Context::client`] is within the
//! handler's span. A `gear.handle` has no parent: what went before
//! it is mostly in another process. Where a program sets the header `traceparent`, what is sent within
//! the request has it, too, and says what that was; Gear makes none itself.
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `tower` (default) | the errors of tower's own timeout and load-shedding layers become [`code::TIMEOUT`] and [`code::OVERLOADED`]; layers as such need no feature |
//!
//! # Writing a backend
//!
//! Implement [`Transport`]; [`topology`] is the wire contract as data.

mod address;
mod causes;
mod client;
mod clock;
mod codec;
mod message;
mod node;
mod operation;
mod text;
pub mod topology;
mod transport;

pub use {
    address::{
        Address, EventGroup, Instance, MAX_HASHES, MAX_INSTANCE_BYTES, MAX_KEY_BYTES,
        MAX_SERVICE_BYTES, NameError, NameProblem, Pattern, ReplyTo, Service, Topic,
    },
    bytes::Bytes,
    client::{
        Answer, Answers, Call, CallError, Cast, CastError, Client, ClientBuilder, DeadLetter,
        DeadLetters, Deferred, Gather, Gathering, NotSent, RemoteError, Response, Retry, Sending,
        StartError, Stats, Tap, Tapped, Unfinished,
    },
    clock::{Clock, Timestamp},
    codec::{Codec, CodecError, Json, Raw},
    message::{HeaderError, HeaderValue, Headers, Id, Kind, Message, MessageBuilder},
    node::{
        BoxError, Caller, Context, Deduplicate, Deduplicated, Fault, Forwarding, HandlerService,
        Inbox, InboxKey, Known, Node, NodeBuilder, Outcome, Reply, Request, ShutdownReport, Window,
        code,
    },
    operation::Operation,
    text::Text,
    transport::{
        Capabilities, Consumer, ConsumerEnd, Delivery, DeliverySink, Feed, HandOver, Publish,
        PublishError, ReplySink, Route, Settle, Settlement, Source, Status, SubscribeError,
        Subscription, Transport, Verdict,
    },
};
