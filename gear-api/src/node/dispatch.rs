//! From the consumers of a node to its handlers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use foldhash::HashMap;
use tokio::{sync::watch, time::Instant};

use super::{Context, failed, handler::Handler, job::Job, tasks::Tasks};
use crate::{
    Address, Consumer, ConsumerEnd, Delivery, DeliverySink, EventGroup, Instance, Kind, Pattern,
    Service, SubscribeError, Subscription, Text,
    client::{Core, count},
};

/// A handler with the number of messages that came for it.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) handler: Arc<dyn Handler>,
    /// How often a cast or an event that it fails is tried again.
    pub(super) retries: u32,
    pub(super) count: Arc<AtomicU64>,
}

/// The handlers of the service: requests by operation, and replies.
#[derive(Default)]
pub(super) struct Operations {
    pub(super) requests: HashMap<&'static str, Registered>,
    pub(super) replies: HashMap<&'static str, Registered>,
}

/// A handler for events that match a pattern.
pub(super) struct EventHandler {
    pub(super) pattern: Pattern,
    pub(super) event: &'static str,
    pub(super) registered: Registered,
}

/// What a consumer serves.
pub(super) enum Role {
    Service(Service, Arc<Operations>),
    Instance(Instance, Arc<Operations>),
    Events(EventGroup, Vec<EventHandler>),
}

impl Role {
    pub(super) fn subscription(&self, prefetch: u16) -> Subscription {
        match self {
            Self::Service(service, _) => {
                Subscription::Service { service: service.clone(), prefetch }
            }
            Self::Instance(instance, _) => {
                Subscription::Instance { instance: instance.clone(), prefetch }
            }
            Self::Events(group, handlers) => {
                let mut patterns: Vec<Pattern> =
                    handlers.iter().map(|handler| handler.pattern.clone()).collect();
                patterns.dedup();
                Subscription::Events { group: group.clone(), patterns, prefetch }
            }
        }
    }

    fn queue(&self) -> Text {
        match self {
            Self::Service(service, _) => service.text().clone(),
            Self::Instance(instance, _) => instance.text().clone(),
            Self::Events(group, _) => group.as_str().into(),
        }
    }

    /// Whether a message with this key belongs into the queue. Bindings are additive, and
    /// an older layout or an operator may have left some. A message that was held back
    /// comes with the queue's own name as its key.
    fn concerns(&self, key: &str) -> bool {
        match self {
            Self::Service(service, _) => key == service.as_str(),
            Self::Instance(instance, _) => {
                key == instance.as_str()
                    || key == Address::BROADCAST_KEY.as_str()
                    || key.strip_suffix(".*") == Some(instance.service().as_str())
            }
            Self::Events(group, handlers) => {
                key == group.as_str() || handlers.iter().any(|h| h.pattern.matches(key))
            }
        }
    }

    fn find(&self, kind: Kind, operation: &str, key: &str) -> Option<&Registered> {
        match self {
            Self::Service(_, operations) | Self::Instance(_, operations) => match kind {
                Kind::Reply => operations.replies.get(operation),
                _ => operations.requests.get(operation),
            },
            Self::Events(group, handlers) => {
                let held_back = key == group.as_str();
                let of_key = || handlers.iter().filter(|h| held_back || h.pattern.matches(key));
                // An event of a foreign program may not say what it is: then the topic does.
                let found = if operation.is_empty() {
                    of_key().next()
                } else {
                    of_key().find(|handler| handler.event == operation)
                };
                found.map(|handler| &handler.registered)
            }
        }
    }
}

/// When handlers that still run are cut off; none while the node runs.
pub(super) type StopAt = Option<Instant>;

/// Brings what one consumer delivers to its handlers.
pub(super) struct Dispatch {
    core: Arc<Core>,
    role: Role,
    queue: Text,
    tasks: Tasks,
    /// What came when there was no place any more, until the consumer has stopped: given back
    /// before that, it would come again at once. None from then on.
    held: Mutex<Option<Vec<Delivery>>>,
}

/// Keeps one consumer going.
pub(super) struct Dispatcher {
    dispatch: Arc<Dispatch>,
    consumer: Consumer,
    prefetch: u16,
    stop: watch::Receiver<StopAt>,
}

impl Dispatcher {
    /// Begins to consume.
    pub(super) async fn start(
        core: &Arc<Core>,
        role: Role,
        prefetch: u16,
        stop: watch::Receiver<StopAt>,
    ) -> Result<Self, SubscribeError> {
        let consumer = core.transport.subscribe(role.subscription(prefetch)).await?;
        let dispatch = Arc::new(Dispatch {
            core: Arc::clone(core),
            queue: role.queue(),
            role,
            tasks: Tasks::new(tokio::runtime::Handle::current()),
            held: Mutex::new(Some(Vec::new())),
        });
        Ok(Self { dispatch, consumer, prefetch, stop })
    }

    /// Serves until the node stops or the connection is closed. Returns how many handlers
    /// could not be cut off, because they never pause.
    pub(super) async fn run(mut self) -> usize {
        /// How long a handler that is cut off may take to come to its next pause.
        const LAST_PAUSE: Duration = Duration::from_secs(1);
        while self.serve().await && self.subscribe_again().await {}
        let tasks = &self.dispatch.tasks;
        let mut stop = self.stop.clone();
        let finished = tasks.finished();
        tokio::pin!(finished);
        // The connection may have ended before the node is stopped.
        let cut_off = tokio::select! {
            biased;
            () = &mut finished => return 0,
            stop = stop.wait_for(Option::is_some) => stop.ok().and_then(|at| *at),
        };
        if let Some(at) = cut_off
            && tokio::time::timeout_at(at, &mut finished).await.is_ok()
        {
            return 0;
        }
        tasks.cut_off();
        let _ = tokio::time::timeout(LAST_PAUSE, tasks.finished()).await;
        tasks.running()
    }

    /// Serves until the consumer ends. Returns whether the broker ended it, so that it is
    /// to be subscribed again.
    async fn serve(&mut self) -> bool {
        let sink: Arc<dyn DeliverySink> = Arc::<Dispatch>::clone(&self.dispatch);
        // It counts what its own consumer had, and there may be handlers of one before.
        let is_first = self.dispatch.tasks.running() == 0;
        let is_forwarded = is_first && self.consumer.forward(sink);
        let mut stop = self.stop.clone();
        let stopping = stop.wait_for(Option::is_some);
        tokio::pin!(stopping);
        loop {
            let next = async {
                // A sink has no more than the prefetch. Who takes what comes by himself may still be at
                // what came by a connection that is gone.
                if !is_forwarded {
                    self.dispatch.tasks.fewer_than(self.prefetch.into()).await;
                }
                self.consumer.next().await
            };
            let delivery = tokio::select! {
                biased;
                _ = &mut stopping => break,
                delivery = next => delivery,
            };
            let Some(delivery) = delivery else {
                return matches!(self.consumer.end(), Some(ConsumerEnd::Broker(_)));
            };
            self.dispatch.deliver(delivery);
        }
        // What was not begun goes back.
        self.dispatch.tasks.close();
        self.consumer.stop();
        while let Some(delivery) = self.consumer.next().await {
            delivery.requeue();
        }
        self.dispatch.give_back();
        false
    }

    /// The broker ended the consumer, e.g. because another node took the name while the connection
    /// was down. Returns whether there is one again: not if the node stops or the connection is
    /// closed.
    async fn subscribe_again(&mut self) -> bool {
        const PAUSE: Duration = Duration::from_secs(1);
        let Dispatch { core, role, queue, .. } = &*self.dispatch;
        tracing::warn!(%queue, end = ?self.consumer.end(), "declaring and consuming it again");
        let mut stop = self.stop.clone();
        let stopping = stop.wait_for(Option::is_some);
        tokio::pin!(stopping);
        loop {
            let subscription = role.subscription(self.prefetch);
            let subscribed = tokio::select! {
                biased;
                _ = &mut stopping => return false,
                subscribed = core.transport.subscribe(subscription) => subscribed,
            };
            match subscribed {
                Ok(consumer) => {
                    self.consumer = consumer;
                    return true;
                }
                Err(SubscribeError::Closed) => return false,
                Err(error) => {
                    tracing::warn!(%queue, %error, "could not consume it again");
                    if tokio::time::timeout(PAUSE, &mut stopping).await.is_ok() {
                        return false;
                    }
                }
            }
        }
    }
}

impl Dispatch {
    fn held(&self) -> MutexGuard<'_, Option<Vec<Delivery>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node stops, and this one was on its way.
    fn hold(&self, delivery: Delivery) {
        let mut held = self.held();
        match &mut *held {
            Some(held) => held.push(delivery),
            None => {
                drop(held);
                delivery.requeue();
            }
        }
    }

    /// The consumer has stopped.
    fn give_back(&self) {
        let held = self.held().take();
        held.into_iter().flatten().for_each(Delivery::requeue);
    }
}

impl DeliverySink for Dispatch {
    fn deliver(&self, delivery: Delivery) {
        let Some(place) = self.tasks.enter() else { return self.hold(delivery) };
        let (mut key, redelivered) = (delivery.key().clone(), delivery.is_redelivered());
        let (message, settlement) = delivery.into_parts();
        if key == self.queue
            && let Some(sent_under) = failed::sent_under(&message, |key| self.role.concerns(key))
        {
            key = sent_under;
        }
        let (core, queue) = (Arc::clone(&self.core), self.queue.clone());
        let cx = Context::new(core, message, key, queue, redelivered);
        let mut job = Job::new(cx, settlement);
        let (key, message) = (job.context().key(), job.context().message());
        let (kind, operation) = (message.kind(), message.operation());
        if !self.role.concerns(key) && kind != Kind::Reply {
            count(&self.core.counters.misrouted);
            tracing::warn!(%key, queue = %self.queue, "dropped: no pattern of this node is for it");
            return job.forget();
        }
        if let Some(registered) = self.role.find(kind, operation, key) {
            registered.count.fetch_add(1, Ordering::Relaxed);
            job.allow_retries(registered.retries);
            return registered.handler.spawn(place, job);
        }
        if job.expires() {
            return;
        }
        match kind {
            Kind::Reply => {
                count(&self.core.counters.unknown);
                let operation = job.context().message().operation();
                tracing::debug!(%operation, "a reply came that no handler takes");
                job.forget();
            }
            _ => {
                if let Some(rest) = job.unknown_operation() {
                    place.run(rest);
                }
            }
        }
    }
}

/// A dispatcher that is dropped takes its handlers with it.
impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.dispatch.tasks.close();
        self.consumer.stop();
        self.dispatch.give_back();
        self.dispatch.tasks.cut_off();
    }
}
