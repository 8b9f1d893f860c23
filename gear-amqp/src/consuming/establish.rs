//! From a subscription to a consumer that works: its queue is declared, and consumed.

use std::sync::Arc;

use gear_api::SubscribeError;
use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use super::{
    Consumers,
    acks::Acks,
    epoch::Epoch,
    subscribed::{Particular, Subscribed},
};
use crate::{
    link::{
        declare::{Declarer, Owner, short},
        rpc::{ANSWER, RpcError, code, open_channel, within, within_or},
    },
    settings::Settings,
};

/// Why there is no consumer.
pub(super) enum Failure {
    /// The connection will not do.
    Lost,
    Refused(SubscribeError),
    /// May be mended by itself.
    NotNow(RpcError),
    InUse,
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match &error {
            RpcError::Lost(_) => Self::Lost,
            RpcError::Silent { .. } => Self::NotNow(error),
            RpcError::Refused { text, .. } => Self::Refused(SubscribeError::Refused(text.clone())),
        }
    }
}

/// A consumer that works.
pub(super) struct Established {
    pub(super) consumer: lapin::Consumer,
    pub(super) acks: Arc<Acks>,
}

impl Consumers {
    /// Begins to consume. Not given up half-way: the broker may have a consumer by then, and what
    /// that gets must go back.
    pub(super) async fn consume(
        self: &Arc<Self>,
        subscribed: &Arc<Subscribed>,
        epoch: &Epoch,
        queue: &str,
    ) -> Result<Established, Failure> {
        self.not_stopped(&subscribed.inbox, self.begin(subscribed, epoch, queue)).await
    }

    async fn begin(
        self: &Arc<Self>,
        subscribed: &Arc<Subscribed>,
        epoch: &Epoch,
        queue: &str,
    ) -> Result<Established, Failure> {
        let mut slot = epoch.channel(subscribed.slot).await;
        let acks = match &*slot {
            Some(acks) if acks.channel().status().connected() => Arc::clone(acks),
            _ => {
                let channel = open_channel(&epoch.connection).await?;
                let acks = Acks::start(channel, Arc::clone(&self.publisher.gate));
                Arc::clone(slot.insert(acks))
            }
        };
        let channel = acks.channel().clone();
        let no_ack = matches!(subscribed.particular, Particular::Replies(..));
        if !no_ack {
            let (channel, prefetch) = (channel.clone(), subscribed.prefetch);
            let qos = async move { channel.basic_qos(prefetch, BasicQosOptions::default()).await };
            within(ANSWER, "setting the prefetch", qos).await?;
            acks.serve(subscribed.prefetch);
        }
        let exclusive = matches!(subscribed.particular, Particular::Instance(_));
        let options = BasicConsumeOptions { no_ack, exclusive, ..BasicConsumeOptions::default() };
        let name = short(queue)?;
        let consume = async move {
            channel
                .basic_consume(name, ShortString::default(), options, FieldTable::default())
                .await
        };
        // If it begins after all, nobody has its deliveries: they go back. Its channel stays, with the
        // deliveries of others.
        let too_late = {
            let (this, subscribed) = (Arc::clone(self), Arc::clone(subscribed));
            let acks = Arc::clone(&acks);
            move |answer| {
                if let Ok(consumer) = answer {
                    let late = Established { consumer, acks };
                    tokio::spawn(async move { this.end_late(&subscribed, late).await });
                }
            }
        };
        match within_or(ANSWER, "starting to consume", consume, too_late).await {
            Ok(consumer) => Ok(Established { consumer, acks }),
            Err(error) if exclusive && error.is(code::ACCESS_REFUSED) => Err(Failure::InUse),
            Err(error) => {
                if matches!(error, RpcError::Silent { .. }) {
                    epoch.leave(&mut slot);
                }
                Err(error.into())
            }
        }
    }

    /// Declares the queue; returns its name on the broker.
    pub(super) async fn declare(
        &self,
        subscribed: &Arc<Subscribed>,
        epoch: &Epoch,
    ) -> Result<String, Failure> {
        let options = &self.settings.options;
        let mut declarer = Declarer::new(&epoch.connection, &self.settings.names, options.topology)
            .again(!subscribed.is_new())
            .patient(subscribed.is_patient());
        if let Some(dead) = &subscribed.dead {
            match declarer.queue(dead, Owner::Many).await {
                // It exists, and what is to be set aside can wait for it.
                Err(error) if may_be_out_of_reach(&error) => {
                    tracing::warn!(queue = %dead.queue.name, %error, "can not be reached");
                }
                declared => drop(declared?),
            }
        }
        let declaration = subscribed.declaration();
        let found = match declarer.queue(&declaration, subscribed.particular.owner()).await {
            Ok(found) => found,
            Err(error) => return Err(self.mend(subscribed, epoch, error).await),
        };
        declarer.done().await;
        if matches!(subscribed.particular, Particular::Instance(_)) && found.consumers > 0 {
            return Err(Failure::InUse);
        }
        Ok(found.name)
    }

    /// An exchange was gone, and with it what was bound there. Taps show no more of it, until they are
    /// made again: only the broker knows the names of their queues.
    pub(super) async fn bind_again(&self, epoch: &Epoch) {
        let subscriptions = self.state().subscriptions.clone();
        let Settings { options, names } = &*self.settings;
        let mut declarer = Declarer::new(&epoch.connection, names, options.topology).again(true);
        for subscribed in subscriptions.iter().filter(|subscribed| subscribed.is_established()) {
            if self.is_closed() || subscribed.inbox.is_stopping() {
                continue; // its queue may be gone for good
            }
            let dead = subscribed.dead.clone().map(|dead| (dead, Owner::Many));
            let own = (subscribed.declaration(), subscribed.particular.owner());
            for (declaration, owner) in dead.into_iter().chain([own]) {
                let queue = &declaration.queue.name;
                if !queue.is_empty()
                    && let Err(error) = declarer.queue(&declaration, owner).await
                {
                    tracing::warn!(%queue, %error, "can not be bound again");
                }
            }
        }
        declarer.done().await;
    }

    /// Sees to it that trying again is of use, if the queue is to blame and not the whole broker.
    async fn mend(&self, subscribed: &Subscribed, epoch: &Epoch, error: RpcError) -> Failure {
        if !may_be_out_of_reach(&error) {
            return error.into();
        }
        let Settings { options, names } = &*self.settings;
        let new = || Declarer::new(&epoch.connection, names, options.topology);
        match &subscribed.particular {
            // Answers to calls that are under way come to the old one.
            Particular::Replies(..) if !error.is_out_of_reach() && !new().answers().await => {
                subscribed.set_patient(true);
            }
            Particular::Replies(..) => {
                subscribed.rename();
                tracing::warn!(%error, "the reply queue is out of reach; using a new one");
            }
            // Silence is no reason: the queue may be well, and the broker slow.
            Particular::Instance(instance)
                if options.recreate_instance_queue && error.is_out_of_reach() =>
            {
                tracing::warn!(%instance, %error, "declaring the queue again; its content is lost");
                let _ = new().delete(instance.as_str()).await;
            }
            _ => {}
        }
        Failure::NotNow(error)
    }
}

/// A classic queue whose node is down answers nothing, for a long time.
fn may_be_out_of_reach(error: &RpcError) -> bool {
    matches!(error, RpcError::Silent { .. }) || error.is_out_of_reach()
}
