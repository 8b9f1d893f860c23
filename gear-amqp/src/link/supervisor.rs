//! Keeps one connection up, for ever or until it is closed.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use gear_api::Text;
use lapin::{Connection, ErrorKind, Event};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    AmqpError,
    consuming::Consumers,
    link::board::Board,
    link::choice::Choice,
    link::connection::{self, Open},
    link::declare::Declarer,
    link::pause::Pause,
    link::rpc::RpcError,
    publishing::{Ended, Publisher},
    settings::Settings,
};

/// lapin ends the connection for that, and the next one brings the same again.
const UNREADABLE: &str = "what the broker sends can not be read: a message at the head of a queue of \
    this node may have a property that is not UTF-8, and has to be removed there";

/// What one connection is for.
pub(crate) struct Supervisor {
    pub(crate) settings: Arc<Settings>,
    pub(crate) board: Arc<Board>,
    pub(crate) publisher: Option<Arc<Publisher>>,
    pub(crate) consumers: Option<Arc<Consumers>>,
    /// True when the transport is closed.
    pub(crate) closing: watch::Receiver<bool>,
    pub(crate) choice: Arc<Choice>,
}

/// Opens all connections of a node at one broker, and declares there what every node needs. Tries
/// the brokers in turn, each once.
pub(crate) async fn start(supervisors: &[Supervisor]) -> Result<Vec<Open>, AmqpError> {
    let mut worst = Worst::default();
    let brokers = supervisors.first().map_or(0, |first| first.settings.options.endpoints.len());
    for _ in 0..brokers {
        let at = supervisors.first().map_or(0, |first| first.choice.at());
        match start_at(at, supervisors).await {
            Ok(links) => return Ok(links),
            Err(error) => worst.add(error),
        }
        supervisors.iter().for_each(|supervisor| supervisor.choice.move_on(at));
    }
    Err(worst.into())
}

/// Ends its connections on dropping.
struct Links(Vec<Open>);

impl Drop for Links {
    fn drop(&mut self) {
        if let Ok(runtime) = Handle::try_current() {
            self.0.iter().for_each(|link| drop(runtime.spawn(link.goodbye().say())));
        }
    }
}

async fn start_at(at: usize, supervisors: &[Supervisor]) -> Result<Vec<Open>, AmqpError> {
    let mut links = Links(Vec::new());
    for supervisor in supervisors {
        links.0.push(supervisor.open_at(at).await?);
    }
    let first = links.0.first().map(|link| (Arc::clone(&link.connection), link.broker.clone()));
    if let (Some(supervisor), Some((connection, broker))) = (supervisors.first(), first) {
        // A node that is cut off from its cluster accepts connections, and answers no more.
        let limit = supervisor.settings.options.connect_timeout;
        let declare = tokio::time::timeout(limit, supervisor.declare(&connection, false));
        let declared =
            declare.await.unwrap_or(Err(RpcError::Silent { what: "the exchanges", limit }));
        declared.map_err(|error| AmqpError::of_start(error, &broker))?;
    }
    Ok(std::mem::take(&mut links.0))
}

/// Of several errors that which tells most.
#[derive(Default)]
struct Worst(Option<AmqpError>);

impl Worst {
    fn add(&mut self, error: AmqpError) {
        // A broker that refuses tells more than one that is silent, and that than one that is not
        // there.
        let tells = |error: &AmqpError| match error {
            AmqpError::Unreachable { .. } => 0,
            AmqpError::Silent { .. } => 1,
            _ => 2,
        };
        if self.0.as_ref().is_none_or(|worst| tells(worst) < tells(&error)) {
            self.0 = Some(error);
        }
    }
}

impl From<Worst> for AmqpError {
    fn from(worst: Worst) -> Self {
        worst.0.unwrap_or(Self::InvalidUrl("it names no host"))
    }
}

impl Supervisor {
    fn purpose(&self) -> &'static str {
        match (&self.publisher, &self.consumers) {
            (Some(_), Some(_)) => "all",
            (Some(_), None) => "publish",
            _ => "consume",
        }
    }

    /// Tries the brokers in turn, each once.
    async fn open(&self) -> Result<Open, AmqpError> {
        let mut worst = Worst::default();
        for _ in 0..self.settings.options.endpoints.len() {
            let at = self.choice.at();
            match self.open_at(at).await {
                Ok(open) => return Ok(open),
                Err(error) => worst.add(error),
            }
            self.choice.move_on(at);
        }
        Err(worst.into())
    }

    async fn open_at(&self, at: usize) -> Result<Open, AmqpError> {
        connection::open(Arc::clone(&self.settings), at, self.purpose()).await
    }

    /// What every node needs to exist, for the first time or again.
    async fn declare(&self, connection: &Connection, again: bool) -> Result<(), RpcError> {
        let Settings { options, names } = &*self.settings;
        let mut declarer = Declarer::new(connection, names, options.topology).again(again);
        let declared = declarer.exchanges().await;
        declarer.done().await;
        let were_missing = declared?;
        if let Some(publisher) = self.publisher.as_ref().filter(|_| again && were_missing) {
            publisher.redeclared.notify_one();
        }
        Ok(())
    }

    /// Serves `open`, and then connects again, and again.
    pub(crate) async fn run(self, open: Open) {
        let mut closing = self.closing.clone();
        let mut open = Some(open);
        let mut is_declared = true;
        let mut pause = Pause::new();
        loop {
            let link = match open.take() {
                Some(link) => link,
                None => tokio::select! {
                    _ = closing.wait_for(|closing| *closing) => return,
                    link = self.reconnect(&mut pause) => link,
                },
            };
            let since = Instant::now();
            let goodbye = link.goodbye();
            let (at, broker) = (link.at, link.broker.clone());
            let ended = {
                let mut serving = pin!(self.serve(link, is_declared));
                let told = async { drop(closing.wait_for(|closing| *closing).await) };
                tokio::select! {
                    biased;
                    () = told => {
                        // Before its channels are dropped: lapin would close each of them, find
                        // their connection closing, and end that without a word to the broker,
                        // which may then not read the last acks.
                        goodbye.say().await;
                        return self.lost();
                    }
                    ended = &mut serving => ended,
                    () = self.choice.given_up(at) => Ended::Stuck,
                }
            };
            is_declared = false;
            self.lost();
            let has_worked = pause.worked(since.elapsed());
            match ended {
                Ended::Lost(why) => {
                    tracing::warn!(%broker, %why, purpose = self.purpose(), "connection lost");
                    if !has_worked {
                        self.choice.move_on(at);
                    }
                }
                Ended::Stuck => {
                    let purpose = self.purpose();
                    tracing::warn!(%broker, purpose, "the broker is of no use; trying another");
                    self.choice.give_up(at);
                }
            }
            // It may be half open: nobody waits for its goodbye.
            tokio::spawn(goodbye.say());
        }
    }

    fn lost(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.lost();
            self.board.blocked(None); // the next connection says so anew
        }
        if let Some(consumers) = &self.consumers {
            consumers.lost();
        }
    }

    async fn reconnect(&self, pause: &mut Pause) -> Open {
        loop {
            sleep(pause.next()).await;
            match self.open().await {
                Ok(open) => {
                    tracing::info!(broker = %open.broker, purpose = self.purpose(), "connected again");
                    return open;
                }
                Err(error) => tracing::warn!(%error, purpose = self.purpose(), "not connected"),
            }
        }
    }

    async fn serve(&self, link: Open, is_declared: bool) -> Ended {
        if !is_declared && let Err(error) = self.declare(&link.connection, true).await {
            tracing::warn!(%error, "the exchanges can not be declared");
            // A cluster that has just lost a node can not write, but routes by what it knows.
            if !matches!(error, RpcError::Silent { .. }) {
                return Ended::Lost(error.to_string().into());
            }
        }
        let Open { connection, mut events, user, .. } = link;
        let publishing = async {
            match &self.publisher {
                Some(publisher) => publisher.serve(&connection, &user).await,
                None => std::future::pending().await,
            }
        };
        let consuming = async {
            match &self.consumers {
                Some(consumers) => consumers.serve(&connection).await,
                None => std::future::pending().await,
            }
            Ended::Stuck
        };
        let watching = async {
            /// lapin does not always say that a connection is gone.
            const LOOK: Duration = Duration::from_millis(100);
            loop {
                let event = tokio::time::timeout(LOOK, events.next()).await;
                match event {
                    Ok(Some(Event::ConnectionBlocked(why))) => self.blocked(Some(why.into())),
                    Ok(Some(Event::ConnectionUnblocked)) => self.blocked(None),
                    Ok(Some(Event::Error(error))) if !connection.status().connected() => {
                        if matches!(error.kind(), ErrorKind::ParsingError(_)) {
                            tracing::error!("{UNREADABLE}");
                        }
                        return Ended::Lost(error.to_string().into());
                    }
                    _ if !connection.status().connected() => {
                        return Ended::Lost(Text::from_static("the connection was closed"));
                    }
                    Ok(None) => sleep(LOOK).await,
                    _ => {}
                }
            }
        };
        tokio::select! {
            ended = publishing => ended,
            ended = consuming => ended,
            ended = watching => ended,
        }
    }

    fn blocked(&self, why: Option<Text>) {
        if let Some(publisher) = &self.publisher {
            publisher.set_blocked(why.is_some());
            self.board.blocked(why);
        }
    }
}
