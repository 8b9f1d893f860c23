//! A broker, wherever it runs.

mod find;
mod inner;

use crate::{Error, Proxy, Tls, Vhost, io::blocking};
pub use find::{image, private_is_container};
pub(crate) use inner::Inner;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// What a private broker should be like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines for `rabbitmq.conf`, for example `max_message_size = 65536`.
    pub conf: Vec<String>,
    /// Offers `amqps` too, with certificates made for it, and login by certificate (EXTERNAL) for
    /// the user [`TLS_USER`](crate::TLS_USER). See [`Broker::tls`].
    pub tls: bool,
    /// This image in Docker, whatever else is installed.
    pub image: Option<String>,
}

/// A RabbitMQ broker for tests.
///
/// What it started goes when it is dropped, or when this process ends. Its methods panic when the
/// machine refuses what they are for, because a test can not go on then.
#[derive(Debug)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

impl Broker {
    /// The one broker that all tests of this process share. It starts when first asked for.
    ///
    /// Never stop it, and give each test a [`Vhost`] or a [system name](crate::unique_system).
    ///
    /// # Panics
    ///
    /// If there is no RabbitMQ to be had: the message says what to install.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
        let shared = blocking(|| {
            SHARED.get_or_init(|| Self::find_shared().map_err(|error| error.to_string()))
        });
        match shared.await {
            Ok(broker) => broker,
            Err(error) => panic!("{error}"),
        }
    }

    /// A broker of one's own, to be broken.
    ///
    /// # Panics
    ///
    /// If there is no RabbitMQ to be had: the message says what to install.
    pub async fn private() -> Self {
        Self::private_with(Options::default()).await
    }

    /// A broker of one's own, as `options` say.
    ///
    /// # Panics
    ///
    /// If there is no RabbitMQ to be had, or it does not start with these options.
    pub async fn private_with(options: Options) -> Self {
        blocking(move || Self::find_private(&options))
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`, or what `GEAR_TEST_AMQP_URL` says.
    #[must_use]
    pub fn url(&self) -> String {
        self.inner.url.clone().unwrap_or_else(|| self.inner.url_of("%2f"))
    }

    /// Where AMQP is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.machine.amqp()
    }

    /// The port of AMQP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// RabbitMQ's version, as it tells its clients.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// What a client needs for TLS.
    ///
    /// # Panics
    ///
    /// If the broker was not started with [`Options::tls`].
    #[must_use]
    pub fn tls(&self) -> &Tls {
        self.inner.tls.as_ref().expect("the broker was started with Options { tls: true, .. }")
    }

    /// `http://127.0.0.1:PORT`: the management API, for the user of [`Broker::url`].
    ///
    /// # Panics
    ///
    /// If this broker has none.
    #[must_use]
    pub fn management_url(&self) -> String {
        let management = self.inner.management().expect("the broker has a management API");
        format!("http://{}", management.address)
    }

    /// Ends the broker at once, with `kill -9`. Nothing happens if it does not run.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub async fn kill(&self) {
        self.on_machine("kill", |inner| inner.machine.kill()).await;
    }

    /// Stops the broker in order.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub async fn stop(&self) {
        self.on_machine("stop", |inner| inner.machine.stop()).await;
    }

    /// Starts it again, with its data, and returns when AMQP answers. Its ports are as before.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(&self) {
        self.on_machine("start", |inner| inner.machine.start().map(drop)).await;
    }

    /// [Stops](Broker::stop) and [starts](Broker::start) it.
    ///
    /// # Panics
    ///
    /// If it does not stop or start.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Runs `rabbitmqctl -q` with these arguments, and returns what it writes. It takes a second
    /// or two: [`Broker::api`] takes milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with its words, or [`Error::NotPossible`] for a broker from
    /// `GEAR_TEST_AMQP_URL`.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        self.run(move |inner| inner.machine.ctl(&arguments)).await
    }

    /// Asks the management API: `path` starts with `/api/`. Its statistics lag by 5 s.
    ///
    /// # Errors
    ///
    /// [`Error::Management`] for every answer that is not 2xx.
    pub async fn api(&self, method: &str, path: &str, body: Option<&str>) -> Result<String, Error> {
        let (method, path) = (method.to_owned(), path.to_owned());
        let body = body.map(str::to_owned);
        self.run(move |inner| inner.api(&method, &path, body.as_deref())).await
    }

    /// Closes all connections, as an operator does (320).
    ///
    /// # Panics
    ///
    /// If `rabbitmqctl` fails.
    pub async fn close_all_connections(&self) {
        self.must_ctl(&["close_all_connections", "a test closes all connections"]).await;
    }

    /// Raises the memory alarm: connections that publish are blocked.
    ///
    /// # Panics
    ///
    /// If `rabbitmqctl` fails.
    pub async fn raise_alarm(&self) {
        self.must_ctl(&["set_vm_memory_high_watermark", "0"]).await;
    }

    /// Clears the memory alarm.
    ///
    /// # Panics
    ///
    /// If `rabbitmqctl` fails.
    pub async fn clear_alarm(&self) {
        self.must_ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    }

    /// A new vhost, which is deleted when dropped.
    ///
    /// # Panics
    ///
    /// If the management API refuses or does not answer.
    pub async fn vhost(&self) -> Vhost {
        let vhost = self.run(Vhost::new).await;
        vhost.unwrap_or_else(|error| panic!("no vhost: {error}"))
    }

    /// Adds a user who may do everything in the vhost `/`.
    ///
    /// # Panics
    ///
    /// If the management API refuses or does not answer.
    pub async fn add_user(&self, name: &str, password: &str) {
        let (name, password) = (name.to_owned(), password.to_owned());
        let added = self.run(move |inner| inner.add_user(&name, &password, "%2F")).await;
        added.unwrap_or_else(|error| panic!("no user: {error}"));
    }

    /// A proxy before the broker's AMQP port.
    ///
    /// # Panics
    ///
    /// If the system gives no port.
    pub async fn proxy(&self) -> Proxy {
        Proxy::to(self.address()).await
    }

    /// The last lines of the broker's log, where it can be had.
    pub async fn log(&self) -> String {
        self.run(|inner| inner.machine.log()).await
    }

    async fn must_ctl(&self, arguments: &[&str]) {
        let done = self.ctl(arguments).await;
        done.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn on_machine(
        &self,
        what: &str,
        work: impl FnOnce(&Inner) -> Result<(), Error> + Send + 'static,
    ) {
        let done = self.run(move |inner| work(inner)).await;
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> T + Send + 'static,
    ) -> T {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }
}
