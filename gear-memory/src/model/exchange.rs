//! An exchange: bindings, and which destinations a key leads to.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};
use gear_api::{Text, topology::ExchangeKind};

use super::{ExchangeId, QueueId, topic::TopicTable};

/// What a binding leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(ExchangeId),
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) name: Text,
    pub(crate) internal: bool,
    bindings: Bindings,
}

#[derive(Debug)]
enum Bindings {
    Topic(TopicTable<Destination>),
    Direct(HashMap<Text, BTreeSet<Destination>>),
    Fanout(BTreeSet<(Destination, Text)>),
}

impl Exchange {
    pub(crate) fn new(name: Text, kind: ExchangeKind, internal: bool) -> Self {
        let bindings = match kind {
            ExchangeKind::Topic => Bindings::Topic(TopicTable::default()),
            ExchangeKind::Direct => Bindings::Direct(HashMap::new()),
            ExchangeKind::Fanout => Bindings::Fanout(BTreeSet::new()),
        };
        Self { name, internal, bindings }
    }

    pub(crate) fn kind(&self) -> ExchangeKind {
        match self.bindings {
            Bindings::Topic(_) => ExchangeKind::Topic,
            Bindings::Direct(_) => ExchangeKind::Direct,
            Bindings::Fanout(_) => ExchangeKind::Fanout,
        }
    }

    pub(crate) fn bind(&mut self, key: &Text, to: Destination) {
        match &mut self.bindings {
            Bindings::Topic(table) => table.insert(key, to),
            Bindings::Direct(map) => {
                map.entry(key.clone()).or_default().insert(to);
            }
            // The keys do not count for routing, but each binding is one to be removed.
            Bindings::Fanout(all) => {
                all.insert((to, key.clone()));
            }
        }
    }

    pub(crate) fn unbind(&mut self, key: &str, to: Destination) {
        match &mut self.bindings {
            Bindings::Topic(table) => table.remove(key, to),
            Bindings::Direct(map) => {
                if let Some(ends) = map.get_mut(key) {
                    ends.remove(&to);
                    if ends.is_empty() {
                        map.remove(key);
                    }
                }
            }
            Bindings::Fanout(all) => {
                all.remove(&(to, key.into()));
            }
        }
    }

    pub(crate) fn find(&self, key: &str, found: &mut Vec<Destination>) {
        match &self.bindings {
            Bindings::Topic(table) => table.find(key, found),
            Bindings::Direct(map) => found.extend(map.get(key).into_iter().flatten()),
            Bindings::Fanout(all) => found.extend(all.iter().map(|(to, _)| *to)),
        }
    }
}
