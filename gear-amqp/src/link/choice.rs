//! Which broker a node's connections are to: all to the same one, and what one of them finds out
//! about it the others need not find out themselves.

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Choice(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    /// Counts on for ever; which broker it is depends on how many there are.
    at: usize,
    /// Up to here they are of no use to anybody.
    given_up: Option<usize>,
}

impl Choice {
    pub(crate) fn new(at: usize) -> Self {
        Self(watch::Sender::new(State { at, given_up: None }))
    }

    pub(crate) fn at(&self) -> usize {
        self.0.borrow().at
    }

    /// The next connection is to another than `at`, unless that is so already.
    pub(crate) fn move_on(&self, at: usize) {
        self.0.send_if_modified(|state| {
            let is_there = state.at == at;
            state.at = if is_there { at.wrapping_add(1) } else { state.at };
            false
        });
    }

    /// Whoever is connected to `at` is to leave it.
    pub(crate) fn give_up(&self, at: usize) {
        self.move_on(at);
        self.0.send_modify(|state| state.given_up = Some(at));
    }

    /// Returns when [`give_up`](Self::give_up) was called for `at`.
    pub(crate) async fn given_up(&self, at: usize) {
        let mut state = self.0.subscribe();
        let _ = state.wait_for(|state| state.given_up == Some(at)).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn two_that_fail_at_one_broker_move_on_once() {
        let choice = Choice::new(7);
        choice.move_on(7);
        choice.move_on(7);
        assert_eq!(choice.at(), 8);
    }

    #[test]
    fn who_is_there_leaves_and_who_is_not_stays() {
        let choice = Choice::new(7);
        choice.move_on(7);
        choice.give_up(7);
        assert_eq!(choice.at(), 8);
        assert!(choice.given_up(7).now_or_never().is_some());
        assert!(choice.given_up(8).now_or_never().is_none());
        choice.give_up(8);
        assert!(choice.given_up(8).now_or_never().is_some());
    }
}
