//! From typed async functions to something that takes any request: with tower's layers
//! around it where there are some, and without any cost of them where there are none.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument, Span};

use super::{
    BoxError, Context, Fault, Outcome, code,
    fault::{Expired, Meaning},
    job::Job,
    panics::{CatchPanic, caught},
    tasks::{Place, Work},
};
use crate::{Codec, Message, RemoteError, Text};

/// A request on its way through layers.
///
/// One that finds out who asks, for the handlers behind it:
///
/// ```
/// use gear_api::{Context, Fault, HandlerService, Node, Operation, Reply, Request, Service};
/// use gear_memory::MemoryBroker;
/// use std::{sync::Arc, task};
/// use tower::{Layer, Service as _, layer::layer_fn};
///
/// const CTRL: Service = Service::new("CTRL");
/// const WHO: Operation<(), String> = Operation::new("who");
///
/// struct User(String);
///
/// #[derive(Clone)]
/// struct Authenticated(HandlerService);
///
/// impl tower::Service<Request> for Authenticated {
///     type Response = Reply;
///     type Error = <HandlerService as tower::Service<Request>>::Error;
///     type Future = <HandlerService as tower::Service<Request>>::Future;
///
///     fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
///         self.0.poll_ready(cx)
///     }
///
///     fn call(&mut self, request: Request) -> Self::Future {
///         let token = request.context().headers().get("token").and_then(|token| token.as_str());
///         match token.map(|token| User(token.to_lowercase())) {
///             Some(user) => self.0.call(request.with_extension(user)),
///             None => {
///                 let refusal = Fault::new("unauthenticated", "who are you?");
///                 Box::pin(async { Err(refusal.into()) })
///             }
///         }
///     }
/// }
///
/// async fn who(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
///     let user: &User = cx.extension().expect("a layer has seen to it");
///     Ok(user.0.clone())
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(MemoryBroker::new().connect(), CTRL.at("host1")?)
///     .layer(layer_fn(Authenticated))
///     .on(WHO, who)
///     .start()
///     .await?;
/// let answer = node.client().call(CTRL, WHO, &()).header("token", "Ada").await?;
/// assert_eq!(answer, "ada");
/// let error = node.client().call(CTRL, WHO, &()).await.unwrap_err();
/// assert_eq!(error.code(), Some("unauthenticated"));
/// # Ok(())
/// # }
/// ```
///
/// What comes back from the handler is a [`Reply`], or an error in which
/// [`Fault::find`](crate::Fault::find) finds the fault. A clone is the same request once more, for
/// layers that try again; a handler behind such a layer must be idempotent.
#[derive(Debug, Clone)]
pub struct Request(Context);

impl Request {
    /// Tells the handler, and the layers around it, what this layer knows of the request. Of several
    /// values of one type the last one counts.
    #[must_use]
    pub fn with_extension<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.0.extend(value);
        self
    }

    /// What is known of it: operation, sender, headers, deadline, the undecoded body.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0
    }
}

/// A handler's answer on its way back through layers, which may change it or make one of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The MIME type of the body.
    pub content_type: Text,
    /// The encoded answer.
    pub body: Bytes,
    elsewhere: bool,
}

impl Reply {
    /// An answer of a layer's own: what a codec has made of a value, and the codec's
    /// [`CONTENT_TYPE`](Codec::CONTENT_TYPE). The empty one, which answers `()`, is the default.
    #[must_use]
    pub fn new(content_type: impl Into<Text>, body: impl Into<Bytes>) -> Self {
        Self { content_type: content_type.into(), body: body.into(), elsewhere: false }
    }

    /// No answer from here: another service or a later moment has it.
    pub(super) fn elsewhere() -> Self {
        Self { elsewhere: true, ..Self::default() }
    }

    /// The same, with who is to have the answer, to be known again.
    pub(super) fn elsewhere_to(cx: &Context) -> Self {
        let asker = cx.correlation().map(|id| id.to_string()).unwrap_or_default();
        Self { body: asker.into(), ..Self::elsewhere() }
    }

    /// Whether it is this asker who is to have the answer, as far as that is known.
    pub(super) fn is_elsewhere_to(&self, cx: &Context) -> bool {
        self.body.is_empty() || self.body == Self::elsewhere_to(cx).body
    }

    /// The same, of an answer that [is elsewhere](Self::is_elsewhere): for stores that give back what they were
    /// given.
    #[must_use]
    pub fn not_from_here(self) -> Self {
        Self { elsewhere: true, ..self }
    }

    /// Whether the request was [handed on or put off](crate::Caller): what else there is of it is not
    /// sent. A layer passes it on as it is.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }
}

/// A handler as the innermost tower service.
#[derive(Clone)]
pub struct HandlerService(Arc<dyn Handler>);

type Answer = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

impl Service<Request> for HandlerService {
    type Response = Reply;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answer {
        Arc::clone(&self.0).answer(request.0)
    }
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerService")
    }
}

/// What can handle any request.
pub(super) trait Handler: Send + Sync {
    /// Handles a request in a task of its own, from decoding to settling.
    fn spawn(&self, place: Place<'_>, job: Job);

    /// Handles a request for a layer around it.
    fn answer(self: Arc<Self>, cx: Context) -> Answer;
}

/// A typed async function. The types are erased by the two function pointers, so that
/// request handlers and reply handlers are one thing.
pub(super) struct Typed<S, F, In, Out> {
    pub(super) state: Arc<S>,
    pub(super) function: F,
    pub(super) decode: fn(&Message) -> Result<In, Fault>,
    pub(super) encode: fn(&Out) -> Result<Reply, Fault>,
}

impl<S, F, Fut, In, Out> Handler for Typed<S, F, In, Out>
where
    S: Send + Sync + 'static,
    F: Fn(Arc<S>, Context, In) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, Fault>> + Send + 'static,
    In: Send + 'static,
    Out: Send + 'static,
{
    fn spawn(&self, place: Place<'_>, mut job: Job) {
        let span = job.span();
        // This is the stack of whoever sent the request, or of all consumers of a connection:
        // what is the handler's may panic in its own task alone.
        let function = match caught(|| self.function.clone()) {
            Ok(function) => function,
            Err(fault) => {
                if let Some(rest) = span.in_scope(|| job.finish(Err(fault))) {
                    place.run(rest);
                }
                return;
            }
        };
        let state = Arc::clone(&self.state);
        let (decode, encode) = (self.decode, self.encode);
        place.run(in_span(span, async move {
            if job.expires_in_span() {
                return;
            }
            job.begin();
            let cx = job.context().clone();
            let handling = run(state, function, decode, encode, cx);
            let result = CatchPanic { handling }.await;
            if let Some(rest) = job.finish(result) {
                rest.await;
            }
        }));
    }

    fn answer(self: Arc<Self>, cx: Context) -> Answer {
        Box::pin(async move {
            let (state, function) = (Arc::clone(&self.state), self.function.clone());
            let reply = run(state, function, self.decode, self.encode, cx).await?;
            Ok(reply.unwrap_or_default())
        })
    }
}

/// Work that shows up in the log under this span, and carries none along where nobody listens.
fn in_span(span: Span, work: impl Future<Output = ()> + Send + 'static) -> Work {
    if span.is_disabled() { Box::pin(work) } else { Box::pin(work.instrument(span)) }
}

async fn run<S, F, Fut, In, Out>(
    state: Arc<S>,
    function: F,
    decode: fn(&Message) -> Result<In, Fault>,
    encode: fn(&Out) -> Result<Reply, Fault>,
    cx: Context,
) -> Result<Option<Reply>, Fault>
where
    F: Fn(Arc<S>, Context, In) -> Fut,
    Fut: Future<Output = Result<Out, Fault>>,
{
    let request = decode(cx.message())?;
    let wants_answer = cx.wants_answer();
    let answer = function(state, cx, request).await?;
    if wants_answer { encode(&answer).map(Some) } else { Ok(None) }
}

impl Default for Reply {
    fn default() -> Self {
        Self { content_type: Text::EMPTY, body: Bytes::new(), elsewhere: false }
    }
}

pub(super) fn decode_request<Req, C: Codec<Req>>(message: &Message) -> Result<Req, Fault> {
    C::decode(message.body()).map_err(|error| {
        Fault::new(code::UNDECODABLE, "the body is not what the operation says")
            .permanent()
            .because(error)
    })
}

/// What a handler that says itself how it answers has said.
#[allow(clippy::unnecessary_wraps)] // the shape of `Typed::encode`
pub(super) fn outcome(outcome: &Outcome) -> Result<Reply, Fault> {
    Ok(outcome.0.clone())
}

pub(super) fn encode_reply<Rep, C: Codec<Rep>>(reply: &Rep) -> Result<Reply, Fault> {
    match C::encode(reply) {
        Ok(body) => Ok(Reply { content_type: C::CONTENT_TYPE, body, elsewhere: false }),
        Err(error) => {
            Err(Fault::new(code::UNENCODABLE, "the reply has no encoded form").because(error))
        }
    }
}

/// For reply handlers: a failure that was reported is a value to them.
#[allow(clippy::unnecessary_wraps)] // the shape of `Typed::decode`
pub(super) fn decode_reply<Rep, C: Codec<Rep>>(
    reply: &Message,
) -> Result<Result<Rep, RemoteError>, Fault> {
    match RemoteError::of_reply(reply) {
        Some(error) => Ok(Err(error)),
        None => decode_request::<Rep, C>(reply).map(Ok),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::unnecessary_wraps)] // as above
pub(super) fn no_reply(_: &()) -> Result<Reply, Fault> {
    Ok(Reply::default())
}

/// Puts a layer around handlers.
pub(super) type Wrap = Arc<dyn Fn(Arc<dyn Handler>) -> Arc<dyn Handler> + Send + Sync>;

pub(super) fn wrap<L>(layer: L) -> Wrap
where
    L: Layer<HandlerService> + Send + Sync + 'static,
    L::Service: Service<Request, Response = Reply> + Clone + Send + 'static,
    <L::Service as Service<Request>>::Error: Into<BoxError> + Send,
    <L::Service as Service<Request>>::Future: Send,
{
    Arc::new(move |inner| {
        Arc::new(Layered(Arc::new(Mutex::new(layer.layer(HandlerService(inner))))))
    })
}

/// A layered service. Each request gets a clone, which is made in its task: a layer that panics
/// does so there. The lock is held only to make it.
struct Layered<T>(Arc<Mutex<T>>);

impl<T> Layered<T>
where
    T: Service<Request, Response = Reply> + Clone + Send + 'static,
    T::Error: Into<BoxError> + Send,
    T::Future: Send,
{
    /// Asks the layer, and says when it takes the request.
    fn call<F: FnOnce() + Send>(
        &self,
        cx: Context,
        taken: F,
    ) -> impl Future<Output = Result<Reply, BoxError>> + Send + use<T, F> {
        let shared = Arc::clone(&self.0);
        async move {
            let mut service = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Waiting for readiness holds this request back, and nobody else: no longer than it is of use,
            // since it has one of the places of its queue.
            let ready = poll_fn(|task| service.poll_ready(task));
            match cx.expires_at() {
                Some(deadline) => timeout_at(deadline, ready).await.map_err(|_| Expired)?,
                None => ready.await,
            }
            .map_err(Into::into)?;
            if cx.is_expired() {
                return Err(Expired.into());
            }
            taken();
            service.call(Request(cx)).await.map_err(Into::into)
        }
    }
}

impl<T> Handler for Layered<T>
where
    T: Service<Request, Response = Reply> + Clone + Send + 'static,
    T::Error: Into<BoxError> + Send,
    T::Future: Send,
{
    fn spawn(&self, place: Place<'_>, mut job: Job) {
        let layered = Self(Arc::clone(&self.0));
        let span = job.span();
        place.run(in_span(span, async move {
            if job.expires_in_span() {
                return;
            }
            let mut expired = false;
            let handling = async {
                let cx = job.context().clone();
                let redelivered = cx.is_redelivered();
                // One that still waits for its turn goes back if it is cut off.
                let answer = layered.call(cx, || job.begin()).await;
                let is_expired =
                    |error: &BoxError| matches!(Meaning::of(&**error), Meaning::Expired);
                expired = answer.as_ref().is_err_and(is_expired);
                answer.map(Some).map_err(|error| Fault::of_layer(error, redelivered))
            };
            let result = CatchPanic { handling }.await;
            // Not if the handler's time is over while it runs: that is its own affair.
            if expired && job.expires_in_span() {
                return;
            }
            if let Some(rest) = job.finish(result) {
                rest.await;
            }
        }));
    }

    fn answer(self: Arc<Self>, cx: Context) -> Answer {
        Box::pin(self.call(cx, || ()))
    }
}
