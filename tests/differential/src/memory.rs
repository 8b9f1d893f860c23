//! gear-memory, under a paused clock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use gear_api::{BoxError, Transport};
use gear_memory::{MemoryBroker, MemoryTransport};
use tokio::time::{Instant, sleep_until};

use crate::{
    model::Depth,
    op::Node,
    world::{Waiting, World},
};

/// A link that is cut comes back after so long of virtual time, in which nothing else happens.
const CUT: Duration = Duration::from_secs(60);

/// A [`MemoryBroker`] of its own.
#[derive(Debug)]
pub struct Memory {
    broker: MemoryBroker,
    links: Mutex<BTreeMap<Node, (MemoryTransport, Instant)>>,
}

impl Memory {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self { broker: MemoryBroker::builder().seed(7).build(), links: Mutex::default() }
    }

    /// The broker, to make it differ.
    #[must_use]
    pub fn broker(&self) -> &MemoryBroker {
        &self.broker
    }

    fn link(&self, node: Node) -> Option<(MemoryTransport, Instant)> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    fn keep(&self, node: Node, link: MemoryTransport) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(node, (link, Instant::now()));
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl World for Memory {
    async fn connect(&self, node: Option<Node>) -> Result<Arc<dyn Transport>, BoxError> {
        let transport = self.broker.connect();
        if let Some(node) = node {
            self.keep(node, transport.clone());
        }
        Ok(transport.into())
    }

    async fn cut(&self, node: Node) {
        if let Some((link, _)) = self.link(node) {
            link.cut_for(CUT);
            self.keep(node, link);
        }
    }

    async fn crash(&self, node: Node) {
        self.cut(node).await;
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    async fn mend(&self, node: Node) {
        if let Some((_, since)) = self.link(node) {
            sleep_until(since + CUT).await;
        }
    }

    async fn delete(&self, queue: &str) -> Result<(), BoxError> {
        if self.broker.delete_queue(queue) { Ok(()) } else { Err("no such queue".into()) }
    }

    async fn depth(&self, queue: &str) -> Result<Option<Depth>, BoxError> {
        let queue = self.broker.queue(queue);
        Ok(queue.map(|queue| Depth { ready: queue.ready, consumers: queue.consumers }))
    }

    async fn contents(&self, queue: &str) -> Result<Option<Vec<Waiting>>, BoxError> {
        if self.broker.queue(queue).is_none() {
            return Ok(None);
        }
        let number = |message: &gear_api::Message| -> Result<Waiting, BoxError> {
            let number = std::str::from_utf8(message.body())?.parse()?;
            Ok(Waiting { number, redelivered: None })
        };
        self.broker.messages(queue).iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    async fn taps(&self) -> Result<usize, BoxError> {
        let queues = self.broker.queues();
        Ok(queues.iter().filter(|queue| queue.name.starts_with("amq.gen")).count())
    }

    async fn settled(&self, _: &Arc<dyn Transport>) -> Result<(), BoxError> {
        let _ = self.broker.stored_bytes(); // looking at the broker brings settlements to it
        Ok(())
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.broker.restart();
        Ok(())
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        if on {
            self.broker.raise_alarm("a test");
        } else {
            self.broker.clear_alarm();
        }
        Ok(())
    }

    fn mortal(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}
