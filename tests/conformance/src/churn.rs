//! Consumers that come and go, and the account of what they ack.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use gear_api::{Delivery, Transport};
use tokio::sync::watch;

use crate::{
    kit::{serve, text},
    suite::Test,
};

/// How often each message was acked; the clones are one account.
#[derive(Clone, Default)]
pub(crate) struct Account(Arc<Mutex<BTreeMap<String, u32>>>);

impl Account {
    pub(crate) fn ack(&self, delivery: Delivery) {
        let body = text(delivery.message());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(body).or_default() += 1;
        delivery.ack();
    }

    /// How many messages were acked.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those that were acked more than once.
    pub(crate) fn again(&self) -> Vec<(String, u32)> {
        let account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        account.iter().filter(|(_, n)| **n > 1).map(|(body, n)| (body.clone(), *n)).collect()
    }
}

/// Consumes a few, stops, and consumes again, until it is over; the last is acked after the stop.
pub(crate) async fn come_and_go(
    on: Arc<dyn Transport>,
    prefetch: u16,
    account: Account,
    mut over: watch::Receiver<bool>,
) -> Test {
    for turn in 1.. {
        let mut consumer = serve(&*on, prefetch).await?;
        let mut last: Option<Delivery> = None;
        for n in 0..turn % 9 {
            last.take().into_iter().for_each(|delivery| account.ack(delivery));
            let next = tokio::select! {
                next = consumer.next() => next,
                _ = over.wait_for(|over| *over) => None,
            };
            let Some(delivery) = next else { return Ok(()) };
            match n % 4 {
                3 => delivery.requeue(),
                _ => last = Some(delivery),
            }
        }
        consumer.stop();
        if turn % 2 == 0 {
            tokio::task::yield_now().await;
        }
        last.into_iter().for_each(|delivery| account.ack(delivery));
    }
    Ok(())
}
