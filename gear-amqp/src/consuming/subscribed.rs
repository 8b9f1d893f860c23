//! One subscription, as data that is declared and consumed again after every reconnect.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use gear_api::{
    Instance, ReplySink, ReplyTo, SubscribeError, Subscription,
    topology::{self, Declaration},
};
use tokio::sync::oneshot;

use crate::{
    consuming::drops::Drops, consuming::inbox::Inbox, link::board::Pending, link::declare::Owner,
    publishing::Publisher, settings::Settings, wire::Origin,
};

/// Which of the consuming channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The queue that the instances of a service share.
    Shared = 0,
    /// What is this instance's own, and events.
    Own = 1,
    /// Taps. RabbitMQ closes a channel on which something is unsettled for half an hour
    /// (<https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>), and nobody has to look at a
    /// tap.
    Watch = 2,
    /// What was set aside. Whoever looks at it may take more than half an hour.
    Dead = 3,
}

/// What is particular about a subscription.
pub(crate) enum Particular {
    Nothing,
    /// Exclusive.
    Instance(Instance),
    /// Not acked; straight to the sink.
    Replies(Instance, Arc<dyn ReplySink>),
    /// Acked when taken.
    Tap,
}

impl Particular {
    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Nothing => Owner::Many,
            Self::Instance(_) => Owner::Instance,
            Self::Replies(..) | Self::Tap => Owner::Start,
        }
    }
}

pub(crate) struct Subscribed {
    pub(crate) particular: Particular,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) prefetch: u16,
    pub(crate) slot: Slot,
    pub(crate) origin: Origin,
    pub(crate) drops: Arc<Drops>,
    /// The queue of what is set aside, where there is one.
    pub(crate) dead: Option<Declaration>,
    state: Mutex<State>,
}

struct State {
    declaration: Declaration,
    /// Who waits for the subscription to be established the first time.
    first: Option<oneshot::Sender<Result<(), SubscribeError>>>,
    /// Held while a subscription that was established is not any more.
    pending: Option<Pending>,
    /// The broker is slow.
    patient: bool,
}

/// Unsettled deliveries of a tap.
pub(crate) const TAP_PREFETCH: u16 = 1_000;

/// A part of a reply queue's name that no other start of any node has.
fn reply_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = uuid::Uuid::now_v7().simple().to_string();
    // The time and the random part of a UUID are 128 bits; a queue name has room for 32
    // characters. The count keeps those of one process apart even if the clock stands still.
    format!("{}{count:04x}", &random[..28])
}

/// Tells whoever subscribed how that went.
pub(crate) type Established = oneshot::Receiver<Result<(), SubscribeError>>;

impl Subscribed {
    /// What a subscription comes to, and who is told when it is established.
    pub(crate) fn plan(
        settings: &Settings,
        publisher: &Arc<Publisher>,
        subscription: Subscription,
    ) -> Result<(Arc<Self>, Established), SubscribeError> {
        let mut slot = Slot::Own;
        let mut origin = Origin::Requests;
        let (particular, mut declaration, prefetch, service) = match subscription {
            Subscription::Service { service, prefetch } => {
                slot = Slot::Shared;
                (Particular::Nothing, topology::service(&service), prefetch, Some(service))
            }
            Subscription::Instance { instance, prefetch } => {
                let service = instance.service().clone();
                let mut declaration = topology::instance(&instance);
                declaration.queue.expires = Some(settings.options.instance_expires);
                (Particular::Instance(instance), declaration, prefetch, Some(service))
            }
            Subscription::Replies { instance, sink } => {
                origin = Origin::Replies;
                let declaration = topology::replies(&ReplyTo::instance(&instance, reply_id()));
                (Particular::Replies(instance, sink), declaration, 0, None)
            }
            Subscription::Events { group, patterns, prefetch } => {
                origin = Origin::Events;
                let service = group.service().clone();
                let declaration = topology::events(&group, &patterns);
                (Particular::Nothing, declaration, prefetch, Some(service))
            }
            Subscription::Dead { service, prefetch } => {
                // Whoever looks at them may take his time.
                slot = Slot::Dead;
                origin = Origin::Either;
                (Particular::Nothing, topology::dead(&service), prefetch, Some(service))
            }
            Subscription::Tap { feed, pattern } => {
                slot = Slot::Watch;
                if feed == gear_api::Feed::Events {
                    origin = Origin::Events;
                }
                (Particular::Tap, topology::tap(feed, &pattern), TAP_PREFETCH, None)
            }
            _ => return Err(SubscribeError::Unsupported("subscription of this kind")),
        };
        let queue_type = settings.options.queue_type;
        // Those of one instance are always classic: their content belongs to one place, and only
        // classic queues refuse a second exclusive consumer.
        if matches!(particular, Particular::Nothing) {
            declaration.queue.queue_type = queue_type;
        }
        let dead = service.as_ref().map(|service| {
            let mut dead = topology::dead(service);
            dead.queue.queue_type = queue_type;
            dead
        });
        let prefetch = prefetch.clamp(1, settings.options.max_prefetch);
        let (first, established) = oneshot::channel();
        let queue = declaration.queue.name.clone();
        let subscribed = Arc::new(Self {
            particular,
            inbox: Arc::new(Inbox::new(prefetch)),
            prefetch,
            slot,
            origin,
            drops: Arc::new(Drops::new(Arc::clone(publisher), service, queue)),
            dead,
            state: Mutex::new(State {
                declaration,
                first: Some(first),
                pending: None,
                patient: false,
            }),
        });
        Ok((subscribed, established))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn declaration(&self) -> Declaration {
        self.state().declaration.clone()
    }

    /// Whether it has never been established.
    pub(crate) fn is_new(&self) -> bool {
        self.state().first.is_some()
    }

    /// Whether it is consumed now.
    pub(crate) fn is_established(&self) -> bool {
        let state = self.state();
        state.first.is_none() && state.pending.is_none()
    }

    pub(crate) fn set_pending(&self, pending: Option<Pending>) {
        let before = std::mem::replace(&mut self.state().pending, pending);
        drop(before); // not under the lock
    }

    /// Whether the broker is given more time than usual for this one's queue.
    pub(crate) fn is_patient(&self) -> bool {
        self.state().patient
    }

    pub(crate) fn set_patient(&self, patient: bool) {
        self.state().patient = patient;
    }

    /// The reply queue can not be used any more: the next one has another name.
    pub(crate) fn rename(&self) {
        if let Particular::Replies(instance, _) = &self.particular {
            let at = ReplyTo::instance(instance, reply_id());
            self.state().declaration = topology::replies(&at);
        }
    }

    /// Where answers are taken.
    pub(crate) fn listening(&self) {
        if let Particular::Replies(_, sink) = &self.particular {
            let name = self.state().declaration.queue.name.clone();
            sink.listening(ReplyTo::queue(name));
        }
    }

    /// Tells whoever subscribed, the first time.
    pub(crate) fn established(&self, result: Result<(), SubscribeError>) {
        if let Some(first) = self.state().first.take() {
            let _ = first.send(result);
        }
    }
}
