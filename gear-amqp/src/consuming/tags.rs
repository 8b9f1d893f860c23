//! Which deliveries of one channel are unsettled, and which acks are due: in as few as possible.

use std::collections::{BTreeMap, VecDeque};

/// What is known of one delivery tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Not seen yet: another consumer of the channel may have it.
    Unseen,
    /// With a handler.
    Out,
    /// Acked here, and not told to the broker.
    Acked,
    /// Nothing to tell the broker.
    Gone,
}

/// Tags in the order of the channel, and which acks are due. Knows nothing of lapin.
#[derive(Debug)]
pub(super) struct Tags {
    /// Number of the first in `tags`; AMQP counts from 1.
    base: u64,
    tags: VecDeque<Tag>,
    /// How many of `tags` are gone.
    gone: usize,
    /// Those before `base` that are not gone. One that is out for hours does not keep all later ones
    /// in `tags`.
    left: BTreeMap<u64, Tag>,
    /// Acked, not told, in the order of acking.
    pub(super) due: Vec<u64>,
}

/// So many of `tags` may be gone, beside as many as are not.
const GONE: usize = 64;

/// An ack for the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
}

impl Tags {
    pub(super) fn new() -> Self {
        let (tags, left) = (VecDeque::new(), BTreeMap::new());
        Self { base: 1, tags, gone: 0, left, due: Vec::new() }
    }

    /// Its place in `tags`. Those before them are in `left`, or gone.
    fn at(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.base)?).ok()
    }

    fn get(&self, tag: u64) -> Option<Tag> {
        match self.at(tag) {
            Some(at) => self.tags.get(at).copied(),
            None => self.left.get(&tag).copied(),
        }
    }

    fn set(&mut self, tag: u64, now: Tag) {
        if let Some(at) = self.at(tag) {
            if let Some(known) = self.tags.get_mut(at) {
                let before = std::mem::replace(known, now);
                self.gone += usize::from(now == Tag::Gone);
                self.gone -= usize::from(before == Tag::Gone);
            }
        } else if now == Tag::Gone {
            self.left.remove(&tag);
        } else if let Some(known) = self.left.get_mut(&tag) {
            *known = now;
        }
    }

    pub(super) fn seen(&mut self, tag: u64, as_what: Tag) {
        if let Some(at) = self.at(tag)
            && at >= self.tags.len()
        {
            self.tags.resize(at + 1, Tag::Unseen);
        }
        self.set(tag, as_what);
        if as_what == Tag::Gone {
            self.forget();
        }
    }

    /// Returns whether it was out: nothing is settled twice.
    pub(super) fn settle(&mut self, tag: u64, how: Tag) -> bool {
        let is_out = self.get(tag) == Some(Tag::Out);
        if is_out {
            self.set(tag, how);
            match how {
                Tag::Acked => self.due.push(tag),
                _ => self.forget(),
            }
        }
        is_out
    }

    /// What to tell the broker of the first `count` that are due: one ack for all at the front, and
    /// one for each that waits behind a delivery that is still out, or that is due later.
    pub(super) fn flush(&mut self, count: usize, out: &mut Vec<Ack>) {
        let now: Vec<u64> = self.due.drain(..count.min(self.due.len())).collect();
        for tag in &now {
            self.set(*tag, Tag::Gone);
        }
        self.forget();
        let first = self.left.first_key_value().map_or(self.base, |(tag, _)| *tag);
        let mut last = None;
        let mut several = 0;
        for tag in now {
            if tag < first {
                several += 1;
                last = last.max(Some(tag));
            } else {
                out.push(Ack { tag, multiple: false });
            }
        }
        // The broker must know the tag itself; those without an ack are none of its business.
        if let Some(tag) = last {
            out.push(Ack { tag, multiple: several > 1 });
        }
    }

    fn forget(&mut self) {
        while let Some(&front) = self.tags.front() {
            if front == Tag::Gone {
                self.gone -= 1;
            } else if self.gone > self.tags.len() - self.gone + GONE {
                self.left.insert(self.base, front);
            } else {
                break;
            }
            self.tags.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn flush(tags: &mut Tags) -> Vec<(u64, bool)> {
        let mut out = Vec::new();
        tags.flush(usize::MAX, &mut out);
        out.iter().map(|ack| (ack.tag, ack.multiple)).collect()
    }

    fn tags(count: u64) -> Tags {
        let mut tags = Tags::new();
        (1..=count).for_each(|tag| tags.seen(tag, Tag::Out));
        tags
    }

    #[test]
    fn those_in_front_are_one_ack() {
        let mut tags = tags(10);
        for tag in [3, 1, 2, 4] {
            assert!(tags.settle(tag, Tag::Acked));
        }
        assert_eq!(flush(&mut tags), [(4, true)]);
        assert_eq!(flush(&mut tags), []);
        assert!(tags.settle(5, Tag::Acked));
        assert_eq!(flush(&mut tags), [(5, false)]);
    }

    #[test]
    fn one_that_is_out_is_not_acked_by_its_neighbours() {
        let mut tags = tags(5);
        for tag in [1, 2, 4, 5] {
            tags.settle(tag, Tag::Acked);
        }
        assert_eq!(flush(&mut tags), [(4, false), (5, false), (2, true)]);
        tags.settle(3, Tag::Acked);
        assert_eq!(flush(&mut tags), [(3, false)]);
        assert!(tags.tags.is_empty());
    }

    #[test]
    fn one_that_is_due_later_is_not_acked_by_its_neighbours() {
        let mut tags = tags(4);
        for tag in [1, 3, 2, 4] {
            tags.settle(tag, Tag::Acked);
        }
        let mut out = Vec::new();
        tags.flush(2, &mut out);
        assert_eq!(out, [Ack { tag: 3, multiple: false }, Ack { tag: 1, multiple: false }]);
        assert_eq!(flush(&mut tags), [(4, true)]);
        assert!(tags.tags.is_empty());
    }

    #[test]
    fn an_ack_names_a_tag_that_the_broker_waits_for() {
        let mut tags = tags(2);
        tags.seen(3, Tag::Gone); // a reply, which needs no ack
        tags.seen(4, Tag::Out);
        tags.settle(1, Tag::Acked);
        tags.settle(2, Tag::Acked);
        tags.settle(4, Tag::Gone); // rejected
        assert_eq!(flush(&mut tags), [(2, true)]);
        assert_eq!(tags.base, 5);
    }

    #[test]
    fn one_that_was_not_seen_yet_is_nobodys_to_ack() {
        let mut tags = Tags::new();
        tags.seen(2, Tag::Out); // 1 is on its way to another consumer
        tags.settle(2, Tag::Acked);
        assert_eq!(flush(&mut tags), [(2, false)]);
        tags.seen(1, Tag::Out);
        tags.settle(1, Tag::Acked);
        assert_eq!(flush(&mut tags), [(1, false)]);
        assert_eq!(tags.base, 3);
    }

    #[test]
    fn nothing_is_settled_twice_or_unseen() {
        let mut tags = tags(1);
        assert!(tags.settle(1, Tag::Acked));
        assert!(!tags.settle(1, Tag::Acked));
        assert!(!tags.settle(2, Tag::Acked));
        assert!(!tags.settle(0, Tag::Acked));
        assert_eq!(flush(&mut tags), [(1, false)]);
        assert!(!tags.settle(1, Tag::Gone));
    }

    #[test]
    fn one_that_is_out_for_long_takes_no_more_room_with_time() {
        let mut tags = tags(1);
        let mut most = 0;
        for tag in 2..100_000 {
            tags.seen(tag, Tag::Out);
            assert!(tags.settle(tag, Tag::Acked));
            assert_eq!(flush(&mut tags), [(tag, false)]);
            most = most.max(tags.tags.len() + tags.left.len());
        }
        assert!(most < 100, "{most} tags for one that is out");
        assert!(tags.settle(1, Tag::Acked));
        tags.seen(100_000, Tag::Out);
        assert!(tags.settle(100_000, Tag::Acked));
        assert_eq!(flush(&mut tags), [(100_000, true)]);
    }

    #[test]
    fn the_broker_is_told_of_each_once_in_whatever_order_they_are_acked() {
        for seed in 0..200u64 {
            let mut random = seed;
            let mut below = |limit: usize| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) as usize % limit
            };
            let (mut tags, mut broker) = (Tags::new(), BTreeSet::new());
            let (mut unseen, mut out, mut due) = (Vec::new(), Vec::new(), BTreeSet::new());
            for tag in 1..=2_000 {
                broker.insert(tag);
                unseen.push(tag);
                // Some wait for long, each at its stage.
                while unseen.len() > below(20) {
                    let tag = unseen.swap_remove(below(unseen.len()));
                    tags.seen(tag, Tag::Out);
                    out.push(tag);
                }
                while out.len() > below(40) {
                    let tag = out.swap_remove(below(out.len()));
                    let how = if below(10) == 0 { Tag::Gone } else { Tag::Acked };
                    assert!(tags.settle(tag, how));
                    match how {
                        Tag::Acked => assert!(due.insert(tag)),
                        _ => assert!(broker.remove(&tag)), // given back
                    }
                }
                let mut acks = Vec::new();
                tags.flush(below(10), &mut acks);
                for Ack { tag, multiple } in acks {
                    assert!(broker.contains(&tag), "{tag} is known to the broker, seed {seed}");
                    let told = |other: &u64| *other == tag || (multiple && *other < tag);
                    broker.iter().filter(|tag| told(tag)).for_each(|tag| assert!(due.remove(tag)));
                    broker.retain(|tag| !told(tag));
                }
            }
            flush(&mut tags);
            assert!(tags.tags.len() + tags.left.len() < 300, "{tags:?}");
        }
    }
}
