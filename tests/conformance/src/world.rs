//! What a test works with: its system, connections and nodes, and time that is exact where it
//! can be.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gear_api::{
    Capabilities, Client, Kind, Message, Node, NodeBuilder, Route, Service, Status, Transport,
};
use tokio::time::Instant;

use crate::{
    backend::{Backend, Connection, Full, System, Time},
    suite::Test,
};

/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much later than due something may be on a slow machine with a real broker.
const LATE: Duration = Duration::from_secs(10);
/// How much earlier than due a broker that counts whole milliseconds may be.
const EARLY: Duration = Duration::from_millis(5);

/// What a test works with. The clones are one.
#[derive(Clone)]
pub(crate) struct World {
    backend: Arc<dyn Backend>,
    system: Arc<dyn System>,
    /// Connections that live as long as the test.
    kept: Arc<Mutex<Vec<Arc<dyn Transport>>>>,
}

impl World {
    pub(crate) async fn new(backend: Arc<dyn Backend>) -> Test<Self> {
        let system = backend.system().await?.into();
        Ok(Self { backend, system, kept: Arc::default() })
    }

    /// Another system of the same backend.
    pub(crate) async fn another(&self) -> Test<Self> {
        Self::new(Arc::clone(&self.backend)).await
    }

    pub(crate) async fn end(&self) {
        self.kept().clear();
        self.system.end().await;
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<dyn Transport>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn capabilities(&self) -> Test<Capabilities> {
        Ok(self.link().await?.transport.capabilities())
    }

    /// A connection that a test can cut. It ends when nobody holds it any more.
    pub(crate) async fn link(&self) -> Test<Connection> {
        within(self.system.connect()).await
    }

    /// A connection that lives as long as the test.
    pub(crate) async fn connect(&self) -> Test<Arc<dyn Transport>> {
        let transport = self.link().await?.transport;
        self.kept().push(Arc::clone(&transport));
        Ok(transport)
    }

    /// A node to be put together.
    pub(crate) async fn node(&self, service: &Service, host: &str) -> Test<NodeBuilder<()>> {
        Ok(Node::builder(self.link().await?.transport, service.at(host)?))
    }

    /// A client that serves nothing.
    pub(crate) async fn client(&self) -> Test<Client> {
        let transport = self.link().await?.transport;
        Ok(Client::builder(transport, "CLI.test".parse()?).start().await?)
    }

    // What can be done to the system.

    /// Cuts a connection for so long; returns when its node has noticed, and sends nothing.
    pub(crate) async fn cut(&self, connection: &Connection, time: Duration) -> Test {
        let mut status = connection.transport.status();
        connection.link.cut(time).await?;
        within(status.wait_for(|status| !status.is_ready())).await?;
        // A node may have several connections, and notice it of one before the other.
        let nobody = "NOBODY.probe".parse()?;
        let probe = Message::builder(Kind::Cast, "probe").build();
        loop {
            let mut sent = connection.transport.send(Route::Address(&nobody), probe.clone());
            // What has left over a connection that is gone has no answer.
            if sent.withdraw()
                || tokio::time::timeout(Duration::from_millis(5), &mut sent).await.is_ok()
            {
                return Ok(());
            }
            sent.detach();
        }
    }

    /// Returns when the connection works.
    pub(crate) async fn ready(&self, transport: &dyn Transport) -> Test {
        within(transport.status().wait_for(Status::is_ready)).await?;
        Ok(())
    }

    pub(crate) async fn restart(&self) -> Test {
        self.system.restart().await
    }

    pub(crate) async fn alarm(&self, on: bool) -> Test {
        self.system.alarm(on).await
    }

    pub(crate) async fn delete_queue(&self, queue: &str) -> Test {
        self.system.delete_queue(queue).await
    }

    pub(crate) async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Test {
        self.system.limit_queue(queue, messages, when).await
    }

    /// What waits in a queue.
    pub(crate) async fn messages(&self, queue: &str) -> Test<Vec<Message>> {
        let messages = self.system.messages(queue).await?;
        messages.ok_or_else(|| format!("there is no queue {queue}").into())
    }

    /// Returns when so many messages wait in a queue; fails if that does not come.
    pub(crate) async fn waits(&self, queue: &str, count: usize) -> Test<Vec<Message>> {
        let due = Instant::now() + PATIENCE;
        loop {
            let messages = self.messages(queue).await?;
            if messages.len() == count {
                return Ok(messages);
            }
            assert!(Instant::now() < due, "{} wait in {queue}, not {count}", messages.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // Time.

    pub(crate) fn is_virtual(&self) -> bool {
        self.backend.time() == Time::Virtual
    }

    /// Returns when nothing more will happen by itself. No delivery may be held meanwhile.
    pub(crate) async fn quiet(&self) {
        within(self.system.quiet()).await;
    }

    /// Waits for that; returns whether it came.
    pub(crate) async fn rests(&self) -> bool {
        tokio::time::timeout(PATIENCE, self.system.quiet()).await.is_ok()
    }

    /// Time in which nothing may happen, while deliveries are held.
    pub(crate) async fn pause(&self) {
        let time = if self.is_virtual() { 1000 } else { 250 };
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    /// Checks that `time` has passed since `start`: exactly so much in virtual time.
    #[track_caller]
    pub(crate) fn took(&self, start: Instant, time: Duration) {
        let passed = start.elapsed();
        if self.is_virtual() {
            assert_eq!(passed, time);
        } else {
            assert!(passed + EARLY >= time, "{passed:?} is less than {time:?}");
            assert!(passed <= time + LATE, "{passed:?} is much more than {time:?}");
        }
    }
}

/// The result of `future`, if it comes.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let from = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("what was awaited at {from} did not come in {PATIENCE:?}"),
        }
    }
}

/// Returns when `holds` does; fails if that does not come.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}
