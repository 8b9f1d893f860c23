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

use gear_api::{PublishError, Text};
use lapin::{Channel, Connection};

use super::{
    Link, Publisher, State, Up,
    flight::Flight,
    time::{ABANDONED, patience},
};
use crate::{
    link::{
        declare::Declarer,
        rpc::{ANSWER, RpcError, code, is_reproach, open_confirming},
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
            if !front.suspect && state.sent.awaited().messages == 0 {
                state.careful = false; // all suspects are through
            }
            if !state.may_hand_over(&self.settings, front) {
                let Link::Up(up) = &state.link else { break };
                let undeclared = front.target.delay.filter(|delay| !up.delays.contains(delay));
                let works = !up.blocked && up.failed.is_none();
                let delay = undeclared.filter(|_| works)?;
                if let Some(error) = state.delays.refusal(delay) {
                    if let Some(mut front) = state.queue.pop_front() {
                        front.refuse(error);
                    }
                    continue;
                }
                if !state.declaring || state.careful {
                    return Some(Turn::Declare(delay));
                }
                // It goes on to wait, and keeps nobody else from leaving.
                let front = state.queue.pop_front();
                state.held.extend(front);
                continue;
            }
            if let Some(outgoing) = state.queue.pop_front() {
                self.hand_over(state, outgoing);
            }
        }
        if state.is_done() {
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
        let is_done = state.is_done();
        let State { link, sent, closing, oldest, .. } = &mut *state;
        let Link::Up(up) = link else { return Poll::Ready(Turn::Closed) };
        if let Some(error) = up.failed.take() {
            return Poll::Ready(Turn::Failed(error));
        }
        if *closing && is_done {
            return Poll::Ready(Turn::Closed);
        }
        if up.blocked {
            return Poll::Pending;
        }
        // What is on its way then is sent again, so a moment when nothing is will do better.
        let many = self.settings.options.max_unconfirmed.saturating_mul(ABANDONED);
        let (awaited, abandoned) = (sent.awaited().messages, sent.abandoned().messages);
        let too_many = abandoned >= many && (awaited == 0 || abandoned / 2 >= many);
        if too_many && up.flight.unwritten().is_none() {
            // Before anybody publishes on a channel that is about to be closed.
            state.detach(None);
            return Poll::Ready(Turn::Abandoned);
        }
        if oldest.take_overdue(sent.oldest().map(|(number, _)| number)) {
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
                        let refusal = RpcError::from(error.clone());
                        let why = Text::from(refusal.to_string());
                        self.detach(is_reproach(&error).then_some(&why));
                        if error.is_amqp_soft_error() && connection.status().connected() {
                            tracing::warn!(error = %why, "the broker closed the channel");
                            if refusal.is(code::NOT_FOUND) {
                                self.declare_again(connection).await;
                            }
                            break None;
                        }
                        break Some(Ended::Lost(why));
                    }
                    Turn::Declare(delay) => {
                        let heard = self.begin_to_declare();
                        let declaring = self.declare_delay(connection, delay);
                        let declared = self.draining(declaring).await;
                        let is_stuck = match &declared {
                            Err(RpcError::Silent { .. }) => {
                                !self.says_something(connection, heard)
                                    && !self.draining(self.probe(connection)).await
                                    && !self.says_something(connection, heard)
                            }
                            _ => false,
                        };
                        self.state().end_declaring();
                        match declared {
                            Ok(()) => {}
                            // Trying again at once would let nobody else run who could see that
                            // the connection is gone.
                            Err(RpcError::Lost(why)) => break Some(Ended::Lost(why)),
                            Err(_) if is_stuck => break Some(Ended::Stuck),
                            Err(error) => self.refuse_delay(delay, &error),
                        }
                    }
                    Turn::Overdue => {
                        let heard = {
                            let mut state = self.state();
                            state.suspicions += 1;
                            state.heard
                        };
                        let elsewhere = self.settings.options.endpoints.len() > 1;
                        let answers = self.draining(self.probe(connection)).await;
                        let suspicions = self.state().suspicions;
                        if !self.says_something(connection, heard)
                            && (!answers || (elsewhere && suspicions > 1))
                        {
                            break Some(Ended::Stuck);
                        }
                    }
                    Turn::Abandoned => {
                        tracing::warn!("too many messages expired unconfirmed: another channel");
                        self.detached();
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

    /// Publishes while something else is awaited.
    async fn draining<T>(&self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            self.signal.task.register(cx.waker());
            let mut state = self.state();
            self.drain(&mut state);
            // What is to be done first is found again in the next turn.
            let _ = self.fill(&mut state);
            drop(state);
            other.as_mut().poll(cx)
        })
        .await
    }

    /// Returns what was heard of the broker so far.
    fn begin_to_declare(&self) -> u64 {
        let mut state = self.state();
        state.declaring = true;
        state.heard
    }

    /// Whether the broker is well although a question is not answered. That something was confirmed
    /// since `heard` is an answer, too; and under an alarm it does not even read the question
    /// (<https://www.rabbitmq.com/docs/connection-blocked>).
    fn says_something(&self, connection: &Connection, heard: u64) -> bool {
        connection.status().blocked() || self.state().heard != heard
    }

    /// Whether the broker still answers what needs its cluster.
    async fn probe(&self, connection: &Connection) -> bool {
        let Settings { options, names } = &*self.settings;
        let asking = async {
            loop {
                let mut declarer = Declarer::new(connection, names, options.topology);
                match declarer.exchanges().await {
                    Err(RpcError::Silent { .. }) => {}
                    Ok(were_missing) => {
                        if were_missing {
                            self.redeclared.notify_one();
                        }
                        return true;
                    }
                    Err(_) => return false,
                }
            }
        };
        // The question waits until what was sent before it is through.
        let limit = {
            let sent = &self.state().sent;
            patience(ANSWER, sent.awaited().bytes + sent.abandoned().bytes)
        };
        tokio::time::timeout(limit, asking).await.unwrap_or(false)
    }

    fn attach(&self, connection: &Connection, channel: Channel, user: &str) {
        let mut state = self.state();
        if matches!(state.link, Link::Closed) {
            return;
        }
        state.link = Link::Up(Box::new(Up {
            flight: Flight::new(channel, &self.signal, Arc::clone(&self.gate)),
            blocked: connection.status().blocked(),
            failed: None,
            frame_max: connection.configuration().frame_max() as usize,
            delays: HashSet::new(),
            user: self.settings.options.send_user_id.then(|| user.to_owned()),
        }));
        state.suspicions = 0;
        state.delays.ask_again();
        drop(state);
        self.board.publishing(true);
    }

    /// The channel is gone.
    fn detach(&self, reproach: Option<&Text>) {
        let mut state = self.state();
        let Link::Up(_) = &state.link else { return };
        self.drain(&mut state); // the last confirms
        state.detach(reproach);
        drop(state);
        self.detached();
    }

    fn detached(&self) {
        self.gate.open();
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
        let mut state = self.state();
        if matches!(state.link, Link::Replacing) {
            state.link = Link::Down;
        }
    }

    /// There was no such exchange: somebody has deleted it. Those of delays are declared when the
    /// next message is for them.
    async fn declare_again(&self, connection: &Connection) {
        let Settings { options, names } = &*self.settings;
        let mut declarer = Declarer::new(connection, names, options.topology).again(true);
        match declarer.exchanges().await {
            // Somebody else may have been faster: what was bound is gone all the same.
            Ok(_) => {
                declarer.done().await;
                self.redeclared.notify_one();
            }
            Err(error) => tracing::warn!(%error, "the exchanges can not be declared"),
        }
    }

    /// The broker takes nothing for now, or takes messages again.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        let mut state = self.state();
        if let Link::Up(up) = &mut state.link {
            up.blocked = blocked;
        }
        state.heard();
        drop(state);
        self.waker.wake_by_ref();
    }
}

impl State {
    /// The broker has said something by itself.
    pub(super) fn heard(&mut self) {
        self.heard += 1;
        self.suspicions = 0;
    }

    /// Those that were held back have their place again: before all that came later.
    pub(super) fn end_declaring(&mut self) {
        self.declaring = false;
        while let Some(outgoing) = self.held.pop() {
            self.queue.push_front(outgoing);
        }
    }

    /// What is not confirmed goes back to the front of the queue, to be sent again. `reproach` is
    /// why the broker closed the channel, if one of the messages may be the reason.
    fn detach(&mut self, reproach: Option<&Text>) {
        self.link = Link::Replacing;
        self.end_declaring();
        let mut unconfirmed = self.sent.take();
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
                self.careful |= reproach.is_some();
                self.queue.push_front(outgoing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::publishing::outgoing::Outgoing;

    /// An expired one is not sent again, so that the next time nobody else can be the reason.
    #[test]
    fn who_was_beside_an_expired_one_is_not_to_blame() {
        let mut state = State::new();
        let now = Instant::now();
        let why = Text::from_static("too large");
        for _ in 0..2 {
            state.sent.push(Outgoing::of_test(10, Some(now)));
            state.sent.push(Outgoing::of_test(10, None));
            assert!(state.sent.expire(now, u64::MAX));
            state.detach(Some(&why));
            assert_eq!(state.queue.len(), 1, "the one that somebody waits for");
            let innocent = state.queue.pop_front().expect("it is there");
            assert_eq!(innocent.alone_when_closed, 0);
            assert!(innocent.suspect && !innocent.lost);
        }
    }
}
