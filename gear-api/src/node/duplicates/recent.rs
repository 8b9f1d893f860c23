//! What happened lately: bounded in number, age and size.

use std::{collections::VecDeque, hash::Hash, time::Duration};

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use crate::clock::after;

/// The newest values by their keys.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limits: Limits,
    values: HashMap<K, (V, usize)>,
    /// The oldest first.
    order: VecDeque<(Instant, K)>,
    bytes: usize,
}

/// What is kept, at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) count: usize,
    pub(super) age: Duration,
    pub(super) bytes: usize,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, values: HashMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.forget_old();
        self.values.get(key).map(|(value, _)| value)
    }

    /// Keeps a value of so many bytes. One that alone has more than all may have is not kept: all
    /// others would be forgotten for it.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.limits.bytes {
            return;
        }
        match self.values.insert(key.clone(), (value, bytes)) {
            Some((_, before)) => self.bytes -= before,
            None => self.order.push_back((Instant::now(), key)),
        }
        self.bytes += bytes;
        self.forget_old();
    }

    fn forget_old(&mut self) {
        let Limits { count, age, bytes } = self.limits;
        let now = Instant::now();
        while let Some((at, _)) = self.order.front()
            && (after(*at, age) <= now || self.order.len() > count || self.bytes > bytes)
        {
            if let Some((_, key)) = self.order.pop_front()
                && let Some((_, bytes)) = self.values.remove(&key)
            {
                self.bytes -= bytes;
            }
        }
    }
}
