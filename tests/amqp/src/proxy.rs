//! A TCP proxy between client and broker, for the faults of a network.

mod relay;

use crate::{io, ports::local};
use relay::Shared;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Where a [`Proxy`] leads: an address, or a port of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Target(SocketAddr);

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl From<u16> for Target {
    fn from(port: u16) -> Self {
        Self(local(port))
    }
}

/// What a proxy does with bytes and with new connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Pass,
    Cut,
    Frozen,
    AnswersFrozen,
    Silent,
}

/// A proxy in this process, on a port of 127.0.0.1. It runs on a thread of its own: a test that
/// blocks its runtime does not hold it up.
///
/// Its methods take effect before they return: not one byte passes after [`Proxy::freeze`].
/// [`Proxy::heal`] ends whatever was done. Dropping it closes all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Proxy {
    /// A proxy to `target` that passes everything.
    ///
    /// # Panics
    ///
    /// If the system gives no port.
    pub async fn to(target: impl Into<Target>) -> Self {
        let shared = Arc::new(Shared::new(target.into().0));
        // Bound here, registered there: its sockets belong to the runtime that outlives the tests.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("the system has a free port");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let for_task = Arc::clone(&shared);
        let accepting = io::handle().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("the runtime takes sockets");
            accept(&listener, &for_task).await;
        });
        Self { port, shared, accepting: accepting.abort_handle() }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// `url` with this proxy's host and port, for example that of a [`Vhost`](crate::Vhost).
    #[must_use]
    pub fn through(&self, url: &str) -> String {
        let start = url.find("://").map_or(0, |at| at + 3);
        let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
        let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
        format!("{}127.0.0.1:{}{}", &url[..host], self.port, &url[end..])
    }

    /// Closes all connections, and every new one at once.
    pub fn cut(&self) {
        self.shared.change(|state| {
            state.mode = Mode::Cut;
            state.epoch += 1;
        });
    }

    /// Closes all connections once. New ones pass, if they did before.
    pub fn drop_connections(&self) {
        self.shared.change(|state| state.epoch += 1);
    }

    /// Passes nothing any more, in neither direction, and keeps the connections open: both ends
    /// are half-open. New connections are accepted and go nowhere.
    pub fn freeze(&self) {
        self.shared.change(|state| state.mode = Mode::Frozen);
    }

    /// Passes what clients send, and not what the broker answers.
    pub fn freeze_answers(&self) {
        self.shared.change(|state| state.mode = Mode::AnswersFrozen);
    }

    /// Passes only so much of what each client sends, in bytes a second: a slow link. Not ended by
    /// [`Proxy::heal`].
    pub fn throttle(&self, bytes_per_second: u32) {
        self.shared.change(|state| state.rate = Some(bytes_per_second));
    }

    /// Accepts new connections and never answers. Those that are open go on:
    /// [`Proxy::drop_connections`] closes them.
    pub fn silent(&self) {
        self.shared.change(|state| state.mode = Mode::Silent);
    }

    /// Passes everything again, what was held back included.
    pub fn heal(&self) {
        self.shared.change(|state| state.mode = Mode::Pass);
    }

    /// Leads new connections to `target`.
    pub fn retarget(&self, target: impl Into<Target>) {
        let target = target.into().0;
        self.shared.change(|state| state.target = target);
    }

    /// How many clients are connected now. One that the target refused is not counted any more.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open()
    }

    /// How many were accepted so far, those that were closed at once included.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let connection = shared.accept();
        if connection.is_cut() {
            continue;
        }
        tokio::spawn(async move {
            if let Some(target) = connection.may_connect(&client).await
                && let Ok(server) = TcpStream::connect(target).await
            {
                connection.relay(client, server).await;
            }
        });
    }
}
