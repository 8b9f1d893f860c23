//! A shard of the inverted index: from a word to the files and lines that have it.
//! Plain data without messages; repo.rs lets others reach it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    protocol::{Hit, Hits, Lookup, ShardSize, Sheet},
    rank,
    tokens::tokens,
};

/// The place of a file in [`Shard::files`].
type FileId = u32;

/// So many candidates are kept before all but the best are dropped.
const PILE: usize = 4096;

/// Lines by file, both ascending.
type Postings = BTreeMap<FileId, Vec<u32>>;

/// Files and where their words are.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    files: Vec<File>,
    ids: HashMap<String, FileId>,
    /// Words in lower case: those who care for case look at the lines.
    index: HashMap<Arc<str>, Postings>,
}

#[derive(Debug)]
struct File {
    path: String,
    text: String,
    /// The byte at which each line starts.
    starts: Vec<u32>,
    tokens: u64,
    /// The words in the index that name this file.
    words: Vec<Arc<str>>,
}

impl File {
    /// The line with this number, counted from 1.
    fn line(&self, number: u32) -> &str {
        let start = self.starts.get(number as usize - 1).map_or(self.text.len(), |at| *at as usize);
        self.text[start..].lines().next().unwrap_or_default()
    }
}

impl Shard {
    /// Keeps a file, in place of the one that had its path before.
    pub(crate) fn store(&mut self, sheet: Sheet) {
        let known = self.ids.get(&sheet.path).copied();
        let id = match known {
            Some(id) => {
                self.forget_words(id);
                id
            }
            None => self.files.len() as FileId,
        };
        let mut words = Vec::with_capacity(sheet.words.len());
        for (word, lines) in sheet.words {
            // The key of the map is shared with the list of the file's words.
            let word = match self.index.get_key_value(word.as_str()) {
                Some((word, _)) => Arc::clone(word),
                None => Arc::from(word),
            };
            self.index.entry(Arc::clone(&word)).or_default().insert(id, lines);
            words.push(word);
        }
        let starts = line_starts(&sheet.text);
        let file = File { path: sheet.path, text: sheet.text, starts, tokens: sheet.tokens, words };
        match known {
            Some(id) => self.files[id as usize] = file,
            None => {
                self.ids.insert(file.path.clone(), id);
                self.files.push(file);
            }
        }
    }

    fn forget_words(&mut self, id: FileId) {
        for word in std::mem::take(&mut self.files[id as usize].words) {
            if let Some(postings) = self.index.get_mut(&word) {
                postings.remove(&id);
                if postings.is_empty() {
                    self.index.remove(&word);
                }
            }
        }
    }

    /// The lines that have all of the words.
    pub(crate) fn lookup(&self, query: &Lookup) -> Hits {
        let mut hits = Hits::default();
        let postings: Option<Vec<&Postings>> = query
            .words
            .iter()
            .map(|word| self.index.get(word.to_ascii_lowercase().as_str()))
            .collect();
        // A word that nobody has: no line has them all.
        let Some(mut postings) = postings else { return hits };
        // The rarest word rules out the most.
        postings.sort_by_key(|postings| postings.len());
        let Some((rarest, others)) = postings.split_first() else { return hits };
        let mut candidates = Vec::new();
        for (id, lines) in *rarest {
            let others: Option<Vec<&Vec<u32>>> =
                others.iter().map(|postings| postings.get(id)).collect();
            let Some(others) = others else { continue };
            let file = &self.files[*id as usize];
            let found: Vec<u32> = lines
                .iter()
                .copied()
                .filter(|line| others.iter().all(|other| other.binary_search(line).is_ok()))
                .filter(|line| !query.case_sensitive || has_all(file.line(*line), &query.words))
                .collect();
            if found.is_empty() {
                continue;
            }
            hits.files += 1;
            hits.lines += found.len();
            candidates.extend(found.iter().map(|line| {
                let score = rank::score(file.line(*line), &query.words);
                Candidate { file, line: *line, score }
            }));
            // Now and then, so that a frequent word does not pile them up.
            if candidates.len() > PILE {
                keep_candidates(&mut candidates, query.best);
            }
            if query.complete {
                hits.all.insert(file.path.clone(), found);
            }
        }
        keep_candidates(&mut candidates, query.best);
        hits.best = candidates.iter().map(|hit| hit.finish(&query.words)).collect();
        hits
    }

    /// The paths of all files.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// How much it holds.
    pub(crate) fn size(&self) -> ShardSize {
        let sum = |of: fn(&File) -> u64| self.files.iter().map(of).sum();
        ShardSize {
            files: self.files.len() as u64,
            lines: sum(|file| file.starts.len() as u64),
            tokens: sum(|file| file.tokens),
        }
    }

    /// Gives back the room that was kept for more files.
    pub(crate) fn compact(&mut self) {
        self.files.shrink_to_fit();
        self.ids.shrink_to_fit();
        self.index.shrink_to_fit();
    }
}

/// A hit without the texts that only the best ones need.
struct Candidate<'a> {
    file: &'a File,
    line: u32,
    score: u32,
}

impl Candidate<'_> {
    fn finish(&self, words: &[String]) -> Hit {
        Hit {
            path: self.file.path.clone(),
            line: self.line,
            score: self.score,
            excerpt: rank::excerpt(self.file.line(self.line), words),
        }
    }
}

/// Puts the best candidates first and drops all but `count` of them.
fn keep_candidates(candidates: &mut Vec<Candidate<'_>>, count: usize) {
    candidates.sort_unstable_by_key(|hit| (Reverse(hit.score), &hit.file.path, hit.line));
    candidates.truncate(count);
}

/// Puts the best hits first and drops all but `count` of them. One order for every shard, so
/// that merging theirs gives the best of all.
pub(crate) fn keep_best(hits: &mut Vec<Hit>, count: usize) {
    hits.sort_by(|a, b| {
        (Reverse(a.score), &a.path, a.line).cmp(&(Reverse(b.score), &b.path, b.line))
    });
    hits.truncate(count);
}

fn has_all(line: &str, words: &[String]) -> bool {
    words.iter().all(|word| tokens(line).any(|token| token == word))
}

/// Where the lines of [`str::lines`] start. A file is far below 4 GiB.
fn line_starts(text: &str) -> Vec<u32> {
    let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0)
        .chain(after_breaks)
        .filter(|at| *at < text.len())
        .map(|at| at as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(path: &str, text: &str) -> Sheet {
        let mut words: HashMap<String, Vec<u32>> = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            for token in tokens(line) {
                words.entry(token.to_ascii_lowercase()).or_default().push(number);
            }
        }
        words.values_mut().for_each(Vec::dedup);
        let count = tokens(text).count() as u64;
        Sheet { path: path.into(), text: text.into(), tokens: count, words }
    }

    fn found(shard: &Shard, words: &[&str], case_sensitive: bool) -> Vec<(String, Vec<u32>)> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let query = Lookup { words, case_sensitive, best: 1, complete: true };
        shard.lookup(&query).all.into_iter().collect()
    }

    #[test]
    fn a_line_needs_all_words() {
        let mut shard = Shard::default();
        shard.store(sheet("a", "one two\n\ntwo three\n"));
        shard.store(sheet("b", "Two ONE"));
        let both = [("a".to_owned(), vec![1]), ("b".to_owned(), vec![1])];
        assert_eq!(found(&shard, &["one", "two"], false), both);
        assert_eq!(found(&shard, &["one", "two"], true), both[..1]);
        assert!(found(&shard, &["one", "three"], false).is_empty());
        assert!(found(&shard, &["four"], false).is_empty());
    }

    #[test]
    fn storing_a_path_again_replaces_it() {
        let mut shard = Shard::default();
        for text in ["old\nold shared", "new shared\n\n"] {
            shard.store(sheet("a", text));
        }
        assert!(found(&shard, &["old"], false).is_empty());
        assert_eq!(found(&shard, &["shared"], false), [("a".to_owned(), vec![1])]);
        assert_eq!(shard.size(), ShardSize { files: 1, lines: 2, tokens: 2 });
        assert_eq!(shard.index.len(), 2);
    }
}
