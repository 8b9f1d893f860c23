//! What is left, compared: queues by their depth, and in the end by their content.

use tokio::time::{Instant, sleep};

use super::{Runner, Step};
use crate::{
    model::{Depth, Model},
    op::{Manner, Op, Role, Seat, Target},
    world::Waiting,
};

impl Runner<'_> {
    /// For who settles nothing, and so gives nothing back: one message more. Anything too much
    /// would come before it.
    pub(super) fn last_words(&self) -> Vec<Op> {
        let sentinel = |seat: Seat| {
            let pattern = self.model.pattern(seat).unwrap_or_default();
            let word = |text: &str| text.replace(['#', '*'], "A");
            let to = match seat.role {
                _ if !self.model.is_up(seat.node) => return None,
                Role::Replies => Target::Answer(seat.node),
                Role::Watch => Target::Event(word(pattern)),
                Role::Tap if pattern == "*.*" => Target::Address(pattern.to_owned()),
                Role::Tap => Target::Address(word(pattern)),
                _ => return None,
            };
            Some(Op::Publish { to, count: 1, manner: Manner::Plain })
        };
        self.model.seats().filter_map(sentinel).collect()
    }

    /// As many taps are left as should be.
    pub(super) async fn await_taps(&self) -> Step {
        let gone = async {
            while self.world.taps().await? > self.model.taps() {
                sleep(self.world.patience() / 1_000).await;
            }
            Ok(())
        };
        self.in_time("removing a tap", gone).await?
    }

    pub(super) async fn compare_depths(&self) -> Step {
        let names: Vec<String> = self.model.names().map(str::to_owned).collect();
        for name in names {
            self.compare_depth(&name).await?;
        }
        Ok(())
    }

    /// The name on the broker, where it is known, and what is there is not left open: taps have
    /// names of the broker's, and the reply queue of who has left may be there for a while.
    pub(super) fn on_broker<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        if !Model::is_anonymous(name) {
            return Some(name);
        }
        self.names.get(name).filter(|_| self.model.depth(name).is_some()).map(String::as_str)
    }

    /// A queue is, or soon will be, as deep as it should be.
    pub(super) async fn compare_depth(&self, name: &str) -> Step {
        let Some(on_broker) = self.on_broker(name) else { return Ok(()) };
        let expected = self.model.depth(name);
        let until = Instant::now() + self.world.patience();
        loop {
            let depth: Option<Depth> = self.world.depth(on_broker).await?;
            if depth == expected {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("queue {name} is {depth:?}; expected {expected:?}").into());
            }
            sleep(self.world.patience() / 1_000).await;
        }
    }

    pub(super) async fn compare_contents(&mut self) -> Step {
        let names: Vec<String> = self.model.names().map(str::to_owned).collect();
        for name in names {
            let Some(on_broker) = self.on_broker(&name) else { continue };
            let expected = self.model.waiting(&name);
            let contents = self.world.contents(on_broker).await?.map(|mut contents| {
                contents.retain(|waiting| !self.model.is_expired(&name, waiting.number));
                contents
            });
            let same = match (&contents, &expected) {
                (Some(contents), Some(expected)) => {
                    let mut pairs = contents.iter().zip(expected);
                    contents.len() == expected.len() && pairs.all(|(is, other)| is.agrees(*other))
                }
                (None, None) => true,
                _ => false,
            };
            if !same {
                let shown = |all: Option<Vec<Waiting>>| match all {
                    Some(all) => all.iter().map(|one| format!("{one}, ")).collect(),
                    None => "no such queue".to_owned(),
                };
                let (is, expected) = (shown(contents), shown(expected));
                return Err(format!("queue {name} has {is:?}; expected {expected:?}").into());
            }
            self.compared.queues += 1;
        }
        Ok(())
    }
}
