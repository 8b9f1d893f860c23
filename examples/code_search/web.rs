//! WEB: the side of the users. Reads files and has them indexed, passes queries on, changes
//! the tokenizer's settings, asks everybody for statistics. Prints nothing but the progress.

use std::{fs, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use gear_api::{
    Address, CallError, CastError, Codec, Context, Instance, Json, Node, Operation, StartError,
    Transport,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    gathered::{Gathered, gather},
    input::SourceFile,
    protocol::{
        CONFIGURE, Document, FILLED, Found, INDEX, Indexed, MAX_BODY_BYTES, PATHS, REPORT, Report,
        SEARCH, Search, Settings,
    },
    roster::{CTRL, REPO, Roster},
};

/// So many files are on their way at a time.
const IN_FLIGHT: usize = 64;

/// So often something is asked, if asking again does no harm.
const ATTEMPTS: u32 = 3;

/// The pause before it is asked again; twice as long before the third time.
const PAUSE: Duration = Duration::from_millis(100);

/// A running WEB.
#[derive(Debug)]
pub(crate) struct Web {
    node: Node,
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
        Ok(Self { node, roster })
    }

    /// The node, to shut it down.
    pub(crate) fn into_node(self) -> Node {
        self.node
    }

    /// Who takes part.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
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
        let indexed = self.ask(CTRL, INDEX, &document).await?;
        Ok(Some((indexed, bytes)))
    }

    /// Tells everybody that the folder is in the index. Only REPO cares; to the others it is
    /// nothing that they know.
    pub(crate) async fn announce_filled(&self) -> Result<(), CastError> {
        self.node.client().cast(Address::Broadcast, FILLED, &()).await
    }

    /// Asks for the lines that have all words of `text`: the `best`, and with `complete` all
    /// of them besides.
    pub(crate) async fn search(
        &self,
        text: &str,
        best: usize,
        complete: bool,
    ) -> Result<Found, CallError> {
        self.ask(CTRL, SEARCH, &Search { text: text.to_owned(), best, complete }).await
    }

    /// Changes how every CTRL reads queries. When this returns, those that are not missing
    /// have taken it.
    pub(crate) async fn configure(&self, settings: Settings) -> Result<Gathered<()>, CallError> {
        let ctrls = self.roster.ctrls();
        gather(self.node.client(), CTRL.all(), CONFIGURE, &settings, ctrls).await
    }

    /// Asks everybody, this WEB too, what they have done and hold.
    pub(crate) async fn reports(&self) -> Result<Gathered<Report>, CallError> {
        let everyone: Vec<Instance> = self.roster.everyone().cloned().collect();
        let mut gathered =
            gather(self.node.client(), Address::Broadcast, REPORT, &(), &everyone).await?;
        gathered.answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(gathered)
    }

    /// Asks every REPO which files it has.
    pub(crate) async fn paths(&self) -> Result<Gathered<Vec<String>>, CallError> {
        gather(self.node.client(), REPO.all(), PATHS, &(), self.roster.repos()).await
    }

    /// A call that is made again where that does no harm, a few times.
    async fn ask<Req, Rep>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep>,
        request: &Req,
    ) -> Result<Rep, CallError>
    where
        Json: Codec<Req> + Codec<Rep>,
    {
        let to = to.into();
        let mut attempt = 1;
        loop {
            let error = match self.node.client().call(to.clone(), operation, request).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !error.retry().allows(operation) {
                return Err(error);
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
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
