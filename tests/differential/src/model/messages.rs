//! Where messages go, and what becomes of them.

use super::{Entry, Held, MAX_LOST, Model, Of, Queue, service_of};
use crate::{
    op::{Manner, Seat, Target, Verdict},
    selects::selects,
};

impl Model {
    /// The queues that a message is for.
    fn route(&self, to: &Target) -> Vec<String> {
        let is_for = |name: &str, queue: &Queue| match (to, &queue.of) {
            (Target::Address(to), Of::Tap(pattern)) => selects(pattern, to),
            (Target::Address(to), Of::Service) => to == name,
            (Target::Address(to), Of::Instance) => {
                let service = name.split('.').next().unwrap_or_default();
                to == name || *to == format!("{service}.*") || to == "*.*"
            }
            (Target::Event(topic), Of::Events(patterns)) => {
                patterns.iter().any(|pattern| selects(pattern, topic))
            }
            (Target::Event(topic), Of::Watch(pattern)) => selects(pattern, topic),
            (Target::Reply(service), Of::Service) => service == name,
            (Target::Answer(node), Of::Replies(of)) => {
                node == of && self.replies.get(node).is_some_and(|last| last == name)
            }
            (Target::Dead(service), Of::Dead) => *name == format!("{service}:dead"),
            (Target::Later(queue), _) => queue == name,
            _ => false,
        };
        let routed = self.queues.iter().filter(|(name, queue)| is_for(name, queue));
        routed.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn publish(&mut self, to: &Target, count: u32, manner: Manner) -> Option<()> {
        let key = match to {
            Target::Address(key) | Target::Event(key) | Target::Reply(key) => key.clone(),
            Target::Dead(key) | Target::Later(key) => key.clone(),
            Target::Answer(node) => self.replies.get(node)?.clone(), // it never had one
        };
        for number in self.sent + 1..=self.sent + count {
            self.sent = number;
            let queues = self.route(to);
            // Events may reach nobody, and delayed messages are where they wait.
            let is_heard = !queues.is_empty() || matches!(to, Target::Event(_) | Target::Later(_));
            self.effect.published.push((number, is_heard));
            for name in queues {
                let entry = Entry {
                    number,
                    key: key.clone(),
                    position: 0,
                    redelivered: false,
                    recovered: false,
                    manner,
                    expired: false,
                    lost: 0,
                };
                self.enter(&name, entry);
            }
        }
        if manner == Manner::Mortal {
            self.pass_time();
        }
        Some(())
    }

    fn enter(&mut self, name: &str, mut entry: Entry) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.entered += 1;
        entry.position = queue.entered;
        queue.waiting.push_back(entry);
        self.dispatch(name);
    }

    /// Every deadline has passed.
    fn pass_time(&mut self) {
        let waiting = self.queues.values_mut().flat_map(|queue| &mut queue.waiting);
        let held = self.held.values_mut().flatten().map(|held| &mut held.entry);
        for entry in waiting.chain(held) {
            entry.expired = entry.manner == Manner::Mortal;
        }
        let names: Vec<String> = self.queues.keys().cloned().collect();
        names.iter().for_each(|name| self.dispatch(name));
    }

    pub(super) fn settle(&mut self, seat: Seat, nth: usize, verdict: Verdict) -> Option<()> {
        let hands = self.held.get_mut(&seat).filter(|hands| nth < hands.len())?;
        let Held { by, mut entry } = hands.remove(nth);
        let consumer = self.consumers.get_mut(&by)?;
        let name = consumer.queue.clone();
        let queue = self.queues.get_mut(&name);
        let Some(queue) = queue.filter(|queue| queue.incarnation == consumer.incarnation) else {
            return Some(()); // of a queue that is gone
        };
        if std::mem::take(&mut consumer.blocked) && !consumer.stopped {
            queue.turns.push_back(by);
        }
        match verdict {
            Verdict::Ack | Verdict::Reject => {}
            Verdict::Requeue => queue.give_back(entry),
            Verdict::Drop => {
                entry.lost += 1;
                if entry.lost < MAX_LOST {
                    queue.give_back(entry);
                } else {
                    let service = service_of(seat.node);
                    let dead = Entry { key: service.to_owned(), redelivered: false, ..entry };
                    self.enter(&format!("{service}:dead"), dead);
                }
            }
        }
        self.dispatch(&name);
        Some(())
    }
}
