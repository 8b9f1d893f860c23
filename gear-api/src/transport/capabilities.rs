//! What a backend promises, as data that a program or a test can look at.

/// What a backend promises.
///
/// What can be asked for and is not promised is refused with a typed error, `Unsupported`:
/// [`delays`](Self::delays), [`dead_letters`](Self::dead_letters), [`events`](Self::events) and
/// [`taps`](Self::taps). The other fields tell how things end. Without such a promise nothing
/// is refused, and nothing may be relied upon: without `mandatory`, a call to nobody ends at its
/// deadline.
///
/// ```
/// use gear_api::Capabilities;
///
/// let none = Capabilities::default();
/// assert!(!none.confirms && none.max_message_bytes == usize::MAX);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// A publish that succeeded is stored in every queue that it was routed to.
    pub confirms: bool,
    /// A message for an address where nobody is comes back as
    /// [`PublishError::NotRouted`](super::PublishError::NotRouted).
    pub mandatory: bool,
    /// Durable messages survive a restart of the broker.
    pub durable: bool,
    /// A message is dropped at its deadline, before anybody gets it.
    pub expiry: bool,
    /// Messages can be held back: [`Route::Delayed`](super::Route::Delayed).
    pub delays: bool,
    /// Messages can be set aside, looked at and put back: [`Route::Dead`](super::Route::Dead),
    /// [`Subscription::Dead`](super::Subscription::Dead), [`Route::Queue`](super::Route::Queue).
    pub dead_letters: bool,
    /// Events, groups and patterns.
    pub events: bool,
    /// Taps.
    pub taps: bool,
    /// A second node under an instance name in use is refused.
    pub exclusive_instances: bool,
    /// Time is tokio's: with a paused clock, timeouts and expiry happen at once.
    pub virtual_time: bool,
    /// The largest body that the broker takes, in bytes.
    pub max_message_bytes: usize,
}

impl Default for Capabilities {
    /// No promise at all.
    fn default() -> Self {
        Self {
            confirms: false,
            mandatory: false,
            durable: false,
            expiry: false,
            delays: false,
            dead_letters: false,
            events: false,
            taps: false,
            exclusive_instances: false,
            virtual_time: false,
            max_message_bytes: usize::MAX,
        }
    }
}
