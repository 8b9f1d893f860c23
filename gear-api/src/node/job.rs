//! One request from its delivery to its settlement. Whatever happens to its handler, the
//! request is answered and settled, once: a job that is dropped sees to it.

use std::sync::Arc;

use tracing::Span;

use super::{Context, Fault, Reply, code};
use crate::{
    Kind, Message, Publish, RemoteError, Route, Settlement, Text,
    client::{Core, count},
};

pub(super) struct Job {
    cx: Context,
    /// The queue that it came by.
    queue: Text,
    settlement: Option<Settlement>,
}

impl Job {
    pub(super) fn new(cx: Context, queue: Text, settlement: Settlement) -> Self {
        Self { cx, queue, settlement: Some(settlement) }
    }

    pub(super) fn context(&self) -> &Context {
        &self.cx
    }

    fn message(&self) -> &Message {
        self.cx.message()
    }

    fn core(&self) -> &Arc<Core> {
        self.cx.core()
    }

    /// Whether somebody waits for an answer: replies are never answered.
    pub(super) fn wants_answer(&self) -> bool {
        self.message().reply_to().is_some() && self.message().kind() != Kind::Reply
    }

    pub(super) fn span(&self) -> Span {
        let message = self.message();
        tracing::info_span!(
            "gear.handle",
            operation = %message.operation(),
            kind = %message.kind(),
            from = %message.sender(),
            id = message.id().map(tracing::field::display),
        )
    }

    /// The handler is done: answers and settles.
    pub(super) async fn finish(mut self, result: Result<Option<Reply>, Fault>) {
        let Some(settlement) = self.settlement.take() else { return };
        let fault = match result {
            Ok(reply) => {
                if self.wants_answer() {
                    self.answer(reply.unwrap_or_default());
                }
                settlement.ack();
                return;
            }
            Err(fault) => fault,
        };
        count(&self.core().counters.failed);
        let source = fault.source().map(tracing::field::display);
        tracing::warn!(code = fault.code(), source, "the handler failed: {fault}");
        if self.wants_answer() {
            self.answer_error(fault.shown());
            settlement.ack();
        } else {
            let reason = fault.shown().to_string();
            let publish = self.core().set_aside(self.message(), &self.queue, &reason);
            settle_set_aside(publish, settlement).await;
        }
    }

    /// Nobody handles it.
    pub(super) async fn unknown_operation(self) {
        count(&self.core().counters.unknown);
        let operation = self.message().operation();
        let text = if operation.is_empty() {
            "the message names no operation".to_owned()
        } else {
            format!("there is no operation {operation:?} here")
        };
        self.refuse(code::UNKNOWN_OPERATION, &text).await;
    }

    /// Answers an error, or sets the message aside.
    async fn refuse(mut self, code: &'static str, text: &str) {
        let Some(settlement) = self.settlement.take() else { return };
        if self.wants_answer() {
            self.answer_error(&RemoteError::new(code, text, false));
            settlement.ack();
        } else if self.is_group_cast() {
            // Whoever tells everybody something does not know what each of them handles.
            settlement.ack();
        } else {
            tracing::warn!(code, "set aside: {text}");
            let publish = self.core().set_aside(self.message(), &self.queue, text);
            settle_set_aside(publish, settlement).await;
        }
    }

    fn is_group_cast(&self) -> bool {
        self.cx.key().ends_with(".*")
    }

    /// Its time is over, or it is not for this queue: nobody is told.
    pub(super) fn forget(mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.ack();
        }
    }

    fn answer(&self, reply: Reply) {
        let limit = self.core().settings.max_body_bytes;
        if reply.body.len() > limit {
            let text = format!("a reply of {} bytes; the limit is {limit}", reply.body.len());
            self.answer_error(&RemoteError::new(code::TOO_LARGE, text, false));
            return;
        }
        self.reply(reply, None);
    }

    fn answer_error(&self, error: &RemoteError) {
        let reply = Reply { content_type: RemoteError::CONTENT_TYPE, body: error.to_body() };
        self.reply(reply, Some(error.code.as_str().into()));
    }

    /// Hands the reply over without waiting: also from `drop`.
    fn reply(&self, reply: Reply, error: Option<Text>) {
        let request = self.message();
        let Some(to) = request.reply_to() else { return };
        let core = self.core();
        let now = core.clock.now();
        let mut head = core.head(Kind::Reply, request.operation().clone(), now, None);
        head.id = Some(core.next_id(now));
        head.correlation = request.correlation().or(request.id()).cloned();
        head.deadline = request.deadline();
        head.content_type = reply.content_type;
        head.error = error;
        let message = head.message(reply.body);
        core.transport.send(Route::Reply(to), message).detach();
    }
}

/// Only what the broker has confirmed to be set aside may leave its queue.
async fn settle_set_aside(publish: Publish, settlement: Settlement) {
    match publish.await {
        Ok(()) => settlement.ack(),
        Err(error) => {
            tracing::error!(%error, "could not be set aside; it goes back to its queue");
            drop(settlement);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let Some(settlement) = self.settlement.take() else { return };
        let core = Arc::clone(self.core());
        if std::thread::panicking() {
            count(&core.counters.panicked);
            if self.wants_answer() {
                self.answer_error(&RemoteError::new(code::PANICKED, "the handler panicked", false));
                settlement.ack();
            } else {
                let publish = core.set_aside(self.message(), &self.queue, "the handler panicked");
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(settle_set_aside(publish, settlement));
                }
            }
            return;
        }
        core.note_unfinished(self.message());
        if self.wants_answer() {
            self.answer_error(&RemoteError::new(code::DROPPED, "the handler was cut off", false));
            settlement.ack();
        } else {
            settlement.requeue();
        }
    }
}
