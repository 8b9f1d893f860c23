//! An inbox in memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::HashMap;
use tokio::time::Instant;

use super::{BoxError, Inbox, InboxKey, Known, Reply};
use crate::clock::after;

/// Remembers in memory what was handled, for a while: the newest messages, up to a number, an age, and
/// an amount of answers.
///
/// It is of this process. What comes again to another instance, as a message of a shared queue may when a
/// connection is lost, is new there; and after a restart all is new. Where that is not enough, the instances
/// share an [`Inbox`] that lasts.
///
/// ```
/// use gear_api::Window;
/// use std::time::Duration;
///
/// let window = Window::new(100_000).age(Duration::from_secs(3600)).bytes(16 * 1024 * 1024);
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

#[derive(Debug, Default)]
struct Handled {
    replies: HashMap<InboxKey, Reply>,
    /// The oldest first.
    order: VecDeque<(Instant, InboxKey)>,
    /// Of the replies.
    bytes: usize,
}

impl Window {
    /// A window of so many messages, ten minutes, and 64 MiB of answers.
    pub fn new(messages: usize) -> Self {
        Self {
            messages,
            age: Duration::from_secs(10 * 60),
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
}

impl Handled {
    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front()
            && let Some(reply) = self.replies.remove(&key)
        {
            self.bytes -= reply.body.len();
        }
    }
}

/// 10,000 messages, for ten minutes.
impl Default for Window {
    fn default() -> Self {
        Self::new(10_000)
    }
}

impl Inbox for Window {
    type Transaction = ();

    async fn begin(&self, key: &InboxKey) -> Result<Known<()>, BoxError> {
        let reply = self.handled().replies.get(key).cloned();
        Ok(reply.map_or(Known::New(()), Known::Handled))
    }

    async fn commit(&self, key: &InboxKey, (): (), reply: &Reply) -> Result<(), BoxError> {
        if reply.body.len() > self.bytes {
            return Ok(()); // all others would be forgotten for it
        }
        let mut handled = self.handled();
        if let Some(before) = handled.replies.insert(key.clone(), reply.clone()) {
            handled.bytes -= before.body.len();
        } else {
            handled.order.push_back((Instant::now(), key.clone()));
        }
        handled.bytes += reply.body.len();
        drop(handled);
        drop(self.handled()); // what is too much now
        Ok(())
    }
}
