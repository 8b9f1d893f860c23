//! The task that publishes: it awaits confirms, hands over what waits, and decides what becomes of
//! messages when their channel goes.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gear_api::{PublishError, Text, topology};
use lapin::{Channel, Connection};

use super::{
    Link, Publisher, State, Up,
    flight::Flight,
    time::{ABANDONED, patience},
};
use crate::{
    link::{
        declare::{Declarer, Owner},
        rpc::{ANSWER, RpcError, is_reproach, open_confirming},
    },
    settings::Settings,
};

/// Why a connection is served no more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The connection is gone, or of no use.
    Lost(Text),
    /// It stays open and does not answer: another broker of the cluster may.
    Stuck,
}

enum Turn {
    Failed(lapin::Error),
    Declare(Duration),
    Overdue,
    /// Too many confirms are awaited for nobody.
    Abandoned,
    /// [`Publisher::close`] was called, and everything is answered.
    Closed,
}

impl Publisher {
    /// Hands over what waits, as far as it may.
    fn fill(&self, state: &mut State) -> Option<Turn> {
        while let Some(front) = state.queue.front() {
            if front.is_withdrawn() {
                state.queue.pop_front();
                continue;
            }
            if !front.suspect && state.awaited() == 0 {
                state.careful = false; // all suspects are through
            }
            if !state.may_hand_over(&self.settings, front) {
                let Link::Up(up) = &state.link else { break };
                let undeclared = front.target.delay.filter(|delay| !up.delays.contains(delay));
                let works = !up.blocked && up.failed.is_none();
                return undeclared.filter(|_| works).map(Turn::Declare);
            }
            if let Some(outgoing) = state.queue.pop_front() {
                self.hand_over(state, outgoing);
            }
        }
        if state.queue.is_empty() && state.awaited() == 0 {
            state.careful = false;
        }
        None
    }

    fn turn(&self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.signal.task.register(cx.waker());
        let mut state = self.state();
        self.drain(&mut state);
        if let Some(turn) = self.fill(&mut state) {
            return Poll::Ready(turn);
        }
        let awaited = state.awaited();
        let is_answered = state.queue.is_empty() && awaited == 0;
        let State { link, window, abandoned, closing, oldest, .. } = &mut *state;
        let Link::Up(up) = link else { return Poll::Ready(Turn::Closed) };
        if let Some(error) = up.failed.take() {
            return Poll::Ready(Turn::Failed(error));
        }
        if *closing && is_answered {
            return Poll::Ready(Turn::Closed);
        }
        // What is on its way then is sent again, so a moment when nothing is will do better.
        let many = self.settings.options.max_unconfirmed.saturating_mul(ABANDONED);
        let too_many = *abandoned >= many && (awaited == 0 || *abandoned / 2 >= many);
        if too_many && up.flight.unwritten().is_none() {
            return Poll::Ready(Turn::Abandoned);
        }
        if !up.blocked && oldest.take_overdue(window.oldest().map(|(number, _)| number)) {
            return Poll::Ready(Turn::Overdue);
        }
        Poll::Pending
    }

    /// Publishes over `connection` for as long as that works.
    pub(crate) async fn serve(&self, connection: &Connection, user: &str) -> Ended {
        loop {
            let channel = match open_confirming(connection).await {
                Ok(channel) => channel,
                Err(error) => return Ended::Lost(error.to_string().into()),
            };
            self.attach(connection, channel.clone(), user);
            let ended = loop {
                match poll_fn(|cx| self.turn(cx)).await {
                    // The channel stays until its connection is closed.
                    Turn::Closed => std::future::pending().await,
                    Turn::Failed(error) => {
                        let why = Text::from(RpcError::from(error.clone()).to_string());
                        self.detach(is_reproach(&error).then_some(&why));
                        if error.is_amqp_soft_error() && connection.status().connected() {
                            tracing::warn!(error = %why, "the broker closed the channel");
                            break None;
                        }
                        break Some(Ended::Lost(why));
                    }
                    Turn::Declare(delay) => {
                        let declaring = self.declare_delay(connection, delay);
                        match self.draining(declaring).await {
                            Ok(()) => {}
                            // Trying again at once would let nobody else run who could see that
                            // the connection is gone.
                            Err(RpcError::Lost(why)) => break Some(Ended::Lost(why)),
                            Err(RpcError::Silent { .. })
                                if !self.draining(self.probe(connection)).await =>
                            {
                                break Some(Ended::Stuck);
                            }
                            Err(error) => self.refuse_delay(delay, &error),
                        }
                    }
                    Turn::Overdue => {
                        self.state().suspicions += 1;
                        let elsewhere = self.settings.options.endpoints.len() > 1;
                        let answers = self.draining(self.probe(connection)).await;
                        // None, if anything was confirmed meanwhile.
                        let suspicions = self.state().suspicions;
                        if !answers || (elsewhere && suspicions > 1) {
                            break Some(Ended::Stuck);
                        }
                    }
                    Turn::Abandoned => {
                        tracing::warn!("too many messages expired unconfirmed: another channel");
                        self.detach(None);
                        break None;
                    }
                }
            };
            if let Some(ended) = ended {
                self.detach(None);
                return ended;
            }
        }
    }

    /// Hands out confirms while something else is awaited.
    async fn draining<T>(&self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            self.signal.task.register(cx.waker());
            self.drain(&mut self.state());
            other.as_mut().poll(cx)
        })
        .await
    }

    /// Whether the broker still answers what needs its cluster.
    async fn probe(&self, connection: &Connection) -> bool {
        let Settings { options, names } = &*self.settings;
        let asking = async {
            loop {
                let mut declarer = Declarer::new(connection, names, options.topology);
                match declarer.exchanges().await {
                    Err(RpcError::Silent { .. }) => {}
                    answer => return answer.is_ok(),
                }
            }
        };
        // The question waits until what was sent before it is through.
        let limit = patience(ANSWER, self.state().bytes);
        tokio::time::timeout(limit, asking).await.unwrap_or(false)
    }

    fn attach(&self, connection: &Connection, channel: Channel, user: &str) {
        let mut state = self.state();
        if matches!(state.link, Link::Closed) {
            return;
        }
        state.link = Link::Up(Box::new(Up {
            flight: Flight::new(channel, &self.signal, Arc::clone(&self.gate)),
            blocked: false,
            failed: None,
            frame_max: connection.configuration().frame_max() as usize,
            delays: HashSet::new(),
            user: self.settings.options.send_user_id.then(|| user.to_owned()),
        }));
        state.suspicions = 0;
        drop(state);
        self.board.publishing(true);
    }

    /// The channel is gone: what is not confirmed goes back to the front of the queue, to be sent
    /// again. `reproach` is why the broker closed it, if one of the messages may be the reason.
    fn detach(&self, reproach: Option<&Text>) {
        let mut state = self.state();
        let Link::Up(_) = &state.link else { return };
        self.drain(&mut state); // the last confirms
        state.link = Link::Down;
        state.bytes = 0;
        state.abandoned = 0;
        self.gate.open();
        let mut unconfirmed = state.window.take();
        unconfirmed.retain(|outgoing| !outgoing.is_answered());
        if let (Some(why), [alone]) = (reproach, unconfirmed.as_mut_slice()) {
            // The second time nobody else can be the reason.
            alone.alone_when_closed += 1;
            if alone.alone_when_closed == 2 {
                alone.refuse(PublishError::Refused(why.clone()));
            }
        }
        for mut outgoing in unconfirmed.into_iter().rev() {
            if !outgoing.is_answered() {
                outgoing.lost |= reproach.is_none();
                outgoing.suspect |= reproach.is_some();
                state.careful |= reproach.is_some();
                state.queue.push_front(outgoing);
            }
        }
        drop(state);
        self.board.publishing(false);
    }

    /// The connection is gone.
    pub(crate) fn lost(&self) {
        // Nothing may have been read from the channel since the broker closed it.
        let mut state = self.state();
        self.drain(&mut state);
        let failed = match &mut state.link {
            Link::Up(up) => up.failed.take(),
            _ => None,
        };
        drop(state);
        let reproach = failed.filter(is_reproach).map(|error| Text::from(error.to_string()));
        self.detach(reproach.as_ref());
    }

    /// The broker takes nothing for now, or takes messages again.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        let mut state = self.state();
        if let Link::Up(up) = &mut state.link {
            up.blocked = blocked;
        }
        drop(state);
        self.waker.wake_by_ref();
    }

    async fn declare_delay(
        &self,
        connection: &Connection,
        delay: Duration,
    ) -> Result<(), RpcError> {
        let (exchange, mut declaration) = topology::delay(delay);
        declaration.queue.queue_type = self.settings.options.queue_type;
        let mode = self.settings.options.topology;
        let again = self.state().declared.contains(&delay);
        let mut declarer = Declarer::new(connection, &self.settings.names, mode).again(again);
        declarer.exchange(&exchange).await?;
        declarer.queue(&declaration, Owner::Many).await?;
        declarer.done().await;
        let mut state = self.state();
        state.declared.insert(delay);
        if let Link::Up(up) = &mut state.link {
            up.delays.insert(delay);
        }
        Ok(())
    }

    /// Those that wait for this delay are told; with a lost connection they wait on.
    fn refuse_delay(&self, delay: Duration, error: &RpcError) {
        if !matches!(error, RpcError::Refused { .. }) {
            return;
        }
        // They are gone at once: the next try may work, and what was refused must not be sent.
        self.state().queue.retain_mut(|outgoing| {
            let is_for_it = outgoing.target.delay == Some(delay);
            if is_for_it {
                outgoing.refuse(PublishError::Refused(error.to_string().into()));
            }
            !is_for_it
        });
    }
}
