//! One connection to one broker.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_core::Stream;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind, Event,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};
use tokio::time::timeout;

use crate::{AmqpBuilder, AmqpError, endpoint::Endpoint, settings::Settings};

/// An open connection. Only one may listen to its events: lapin's listeners compete.
pub(crate) struct Open {
    pub(crate) connection: Arc<Connection>,
    pub(crate) events: std::pin::Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// `host:port`.
    pub(crate) broker: String,
    /// The number that the choice was, when it was opened.
    pub(crate) at: usize,
    pub(crate) user: String,
    socket: Option<Socket>,
}

impl Open {
    /// What ends it, wherever the rest is by then.
    pub(crate) fn goodbye(&self) -> Goodbye {
        Goodbye { connection: Arc::clone(&self.connection), socket: self.socket.clone() }
    }
}

/// Connects to one broker, within `connect_timeout`.
pub(crate) async fn open(
    settings: Arc<Settings>,
    at: usize,
    purpose: &'static str,
) -> Result<Open, AmqpError> {
    let options = &settings.options;
    let endpoint = options.endpoints[at % options.endpoints.len()].clone();
    let broker = endpoint.name();
    let limit = options.connect_timeout;
    let name = format!("{} {purpose}", options.name);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let (host, port) = (endpoint.host.clone(), endpoint.port);
    let tls = endpoint.tls.then(|| Tls::new(options, &endpoint));
    let connecting = async {
        let runtime = lapin::runtime::default_runtime()?;
        // The crate's own way from a URI to an address knows no IPv6, and has the name in the
        // certificate be the host's. And what it begins for a connection never ends if it is told
        // that there is no link, which it is again and again while a broker is down (4.12): so it
        // hears of a link that is there.
        let addresses = runtime.to_socket_addrs((host, port));
        let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
        let socket = match &stream {
            AsyncTcpStream::Plain(plain) => Some(Socket::of(plain.get_ref())?),
            _ => None,
        };
        let mut unless_open = HangUp(socket.clone());
        let stream = match &tls {
            None => stream,
            Some(tls) => stream.into_tls(&tls.name, tls.config.as_ref()).await?,
        };
        let stream = Mutex::new(Some(stream));
        let dial = async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
        };
        let uri = uri(options, &endpoint, purpose);
        let connection = Connection::connector(uri, runtime, dial, properties).await?;
        unless_open.0 = None;
        Ok((connection, socket))
    };
    let (connection, socket) = match timeout(limit, connecting).await {
        Ok(Ok(open)) => open,
        Ok(Err(error)) => return Err(explain(&error, broker, &endpoint)),
        Err(_) => {
            let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            let waiting_for = "the greeting of AMQP 0-9-1";
            return Err(AmqpError::Silent { broker: broker.into(), ms, waiting_for });
        }
    };
    let events = Box::pin(connection.events_listener());
    let connection = Arc::new(connection);
    Ok(Open { connection, events, broker, at, user: endpoint.user, socket })
}

/// A second handle of a connection's socket. lapin's thread goes on waiting for a silent peer when
/// nobody waits for the connection any more, and keeps its socket and its buffers: it ends only when
/// the link does.
#[derive(Clone)]
struct Socket(Arc<TcpStream>);

impl Socket {
    fn of(socket: &impl AsSocket) -> io::Result<Self> {
        Ok(Self(Arc::new(second_handle(socket)?)))
    }

    fn hang_up(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Hangs up on dropping.
struct HangUp(Option<Socket>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.iter().for_each(Socket::hang_up);
    }
}

/// The end of a connection.
pub(crate) struct Goodbye {
    connection: Arc<Connection>,
    socket: Option<Socket>,
}

impl Goodbye {
    /// Says goodbye, and hangs up if the broker does not answer.
    pub(crate) async fn say(self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let Self { connection, socket } = self;
        let goodbye = async {
            if connection.status().connected() {
                let _ = connection.close(200, "goodbye".into()).await;
            }
        };
        let said = timeout(PATIENCE, goodbye).await;
        if said.is_err() || connection.status().closing() {
            socket.iter().for_each(Socket::hang_up);
        }
    }
}

#[cfg(unix)]
use std::os::fd::AsFd as AsSocket;
#[cfg(windows)]
use std::os::windows::io::AsSocket;

#[cfg(unix)]
fn second_handle(socket: &impl AsSocket) -> io::Result<TcpStream> {
    Ok(socket.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn second_handle(socket: &impl AsSocket) -> io::Result<TcpStream> {
    Ok(socket.as_socket().try_clone_to_owned()?.into())
}

struct Tls {
    name: String,
    config: OwnedTLSConfig,
}

impl Tls {
    fn new(options: &AmqpBuilder, endpoint: &Endpoint) -> Self {
        let identity = match (&options.certificate, &options.key) {
            (Some(chain), Some(key)) => {
                let (pem, key) = (chain.0.clone().into_bytes(), key.0.clone().into_bytes());
                Some(OwnedIdentity::PKCS8 { pem, key })
            }
            _ => None,
        };
        Self {
            name: options.server_name.clone().unwrap_or_else(|| endpoint.host.clone()),
            config: OwnedTLSConfig {
                identity,
                cert_chain: options.ca.as_ref().map(|pem| pem.0.clone()),
            },
        }
    }
}

/// Bytes of one frame, at most. lapin has buffers of 64 frames for each connection: with
/// RabbitMQ's 128 KiB they are 8 MiB, which take longer to make than all else in connecting. The
/// properties of a message must fit one frame; ours have up to 20 KiB. A broker may want less.
const FRAME_MAX: u32 = 32 * 1024;

/// The same where messages come: of those of foreign programs the properties have as much as their
/// connections allow, RabbitMQ sends them in one frame whatever ours allows, and lapin ends a
/// connection that brings a longer one. The message would come again with the next.
const FRAME_MAX_CONSUMING: u32 = 128 * 1024;

fn uri(options: &AmqpBuilder, endpoint: &Endpoint, purpose: &str) -> AMQPUri {
    let frame_max = if purpose == "publish" { FRAME_MAX } else { FRAME_MAX_CONSUMING };
    let heartbeat = u16::try_from(options.heartbeat.as_secs()).unwrap_or(60);
    let mechanism =
        if options.external_auth { SASLMechanism::External } else { SASLMechanism::Plain };
    AMQPUri {
        scheme: if endpoint.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: endpoint.user.clone(),
                password: endpoint.password.reveal().to_owned(),
            },
            host: endpoint.host.clone(),
            port: endpoint.port,
        },
        vhost: endpoint.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(frame_max),
            heartbeat: Some(heartbeat),
            auth_mechanism: Some(mechanism),
            ..AMQPQueryString::default()
        },
    }
}

/// What an error of lapin means to whoever connects.
fn explain(error: &lapin::Error, broker: String, endpoint: &Endpoint) -> AmqpError {
    let broker = broker.into();
    match error.kind() {
        // RabbitMQ closes with ACCESS_REFUSED for wrong credentials, and with NOT_ALLOWED for a
        // virtual host that does not exist or that the user may not enter.
        ErrorKind::ProtocolError(refusal) => {
            let reason: gear_api::Text = refusal.get_message().as_str().into();
            match refusal.get_id() {
                403 => AmqpError::AccessRefused { broker, reason },
                530 if reason.contains("not found") => AmqpError::NoVirtualHost {
                    broker,
                    vhost: endpoint.vhost.as_str().into(),
                    reason,
                },
                530 => AmqpError::AccessRefused { broker, reason },
                _ => AmqpError::Unreachable { broker, reason },
            }
        }
        ErrorKind::IOError(io) => {
            let reason = io.to_string().into();
            match io.kind() {
                std::io::ErrorKind::InvalidData if endpoint.tls => {
                    AmqpError::Tls { broker, reason }
                }
                _ => AmqpError::Unreachable { broker, reason },
            }
        }
        _ => AmqpError::Unreachable { broker, reason: error.to_string().into() },
    }
}
