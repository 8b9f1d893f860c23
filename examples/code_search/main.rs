//! A small distributed code search, to see Gear at work:
//!
//! ```text
//! cargo run --release --example code_search
//! ```
//!
//! ```text
//!                  any one         the one a file is hashed to,
//!                  of them         or all of them for a query
//!                 ┌─> CTRL.host1 ─┐   ┌─> REPO.host1
//!   WEB.host1 ────┤               ├───┼─> REPO.host2
//!                 └─> CTRL.host2 ─┘   ├─> REPO.host3
//!   files, queries     tokens         └─> REPO.host4   the index, in shards
//! ```
//!
//! - A file goes to any CTRL (`CTRL`), which cuts it into tokens and passes it on to the REPO
//!   that owns it (`REPO.host2`).
//! - A query goes to any CTRL, which asks all REPO (`REPO.*`) and merges what they have.
//! - `CTRL.*` changes how queries are read, `*.*` asks everybody for statistics.
//!
//! `--verify` compares complete answers with a plain scan of the files; `--help` tells the rest.
//!
//! Here all of them are in one process on `memory://`. None of them knows: a service is a
//! module that gets a transport, its own name and the roster, and only this file connects.
//! With RabbitMQ between them each can be a process of its own:
//!
//! ```text
//! alias code_search='cargo run --release --features amqp --example code_search --'
//! code_search --url amqp://localhost --role repo --host host1     and host2, host3, host4
//! code_search --url amqp://localhost --role ctrl --host host1     and host2
//! code_search --url amqp://localhost --role web
//! ```
//!
//! `processes.sh` does so, kills one of them in the middle, and sees to it that no answer is
//! wrong for it.

mod asker;
mod ctrl;
mod gathered;
mod input;
mod options;
mod protocol;
mod rank;
mod repo;
mod roster;
mod screen;
mod session;
mod shard;
#[cfg(test)]
mod tests;
mod tokens;
mod verify;
mod web;

use std::{error::Error, io, process::ExitCode, time::Duration};

use gear_api::Node;
use tokio::signal;

use crate::{
    options::{HELP, Options},
    protocol::Report,
    screen::say,
    web::Web,
};

/// How long an instance may take to finish what it has begun.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output, such as `head`, has seen enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        return Ok(say(HELP.trim_end())?);
    };
    let Options { url, roster, .. } = &options;

    // Every instance has a connection of its own, also where they share a process.
    let mut nodes = Vec::new();
    for repo in roster.repos().iter().filter(|repo| options.runs(repo)) {
        nodes.push(repo::start(gear::connect(url).await?, repo.clone()).await?);
    }
    for ctrl in roster.ctrls().iter().filter(|ctrl| options.runs(ctrl)) {
        let transport = gear::connect(url).await?;
        nodes.push(ctrl::start(transport, ctrl.clone(), roster.clone()).await?);
    }
    let outcome = if options.runs(roster.web()) {
        let transport = gear::connect(url).await?;
        let web = Web::start(transport, roster.web().clone(), roster.clone()).await?;
        let outcome = session::run(&web, &options).await;
        nodes.push(web.into_node());
        outcome
    } else {
        until_told_to_end(&nodes).await
    };
    let ended = shut_down(nodes).await;
    outcome?;
    Ok(ended?)
}

/// Serves until Ctrl-C, or the SIGTERM of whatever looks after processes.
async fn until_told_to_end(nodes: &[Node]) -> Result<(), Box<dyn Error>> {
    #[cfg(unix)]
    let mut terminated = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let terminated = terminated.recv();
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();

    for node in nodes {
        say(format!("{} has joined; Ctrl-C ends it", node.instance()))?;
    }
    tokio::select! {
        interrupted = signal::ctrl_c() => interrupted?,
        _ = terminated => {}
    }
    for node in nodes {
        let messages = Report::of(node.client(), None).messages.into_iter();
        let handled: Vec<String> =
            messages.map(|(name, count)| format!("{count} {name}")).collect();
        say(format!("{} has handled {}", node.instance(), handled.join(", ")))?;
    }
    Ok(())
}

/// Ends all nodes in order, those that ask before those that answer.
async fn shut_down(nodes: Vec<Node>) -> io::Result<()> {
    let count = nodes.len();
    let mut clean = 0;
    for node in nodes.into_iter().rev() {
        let instance = node.instance().clone();
        let report = node.shutdown(PATIENCE).await;
        if report.is_clean() {
            clean += 1;
        } else {
            say(format!(
                "  {instance} left {} requests unfinished and {} calls open",
                report.unfinished.len(),
                report.open_calls,
            ))?;
        }
    }
    say(format!("\n{clean} of {count} instances shut down with nothing left undone"))
}
