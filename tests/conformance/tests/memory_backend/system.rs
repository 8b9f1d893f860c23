//! One broker in memory, and what tests do to it.

use std::time::Duration;

use async_trait::async_trait;
use gear_api::{BoxError, Message, Pattern};
use gear_conformance::{Connection, Full, Link, System};
use gear_memory::{MemoryBroker, MemoryTransport, Overflow, Policy};

/// One broker.
#[derive(Debug, Clone)]
pub(crate) struct Broker(pub(crate) MemoryBroker);

#[async_trait]
impl System for Broker {
    async fn connect(&self) -> Result<Connection, BoxError> {
        let transport = self.0.connect();
        Ok(Connection::over(transport.clone(), Wire(transport)))
    }

    async fn quiet(&self) {
        self.0.idle().await;
    }

    async fn messages(&self, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
        Ok(self.0.queue(queue).map(|_| self.0.messages(queue)))
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BoxError> {
        if self.0.delete_queue(queue) { Ok(()) } else { Err("there is no such queue".into()) }
    }

    async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Result<(), BoxError> {
        let overflow = match when {
            Full::DropsOldest => Overflow::DropHead,
            Full::Refuses => Overflow::RejectPublish,
        };
        let policy = Policy::new().max_length(messages).overflow(overflow);
        self.0.set_policy(queue.parse::<Pattern>()?, policy);
        Ok(())
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.0.restart();
        Ok(())
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        match on {
            true => self.0.raise_alarm("no disk"),
            false => self.0.clear_alarm(),
        }
        Ok(())
    }
}

/// The link of one connection.
pub(crate) struct Wire(pub(crate) MemoryTransport);

#[async_trait]
impl Link for Wire {
    async fn cut(&self, time: Duration) -> Result<(), BoxError> {
        self.0.cut_for(time);
        Ok(())
    }
}
