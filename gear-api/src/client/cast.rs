//! Messages without an answer: casts, events, and requests whose answer goes elsewhere.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::coop,
    time::{Instant, Sleep},
};

use super::{
    CastError, Client, NotSent, call,
    trace::{Sent, Trace},
};
use crate::{
    Address, Codec, HeaderValue, Headers, Id, Kind, Message, Operation, Publish, PublishError,
    Route, Text, Topic, clock::after, message::Head,
};

/// A message that is not sent yet: awaiting it, or [`send`](Self::send), sends it. See
/// [`Client::cast`] and [`Client::publish`].
#[must_use = "a cast is sent when it is awaited"]
pub struct Cast {
    client: Client,
    to: Destination,
    /// When to give up waiting for the broker.
    give_up: Instant,
    head: Head,
    /// What is wrong with it is told when it is sent.
    body: Result<Bytes, NotSent>,
    /// The user's, to which those of a trace yield. Few have any.
    headers: Option<Box<Headers>>,
}

enum Destination {
    Address(Address),
    Topic(Topic),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Topic(topic) => topic.fmt(f),
        }
    }
}

impl Cast {
    fn new<Req, Rep, C: Codec<Req>>(
        client: &Client,
        to: Destination,
        kind: Kind,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Self {
        let core = client.core();
        let started = Instant::now();
        let now = core.clock.timestamp(started);
        let mut head = core.head(kind, operation.text(), now, client.parent_message());
        head.id = Some(core.next_id(now));
        head.content_type = C::CONTENT_TYPE;
        head.durable = true;
        Self {
            client: client.clone(),
            to,
            give_up: client.bound(after(started, core.settings.send_timeout)),
            head,
            body: call::encode::<Req, C>(core, request),
            headers: None,
        }
    }

    pub(super) fn to_address<Req, Rep, C: Codec<Req>>(
        client: &Client,
        to: Address,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Self {
        Self::new(client, Destination::Address(to), Kind::Cast, operation, request)
    }

    pub(super) fn to_topic<Req, Rep, C: Codec<Req>>(
        client: &Client,
        to: Topic,
        event: Operation<Req, Rep, C>,
        payload: &Req,
    ) -> Self {
        Self::new(client, Destination::Topic(to), Kind::Event, event, payload)
    }

    pub(crate) fn of_request(
        client: Client,
        to: Address,
        give_up: Instant,
        head: Head,
        body: Result<Bytes, NotSent>,
        headers: Option<Box<Headers>>,
    ) -> Self {
        Self { client, to: Destination::Address(to), give_up, head, body, headers }
    }

    /// Sets a header. One that is not allowed makes it end with [`NotSent::Header`].
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<HeaderValue>) -> Self {
        call::set_header(&mut self.headers, &mut self.body, name.into(), value.into());
        self
    }

    /// Gives it this id, in place of a new one: for what is sent again, as from an outbox, so that it is
    /// recognised as [the same message](crate::Deduplicate). A UUID is best, as
    /// `Id::from(uuid.into_bytes())`. An id has at most 255 bytes.
    pub fn id(mut self, id: impl Into<Id>) -> Self {
        self.head.id = Some(id.into());
        self
    }

    /// How long to wait for the broker from now on, instead of the client's `send_timeout` (of a call
    /// whose answer goes elsewhere: instead of until its deadline). How long the message is of use is
    /// said with [`expires`](Self::expires).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.give_up = self.client.bound(after(Instant::now(), timeout));
        self
    }

    /// The message is of no use after so long, and is then dropped unhandled. By default it
    /// waits for as long as it takes. A call that is made within a request ends with that
    /// request at the latest.
    pub fn expires(mut self, after: Duration) -> Self {
        let clock = self.client.clock();
        let wanted = clock.now() + after;
        let parent = self.client.parent_message().and_then(Message::deadline);
        self.head.deadline = Some(match parent {
            Some(parent) if self.head.kind == Kind::Call => wanted.min(parent),
            _ => wanted,
        });
        self
    }

    /// Whether it survives a restart of the broker. Casts and events do by default, calls
    /// whose answer goes elsewhere do not.
    pub fn durable(mut self, durable: bool) -> Self {
        self.head.durable = durable;
        self
    }

    /// Sends it now; whether it arrived can be awaited later.
    pub fn send(self) -> Sending {
        let trace = self.trace();
        let state = self.hand_over().unwrap_or_else(State::Failed);
        Sending { state, trace }
    }

    fn trace(&self) -> Trace {
        let sent = match self.head.kind {
            Kind::Event => Sent::Event,
            Kind::Call => Sent::Request,
            _ => Sent::Cast,
        };
        Trace::new(sent, &self.head.operation, &self.to, self.head.id.as_ref())
    }

    fn hand_over(mut self) -> Result<State, CastError> {
        if let Some(headers) = self.headers.take() {
            self.head.headers = self.head.headers.with(*headers);
        }
        let message = self.head.message(self.body.map_err(CastError::NotSent)?);
        let core = self.client.core();
        if core.pending.is_closed() {
            return Err(CastError::Closed);
        }
        // Otherwise it would depend on the broker's haste whether anybody learns that it was sent.
        let too_late = |deadline| deadline <= core.clock.now();
        if self.give_up <= Instant::now() || message.deadline().is_some_and(too_late) {
            return Err(CastError::NotSent(NotSent::TooLate));
        }
        let (route, group) = match &self.to {
            Destination::Address(address) => (Route::Address(address), address.is_group()),
            Destination::Topic(topic) => (Route::Event(topic), true),
        };
        let publish = core.transport.send(route, message);
        Ok(State::Open { publish, group, give_up: self.give_up, timer: None })
    }
}

impl IntoFuture for Cast {
    type Output = Result<(), CastError>;
    type IntoFuture = Sending;

    fn into_future(self) -> Sending {
        self.send()
    }
}

/// The broker's answer to a message that was sent.
///
/// # Cancel safety
///
/// Dropping it gives up the answer; the message is not unsent, unless it still waits for
/// the connection, or behind others for the broker (gear-amqp has 1,000 on their way at a time). With
/// [`detach`](Self::detach) it waits on in the background, for as long as its `timeout` says.
#[must_use = "the broker's answer tells whether the message arrived"]
pub struct Sending {
    state: State,
    trace: Trace,
}

enum State {
    Failed(CastError),
    Open { publish: Publish, group: bool, give_up: Instant, timer: Option<Pin<Box<Sleep>>> },
    Done,
}

impl Sending {
    /// The answer to a request, on its way; or why it is not.
    pub(super) fn of_answer(
        operation: &str,
        to: &dyn fmt::Display,
        publish: Result<Publish, CastError>,
        give_up: Instant,
    ) -> Self {
        let state = match publish {
            Ok(publish) => State::Open { publish, group: false, give_up, timer: None },
            Err(error) => State::Failed(error),
        };
        Self { state, trace: Trace::new(Sent::Answer, operation, to, None) }
    }

    /// There is nothing to be sent.
    pub(super) fn nothing() -> Self {
        Self::untraced(Publish::ready(Ok(())), Instant::now())
    }

    /// What has no span of its own.
    pub(super) fn untraced(publish: Publish, give_up: Instant) -> Self {
        let state = State::Open { publish, group: false, give_up, timer: None };
        Self { state, trace: Trace::none() }
    }

    /// Why it failed, if that is known already.
    pub(super) fn failed(&self) -> Option<&PublishError> {
        match &self.state {
            State::Open { publish, .. } => publish.failed(),
            _ => None,
        }
    }

    /// Lets the message go its way without anybody waiting for the broker's answer: nobody learns whether
    /// it arrived, but from the log. One that still waits for the connection does so in the background,
    /// for as long as the cast's [`timeout`](Cast::timeout) says; outside of a tokio runtime it is not sent.
    pub fn detach(mut self) {
        match &self.state {
            State::Open { publish, .. } if publish.is_handed_over() => self.trace.detached(),
            State::Open { .. } => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(self);
                }
            }
            State::Failed(error) => self.trace.failed(error.word()),
            State::Done => {}
        }
    }
}

impl Future for Sending {
    type Output = Result<(), CastError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            State::Open { publish, group, give_up, timer } => {
                match Pin::new(&mut *publish).poll(cx) {
                    Poll::Ready(answer) => {
                        answer.map_err(|error| CastError::of_publish(error, *group))
                    }
                    Poll::Pending => {
                        let timer = timer
                            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*give_up)));
                        ready!(timer.as_mut().poll(cx));
                        let why = Text::from_static("the broker did not answer in time");
                        Err(if publish.withdraw() {
                            CastError::NotSent(NotSent::Unavailable(why))
                        } else {
                            CastError::Unknown(why)
                        })
                    }
                }
            }
            State::Failed(_) => {
                // Whoever tries again at once lets others run.
                ready!(coop::poll_proceed(cx)).made_progress();
                match std::mem::replace(&mut self.state, State::Done) {
                    State::Failed(error) => Err(error),
                    _ => Err(CastError::Closed),
                }
            }
            // Polled after it ended.
            State::Done => return Poll::Pending,
        };
        self.state = State::Done;
        match &result {
            Ok(()) => self.trace.ok(),
            Err(error) => self.trace.failed(error.word()),
        }
        Poll::Ready(result)
    }
}

impl fmt::Debug for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = format_args!("{}", self.to);
        f.debug_struct("Cast").field("to", &to).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
