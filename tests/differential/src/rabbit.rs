//! RabbitMQ, through gear-amqp; looked into with a connection of lapin's own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use gear_amqp::AmqpTransport;
use gear_api::{BoxError, Feed, Pattern, Subscription, Transport};
use gear_test_amqp::{Broker, Proxy, Vhost};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};

use crate::{
    model::Depth,
    op::Node,
    world::{Waiting, World},
};

/// A pattern that no message of a sequence has as its key.
const NO_KEY: Pattern = Pattern::new("settled");

/// A vhost of its own on a broker.
#[derive(Debug)]
pub struct Rabbit<'b> {
    broker: &'b Broker,
    operator: Operator,
    proxies: Mutex<BTreeMap<Node, Arc<Proxy>>>,
    vhost: Vhost,
}

/// Looks into queues. A question about a queue that is not there ends its channel, and a restart
/// its connection; then there is another one.
#[derive(Debug)]
struct Operator {
    url: String,
    link: tokio::sync::Mutex<Option<(Connection, Channel)>>,
}

impl Operator {
    async fn channel(&self) -> Result<Channel, lapin::Error> {
        let mut link = self.link.lock().await;
        if let Some((connection, channel)) = &mut *link
            && connection.status().connected()
        {
            if !channel.status().connected() {
                *channel = connection.create_channel().await?;
            }
            return Ok(channel.clone());
        }
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        *link = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// How many messages wait in a queue, and how many consumers it has.
    async fn depth(&self, queue: &str) -> Result<Option<Depth>, BoxError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) => Ok(Some(Depth {
                ready: queue.message_count() as usize,
                consumers: queue.consumer_count() as usize,
            })),
            Err(error) if error.to_string().contains("NOT_FOUND") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl<'b> Rabbit<'b> {
    /// A new one on this broker.
    pub async fn new(broker: &'b Broker) -> Self {
        let vhost = broker.vhost().await;
        let operator = Operator { url: vhost.url(), link: tokio::sync::Mutex::default() };
        Self { broker, operator, proxies: Mutex::default(), vhost }
    }

    async fn proxy(&self, node: Node) -> Arc<Proxy> {
        let known = self.proxies().get(node).cloned();
        match known {
            Some(proxy) => proxy,
            None => {
                let proxy = Arc::new(self.broker.proxy().await);
                self.proxies().insert(node, Arc::clone(&proxy));
                proxy
            }
        }
    }

    fn proxies(&self) -> std::sync::MutexGuard<'_, BTreeMap<Node, Arc<Proxy>>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl World for Rabbit<'_> {
    async fn connect(&self, node: Option<Node>) -> Result<Arc<dyn Transport>, BoxError> {
        let url = match node {
            Some(node) => {
                let proxy = self.proxy(node).await;
                proxy.heal();
                proxy.through(&self.vhost.url())
            }
            None => self.vhost.url(),
        };
        // Both ways to be connected; connecting is what costs most here.
        let single = node != Some("B.x.y");
        let builder = AmqpTransport::builder(&url)?.single_connection(single);
        Ok(builder.connect().await?.into())
    }

    async fn cut(&self, node: Node) {
        self.proxy(node).await.cut();
    }

    async fn crash(&self, node: Node) {
        self.cut(node).await;
    }

    async fn mend(&self, node: Node) {
        self.proxy(node).await.heal();
    }

    async fn delete(&self, queue: &str) -> Result<(), BoxError> {
        let channel = self.operator.channel().await?;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    async fn depth(&self, queue: &str) -> Result<Option<Depth>, BoxError> {
        self.operator.depth(queue).await
    }

    async fn contents(&self, queue: &str) -> Result<Option<Vec<Waiting>>, BoxError> {
        if self.operator.depth(queue).await?.is_none() {
            return Ok(None);
        }
        let channel = self.operator.channel().await?;
        let mut contents = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel.basic_get(queue.into(), options).await? {
            let number = std::str::from_utf8(&message.delivery.data)?.parse()?;
            let redelivered = Some(message.delivery.redelivered);
            contents.push(Waiting { number, redelivered });
        }
        Ok(Some(contents))
    }

    /// The broker's management knows at once which queues there are, though not what is in them.
    async fn taps(&self) -> Result<usize, BoxError> {
        let path = format!("/api/queues/{}?columns=name", self.vhost.name());
        Ok(self.broker.api("GET", &path, None).await?.matches("amq.gen").count())
    }

    /// Settlements go out before anything that the same connection is asked for later. So
    /// something is asked for that takes several answers, each from another process of the
    /// broker: a tap that hears nothing.
    async fn settled(&self, transport: &Arc<dyn Transport>) -> Result<(), BoxError> {
        let tap = Subscription::Tap { feed: Feed::Requests, pattern: NO_KEY };
        let mut tap = transport.subscribe(tap).await?;
        tap.stop();
        while tap.next().await.is_some() {}
        Ok(())
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.broker.restart().await;
        Ok(())
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        if on {
            self.broker.raise_alarm().await;
        } else {
            self.broker.clear_alarm().await;
        }
        Ok(())
    }

    fn mortal(&self) -> Duration {
        Duration::from_millis(1_500)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}
