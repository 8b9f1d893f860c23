//! The time of one change of the broker, read from the clock only if somebody needs it:
//! for a message without a deadline nobody does.

use std::{cell::OnceCell, time::Duration};

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Now(OnceCell<Instant>);

/// So far ahead that nothing waits for it; adding more could overflow.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

impl Now {
    /// The time after so long; 30 years stand for all that is longer.
    pub(crate) fn after(&self, duration: Duration) -> Instant {
        self.get() + duration.min(FAR)
    }

    pub(crate) fn get(&self) -> Instant {
        *self.0.get_or_init(Instant::now)
    }
}
