//! The time of one change of the broker, read from the clock only if somebody needs it:
//! for a message without a deadline nobody does.

use std::cell::OnceCell;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Now(OnceCell<Instant>);

impl Now {
    pub(crate) fn get(&self) -> Instant {
        *self.0.get_or_init(Instant::now)
    }
}
