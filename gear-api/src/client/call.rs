//! One request, one answer.

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, task::coop, time::Instant};

use super::{
    CallError, Cast, CastError, Client, Core, NotSent, RemoteError,
    pending::{self, Ended, Waiter},
    trace::{Sent, Trace},
};
use crate::{
    Address, Codec, HeaderValue, Headers, Id, Kind, Message, Operation, Publish, ReplyTo, Route,
    Service, Text, Timestamp, clock::after, message::Head,
};

/// A request that is not sent yet: awaiting it, or [`send`](Self::send), sends it.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<Rep, C> {
    request: Request,
    reply: PhantomData<fn(C) -> Rep>,
}

/// What calls, gathers and requests with a reply handler have in common.
pub(super) struct Request {
    client: Client,
    to: Address,
    /// By which its answers know it.
    id: Id,
    /// That of the message, if it is another one.
    message_id: Option<Id>,
    operation: &'static str,
    started: Instant,
    /// The same by the clock of messages.
    sent_at: Timestamp,
    pub(super) deadline: Instant,
    /// What is wrong with it is told when it is sent.
    body: Result<Bytes, NotSent>,
    /// Few have any.
    headers: Option<Box<Headers>>,
}

impl Request {
    pub(super) fn new<Req, Rep, C: Codec<Req>>(
        client: &Client,
        to: Address,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Self {
        let core = client.core();
        let started = Instant::now();
        let sent_at = core.clock.timestamp(started);
        let timeout = operation.default_timeout().unwrap_or(core.settings.call_timeout);
        Self {
            client: client.clone(),
            to,
            id: core.next_id(sent_at),
            message_id: None,
            operation: operation.name(),
            started,
            sent_at,
            deadline: client.bound(after(started, timeout)),
            body: encode::<Req, C>(core, request),
            headers: None,
        }
    }

    pub(super) fn timeout(&mut self, timeout: Duration) {
        self.deadline = self.client.bound(after(self.started, timeout));
    }

    pub(super) fn header(&mut self, name: Text, value: HeaderValue) {
        set_header(&mut self.headers, &mut self.body, name, value);
    }

    fn message_id(&self) -> &Id {
        self.message_id.as_ref().unwrap_or(&self.id)
    }

    pub(super) fn to(&self) -> &Address {
        &self.to
    }

    #[inline(always)]
    fn head(&self, content_type: Text, reply_to: ReplyTo, own: Option<Box<Headers>>) -> Head {
        let core = self.client.core();
        let operation = Text::from_static(self.operation);
        let mut head = core.head(Kind::Call, operation, self.sent_at, self.client.parent_message());
        head.id = Some(self.message_id().clone());
        head.correlation = Some(self.id.clone());
        head.content_type = content_type;
        head.reply_to = Some(reply_to);
        head.deadline = Some(core.clock.timestamp(self.deadline));
        if let Some(own) = own {
            head.headers = head.headers.with(*own);
        }
        head
    }

    pub(super) fn trace(&self, sent: Sent) -> Trace {
        Trace::new(sent, self.operation, &self.to, Some(self.message_id()))
    }

    /// Registers the waiter and hands the message over.
    pub(super) fn send(mut self, waiter: Waiter, content_type: Text) -> Result<Open, CallError> {
        let body = std::mem::replace(&mut self.body, Ok(Bytes::new()));
        let body = body.map_err(CallError::NotSent)?;
        if self.deadline <= Instant::now() {
            return Err(CallError::NotSent(NotSent::TooLate));
        }
        let headers = self.headers.take();
        let core = self.client.core();
        let reply_to = core.pending.insert(&self.id, self.deadline, waiter)?;
        let message = self.head(content_type, reply_to, headers).message(body);
        let publish = core.transport.send(Route::Address(&self.to), message);
        Ok(Open {
            core: self.client.into_core(),
            id: self.id,
            group: self.to.is_group(),
            publish: (!publish.is_confirmed()).then_some(publish),
            forgotten: false,
        })
    }
}

pub(super) fn encode<Req, C: Codec<Req>>(core: &Core, request: &Req) -> Result<Bytes, NotSent> {
    let body = C::encode(request).map_err(NotSent::Encode)?;
    core.check_body(body.len())?;
    Ok(body)
}

/// Sets a header of the user's; what is wrong with it takes the place of the body.
pub(super) fn set_header(
    headers: &mut Option<Box<Headers>>,
    body: &mut Result<Bytes, NotSent>,
    name: Text,
    value: HeaderValue,
) {
    if body.is_ok()
        && let Err(error) = headers.get_or_insert_default().insert(name, value)
    {
        *body = Err(NotSent::Header(error));
    }
}

impl<Rep, C: Codec<Rep>> Call<Rep, C> {
    pub(super) fn new<Req>(
        client: &Client,
        to: Address,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Self
    where
        C: Codec<Req>,
    {
        Self { request: Request::new(client, to, operation, request), reply: PhantomData }
    }

    /// How long the answer may take, from when the call was made. A call within a request
    /// ends with that request at the latest.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout(timeout);
        self
    }

    /// Sets a header. One that is not allowed makes the call end with
    /// [`NotSent::Header`].
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<HeaderValue>) -> Self {
        self.request.header(name.into(), value.into());
        self
    }

    /// Gives the request this id, in place of a new one: for one that is asked again because its outcome is
    /// unknown, so that it is recognised as [the same](crate::Deduplicate) and has the same answer. Where the answer
    /// [comes from elsewhere](crate::Caller), it goes to the first call alone, and the second ends with
    /// [`code::UNAVAILABLE`](crate::code::UNAVAILABLE). An id has at most 255 bytes.
    pub fn id(mut self, id: impl Into<Id>) -> Self {
        self.request.message_id = Some(id.into());
        self
    }

    /// Sends it now; the answer can be awaited later.
    pub fn send(self) -> Response<Rep, C> {
        let trace = self.request.trace(Sent::Call);
        let (answer, receiver) = oneshot::channel();
        let state = match self.request.send(Waiter::One(answer), C::CONTENT_TYPE) {
            Ok(open) => State::Open(open, receiver),
            Err(error) => State::Failed(error),
        };
        Response { state, trace, reply: PhantomData }
    }

    /// Lets the answer go to any instance of `service`, whose reply handler
    /// ([`NodeBuilder::on_reply`](crate::NodeBuilder::on_reply)) takes it: nobody here waits.
    /// Awaiting it waits until the broker has the request.
    ///
    /// The deadline still travels with the request, but when it passes nobody is told. It is that of the
    /// call: a [`timeout`](Self::timeout) is set before this. After it, [`Cast::timeout`] is about the
    /// broker alone, and [`Cast::expires`] sets the deadline.
    ///
    /// ```
    /// use gear_api::{Context, Fault, Node, Operation, RemoteError, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    ///
    /// const CTRL: Service = Service::new("CTRL");
    /// const REPO: Service = Service::new("REPO");
    /// const COUNT: Operation<String, u64> = Operation::new("count");
    ///
    /// async fn count(_: Arc<()>, _: Context, word: String) -> Result<u64, Fault> {
    ///     Ok(word.len() as u64)
    /// }
    ///
    /// async fn counted(
    ///     total: Arc<AtomicU64>,
    ///     _: Context,
    ///     count: Result<u64, RemoteError>, // what a call would have returned
    /// ) -> Result<(), Fault> {
    ///     total.fetch_add(count?, Ordering::Relaxed);
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broker, total) = (MemoryBroker::new(), Arc::new(AtomicU64::new(0)));
    /// let repo = Node::builder(broker.connect(), REPO.at("host1")?).on(COUNT, count).start().await?;
    /// let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?)
    ///     .state(Arc::clone(&total))
    ///     .on_reply(COUNT, counted)
    ///     .start()
    ///     .await?;
    ///
    /// for word in ["rose", "thorn"] {
    ///     ctrl.client().call(REPO, COUNT, &word.to_owned()).reply_to(&CTRL).await?;
    /// }
    /// broker.idle().await;
    /// assert_eq!(total.load(Ordering::Relaxed), 9);
    /// # drop(repo);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply_to(self, service: &Service) -> Cast {
        let head = self.request.head(C::CONTENT_TYPE, ReplyTo::service(service), None);
        let Request { client, to, deadline, body, headers, .. } = self.request;
        Cast::of_request(client, to, deadline, head, body, headers)
    }
}

impl<Rep, C: Codec<Rep>> IntoFuture for Call<Rep, C> {
    type Output = Result<Rep, CallError>;
    type IntoFuture = Response<Rep, C>;

    fn into_future(self) -> Response<Rep, C> {
        self.send()
    }
}

/// The answer to a call that was sent.
///
/// # Cancel safety
///
/// Dropping it gives up the answer; the request is not unsent, unless it still waits for
/// the connection, or behind others for the broker.
#[must_use = "the answer is lost"]
pub struct Response<Rep, C> {
    state: State,
    trace: Trace,
    reply: PhantomData<fn(C) -> Rep>,
}

enum State {
    Failed(CallError),
    Open(Open, oneshot::Receiver<pending::Answer>),
    Done,
}

/// A request that was sent and may still be answered.
pub(super) struct Open {
    core: Arc<Core>,
    id: Id,
    group: bool,
    /// Until the broker's answer is known.
    publish: Option<Publish>,
    /// Whether the table of those who wait has nothing of it any more.
    forgotten: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.forgotten {
            self.core.pending.remove(&self.id);
        }
    }
}

impl<Rep, C> Response<Rep, C> {
    /// The id of the call: every message of it carries this as its correlation id. That of the request is
    /// the same, unless [`Call::id`] gave it another.
    #[must_use]
    pub fn id(&self) -> Option<&Id> {
        match &self.state {
            State::Open(open, _) => Some(&open.id),
            _ => None,
        }
    }
}

impl Open {
    /// Ready when the broker's answer is known: an error if nobody can answer the request.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(publish) = &mut self.publish else { return Poll::Ready(Ok(())) };
        let answer = ready!(Pin::new(publish).poll(cx));
        self.publish = None;
        Poll::Ready(match answer.map_err(|error| CastError::of_publish(error, self.group)) {
            // Where nobody knows, an answer may still come.
            Ok(()) | Err(CastError::Unknown(_)) => Ok(()),
            Err(CastError::NotRouted) => Err(CallError::NotRouted),
            Err(CastError::NotSent(why)) => Err(CallError::NotSent(why)),
            Err(CastError::Closed) => Err(CallError::NotSent(NotSent::Closed)),
        })
    }

    /// What it means that there will be no answer. Where the request can still be taken back at its
    /// deadline, nothing was done.
    pub(super) fn ended(&mut self, ended: Ended) -> CallError {
        let withdrawn = self.publish.as_mut().is_some_and(Publish::withdraw);
        match (ended == Ended::Closed, withdrawn) {
            (true, true) => CallError::NotSent(NotSent::Closed),
            (true, false) => CallError::Closed,
            (false, true) => {
                let why = Text::from_static("the broker took no messages until the deadline");
                CallError::NotSent(NotSent::Unavailable(why))
            }
            (false, false) => CallError::DeadlinePassed,
        }
    }
}

fn poll_answer(
    open: &mut Open,
    answer: &mut oneshot::Receiver<pending::Answer>,
    cx: &mut Context<'_>,
) -> Poll<Result<Message, CallError>> {
    if let Poll::Ready(Err(error)) = open.poll_sent(cx) {
        return Poll::Ready(answer_or(error, open, answer));
    }
    let answer = ready!(Pin::new(answer).poll(cx));
    // Whoever answers has taken it out of the table.
    open.forgotten = true;
    Poll::Ready(match answer {
        Ok(answer) => answer.map_err(|ended| open.ended(ended)),
        Err(_) => Err(CallError::Closed),
    })
}

/// One of several queues may have refused what another one has: an answer that is here counts.
#[cold]
fn answer_or(
    error: CallError,
    open: &mut Open,
    answer: &mut oneshot::Receiver<pending::Answer>,
) -> Result<Message, CallError> {
    match answer.try_recv() {
        Ok(Ok(answer)) => {
            open.forgotten = true;
            Ok(answer)
        }
        _ => Err(error),
    }
}

impl<Rep, C: Codec<Rep>> Future for Response<Rep, C> {
    type Output = Result<Rep, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            State::Open(open, answer) => {
                let reply = ready!(poll_answer(open, answer, cx));
                let result = reply.and_then(|reply| read::<Rep, C>(&reply));
                if open.group { result.map_err(CallError::of_one_of_many) } else { result }
            }
            State::Failed(_) => {
                // Whoever tries again at once lets others run.
                ready!(coop::poll_proceed(cx)).made_progress();
                match std::mem::replace(&mut self.state, State::Done) {
                    State::Failed(error) => Err(error),
                    _ => Err(CallError::Closed),
                }
            }
            // Polled after it ended.
            State::Done => return Poll::Pending,
        };
        self.state = State::Done;
        match &result {
            Ok(_) => self.trace.ok(),
            Err(error) => self.trace.failed(error.word()),
        }
        Poll::Ready(result)
    }
}

/// The value in a reply, or the failure that it reports.
pub(super) fn read<Rep, C: Codec<Rep>>(reply: &Message) -> Result<Rep, CallError> {
    match RemoteError::of_reply(reply) {
        Some(error) => Err(CallError::Remote(error)),
        None => C::decode(reply.body()).map_err(CallError::ReplyNotDecodable),
    }
}

impl<Rep, C> fmt::Debug for Call<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("to", self.request.to()).finish_non_exhaustive()
    }
}

impl<Rep, C> fmt::Debug for Response<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("id", &self.id()).finish_non_exhaustive()
    }
}
