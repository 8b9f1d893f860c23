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

use crate::{
    options::{HELP, Options},
    roster::Roster,
    screen::say,
    web::Web,
};

/// How many instances of CTRL and of REPO there are.
const CTRLS: usize = 2;
const REPOS: usize = 4;

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
    let url = &options.url;
    let roster = Roster::new(CTRLS, REPOS)?;

    // Every instance has a connection of its own, as it would in a process of its own.
    let mut nodes = Vec::new();
    for repo in roster.repos() {
        nodes.push(repo::start(gear::connect(url).await?, repo.clone()).await?);
    }
    for ctrl in roster.ctrls() {
        let transport = gear::connect(url).await?;
        nodes.push(ctrl::start(transport, ctrl.clone(), roster.clone()).await?);
    }
    let transport = gear::connect(url).await?;
    let web = Web::start(transport, roster.web().clone(), roster.clone()).await?;

    let outcome = session::run(&web, &options).await;
    nodes.push(web.into_node());
    let ended = shut_down(nodes).await;
    outcome?;
    Ok(ended?)
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
