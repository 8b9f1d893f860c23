//! The services together, on a broker of their own, with time that passes by itself.

use std::{path::PathBuf, time::Duration};

use crate::{
    ctrl,
    input::{Input, SourceFile},
    options::Options,
    protocol::Settings,
    repo, verify,
    web::{Filled, Web},
};
use gear::memory::MemoryBroker;
use gear_api::Node;
use tokio::time::Instant;

/// A running search over this very example.
struct Running {
    web: Web,
    filled: Filled,
    /// The REPO first, in the order of the roster.
    nodes: Vec<Node>,
}

/// Starts the roster but for the REPO on `absent`. The nodes are the REPO first, in order.
async fn start_without(absent: &str) -> (Web, Vec<Node>) {
    let (broker, roster) = (MemoryBroker::new(), options().roster);
    let mut nodes = Vec::new();
    for repo in roster.repos().iter().filter(|repo| repo.host() != absent) {
        nodes.push(repo::start(broker.connect().into(), repo.clone()).await.unwrap());
    }
    for ctrl in roster.ctrls() {
        let node = ctrl::start(broker.connect().into(), ctrl.clone(), roster.clone());
        nodes.push(node.await.unwrap());
    }
    let web = Web::start(broker.connect().into(), roster.web().clone(), roster).await.unwrap();
    (web, nodes)
}

fn files() -> Vec<SourceFile> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/code_search");
    Input::of_folder(&folder).unwrap().files
}

async fn start() -> Running {
    let (web, nodes) = start_without("nowhere").await;
    let filled = web.fill(files()).await.unwrap();
    web.announce_filled().await.unwrap();
    Running { web, filled, nodes }
}

fn options() -> Options {
    Options::parse(Vec::new()).unwrap().unwrap()
}

#[tokio::test]
async fn every_answer_is_that_of_a_plain_scan() {
    let Running { web, filled, nodes: _nodes } = start().await;
    verify::run(&web, &filled, &options()).await.unwrap();
}

#[tokio::test]
async fn verify_fails_when_an_answer_is_wrong() {
    let Running { web, mut filled, nodes: _nodes } = start().await;
    // The scan misses a file that the index has.
    filled.files.pop();
    let error = verify::run(&web, &filled, &options()).await.unwrap_err();
    assert!(error.to_string().contains("from the plain scan"), "{error}");
}

#[tokio::test]
async fn indexing_again_changes_nothing() {
    let Running { web, filled, nodes: _nodes } = start().await;
    web.fill(filled.files.clone()).await.unwrap();
    verify::run(&web, &filled, &options()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_shard_is_not_there_is_not_lost_in_silence() {
    let (web, _nodes) = start_without("host3").await;
    let error = web.fill(files()).await.unwrap_err();
    assert_eq!(error.code(), Some("repo-failed"));
    assert!(error.to_string().contains("REPO.host3 did not store: nobody is there"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_gone_is_named_and_the_others_answer() {
    let Running { web, mut nodes, .. } = start().await;
    let whole = web.search("fn", 5, true).await.unwrap();
    assert!(whole.missing.is_empty());
    drop(nodes.remove(2));
    let rest = web.search("fn", 5, true).await.unwrap();
    assert_eq!(rest.missing, ["REPO.host3 (no answer in time)"]);
    assert!(rest.hits.lines < whole.hits.lines && rest.hits.lines > 0);
}

#[tokio::test(start_paused = true)]
async fn a_ctrl_that_is_gone_is_named_and_the_other_takes_the_settings() {
    let Running { web, mut nodes, .. } = start().await;
    drop(nodes.pop());
    let settings = Settings { case_sensitive: true, min_length: 3 };
    let gathered = web.configure(settings).await.unwrap();
    assert_eq!(gathered.missing, ["CTRL.host2 (no answer in time)"]);
    let found = web.search("Fn is too short", 5, true).await.unwrap();
    assert_eq!((found.by.as_str(), found.settings), ("CTRL.host1", settings));
    assert_eq!((found.ignored.len(), found.words.len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_ctrl_that_is_gone_is_waited_for_once_and_heard_when_it_is_back() {
    let (broker, roster) = (MemoryBroker::new(), options().roster);
    let start = |on: usize| {
        let ctrl = roster.ctrls()[on].clone();
        ctrl::start(broker.connect().into(), ctrl, roster.clone())
    };
    let (_one, two) = (start(0).await.unwrap(), start(1).await.unwrap());
    let web = Web::start(broker.connect().into(), roster.web().clone(), roster.clone());
    let web = web.await.unwrap();
    drop(two);
    web.configure(Settings::default()).await.unwrap();

    let started = Instant::now();
    let gathered = web.configure(Settings::default()).await.unwrap();
    assert_eq!(gathered.missing, ["CTRL.host2 (gone)"]);
    assert_eq!(started.elapsed(), Duration::ZERO);

    let _two = start(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(web.configure(Settings::default()).await.unwrap().missing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_web_says_who_has_not_joined() {
    let (web, _nodes) = start_without("host3").await;
    let mistake = web.wait_for_everyone().await.unwrap_err();
    assert_eq!(mistake, "still missing: REPO.host3 (no answer in time)");
}
