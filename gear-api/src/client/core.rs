//! What all clones of a client share.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::pending::Pending;
use crate::{
    Clock, ConsumerEnd, Headers, Id, Instance, Kind, Message, NotSent, StartError, Subscription,
    Text, Timestamp, Transport,
    message::{Head, IdSource},
    topology::header,
};

/// How a client behaves where a call says nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The largest body that is sent, in bytes.
    pub(crate) max_body_bytes: usize,
    /// How long a call waits.
    pub(crate) call_timeout: Duration,
    /// How long a cast waits for the broker.
    pub(crate) send_timeout: Duration,
    pub(crate) seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 * 1024 * 1024,
            call_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
            seed: None,
        }
    }
}

/// Aligned, so that its reference count, which every call changes, is on another cache line.
#[repr(align(128))]
pub(crate) struct Core {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Clock,
    pub(crate) instance: Instance,
    /// Its name, as it goes with every message.
    sender: Text,
    pub(crate) pending: Arc<Pending>,
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
    ids: IdSource,
}

/// What a node counts. Relaxed: nobody orders anything by them.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) failed: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) misrouted: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    pub(crate) operations: OnceLock<Vec<(Text, Arc<AtomicU64>)>>,
    pub(crate) unfinished: Mutex<Vec<Unfinished>>,
}

/// A request whose handler was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfinished {
    /// What was asked.
    pub operation: Text,
    /// The message's id.
    pub id: Option<Id>,
    /// Who asked.
    pub sender: Text,
}

/// What a node has done since it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that came for each operation, in the order of registration: copies and further tries, too.
    pub operations: Vec<(Text, u64)>,
    /// Handlers and layers that returned a fault, each try counted; bodies that can not be decoded, too.
    pub failed: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Requests whose deadline passed before anybody began with them, and that were dropped.
    pub expired: u64,
    /// Messages for an operation that nobody here handles.
    pub unknown: u64,
    /// Messages whose key did not concern the queue they came by.
    pub misrouted: u64,
    /// Tries that failed, and whose message the broker was given to hold until the next one.
    pub retried: u64,
    /// Messages that this node has set aside in `SERVICE:dead`, for whatever reason.
    pub set_aside: u64,
    /// Replies that came when nobody waited for them any more.
    pub late_replies: u64,
    /// Calls that wait for an answer now.
    pub open_calls: usize,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Core {
    /// Starts to listen for replies, and the task that keeps the deadlines.
    pub(crate) async fn start(
        transport: Arc<dyn Transport>,
        instance: Instance,
        settings: Settings,
    ) -> Result<Arc<Self>, StartError> {
        let pending = Arc::new(Pending::default());
        let replies = Subscription::Replies {
            instance: instance.clone(),
            sink: Arc::<Pending>::clone(&pending),
        };
        let consumer = transport.subscribe(replies.clone()).await?;
        let closes = Closes(Arc::clone(&pending));
        tokio::spawn(keep(closes, Arc::clone(&transport), replies, consumer));
        Ok(Arc::new(Self {
            clock: transport.clock(),
            ids: IdSource::new(settings.seed.unwrap_or_else(|| transport.seed())),
            transport,
            sender: instance.text().clone().kept(),
            instance,
            pending,
            settings,
            counters: Counters::default(),
        }))
    }

    pub(crate) fn next_id(&self, now: Timestamp) -> Id {
        self.ids.next(now)
    }

    /// The properties of a message from here, part of the request `parent` if there is one.
    ///
    /// Inlined, as all that makes a message is: one that is moved takes longer than its making.
    #[inline(always)]
    pub(crate) fn head(
        &self,
        kind: Kind,
        operation: Text,
        now: Timestamp,
        parent: Option<&Message>,
    ) -> Head {
        let mut head = Head::new(kind, operation);
        head.sender = self.sender.clone();
        head.sent_at = Some(now);
        if let Some(parent) = parent {
            head.headers = trace_of(parent);
        }
        head
    }

    pub(crate) fn check_body(&self, bytes: usize) -> Result<(), NotSent> {
        let limit = self.settings.max_body_bytes;
        if bytes > limit { Err(NotSent::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    pub(crate) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let operations = counters.operations.get().into_iter().flatten();
        Stats {
            operations: operations.map(|(name, n)| (name.clone(), get(n))).collect(),
            failed: get(&counters.failed),
            panicked: get(&counters.panicked),
            expired: get(&counters.expired),
            unknown: get(&counters.unknown),
            misrouted: get(&counters.misrouted),
            retried: get(&counters.retried),
            set_aside: get(&counters.set_aside),
            late_replies: self.pending.late(),
            open_calls: self.pending.len(),
        }
    }

    pub(crate) fn unfinished(&self) -> Vec<Unfinished> {
        std::mem::take(&mut self.counters.unfinished.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn note_unfinished(&self, message: &Message) {
        let unfinished = Unfinished {
            operation: message.operation().clone(),
            id: message.id().cloned(),
            sender: message.sender().clone(),
        };
        let mut list = self.counters.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(unfinished);
    }
}

/// The trace that a request is part of.
fn trace_of(request: &Message) -> Headers {
    let mut headers = Headers::new();
    for name in [header::TRACEPARENT, header::TRACESTATE] {
        if let Some(value) = request.headers().get(name) {
            // It fitted the request, where it was among more.
            let _ = headers.insert_reserved(Text::from_static(name), value.clone());
        }
    }
    headers
}

impl Drop for Core {
    fn drop(&mut self) {
        self.pending.close();
    }
}

/// Closes the table of open calls when it is dropped: also when its keeper is not run to its end, as
/// when its runtime is shut down, since nobody else would end the calls that are open.
struct Closes(Arc<Pending>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// How long to wait before subscribing again after the broker ended a consumer.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

/// Keeps the deadlines and the reply queue of one client, until it is closed.
async fn keep(
    pending: Closes,
    transport: Arc<dyn Transport>,
    replies: Subscription,
    mut consumer: crate::Consumer,
) {
    let pending = &pending.0;
    let deadlines = pending.watch_deadlines();
    let listening = async {
        loop {
            while consumer.next().await.is_some() {}
            match consumer.end() {
                Some(ConsumerEnd::Broker(why)) => {
                    tracing::warn!(%why, "the broker ended the consumer of replies; declaring its queue again");
                    match transport.subscribe(replies.clone()).await {
                        Ok(again) => consumer = again,
                        Err(crate::SubscribeError::Closed) => break,
                        Err(_) => tokio::time::sleep_until(Instant::now() + SUBSCRIBE_AGAIN).await,
                    }
                }
                _ => break,
            }
        }
        // Without a connection no answer can come any more.
        pending.close();
    };
    tokio::select! {
        biased;
        () = deadlines => {}
        () = listening => {}
    }
}
