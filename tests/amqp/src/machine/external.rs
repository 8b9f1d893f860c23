//! A broker that somebody else runs: it can be talked to, and not touched.

use super::Machine;
use crate::{Error, probe};
use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

/// The variable that names it.
pub(crate) const VARIABLE: &str = "GEAR_TEST_AMQP_URL";
/// The variable for its management API, by default on port 15672 of the same host.
const MANAGEMENT: &str = "GEAR_TEST_MANAGEMENT_PORT";

/// What `GEAR_TEST_AMQP_URL` says.
pub(crate) struct External {
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password: String,
    address: SocketAddr,
    management: u16,
}

impl External {
    /// The broker at `url`, once it answers.
    pub(crate) fn new(url: String) -> Result<(Self, String), Error> {
        let bad = || {
            Error::NotPossible(format!("{VARIABLE} is not amqp://user:password@host:port/vhost"))
        };
        let rest = url.strip_prefix("amqp://").ok_or_else(bad)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (login, host) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').ok_or_else(bad)?;
        let full = if host.contains(':') { host.to_owned() } else { format!("{host}:5672") };
        let address = full
            .to_socket_addrs()
            .map_err(Error::io(full.clone()))?
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(bad)?;
        let management =
            std::env::var(MANAGEMENT).ok().and_then(|port| port.parse().ok()).unwrap_or(15672);
        let version = probe::wait(address, Duration::from_secs(10), || Ok(()))?;
        let (user, password) = (decode(user), decode(password));
        Ok((Self { user, password, address, management, url }, version))
    }

    fn untouchable<T>(&self) -> Result<T, Error> {
        Err(Error::NotPossible(format!(
            "the broker is the one of {VARIABLE}: tests can not stop it or run rabbitmqctl for it"
        )))
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl std::fmt::Debug for External {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("External").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Machine for External {
    fn amqp(&self) -> SocketAddr {
        self.address
    }

    fn management(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address.ip(), self.management))
    }

    fn tls(&self) -> Option<SocketAddr> {
        None
    }

    fn kill(&self) -> Result<(), Error> {
        self.untouchable()
    }

    fn stop(&self) -> Result<(), Error> {
        self.untouchable()
    }

    fn start(&self) -> Result<String, Error> {
        self.untouchable()
    }

    fn ctl(&self, _arguments: &[String]) -> Result<String, Error> {
        self.untouchable()
    }

    fn log(&self) -> String {
        String::new()
    }
}
