//! An inbox in memory.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    BoxError, Inbox, InboxKey, Known, Reply,
    recent::{Limits, Recent},
};

/// Remembers in memory what was handled, for a while: the newest messages, up to a number, an age, and
/// an amount of answers.
///
/// It is of this process. What comes again to another instance, as a message of a shared queue may when a
/// connection is lost, is new there; and after a restart all is new. Where that is not enough, the instances
/// share an [`Inbox`] that lasts.
///
/// A copy mostly comes within seconds; after an outage of its sender, after as long as that took; from an
/// outbox, whenever that sends; of what was held back to be [tried again](crate::NodeBuilder::retries), up to
/// an hour later. There is to be room for as many messages as come in that time.
///
/// ```
/// use gear_api::Window;
/// use std::time::Duration;
///
/// let window = Window::new(1_000_000).age(Duration::from_secs(300)).bytes(16 * 1024 * 1024);
/// # drop(window);
/// ```
#[must_use]
pub struct Window(Mutex<Recent<InboxKey, Reply>>);

impl Window {
    /// A window of so many messages, two hours, and 64 MiB of answers.
    pub fn new(messages: usize) -> Self {
        Self(Mutex::new(Recent::new(Limits {
            count: messages,
            age: Duration::from_secs(2 * 60 * 60),
            bytes: 64 * 1024 * 1024,
        })))
    }

    /// How long a message is remembered after it was handled.
    pub fn age(mut self, age: Duration) -> Self {
        self.handled().limits().age = age;
        self
    }

    /// How many bytes of answers are kept at most, over all messages. A message whose answer alone has more is
    /// not remembered.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.handled().limits().bytes = bytes;
        self
    }

    fn handled(&mut self) -> &mut Recent<InboxKey, Reply> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 100,000 messages, two hours, and 64 MiB of answers.
impl Default for Window {
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl Inbox for Window {
    type Transaction = ();

    async fn begin(&self, key: &InboxKey) -> Result<Known<()>, BoxError> {
        let mut handled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(handled.get(key).cloned().map_or(Known::New(()), Known::Handled))
    }

    async fn commit(&self, key: &InboxKey, (): (), reply: &Reply) -> Result<(), BoxError> {
        // A body may be a small part of something large, which would be kept with it.
        let mut reply = reply.clone();
        reply.body = Bytes::copy_from_slice(&reply.body);
        let bytes = reply.body.len();
        let mut handled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handled.insert(key.clone(), reply, bytes);
        Ok(())
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = *self.0.lock().unwrap_or_else(PoisonError::into_inner).limits();
        f.debug_tuple("Window").field(&limits).finish()
    }
}
