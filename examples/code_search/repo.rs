//! REPO: keeps a shard of the index and answers for it.
//! What a shard is and how it finds lines is in shard.rs; this is how it is reached.

use std::sync::{Arc, PoisonError, RwLock};

use gear_api::{Context, Fault, Instance, Node, StartError, Transport};

use crate::{
    protocol::{FILLED, Hits, LOOKUP, Lookup, MAX_BODY_BYTES, PATHS, REPORT, Report, STORE, Sheet},
    shard::Shard,
};

/// The shard, which queries read while files come in.
type Repo = RwLock<Shard>;

/// Starts the REPO that is `instance`, with an empty shard.
pub(crate) async fn start(
    transport: Arc<dyn Transport>,
    instance: Instance,
) -> Result<Node, StartError> {
    Node::builder(transport, instance)
        .max_body_bytes(MAX_BODY_BYTES)
        .state(Repo::default())
        .on(STORE, store)
        .on(LOOKUP, lookup)
        .on(FILLED, filled)
        .on(PATHS, paths)
        .on(REPORT, report)
        .start()
        .await
}

async fn store(repo: Arc<Repo>, _: Context, sheet: Sheet) -> Result<(), Fault> {
    repo.write().unwrap_or_else(PoisonError::into_inner).store(sheet);
    Ok(())
}

async fn lookup(repo: Arc<Repo>, _: Context, query: Lookup) -> Result<Hits, Fault> {
    Ok(repo.read().unwrap_or_else(PoisonError::into_inner).lookup(&query))
}

/// Room that was kept for more files is given back.
async fn filled(repo: Arc<Repo>, _: Context, (): ()) -> Result<(), Fault> {
    repo.write().unwrap_or_else(PoisonError::into_inner).compact();
    Ok(())
}

async fn paths(repo: Arc<Repo>, _: Context, (): ()) -> Result<Vec<String>, Fault> {
    Ok(repo.read().unwrap_or_else(PoisonError::into_inner).paths())
}

async fn report(repo: Arc<Repo>, cx: Context, (): ()) -> Result<Report, Fault> {
    let size = repo.read().unwrap_or_else(PoisonError::into_inner).size();
    Ok(Report::of(&cx.client(), Some(size)))
}
