//! One request to many, with an answer from each.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{sync::mpsc, task::coop};

use super::{
    CallError, Client,
    call::{self, Open, Request},
    pending::{self, Ended, Waiter},
    trace::{Sent, Trace},
};
use crate::{Address, Codec, HeaderValue, Instance, Operation, Text, topology::header};

/// A request to many that is not sent yet: awaiting it, or [`send`](Self::send), sends it.
///
/// ```
/// use gear_api::{Client, Context, Node, Operation, Service};
/// use gear_memory::MemoryBroker;
/// use std::{sync::Arc, time::Duration};
///
/// const REPO: Service = Service::new("REPO");
/// const SIZE: Operation<(), u64> = Operation::new("size");
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new();
/// let mut nodes = Vec::new();
/// for (host, size) in [("host1", 10), ("host2", 20)] {
///     let node = Node::builder(broker.connect(), REPO.at(host)?)
///         .state(size)
///         .on(SIZE, async |size: Arc<u64>, _: Context, ()| Ok(*size));
///     nodes.push(node.start().await?);
/// }
///
/// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
/// let absent = REPO.at("host3")?;
/// let mut answers = client
///     .gather(REPO.all(), SIZE, &())
///     .expect([REPO.at("host1")?, REPO.at("host2")?, absent.clone()])
///     .timeout(Duration::from_secs(1))
///     .await?;
/// let mut total = 0;
/// while let Some(answer) = answers.next().await {
///     total += answer.result?;
/// }
/// assert_eq!(total, 30);
/// assert!(answers.missing().eq([&absent]));
/// # Ok(())
/// # }
/// ```
#[must_use = "a gather is sent when it is awaited"]
pub struct Gather<Rep, C> {
    request: Request,
    expected: BTreeSet<Instance>,
    reply: PhantomData<fn(C) -> Rep>,
}

impl<Rep, C: Codec<Rep>> Gather<Rep, C> {
    pub(super) fn new<Req>(
        client: &Client,
        to: Address,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Self
    where
        C: Codec<Req>,
    {
        let request = Request::new(client, to, operation, request);
        Self { request, expected: BTreeSet::new(), reply: PhantomData }
    }

    /// Names instances that are to answer. When all of them have, the stream ends;
    /// otherwise it ends at the deadline and [`Answers::missing`] names the others. One that
    /// answers with an error has answered.
    ///
    /// Within a request, leave time to use what came: a gather that may take as long as its
    /// request ends too late to tell.
    pub fn expect<I: Borrow<Instance>>(mut self, instances: impl IntoIterator<Item = I>) -> Self {
        self.expected.extend(instances.into_iter().map(|instance| instance.borrow().clone()));
        self
    }

    /// How long to wait for answers, from when the gather was made.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout(timeout);
        self
    }

    /// Sets a header. One that is not allowed makes it end with
    /// [`NotSent::Header`](super::NotSent::Header).
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<HeaderValue>) -> Self {
        self.request.header(name.into(), value.into());
        self
    }

    /// Sends it now; whether somebody is there can be awaited later, and then the answers.
    pub fn send(self) -> Gathering<Rep, C> {
        let mut trace = self.request.trace(Sent::Gather);
        let (sender, receiver) = mpsc::unbounded_channel();
        let expected = self.expected;
        let state = match self.request.send(Waiter::Many(sender), C::CONTENT_TYPE) {
            Err(error) => {
                trace.failed(error.word());
                State::Failed(error)
            }
            Ok(open) => State::Open(Answers {
                open,
                trace,
                receiver,
                first: None,
                expects: !expected.is_empty(),
                missing: expected,
                answered: BTreeSet::new(),
                heard: 0,
                reply: PhantomData,
            }),
        };
        Gathering(state)
    }
}

impl<Rep, C: Codec<Rep>> IntoFuture for Gather<Rep, C> {
    type Output = Result<Answers<Rep, C>, CallError>;
    type IntoFuture = Gathering<Rep, C>;

    fn into_future(self) -> Gathering<Rep, C> {
        self.send()
    }
}

/// A gather that was sent: ready when the broker has it, or somebody has answered.
///
/// # Cancel safety
///
/// Dropping it gives up the answers; the request is not unsent, unless it still waits for
/// the connection, or behind others for the broker.
#[must_use = "the answers are lost"]
pub struct Gathering<Rep, C>(State<Rep, C>);

enum State<Rep, C> {
    Failed(CallError),
    Open(Answers<Rep, C>),
    Done,
}

impl<Rep, C: Codec<Rep>> Future for Gathering<Rep, C> {
    type Output = Result<Answers<Rep, C>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = match &mut self.0 {
            State::Open(answers) => ready!(answers.poll_sent(cx)),
            State::Failed(_) => {
                // Whoever tries again at once lets others run.
                ready!(coop::poll_proceed(cx)).made_progress();
                Ok(())
            }
            // Polled after it ended.
            State::Done => return Poll::Pending,
        };
        Poll::Ready(match (std::mem::replace(&mut self.0, State::Done), sent) {
            (State::Open(answers), Ok(())) => Ok(answers),
            (State::Open(mut answers), Err(error)) => {
                answers.trace.failed(error.word());
                Err(error)
            }
            (State::Failed(error), _) => Err(error),
            (State::Done, _) => Err(CallError::Closed),
        })
    }
}

/// One answer of a gather.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<Rep> {
    /// Who answered; none if it did not say.
    pub from: Option<Instance>,
    /// What. [`CallError::Remote`] and [`CallError::ReplyNotDecodable`] are errors of the one that
    /// answered; [`CallError::Closed`] comes last, from nobody, if the client was closed while
    /// there was more to come.
    pub result: Result<Rep, CallError>,
}

/// The answers of a gather, as they come: a stream. Ends when all that were expected have
/// answered, at the deadline, or when the client is closed. An instance that answers twice is
/// heard once.
pub struct Answers<Rep, C> {
    open: Open,
    trace: Trace,
    receiver: mpsc::UnboundedReceiver<pending::Answer>,
    /// What came before the broker's answer.
    first: Option<pending::Answer>,
    expects: bool,
    missing: BTreeSet<Instance>,
    answered: BTreeSet<Instance>,
    /// How many answers there were.
    heard: usize,
    reply: PhantomData<fn(C) -> Rep>,
}

impl<Rep, C: Codec<Rep>> Answers<Rep, C> {
    /// Ready when the broker has the request, or somebody has answered it already.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        if let Poll::Ready(sent) = self.open.poll_sent(cx) {
            // As with calls, an answer that is here counts.
            if sent.is_err()
                && let Ok(answer @ Ok(_)) = self.receiver.try_recv()
            {
                self.first = Some(answer);
                return Poll::Ready(Ok(()));
            }
            return Poll::Ready(sent);
        }
        self.receiver.poll_recv(cx).map(|answer| match answer {
            Some(Err(ended)) => Err(self.open.ended(ended)),
            answer => {
                self.first = answer;
                Ok(())
            }
        })
    }

    /// The next answer; none at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, no answer is lost.
    pub async fn next(&mut self) -> Option<Answer<Rep>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The expected instances that have not answered, so far.
    pub fn missing(&self) -> impl ExactSizeIterator<Item = &Instance> {
        self.missing.iter()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer<Rep>>> {
        let answer = ready!(self.poll_answer(cx));
        match &answer {
            Some(Answer { result: Err(error @ CallError::Closed), .. }) => {
                self.trace.failed(error.word());
            }
            Some(_) => self.heard += 1,
            None => self.trace.gathered(self.heard, self.missing.is_empty()),
        }
        Poll::Ready(answer)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer<Rep>>> {
        loop {
            if self.expects && self.missing.is_empty() {
                return Poll::Ready(None);
            }
            let next = match self.first.take() {
                Some(first) => Some(first),
                None => ready!(self.receiver.poll_recv(cx)),
            };
            let reply = match next {
                Some(Ok(reply)) => reply,
                // Its time is over: that is how a gather ends.
                None | Some(Err(Ended::DeadlinePassed)) => return Poll::Ready(None),
                Some(Err(Ended::Closed)) => {
                    let result = Err(CallError::Closed);
                    return Poll::Ready(Some(Answer { from: None, result }));
                }
            };
            // Whoever was asked may have handed the request on.
            let asked = reply.headers().get(header::ASKED_OF).and_then(HeaderValue::as_str);
            let from: Option<Instance> = asked.unwrap_or(reply.sender()).parse().ok();
            if let Some(instance) = &from {
                if !self.answered.insert(instance.clone()) {
                    continue;
                }
                self.missing.remove(instance);
            }
            return Poll::Ready(Some(Answer { from, result: call::read::<Rep, C>(&reply) }));
        }
    }
}

impl<Rep, C: Codec<Rep>> Stream for Answers<Rep, C> {
    type Item = Answer<Rep>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer<Rep>>> {
        self.poll(cx)
    }
}

impl<Rep, C> fmt::Debug for Gather<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("to", self.request.to()).finish_non_exhaustive()
    }
}

impl<Rep, C> fmt::Debug for Gathering<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").finish_non_exhaustive()
    }
}

impl<Rep, C> fmt::Debug for Answers<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("missing", &self.missing).finish_non_exhaustive()
    }
}
