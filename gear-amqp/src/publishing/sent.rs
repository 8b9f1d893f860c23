//! What has left, and of which the broker has said nothing yet.

use gear_api::PublishError;
use lapin::Confirmation;
use tokio::time::Instant;

use super::{
    outgoing::Outgoing,
    window::{Outcome, Window},
};
use crate::wire::Names;

pub(super) struct Sent {
    window: Window<Outgoing>,
    awaited: Load,
    /// Only kept to tell their confirms from others: they expired.
    abandoned: Load,
}

/// So many messages, with so many bytes in their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

impl Sent {
    pub(super) fn new() -> Self {
        Self { window: Window::new(), awaited: Load::default(), abandoned: Load::default() }
    }

    /// Those that somebody waits for, or that are not written yet.
    pub(super) fn awaited(&self) -> Load {
        self.awaited
    }

    pub(super) fn abandoned(&self) -> Load {
        self.abandoned
    }

    /// The number and the size of the oldest.
    pub(super) fn oldest(&self) -> Option<(u64, usize)> {
        self.window.oldest().map(|(number, outgoing)| (number, outgoing.size))
    }

    /// Returns its number.
    pub(super) fn push(&mut self, outgoing: Outgoing) -> u64 {
        self.awaited.add(outgoing.size);
        let mandatory = outgoing.target.mandatory;
        self.window.push(outgoing, mandatory)
    }

    /// A confirm was drained.
    pub(super) fn confirm(&mut self, number: u64, confirmation: Confirmation, names: &Names) {
        let is_ack = confirmation.is_ack();
        let with = confirmation
            .take_message()
            .map(|returned| self.window.returned(|outgoing| outgoing.is(&returned, names)));
        self.window.confirm(number, is_ack, with);
    }

    /// All confirms that were ready have been drained: tells what is certain of them. Returns
    /// whether anything is, and those to be held back for which there is no queue any more, once each.
    pub(super) fn settle(&mut self) -> (bool, Vec<Outgoing>) {
        let Self { window, awaited, abandoned } = self;
        let (mut any, mut again) = (false, Vec::new());
        window.settle(|mut outgoing, outcome| {
            any = true;
            if outgoing.abandoned { &mut *abandoned } else { &mut *awaited }.take(outgoing.size);
            let was_declared = outgoing.target.delay.is_some() && !outgoing.declared_again;
            if outcome == Outcome::Returned && was_declared && !outgoing.abandoned {
                outgoing.declared_again = true;
                return again.push(outgoing);
            }
            outgoing.answer(match outcome {
                Outcome::Confirmed => Ok(()),
                Outcome::Returned => Err(outgoing.again(PublishError::NotRouted)),
                Outcome::Refused => {
                    Err(outgoing.again(PublishError::Refused("the broker nacked it".into())))
                }
            });
        });
        (any, again)
    }

    /// Tells those whose deadline has passed. They stay until the broker answers, and count as
    /// awaited until they are written, which those before `unwritten` are. Returns whether that
    /// makes room for others.
    pub(super) fn expire(&mut self, now: Instant, unwritten: u64) -> bool {
        let before = self.abandoned;
        for (number, outgoing) in self.window.iter_mut() {
            if outgoing.is_late(now) {
                outgoing.give_up("it was not confirmed before its deadline");
            }
            if outgoing.is_answered() && !outgoing.abandoned && number < unwritten {
                outgoing.abandon();
                self.awaited.take(outgoing.size);
                self.abandoned.add(outgoing.size);
            }
        }
        self.abandoned != before
    }

    /// Takes all, in order: the channel is gone.
    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        self.awaited = Load::default();
        self.abandoned = Load::default();
        self.window.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expired_is_in_nobodys_way_once_it_is_written() {
        let mut sent = Sent::new();
        let now = Instant::now();
        let late: Vec<u64> = (0..2).map(|_| sent.push(Outgoing::of_test(10, Some(now)))).collect();
        sent.push(Outgoing::of_test(5, None));
        assert_eq!(sent.awaited(), Load { messages: 3, bytes: 25 });
        assert!(sent.expire(now, late[1]), "the first makes room");
        assert_eq!(sent.awaited(), Load { messages: 2, bytes: 15 });
        assert!(!sent.expire(now, late[1]), "no more, and not twice");
        assert!(sent.expire(now, u64::MAX));
        assert_eq!(sent.abandoned(), Load { messages: 2, bytes: 20 });
        assert_eq!(sent.oldest(), Some((late[0], 10)), "it is still on a slow link, perhaps");
        assert_eq!(sent.take().len(), 3);
        assert_eq!((sent.awaited(), sent.abandoned()), (Load::default(), Load::default()));
    }
}
