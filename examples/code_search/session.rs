//! What happens between the start of the services and their end: the folder is indexed,
//! queries are answered, and a summary is given.

use std::{
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, Instant},
};

use gear_api::Instance;

use crate::{
    input::Input,
    options::Options,
    protocol::{Report, Settings, ShardSize},
    screen::{
        counted, duration, found, grouped, heading, reports, say, settings, table, total,
        warn_missing,
    },
    verify,
    web::{Filled, Web},
};

/// What a newcomer sees answered, with the settings that are set for it.
const SAMPLES: [(&str, Settings); 3] = [
    ("spurious wakeup", Settings { case_sensitive: false, min_length: 1 }),
    ("ERROR", Settings { case_sensitive: false, min_length: 1 }),
    ("ERROR", Settings { case_sensitive: true, min_length: 1 }),
];

const COMMANDS: &str = concat!(
    "  words            lines that have all of the words\n",
    "  :case on|off     whether case matters\n",
    "  :min N           ignore words of fewer letters\n",
    "  :stats           what every instance did and holds\n",
    "  :quit            the end (or Ctrl-D)",
);

/// The time that passed, without that in which nothing was asked.
struct Stopwatch {
    started: Instant,
    idle: Duration,
}

impl Stopwatch {
    fn elapsed(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.idle)
    }
}

/// Indexes and answers as the options say.
///
/// # Errors
///
/// Whatever made it end early; with `--verify` also answers that were wrong.
pub(crate) async fn run(web: &Web, options: &Options) -> Result<(), Box<dyn Error>> {
    let input = match &options.folder {
        Some(folder) => Input::of_folder(folder)?,
        None => Input::of_dependencies()?,
    };
    heading("Services")?;
    let held = web.wait_for_everyone().await?;
    let everyone: Vec<&str> = web.roster().everyone().map(Instance::as_str).collect();
    say(format!("  {} have joined", everyone.join(", ")))?;
    heading("Index")?;
    say(format!("  {}", input.origin))?;
    if held > 0 {
        let held = counted(held, "file");
        if options.verify {
            let why = format!("--verify needs empty shards, and they hold {held}: start REPO anew");
            return Err(why.into());
        }
        say(format!("  the shards hold {held} of an earlier WEB, which are searched too"))?;
    }

    let mut watch = Stopwatch { started: Instant::now(), idle: Duration::ZERO };
    let left_out = input.skipped;
    let mut filled = web.fill(input.files).await?;
    filled.skipped += left_out;
    web.announce_filled().await?;
    say_filled(&filled, watch.elapsed())?;

    let prompt = options.interactive
        || (io::stdin().is_terminal() && options.queries.is_empty() && !options.verify);
    if options.verify {
        watch.idle += verify::run(web, &filled, options).await?;
    } else if !options.queries.is_empty() {
        heading("Queries")?;
        for query in &options.queries {
            search(web, query, options.limit).await?;
        }
    } else if !prompt {
        samples(web, options.limit).await?;
    }
    if prompt {
        watch.idle += answer_prompt(web, options.limit).await?;
    }
    let total = summary(web, &filled, &watch).await?;
    let sent =
        ShardSize { files: filled.files.len() as u64, lines: filled.lines, tokens: filled.tokens };
    if held == 0 && total != sent {
        return Err(format!("the shards hold {total:?}, and sent was {sent:?}").into());
    }
    Ok(())
}

fn say_filled(filled: &Filled, took: Duration) -> io::Result<()> {
    say(format!(
        "  {} and {} indexed in {}",
        counted(filled.files.len() as u64, "file"),
        counted(filled.lines, "line"),
        duration(took),
    ))?;
    if filled.skipped > 0 {
        let skipped = counted(filled.skipped as u64, "file");
        say(format!("  {skipped} left out: over 1 MiB, not UTF-8, or not readable"))?;
    }
    Ok(())
}

async fn samples(web: &Web, limit: usize) -> Result<(), Box<dyn Error>> {
    heading("Sample queries (your own: --query WORDS, or --interactive)")?;
    let mut current = Settings::default();
    for (query, settings) in SAMPLES {
        if settings != current {
            say("")?;
            configure(web, settings).await?;
            current = settings;
        }
        search(web, query, limit).await?;
    }
    Ok(())
}

/// Asks one query and shows the answer.
async fn search(web: &Web, query: &str, limit: usize) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let answer = web.search(query, limit, false).await?;
    say(found(query, &answer, started.elapsed()))?;
    warn_missing(&answer.missing, "lines of these shards are not among the hits")?;
    Ok(())
}

/// Changes the settings of every CTRL.
async fn configure(web: &Web, new: Settings) -> Result<(), Box<dyn Error>> {
    let gathered = web.configure(new).await?;
    say(format!(
        "  CTRL.* reads queries with {} now ({} of {} instances say so)",
        settings(new),
        gathered.answers.len(),
        web.roster().ctrls().len(),
    ))?;
    warn_missing(&gathered.missing, "they may read queries as before")?;
    Ok(())
}

/// Answers until the user has enough. Returns for how long it waited for the user.
async fn answer_prompt(web: &Web, limit: usize) -> Result<Duration, Box<dyn Error>> {
    heading("Queries")?;
    say(COMMANDS)?;
    let mut current = Settings::default();
    let mut waited = Duration::ZERO;
    loop {
        let asked = Instant::now();
        // Reading a terminal can take forever, which a thread of the runtime must not.
        let line = tokio::task::spawn_blocking(read_line).await??;
        waited += asked.elapsed();
        let Some(line) = line else { break };
        let done = match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] => Ok(()),
            [":quit" | ":q"] => break,
            [":stats"] => statistics(web).await.map(drop),
            [":case", word @ ("on" | "off")] => {
                current.case_sensitive = word == "on";
                configure(web, current).await
            }
            [":min", number] => match number.parse() {
                Ok(min_length) => {
                    current.min_length = min_length;
                    configure(web, current).await
                }
                Err(_) => say(format!("  {number:?} is not a number")).map_err(Into::into),
            },
            [command, ..] if command.starts_with(':') => say(COMMANDS).map_err(Into::into),
            _ => search(web, &line, limit).await,
        };
        // One query that failed is no reason to lose the index.
        if let Err(error) = done {
            say(format!("  failed: {error}"))?;
        }
    }
    Ok(waited)
}

/// What the user typed; none at the end.
fn read_line() -> io::Result<Option<String>> {
    write!(io::stdout(), "\nsearch> ")?;
    io::stdout().flush()?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim().to_owned()))
}

/// Asks everybody for statistics and prints them.
async fn statistics(web: &Web) -> Result<Vec<(String, Report)>, Box<dyn Error>> {
    heading("Statistics (messages by operation, and what the shards hold)")?;
    let gathered = web.reports().await?;
    let answers = gathered.answers.into_iter();
    let all: Vec<_> = answers.map(|(instance, report)| (instance.to_string(), report)).collect();
    say(reports(&all))?;
    warn_missing(&gathered.missing, "not in the table")?;
    Ok(all)
}

/// Says what was done in all. Returns what the shards hold.
async fn summary(
    web: &Web,
    filled: &Filled,
    watch: &Stopwatch,
) -> Result<ShardSize, Box<dyn Error>> {
    let reports = statistics(web).await?;
    let elapsed = watch.elapsed();
    let counts = reports.iter().flat_map(|(_, report)| &report.messages);
    let messages: u64 = counts.map(|(_, count)| count).sum();
    let rate = messages as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
    heading("Summary")?;
    let rows = [
        ("files", grouped(filled.files.len() as u64)),
        ("lines", grouped(filled.lines)),
        ("bytes", grouped(filled.bytes)),
        ("messages", grouped(messages)),
        ("elapsed", duration(elapsed)),
        ("messages/s", grouped(rate as u64)),
    ];
    say(table(&rows.map(|(name, value)| vec![name.to_owned(), value])))?;
    say("  Messages are the requests that reached an instance; the replies come on top.")?;
    match web.asked_again() {
        0 => {}
        again => say(format!("  WEB had to ask again {}.", counted(again, "time")))?,
    }
    Ok(total(&reports))
}
