//! Deliveries that were lost by a bug: given back as failures, and set aside when that happens to
//! one message again and again. Classic queues do not count, so this does.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gear_api::{Id, Message, Route, Service, Text, Verdict, topology::dead_letter};

use crate::{consuming::acks::Acks, publishing::Publisher};

/// Messages that were dropped at least once, at most.
const MAX_REMEMBERED: usize = 10_000;

pub(crate) struct Drops {
    publisher: Arc<Publisher>,
    /// Whose messages they are; taps have nobody.
    service: Option<Service>,
    queue: Text,
    state: Mutex<State>,
}

/// A delivery: which consumer of ours got it, counted over all reconnects, and its tag there.
pub(crate) type Held = (u64, u64);

#[derive(Default)]
struct State {
    /// Redelivered messages that somebody holds now. Others can not have been dropped before.
    out: HashMap<Held, (Message, Text)>,
    /// How often it was dropped.
    times: HashMap<Known, u32>,
}

/// How a message is known when it comes again.
#[derive(PartialEq, Eq, Hash)]
enum Known {
    Id(Id),
    /// Those of foreign programs may have none: two that are alike count as one.
    Content(u64),
}

impl From<&Message> for Known {
    fn from(message: &Message) -> Self {
        match message.id() {
            Some(id) => Self::Id(id.clone()),
            None => {
                let mut hasher = DefaultHasher::new();
                (message.operation(), message.correlation(), message.body()).hash(&mut hasher);
                Self::Content(hasher.finish())
            }
        }
    }
}

impl Drops {
    pub(crate) fn new(publisher: Arc<Publisher>, service: Option<Service>, queue: Text) -> Self {
        Self { publisher, service, queue, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A redelivered message goes out again.
    pub(crate) fn out_again(&self, held: Held, message: &Message, key: &Text) {
        self.state().out.insert(held, (message.clone(), key.clone()));
    }

    /// It is done with.
    pub(crate) fn settled(&self, held: Held) {
        let mut state = self.state();
        if let Some((message, _)) = state.out.remove(&held)
            && !state.times.is_empty()
        {
            state.times.remove(&Known::from(&message));
        }
    }

    /// It goes back, and that is no failure.
    pub(crate) fn given_back(&self, held: Held) {
        self.state().out.remove(&held);
    }

    /// What the consumer `number` had goes back: its connection is gone.
    pub(crate) fn consumer_gone(&self, number: u64) {
        self.state().out.retain(|(consumer, _), _| *consumer != number);
    }

    /// Somebody lost it.
    pub(crate) fn dropped(self: &Arc<Self>, held: Held, acks: &Arc<Acks>) {
        let tag = held.1;
        let mut state = self.state();
        let Some((message, key)) = state.out.remove(&held) else {
            drop(state);
            return acks.give_back(tag, true);
        };
        let known = Known::from(&message);
        if state.times.len() >= MAX_REMEMBERED {
            state.times.clear();
        }
        let times = state.times.get(&known).map_or(2, |times| times + 1);
        if times < Verdict::MAX_RETURNS {
            state.times.insert(known, times);
            drop(state);
            return acks.give_back(tag, true);
        }
        state.times.remove(&known);
        drop(state);
        self.set_aside(tag, &message, &key, acks);
    }

    /// Only what is confirmed to be in the dead queue leaves its own.
    fn set_aside(self: &Arc<Self>, tag: u64, message: &Message, key: &str, acks: &Arc<Acks>) {
        let Some(service) = self.service.clone() else { return acks.reject(tag) };
        let reason = format!("dropped {} times", Verdict::MAX_RETURNS);
        let dead = dead_letter(message, &self.queue, key, &reason);
        let publish = self.publisher.send(Route::Dead(&service), dead);
        let (this, acks) = (Arc::clone(self), Arc::clone(acks));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return acks.give_back(tag, true);
        };
        runtime.spawn(async move {
            match publish.await {
                Ok(()) => acks.ack(tag),
                Err(error) => {
                    tracing::error!(queue = %this.queue, %error, "could not be set aside");
                    acks.give_back(tag, true);
                }
            }
        });
    }
}
