//! What a test is: a name, one line on what it proves, what it needs, and what it does.

use std::{future::Future, pin::Pin};

use gear_api::{BoxError, Capabilities};

use crate::{refused, world::World};

/// How a test ends: any error fails it, as any panic does.
pub(crate) type Test<T = ()> = Result<T, BoxError>;

pub(crate) type Running = Pin<Box<dyn Future<Output = Test> + Send>>;

/// Tests of one subject.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) cases: &'static [Case],
}

/// One test.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What is known when it passes.
    pub(crate) proves: &'static str,
    /// What the backend must promise for that.
    pub(crate) needs: &'static [Need],
    pub(crate) run: fn(World) -> Running,
}

/// A promise of [`Capabilities`] that a test relies on; or that it must run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // as they are called in `Capabilities`
pub(crate) enum Need {
    confirms,
    mandatory,
    durable,
    expiry,
    delays,
    dead_letters,
    events,
    taps,
    exclusive_instances,
    /// There is a largest message.
    limit,
    /// It does something to the whole broker, so no other test may run beside it.
    alone,
}

impl Need {
    /// Whether a backend that promises `all` meets it.
    pub(crate) fn is_met(self, all: &Capabilities) -> bool {
        match self {
            Self::confirms => all.confirms,
            Self::mandatory => all.mandatory,
            Self::durable => all.durable,
            Self::expiry => all.expiry,
            Self::delays => all.delays,
            Self::dead_letters => all.dead_letters,
            Self::events => all.events,
            Self::taps => all.taps,
            Self::exclusive_instances => all.exclusive_instances,
            Self::limit => all.max_message_bytes < usize::MAX,
            Self::alone => true,
        }
    }

    /// What runs in place of a test whose need is not met: what was not promised is refused
    /// with the typed error. The other promises are about how things end, and leave nothing
    /// that could be refused.
    pub(crate) fn refusal(self, world: World) -> Option<Running> {
        match self {
            Self::delays => Some(Box::pin(refused::delays(world))),
            Self::dead_letters => Some(Box::pin(refused::dead_letters(world))),
            Self::events => Some(Box::pin(refused::events(world))),
            Self::taps => Some(Box::pin(refused::taps(world))),
            _ => None,
        }
    }
}

impl Case {
    pub(crate) fn runs_alone(&self) -> bool {
        self.needs.contains(&Need::alone)
    }
}

/// The tests of a module: `name(needs): "what it proves"`. A test that is not in the list is
/// dead code, which the compiler tells.
macro_rules! suite {
    ($suite:literal; $($name:ident $(($($need:ident),+))?: $proves:literal,)+) => {
        pub(crate) const SUITE: $crate::suite::Suite = $crate::suite::Suite {
            name: $suite,
            cases: &[$($crate::suite::Case {
                name: stringify!($name),
                proves: $proves,
                needs: &[$($($crate::suite::Need::$need),+)?],
                run: |world| Box::pin($name(world)),
            }),+],
        };
    };
}
pub(crate) use suite;
