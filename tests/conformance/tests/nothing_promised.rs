//! A backend that promises nothing, and keeps nothing: no test may rely on a promise that it does
//! not name, and what was not promised must be refused.

#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "memory_backend/system.rs"]
mod system;

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures_core::Stream;
use gear_api::{
    BoxError, Capabilities, Clock, Consumer, ConsumerEnd, Delivery, HeaderValue, Message, Publish,
    PublishError, Route, Service, Source, Status, SubscribeError, Subscription, Timestamp,
    Transport,
};
use gear_conformance::{Backend, Connection, Full, Outcome, Run, System, Time};
use gear_memory::{MemoryBroker, MemoryTransport};
use system::{Broker, Wire};
use tokio::sync::{oneshot, watch};

/// gear-memory without all that [`Capabilities`] can promise.
struct Nothing;

struct Without(Broker);

#[derive(Debug)]
struct Bare(MemoryTransport);

#[async_trait]
impl Backend for Nothing {
    fn name(&self) -> String {
        "nothing".to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        Ok(Box::new(Without(Broker(MemoryBroker::new()))))
    }
}

#[async_trait]
impl System for Without {
    async fn connect(&self) -> Result<Connection, BoxError> {
        let inner = self.0.0.connect();
        Ok(Connection::over(Arc::new(Bare(inner.clone())) as Arc<dyn Transport>, Wire(inner)))
    }

    async fn quiet(&self) {
        self.0.quiet().await;
    }

    async fn messages(&self, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
        self.0.messages(queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BoxError> {
        self.0.delete_queue(queue).await
    }

    async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Result<(), BoxError> {
        self.0.limit_queue(queue, messages, when).await
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.0.restart().await
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        self.0.alarm(on).await
    }
}

/// What the broker is not to know of a message: it would expire, and survive a restart.
const DEADLINE: &str = "gear-bare-deadline";
const DURABLE: &str = "gear-bare-durable";

fn hide(message: &Message) -> Message {
    let mut hidden = message.to_builder().durable(false).deadline(None);
    let mut add = |name: &'static str, value: HeaderValue| {
        // A message that has all the headers it may have has no place for more.
        let _ = hidden.headers_mut().insert_reserved(name.into(), value);
    };
    add(DURABLE, message.is_durable().into());
    if let Some(deadline) = message.deadline() {
        add(DEADLINE, (deadline.unix_ms() as i64).into());
    }
    hidden.build()
}

fn show(message: &Message) -> Message {
    let mut shown = message.to_builder();
    let durable = shown.headers_mut().remove(DURABLE);
    let deadline = shown.headers_mut().remove(DEADLINE);
    let shown = shown.durable(durable == Some(true.into()));
    shown
        .deadline(deadline.and_then(|ms| ms.as_int()).map(|ms| Timestamp::from_unix_ms(ms as u64)))
        .build()
}

#[async_trait]
impl Transport for Bare {
    fn send(&self, route: Route<'_>, message: Message) -> Publish {
        let missing = match route {
            Route::Event(_) => "events",
            Route::Delayed { .. } => "delays",
            Route::Dead(_) | Route::Queue(_) => "dead letters",
            // What waits for a connection still ends at its deadline.
            _ if !self.0.status().borrow().is_ready() => return self.0.send(route, message),
            // No confirms, and nothing is mandatory: whoever sends learns nothing of the broker.
            _ => return forget(self.0.send(route, hide(&message))),
        };
        Publish::ready(Err(PublishError::Unsupported(missing)))
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError> {
        match subscription {
            Subscription::Events { .. } => return Err(SubscribeError::Unsupported("events")),
            Subscription::Dead { .. } => return Err(SubscribeError::Unsupported("dead letters")),
            Subscription::Tap { .. } => return Err(SubscribeError::Unsupported("taps")),
            _ => {}
        }
        let consumer = match self.0.subscribe(subscription).await {
            // Names are anybody's; who comes second gets nothing.
            Err(SubscribeError::NameInUse(_)) => {
                let service = Service::new("NOTHING");
                self.0.subscribe(Subscription::Service { service, prefetch: 1 }).await?
            }
            other => other?,
        };
        Ok(Consumer::new(Shown(consumer)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.0.status()
    }

    fn clock(&self) -> Clock {
        self.0.clock()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// The same, but that the broker's answers are all good.
fn forget(sent: Publish) -> Publish {
    if !sent.is_handed_over() {
        return sent;
    }
    let (told, receiver) = oneshot::channel();
    tokio::spawn(async move {
        told.send(match sent.await {
            Err(PublishError::NotRouted | PublishError::Refused(_)) => Ok(()),
            other => other,
        })
    });
    Publish::handed_over(receiver)
}

struct Shown(Consumer);

impl Source for Shown {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, ConsumerEnd>> {
        let next = ready!(std::pin::Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(match next {
            Some(delivery) => {
                let (key, again) = (delivery.key().clone(), delivery.is_redelivered());
                let (message, settlement) = delivery.into_parts();
                Ok(Delivery::new(show(&message), key, again, settlement))
            }
            None => Err(self.0.end().cloned().unwrap_or(ConsumerEnd::Closed)),
        })
    }

    fn stop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn tests_rely_on_what_they_name_and_the_rest_is_refused() {
    let report = Run::default().on(Nothing, |_| {});
    let failed: Vec<_> = report.failed().map(|(result, why)| (result.full_name(), why)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (result, why) in report.not_claimed() {
        let told = why.contains("promise");
        assert!(told, "{}: {why}", result.full_name());
    }
    let passed = report.results.iter().filter(|result| result.outcome == Outcome::Passed).count();
    assert!(passed > 100, "only {passed} need no promise");
}
