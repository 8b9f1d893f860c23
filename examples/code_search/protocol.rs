//! What the services say to each other: the operations and the types of their messages.
//! All that WEB, CTRL and REPO share; none of them knows how another does its work.
//!
//! All calls are idempotent, so that whoever got no answer may ask again. Their times are short:
//! a request that was lost with a process or with the broker is asked again after that.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gear_api::Operation;
use serde::{Deserialize, Serialize};

/// The largest body of a message, in bytes. A file goes to its shard together with its
/// tokens, which can be several times its size.
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// WEB to `CTRL`: tokenize this file and have it stored.
pub(crate) const INDEX: Operation<Document, Indexed> =
    Operation::new("index").timeout(Duration::from_secs(10)).idempotent();

/// CTRL to `REPO.host`: keep this file in place of any that had its path before.
pub(crate) const STORE: Operation<Sheet, ()> =
    Operation::new("store").timeout(Duration::from_secs(6)).idempotent();

/// WEB to `*.*`, a cast: the folder is in the index now. Nobody has to listen.
pub(crate) const FILLED: Operation<(), ()> = Operation::new("filled");

/// WEB to `CTRL`: which lines have these words?
pub(crate) const SEARCH: Operation<Search, Found> =
    Operation::new("search").timeout(Duration::from_secs(10)).idempotent();

/// CTRL to `REPO.*`: which lines of your shard? Shorter than [`SEARCH`], so that what has come
/// by then still reaches WEB when a shard is silent.
pub(crate) const LOOKUP: Operation<Lookup, Hits> =
    Operation::new("lookup").timeout(Duration::from_secs(5)).idempotent();

/// WEB to `CTRL.*`: from now on read queries like this.
pub(crate) const CONFIGURE: Operation<Settings, ()> =
    Operation::new("configure").timeout(Duration::from_secs(5)).idempotent();

/// WEB to `*.*`: what have you done, and what do you hold?
pub(crate) const REPORT: Operation<(), Report> =
    Operation::new("report").timeout(Duration::from_secs(5)).idempotent();

/// WEB to `REPO.*`: which files do you have?
pub(crate) const PATHS: Operation<(), Vec<String>> =
    Operation::new("paths").timeout(Duration::from_secs(5)).idempotent();

/// How the tokenizer reads a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Whether `Mutex` and `mutex` are different words.
    pub(crate) case_sensitive: bool,
    /// Shorter words of a query are ignored.
    pub(crate) min_length: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { case_sensitive: false, min_length: 1 }
    }
}

/// A file as it was read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What became of a [`Document`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Indexed {
    pub(crate) lines: u64,
    pub(crate) tokens: u64,
}

/// A file and its tokens, as a shard keeps them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sheet {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: u64,
    /// In lower case; with the lines they are on, counted from 1, ascending.
    pub(crate) words: HashMap<String, Vec<u32>>,
}

/// A query as it was typed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Search {
    pub(crate) text: String,
    /// How many of the best hits to show.
    pub(crate) best: usize,
    /// Whether to name every line besides, which may be many.
    pub(crate) complete: bool,
}

/// A query as it was understood: lines that have all of the words, of which there is one or
/// more, and none twice.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lookup {
    pub(crate) words: Vec<String>,
    pub(crate) case_sensitive: bool,
    pub(crate) best: usize,
    pub(crate) complete: bool,
}

/// What one shard has, or all of them together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hits {
    pub(crate) lines: usize,
    pub(crate) files: usize,
    /// The best first, no more than were asked for.
    pub(crate) best: Vec<Hit>,
    /// Every line of every file, if the query asks for it.
    pub(crate) all: BTreeMap<String, Vec<u32>>,
}

/// A line that has all of the words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hit {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) score: u32,
    /// The line without its indentation, cut if it is long.
    pub(crate) excerpt: String,
}

/// The answer to a query.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The CTRL that answers, and how it read the query.
    pub(crate) by: String,
    pub(crate) settings: Settings,
    pub(crate) words: Vec<String>,
    /// Words that were too short for the settings.
    pub(crate) ignored: Vec<String>,
    pub(crate) hits: Hits,
    /// The shards whose lines are not among the hits.
    pub(crate) missing: Vec<String>,
}

/// What an instance tells of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Messages that came, by operation.
    pub(crate) messages: Vec<(String, u64)>,
    pub(crate) shard: Option<ShardSize>,
}

/// How much a shard holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardSize {
    pub(crate) files: u64,
    pub(crate) lines: u64,
    pub(crate) tokens: u64,
}

impl Report {
    /// What the node of `client` has done, and its shard if it has one.
    pub(crate) fn of(client: &gear_api::Client, shard: Option<ShardSize>) -> Self {
        let messages = client.stats().operations;
        let messages = messages.into_iter().map(|(name, count)| (name.to_string(), count));
        Self { messages: messages.collect(), shard }
    }
}
