//! The handlers that run: how many, when the last one has finished, and how to cut off
//! those that take too long.
//!
//! Each runs in a task of its own. When it has finished, its task waits for the next one, since to
//! make a task and to end it takes longer than most handlers do. One that waits for something leaves
//! its waker here, so that it can be told to stop.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use crossbeam_utils::CachePadded;
use foldhash::HashMap;
use tokio::{runtime::Handle, sync::Notify};

/// What a task runs.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The handlers of one consumer.
#[derive(Clone)]
pub(super) struct Tasks(Arc<Shared>);

#[repr(align(128))]
struct Shared {
    runtime: Handle,
    /// Alone on its cache line: every handler changes it.
    running: CachePadded<AtomicUsize>,
    closed: AtomicBool,
    /// Whether somebody waits, or has waited, for one to finish.
    awaited: AtomicBool,
    finished: Notify,
    cut_off: AtomicBool,
    waiting: Mutex<Waiting>,
    /// The tasks that have nothing to do.
    idle: CachePadded<Mutex<Vec<Arc<Desk>>>>,
}

#[derive(Default)]
struct Waiting {
    wakers: HashMap<u64, Waker>,
    next: u64,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Arc<Desk>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    /// None yet; they will run in this runtime, whoever gives them work.
    pub(super) fn new(runtime: Handle) -> Self {
        Self(Arc::new(Shared {
            runtime,
            running: CachePadded::default(),
            closed: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            finished: Notify::new(),
            cut_off: AtomicBool::new(false),
            waiting: Mutex::default(),
            idle: CachePadded::default(),
        }))
    }

    /// A place for one more; none once closed.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let place = Place(&self.0);
        // Counted first: whoever closes and then waits for zero waits for this one, too.
        (!self.0.closed.load(Ordering::SeqCst)).then_some(place)
    }

    /// Lets no more in.
    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        // Those that have nothing to do end.
        let idle = std::mem::take(&mut *self.0.idle());
        idle.iter().for_each(|desk| desk.wake());
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    /// Returns when none runs.
    pub(super) async fn finished(&self) {
        self.fewer_than(1).await;
    }

    /// Returns when fewer than so many run.
    pub(super) async fn fewer_than(&self, limit: usize) {
        self.0.awaited.store(true, Ordering::SeqCst);
        loop {
            let finished = self.0.finished.notified();
            if self.running() < limit {
                return;
            }
            finished.await;
        }
    }

    /// Drops all futures that have not finished, where they wait: those that are being
    /// polled right now at their next pause.
    pub(super) fn cut_off(&self) {
        self.0.cut_off.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut self.0.waiting().wakers);
        // In the order in which they came to wait, so that runs can be repeated.
        let mut wakers: Vec<_> = wakers.into_iter().collect();
        wakers.sort_unstable_by_key(|(number, _)| *number);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// Counts as running until it is dropped, or what runs in it is.
pub(super) struct Place<'a>(&'a Arc<Shared>);

impl Place<'_> {
    /// Runs a future in a task of its own, until it is finished or cut off.
    pub(super) fn run(self, work: Work) {
        let shared = self.0;
        // From here on the task counts for it.
        std::mem::forget(self);
        let idle = shared.idle().pop();
        let refused = match idle {
            Some(desk) => desk.put(work),
            None => Some(work),
        };
        if let Some(work) = refused {
            shared.runtime.spawn(Worker::new(Arc::clone(shared), work));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        // Whoever comes to wait after this look sees that it does not run.
        if self.0.awaited.load(Ordering::SeqCst) {
            self.0.finished.notify_waiters();
        }
    }
}

/// Where a task finds its next work.
struct Desk {
    state: Mutex<OnDesk>,
    /// A spawned task keeps its waker for life.
    waker: OnceLock<Waker>,
}

enum OnDesk {
    Nothing,
    Work(Work),
    /// Its task has ended.
    Closed,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, OnDesk> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Gives work to a task that has nothing to do. Returns the work if that has ended.
    fn put(&self, work: Work) -> Option<Work> {
        let mut state = self.state();
        if matches!(*state, OnDesk::Closed) {
            return Some(work);
        }
        *state = OnDesk::Work(work);
        drop(state);
        self.wake();
        None
    }

    /// Takes the work; if there is none to wait for, closes the desk.
    fn next(&self, closing: bool) -> Poll<Option<Work>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, OnDesk::Nothing) {
            OnDesk::Work(work) => Poll::Ready(Some(work)),
            _ if closing => {
                *state = OnDesk::Closed;
                Poll::Ready(None)
            }
            _ => Poll::Pending,
        }
    }

    fn close(&self) -> Option<Work> {
        match std::mem::replace(&mut *self.state(), OnDesk::Closed) {
            OnDesk::Work(work) => Some(work),
            _ => None,
        }
    }
}

/// A task that does one work after another.
struct Worker {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    running: Option<Running>,
}

struct Running {
    work: Work,
    /// The number of its waker, once it has waited.
    waits_as: Option<u64>,
}

impl Worker {
    fn new(shared: Arc<Shared>, first: Work) -> Self {
        let state = Mutex::new(OnDesk::Work(first));
        Self { shared, desk: Arc::new(Desk { state, waker: OnceLock::new() }), running: None }
    }

    /// What runs is finished, or cut off: its own drop still counts as running.
    fn end(&mut self) {
        let Some(Running { work, waits_as }) = self.running.take() else { return };
        let _place = Place(&self.shared);
        if let Some(number) = waits_as {
            self.shared.waiting().wakers.remove(&number);
        }
        drop(work);
    }

    /// Waits for more work; never for more than one at a time, so that the runtime sees where one
    /// ends.
    fn rest(&self, cx: &Context<'_>) -> Poll<()> {
        self.desk.waker.get_or_init(|| cx.waker().clone());
        let mut idle = self.shared.idle();
        // Under the lock that `close` takes after it has set the flag.
        if self.shared.closed.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        idle.push(Arc::clone(&self.desk));
        Poll::Pending
    }
}

impl Running {
    /// Returns whether it is to go on later.
    fn goes_on(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        if shared.cut_off.load(Ordering::Relaxed) || self.work.as_mut().poll(cx).is_ready() {
            return false;
        }
        if self.waits_as.is_some() {
            return true;
        }
        let mut waiting = shared.waiting();
        // Under the lock that `cut_off` takes after it has set the flag.
        if shared.cut_off.load(Ordering::SeqCst) {
            return false;
        }
        waiting.next += 1;
        self.waits_as = Some(waiting.next);
        let number = waiting.next;
        waiting.wakers.insert(number, cx.waker().clone());
        true
    }
}

impl Future for Worker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.running.is_none() {
            let next = this.desk.next(this.shared.closed.load(Ordering::SeqCst));
            let Some(work) = ready!(next) else { return Poll::Ready(()) };
            this.running = Some(Running { work, waits_as: None });
        }
        if this.running.as_mut().is_some_and(|running| running.goes_on(&this.shared, cx)) {
            return Poll::Pending;
        }
        this.end();
        this.rest(cx)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
        if let Some(work) = self.desk.close() {
            // Nobody has begun with it: the runtime is gone. Nothing may come in any more, or what
            // goes back now would come again, and be dropped again, for ever.
            self.shared.closed.store(true, Ordering::SeqCst);
            let _place = Place(&self.shared);
            drop(work);
        }
    }
}
