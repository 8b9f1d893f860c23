//! The publishes that lapin has: first their frames are written, then they are confirmed.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered, task::AtomicWaker};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm, types::ShortString};

use super::{gate::Gate, write::Write};

/// Wakes the task that serves, and remembers that it did.
#[derive(Default)]
pub(super) struct Signal {
    woken: AtomicBool,
    pub(super) task: AtomicWaker,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.task.wake();
    }
}

/// What `basic.publish` takes.
pub(super) struct Publishing {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    /// Acks wait for it.
    pub(super) is_reply: bool,
}

/// Places that are kept for publishes to come, at most: 1.5 MB, after as many at once.
const SPARE: usize = 1_000;

/// A confirm that is awaited.
struct Confirming {
    number: u64,
    confirm: PublisherConfirm,
}

impl Future for Confirming {
    type Output = (u64, lapin::Result<Confirmation>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.number;
        Pin::new(&mut self.confirm).poll(cx).map(|confirmation| (number, confirmation))
    }
}

/// The publishes of one channel.
pub(super) struct Flight {
    channel: Arc<Channel>,
    /// In order. Only the oldest wakes anybody: they are written in order, too, and each wake for
    /// itself would cost more than all else.
    writes: VecDeque<(u64, Write)>,
    spare: Vec<Write>,
    confirms: FuturesUnordered<Confirming>,
    failed: Option<lapin::Error>,
    signal: Arc<Signal>,
    waker: Waker,
    gate: Arc<Gate>,
}

impl Flight {
    pub(super) fn new(channel: Channel, signal: &Arc<Signal>, gate: Arc<Gate>) -> Self {
        Self {
            channel: Arc::new(channel),
            writes: VecDeque::new(),
            spare: Vec::new(),
            confirms: FuturesUnordered::new(),
            failed: None,
            signal: Arc::clone(signal),
            waker: Waker::from(Arc::clone(signal)),
            gate,
        }
    }

    /// Queues the frames of a publish in lapin: they are when this returns.
    pub(super) fn publish(&mut self, number: u64, publishing: Publishing) {
        self.gate.hand_over(publishing.is_reply);
        let waker = if self.writes.is_empty() { &self.waker } else { Waker::noop() };
        let spare = self.spare.pop();
        let mut write = spare.unwrap_or_else(|| Write::new(Arc::clone(&self.channel)));
        if write.begin(publishing, &mut Context::from_waker(waker)) {
            self.waker.wake_by_ref(); // that is found when its turn comes
        }
        self.writes.push_back((number, write));
    }

    /// The number of the oldest that is not written, if there is one.
    pub(super) fn unwritten(&self) -> Option<u64> {
        self.writes.front().map(|(number, _)| *number)
    }

    /// Lets what is written await its confirm. Returns whether there was any.
    fn sweep(&mut self) -> bool {
        let mut any = false;
        let mut cx = Context::from_waker(&self.waker);
        while let Some((number, write)) = self.writes.front_mut() {
            let Poll::Ready(sent) = write.poll(&mut cx) else { break };
            let number = *number;
            let free = self.writes.pop_front();
            self.spare.extend(free.map(|(_, write)| write).filter(|_| self.spare.len() < SPARE));
            self.gate.wrote();
            match sent {
                Ok(confirm) => self.confirms.push(Confirming { number, confirm }),
                // The channel is gone, and what came before may have been confirmed.
                Err(error) => drop(self.failed.get_or_insert(error)),
            }
            any = true;
        }
        any
    }

    /// Hands out every confirm that is ready: when this returns, none that lapin has handled
    /// before any of them is left.
    ///
    /// # Errors
    ///
    /// The first of a publish that could not be written.
    pub(super) fn drain(
        &mut self,
        mut confirmed: impl FnMut(u64, lapin::Result<Confirmation>),
    ) -> lapin::Result<()> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        loop {
            self.sweep();
            loop {
                self.signal.woken.store(false, Ordering::SeqCst);
                match self.confirms.poll_next_unpin(&mut cx) {
                    Poll::Ready(Some((number, confirmation))) => confirmed(number, confirmation),
                    Poll::Ready(None) => break,
                    // It may have stopped to let others run, with more that is ready.
                    Poll::Pending if self.signal.woken.load(Ordering::SeqCst) => {}
                    Poll::Pending => break,
                }
            }
            // What was written meanwhile may be confirmed by now.
            if !self.sweep() {
                return self.failed.take().map_or(Ok(()), Err);
            }
        }
    }
}
