//! From a URL to a transport: the one place where a program names its backend.

use std::sync::Arc;

use gear_api::Transport;

/// Why [`connect`] gave no transport. Never shows the URL: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no `scheme://` in front.
    #[error("this is not a URL: a scheme and \"://\" must come first, as in memory://name")]
    NotAUrl,
    /// The backend is not compiled in.
    #[error("{scheme}:// needs the feature {feature:?} of gear-mq, which this build does not have")]
    NotCompiledIn {
        /// The scheme that was asked for.
        scheme: &'static str,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// There is no backend for this scheme.
    #[error("there is no backend for {0:?}; a transport of your own needs no URL")]
    UnknownScheme(String),
    /// The part after `memory://` is not a name.
    #[error("memory:// is followed by a name of letters, digits, _ and -")]
    MemoryName,
    /// There is no connection to RabbitMQ.
    #[cfg(feature = "amqp")]
    #[error(transparent)]
    Amqp(#[from] gear_amqp::AmqpError),
}

/// Connects to the broker at `url`.
///
/// | URL | feature | broker |
/// |---|---|---|
/// | `memory://NAME` | `memory` (default) | in this process; the same NAME is the same broker |
/// | `amqp://USER:PASSWORD@HOST:PORT/VHOST?OPTIONS`, `amqps://…` | `amqp` | RabbitMQ; the options are those of `gear::amqp::AmqpBuilder` |
///
/// There is no default URL: a program that meant a network and got `memory://` would be
/// alone without knowing it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), gear::ConnectError> {
/// let transport = gear::connect("memory://shop").await?;
/// assert!(transport.capabilities().virtual_time);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ConnectError`]; one that names the feature to enable, if the backend is not compiled in.
///
/// # Cancel safety
///
/// Dropped before it returns, nothing remains connected.
pub async fn connect(url: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    let (scheme, rest) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
    // Schemes are the same in capitals (RFC 3986, section 3.1).
    match &*scheme.to_ascii_lowercase() {
        "memory" => memory(rest),
        "amqp" => amqp("amqp", &format!("amqp://{rest}")).await,
        "amqps" => amqp("amqps", &format!("amqps://{rest}")).await,
        _ if scheme.len() <= 20
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
        {
            Err(ConnectError::UnknownScheme(scheme.to_owned()))
        }
        _ => Err(ConnectError::NotAUrl),
    }
}

#[cfg(feature = "memory")]
fn memory(name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || !name.bytes().all(valid) {
        return Err(ConnectError::MemoryName);
    }
    Ok(gear_memory::MemoryBroker::named(name).connect().into())
}

#[cfg(not(feature = "memory"))]
fn memory(_: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    Err(ConnectError::NotCompiledIn { scheme: "memory", feature: "memory" })
}

#[cfg(feature = "amqp")]
async fn amqp(_: &'static str, url: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    Ok(gear_amqp::AmqpTransport::connect(url).await?.into())
}

#[cfg(not(feature = "amqp"))]
// The other one has a network to wait for.
#[allow(clippy::unused_async)]
async fn amqp(scheme: &'static str, _: &str) -> Result<Arc<dyn Transport>, ConnectError> {
    Err(ConnectError::NotCompiledIn { scheme, feature: "amqp" })
}
