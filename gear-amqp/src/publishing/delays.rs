//! The exchanges and queues that hold messages back: declared when a message needs one, declared again when
//! one is gone, and not asked for all the time where the broker refuses.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use gear_api::{PublishError, Text, topology};
use lapin::Connection;
use tokio::time::Instant;

use super::{Link, Publisher, outgoing::Outgoing};
use crate::link::{
    declare::{Declarer, Owner},
    rpc::RpcError,
};

/// For so long a refusal is taken for granted: each one costs a channel, whose number lapin never uses
/// again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What is known of delays, over all connections.
#[derive(Default)]
pub(super) struct Delays {
    /// Those whose exchange was declared over any of them.
    declared: HashSet<Duration>,
    /// When the broker refused one, and why.
    refused: HashMap<Duration, (Instant, Text)>,
}

impl Delays {
    /// This may be another broker, or another user.
    pub(super) fn ask_again(&mut self) {
        self.refused.clear();
    }

    /// Why the broker will refuse it most likely.
    pub(super) fn refusal(&mut self, delay: Duration) -> Option<PublishError> {
        let (at, why) = self.refused.get(&delay)?;
        if at.elapsed() < REFUSED_FOR {
            return Some(PublishError::Refused(why.clone()));
        }
        self.refused.remove(&delay);
        None
    }
}

impl Publisher {
    pub(super) async fn declare_delay(
        &self,
        connection: &Connection,
        delay: Duration,
    ) -> Result<(), RpcError> {
        let (exchange, mut declaration) = topology::delay(delay);
        declaration.queue.queue_type = self.settings.options.queue_type;
        let mode = self.settings.options.topology;
        let again = self.state().delays.declared.contains(&delay);
        let mut declarer = Declarer::new(connection, &self.settings.names, mode).again(again);
        declarer.exchange(&exchange).await?;
        declarer.queue(&declaration, Owner::Many).await?;
        declarer.done().await;
        let mut state = self.state();
        state.delays.declared.insert(delay);
        if let Link::Up(up) = &mut state.link {
            up.delays.insert(delay);
        }
        // At once: nobody may come before those that waited for it.
        state.end_declaring();
        Ok(())
    }

    /// Those that wait for this delay are told; with a lost connection they wait on.
    pub(super) fn refuse_delay(&self, delay: Duration, error: &RpcError) {
        if !matches!(error, RpcError::Refused { .. }) {
            return;
        }
        let mut state = self.state();
        let why = Text::from(error.to_string());
        // The node that has its queue may be back soon.
        if !error.is_out_of_reach() {
            state.delays.refused.insert(delay, (Instant::now(), why.clone()));
        }
        // They are gone at once: what was refused must not be sent.
        state.queue.retain_mut(|outgoing| {
            let is_for_it = outgoing.target.delay == Some(delay);
            if is_for_it {
                outgoing.refuse(PublishError::Refused(why.clone()));
            }
            !is_for_it
        });
    }
}

impl super::State {
    /// The exchange of their delay leads nowhere: somebody has deleted its queue. They are sent
    /// again, once, when it is declared again.
    pub(super) fn send_again(&mut self, returned: Vec<Outgoing>) {
        for outgoing in returned.into_iter().rev() {
            if let (Link::Up(up), Some(delay)) = (&mut self.link, outgoing.target.delay) {
                up.delays.remove(&delay);
            }
            self.queue.push_front(outgoing);
        }
    }
}
