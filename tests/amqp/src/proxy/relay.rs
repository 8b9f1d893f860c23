//! One connection through a proxy, and the state that all of them obey.

use super::Mode;
use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{Instant, timeout},
};

/// How long one end may still speak when the other has closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a proxy is told to do.
#[derive(Debug)]
pub(super) struct State {
    pub(super) mode: Mode,
    pub(super) target: SocketAddr,
    /// Connections of an older epoch are closed.
    pub(super) epoch: u64,
    /// Bytes a second that a client may send.
    pub(super) rate: Option<u32>,
}

/// The state, and how it is made known.
#[derive(Debug)]
pub(super) struct Shared {
    /// Read while bytes are written: a change waits for the writes that it would have stopped.
    state: RwLock<State>,
    changed: watch::Sender<()>,
    open: AtomicUsize,
    accepted: AtomicUsize,
}

impl Shared {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            state: RwLock::new(State { mode: Mode::Pass, target, epoch: 0, rate: None }),
            changed: watch::Sender::new(()),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    pub(super) fn accept(self: &Arc<Self>) -> Connection {
        let epoch = self.look(|state| state.epoch);
        self.accepted.fetch_add(1, Ordering::AcqRel);
        self.open.fetch_add(1, Ordering::AcqRel);
        Connection { shared: Arc::clone(self), epoch }
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A client's connection, counted as open while this lives.
pub(super) struct Connection {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    ToBroker,
    ToClient,
}

/// What may happen to bytes.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Pass,
    Hold,
    Close,
}

impl Connection {
    /// Whether it is not to be at all.
    pub(super) fn is_cut(&self) -> bool {
        self.shared.look(|state| state.mode == Mode::Cut)
    }

    /// Waits until the connection may go on to the target, and says which. `None`: it ends.
    pub(super) async fn may_connect(&self, client: &TcpStream) -> Option<SocketAddr> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (mode, epoch, target) =
                self.shared.look(|state| (state.mode, state.epoch, state.target));
            if epoch != self.epoch {
                return None;
            }
            match mode {
                Mode::Pass | Mode::AnswersFrozen => return Some(target),
                Mode::Cut => return None,
                Mode::Frozen | Mode::Silent => {}
            }
            tokio::select! {
                changed = changed.changed() => changed.ok()?,
                () = gone(client) => return None,
            }
        }
    }

    /// Passes bytes until both ends have closed, or the proxy is told to.
    pub(super) async fn relay(&self, client: TcpStream, server: TcpStream) {
        _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let requests = self.pump(&from_client, to_server, Way::ToBroker);
        let answers = self.pump(&from_server, to_client, Way::ToClient);
        tokio::pin!(requests, answers);
        // What one end said last still reaches the other; but AMQP knows no half-closed connections.
        tokio::select! {
            () = &mut requests => drop(timeout(LAST_WORDS, answers).await),
            () = &mut answers => drop(timeout(LAST_WORDS, requests).await),
        }
    }

    /// Passes bytes one way. At the end `to` is dropped, which tells the other end.
    async fn pump(&self, from: &OwnedReadHalf, to: OwnedWriteHalf, way: Way) {
        let mut changed = self.shared.changed.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        let mut held = 0..0;
        let mut not_before = Instant::now();
        loop {
            changed.mark_unchanged();
            let verdict = self.shared.look(|state| self.verdict(state, way));
            let reads = held.is_empty();
            let ready = async {
                tokio::time::sleep_until(not_before).await;
                match verdict {
                    Verdict::Pass if reads => from.readable().await,
                    Verdict::Pass => to.writable().await,
                    Verdict::Hold => std::future::pending().await,
                    Verdict::Close => Err(ErrorKind::ConnectionAborted.into()),
                }
            };
            tokio::select! {
                _ = changed.changed() => continue,
                ready = ready => if ready.is_err() { return },
            }
            let moved = self.shared.look(|state| {
                if self.verdict(state, way) != Verdict::Pass {
                    return Err(ErrorKind::WouldBlock.into());
                }
                if reads {
                    from.try_read(&mut buffer).inspect(|&size| held = 0..size)
                } else {
                    to.try_write(&buffer[held.clone()]).inspect(|&size| held.start += size)
                }
            });
            match moved {
                Ok(0) => return,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                Ok(bytes) if !reads => {
                    let rate = self.shared.look(|state| state.rate);
                    if let (Some(rate), Way::ToBroker) = (rate, way) {
                        not_before =
                            Instant::now() + Duration::from_secs(bytes as u64) / rate.max(1);
                    }
                }
                _ => {}
            }
        }
    }

    fn verdict(&self, state: &State, way: Way) -> Verdict {
        if state.epoch != self.epoch {
            return Verdict::Close;
        }
        match (state.mode, way) {
            (Mode::Cut, _) => Verdict::Close,
            (Mode::Frozen, _) | (Mode::AnswersFrozen, Way::ToClient) => Verdict::Hold,
            (Mode::Pass | Mode::Silent | Mode::AnswersFrozen, _) => Verdict::Pass,
        }
    }
}

/// Ends when `client` has closed its end, having sent nothing that is not read.
async fn gone(client: &TcpStream) {
    let mut byte = [0];
    loop {
        match client.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            // It has sent something: whether it goes can not be seen behind that.
            Ok(_) => std::future::pending::<()>().await,
        }
    }
}
