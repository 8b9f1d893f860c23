//! Finds out that a node of a cluster is cut off from the others.
//!
//! Its connections stay open and it sends heartbeats, but its consumers get nothing of what comes to
//! the others. RabbitMQ 4.0 ends such a node after a minute (`pause_minority`), 4.3 does not, since
//! its metadata are in Khepri (<https://www.rabbitmq.com/docs/partitions>). Asked about a quorum queue
//! whose leader it can not reach, such a node says that nobody consumes it; we know better.

use lapin::Connection;
use tokio::time::sleep;

use super::{Consumers, subscribed::Particular};
use crate::{link::declare::Declarer, settings::Settings};

/// So often must it look so. While a queue chooses a leader nobody seems to consume it either.
const DOUBTS: u32 = 3;

impl Consumers {
    /// Returns when the broker seems to be cut off, and another may not be.
    pub(super) async fn cut_off(&self, connection: &Connection) {
        let Settings { options, names } = &*self.settings;
        if options.endpoints.len() < 2 {
            return std::future::pending().await;
        }
        let limit = options.confirm_timeout;
        let mut doubts = 0;
        while doubts < DOUBTS {
            sleep(if doubts == 0 { limit } else { limit / 4 }).await;
            let queue = self.shared_queue();
            let Some(name) = queue.as_deref().filter(|_| !self.board.is_blocked()) else {
                doubts = 0; // there is nothing to ask about, or no answer to be had
                continue;
            };
            let mut declarer = Declarer::new(connection, names, options.topology);
            match declarer.look(name, limit).await {
                Ok(found) => {
                    declarer.done().await;
                    doubts = if found.consumers > 0 { 0 } else { doubts + 1 };
                }
                Err(_) => doubts += 1,
            }
            if self.shared_queue() != queue {
                doubts = 0; // it was being consumed again
            }
        }
    }

    /// The name of a queue that is consumed, and may be on any node.
    fn shared_queue(&self) -> Option<String> {
        let state = self.state();
        let shared = state.subscriptions.iter().find(|subscribed| {
            matches!(subscribed.particular, Particular::Nothing) && subscribed.is_established()
        });
        shared.map(|subscribed| subscribed.declaration().queue.name.as_str().to_owned())
    }
}
