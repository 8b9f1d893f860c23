//! Names that no other test uses, in this process or another.

use std::{
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A system name of its own for a test: `t` and hex digits.
///
/// Gear can put a system name before all its exchanges and queues. That isolates tests on one
/// broker and costs nothing, where a [`Vhost`](crate::Vhost) costs some 50 ms.
#[must_use]
pub fn unique_system() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    format!("t{:x}x{count:x}x{:x}", process::id(), now & 0xffff_ffff_ffff)
}
