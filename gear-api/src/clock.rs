//! Time as messages carry it, and the clock that a transport gives to its node.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// A point in time: milliseconds since 1970 (UTC), as deadlines are on the wire.
///
/// ```
/// use gear_api::Timestamp;
/// use std::time::Duration;
///
/// let start = Timestamp::from_unix_ms(1_000);
/// let end = start + Duration::from_secs(2);
/// assert_eq!(end.unix_ms(), 3_000);
/// assert_eq!(end.since(start), Duration::from_secs(2));
/// assert_eq!(start.since(end), Duration::ZERO);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point so many milliseconds after 1970.
    #[must_use]
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// The time from `earlier` until this point; zero if it is the later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        let ms = duration.as_secs().saturating_mul(1000);
        Self(self.0.saturating_add(ms).saturating_add(duration.subsec_millis().into()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(0) + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Where a node takes the time from: the system, or tokio's clock, which a test can
/// pause.
///
/// ```
/// use gear_api::{Clock, Timestamp};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let clock = Clock::virtual_from(Timestamp::from_unix_ms(0));
/// tokio::time::sleep(Duration::from_secs(3600)).await; // at once: the clock is paused
/// assert_eq!(clock.now().unix_ms(), 3_600_000);
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Virtual { origin: Instant, at_origin: Timestamp },
}

/// An instant so far off that nothing waits for it; adding more could overflow.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// `duration` after `instant`; what lies more than 30 years ahead counts as 30 years ahead, so
/// that `Duration::MAX` may mean "for ever".
pub(crate) fn after(instant: Instant, duration: Duration) -> Instant {
    instant + duration.min(FAR)
}

impl Clock {
    /// The system's clock, as every network backend uses it.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Tokio's clock, which now shows `start`.
    #[must_use]
    pub fn virtual_from(start: Timestamp) -> Self {
        Self(Source::Virtual { origin: Instant::now(), at_origin: start })
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.timestamp(Instant::now())
    }

    /// The time that it is, was or will be at `instant`.
    #[must_use]
    #[inline]
    pub fn timestamp(&self, instant: Instant) -> Timestamp {
        match self.0 {
            Source::System => {
                let now = Instant::now();
                let today = Timestamp::from(SystemTime::now());
                match instant.checked_duration_since(now) {
                    Some(ahead) => today + ahead,
                    None => Timestamp(today.0.saturating_sub((now - instant).as_millis() as u64)),
                }
            }
            Source::Virtual { origin, at_origin } => at_origin + instant.duration_since(origin),
        }
    }

    /// When `timestamp` comes, or came. What lies more than 30 years ahead counts as
    /// 30 years ahead.
    #[must_use]
    #[inline]
    pub fn instant(&self, timestamp: Timestamp) -> Instant {
        match self.0 {
            Source::System => {
                Instant::now() + timestamp.since(Timestamp::from(SystemTime::now())).min(FAR)
            }
            Source::Virtual { origin, at_origin } => {
                let furthest = Instant::now() + FAR;
                origin
                    .checked_add(timestamp.since(at_origin))
                    .map_or(furthest, |at| at.min(furthest))
            }
        }
    }
}
