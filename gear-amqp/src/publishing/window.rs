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
//! and not confirmed yet. What is not mandatory is never returned, and what is nacked was routed. When
//! any other confirmed message is certain to have been routed or returned follows from the above. All
//! confirms that are ready must have been drained, and then one of these must hold:
//!
//! 1. its own confirm came without a return: the queue was empty then, so its return, which came
//!    before, had been handed out;
//! 2. a confirm that was handled after its own came without a return, for the same reason. That is
//!    so of those that were drained later; of those of the same drain, of which the order is not
//!    known, if the return that came with its own confirm belongs to that message: it was not
//!    handed out before, and was when the queue was empty. And if it belongs to a message of
//!    which that is so, for the same reason;
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
    /// Whether it is returned if nobody is there for it.
    mandatory: bool,
    /// Whether it was acked (not nacked), once it is confirmed.
    confirmed: Option<bool>,
    returned: bool,
    /// The message with whose confirm its return came.
    carrier: Option<u64>,
}

/// A return that was drained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Return {
    /// The number of the message that it belongs to, if that is here.
    of: Option<u64>,
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

    pub(crate) fn push(&mut self, message: M, mandatory: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.slots.push_back(Slot {
            number,
            message: Some(message),
            mandatory,
            confirmed: None,
            returned: false,
            carrier: None,
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

    /// A confirm was drained, with the return that lapin attached to it, if any.
    pub(crate) fn confirm(&mut self, number: u64, acked: bool, with: Option<Return>) {
        let Some(slot) = self.slot(number) else { return };
        slot.confirmed = Some(acked);
        self.fresh.push(Fresh { number, alone: with.is_none() });
        if let Some(slot) = with.and_then(|with| self.slot(with.of?)) {
            slot.carrier = Some(number);
        }
    }

    /// A return was drained: it belongs to the first message that `is_it`, and has none yet.
    pub(crate) fn returned(&mut self, is_it: impl Fn(&M) -> bool) -> Return {
        let is_it = |slot: &Slot<M>| !slot.returned && slot.message.as_ref().is_some_and(&is_it);
        let slot = self.slots.iter_mut().find(|slot| is_it(slot));
        let of = slot.map(|slot| {
            slot.returned = true;
            slot.number
        });
        Return { of }
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
            if *alone {
                let mut before = Some(*number);
                while let Some(number) = before {
                    before = self.decide(number, &mut certain);
                }
            } else if self.slot(*number).is_some_and(|slot| slot.is_sure()) {
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
        let mut uncertain = std::mem::take(&mut self.uncertain);
        uncertain.retain(|number| self.slot(*number).is_some());
        self.uncertain = uncertain;
        if self.slots.len() > 2 * self.len + EMPTY_SLOTS {
            self.slots.retain(|slot| slot.message.is_some());
        }
    }

    /// Returns the message with whose confirm its return came.
    fn decide(&mut self, number: u64, certain: &mut impl FnMut(M, Outcome)) -> Option<u64> {
        let at = self.at(number)?;
        let slot = self.slots.get_mut(at)?;
        self.len -= usize::from(slot.decide(certain));
        slot.carrier
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
    /// Whether no return can change what is known of it.
    fn is_sure(&self) -> bool {
        self.returned || !self.mandatory || self.confirmed == Some(false)
    }

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
        let outcomes: Vec<Outcome> = (0..MESSAGES)
            .map(|_| match random.below(12) {
                0..4 => Outcome::Returned,
                4 => Outcome::Refused,
                _ => Outcome::Confirmed,
            })
            .collect();
        let mut window = Window::new();
        let mut lapin = Lapin { waiting: VecDeque::new(), ready: Vec::new() };
        let mut unconfirmed: Vec<u64> = Vec::new();
        let mut decided = vec![None; MESSAGES as usize];
        let mut sent = 0;
        while decided.iter().any(Option::is_none) {
            match random.below(6) {
                0 | 1 if sent < MESSAGES => {
                    let is_returned = outcomes[sent as usize] == Outcome::Returned;
                    assert_eq!(window.push(sent, is_returned || random.below(4) > 0), sent);
                    if is_returned {
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
                        let is_it = |returned| move |message: &u64| *message == returned;
                        let with = attached.map(|returned| window.returned(is_it(returned)));
                        let acked = outcomes[number as usize] != Outcome::Refused;
                        window.confirm(number, acked, with);
                    }
                    window.settle(|message, outcome| {
                        let expected = outcomes[message as usize];
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
        let [slow, fast] = ["slow", "fast"].map(|message| window.push(message, true));
        window.confirm(fast, true, None);
        let mut out = Vec::new();
        window.settle(|message, outcome| out.push((message, outcome)));
        assert_eq!(out, [("fast", Outcome::Confirmed)]);
        window.confirm(slow, false, None);
        window.settle(|message, outcome| out.push((message, outcome)));
        assert_eq!(out[1], ("slow", Outcome::Refused));
        assert_eq!(window.len(), 0);
    }

    fn settle<M>(window: &mut Window<M>) -> Vec<(M, Outcome)> {
        let mut out = Vec::new();
        window.settle(|message, outcome| out.push((message, outcome)));
        out
    }

    /// Each return comes with the confirm of another message, and the last confirm alone.
    #[test]
    fn who_got_the_returns_of_others_waits_for_nobody_once_those_are_confirmed() {
        let mut window = Window::new();
        let _slow = window.push("slow", true);
        let [routed, one, two] = ["routed", "one", "two"].map(|name| window.push(name, true));
        let with = window.returned(|message| *message == "one");
        window.confirm(routed, true, Some(with));
        let with = window.returned(|message| *message == "two");
        window.confirm(one, true, Some(with));
        window.confirm(two, true, None);
        let mut out = settle(&mut window);
        out.sort_by_key(|(message, _)| *message);
        let returned = Outcome::Returned;
        assert_eq!(out, [("one", returned), ("routed", Outcome::Confirmed), ("two", returned)]);
        assert_eq!((window.len(), window.uncertain.len()), (1, 0));
    }

    #[test]
    fn who_got_a_return_waits_while_it_may_have_one_itself() {
        let mut window = Window::new();
        let _slow = window.push("slow", true);
        let [one, two, three] = ["one", "two", "three"].map(|name| window.push(name, true));
        // They were handled in any order: the return of the first may be there still.
        window.confirm(three, true, None);
        let with = window.returned(|message| *message == "two");
        window.confirm(one, true, Some(with));
        assert_eq!(settle(&mut window), [("three", Outcome::Confirmed)]);
        let with = window.returned(|message| *message == "one");
        window.confirm(two, true, Some(with));
        let returned = Outcome::Returned;
        assert_eq!(settle(&mut window), [("one", returned), ("two", returned)]);
    }

    #[test]
    fn what_can_not_be_returned_waits_for_no_return() {
        let mut window = Window::new();
        let _slow = window.push("slow", true);
        let (event, full) = (window.push("event", false), window.push("full", true));
        let _unconfirmed = ["one", "two"].map(|name| window.push(name, true));
        let with = window.returned(|message| *message == "one");
        window.confirm(event, true, Some(with));
        let with = window.returned(|message| *message == "two");
        window.confirm(full, false, Some(with));
        let expected = [("event", Outcome::Confirmed), ("full", Outcome::Refused)];
        assert_eq!(settle(&mut window), expected);
    }

    #[test]
    fn one_that_is_never_confirmed_takes_no_more_room_with_time() {
        let mut window = Window::new();
        let never = window.push(u64::MAX, true);
        let (mut before, mut most) = (window.push(0, true), 0);
        for message in 1..100_000 {
            // Another one is always on its way, and each is told what became of itself.
            let number = window.push(message, true);
            window.confirm(before, true, None);
            window.settle(|out, outcome| {
                assert_eq!((out, outcome), (message - 1, Outcome::Confirmed));
            });
            most = most.max(window.slots.len());
            before = number;
        }
        assert_eq!(window.len(), 2);
        assert!(most < 100, "{most} slots for two messages");
        assert_eq!(window.oldest(), Some((never, &u64::MAX)));
        let with = window.returned(|message| *message == u64::MAX);
        window.confirm(never, true, Some(with));
        window.settle(|out, outcome| assert_eq!((out, outcome), (u64::MAX, Outcome::Returned)));
        assert_eq!(window.oldest(), Some((before, &99_999)));
    }

    #[test]
    fn what_is_left_comes_back_in_order() {
        let mut window = Window::new();
        let numbers: Vec<u64> = (0..4).map(|message| window.push(message, true)).collect();
        window.confirm(numbers[1], true, None);
        window.settle(|message, _| assert_eq!(message, 1));
        assert_eq!(window.take(), [0, 2, 3]);
        assert_eq!((window.len(), window.push(9, true)), (0, 4));
        // A confirm of an earlier channel is nobody's.
        window.confirm(numbers[3], true, None);
        window.settle(|_, _| panic!("nothing is certain"));
    }
}
