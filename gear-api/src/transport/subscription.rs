//! What can be consumed.

use std::{fmt, sync::Arc};

use crate::{EventGroup, Instance, Message, Pattern, ReplyTo, Service, Text};

/// What can be consumed. `prefetch` is how many unsettled deliveries one consumer may
/// hold, 1 or more; 0 counts as 1.
#[derive(Clone)]
#[non_exhaustive]
pub enum Subscription {
    /// The queue that the instances of a service share.
    Service {
        /// The service.
        service: Service,
        /// Unsettled deliveries at a time.
        prefetch: u16,
    },
    /// The queue of one instance. Exclusive: the name is then in use.
    Instance {
        /// The instance.
        instance: Instance,
        /// Unsettled deliveries at a time.
        prefetch: u16,
    },
    /// The answers to an instance's calls. They are not settled; they go straight to the
    /// sink, and the consumer yields nothing. Its queue goes when it is stopped or its connection
    /// is closed: whoever answers then learns at once that nobody listens.
    Replies {
        /// Who asks. Several may ask under one name.
        instance: Instance,
        /// Who takes the answers.
        sink: Arc<dyn ReplySink>,
    },
    /// The queue of an event group.
    Events {
        /// The group.
        group: EventGroup,
        /// The topics that it wants. Bindings are additive: those that earlier members
        /// made stay.
        patterns: Vec<Pattern>,
        /// Unsettled deliveries at a time.
        prefetch: u16,
    },
    /// The queue of what a service has set aside. Several may look into it, and each message goes to one of
    /// them.
    Dead {
        /// The service.
        service: Service,
        /// Unsettled deliveries at a time.
        prefetch: u16,
    },
    /// Copies of what passes, for watching. Never competes with the consumers and needs no
    /// settling. When nobody looks for long, copies are dropped (the broker keeps the newest
    /// 10,000, beside those that were on the way), and count as stored until then. Taps do
    /// not see replies, and a tap with `#` makes every key count as routed.
    Tap {
        /// What to watch.
        feed: Feed,
        /// The keys of interest.
        pattern: Pattern,
    },
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, .. } => write!(f, "Subscription({service})"),
            Self::Instance { instance, .. } => write!(f, "Subscription({instance})"),
            Self::Replies { instance, .. } => write!(f, "Subscription({instance}:reply)"),
            Self::Events { group, .. } => write!(f, "Subscription({group})"),
            Self::Dead { service, .. } => write!(f, "Subscription({service}:dead)"),
            Self::Tap { pattern, .. } => write!(f, "Subscription(tap {pattern})"),
        }
    }
}

/// What a tap watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feed {
    /// Calls and casts, by their address.
    Requests,
    /// Events, by their topic.
    Events,
}

/// Takes the answers to calls.
///
/// **Requires** that it does not block: it is called on the path of every reply of the
/// connection.
pub trait ReplySink: Send + Sync {
    /// Answers are taken at `at` from now on. Called before
    /// [`subscribe`](super::Transport::subscribe) returns, and again if a reconnect had to
    /// give the queue a new name.
    fn listening(&self, at: ReplyTo);

    /// An answer.
    fn deliver(&self, reply: Message);
}

/// Why there is no consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Another node uses this instance name.
    #[error("the instance name {0} is in use")]
    NameInUse(Instance),
    /// The backend does not do this; see [`Capabilities`](super::Capabilities).
    #[error("this backend has no {0}")]
    Unsupported(&'static str),
    /// The broker refused.
    #[error("the broker refused: {0}")]
    Refused(Text),
    /// The transport is closed.
    #[error("the connection is closed")]
    Closed,
}
