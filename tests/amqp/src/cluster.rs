//! Three brokers in containers that are one cluster: `scripts/broker-image/cluster.sh`.

use crate::{
    Error, command,
    io::blocking,
    ports::{Ports, local},
    probe,
    unique::unique_system,
    watchdog::Watchdog,
};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

const NODES: u16 = 3;
const LIMIT: Duration = Duration::from_secs(180);

/// A cluster of three nodes, 1 to 3, with `pause_minority`. It goes when it is dropped, or when
/// this process ends.
///
/// Its methods panic when Docker refuses, because a test can not go on then.
#[derive(Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    prefix: String,
    /// The first is nobody's: node n is on the n-th.
    ports: Ports,
    _watchdog: Watchdog,
}

impl Cluster {
    /// A cluster of `image`, or else of [`image()`](crate::image), once all nodes have found each
    /// other. It takes about 20 s.
    ///
    /// # Panics
    ///
    /// If Docker is not here, or the cluster does not form.
    pub async fn up(image: Option<&str>) -> Self {
        let image = image.map_or_else(crate::image, str::to_owned);
        let inner = blocking(move || Inner::up(&image)).await;
        let inner = inner.unwrap_or_else(|error| panic!("no cluster: {error}"));
        Self { inner: Arc::new(inner) }
    }

    /// The URL of each node, 1 to 3.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        (1..=NODES).map(|n| format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port(n))).collect()
    }

    /// The AMQP port of node `n`. It stays the same.
    #[must_use]
    pub fn port(&self, n: u16) -> u16 {
        self.inner.ports.get(n)
    }

    /// Ends node `n` with `kill -9`.
    ///
    /// # Panics
    ///
    /// If Docker refuses.
    pub async fn kill(&self, n: u16) {
        self.must("kill", n).await;
    }

    /// Starts node `n` again, with its data, and returns when AMQP answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(&self, n: u16) {
        self.must("start", n).await;
        self.answers(n).await;
    }

    /// Cuts node `n` off from the others, and not from its clients.
    ///
    /// # Panics
    ///
    /// If Docker refuses.
    pub async fn isolate(&self, n: u16) {
        self.must("isolate", n).await;
    }

    /// Undoes [`Cluster::isolate`]. The node needs some seconds more: [`Cluster::whole`] waits.
    ///
    /// # Panics
    ///
    /// If Docker refuses.
    pub async fn heal(&self, n: u16) {
        self.must("heal", n).await;
    }

    /// Freezes node `n`: its connections stay open, and silent.
    ///
    /// # Panics
    ///
    /// If Docker refuses.
    pub async fn pause(&self, n: u16) {
        self.must("pause", n).await;
    }

    /// Undoes [`Cluster::pause`].
    ///
    /// # Panics
    ///
    /// If Docker refuses.
    pub async fn unpause(&self, n: u16) {
        self.must("unpause", n).await;
    }

    /// Waits until AMQP answers on all nodes and each of them sees the others.
    ///
    /// # Panics
    ///
    /// If that takes some minutes.
    pub async fn whole(&self) {
        self.script(&["whole"]).await;
        for n in 1..=NODES {
            self.answers(n).await;
        }
    }

    /// Runs `rabbitmqctl -q` on node `n`, and returns what it writes.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with its words.
    pub async fn ctl(&self, n: u16, arguments: &[&str]) -> Result<String, Error> {
        let container = format!("{}-{n}", self.inner.prefix);
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        blocking(move || {
            let mut docker = Command::new("docker");
            docker.args(["exec", &container, "rabbitmqctl", "-q"]).args(arguments);
            command::run(&mut docker, Duration::from_secs(60))
        })
        .await
    }

    async fn answers(&self, n: u16) {
        let address = local(self.port(n));
        let version = blocking(move || probe::wait(address, LIMIT, || Ok(()))).await;
        version.unwrap_or_else(|error| panic!("node {n}: {error}"));
    }

    async fn must(&self, what: &'static str, n: u16) {
        self.script(&[what, &n.to_string()]).await;
    }

    async fn script(&self, arguments: &[&str]) {
        let inner = Arc::clone(&self.inner);
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        let done = blocking(move || inner.script(&arguments)).await;
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Inner {
    fn up(image: &str) -> Result<Self, Error> {
        crate::machine::provide(image)?;
        let prefix = format!("gear-{}", unique_system());
        let ports = Ports::reserve(NODES + 1)?;
        let script = script();
        let watchdog =
            Watchdog::new("PREFIX=\"$1\" bash \"$2\" down", &[&prefix, &script.to_string_lossy()])?;
        let inner = Self { prefix, ports, _watchdog: watchdog };
        inner.script(&["up", image])?;
        Ok(inner)
    }

    fn script(&self, arguments: &[impl AsRef<OsStr>]) -> Result<(), Error> {
        let mut bash = Command::new("bash");
        bash.arg(script()).args(arguments);
        bash.env("PREFIX", &self.prefix).env("BASE_PORT", self.ports.get(0).to_string());
        command::run(&mut bash, LIMIT).map(drop)
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/broker-image/cluster.sh")
}
