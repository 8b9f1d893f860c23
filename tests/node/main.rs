//! What Node and Client promise and only the broker in memory can show: exact virtual time,
//! faults on demand, and an account of what is left. All else that they promise is in
//! `tests/conformance/`, for every backend.

mod accounts;
mod answers;
mod bounds;
mod duplicates;
mod handing_on;
mod injected;
mod layers;
mod panics;
mod readiness;
mod retries;
mod shutdown;
mod simulation;
mod time;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gear::{
    Caller, Client, Context, Fault, Node, NodeBuilder, Operation, Outcome, Service,
    memory::MemoryBroker,
};

pub(crate) const CTRL: Service = Service::new("CTRL");
pub(crate) const REPO: Service = Service::new("REPO");

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const WHO: Operation<(), String> = Operation::new("who");
pub(crate) const ECHO: Operation<String, String> = Operation::new("echo");
pub(crate) const NOTE: Operation<String, ()> = Operation::new("note");

/// A test's result: any error fails it.
pub(crate) type Test<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A broker whose runs are all the same.
pub(crate) fn broker() -> MemoryBroker {
    MemoryBroker::builder().seed(1).record(1000).build()
}

/// A node to be put together.
pub(crate) fn node(broker: &MemoryBroker, service: &Service, host: &str) -> NodeBuilder<()> {
    Node::builder(broker.connect(), service.at(host).expect("a valid host"))
}

/// A client that serves nothing.
pub(crate) async fn client(broker: &MemoryBroker) -> Client {
    let name = "CLI.test".parse().expect("a valid name");
    Client::builder(broker.connect(), name).start().await.expect("the broker is up")
}

/// A list that handlers write to and tests read.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.0.lock().expect("no test panics in here").push(line.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().expect("no test panics in here").len()
    }

    /// The lines so far; the log is empty then.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no test panics in here"))
    }
}

pub(crate) async fn who(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
    Ok(cx.instance().to_string())
}

pub(crate) async fn slow_echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SECOND).await;
    Ok(text)
}

/// Writes down who got what, under which key.
pub(crate) async fn note(log: Arc<Log>, cx: Context, text: String) -> Result<(), Fault> {
    log.add(format!("{} {} {text}", cx.instance(), cx.key()));
    Ok(())
}

/// Lets REPO answer whoever asked.
pub(crate) async fn to_repo(
    _: Arc<()>,
    _: Context,
    text: String,
    caller: Caller<String>,
) -> Result<Outcome, Fault> {
    Ok(caller.forward(REPO, ECHO, &text).await?)
}
