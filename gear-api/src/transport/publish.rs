//! The answer of the broker to one message, as a future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{sync::oneshot, task::coop};

use crate::Text;

/// Why a message did not arrive, or may not have.
///
/// [`may_have_arrived`](Self::may_have_arrived) tells the one from the other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Nobody is there: no queue is bound to this key.
    #[error("nobody is there: the broker has no queue for it")]
    NotRouted,
    /// The broker refused it (a nack: a queue is full, or failed). Where it was meant for
    /// several queues, others may have it.
    #[error("the broker refused it: {0}")]
    Refused(Text),
    /// It never left: the connection was down or the broker took no messages until its
    /// deadline.
    #[error("it was not sent: {0}")]
    NotSent(Text),
    /// It can never be sent as it is: a property is longer than the protocol allows, or what it answers
    /// names a queue that is not for replies.
    #[error("it can not be sent: {0}")]
    Invalid(Text),
    /// It left, and the broker's answer was lost.
    #[error("nobody knows whether it arrived: {0}")]
    Unknown(Text),
    /// The body is larger than the broker takes.
    #[error("a body of {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The largest that is taken, in bytes.
        limit: usize,
    },
    /// The backend does not do this; see [`Capabilities`](super::Capabilities).
    #[error("this backend has no {0}")]
    Unsupported(&'static str),
    /// The transport is closed.
    #[error("the connection is closed")]
    Closed,
}

impl PublishError {
    /// What to tell of a message that had left before, over a connection that was lost before the
    /// answer: that it did not arrive this time does not mean that nobody has it. For backends.
    #[must_use]
    pub fn of_another_try(self) -> Self {
        match self {
            Self::NotRouted | Self::Refused(_) | Self::NotSent(_) | Self::Invalid(_) => {
                Self::Unknown(
                    format!("its connection was lost, and when sent again: {self}").into(),
                )
            }
            other => other,
        }
    }

    /// Whether somebody may have got it all the same.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Refused(_))
    }
}

/// The broker's answer to one message: `Ok` when it is stored in every queue that it
/// was routed to.
///
/// The message is handed over already when this is made, unless the connection could
/// not take it ([`is_handed_over`](Self::is_handed_over)); then it waits in here.
///
/// # Cancel safety
///
/// Dropped before the hand-over, the message is not sent. Dropped after it, the message
/// is not unsent: only its answer is lost. [`detach`](Self::detach) gives up the answer
/// and keeps the message.
#[must_use = "the answer of the broker tells whether the message arrived"]
pub struct Publish(State);

/// What the broker says of one message.
type Answer = Result<(), PublishError>;

/// What becomes of a message that waits: it is handed over, and its answer comes later;
/// or it never will be.
pub type HandOver = Result<oneshot::Receiver<Answer>, PublishError>;

enum State {
    Confirmed,
    Failed(PublishError),
    HandedOver(oneshot::Receiver<Answer>),
    Waiting(oneshot::Receiver<HandOver>),
    Done,
}

impl Publish {
    /// The answer is known already. For backends.
    #[inline]
    pub fn ready(answer: Answer) -> Self {
        Self(match answer {
            Ok(()) => State::Confirmed,
            Err(error) => State::Failed(error),
        })
    }

    /// The message is handed over, its answer comes here. A sender that is dropped means
    /// [`PublishError::Unknown`]. For backends.
    pub fn handed_over(answer: oneshot::Receiver<Answer>) -> Self {
        Self(State::HandedOver(answer))
    }

    /// The message waits. For backends.
    ///
    /// **Requires** that the backend sends `Ok` right before it hands the message over, and
    /// does not hand it over if sending fails: then the message was withdrawn. So there is
    /// never a doubt whether it left. A sender that is dropped means
    /// [`PublishError::Closed`].
    pub fn waiting(hand_over: oneshot::Receiver<HandOver>) -> Self {
        Self(State::Waiting(hand_over))
    }

    /// Whether the message has left: dropping this then does not unsend it.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        !matches!(self.0, State::Waiting(_))
    }

    /// Whether it is known already that the message is stored wherever it was routed to.
    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(self.0, State::Confirmed)
    }

    /// Why it failed, if that is known already.
    pub(crate) fn failed(&self) -> Option<&PublishError> {
        match &self.0 {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Takes the message back if it has not left. Returns whether it was taken back.
    pub fn withdraw(&mut self) -> bool {
        let State::Waiting(hand_over) = &mut self.0 else { return false };
        hand_over.close();
        match hand_over.try_recv() {
            Ok(Ok(answer)) => {
                self.0 = State::HandedOver(answer);
                false
            }
            Ok(Err(_)) | Err(_) => {
                self.0 = State::Done;
                true
            }
        }
    }

    /// Lets the message go its way without anybody waiting for the answer.
    ///
    /// One that could not be handed over waits on in a task; outside of a tokio runtime
    /// it is dropped.
    pub fn detach(self) {
        if let State::Waiting(hand_over) = self.0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(hand_over);
        }
    }
}

impl Future for Publish {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = loop {
            match &mut self.0 {
                State::Confirmed | State::Failed(_) => {
                    // A broker that always answers at once must not let its publishers
                    // starve everybody else on the thread.
                    ready!(coop::poll_proceed(cx)).made_progress();
                    return Poll::Ready(match std::mem::replace(&mut self.0, State::Done) {
                        State::Failed(error) => Err(error),
                        _ => Ok(()),
                    });
                }
                State::HandedOver(answer) => {
                    let lost =
                        |_| Err(PublishError::Unknown(Text::from_static("its answer was lost")));
                    break ready!(Pin::new(answer).poll(cx)).unwrap_or_else(lost);
                }
                State::Waiting(hand_over) => match ready!(Pin::new(hand_over).poll(cx)) {
                    Ok(Ok(answer)) => self.0 = State::HandedOver(answer),
                    Ok(Err(error)) => break Err(error),
                    Err(_) => break Err(PublishError::Closed),
                },
                // A finished future that is polled again; a panic here could take a task
                // down that merely uses `select!` in a loop.
                State::Done => return Poll::Pending,
            }
        };
        self.0 = State::Done;
        Poll::Ready(answer)
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Confirmed => "Publish(confirmed)",
            State::Failed(_) => "Publish(failed)",
            State::HandedOver(_) => "Publish(handed over)",
            State::Waiting(_) => "Publish(waiting)",
            State::Done => "Publish(done)",
        })
    }
}
