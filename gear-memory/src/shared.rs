//! The state of a broker behind its lock, and what every change of it entails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use gear_api::{
    Clock, ConsumerEnd, Message, Status, Text, Verdict,
    topology::{self, QueueType},
};
use slotmap::SlotMap;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    fault::Faults,
    inbox::{Inbox, Settled},
    model::{ConnectionId, ConsumerId, ExchangeId, Model, Tag},
    now::Now,
    publishing::Target,
    record::Event,
    subscribed::Subscribed,
    waiting::{AllWaiting, HandedOver},
    wake,
};

/// The exchanges of the wire contract.
pub(crate) struct Exchanges {
    pub(crate) entry: ExchangeId,
    pub(crate) reply: ExchangeId,
    pub(crate) events: ExchangeId,
    pub(crate) dead: ExchangeId,
    pub(crate) default: ExchangeId,
}

impl Exchanges {
    fn declare(model: &mut Model<Arc<Inbox>>) -> Self {
        for exchange in topology::exchanges() {
            // An empty model has nothing that could be in the way.
            let declared = model.declare_exchange(&exchange);
            debug_assert!(declared.is_ok());
        }
        let (source, to, key) = topology::CAST_BINDING;
        if let (Ok(source), Ok(to)) = (model.exchange(&source), model.exchange(&to)) {
            let bound = model.bind_exchange(source, to, &key);
            debug_assert!(bound.is_ok());
        }
        let id = |name: Text| model.exchange(&name).unwrap_or_default();
        Self {
            entry: id(topology::exchange::ENTRY),
            reply: id(topology::exchange::REPLY),
            events: id(topology::exchange::EVENTS),
            dead: id(topology::exchange::DEAD),
            default: id(topology::exchange::DEFAULT),
        }
    }
}

/// What all handles of one broker share. What changes all the time is apart, on cache lines
/// of its own, from what never does.
#[repr(align(128))]
pub(crate) struct Shared {
    locked: CachePadded<Locked>,
    /// Publishers wait for every byte: settlements are not held back then.
    pub(crate) is_blocked: AtomicBool,
    /// Whether somebody waits for [`Shared::idle`]: then no settlement is kept for a batch. Written
    /// before all settlements are taken from the inboxes, read under the lock of one of these.
    pub(crate) is_watched: AtomicBool,
    pub(crate) exchanges: Exchanges,
    seed: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) watermark: usize,
    pub(crate) max_message_bytes: usize,
    pub(crate) reconnect_delay: Duration,
    /// Of the queues that instances share.
    pub(crate) queue_type: QueueType,
    pub(crate) timer_changed: Arc<Notify>,
    pub(crate) progress: Notify,
}

/// The lock, with the settlements in front: whoever takes it looks at them before and after, and so
/// gets both with one cache line. Hence the order is fixed.
#[repr(C)]
struct Locked {
    settlements: Settlements,
    state: Mutex<State>,
}

/// Settlements on their way into the broker. A consumer leaves them here, and whoever has
/// the broker's lock takes them in: so consumers never wait for publishers.
#[derive(Default)]
struct Settlements {
    batch: Mutex<Vec<(ConsumerId, Tag, Verdict)>>,
    /// Whether some wait, in the lowest bit; above it how often somebody has looked.
    waiting: AtomicUsize,
}

const WAITING: usize = 1;
const LOOKED: usize = 2;

impl Settlements {
    fn add(&self, settled: &mut Settled) {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let consumer = settled.consumer;
        batch.extend(settled.verdicts.drain(..).map(|(tag, verdict)| (consumer, tag, verdict)));
        self.waiting.fetch_or(WAITING, Ordering::AcqRel);
    }

    /// Looks once more, after the broker was unlocked.
    ///
    /// This writes, so of it and an [`add`](Self::add) one comes first. If the `add` does, it is
    /// seen here. If this does, the `add` has seen it, and all before it: the `try_lock` that
    /// follows the `add` finds the lock free, or held by somebody who is still to look.
    fn look(&self) -> bool {
        self.waiting.fetch_add(LOOKED, Ordering::AcqRel) & WAITING != 0
    }

    fn take_in(&self, state: &mut State, now: &Now) {
        if self.waiting.load(Ordering::Relaxed) & WAITING != 0 {
            self.take_in_all(state, now);
        }
    }

    #[inline(never)]
    fn take_in_all(&self, state: &mut State, now: &Now) {
        // The two buffers change places, so that none is ever allocated again.
        let mut batch = std::mem::take(&mut state.settling);
        {
            let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_and(!WAITING, Ordering::AcqRel);
            std::mem::swap(&mut batch, &mut waiting);
        }
        for run in batch.chunk_by(|one, next| one.0 == next.0) {
            let verdicts = run.iter().map(|&(_, tag, verdict)| (tag, verdict));
            state.model.settle(run[0].0, verdicts, now);
        }
        batch.clear();
        state.settling = batch;
    }
}

pub(crate) struct State {
    pub(crate) model: Model<Arc<Inbox>>,
    pub(crate) connections: SlotMap<ConnectionId, Connection>,
    pub(crate) connected: u64,
    /// The connections that are down, by the time when they are back.
    pub(crate) down: BTreeSet<(Instant, ConnectionId)>,
    pub(crate) faults: Faults,
    /// The buffer that [`Settlements`] changes places with.
    settling: Vec<(ConsumerId, Tag, Verdict)>,
    pub(crate) alarm: Option<Text>,
    /// Why publishing is blocked, if the connections were told so.
    shows_blocked: Option<Text>,
    pub(crate) waiting: AllWaiting,
    /// Messages that a fault holds back, by time.
    pub(crate) held: BTreeMap<(Instant, u64), (Target, Message)>,
    /// Messages whose confirm a fault has lost, by the time when their publishers give up, and in
    /// the order of sending.
    pub(crate) unconfirmed: BTreeMap<(Instant, u64), HandedOver>,
    numbers: u64,
    /// What the idle waiters were last told of [`Model::activity`].
    told: u64,
    pub(crate) idle_waiters: usize,
    /// What the ticker waits for.
    pub(crate) timer_set: Option<Instant>,
    pub(crate) ticker: Option<tokio::task::JoinHandle<()>>,
}

pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) link: Link,
    pub(crate) subscriptions: Vec<Subscribed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Cut, and back at that time.
    Down(Instant),
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Why publishers have to wait, if they have to.
    pub(crate) fn blocked(&self, shared: &Shared) -> Option<Text> {
        if let Some(why) = &self.alarm {
            return Some(why.clone());
        }
        (self.model.bytes() > shared.watermark)
            .then_some(const { Text::from_static("the memory watermark is exceeded") })
    }

    /// Whether messages go straight to the model.
    pub(crate) fn is_plain(&self, shared: &Shared) -> bool {
        self.alarm.is_none()
            && self.faults.is_empty()
            && !self.waiting.is_for_room()
            && self.model.bytes() <= shared.watermark
    }

    /// Cuts connections until `back`, all at once: what one had goes to none of the others.
    pub(crate) fn cut(&mut self, cut: &[ConnectionId], back: Instant, now: &Now) {
        for &id in cut {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if let Link::Down(until) = &mut connection.link {
                self.down.remove(&(*until, id));
                *until = back.max(*until);
                self.down.insert((*until, id));
                continue;
            }
            self.down.insert((back, id));
            connection.link = Link::Down(back);
            connection.status.send_replace(Status::Connecting);
            for subscribed in &connection.subscriptions {
                subscribed.detach();
            }
            let number = connection.number;
            self.model.activity += 1;
            self.model.note(now, || Event::Connection { number, up: false });
        }
        self.send_again(cut);
        self.model.drop_connections(cut, now);
    }
}

/// What a broker is built with.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) seed: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) watermark: usize,
    pub(crate) max_message_bytes: usize,
    pub(crate) reconnect_delay: Duration,
    pub(crate) queue_type: QueueType,
}

impl Shared {
    pub(crate) fn new(mut model: Model<Arc<Inbox>>, options: Options) -> Self {
        let exchanges = Exchanges::declare(&mut model);
        Self {
            locked: CachePadded::new(Locked {
                settlements: Settlements::default(),
                state: Mutex::new(State {
                    model,
                    connections: SlotMap::with_key(),
                    connected: 0,
                    down: BTreeSet::new(),
                    faults: Faults::default(),
                    settling: Vec::new(),
                    alarm: None,
                    shows_blocked: None,
                    waiting: AllWaiting::default(),
                    held: BTreeMap::new(),
                    unconfirmed: BTreeMap::new(),
                    numbers: 0,
                    told: 0,
                    idle_waiters: 0,
                    timer_set: None,
                    ticker: None,
                }),
            }),
            is_blocked: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            exchanges,
            seed: options.seed,
            clock: options.clock,
            watermark: options.watermark,
            max_message_bytes: options.max_message_bytes,
            reconnect_delay: options.reconnect_delay,
            queue_type: options.queue_type,
            timer_changed: Arc::new(Notify::new()),
            progress: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.locked.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and then does what the change entails: blocked publishers go on
    /// or are told, timers are set, tasks are woken once the lock is gone.
    pub(crate) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, &Now) -> R) -> R {
        let now = Now::default();
        let mut state = self.begin(&now);
        let result = change(&mut state, &now);
        self.finish(state, &now);
        result
    }

    /// The beginning of a change, which is to be ended with [`finish`](Self::finish): for those
    /// who would move much into [`with`](Self::with) and back.
    pub(crate) fn begin(&self, now: &Now) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        self.locked.settlements.take_in(&mut state, now);
        state
    }

    /// The end of every change.
    pub(crate) fn finish<'a>(self: &'a Arc<Self>, state: MutexGuard<'a, State>, now: &Now) {
        self.unlock(state, now);
        // Settlements may have come while the lock was held.
        if self.locked.settlements.look() {
            self.take_in_late(now);
        }
    }

    #[cold]
    fn take_in_late(self: &Arc<Self>, now: &Now) {
        // Whoever has the lock now will look, too.
        while let Some(mut state) = self.try_lock() {
            self.locked.settlements.take_in(&mut state, now);
            self.unlock(state, now);
            if !self.locked.settlements.look() {
                return;
            }
        }
    }

    fn unlock<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>, now: &Now) {
        if !state.is_plain(self) || state.shows_blocked.is_some() {
            self.release_waiting(&mut state, now);
            self.show_blocked(&mut state, now);
        }
        self.set_timer(&mut state);
        let progress = state.idle_waiters > 0 && state.told != state.model.activity;
        state.told = state.model.activity;
        // Mostly nobody is gone and one is woken at most: then the buffers stay where they are.
        if state.model.wakes().len() <= 1 && !state.model.has_gone() {
            let wake = state.model.wakes().pop();
            drop(state);
            if let Some(wake) = wake {
                wake::run_one(wake);
            }
        } else {
            let wakes = std::mem::take(state.model.wakes());
            let gone = state.model.take_gone();
            drop(state);
            wake::run(wakes);
            drop(gone);
        }
        if progress {
            self.progress.notify_waiters();
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.locked.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Settles one delivery at once, if nobody has the lock. Returns whether it did.
    pub(crate) fn settle_now(
        self: &Arc<Self>,
        consumer: ConsumerId,
        tag: Tag,
        verdict: Verdict,
    ) -> bool {
        let Some(mut state) = self.try_lock() else { return false };
        let now = Now::default();
        self.locked.settlements.take_in(&mut state, &now);
        state.model.settle(consumer, [(tag, verdict)], &now);
        self.finish(state, &now);
        true
    }

    /// Leaves settlements for whoever takes them in next.
    pub(crate) fn leave_settled(&self, settled: &mut Settled) {
        self.locked.settlements.add(settled);
    }

    /// Takes settlements in that were left. Never waits for the lock.
    pub(crate) fn take_in_settled(self: &Arc<Self>) {
        if let Some(mut state) = self.try_lock() {
            let now = Now::default();
            self.locked.settlements.take_in(&mut state, &now);
            self.finish(state, &now);
        }
    }

    /// Tells those who are connected whether publishing works.
    fn show_blocked(&self, state: &mut State, now: &Now) {
        let blocked = state.blocked(self);
        self.is_blocked.store(blocked.is_some(), Ordering::Relaxed);
        if blocked != state.shows_blocked {
            state.shows_blocked.clone_from(&blocked);
            state.model.note(now, || Event::Blocked { why: blocked.clone() });
        }
        for connection in state.connections.values() {
            if connection.link != Link::Up {
                continue;
            }
            connection.status.send_if_modified(|status| {
                let new = match &blocked {
                    Some(why) => Status::Blocked(why.clone()),
                    None => Status::Ready,
                };
                let changed = *status != new;
                *status = new;
                changed
            });
        }
    }

    /// Brings all settlements to the broker that consumers still hold.
    pub(crate) fn settle_all(self: &Arc<Self>) {
        self.with(|state, now| {
            let State { model, connections, .. } = state;
            for connection in connections.values() {
                for subscribed in &connection.subscriptions {
                    if let Some(Settled { consumer, verdicts, .. }) =
                        subscribed.inbox.take_settled()
                    {
                        model.settle(consumer, verdicts, now);
                    }
                }
            }
        });
    }

    /// What had arrived is taken, and will not be settled: whoever is idle is to look again.
    #[cold]
    pub(crate) fn note_taken(self: &Arc<Self>) {
        self.with(|state, _| state.model.activity += 1);
    }

    /// Ends a subscription: what nobody took goes back.
    pub(crate) fn stop(
        self: &Arc<Self>,
        inbox: &Arc<Inbox>,
        untaken: Option<(ConsumerId, Vec<Tag>)>,
    ) {
        self.with(|state, now| {
            state.model.activity += 1;
            let consumer = inbox.consumer();
            // First: what is settled below makes room for more.
            if let Some(consumer) = consumer.filter(|_| !inbox.takes_replies()) {
                state.model.cancel(consumer, now);
            }
            // From now on nobody leaves settlements behind for the consumer to bring.
            let (arrived, wake) = inbox.finish(ConsumerEnd::Stopped);
            if let Some(Settled { consumer, verdicts, .. }) = inbox.take_settled() {
                state.model.settle(consumer, verdicts, now);
            }
            state.model.wakes().extend(wake);
            if let Some(consumer) = consumer {
                if inbox.takes_replies() {
                    // Whoever answers now learns at once that nobody listens.
                    state.model.delete_queue_of(consumer, now);
                }
                for (consumer, tags) in untaken.into_iter().chain([(consumer, arrived)]) {
                    let returned = tags.into_iter().map(|tag| (tag, Verdict::Requeue));
                    state.model.settle(consumer, returned, now);
                }
            }
            for connection in state.connections.values_mut() {
                connection.subscriptions.retain(|other| !Arc::ptr_eq(&other.inbox, inbox));
            }
        });
    }

    /// The seed of the connection with this number.
    pub(crate) fn seed_of(&self, number: u64) -> Option<u64> {
        // Ids spread what they are given; here it need only differ.
        self.seed.map(|seed| seed.wrapping_mul(0x1_0001).wrapping_add(number))
    }
}
