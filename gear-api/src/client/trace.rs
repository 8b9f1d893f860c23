//! The sender's side in the log: one span for each thing that is sent, from when it is sent until
//! its outcome is known. Costs a look at a static where nobody listens.

use tracing::Span;

use crate::Id;

/// A span that is told its outcome, once: one that is dropped before was given up.
#[derive(Debug)]
pub(super) struct Trace(Span);

/// Names that OpenTelemetry has for messaging are used where it has one.
macro_rules! span {
    ($name:literal, $kind:literal, $operation:expr, $to:expr, $id:expr) => {
        tracing::info_span!(
            $name,
            operation = %$operation,
            "otel.kind" = $kind,
            "messaging.destination.name" = %$to,
            "messaging.message.id" = $id.map(tracing::field::display),
            outcome = tracing::field::Empty,
            "error.type" = tracing::field::Empty,
            answers = tracing::field::Empty,
        )
    };
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Call,
    /// A call whose answer goes elsewhere.
    Request,
    Gather,
    Cast,
    Event,
    /// What answers a request that was put off.
    Answer,
}

impl Trace {
    pub(super) fn new(
        sent: Sent,
        operation: &str,
        to: &dyn std::fmt::Display,
        id: Option<&Id>,
    ) -> Self {
        Self(match sent {
            Sent::Call => span!("gear.call", "client", operation, to, id),
            Sent::Request => span!("gear.request", "producer", operation, to, id),
            Sent::Gather => span!("gear.gather", "client", operation, to, id),
            Sent::Cast => span!("gear.cast", "producer", operation, to, id),
            Sent::Answer => span!("gear.answer", "producer", operation, to, id),
            Sent::Event => span!("gear.publish", "producer", operation, to, id),
        })
    }

    /// Of nothing that is sent.
    pub(super) fn none() -> Self {
        Self(Span::none())
    }

    pub(super) fn ok(&mut self) {
        self.end("ok");
    }

    /// It ended with this error, in a word.
    pub(super) fn failed(&mut self, error: &str) {
        self.0.record("error.type", error);
        self.end("error");
    }

    /// A gather came to its end.
    pub(super) fn gathered(&mut self, answers: usize, complete: bool) {
        self.0.record("answers", answers);
        self.end(if complete { "ok" } else { "incomplete" });
    }

    /// Nobody waits for the outcome.
    pub(super) fn detached(&mut self) {
        self.end("detached");
    }

    fn end(&mut self, outcome: &str) {
        // Whatever comes after it is no outcome.
        std::mem::replace(&mut self.0, Span::none()).record("outcome", outcome);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.0.record("outcome", "given-up");
    }
}
