//! The broken backend: gear-memory behind a transport that does what a flaw says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gear_api::{
    Address, BoxError, Capabilities, Clock, Consumer, EventGroup, Instance, Message, Pattern,
    Publish, PublishError, ReplySink, ReplyTo, Route, Service, Status, SubscribeError,
    Subscription, Text, Transport,
};
use gear_conformance::{Backend, Connection, Full, Link, System, Time};
use gear_memory::{MemoryBroker, MemoryTransport};
use tokio::sync::{oneshot, watch};

use super::{
    consumer::FlawedSource,
    list::{Does, Flaw, More},
};
use crate::system::{Broker, Wire};

/// gear-memory with one flaw, or with none.
#[derive(Clone, Copy)]
pub(crate) struct Flawed(pub(crate) Option<&'static Flaw>);

#[async_trait]
impl Backend for Flawed {
    fn name(&self) -> String {
        self.0.map_or("no flaw", |flaw| flaw.name).to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn system(&self) -> Result<Box<dyn System>, BoxError> {
        thread_local! {
            /// Of the test that runs on this thread.
            static ONE: MemoryBroker = MemoryBroker::new();
        }
        let broker = match self.more() {
            Some(More::OneSystem) => ONE.with(Clone::clone),
            _ => MemoryBroker::new(),
        };
        Ok(Box::new(FlawedSystem { flaw: *self, broker: Broker(broker), known: Arc::default() }))
    }
}

impl Flawed {
    pub(crate) fn does(&self) -> Option<&'static Does> {
        self.0.map(|flaw| &flaw.does)
    }

    pub(crate) fn more(&self) -> Option<More> {
        match self.does() {
            Some(Does::More(more)) => Some(*more),
            _ => None,
        }
    }

    pub(crate) fn is(&self, more: More) -> bool {
        self.more() == Some(more)
    }
}

/// What all connections of a system know.
#[derive(Debug, Default)]
struct Known {
    /// Who takes replies, in the order in which they asked.
    asked: Mutex<Vec<(Instance, Arc<FlawedSink>)>>,
    served: Mutex<Vec<Service>>,
    patterns: Mutex<Vec<(EventGroup, Vec<Pattern>)>>,
    /// The connections that consume a queue, each for one consumer, where a deletion ends them.
    consuming: Mutex<Vec<(String, MemoryTransport)>>,
}

struct FlawedSystem {
    flaw: Flawed,
    broker: Broker,
    known: Arc<Known>,
}

#[async_trait]
impl System for FlawedSystem {
    async fn connect(&self) -> Result<Connection, BoxError> {
        let inner = self.broker.0.connect();
        let transport: Arc<dyn Transport> = Arc::new(FlawedTransport {
            flaw: self.flaw,
            inner: inner.clone(),
            broker: self.broker.0.clone(),
            known: Arc::clone(&self.known),
            closed: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            answer: Mutex::new(Ok(())),
            waiting: Arc::default(),
        });
        match self.flaw.more() {
            Some(More::CutIsTheEnd) => Ok(Connection::over(transport, End(inner))),
            _ => Ok(Connection::over(transport, Wire(inner))),
        }
    }

    async fn quiet(&self) {
        self.broker.quiet().await;
    }

    async fn messages(&self, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
        self.broker.messages(queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BoxError> {
        let consuming = std::mem::take(&mut *self.known.consuming.lock().unwrap());
        let (gone, rest): (Vec<_>, Vec<_>) = consuming.into_iter().partition(|(of, _)| of == queue);
        *self.known.consuming.lock().unwrap() = rest;
        for (_, connection) in &gone {
            connection.close().await;
        }
        match self.broker.0.queue(queue) {
            None if !gone.is_empty() => Ok(()), // one for replies goes with its connection
            _ => self.broker.delete_queue(queue).await,
        }
    }

    async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Result<(), BoxError> {
        self.broker.limit_queue(queue, messages, when).await
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.broker.restart().await
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        self.broker.alarm(on).await
    }
}

/// A link that does not come back.
struct End(MemoryTransport);

#[async_trait]
impl Link for End {
    async fn cut(&self, _: Duration) -> Result<(), BoxError> {
        self.0.close().await;
        Ok(())
    }
}

#[derive(Debug)]
struct FlawedTransport {
    flaw: Flawed,
    inner: MemoryTransport,
    broker: MemoryBroker,
    known: Arc<Known>,
    closed: AtomicBool,
    sent: AtomicUsize,
    /// Of the message before.
    answer: Mutex<Result<(), PublishError>>,
    /// A message that the next one overtakes.
    waiting: Arc<Mutex<Option<Held>>>,
}

type Held = (Address, Message, oneshot::Sender<Result<(), PublishError>>);

impl std::fmt::Debug for Flawed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl FlawedTransport {
    /// Where it goes instead, if the flaw sends it elsewhere.
    fn misroute(&self, route: Route<'_>, message: &Message) -> Option<Publish> {
        let send = |to: &Address| self.inner.send(Route::Address(to), message.clone());
        match (self.flaw.more()?, route) {
            (More::GroupsTwice, Route::Address(to)) if to.is_group() => {
                send(to).detach();
                None
            }
            (More::InstanceToAll, Route::Address(Address::Instance(instance))) => {
                Some(send(&instance.service().all()))
            }
            (More::ServiceToAll, Route::Address(Address::Service(service))) => {
                send(&service.all()).detach();
                None
            }
            (More::CaselessNames, Route::Address(to)) => {
                Some(send(&to.to_string().to_uppercase().parse().ok()?))
            }
            (More::OverlapsTwice, Route::Event(topic)) => {
                let known = self.known.patterns.lock().unwrap();
                let matches = |patterns: &Vec<Pattern>| {
                    patterns.iter().filter(|pattern| pattern.matches(topic.as_str())).count()
                };
                let most = known.iter().map(|(_, patterns)| matches(patterns)).max();
                for _ in 1..most.unwrap_or_default() {
                    self.inner.send(route, message.clone()).detach();
                }
                None
            }
            (More::BroadcastToOneService, Route::Address(Address::Broadcast)) => {
                Some(send(&Service::new("CTRL").all()))
            }
            (More::DelaysIgnored, Route::Delayed { queue, .. }) => Some(
                self.inner.send(Route::Reply(&ReplyTo::queue(queue.to_owned())), message.clone()),
            ),
            (More::DeadForgotten, Route::Dead(_)) => Some(Publish::ready(Ok(()))),
            (More::ReplyToTheLast, Route::Reply(to)) if to.as_str().contains(":reply.") => {
                let last = self.known.asked.lock().unwrap().last()?.1.at()?;
                Some(self.inner.send(Route::Reply(&last), message.clone()))
            }
            _ => None,
        }
    }

    /// The connection that consumes instead, where a deletion ends a consumer.
    fn connection_of_its_own(&self) -> Option<MemoryTransport> {
        let more = self.flaw.more()?;
        matches!(more, More::DeletionIsTheEnd | More::DeletionIsNotNoticed)
            .then(|| self.broker.connect())
    }

    /// How it is sent instead, if the flaw is in that.
    fn missend(&self, route: Route<'_>, message: &Message) -> Option<Publish> {
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        let is_up = self.inner.status().borrow().is_ready();
        let inner = self.inner.clone();
        match (self.flaw.more()?, route) {
            (More::ConfirmsFirst, Route::Address(to)) => {
                let (to, message) = (to.clone(), message.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    inner.send(Route::Address(&to), message).await
                });
                Some(Publish::ready(Ok(())))
            }
            (More::SendingCreates, Route::Address(Address::Service(service))) => {
                let (answer, receiver) = oneshot::channel();
                let (service, message) = (service.clone(), message.clone());
                tokio::spawn(async move {
                    let to = Address::Service(service.clone());
                    drop(inner.subscribe(Subscription::Service { service, prefetch: 1 }).await);
                    answer.send(inner.send(Route::Address(&to), message).await)
                });
                Some(Publish::handed_over(receiver))
            }
            (More::LosesEveryTenth, Route::Address(_)) if number % 10 == 9 => {
                Some(Publish::ready(Ok(())))
            }
            (More::OutageRefuses, _) if !is_up => {
                Some(Publish::ready(Err(PublishError::NotSent(Text::from_static("no connection")))))
            }
            (More::NotWithdrawn, _) if !is_up => {
                let (answer, receiver) = oneshot::channel();
                let sent = self.inner.send(route, message.clone());
                tokio::spawn(async move { answer.send(sent.await) });
                Some(Publish::handed_over(receiver))
            }
            (More::AcceptsAfterClose, _) if self.closed.load(Ordering::SeqCst) => {
                Some(Publish::ready(Ok(())))
            }
            (More::SendsLazily, Route::Address(to)) => {
                let (hand_over, waiting) = oneshot::channel();
                let (to, message) = (to.clone(), message.clone());
                tokio::spawn(async move {
                    let (answer, receiver) = oneshot::channel();
                    if hand_over.send(Ok(receiver)).is_ok() {
                        let _ = answer.send(inner.send(Route::Address(&to), message).await);
                    }
                });
                Some(Publish::waiting(waiting))
            }
            (More::SendsSwapped, Route::Address(to)) => Some(self.swapped(to, message)),
            _ => None,
        }
    }

    /// Every second message goes in front of the one before it.
    fn swapped(&self, to: &Address, message: &Message) -> Publish {
        let held = self.waiting.lock().unwrap().take();
        if let Some(held) = held {
            let sent = self.inner.send(Route::Address(to), message.clone());
            forward(&self.inner, held);
            return sent;
        }
        let (answer, receiver) = oneshot::channel();
        *self.waiting.lock().unwrap() = Some((to.clone(), message.clone(), answer));
        let (waiting, inner) = (Arc::clone(&self.waiting), self.inner.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let held = waiting.lock().unwrap().take();
            if let Some(held) = held {
                forward(&inner, held);
            }
        });
        Publish::handed_over(receiver)
    }

    /// What the publisher is told instead.
    fn mistell(&self, sent: Publish) -> Publish {
        let shifts = |answer| std::mem::replace(&mut *self.answer.lock().unwrap(), answer);
        match (self.flaw.does(), self.flaw.more()) {
            (Some(Does::Answered(change)), _) if sent.is_handed_over() => {
                let (answer, receiver) = oneshot::channel();
                tokio::spawn(async move {
                    match change(sent.await) {
                        Some(told) => drop(answer.send(told)),
                        None => std::future::pending().await,
                    }
                });
                Publish::handed_over(receiver)
            }
            (_, Some(More::AnswersShifted)) => {
                // In memory the answer is there at once.
                let (mut sent, waker) = (Box::pin(sent), std::task::Waker::noop());
                let mut cx = std::task::Context::from_waker(waker);
                match std::future::Future::poll(sent.as_mut(), &mut cx) {
                    std::task::Poll::Ready(answer) => Publish::ready(shifts(answer)),
                    std::task::Poll::Pending => Publish::ready(Ok(())),
                }
            }
            _ => sent,
        }
    }
}

fn forward(inner: &MemoryTransport, (to, message, answer): Held) {
    let sent = inner.send(Route::Address(&to), message);
    tokio::spawn(async move { answer.send(sent.await) });
}

#[async_trait]
impl Transport for FlawedTransport {
    fn send(&self, route: Route<'_>, message: Message) -> Publish {
        let message = match self.flaw.does() {
            Some(Does::Sent(change)) => change(message),
            _ => message,
        };
        if let Some(sent) = self.misroute(route, &message) {
            return sent;
        }
        if let Some(sent) = self.missend(route, &message) {
            return sent;
        }
        self.mistell(self.inner.send(route, message))
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError> {
        let mut subscription = match self.flaw.does() {
            Some(Does::Subscribed(change)) => change(subscription),
            _ => subscription,
        };
        let mut replies = None;
        if let Subscription::Replies { instance, sink } = &mut subscription {
            let flawed = Arc::new(FlawedSink {
                flaw: self.flaw,
                instance: instance.clone(),
                sink: Arc::clone(sink),
                at: Mutex::default(),
                known: Arc::clone(&self.known),
            });
            self.known.asked.lock().unwrap().push((instance.clone(), Arc::clone(&flawed)));
            replies = Some(Arc::clone(&flawed));
            *sink = flawed;
        }
        if let (Some(More::OverlapsTwice), Subscription::Events { group, patterns, .. }) =
            (self.flaw.more(), &subscription)
        {
            self.known.patterns.lock().unwrap().push((group.clone(), patterns.clone()));
        }
        if let (Some(More::FirstTakesAll), Subscription::Service { service, .. }) =
            (self.flaw.more(), &mut subscription)
        {
            let mut served = self.known.served.lock().unwrap();
            match served.contains(service) {
                true => *service = Service::new("NOTHING"),
                false => served.push(service.clone()),
            }
        }
        let of_its_own = self.connection_of_its_own();
        let inner = of_its_own.as_ref().unwrap_or(&self.inner);
        let mut queue = match &subscription {
            Subscription::Service { service, .. } => Some(service.to_string()),
            Subscription::Instance { instance, .. } => Some(instance.to_string()),
            _ => None,
        };
        let consumer = match inner.subscribe(subscription).await {
            Err(SubscribeError::NameInUse(_)) if self.flaw.is(More::NameTaken) => {
                let service = Service::new("NOTHING");
                self.inner.subscribe(Subscription::Service { service, prefetch: 1 }).await?
            }
            other => other?,
        };
        queue = queue.or_else(|| Some(replies?.at()?.to_string()));
        self.known.consuming.lock().unwrap().extend(queue.zip(of_its_own));
        Ok(Consumer::new(FlawedSource::new(self.flaw, consumer, self.inner.clone())))
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = self.inner.capabilities();
        if let Some(Does::Promised(change)) = self.flaw.does() {
            change(&mut all);
        }
        all
    }

    fn status(&self) -> watch::Receiver<Status> {
        let Some(Does::Says(change)) = self.flaw.does() else { return self.inner.status() };
        let mut real = self.inner.status();
        let (told, receiver) = watch::channel(change(real.borrow().clone()));
        tokio::spawn(async move {
            while real.changed().await.is_ok() {
                let status = real.borrow_and_update().clone();
                told.send_replace(change(status));
            }
            told.closed().await;
        });
        receiver
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    fn seed(&self) -> u64 {
        self.inner.seed()
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if self.flaw.is(More::CloseHangs) {
            std::future::pending::<()>().await;
        }
        self.inner.close().await;
    }
}

/// A sink that the flaw is in.
struct FlawedSink {
    flaw: Flawed,
    instance: Instance,
    sink: Arc<dyn ReplySink>,
    at: Mutex<Option<ReplyTo>>,
    known: Arc<Known>,
}

impl std::fmt::Debug for FlawedSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlawedSink({})", self.instance)
    }
}

impl FlawedSink {
    fn at(&self) -> Option<ReplyTo> {
        self.at.lock().unwrap().clone()
    }
}

impl ReplySink for FlawedSink {
    fn listening(&self, at: ReplyTo) {
        *self.at.lock().unwrap() = Some(at.clone());
        self.sink.listening(at);
    }

    fn deliver(&self, reply: Message) {
        let reply = match self.flaw.does() {
            Some(Does::Got(change)) => change(reply),
            _ => reply,
        };
        if !self.flaw.is(More::RepliesToAllOfAName) {
            return self.sink.deliver(reply);
        }
        let asked: Vec<_> = self.known.asked.lock().unwrap().clone();
        for (_, sink) in asked.iter().filter(|(instance, _)| *instance == self.instance) {
            sink.sink.deliver(reply.clone());
        }
    }
}
