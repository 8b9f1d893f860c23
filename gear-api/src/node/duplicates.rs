//! Messages that come twice are handled once: a layer, and where it looks up what was handled.

mod inbox;
mod recent;
mod window;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use foldhash::{HashMap, HashMapExt};
use tokio::{sync::watch, time::timeout_at};
use tower_layer::Layer;
use tower_service::Service;

use self::recent::{Limits, Recent};
pub use self::{
    inbox::{Inbox, InboxKey, Known},
    window::Window,
};
use super::{
    BoxError, Context, Fault, HandlerService, Reply, Request, code,
    context::Delivery,
    fault::{Expired, Meaning},
    panics::CatchPanic,
};
use crate::{Id, RemoteError};

/// A layer that has a message handled once that comes twice: the second time the answer of the
/// first is given, and the handler is not called. One that comes while the first is being handled behind this
/// layer waits for it, until its deadline. A cast or an event that failed is not remembered: it is to be
/// [tried again](crate::NodeBuilder::retries). To the copies of a call that failed the same is said, for some
/// minutes, and by this layer alone; whoever asks once more, as a request of his own, has it handled.
///
/// Every delivery is [at least once](crate::Context::is_redelivered), and no broker does better: what can
/// be promised is that its effects happen once, for as long as the [`Inbox`] remembers. A process that
/// is killed between an effect and its record has the effect twice, unless both are one transaction. Copies
/// are those that brokers and transports make: whoever asks again of his own accord gives his second
/// request [the id of the first](crate::Call::id), or it is another one. A message without an id, as
/// foreign programs may send it, is always new.
///
/// It is for the handlers that follow, as [`NodeBuilder::layer`](crate::NodeBuilder::layer) says: give it once.
/// Authentication goes around it, and so is given before: otherwise whoever repeats an id gets the answer
/// unchecked. So does a layer that tries again, or all its tries share one transaction. Limits of
/// time and number go within. A copy that waits for the first has a place of its queue's
/// [`concurrency`](crate::NodeBuilder::concurrency) meanwhile.
///
/// ```
/// use gear_api::{Context, Deduplicate, Node, Operation, Service, Window};
/// use gear_memory::{BrokerFault, MemoryBroker};
/// use std::sync::{Arc, atomic::{AtomicI64, Ordering}};
///
/// const BANK: Service = Service::new("BANK");
/// const PAY: Operation<i64, i64> = Operation::new("pay");
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (broker, balance) = (MemoryBroker::new(), Arc::new(AtomicI64::new(0)));
/// let bank = Node::builder(broker.connect(), BANK.at("host1")?)
///     .layer(Deduplicate::new(Window::default()))
///     .state(Arc::clone(&balance))
///     .on(PAY, async |balance: Arc<AtomicI64>, _: Context, amount: i64| {
///         Ok(balance.fetch_add(amount, Ordering::SeqCst) + amount)
///     })
///     .start()
///     .await?;
/// broker.inject(BrokerFault::Duplicate); // as a sender that has lost its link before the confirm
/// assert_eq!(bank.client().call(BANK, PAY, &100).await?, 100);
/// broker.idle().await;
/// assert_eq!(balance.load(Ordering::SeqCst), 100);
/// # Ok(())
/// # }
/// ```
pub struct Deduplicate<I>(Arc<Shared<I>>);

struct Shared<I> {
    inbox: I,
    /// What is being handled. Whoever waits for it is woken when the other end is dropped.
    running: Mutex<HashMap<InboxKey, watch::Receiver<()>>>,
    /// Calls that failed, with what their callers were told.
    failed: Mutex<Recent<(InboxKey, Option<Id>), Failed>>,
}

struct Failed {
    /// The delivery that failed: a layer may try it again.
    delivery: Delivery,
    told: RemoteError,
}

/// Of failures, copies come soon.
const FAILURES: Limits =
    Limits { count: 10_000, age: Duration::from_secs(10 * 60), bytes: 4 * 1024 * 1024 };

impl<I: Inbox> Deduplicate<I> {
    /// A layer that looks up in `inbox`, over all handlers that it is put around, what was handled.
    #[must_use]
    pub fn new(inbox: I) -> Self {
        Self(Arc::new(Shared {
            inbox,
            running: Mutex::new(HashMap::new()),
            failed: Mutex::new(Recent::new(FAILURES)),
        }))
    }
}

impl<I> Clone for Deduplicate<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I> fmt::Debug for Deduplicate<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deduplicate").finish_non_exhaustive()
    }
}

impl<I: Inbox> Layer<HandlerService> for Deduplicate<I> {
    type Service = Deduplicated<I>;

    fn layer(&self, handler: HandlerService) -> Deduplicated<I> {
        Deduplicated { shared: Arc::clone(&self.0), handler }
    }
}

/// Handlers behind [`Deduplicate`].
pub struct Deduplicated<I> {
    shared: Arc<Shared<I>>,
    handler: HandlerService,
}

impl<I> Clone for Deduplicated<I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), handler: self.handler.clone() }
    }
}

impl<I> fmt::Debug for Deduplicated<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deduplicated").finish_non_exhaustive()
    }
}

impl<I: Inbox> Service<Request> for Deduplicated<I> {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let cx = request.context();
        let this = Behind(Arc::as_ptr(&self.shared).addr());
        let id = cx.message().id().filter(|_| cx.extension() != Some(&this));
        let Some(id) = id.cloned() else { return self.handler.call(request) };
        let key = InboxKey::new(cx.queue().clone(), cx.message().operation().clone(), id);
        let (shared, handler) = (Arc::clone(&self.shared), self.handler.clone());
        Box::pin(shared.handle(key, request.with_extension(this), handler))
    }
}

/// Says that a request is behind this layer already, which may have been given twice.
#[derive(PartialEq)]
struct Behind(usize);

impl<I: Inbox> Shared<I> {
    async fn handle(
        self: Arc<Self>,
        key: InboxKey,
        request: Request,
        mut handler: HandlerService,
    ) -> Result<Reply, BoxError> {
        let cx = request.context().clone();
        cx.set_waits(true);
        let beginning = async {
            let running = Running::alone(&self.running, &key).await;
            (running, self.inbox.begin(&key).await)
        };
        let (_running, known) = match cx.expires_at() {
            Some(deadline) => timeout_at(deadline, beginning).await.map_err(|_| Expired)?,
            None => beginning.await,
        };
        cx.set_waits(false);
        let known = known.map_err(|error| unavailable(error, "read"))?;
        let transaction = match known.answer(&key, &cx) {
            Ok(answer) => return answer,
            Err(_) if cx.is_expired() => return Err(Expired.into()),
            Err(transaction) => transaction,
        };
        if let Some(told) = self.failure(&key, &cx) {
            self.inbox.rollback(&key, transaction).await;
            return Err(Fault::of(told).into());
        }
        let handling = handler.call(request.with_extension(transaction.clone()));
        let handling = async { handling.await.map_err(|error| self.fault(error, &cx)) };
        let reply = match (CatchPanic { handling }.await, cx.is_handed_on()) {
            // Whatever the handler says: the answer comes from elsewhere.
            (_, true) if cx.wants_answer() => Reply::elsewhere(),
            (Ok(reply), _) => reply,
            (Err(fault), _) => {
                self.inbox.rollback(&key, transaction).await;
                self.note_failure(&key, &cx, &fault);
                return Err(fault.into());
            }
        };
        let recorded = match reply.is_elsewhere() {
            true => Reply::elsewhere_to(&cx),
            false => reply.clone(),
        };
        let Err(error) = self.inbox.commit(&key, transaction, &recorded).await else {
            return Ok(reply);
        };
        // Another may have been faster.
        match self.inbox.begin(&key).await.map(|known| known.answer(&key, &cx)) {
            Ok(Ok(answer)) => answer,
            _ => Err(unavailable(error, "written")),
        }
    }

    fn fault(&self, error: BoxError, cx: &Context) -> Fault {
        // One whose time was over before it began is told from others by its type, further out.
        match Meaning::of(&*error) {
            Meaning::Expired => Fault::expired(error),
            _ => Fault::of_layer(error, cx.is_redelivered()),
        }
    }

    fn failed(&self) -> MutexGuard<'_, Recent<(InboxKey, Option<Id>), Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What whoever asks this was told before, if this is a copy of what he asked.
    fn failure(&self, key: &InboxKey, cx: &Context) -> Option<RemoteError> {
        if !cx.wants_answer() {
            return None;
        }
        let mut failed = self.failed();
        let before = failed.get(&(key.clone(), cx.correlation()))?;
        (!before.delivery.is_of(cx)).then(|| before.told.clone())
    }

    fn note_failure(&self, key: &InboxKey, cx: &Context, fault: &Fault) {
        if cx.wants_answer() && !fault.is_expired() {
            let failed = Failed { delivery: cx.delivery(), told: fault.shown().clone() };
            let bytes = failed.told.to_body().len();
            self.failed().insert((key.clone(), cx.correlation()), failed, bytes);
        }
    }
}

impl<T> Known<T> {
    /// What was answered, or the transaction in which it is to be handled.
    fn answer(self, key: &InboxKey, cx: &Context) -> Result<Result<Reply, BoxError>, T> {
        let reply = match self {
            Self::New(transaction) => return Err(transaction),
            Self::Handled(reply) => reply,
        };
        tracing::debug!(%key, "it was handled before");
        if reply.is_elsewhere() && !reply.is_elsewhere_to(cx) {
            // It goes to whoever asked first, and this one would wait for nothing.
            let text = "it was asked before, and the answer goes to whoever did";
            return Ok(Err(Fault::new(code::UNAVAILABLE, text).into()));
        }
        Ok(Ok(reply))
    }
}

/// Others may be able to, or this one later.
fn unavailable(error: BoxError, what: &str) -> BoxError {
    let text = format!("what was handled before could not be {what}");
    Fault::new(code::UNAVAILABLE, text).because(error).into()
}

/// A message that is being handled, by nobody else in this process.
struct Running<'r> {
    all: &'r Mutex<HashMap<InboxKey, watch::Receiver<()>>>,
    key: &'r InboxKey,
    _over: watch::Sender<()>,
}

impl<'r> Running<'r> {
    /// Waits until nobody else handles it.
    async fn alone(
        all: &'r Mutex<HashMap<InboxKey, watch::Receiver<()>>>,
        key: &'r InboxKey,
    ) -> Self {
        loop {
            let mut other = {
                let mut running = all.lock().unwrap_or_else(PoisonError::into_inner);
                match running.get(key) {
                    Some(other) => other.clone(),
                    None => {
                        let (over, wait) = watch::channel(());
                        running.insert(key.clone(), wait);
                        return Self { all, key, _over: over };
                    }
                }
            };
            // Nothing is ever sent: it ends when the other does.
            let _ = other.changed().await;
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(self.key);
    }
}
