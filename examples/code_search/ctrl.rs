//! CTRL: cuts files and queries into tokens, and asks REPO on behalf of WEB.
//! Keeps nothing but its settings, so that any instance can answer any request. One that is
//! started again has the default ones until it is told; an answer says what it was made with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gear_api::{CallError, Context, Fault, Instance, Node, Operation, StartError, Transport};

use crate::{
    gathered::gather,
    protocol::{
        CONFIGURE, Document, Found, Hits, INDEX, Indexed, LOOKUP, Lookup, MAX_BODY_BYTES, REPORT,
        Report, SEARCH, STORE, Search, Settings, Sheet,
    },
    roster::{REPO, Roster},
    shard,
    tokens::tokens,
};

/// What the handlers share.
struct Ctrl {
    roster: Roster,
    settings: Mutex<Settings>,
}

/// Starts the CTRL that is `instance`.
pub(crate) async fn start(
    transport: Arc<dyn Transport>,
    instance: Instance,
    roster: Roster,
) -> Result<Node, StartError> {
    Node::builder(transport, instance)
        .max_body_bytes(MAX_BODY_BYTES)
        .state(Ctrl { roster, settings: Mutex::default() })
        .on(INDEX, index)
        .on(SEARCH, search)
        .on(CONFIGURE, configure)
        .on(REPORT, async |_: Arc<Ctrl>, cx: Context, ()| Ok(Report::of(&cx.client(), None)))
        .start()
        .await
}

async fn index(ctrl: Arc<Ctrl>, cx: Context, file: Document) -> Result<Indexed, Fault> {
    let no_repo = || Fault::new("no-repo", "there is no REPO to keep the file");
    let owner = ctrl.roster.owner(&file.path).ok_or_else(no_repo)?;
    let (sheet, lines) = cut(file);
    let stored = cx.client().call(owner, STORE, &sheet).await;
    stored.map_err(|error| passed_on(owner, STORE, error))?;
    Ok(Indexed { lines, tokens: sheet.tokens })
}

/// Cuts a file into its tokens. The settings play no part, so that changing them later leaves
/// the index as right as it was.
fn cut(file: Document) -> (Sheet, u64) {
    let mut words: HashMap<String, Vec<u32>> = HashMap::new();
    let mut count = 0;
    let mut last = 0;
    for (number, line) in (1..).zip(file.text.lines()) {
        for token in tokens(line) {
            count += 1;
            let lines = words.entry(token.to_ascii_lowercase()).or_default();
            if lines.last() != Some(&number) {
                lines.push(number);
            }
        }
        last = number;
    }
    (Sheet { path: file.path, text: file.text, tokens: count, words }, u64::from(last))
}

/// Why an instance behind this one did not do it, as WEB shall see it: with the word whether
/// trying again makes sense, which only the one who made the call can know.
fn passed_on<Req, Rep>(to: &Instance, operation: Operation<Req, Rep>, error: CallError) -> Fault {
    let fault = Fault::new("repo-failed", format!("{to} did not {}: {error}", operation.name()));
    let fault = if error.retry().allows(operation) { fault.retryable() } else { fault };
    fault.because(error)
}

async fn search(ctrl: Arc<Ctrl>, cx: Context, query: Search) -> Result<Found, Fault> {
    let settings = *ctrl.settings.lock().unwrap_or_else(PoisonError::into_inner);
    let (words, ignored) = parse(&query.text, settings);
    let mut found = Found {
        by: cx.instance().to_string(),
        settings,
        words,
        ignored,
        hits: Hits::default(),
        missing: Vec::new(),
    };
    // No word is no question: not every line, but none.
    if !found.words.is_empty() {
        let lookup = Lookup {
            words: found.words.clone(),
            case_sensitive: settings.case_sensitive,
            best: query.best,
            complete: query.complete,
        };
        (found.hits, found.missing) = ask_shards(&ctrl.roster, &cx, &lookup).await?;
    }
    Ok(found)
}

/// The words of a query, and those too short to count, each once.
fn parse(query: &str, settings: Settings) -> (Vec<String>, Vec<String>) {
    let (mut words, mut ignored) = (Vec::new(), Vec::new());
    for token in tokens(query) {
        let long = token.len() >= settings.min_length;
        let list = if long { &mut words } else { &mut ignored };
        let word = match settings.case_sensitive {
            true => token.to_owned(),
            false => token.to_ascii_lowercase(),
        };
        if !list.contains(&word) {
            list.push(word);
        }
    }
    (words, ignored)
}

/// Asks all shards and merges what they have.
async fn ask_shards(
    roster: &Roster,
    cx: &Context,
    lookup: &Lookup,
) -> Result<(Hits, Vec<String>), Fault> {
    let repos = roster.repos();
    let gathered = gather(&cx.client(), REPO.all(), LOOKUP, lookup, repos).await?;
    let mut hits = Hits::default();
    for (_, more) in gathered.answers {
        hits.lines += more.lines;
        hits.files += more.files;
        hits.best.extend(more.best);
        // A file is in one shard only.
        hits.all.extend(more.all);
    }
    shard::keep_best(&mut hits.best, lookup.best);
    Ok((hits, gathered.missing))
}

async fn configure(ctrl: Arc<Ctrl>, _: Context, settings: Settings) -> Result<(), Fault> {
    *ctrl.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    Ok(())
}
