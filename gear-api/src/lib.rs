//! placeholder
mod address;
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
        Answer, Answers, Call, CallError, Cast, CastError, Client, ClientBuilder, Gather, NotSent,
        RemoteError, Response, Retry, Sending, StartError, Stats, Tap, Tapped, Unfinished,
    },
    clock::{Clock, Timestamp},
    codec::{Codec, CodecError, Json, Raw},
    message::{HeaderError, HeaderValue, Headers, Id, Kind, Message, MessageBuilder, mix},
    node::{
        BoxError, Context, Fault, HandlerService, Node, NodeBuilder, Reply, Request,
        ShutdownReport, code,
    },
    operation::Operation,
    text::Text,
    transport::{
        Capabilities, Consumer, ConsumerEnd, Delivery, Feed, Publish, PublishError, ReplySink,
        Route, Settle, Settlement, Source, Status, SubscribeError, Subscription, Transport,
        Verdict,
    },
};
