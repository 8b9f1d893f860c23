//! One request from its delivery to its settlement. Whatever happens to its handler, the
//! request is answered and settled, once: a job that is dropped sees to it.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tracing::{Span, level_filters::LevelFilter};

use super::{Context, Fault, Reply, code, failed, panics::caught, tasks::Work};
use crate::{
    Kind, Message, Publish, PublishError, RemoteError, Settlement, Text,
    causes::Causes,
    client::{Core, count},
};

/// What is left to await before a message is settled. Boxed, because it is rare and would
/// make every handler's future larger.
pub(super) type Rest = Work;

pub(super) struct Job {
    cx: Context,
    settlement: Option<Settlement>,
    /// Whether somebody has begun to handle it.
    begun: bool,
    /// How often it may be tried again if it fails.
    retries: u32,
}

/// The span of a handler.
const HANDLE: &str = "gear.handle";

/// Tells the span of the handler that runs here how it ended. Costs a look at a static where nobody
/// listens, and no handler a place for its span.
#[inline(always)]
fn tell_outcome(outcome: &str, error: Option<&str>) {
    if LevelFilter::current() >= LevelFilter::INFO {
        record_outcome(outcome, error);
    }
}

fn record_outcome(outcome: &str, error: Option<&str>) {
    let span = Span::current();
    // Where that of the handler is filtered out, this one is somebody else's.
    if span.metadata().is_some_and(|metadata| metadata.name() == HANDLE) {
        if let Some(error) = error {
            span.record("error.type", error);
        }
        span.record("outcome", outcome);
    }
}

/// Shows what is a handler's own, for the log; a panic in its `Display` is not the log's.
struct Unharmed<T>(T);

impl<T: fmt::Display> fmt::Display for Unharmed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        caught(|| self.0.fmt(f)).unwrap_or_else(|_| f.write_str("(its text panics)"))
    }
}

/// How long to wait before a message that could be neither held back nor set aside goes back, and so
/// comes again.
const GO_BACK_AFTER: Duration = Duration::from_secs(1);

/// Whether the broker would say the same another time, and does not have the message.
fn is_final(error: &PublishError) -> bool {
    !matches!(error, PublishError::Unknown(_) | PublishError::NotSent(_) | PublishError::Closed)
}

impl Job {
    pub(super) fn new(cx: Context, settlement: Settlement) -> Self {
        Self { cx, settlement: Some(settlement), begun: false, retries: 0 }
    }

    /// Says how often a cast of it may be tried again.
    pub(super) fn allow_retries(&mut self, retries: u32) {
        self.retries = retries;
    }

    pub(super) fn context(&self) -> &Context {
        &self.cx
    }

    /// Whether its deadline has passed: then it is dropped unhandled.
    pub(super) fn expires(&mut self) -> bool {
        let expired = self.cx.is_expired();
        if expired {
            count(&self.core().counters.expired);
            tracing::debug!(operation = %self.message().operation(), "its deadline has passed");
            self.acknowledge();
        }
        expired
    }

    /// The same for one that has its span already.
    pub(super) fn expires_in_span(&mut self) -> bool {
        let expired = self.expires();
        if expired {
            tell_outcome("expired", None);
        }
        expired
    }

    /// The handler, or a layer around it, is about to be called.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether somebody waits for an answer, and for one from here.
    fn must_answer(&self) -> bool {
        self.cx.wants_answer() && !self.cx.is_handed_on()
    }

    fn message(&self) -> &Message {
        self.cx.message()
    }

    fn core(&self) -> &Arc<Core> {
        self.cx.core()
    }

    pub(super) fn span(&self) -> Span {
        let message = self.message();
        tracing::info_span!(
            // Whoever is on the stack has sent it, or only made room for it in its queue.
            parent: None,
            HANDLE,
            operation = %message.operation(),
            kind = %message.kind(),
            from = %message.sender(),
            "otel.kind" = if self.cx.wants_answer() { "server" } else { "consumer" },
            "messaging.destination.name" = %self.cx.key(),
            "messaging.destination.subscription.name" = %self.cx.queue(),
            "messaging.message.id" = message.id().map(tracing::field::display),
            attempt = (message.attempt() > 0).then(|| message.attempt()),
            outcome = tracing::field::Empty,
            "error.type" = tracing::field::Empty,
        )
    }

    /// The handler is done: answers and settles. Returns what is left to await.
    pub(super) fn finish(mut self, result: Result<Option<Reply>, Fault>) -> Option<Rest> {
        let fault = match result {
            Ok(reply) => {
                let reply = reply.unwrap_or_default();
                if self.must_answer() && !reply.is_elsewhere() {
                    let answer = self.answer(reply);
                    return self.answered(answer);
                }
                tell_outcome("ok", None);
                return self.answered(None);
            }
            Err(fault) => fault,
        };
        let counters = &self.core().counters;
        count(if fault.is_panic() { &counters.panicked } else { &counters.failed });
        let retries = if fault.is_permanent() || self.cx.wants_answer() { 0 } else { self.retries };
        let delay = failed::delay(self.core(), self.message(), retries);
        let source = fault.source().map(|source| Unharmed(Causes(source)));
        let source = source.as_ref().map(tracing::field::display);
        let again_in_s = delay.map(|delay| delay.as_secs());
        tracing::warn!(code = fault.code(), source, again_in_s, "the handler failed: {fault}");
        tell_outcome("error", Some(fault.code()));
        let shown = fault.shown().clone();
        // What is behind it is the handler's own, and may panic when it is dropped.
        let _ = caught(|| drop(fault));
        if self.must_answer() {
            let answer = self.answer_error(&shown);
            self.answered(answer)
        } else if self.cx.wants_answer() {
            self.answered(None)
        } else {
            Some(self.not_handled(shown.to_string(), delay))
        }
    }

    /// Nobody handles it.
    pub(super) fn unknown_operation(mut self) -> Option<Rest> {
        count(&self.core().counters.unknown);
        let message = self.message();
        let text = if message.operation().is_empty() {
            "the message names no operation".to_owned()
        } else {
            format!("there is no operation {:?} here", message.operation())
        };
        if self.cx.wants_answer() {
            let answer = self.answer_error(&RemoteError::new(code::UNKNOWN_OPERATION, text, false));
            self.answered(answer)
        } else if message.kind() == Kind::Event || self.cx.key().ends_with(".*") {
            // Whoever tells everybody something does not know what each of them handles, and
            // a pattern may catch more than its handlers are for.
            self.forget();
            None
        } else {
            tracing::warn!("set aside: {text}");
            Some(self.not_handled(text, None))
        }
    }

    /// Its time is over, or it is not for this queue: nobody is told.
    pub(super) fn forget(mut self) {
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.ack();
        }
    }

    /// Settles once the answer has left: a request must not be gone before its answer is on
    /// the way.
    fn answered(self, answer: Option<Publish>) -> Option<Rest> {
        match answer {
            Some(answer) if !answer.is_handed_over() => Some(Box::pin(async move {
                let mut answered = Answered { answer, job: Some(self) };
                // Its confirm is not awaited: if the handlers were cut off meanwhile, the request would
                // be answered once more.
                let left = poll_fn(|cx| match Pin::new(&mut answered.answer).poll(cx) {
                    Poll::Pending if answered.answer.is_handed_over() => Poll::Ready(Ok(())),
                    outcome => outcome,
                });
                if let Err(error) = left.await {
                    tracing::debug!(%error, "the answer could not be sent");
                }
                answered.forget();
            })),
            _ => {
                self.forget();
                None
            }
        }
    }

    /// Has it tried again after a delay, or puts it where the operator finds it. Only what the broker has
    /// confirmed to be there may leave its queue; until then a job that is dropped gives it back.
    fn not_handled(self, reason: String, delay: Option<Duration>) -> Rest {
        if self.settlement.as_ref().is_some_and(|settlement| !settlement.is_open()) {
            // As a copy of its own it would come twice from now on.
            tracing::debug!("its connection is gone: it comes again by itself");
            return Box::pin(async move { self.forget() });
        }
        let (core, queue, key) = (self.core(), self.cx.queue(), self.cx.key());
        let held_back =
            delay.map(|delay| failed::hold_back(core, self.message(), queue, key, delay));
        Box::pin(async move {
            match held_back {
                None => self.set_aside(&reason).await,
                Some(held_back) => match held_back.await {
                    Ok(()) => {
                        count(&self.core().counters.retried);
                        self.forget();
                    }
                    Err(error) if is_final(&error) => {
                        tracing::warn!(%error, "set aside, since the broker does not hold it back");
                        self.set_aside(&reason).await;
                    }
                    Err(error) => {
                        tracing::error!(%error, "could not be held back");
                        self.go_back_soon().await;
                    }
                },
            }
        })
    }

    async fn set_aside(self, reason: &str) {
        let (core, queue, key) = (self.core(), self.cx.queue(), self.cx.key());
        match failed::set_aside(core, self.message(), queue, key, reason).await {
            Ok(()) => {
                count(&self.core().counters.set_aside);
                self.forget();
            }
            Err(error) => {
                tracing::error!(%error, "could not be set aside");
                self.go_back_soon().await;
            }
        }
    }

    /// Back to its queue, from where it comes again.
    async fn go_back_soon(mut self) {
        tokio::time::sleep(GO_BACK_AFTER).await;
        drop(self.settlement.take());
    }

    /// Hands the reply over without waiting, or an error in its place: also from `drop`.
    fn answer(&mut self, reply: Reply) -> Option<Publish> {
        let (bytes, limit) = (reply.body.len(), self.core().settings.max_body_bytes);
        let too_large = |job: &mut Self, limit| {
            let text = format!("a reply of {bytes} bytes; the limit is {limit}");
            tell_outcome("error", Some(code::TOO_LARGE));
            job.answer_error(&RemoteError::new(code::TOO_LARGE, text, false))
        };
        if bytes > limit {
            return too_large(self, limit);
        }
        let answer = self.reply(reply, None)?;
        match answer.failed() {
            Some(&PublishError::TooLarge { limit, .. }) => too_large(self, limit),
            // Whoever asked is gone, or this node is, or nobody waits for it any more.
            None
            | Some(PublishError::NotRouted | PublishError::NotSent(_) | PublishError::Closed) => {
                tell_outcome("ok", None);
                Some(answer)
            }
            Some(error) => {
                tracing::warn!(%error, "the reply can not be sent");
                tell_outcome("error", Some(code::FAILED));
                let text = "the reply can not be sent";
                self.answer_error(&RemoteError::new(code::FAILED, text, false))
            }
        }
    }

    fn answer_error(&mut self, error: &RemoteError) -> Option<Publish> {
        let mut error = error.clone();
        // Of what those have done who had it before, this one knows nothing.
        error.retryable &= self.message().hops() == 0;
        let mut send = |error: &RemoteError| {
            let reply = Reply::new(RemoteError::CONTENT_TYPE, error.to_body());
            self.reply(reply, Some(error.code.as_str().into()))
        };
        let answer = send(&error)?;
        if !matches!(answer.failed(), Some(PublishError::TooLarge { .. })) {
            return Some(answer);
        }
        // The code alone has a limit; what else a service says may be more than the broker takes.
        send(&error.shortened())
    }

    /// The backend may acknowledge the request at once.
    fn reply(&mut self, reply: Reply, error: Option<Text>) -> Option<Publish> {
        let asked = self.cx.asked();
        let to = self.cx.message().reply_to()?;
        let core = self.cx.core();
        let answer = core.answer(asked, reply.content_type, reply.body, error);
        let mut none = Settlement::none();
        let settlement = self.settlement.as_mut().unwrap_or(&mut none);
        Some(core.transport.answer(to, answer, settlement))
    }
}

/// A request whose answer waits to leave.
struct Answered {
    answer: Publish,
    job: Option<Job>,
}

impl Answered {
    fn forget(&mut self) {
        if let Some(job) = self.job.take() {
            job.forget();
        }
    }
}

/// Cut off. The answer may have left without anybody having looked since: then all is done, and
/// otherwise the job sees to it.
impl Drop for Answered {
    fn drop(&mut self) {
        if self.job.is_some() && !self.answer.withdraw() {
            self.forget();
        }
    }
}

/// The handler was cut off, or never begun.
impl Drop for Job {
    fn drop(&mut self) {
        let Some(settlement) = self.settlement.take() else { return };
        let begun = self.begun && !self.cx.waits();
        if begun {
            tell_outcome("error", Some(code::DROPPED));
            self.core().note_unfinished(self.message());
        }
        if begun && self.cx.wants_answer() && !self.must_answer() {
            settlement.ack();
        } else if begun && self.cx.wants_answer() {
            let error = RemoteError::new(code::DROPPED, "the handler was cut off", false);
            let mut answer = self.answer_error(&error);
            // One that can not leave now would be lost with the connection.
            match answer.as_mut().is_some_and(Publish::withdraw) {
                true => settlement.requeue(),
                false => settlement.ack(),
            }
        } else if begun && std::thread::panicking() {
            // What the handler held panicked when it was dropped. Counted by the broker: it would come
            // again, and panic again, without end.
            drop(settlement);
        } else {
            settlement.requeue();
        }
    }
}
