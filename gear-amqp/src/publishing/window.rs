//! Which confirm belongs to which message, and when that is certain.
//!
//! lapin attaches a returned message to whichever confirm it handles next, not to the one that it
//! belongs to. What can be relied upon is the order in which lapin handles frames:
//!
//! - RabbitMQ returns an unroutable message before it acks it
//!   (<https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed>);
//! - lapin keeps returns in a queue, and each confirm that it handles takes the oldest, if any.
//!
//! So the returns that are not handed out yet are never more than the messages that were returned
//! and not confirmed yet. From that follows when a confirmed message is certain to have been
//! routed or returned. All confirms that are ready must have been drained, and then one of these
//! must hold:
//!
//! 1. its own confirm came without a return: the queue was empty then, so its return, which came
//!    before, had been handed out;
//! 2. a confirm that was handled after its own came without a return, for the same reason;
//! 3. every message before it is confirmed: an older return can not stand in front of its own.

use std::collections::VecDeque;

/// What the broker did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Confirmed,
    Returned,
    Refused,
}

/// The messages that are not confirmed yet, in the order in which they were sent.
#[derive(Debug)]
pub(crate) struct Window<M> {
    /// The number that the next message gets.
    next: u64,
    /// By their numbers. The first one's message is here; of those behind it some are gone, which
    /// are taken out when they are more than those that are left: a message that is not confirmed
    /// for long does not make them grow.
    slots: VecDeque<Slot<M>>,
    /// Messages in the slots.
    len: usize,
    /// Confirmed in earlier drains, and not certain yet.
    uncertain: Vec<u64>,
    /// Confirmed in this drain.
    fresh: Vec<Fresh>,
}

#[derive(Debug)]
struct Slot<M> {
    number: u64,
    /// Until it is certain what became of it.
    message: Option<M>,
    /// Whether it was acked (not nacked), once it is confirmed.
    confirmed: Option<bool>,
    returned: bool,
}

#[derive(Debug)]
struct Fresh {
    number: u64,
    /// Whether its confirm came without a return.
    alone: bool,
}

/// Slots whose messages are gone, beside as many as there are messages.
const EMPTY_SLOTS: usize = 64;

impl<M> Window<M> {
    pub(crate) fn new() -> Self {
        Self { next: 0, slots: VecDeque::new(), len: 0, uncertain: Vec::new(), fresh: Vec::new() }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    /// The one that was sent first of those that nothing is certain of.
    pub(crate) fn oldest(&self) -> Option<(u64, &M)> {
        self.slots.iter().find_map(|slot| Some((slot.number, slot.message.as_ref()?)))
    }

    pub(crate) fn push(&mut self, message: M) -> u64 {
        let number = self.next;
        self.next += 1;
        self.slots.push_back(Slot {
            number,
            message: Some(message),
            confirmed: None,
            returned: false,
        });
        self.len += 1;
        number
    }

    /// Where the slot of this number is.
    fn at(&self, number: u64) -> Option<usize> {
        let first = self.slots.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        // There it is, unless slots before it were taken out.
        if self.slots.get(at).is_some_and(|slot| slot.number == number) {
            return Some(at);
        }
        self.slots.binary_search_by_key(&number, |slot| slot.number).ok()
    }

    /// The slot of this number, if its message is there.
    fn slot(&mut self, number: u64) -> Option<&mut Slot<M>> {
        let at = self.at(number)?;
        self.slots.get_mut(at).filter(|slot| slot.message.is_some())
    }

    /// A confirm was drained, with the return that lapin attached to it.
    pub(crate) fn confirm(&mut self, number: u64, acked: bool, alone: bool) {
        if let Some(slot) = self.slot(number) {
            slot.confirmed = Some(acked);
            self.fresh.push(Fresh { number, alone });
        }
    }

    /// A return was drained: it belongs to the first message that `is_it`, and has none yet.
    pub(crate) fn returned(&mut self, is_it: impl Fn(&M) -> bool) {
        let is_it = |slot: &Slot<M>| !slot.returned && slot.message.as_ref().is_some_and(&is_it);
        let slot = self.slots.iter_mut().find(|slot| is_it(slot));
        if let Some(slot) = slot {
            slot.returned = true;
        }
    }

    /// All confirms that were ready have been drained: hands out what is certain now.
    pub(crate) fn settle(&mut self, mut certain: impl FnMut(M, Outcome)) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        // Those of earlier drains were handled before all of this one.
        let uncertain = std::mem::take(&mut self.uncertain);
        let emptied = fresh.iter().any(|fresh| fresh.alone);
        for number in uncertain {
            let is_returned = self.slot(number).is_some_and(|slot| slot.returned);
            if emptied || is_returned {
                self.decide(number, &mut certain);
            } else {
                self.uncertain.push(number);
            }
        }
        for Fresh { number, alone } in &fresh {
            let is_returned = self.slot(*number).is_some_and(|slot| slot.returned);
            if *alone || is_returned {
                self.decide(*number, &mut certain);
            } else {
                self.uncertain.push(*number);
            }
        }
        self.fresh = fresh;
        self.fresh.clear();
        // The front of the window: every message before it is confirmed.
        while let Some(front) = self.slots.front_mut() {
            if front.message.is_some() && front.confirmed.is_none() {
                break;
            }
            self.len -= usize::from(front.decide(&mut certain));
            self.slots.pop_front();
        }
        let first = self.slots.front().map_or(self.next, |slot| slot.number);
        self.uncertain.retain(|number| *number >= first);
        if self.slots.len() > 2 * self.len + EMPTY_SLOTS {
            self.slots.retain(|slot| slot.message.is_some());
        }
    }

    fn decide(&mut self, number: u64, certain: &mut impl FnMut(M, Outcome)) {
        if let Some(slot) = self.slot(number) {
            self.len -= usize::from(slot.decide(certain));
        }
    }

    /// Every message that nothing is certain of yet, in order, by their numbers.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut M)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.number, slot.message.as_mut()?)))
    }

    /// Takes every message that nothing is certain of, in order: the channel is gone.
    pub(crate) fn take(&mut self) -> Vec<M> {
        self.len = 0;
        self.uncertain.clear();
        self.fresh.clear();
        self.slots.drain(..).filter_map(|slot| slot.message).collect()
    }
}

impl<M> Slot<M> {
    /// Hands out what became of its message. Returns whether that was here.
    fn decide(&mut self, certain: &mut impl FnMut(M, Outcome)) -> bool {
        let Some(message) = self.message.take() else { return false };
        let outcome = match self.confirmed {
            _ if self.returned => Outcome::Returned,
            Some(true) => Outcome::Confirmed,
            _ => Outcome::Refused,
        };
        certain(message, outcome);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lapin as it was read: a queue of returns, of which each confirm takes the oldest.
    struct Lapin {
        waiting: VecDeque<u64>,
        ready: Vec<(u64, Option<u64>)>,
    }

    impl Lapin {
        fn confirm(&mut self, number: u64) {
            let attached = self.waiting.pop_front();
            self.ready.push((number, attached));
        }
    }

    /// A small generator, so that a failure is repeated by its seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn no_outcome_is_wrong_in_whatever_order_confirms_come() {
        for seed in 0..2_000 {
            run(seed);
        }
    }

    fn run(seed: u64) {
        const MESSAGES: u64 = 300;
        let mut random = Random(seed);
        let routable: Vec<bool> = (0..MESSAGES).map(|_| random.below(3) > 0).collect();
        let mut window = Window::new();
        let mut lapin = Lapin { waiting: VecDeque::new(), ready: Vec::new() };
        let mut unconfirmed: Vec<u64> = Vec::new();
        let mut decided = vec![None; MESSAGES as usize];
        let mut sent = 0;
        while decided.iter().any(Option::is_none) {
            match random.below(6) {
                0 | 1 if sent < MESSAGES => {
                    assert_eq!(window.push(sent), sent);
                    if !routable[sent as usize] {
                        lapin.waiting.push_back(sent); // the return comes before the ack
                    }
                    unconfirmed.push(sent);
                    sent += 1;
                }
                2 if !unconfirmed.is_empty() => {
                    let at = random.below(unconfirmed.len() as u64) as usize;
                    // In every other run the first one is confirmed when all others are.
                    if seed.is_multiple_of(2) || unconfirmed[at] != 0 || sent == MESSAGES {
                        lapin.confirm(unconfirmed.swap_remove(at));
                    }
                }
                3 if !unconfirmed.is_empty() && seed % 4 < 2 => {
                    // One confirm for all up to a number, in any order.
                    let at = random.below(unconfirmed.len() as u64) as usize;
                    let upto = unconfirmed[at];
                    let (now, later): (Vec<u64>, Vec<u64>) =
                        unconfirmed.iter().partition(|number| **number <= upto);
                    unconfirmed = later;
                    now.into_iter().for_each(|number| lapin.confirm(number));
                }
                4 => {
                    // Ready ones are drained in any order, but all of them.
                    while !lapin.ready.is_empty() {
                        let at = random.below(lapin.ready.len() as u64) as usize;
                        let (number, attached) = lapin.ready.swap_remove(at);
                        if let Some(returned) = attached {
                            window.returned(|message| *message == returned);
                        }
                        window.confirm(number, true, attached.is_none());
                    }
                    window.settle(|message, outcome| {
                        let expected = if routable[message as usize] {
                            Outcome::Confirmed
                        } else {
                            Outcome::Returned
                        };
                        assert_eq!(outcome, expected, "message {message}, seed {seed}");
                        let twice = decided[message as usize].replace(outcome);
                        assert_eq!(twice, None, "message {message}, seed {seed}");
                    });
                }
                _ => {}
            }
        }
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn one_that_is_slow_keeps_nobody_waiting() {
        let mut window = Window::new();
        let [slow, fast] = ["slow", "fast"].map(|message| window.push(message));
        window.confirm(fast, true, true);
        let mut out = Vec::new();
        window.settle(|message, outcome| out.push((message, outcome)));
        assert_eq!(out, [("fast", Outcome::Confirmed)]);
        window.confirm(slow, false, true);
        window.settle(|message, outcome| out.push((message, outcome)));
        assert_eq!(out[1], ("slow", Outcome::Refused));
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn one_that_is_never_confirmed_takes_no_more_room_with_time() {
        let mut window = Window::new();
        let never = window.push(u64::MAX);
        let (mut before, mut most) = (window.push(0), 0);
        for message in 1..100_000 {
            // Another one is always on its way, and each is told what became of itself.
            let number = window.push(message);
            window.confirm(before, true, true);
            window.settle(|out, outcome| {
                assert_eq!((out, outcome), (message - 1, Outcome::Confirmed));
            });
            most = most.max(window.slots.len());
            before = number;
        }
        assert_eq!(window.len(), 2);
        assert!(most < 100, "{most} slots for two messages");
        assert_eq!(window.oldest(), Some((never, &u64::MAX)));
        window.returned(|message| *message == u64::MAX);
        window.confirm(never, true, false);
        window.settle(|out, outcome| assert_eq!((out, outcome), (u64::MAX, Outcome::Returned)));
        assert_eq!(window.oldest(), Some((before, &99_999)));
    }

    #[test]
    fn what_is_left_comes_back_in_order() {
        let mut window = Window::new();
        let numbers: Vec<u64> = (0..4).map(|message| window.push(message)).collect();
        window.confirm(numbers[1], true, true);
        window.settle(|message, _| assert_eq!(message, 1));
        assert_eq!(window.take(), [0, 2, 3]);
        assert_eq!((window.len(), window.push(9)), (0, 4));
        // A confirm of an earlier channel is nobody's.
        window.confirm(numbers[3], true, true);
        window.settle(|_, _| panic!("nothing is certain"));
    }
}
