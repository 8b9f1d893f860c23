//! An inbox in memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use foldhash::HashMap;
use tokio::time::Instant;

use super::{BoxError, Inbox, InboxKey, Known, Reply};
use crate::{RemoteError, clock::after};

/// Remembers in memory what was handled, for a while: the newest messages, up to a number, an age, and
/// an amount of answers.
///
/// It is of this process. What comes again to another instance, as a message of a shared queue may when a
/// connection is lost, is new there; and after a restart all is new. Where that is not enough, the instances
/// share an [`Inbox`] that lasts.
///
/// A copy comes some seconds after the first, three heartbeats at most, or after as long as it was held
/// back to be [tried again](crate::NodeBuilder::retries). So there is to be room for as many messages as come in
/// that time.
///
/// ```
/// use gear_api::Window;
/// use std::time::Duration;
///
/// let window = Window::new(1_000_000).age(Duration::from_secs(300)).bytes(16 * 1024 * 1024);
/// # drop(window);
/// ```
#[derive(Debug)]
#[must_use]
pub struct Window {
    messages: usize,
    age: Duration,
    bytes: usize,
    handled: Mutex<Handled>,
}

/// What was answered.
type Answer = Result<Reply, RemoteError>;

#[derive(Debug, Default)]
struct Handled {
    answers: HashMap<InboxKey, Answer>,
    /// The oldest first.
    order: VecDeque<(Instant, InboxKey)>,
    /// Of the answers.
    bytes: usize,
}

impl Window {
    /// A window of so many messages, two hours, and 64 MiB of answers.
    pub fn new(messages: usize) -> Self {
        Self {
            messages,
            age: Duration::from_secs(2 * 60 * 60),
            bytes: 64 * 1024 * 1024,
            handled: Mutex::default(),
        }
    }

    /// How long a message is remembered after it was handled.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }

    /// How many bytes of answers are kept at most, over all messages. A message whose answer alone has more is
    /// not remembered.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// What is still remembered.
    fn handled(&self) -> MutexGuard<'_, Handled> {
        let mut handled = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some((at, _)) = handled.order.front()
            && (after(*at, self.age) <= now
                || handled.order.len() > self.messages
                || handled.bytes > self.bytes)
        {
            handled.forget_oldest();
        }
        handled
    }

    fn remember(&self, key: &InboxKey, answer: Answer) {
        let bytes = bytes_of(&answer);
        if bytes > self.bytes {
            return; // all others would be forgotten for it
        }
        let mut handled = self.handled();
        match handled.answers.insert(key.clone(), answer) {
            Some(before) => handled.bytes -= bytes_of(&before),
            None => handled.order.push_back((Instant::now(), key.clone())),
        }
        handled.bytes += bytes;
        drop(handled);
        drop(self.handled()); // what is too much now
    }
}

impl Handled {
    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front()
            && let Some(answer) = self.answers.remove(&key)
        {
            self.bytes -= bytes_of(&answer);
        }
    }
}

fn bytes_of(answer: &Answer) -> usize {
    match answer {
        Ok(reply) => reply.body.len(),
        Err(error) => error.to_body().len(),
    }
}

/// 100,000 messages, for two hours.
impl Default for Window {
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl Inbox for Window {
    type Transaction = ();

    async fn begin(&self, key: &InboxKey) -> Result<Known<()>, BoxError> {
        Ok(match self.handled().answers.get(key) {
            None => Known::New(()),
            Some(Ok(reply)) => Known::Handled(reply.clone()),
            Some(Err(error)) => Known::Failed(error.clone()),
        })
    }

    async fn commit(&self, key: &InboxKey, (): (), reply: &Reply) -> Result<(), BoxError> {
        // A body may be a small part of something large, which would be kept with it.
        let mut reply = reply.clone();
        reply.body = Bytes::copy_from_slice(&reply.body);
        self.remember(key, Ok(reply));
        Ok(())
    }

    async fn abort(&self, key: &InboxKey, (): (), answer: Option<&RemoteError>) {
        if let Some(error) = answer {
            self.remember(key, Err(error.clone()));
        }
    }
}
