//! Why there is no connection. Nothing in here ever holds a password.

use gear_api::Text;

use crate::link::rpc::RpcError;

/// Why there is no connection, or will never be one.
///
/// No variant shows the URL: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmqpError {
    /// It is not a URL as [`AmqpBuilder`](crate::AmqpBuilder) describes them.
    #[error("this is not an amqp:// or amqps:// URL: {0}")]
    InvalidUrl(&'static str),
    /// An option has a value that it can not have, or there is no such option.
    #[error("the option {name}: {problem}")]
    InvalidOption {
        /// The option, by its name in a URL.
        name: Text,
        /// What is wrong with its value.
        problem: Text,
    },
    /// The user name or the password is wrong, or the user may not use the virtual host.
    #[error("{broker} refused the credentials: {reason}")]
    AccessRefused {
        /// `host:port`.
        broker: Text,
        /// The broker's words.
        reason: Text,
    },
    /// There is no such virtual host.
    #[error("{broker} has no virtual host {vhost:?}: {reason}")]
    NoVirtualHost {
        /// `host:port`.
        broker: Text,
        /// The one that was asked for.
        vhost: Text,
        /// The broker's words.
        reason: Text,
    },
    /// The certificate of the broker, or one of our own, does not do.
    #[error("no secure connection to {broker}: {reason}")]
    Tls {
        /// `host:port`.
        broker: Text,
        /// What the TLS library says.
        reason: Text,
    },
    /// Nobody answers there, or not as a broker does.
    #[error("{broker} can not be reached: {reason}")]
    Unreachable {
        /// `host:port`.
        broker: Text,
        /// What happened.
        reason: Text,
    },
    /// Something accepts connections there and then stays silent, as a node does that is cut off
    /// from its cluster.
    #[error("{broker} did not answer within {ms} ms ({waiting_for})")]
    Silent {
        /// `host:port`.
        broker: Text,
        /// How long it was waited for, in milliseconds.
        ms: u64,
        /// What was awaited.
        waiting_for: &'static str,
    },
    /// The broker does not let the exchanges and queues be declared, or they are missing.
    #[error("the topology is not as it should be: {0}")]
    Topology(Text),
}

impl AmqpError {
    /// Why a node could not declare at this broker what it needs.
    pub(crate) fn of_start(error: RpcError, broker: &str) -> Self {
        let broker = broker.into();
        match error {
            RpcError::Refused { text, .. } => Self::Topology(text),
            RpcError::Lost(reason) => Self::Unreachable { broker, reason },
            RpcError::Silent { what, limit } => {
                let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Self::Silent { broker, ms, waiting_for: what }
            }
        }
    }

    /// Whether trying again may help: not if the URL, the credentials or a certificate is
    /// wrong.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { .. })
    }
}
