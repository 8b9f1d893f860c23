//! What a message costs however it travels: it is built, and handed out with the duty to settle it.
//! A floor that carries these shows what of a figure is the broker, and what the types are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use gear::{Delivery, Kind, Message, Settle, Settlement, Text, Verdict};

use crate::body;

/// Counts what is settled, and does nothing else.
#[derive(Default)]
pub(crate) struct Settled(AtomicUsize);

impl Settled {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Settle for Settled {
    fn settle(&self, _tag: u64, _verdict: Verdict) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn message() -> Message {
    Message::builder(Kind::Cast, Text::from_static("take")).body(body()).build()
}

/// A copy for one consumer.
pub(crate) fn delivery(message: Message, settled: &Arc<Settled>) -> Delivery {
    let settle: Arc<dyn Settle> = Arc::<Settled>::clone(settled);
    Delivery::new(message, Text::from_static("SINK"), false, Settlement::new(settle, 0))
}
