//! Whether the answers are right: complete ones are compared with a plain scan of the same
//! files. Shares nothing with the index, not even what a token is: a mistake there is no
//! mistake here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    error::Error,
    fs, io,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use crate::{
    input::SourceFile,
    options::Options,
    protocol::{Found, Settings},
    screen::{self, counted, duration, grouped, heading, say, table},
    web::{Filled, Web},
};

/// One word and several, rare, frequent and absent, punctuation, digits, repetition, and
/// nothing at all.
const QUERIES: [&str; 16] = [
    "Mutex",
    "spawn",
    "self",
    "the",
    "pub fn new",
    "unsafe impl Send for",
    "std::sync::Arc<T>",
    "#[derive(Debug, Clone)]",
    "ERROR",
    "u8 0xff",
    "a",
    "if let Some x",
    "self SELF Self",
    "spurious",
    "zzyzx_is_nowhere",
    "::",
];

/// Each query is asked under all of these.
const SETTINGS: [Settings; 4] = [
    Settings { case_sensitive: false, min_length: 1 },
    Settings { case_sensitive: true, min_length: 1 },
    Settings { case_sensitive: false, min_length: 4 },
    Settings { case_sensitive: true, min_length: 3 },
];

/// So many queries are asked while the settings change, and so many of them at a time.
const QUESTIONS: usize = 100;
const IN_FLIGHT: usize = 8;

/// So many differences are shown.
const SHOWN: usize = 20;

/// Lines by file.
type Lines = BTreeMap<String, Vec<u32>>;

/// What a plain scan finds, by query and settings.
#[derive(Debug, Default)]
struct Scan {
    lines: u64,
    tokens: u64,
    hits: HashMap<(String, Settings), Lines>,
}

/// Compares the answers to the queries of the options, or to some of its own. Returns the time
/// that it spent on scanning.
///
/// # Errors
///
/// If anything differs; what, it prints.
pub(crate) async fn run(
    web: &Web,
    filled: &Filled,
    options: &Options,
) -> Result<Duration, Box<dyn Error>> {
    heading("Verify")?;
    let mut queries = options.queries.clone();
    if queries.is_empty() {
        queries = QUERIES.map(str::to_owned).to_vec();
    }
    let started = Instant::now();
    let (files, words) = (filled.files.clone(), queries.clone());
    let scan = tokio::task::spawn_blocking(move || scan(&files, &words)).await??;
    let scanned = started.elapsed();
    say(format!(
        "  a plain scan read {} and {} tokens in {}",
        counted(scan.lines, "line"),
        grouped(scan.tokens),
        duration(scanned),
    ))?;

    let mut wrong = stored_once(web, filled, &scan).await?;
    if wrong.is_empty() {
        wrong = under_each_setting(web, filled, &queries, &scan, options.limit).await?;
    }
    if wrong.is_empty() {
        wrong = while_settings_change(web, &queries, &scan).await?;
    }
    if wrong.is_empty() {
        return Ok(scanned);
    }
    for difference in wrong.iter().take(SHOWN) {
        say(format!("  wrong: {difference}"))?;
    }
    Err(format!("{} from the plain scan", counted(wrong.len() as u64, "difference")).into())
}

/// Whether every file that was sent is in one shard, the one it belongs to, and complete.
async fn stored_once(
    web: &Web,
    filled: &Filled,
    scan: &Scan,
) -> Result<Vec<String>, Box<dyn Error>> {
    let gathered = web.paths().await?;
    let mut wrong: Vec<String> =
        gathered.missing.iter().map(|shard| format!("no files from {shard}")).collect();
    let mut left: HashSet<&str> = filled.files.iter().map(|file| file.path.as_str()).collect();
    for (shard, paths) in &gathered.answers {
        for path in paths {
            if !left.remove(path.as_str()) {
                wrong.push(format!("{shard} has {path}, which was not sent or is elsewhere too"));
            }
            if web.roster().owner(path) != Some(shard) {
                wrong.push(format!("{shard} has {path}, which is not its own"));
            }
        }
    }
    wrong.extend(left.iter().map(|path| format!("nobody has {path}")));
    if (filled.lines, filled.tokens) != (scan.lines, scan.tokens) {
        wrong.push(format!("{} lines and {} tokens in the index", filled.lines, filled.tokens));
    }
    if wrong.is_empty() {
        let files = counted(filled.files.len() as u64, "file");
        say(format!("  {files} are in the shards, each once and in its own"))?;
    }
    Ok(wrong)
}

/// Asks every query under every setting, and shows how many lines it has.
async fn under_each_setting(
    web: &Web,
    filled: &Filled,
    queries: &[String],
    scan: &Scan,
    limit: usize,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut wrong = Vec::new();
    let mut rows: Vec<Vec<String>> =
        queries.iter().map(|query| vec![format!("{query:?}")]).collect();
    let (mut answers, mut lines) = (0, 0);
    let mut missing = BTreeSet::new();
    for settings in SETTINGS {
        missing.extend(web.configure(settings).await?.silent);
        for (query, row) in queries.iter().zip(&mut rows) {
            let found = web.search(query, limit, true).await?;
            let mut differences = check(query, &found, scan);
            if !found.missing.is_empty() {
                // The same for every query, and each would wait for the shard.
                return Ok(differences);
            }
            if found.settings != settings {
                differences.push(format!("{query:?}: {} answered with old settings", found.by));
            }
            differences.extend(check_best(query, &found, limit, &filled.files)?);
            let mark = if differences.is_empty() { "" } else { " WRONG" };
            row.push(format!("{}{mark}", grouped(found.hits.lines as u64)));
            answers += 1;
            lines += found.hits.lines as u64;
            if !is_noticed(query, found, scan) {
                wrong.push(format!("{query:?}: this check does not notice a wrong answer"));
            }
            wrong.extend(differences);
        }
    }
    let names = SETTINGS.map(screen::settings);
    rows.insert(0, ["lines that match".to_owned()].into_iter().chain(names).collect());
    say(format!("\n{}\n", table(&rows)))?;
    // They do no harm as long as they answer no queries either; with old settings that is seen.
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    screen::warn_missing(&missing, "no answer to CTRL.*; nobody waits for them any more")?;
    if wrong.is_empty() {
        say(format!(
            "  {} with {} are those of the scan; one line more or less is noticed",
            counted(answers, "answer"),
            counted(lines, "line"),
        ))?;
    }
    Ok(wrong)
}

/// Asks while the settings change. Each answer says which ones it was made with, and is to be
/// right for those.
async fn while_settings_change(
    web: &Web,
    queries: &[String],
    scan: &Scan,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut wrong = Vec::new();
    let mut seen: HashSet<Settings> = HashSet::new();
    let rounds = queries.iter().cycle().take(QUESTIONS.max(queries.len()));
    let mut answers = stream::iter(rounds)
        .map(|query| async move { (query, web.search(query, 0, true).await) })
        .buffer_unordered(IN_FLIGHT);
    let mut changes = SETTINGS.iter().cycle();
    let mut count = 0;
    while let Some((query, answer)) = answers.next().await {
        let found = answer?;
        count += 1;
        seen.insert(found.settings);
        wrong.extend(check(query, &found, scan));
        if !found.missing.is_empty() {
            return Ok(wrong);
        }
        // Other queries are on their way now, before or behind this.
        if let Some(settings) = changes.next() {
            web.configure(*settings).await?;
        }
    }
    web.configure(Settings::default()).await?;
    if wrong.is_empty() {
        say(format!(
            "  {} on the way while the settings changed, made with {} of {} settings, are too",
            counted(count, "more answer"),
            seen.len(),
            SETTINGS.len(),
        ))?;
    }
    Ok(wrong)
}

/// How an answer differs from the scan's under the settings that the answer names.
fn check(query: &str, found: &Found, scan: &Scan) -> Vec<String> {
    let settings = screen::settings(found.settings);
    let mut wrong: Vec<String> =
        found.missing.iter().map(|shard| format!("{query:?}: nothing from {shard}")).collect();
    let Some(expected) = scan.hits.get(&(query.to_owned(), found.settings)) else {
        wrong.push(format!("{query:?}: {} used settings that nobody gave it", found.by));
        return wrong;
    };
    let all = &found.hits.all;
    for (place, only) in
        [(only_in(expected, all), "the scan"), (only_in(all, expected), "the index")]
    {
        wrong.extend(
            place.map(|(path, line)| {
                format!("{query:?} ({settings}): only {only} has {path}:{line}")
            }),
        );
    }
    let lines: usize = expected.values().map(Vec::len).sum();
    // The last also tells whether a line is named twice.
    let counts = (found.hits.lines, found.hits.files, all.values().map(Vec::len).sum());
    if counts != (lines, expected.len(), lines) {
        let files = expected.len();
        wrong.push(format!("{query:?} ({settings}): counts {counts:?}, not {lines} in {files}"));
    }
    wrong
}

/// What `a` has and `b` has not.
fn only_in<'a>(a: &'a Lines, b: &'a Lines) -> impl Iterator<Item = (&'a str, u32)> {
    a.iter().flat_map(move |(path, lines)| {
        let others: HashSet<u32> = b.get(path).into_iter().flatten().copied().collect();
        let only = lines.iter().copied().filter(move |line| !others.contains(line));
        only.map(move |line| (path.as_str(), line))
    })
}

/// Whether the hits that are shown are as many as asked for, among all that were found, in
/// order, and show what is in the file.
fn check_best(
    query: &str,
    found: &Found,
    limit: usize,
    files: &[SourceFile],
) -> io::Result<Vec<String>> {
    let (best, mut wrong) = (&found.hits.best, Vec::new());
    if best.len() != found.hits.lines.min(limit) {
        wrong.push(format!("{query:?}: {} of {limit} hits are shown", best.len()));
    }
    if !best.is_sorted_by(|a, b| a.score >= b.score && (&a.path, a.line) != (&b.path, b.line)) {
        wrong.push(format!("{query:?}: the hits shown are not in order"));
    }
    for hit in best {
        let listed = found.hits.all.get(&hit.path).is_some_and(|lines| lines.contains(&hit.line));
        let file = files.iter().find(|file| file.path == hit.path);
        let text = file.map(|file| fs::read_to_string(&file.place)).transpose()?;
        let line = text.as_deref().and_then(|text| text.split('\n').nth(hit.line as usize - 1));
        let shown = hit.excerpt.trim_matches('…').trim();
        if !listed || !line.is_some_and(|line| line.contains(shown)) {
            wrong.push(format!("{query:?}: {}:{} is not what is shown", hit.path, hit.line));
        }
    }
    Ok(wrong)
}

/// Whether [`check`] complains when a line is left out of an answer, and when one is added.
fn is_noticed(query: &str, mut found: Found, scan: &Scan) -> bool {
    found.hits.all.entry("invented".to_owned()).or_default().push(1);
    let added = !check(query, &found, scan).is_empty();
    found.hits.all.remove("invented");
    let Some(lines) = found.hits.all.values_mut().next() else { return added };
    lines.pop();
    added && !check(query, &found, scan).is_empty()
}

/// Reads every line of every file and looks for every query under every setting.
fn scan(files: &[SourceFile], queries: &[String]) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut wanted = Vec::new();
    for query in queries {
        for settings in SETTINGS {
            let words: Vec<&str> =
                words(query).filter(|word| word.len() >= settings.min_length).collect();
            // A query without words finds nothing, and is in the result all the same.
            scan.hits.insert((query.clone(), settings), Lines::new());
            if !words.is_empty() {
                wanted.push((query, settings, words, Lines::new()));
            }
        }
    }
    for file in files {
        let text = fs::read_to_string(&file.place)?;
        let whole = text.strip_suffix('\n').unwrap_or(&text);
        for (number, line) in (1..).zip(whole.split('\n')).filter(|_| !text.is_empty()) {
            let tokens: Vec<&str> = words(line).collect();
            scan.lines += 1;
            scan.tokens += tokens.len() as u64;
            for (_, settings, words, hits) in &mut wanted {
                let same = |word: &str, token: &str| match settings.case_sensitive {
                    true => word == token,
                    false => word.eq_ignore_ascii_case(token),
                };
                if words.iter().all(|word| tokens.iter().any(|token| same(word, token))) {
                    hits.entry(file.path.clone()).or_default().push(number);
                }
            }
        }
    }
    for (query, settings, _, hits) in wanted {
        scan.hits.insert((query.clone(), settings), hits);
    }
    Ok(scan)
}

/// The runs of letters, digits and underscores of ASCII.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    runs.filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Hits;

    const ANY: Settings = SETTINGS[0];

    fn lines(of: &[(&str, &[u32])]) -> Lines {
        of.iter().map(|(path, lines)| ((*path).to_owned(), lines.to_vec())).collect()
    }

    fn found(all: Lines) -> Found {
        let hits = Hits {
            lines: all.values().map(Vec::len).sum(),
            files: all.len(),
            best: Vec::new(),
            all,
        };
        Found {
            by: "CTRL.host1".to_owned(),
            settings: ANY,
            words: vec!["q".to_owned()],
            ignored: Vec::new(),
            hits,
            missing: Vec::new(),
        }
    }

    fn differences(answer: &[(&str, &[u32])]) -> Vec<String> {
        let right = lines(&[("a.rs", &[1, 5]), ("b.rs", &[2])]);
        let hits = [(("q".to_owned(), ANY), right)].into();
        check("q", &found(lines(answer)), &Scan { hits, ..Scan::default() })
    }

    #[test]
    fn a_right_answer_has_no_differences() {
        assert!(differences(&[("a.rs", &[1, 5]), ("b.rs", &[2])]).is_empty());
    }

    #[test]
    fn every_kind_of_wrong_answer_is_noticed() {
        for (wrong, told) in [
            (&[("a.rs", &[1, 5][..])][..], "only the scan has b.rs:2"),
            (&[("a.rs", &[1]), ("b.rs", &[2])], "only the scan has a.rs:5"),
            (&[("a.rs", &[1, 5, 6]), ("b.rs", &[2])], "only the index has a.rs:6"),
            (&[("a.rs", &[1, 5]), ("b.rs", &[3])], "only the index has b.rs:3"),
            (&[("a.rs", &[1, 5, 5]), ("b.rs", &[2])], "counts (4, 2, 4), not 3 in 2"),
            (&[], "only the scan has a.rs:1"),
        ] {
            let differences = differences(wrong).join("\n");
            assert!(differences.contains(told), "{wrong:?}: {differences}");
        }
    }

    #[test]
    fn a_missing_shard_is_a_difference() {
        let mut found = found(lines(&[("a.rs", &[1])]));
        found.missing.push("REPO.host3".to_owned());
        let hits = [(("q".to_owned(), ANY), found.hits.all.clone())].into();
        let differences = check("q", &found, &Scan { hits, ..Scan::default() });
        assert_eq!(differences, ["\"q\": nothing from REPO.host3"]);
    }
}
