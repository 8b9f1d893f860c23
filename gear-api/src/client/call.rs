//! One request, one answer.

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    CallError, Cast, CastError, Client, Core, NotSent, RemoteError,
    pending::{self, Waiter},
};
use crate::{
    Address, Codec, HeaderValue, Id, Kind, Message, MessageBuilder, Operation, Publish, ReplyTo,
    Route, Service, Text,
};

/// A request that is not sent yet: awaiting it, or [`send`](Self::send), sends it.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<Rep, C> {
    request: Request,
    reply: PhantomData<fn(C) -> Rep>,
}

/// What calls, gathers and requests with a reply handler have in common.
pub(super) struct Request {
    pub(super) client: Client,
    pub(super) to: Address,
    id: Id,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    /// What is wrong with it is told when it is sent.
    pub(super) message: Result<MessageBuilder, NotSent>,
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
        let timeout = operation.default_timeout().unwrap_or(core.settings.call_timeout);
        let now = core.clock.timestamp(started);
        let message = encode::<Req, C>(core, request).map(|body| {
            core.message(Kind::Call, operation.text(), now, client.parent_message())
                .content_type(C::CONTENT_TYPE)
                .body(body)
        });
        let deadline = client.bound(started + timeout);
        Self { client: client.clone(), to, id: core.next_id(now), started, deadline, message }
    }

    pub(super) fn timeout(&mut self, timeout: Duration) {
        self.deadline = self.client.bound(self.started + timeout);
    }

    pub(super) fn header(&mut self, name: Text, value: HeaderValue) {
        set_header(&mut self.message, name, value);
    }

    /// Registers the waiter and hands the message over.
    pub(super) fn send(self, waiter: Waiter) -> Result<(Arc<Core>, Id, Publish), CallError> {
        let core = Arc::clone(self.client.core());
        let message = self.message.map_err(CallError::NotSent)?;
        if self.deadline <= self.started {
            let why = Text::from_static("its deadline had passed already");
            return Err(CallError::NotSent(NotSent::Unavailable(why)));
        }
        let id = self.id;
        let reply_to = core.pending.insert(&id, self.deadline, waiter)?;
        let message = message
            .id(id.clone())
            .correlation(id.clone())
            .reply_to(reply_to)
            .deadline(core.clock.timestamp(self.deadline))
            .build();
        let publish = core.transport.send(Route::Address(&self.to), message);
        Ok((core, id, publish))
    }
}

pub(super) fn encode<Req, C: Codec<Req>>(
    core: &Core,
    request: &Req,
) -> Result<bytes::Bytes, NotSent> {
    let body = C::encode(request).map_err(NotSent::Encode)?;
    core.check_body(body.len())?;
    Ok(body)
}

pub(super) fn set_header(
    message: &mut Result<MessageBuilder, NotSent>,
    name: Text,
    value: HeaderValue,
) {
    if let Ok(builder) = message
        && let Err(error) = builder.headers_mut().insert(name, value)
    {
        *message = Err(NotSent::Header(error));
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

    /// Sends it now; the answer can be awaited later.
    pub fn send(self) -> Response<Rep, C> {
        let (answer, receiver) = oneshot::channel();
        let state = match self.request.send(Waiter::One(answer)) {
            Ok((core, id, publish)) => {
                State::Open(Open { core, id, publish: Some(publish), answer: receiver })
            }
            Err(error) => State::Failed(error),
        };
        Response { state, reply: PhantomData }
    }

    /// Lets the answer go to any instance of `service`, whose reply handler
    /// ([`NodeBuilder::on_reply`](crate::NodeBuilder::on_reply)) takes it: nobody here waits.
    /// Awaiting it waits until the broker has the request.
    ///
    /// The deadline still travels with the request, but when it passes nobody is told.
    pub fn reply_to(self, service: &Service) -> Cast {
        let Request { client, to, id, deadline, message, .. } = self.request;
        let core = client.core();
        let message = message.map(|message| {
            message
                .id(id.clone())
                .correlation(id)
                .reply_to(ReplyTo::service(service))
                .deadline(core.clock.timestamp(deadline))
        });
        Cast::of_request(&client, to, deadline, message)
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
/// the connection.
#[must_use = "the answer is lost"]
pub struct Response<Rep, C> {
    state: State,
    reply: PhantomData<fn(C) -> Rep>,
}

enum State {
    Failed(CallError),
    Open(Open),
    Done,
}

struct Open {
    core: Arc<Core>,
    id: Id,
    /// Until the broker's answer is known.
    publish: Option<Publish>,
    answer: oneshot::Receiver<pending::Answer>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.pending.remove(&self.id);
    }
}

impl<Rep, C> Response<Rep, C> {
    /// The id of the call: every message of it carries this as its correlation id.
    #[must_use]
    pub fn id(&self) -> Option<&Id> {
        match &self.state {
            State::Open(open) => Some(&open.id),
            _ => None,
        }
    }
}

impl Open {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, CallError>> {
        if let Some(publish) = &mut self.publish
            && let Poll::Ready(answer) = Pin::new(publish).poll(cx)
        {
            self.publish = None;
            if let Err(error) = answer {
                match CastError::of_publish(error, false) {
                    CastError::NotRouted => return Poll::Ready(Err(CallError::NotRouted)),
                    CastError::NotSent(why) => return Poll::Ready(Err(CallError::NotSent(why))),
                    CastError::Closed => return Poll::Ready(Err(CallError::Closed)),
                    // An answer may still come.
                    CastError::Unknown(_) => {}
                }
            }
        }
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(Err(CallError::DeadlinePassed)) if self.waits_for_broker() => {
                Err(CallError::NotSent(NotSent::Unavailable(Text::from_static(
                    "the broker took no messages until the deadline",
                ))))
            }
            Ok(answer) => answer,
            Err(_) => Err(CallError::Closed),
        })
    }

    fn waits_for_broker(&self) -> bool {
        self.publish.as_ref().is_some_and(|publish| !publish.is_handed_over())
    }
}

impl<Rep, C: Codec<Rep>> Future for Response<Rep, C> {
    type Output = Result<Rep, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            State::Open(open) => std::task::ready!(open.poll(cx)),
            State::Failed(_) => match std::mem::replace(&mut self.state, State::Done) {
                State::Failed(error) => Err(error),
                _ => Err(CallError::Closed),
            },
            // Polled after it ended.
            State::Done => return Poll::Pending,
        };
        self.state = State::Done;
        Poll::Ready(result.and_then(|reply| read::<Rep, C>(&reply)))
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
        f.debug_struct("Call").field("to", &self.request.to).finish_non_exhaustive()
    }
}

impl<Rep, C> fmt::Debug for Response<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("id", &self.id()).finish_non_exhaustive()
    }
}
