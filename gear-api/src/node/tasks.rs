//! The handlers that run: how many, when the last one has finished, and how to cut off
//! those that take too long.
//!
//! Costs a handler that never waits two counter updates; one that waits leaves its waker
//! here, so that it can be told.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crossbeam_utils::CachePadded;
use foldhash::HashMap;
use pin_project_lite::pin_project;
use tokio::{runtime::Handle, sync::Notify};

/// The handlers of one consumer.
#[derive(Clone)]
pub(super) struct Tasks(Arc<Shared>);

#[repr(align(128))]
struct Shared {
    runtime: Handle,
    /// Alone on its cache line: every task changes it.
    running: CachePadded<AtomicUsize>,
    closed: AtomicBool,
    finished: Notify,
    cut_off: AtomicBool,
    waiting: Mutex<Waiting>,
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
}

impl Tasks {
    /// None yet; they will run in this runtime, whoever spawns them.
    pub(super) fn new(runtime: Handle) -> Self {
        Self(Arc::new(Shared {
            runtime,
            running: CachePadded::default(),
            closed: AtomicBool::new(false),
            finished: Notify::new(),
            cut_off: AtomicBool::new(false),
            waiting: Mutex::default(),
        }))
    }

    /// A place for one more; none once closed.
    pub(super) fn enter(&self) -> Option<Place> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let place = Place { shared: Arc::clone(&self.0), waits_as: None };
        // Counted first: whoever closes and then waits for zero waits for this one, too.
        (!self.0.closed.load(Ordering::SeqCst)).then_some(place)
    }

    /// Runs a future in a task of its own, until it is finished or cut off.
    pub(super) fn spawn(&self, place: Place, future: impl Future<Output = ()> + Send + 'static) {
        self.0.runtime.spawn(Task { future: Some(future), running: place, polled: false });
    }

    /// Lets no more in.
    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    /// Returns when none runs.
    pub(super) async fn finished(&self) {
        loop {
            let finished = self.0.finished.notified();
            if self.running() == 0 {
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

pin_project! {
    struct Task<F> {
        #[pin]
        future: Option<F>,
        // Dropped last: the future's own drop still counts as running.
        running: Place,
        polled: bool,
    }

    impl<F> PinnedDrop for Task<F> {
        fn drop(this: Pin<&mut Self>) {
            // Dropped before its first poll: the runtime is gone. Nothing may come in any
            // more, or what goes back now would come again, and be dropped again, for ever.
            if !this.polled {
                this.running.shared.closed.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// Counted as running until it is dropped, whatever becomes of the future.
pub(super) struct Place {
    shared: Arc<Shared>,
    /// The number of its waker, once it has waited.
    waits_as: Option<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.waits_as {
            self.shared.waiting().wakers.remove(&number);
        }
        if self.shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.finished.notify_waiters();
        }
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        *this.polled = true;
        let Place { shared, waits_as } = this.running;
        if !shared.cut_off.load(Ordering::Relaxed) {
            let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
            if future.poll(cx).is_pending() {
                // A spawned task keeps its waker for life, so once is enough.
                if waits_as.is_some() {
                    return Poll::Pending;
                }
                let mut waiting = shared.waiting();
                // Under the lock that `cut_off` takes after it has set the flag.
                if !shared.cut_off.load(Ordering::SeqCst) {
                    waiting.next += 1;
                    let number = waiting.next;
                    waiting.wakers.insert(number, cx.waker().clone());
                    *waits_as = Some(number);
                    return Poll::Pending;
                }
            }
        }
        this.future.set(None);
        Poll::Ready(())
    }
}
