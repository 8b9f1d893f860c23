//! What a broker runs on: an address, a child process or a container. Everything here blocks.

mod container;
mod external;
mod native;

pub(crate) use container::{Container, docker, provide};
pub(crate) use external::External;
pub(crate) use native::{Native, is_installed};

use crate::{Error, Options, tls};
use std::{
    fmt::Debug,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// The image for [`Broker::shared`](crate::Broker::shared) when none is asked for.
pub const DEFAULT_IMAGE: &str = "rabbitmq:4-management";

/// How long a broker may take to start: one takes 7 s on two idle cores.
pub(crate) const START: Duration = Duration::from_secs(120);

/// How long it may take to stop in order.
pub(crate) const STOP: Duration = Duration::from_secs(30);

/// How long `rabbitmqctl` may take.
pub(crate) const CTL: Duration = Duration::from_secs(60);

/// Something that a broker runs on. Dropping it removes what it started.
pub(crate) trait Machine: Debug + Send + Sync {
    /// Where AMQP is.
    fn amqp(&self) -> SocketAddr;
    /// Where the management API is.
    fn management(&self) -> Option<SocketAddr>;
    /// Where AMQP over TLS is.
    fn tls(&self) -> Option<SocketAddr>;
    /// The broker dies at once.
    fn kill(&self) -> Result<(), Error>;
    /// The broker ends in order.
    fn stop(&self) -> Result<(), Error>;
    /// It runs again, with its data, and has started. Returns its version.
    fn start(&self) -> Result<String, Error>;
    /// Runs `rabbitmqctl`.
    fn ctl(&self, arguments: &[String]) -> Result<String, Error>;
    /// The end of its log, for error messages.
    fn log(&self) -> String;
}

/// How long it may take from its first answer to the end of its start: 0.2 s on two idle cores.
const REST: Duration = Duration::from_secs(30);

/// Waits until the broker has started for the `starts`th time, as its `log` says. RabbitMQ answers
/// a moment before that, and then it does not tell a consumer that its queue was deleted. A broker
/// that logs elsewhere is used as it is after some time.
pub(crate) fn wait_for_the_rest(starts: usize, log: impl Fn() -> String) {
    let end = Instant::now() + REST;
    while log().matches("Server startup complete").count() < starts && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
}

/// The plugins that `options` need, as RabbitMQ's file `enabled_plugins` has them.
pub(crate) fn plugins(options: &Options) -> String {
    let tls = if options.tls { ",rabbitmq_auth_mechanism_ssl" } else { "" };
    format!("[rabbitmq_management{tls}].\n")
}

/// The lines for `rabbitmq.conf` that follow from `options`. `listener` is what to listen on for
/// TLS, `folder` where the certificates are.
pub(crate) fn conf(options: &Options, listener: &str, folder: &str) -> String {
    let mut lines = Vec::new();
    if options.tls {
        lines.push(format!("listeners.ssl.default = {listener}"));
        for (key, file) in FILES {
            lines.push(format!("ssl_options.{key} = {folder}/{file}"));
        }
        lines.extend(
            [
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = false",
                "auth_mechanisms.1 = EXTERNAL",
                "auth_mechanisms.2 = PLAIN",
                "auth_mechanisms.3 = AMQPLAIN",
                "ssl_cert_login_from = common_name",
            ]
            .map(str::to_owned),
        );
    }
    lines.extend(options.conf.iter().cloned());
    lines.push(String::new());
    lines.join("\n")
}

const FILES: [(&str, &str); 3] =
    [("cacertfile", "ca.pem"), ("certfile", "server.pem"), ("keyfile", "server-key.pem")];

/// The files that [`conf`] names.
pub(crate) fn certificates(made: &tls::Made) -> [(&'static str, &str); 3] {
    let pems = [&made.client.ca_pem, &made.server_cert_pem, &made.server_key_pem];
    [0, 1, 2].map(|index| (FILES[index].1, pems[index].as_str()))
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
