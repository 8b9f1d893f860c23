//! WEB: the side of the users. Reads files and has them indexed, passes queries on, changes
//! the tokenizer's settings, asks everybody for statistics. Prints nothing but the progress.

use std::{fs, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use gear_api::{Address, CallError, CastError, Context, Instance, Node, StartError, Transport};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    asker::{Asker, ROUNDS},
    gathered::Gathered,
    input::SourceFile,
    protocol::{
        CONFIGURE, Document, FILLED, Found, INDEX, Indexed, MAX_BODY_BYTES, PATHS, REPORT, Report,
        SEARCH, Search, Settings,
    },
    roster::{CTRL, REPO, Roster},
};

/// So many files are on their way at a time.
const IN_FLIGHT: usize = 64;

/// So long a round of waiting takes until everybody has joined.
const JOINING: Duration = Duration::from_secs(1);

/// A running WEB.
#[derive(Debug)]
pub(crate) struct Web {
    node: Node,
    asker: Asker,
    roster: Roster,
}

/// What was put into the index.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub(crate) files: Vec<SourceFile>,
    pub(crate) lines: u64,
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
    /// Files left out because they are not UTF-8 or can not be read.
    pub(crate) skipped: usize,
}

impl Web {
    /// Starts the WEB that is `instance`.
    pub(crate) async fn start(
        transport: Arc<dyn Transport>,
        instance: Instance,
        roster: Roster,
    ) -> Result<Self, StartError> {
        let node = Node::builder(transport, instance)
            .max_body_bytes(MAX_BODY_BYTES)
            .on(REPORT, async |_: Arc<()>, cx: Context, ()| Ok(Report::of(&cx.client(), None)))
            .start()
            .await?;
        let asker = Asker::new(node.client().clone());
        Ok(Self { node, asker, roster })
    }

    /// The node, to shut it down.
    pub(crate) fn into_node(self) -> Node {
        self.node
    }

    /// Who takes part.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// How often something had to be asked again.
    pub(crate) fn asked_again(&self) -> u64 {
        self.asker.again()
    }

    /// Waits until everybody has joined. Returns how many files the shards hold already.
    ///
    /// # Errors
    ///
    /// Who is missing after a while.
    pub(crate) async fn wait_for_everyone(&self) -> Result<u64, String> {
        let everyone: Vec<Instance> = self.roster.everyone().cloned().collect();
        let report = REPORT.timeout(JOINING);
        let reports = self.asker.wait_for(Address::Broadcast, report, &(), &everyone).await?;
        Ok(reports.iter().filter_map(|(_, report)| report.shard).map(|shard| shard.files).sum())
    }

    /// Has the files indexed.
    ///
    /// # Errors
    ///
    /// The first file that nobody indexed, in spite of several attempts.
    pub(crate) async fn fill(&self, files: Vec<SourceFile>) -> Result<Filled, CallError> {
        let bar = progress_bar(files.len() as u64);
        let filled = self.send_files(files, &bar).await;
        bar.finish_and_clear();
        filled
    }

    async fn send_files(
        &self,
        files: Vec<SourceFile>,
        bar: &ProgressBar,
    ) -> Result<Filled, CallError> {
        let mut filled = Filled::default();
        let mut outcomes = stream::iter(files)
            .map(|file| async {
                let text = read(&file).await;
                (self.index(&file, text).await, file)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((outcome, file)) = outcomes.next().await {
            bar.inc(1);
            match outcome? {
                Some((indexed, bytes)) => {
                    filled.lines += indexed.lines;
                    filled.tokens += indexed.tokens;
                    filled.bytes += bytes;
                    filled.files.push(file);
                }
                None => filled.skipped += 1,
            }
        }
        Ok(filled)
    }

    /// Has one file indexed, if it is text. Returns its length in bytes, too.
    async fn index(
        &self,
        file: &SourceFile,
        text: Option<String>,
    ) -> Result<Option<(Indexed, u64)>, CallError> {
        let Some(text) = text else { return Ok(None) };
        let bytes = text.len() as u64;
        let document = Document { path: file.path.clone(), text };
        let indexed = self.asker.ask(CTRL, INDEX, &document).await?;
        Ok(Some((indexed, bytes)))
    }

    /// Tells everybody that the folder is in the index. Only REPO cares; to the others it is
    /// nothing that they know.
    pub(crate) async fn announce_filled(&self) -> Result<(), CastError> {
        self.node.client().cast(Address::Broadcast, FILLED, &()).await
    }

    /// Asks for the lines that have all words of `text`: the `best`, and with `complete` all
    /// of them besides, for which it asks again if a shard is missing.
    pub(crate) async fn search(
        &self,
        text: &str,
        best: usize,
        complete: bool,
    ) -> Result<Found, CallError> {
        let search = Search { text: text.to_owned(), best, complete };
        let mut round = 1;
        loop {
            let found = self.asker.ask(CTRL, SEARCH, &search).await?;
            if found.missing.is_empty() || !complete || round == ROUNDS {
                return Ok(found);
            }
            round += 1;
            self.asker.count_again();
        }
    }

    /// Changes how every CTRL reads queries. When this returns, those that are not missing
    /// have taken it.
    pub(crate) async fn configure(&self, settings: Settings) -> Result<Gathered<()>, CallError> {
        self.asker.gather(CTRL.all(), CONFIGURE, &settings, self.roster.ctrls()).await
    }

    /// Asks everybody, this WEB too, what they have done and hold.
    pub(crate) async fn reports(&self) -> Result<Gathered<Report>, CallError> {
        let everyone: Vec<Instance> = self.roster.everyone().cloned().collect();
        let mut gathered = self.asker.gather(Address::Broadcast, REPORT, &(), &everyone).await?;
        gathered.answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(gathered)
    }

    /// Asks every REPO which files it has.
    pub(crate) async fn paths(&self) -> Result<Gathered<Vec<String>>, CallError> {
        self.asker.gather(REPO.all(), PATHS, &(), self.roster.repos()).await
    }
}

/// The text of a file; none if it has none.
async fn read(file: &SourceFile) -> Option<String> {
    let place = file.place.clone();
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(place));
    read.await.ok()?.ok()
}

/// Hides itself where stderr is no terminal.
fn progress_bar(files: u64) -> ProgressBar {
    let bar = ProgressBar::new(files);
    let template = "  indexing [{bar:40}] {human_pos} of {human_len} files, {elapsed}";
    // A template that indicatif does not read leaves its own look.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
