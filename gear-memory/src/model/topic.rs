//! The bindings of a topic exchange: a tree of words, so that the cost of a match
//! depends on the key and on what matches it, not on how many bindings there are.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};

/// Patterns with what they lead to.
#[derive(Debug)]
pub(crate) struct TopicTable<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    words: HashMap<Box<str>, Node<T>>,
    star: Option<Box<Node<T>>>,
    hash: Option<Box<Node<T>>>,
    ends: BTreeSet<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { words: HashMap::new(), star: None, hash: None, ends: BTreeSet::new() }
    }
}

impl<T> Default for TopicTable<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T: Ord + Copy> TopicTable<T> {
    /// Adds a binding; one that is there already changes nothing.
    pub(crate) fn insert(&mut self, pattern: &str, end: T) {
        let mut node = &mut self.root;
        let mut rest = words(pattern);
        while let Some(text) = rest {
            let (word, tail) = split(text);
            node = match word {
                "*" => node.star.get_or_insert_default(),
                "#" => node.hash.get_or_insert_default(),
                word => node.words.entry(word.into()).or_default(),
            };
            rest = tail;
        }
        node.ends.insert(end);
    }

    /// Removes a binding, and the branches that lead nowhere without it.
    pub(crate) fn remove(&mut self, pattern: &str, end: T) {
        self.root.remove(words(pattern), end);
    }

    /// Adds to `found` whatever `key` leads to. The same end may be added several times,
    /// where several of its patterns match.
    pub(crate) fn find(&self, key: &str, found: &mut Vec<T>) {
        self.root.find(words(key), found);
    }
}

impl<T: Ord + Copy> Node<T> {
    fn remove(&mut self, rest: Option<&str>, end: T) {
        let Some(text) = rest else {
            self.ends.remove(&end);
            return;
        };
        match split(text) {
            ("*", tail) => Self::remove_below(&mut self.star, tail, end),
            ("#", tail) => Self::remove_below(&mut self.hash, tail, end),
            (word, tail) => {
                if let Some(child) = self.words.get_mut(word) {
                    child.remove(tail, end);
                    if child.is_empty() {
                        self.words.remove(word);
                    }
                }
            }
        }
    }

    fn remove_below(slot: &mut Option<Box<Self>>, tail: Option<&str>, end: T) {
        if let Some(child) = slot {
            child.remove(tail, end);
            if child.is_empty() {
                *slot = None;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }

    fn find(&self, rest: Option<&str>, found: &mut Vec<T>) {
        match rest {
            None => found.extend(&self.ends),
            Some(text) => {
                let (word, tail) = split(text);
                if let Some(child) = self.words.get(word) {
                    child.find(tail, found);
                }
                if let Some(child) = &self.star {
                    child.find(tail, found);
                }
            }
        }
        if let Some(child) = &self.hash {
            // `#` takes no word, one, two, … up to all of them.
            let mut rest = rest;
            loop {
                child.find(rest, found);
                let Some(text) = rest else { break };
                rest = split(text).1;
            }
        }
    }
}

/// The empty key has no words.
fn words(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oracle(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => oracle(rest, key),
            (Some((&"#", rest)), Some((_, tail))) => oracle(rest, key) || oracle(pattern, tail),
            (Some((&"*", rest)), Some((_, tail))) => oracle(rest, tail),
            (Some((word, rest)), Some((other, tail))) => word == other && oracle(rest, tail),
            _ => false,
        }
    }

    fn split_all(text: &str) -> Vec<&str> {
        if text.is_empty() { Vec::new() } else { text.split('.').collect() }
    }

    const WORDS: &str = "([ab*#]|aa|)(\\.([ab*#]|aa|)){0,5}";

    /// A million cases with `GEAR_TEST_LONG=1`: each is a table of up to 20 patterns, one
    /// of which may be removed again, and 10 keys.
    fn cases() -> u32 {
        if std::env::var_os("GEAR_TEST_LONG").is_some() { 100_000 } else { 500 }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

        #[test]
        fn a_table_finds_what_the_definition_finds(
            patterns in prop::collection::vec(WORDS, 1..20),
            keys in prop::collection::vec(WORDS, 10),
            removed in 0usize..40,
        ) {
            let mut table = TopicTable::default();
            for (n, pattern) in patterns.iter().enumerate() {
                table.insert(pattern, n);
            }
            if let Some(pattern) = patterns.get(removed) {
                table.remove(pattern, removed);
            }
            for key in &keys {
                let mut found = Vec::new();
                table.find(key, &mut found);
                let found: BTreeSet<usize> = found.into_iter().collect();
                let expected: BTreeSet<usize> = (0..patterns.len())
                    .filter(|&n| n != removed && oracle(&split_all(&patterns[n]), &split_all(key)))
                    .collect();
                prop_assert_eq!(&found, &expected, "key {:?}, patterns {:?}", key, patterns);
            }
        }
    }

    #[test]
    fn removing_every_binding_leaves_an_empty_tree() {
        let patterns = ["", "#", "a.*.#", "a.b", "a.*", "#.#", "*"];
        let mut table = TopicTable::default();
        for (n, pattern) in patterns.iter().enumerate() {
            table.insert(pattern, n);
        }
        table.remove("a.x", 0);
        for (n, pattern) in patterns.iter().enumerate() {
            table.remove(pattern, n);
        }
        assert!(table.root.is_empty());
    }
}
