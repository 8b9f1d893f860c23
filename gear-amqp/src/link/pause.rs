//! Growing pauses between tries.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The first pause is at most so long.
const FIRST: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(2);
/// What worked for less time than this has mended nothing.
const HEALTHY: Duration = Duration::from_secs(1);

/// Growing pauses between tries.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Self {
        Self(FIRST)
    }

    /// Up to 2 s, and never the same for two nodes: they would all come back at once.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX);
        let jitter = RandomState::new().hash_one(0u8) % 512;
        pause.mul_f64(0.5 + jitter as f64 / 1024.0)
    }

    /// It worked, for so long. Returns whether that was long enough for pauses to begin anew: a
    /// broker that takes connections and drops them at once is not to be tried without end.
    pub(crate) fn worked(&mut self, time: Duration) -> bool {
        let is_healthy = time > self.0.max(HEALTHY);
        if is_healthy {
            self.0 = FIRST;
        }
        is_healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_it_works_for_longer_than_they_last() {
        let mut pause = Pause::new();
        for expected in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            assert!(!pause.worked(Duration::from_millis(expected.min(900))));
            let next = pause.next();
            let longest = Duration::from_millis(expected);
            assert!(longest / 2 <= next && next <= longest, "{next:?} of {longest:?}");
        }
        assert!(!pause.worked(MAX));
        assert!(pause.worked(MAX + Duration::from_millis(1)));
        assert!(pause.next() <= FIRST);
    }
}
