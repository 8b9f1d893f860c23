//! Where the contestants meet: names on the broker that no other run has.

use std::{
    ops::Deref,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use gear_amqp::AmqpTransport;
use gear_api::{
    Service, Subscription, Transport,
    topology::{self, exchange},
};
use lapin::{
    Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions, QueuePurgeOptions},
    types::ShortString,
};

use crate::{
    calls::{self, ECHO},
    raw,
};

/// Who takes what is sent one way.
pub(crate) const SINK: Service = Service::new("SINK");

/// Shared by all contestants; what is there goes with the last of them.
#[derive(Clone)]
pub(crate) struct Place(Arc<Names>);

pub(crate) struct Names {
    url: String,
    system: String,
}

impl Deref for Place {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.0
    }
}

impl Place {
    /// Declares the exchanges and the queue of [`SINK`].
    pub(crate) fn new(url: String) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let system = format!("bench-{}-{}", since.as_millis(), std::process::id());
        let place = Self(Arc::new(Names { url, system }));
        let here = place.clone();
        block_on(async move {
            let transport = here.transport().await;
            let subscription = Subscription::Service { service: SINK, prefetch: 1 };
            transport.subscribe(subscription).await.expect("the broker lets us consume");
            transport.close().await;
        });
        place
    }
}

impl Names {
    /// A name on the broker.
    pub(crate) fn name(&self, name: &str) -> ShortString {
        format!("{}/{name}", self.system).into()
    }

    /// The exchange that everything goes through.
    pub(crate) fn entry(&self) -> ShortString {
        self.name(&exchange::ENTRY)
    }

    pub(crate) async fn transport(&self) -> AmqpTransport {
        let builder = AmqpTransport::builder(&self.url).expect("a valid URL");
        let builder = builder.system(&self.system).expect("a valid name");
        builder.connect().await.expect("the broker is up")
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.url, ConnectionProperties::default())
            .await
            .expect("the broker is up")
    }

    /// Empties a queue; returns how many messages were in it.
    pub(crate) async fn purge(&self, queue: &str) -> u32 {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let purge = channel.queue_purge(self.name(queue), QueuePurgeOptions::default());
        let purged = purge.await.expect("it exists");
        raw::close(&connection).await;
        purged
    }

    async fn delete(&self) -> lapin::Result<()> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await?;
        for service in [SINK.as_str(), ECHO.as_str(), calls::RAW] {
            for end in ["", ":dead", ".host1", ":reply"] {
                let queue = self.name(&format!("{service}{end}"));
                channel.queue_delete(queue, QueueDeleteOptions::default()).await?;
            }
        }
        for exchange in topology::exchanges() {
            let exchange = self.name(&exchange.name);
            channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await?;
        }
        raw::close(&connection).await;
        Ok(())
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Err(error) = block_on(self.delete()) {
            eprintln!("not everything was deleted: {error}");
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.expect("a runtime needs threads and memory only").block_on(work)
}
