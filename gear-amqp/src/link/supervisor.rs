//! Keeps one connection up, for ever or until it is closed.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use gear_api::Text;
use lapin::{Connection, Event};
use tokio::{sync::watch, time::sleep};

use crate::{
    AmqpError,
    consuming::{Consumers, Pause},
    link::board::Board,
    link::connection::{self, Open},
    link::declare::Declarer,
    link::rpc::RpcError,
    publishing::{Ended, Publisher},
    settings::Settings,
};

/// What one connection is for.
pub(crate) struct Supervisor {
    pub(crate) settings: Arc<Settings>,
    pub(crate) board: Arc<Board>,
    pub(crate) publisher: Option<Arc<Publisher>>,
    pub(crate) consumers: Option<Arc<Consumers>>,
    /// True when the transport is closed.
    pub(crate) closing: watch::Receiver<bool>,
    /// Which broker is tried next.
    pub(crate) next: usize,
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
    pub(crate) async fn open(&mut self) -> Result<Open, AmqpError> {
        let brokers = self.settings.options.endpoints.len();
        let mut worst: Option<AmqpError> = None;
        for _ in 0..brokers {
            let endpoint = self.settings.options.endpoints[self.next % brokers].clone();
            let settings = Arc::clone(&self.settings);
            match connection::open(settings, endpoint, self.purpose()).await {
                Ok(open) => return Ok(open),
                Err(error) => {
                    self.next = self.next.wrapping_add(1);
                    // A broker that refuses tells more than one that is not there.
                    if worst.as_ref().is_none_or(AmqpError::is_transient) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or(AmqpError::InvalidUrl("it names no host")))
    }

    /// What every node needs to exist.
    pub(crate) async fn declare(&self, connection: &Connection) -> Result<(), RpcError> {
        let Settings { options, names } = &*self.settings;
        let mut declarer = Declarer::new(connection, names, options.topology);
        let declared = declarer.exchanges().await;
        declarer.done().await;
        declared
    }

    /// Serves `open`, and then connects again, and again.
    pub(crate) async fn run(mut self, open: Open) {
        let mut closing = self.closing.clone();
        let mut open = Some(open);
        let mut is_declared = true;
        loop {
            let link = match open.take() {
                Some(link) => link,
                None => tokio::select! {
                    _ = closing.wait_for(|closing| *closing) => return,
                    link = self.reconnect() => link,
                },
            };
            let connection = Arc::clone(&link.connection);
            let broker = link.broker.clone();
            let ended = {
                let mut serving = pin!(self.serve(link, is_declared));
                let told = async { drop(closing.wait_for(|closing| *closing).await) };
                tokio::select! {
                    biased;
                    () = told => {
                        // Before its channels are dropped: lapin would close each of them, find
                        // their connection closing, and end that without a word to the broker,
                        // which may then not read the last acks.
                        connection::close(&connection).await;
                        return self.lost();
                    }
                    ended = &mut serving => ended,
                }
            };
            is_declared = false;
            self.lost();
            match ended {
                Ended::Lost(why) => {
                    tracing::warn!(%broker, %why, purpose = self.purpose(), "connection lost");
                    // It may be half open: nobody waits for its goodbye.
                    tokio::spawn(async move { connection::close(&connection).await });
                }
                Ended::Stuck => {
                    tracing::warn!(%broker, "the broker confirms nothing; trying another");
                    self.next = self.next.wrapping_add(1);
                    tokio::spawn(async move { connection::close(&connection).await });
                    sleep(Pause::new().next()).await;
                }
            }
        }
    }

    fn lost(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.lost();
        }
        if let Some(consumers) = &self.consumers {
            consumers.lost();
        }
    }

    async fn reconnect(&mut self) -> Open {
        let mut pause = Pause::new();
        loop {
            match self.open().await {
                Ok(open) => {
                    tracing::info!(broker = %open.broker, purpose = self.purpose(), "connected again");
                    return open;
                }
                Err(error) => tracing::warn!(%error, purpose = self.purpose(), "not connected"),
            }
            sleep(pause.next()).await;
        }
    }

    async fn serve(&self, link: Open, is_declared: bool) -> Ended {
        if !is_declared && let Err(error) = self.declare(&link.connection).await {
            tracing::warn!(%error, "the exchanges can not be declared");
            // A cluster that has just lost a node can not write, but routes by what it knows.
            if !matches!(error, RpcError::Silent { .. }) {
                sleep(Duration::from_secs(1)).await;
                return Ended::Lost(error.to_string().into());
            }
        }
        let Open { connection, mut events, .. } = link;
        let publishing = async {
            match &self.publisher {
                Some(publisher) => publisher.serve(&connection).await,
                None => std::future::pending().await,
            }
        };
        let consuming = async {
            match &self.consumers {
                Some(consumers) => consumers.serve(&connection).await,
                None => std::future::pending().await,
            }
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
            never = consuming => match never {},
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
