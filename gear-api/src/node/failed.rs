//! What becomes of a cast or an event whose handler failed: it is tried again later, or set aside.

use std::{hash::BuildHasher, time::Duration};

use foldhash::fast::FixedState;

use crate::{
    HeaderValue, Message, Publish, Route, Text,
    client::Core,
    topology::{RETRY_STEPS, dead_letter, header, note_key},
};

/// How long to wait before a message is tried again, if it is: not if that has been done so often, nor
/// where it would be of no more use.
pub(super) fn delay(core: &Core, message: &Message, retries: u32) -> Option<Duration> {
    let attempt = message.attempt();
    if attempt >= retries || !core.transport.capabilities().delays {
        return None;
    }
    let last = RETRY_STEPS.len() - 1;
    let delay = RETRY_STEPS[usize::try_from(attempt).map_or(last, |attempt| attempt.min(last))];
    let too_late = message.deadline().is_some_and(|deadline| deadline <= core.clock.now() + delay);
    (!too_late).then_some(delay)
}

/// Has the broker hold a message back for a while, and then put it into `queue` again.
pub(super) fn hold_back(
    core: &Core,
    message: &Message,
    queue: &Text,
    key: &Text,
    delay: Duration,
) -> Publish {
    let mut again = message.to_builder().attempt(message.attempt().saturating_add(1));
    note_key(again.headers_mut(), queue, key);
    let jitter = jitter(message, delay);
    core.transport.send(Route::Delayed { delay, jitter, queue }, again.build())
}

/// Puts a message where the operator finds it, with the reason.
pub(super) fn set_aside(
    core: &Core,
    message: &Message,
    queue: &Text,
    key: &Text,
    reason: &str,
) -> Publish {
    let dead = dead_letter(message, queue, key, reason);
    core.transport.send(Route::Dead(core.instance.service()), dead)
}

/// The key that a message was sent under, which came to `queue` under its name: what was held back, or put
/// back by an operator. That may be another queue than it came from, which such a key is not for.
#[inline]
pub(super) fn sent_under(message: &Message, is_for_it: impl FnOnce(&str) -> bool) -> Option<Text> {
    if message.headers().is_empty() {
        return None;
    }
    match message.headers().get(header::KEY) {
        Some(HeaderValue::Text(key)) if is_for_it(key) => Some(key.clone()),
        _ => None,
    }
}

/// Up to a fifth of the delay, the same for the same message, so that a seed gives the same run.
fn jitter(message: &Message, delay: Duration) -> Duration {
    let hasher = FixedState::default();
    let hash = match message.id() {
        Some(id) => hasher.hash_one((id, message.attempt())),
        None => hasher.hash_one(message.body()),
    };
    // Of 1,024 equal parts of a fifth.
    delay / 5 * (hash >> 54) as u32 / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Id, Kind};

    #[test]
    fn jitter_is_spread_over_a_fifth_of_the_delay() {
        let delay = Duration::from_secs(1);
        let of = |n: u32| {
            let message = Message::builder(Kind::Cast, "x").id(Id::from(n.to_string().as_str()));
            jitter(&message.build(), delay)
        };
        let all: Vec<Duration> = (0..1000).map(of).collect();
        assert!(all.iter().all(|jitter| *jitter < delay / 5));
        for fifth in 0..5 {
            let part = delay / 25 * fifth..delay / 25 * (fifth + 1);
            let here = all.iter().filter(|jitter| part.contains(jitter)).count();
            assert!((150..250).contains(&here), "{here} of 1,000 in {part:?}");
        }
        assert_eq!(of(7), of(7));
    }
}
