//! Small things that tests share: services and operations, messages, consumers, a log.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gear_api::{
    Address, Consumer, Context, Delivery, EventGroup, Fault, Feed, Instance, Kind, Message,
    Operation, Pattern, Publish, PublishError, ReplySink, ReplyTo, Route, Service, SubscribeError,
    Subscription, Topic, Transport,
};

use tokio::sync::watch;

use crate::{
    suite::Test,
    world::{World, eventually, within},
};

pub(crate) const WEB: Service = Service::new("WEB");
pub(crate) const CTRL: Service = Service::new("CTRL");
pub(crate) const REPO: Service = Service::new("REPO");

pub(crate) const WHO: Operation<(), String> = Operation::new("who");
pub(crate) const ECHO: Operation<String, String> = Operation::new("echo");
pub(crate) const NOTE: Operation<String, ()> = Operation::new("note");

/// A deadline that is to pass.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// A deadline that is not to pass.
pub(crate) const LONG: Duration = Duration::from_secs(25);

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// Handlers.

/// Who answers.
pub(crate) async fn who(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
    Ok(cx.instance().to_string())
}

/// The text, after a while.
pub(crate) async fn slow_echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SHORT).await;
    Ok(text)
}

/// Holds handlers until it is opened, and counts those that have begun.
pub(crate) struct Gate {
    begun: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begun: AtomicUsize::new(0), open: watch::Sender::new(false) })
    }

    /// Lets all handlers finish, those to come as well.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    pub(crate) fn count(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Returns when so many handlers have begun.
    pub(crate) async fn begun(&self, handlers: usize) {
        eventually(|| self.count() >= handlers).await;
    }
}

/// The text, when the gate is open.
pub(crate) async fn gated(gate: Arc<Gate>, _: Context, text: String) -> Result<String, Fault> {
    gate.begun.fetch_add(1, Ordering::SeqCst);
    gate.open.subscribe().wait_for(|open| *open).await?;
    Ok(text)
}

/// Writes down who got what, under which key.
pub(crate) async fn note(log: Arc<Log>, cx: Context, text: String) -> Result<(), Fault> {
    log.add(format!("{} {} {text}", cx.instance(), cx.key()));
    Ok(())
}

/// A list that handlers write to and tests read.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, line: impl Into<String>) {
        self.lines().push(line.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.lines().len()
    }

    /// The lines so far; the log is empty then.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines())
    }

    /// The lines, when there are so many and nothing more comes; the log is empty then.
    pub(crate) async fn exactly(&self, lines: usize, world: &World) -> Vec<String> {
        eventually(|| self.len() >= lines).await;
        world.quiet().await;
        self.take()
    }

    /// The same in alphabetical order, where the order of arrival is open.
    pub(crate) async fn sorted(&self, lines: usize, world: &World) -> Vec<String> {
        let mut lines = self.exactly(lines, world).await;
        lines.sort();
        lines
    }
}

// Messages.

pub(crate) fn message(body: &str) -> Message {
    Message::builder(Kind::Cast, "test").body(body.to_owned()).build()
}

pub(crate) fn durable(body: &str) -> Message {
    message(body).to_builder().durable(true).build()
}

/// A message that is of no use to anybody so long from now.
pub(crate) fn expiring(body: &str, on: &dyn Transport, time: Duration) -> Message {
    message(body).to_builder().deadline(on.clock().now() + time).build()
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

pub(crate) fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(text).collect()
}

/// The body of a delivery, with `!` if it is marked as redelivered.
pub(crate) fn label(delivery: &Delivery) -> String {
    let mark = if delivery.is_redelivered() { "!" } else { "" };
    format!("{}{mark}", text(delivery.message()))
}

// Sending.

/// Hands a message over, and returns its answer to come.
pub(crate) fn publish(on: &dyn Transport, to: &str, message: Message) -> Publish {
    let to: Address = to.parse().expect("tests write valid addresses");
    on.send(Route::Address(&to), message)
}

/// Sends a message, and waits for the broker's answer.
pub(crate) async fn send(on: &dyn Transport, to: &str, body: &str) -> Result<(), PublishError> {
    within(publish(on, to, message(body))).await
}

pub(crate) async fn send_all(on: &dyn Transport, to: &str, bodies: &[&str]) -> Test {
    for body in bodies {
        send(on, to, body).await?;
    }
    Ok(())
}

pub(crate) async fn event(
    on: &dyn Transport,
    topic: &'static str,
    body: &str,
) -> Result<(), PublishError> {
    within(on.send(Route::Event(&Topic::new(topic)), message(body))).await
}

// Consuming.

pub(crate) async fn serve(on: &dyn Transport, prefetch: u16) -> Test<Consumer> {
    serve_as(on, &CTRL, prefetch).await
}

pub(crate) async fn serve_as(
    on: &dyn Transport,
    service: &Service,
    prefetch: u16,
) -> Test<Consumer> {
    let subscription = Subscription::Service { service: service.clone(), prefetch };
    Ok(within(on.subscribe(subscription)).await?)
}

pub(crate) async fn join(on: &dyn Transport, name: &str) -> Result<Consumer, SubscribeError> {
    let instance: Instance = name.parse().expect("tests write valid names");
    within(on.subscribe(Subscription::Instance { instance, prefetch: 10 })).await
}

/// Joins under a name that somebody has just left: a broker may take a moment to notice.
pub(crate) async fn join_again(on: &dyn Transport, name: &str) -> Test<Consumer> {
    within(async {
        loop {
            match join(on, name).await {
                Err(SubscribeError::NameInUse(_)) => tokio::time::sleep(ms(50)).await,
                other => return Ok(other?),
            }
        }
    })
    .await
}

pub(crate) async fn listen(
    on: &dyn Transport,
    group: &str,
    patterns: &[&'static str],
) -> Test<Consumer> {
    let group = EventGroup::new(CTRL, group)?;
    let patterns = patterns.iter().copied().map(Pattern::new).collect();
    let subscription = Subscription::Events { group, patterns, prefetch: 10 };
    Ok(within(on.subscribe(subscription)).await?)
}

pub(crate) async fn tap(on: &dyn Transport, feed: Feed, pattern: &'static str) -> Test<Consumer> {
    let pattern = Pattern::new(pattern);
    Ok(within(on.subscribe(Subscription::Tap { feed, pattern })).await?)
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    within(consumer.next()).await.expect("a delivery, not the end")
}

/// The next so many bodies, acked.
pub(crate) async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        taken.push(label(&delivery));
        delivery.ack();
    }
    taken
}

/// Takes so many, and whatever comes beyond.
pub(crate) async fn take_all(world: &World, consumer: &mut Consumer, count: usize) -> Vec<String> {
    take_each(world, [(consumer, count)]).await.remove(0)
}

/// Takes so many from each, and whatever comes beyond.
pub(crate) async fn take_each<'a>(
    world: &World,
    consumers: impl Into<Vec<(&'a mut Consumer, usize)>>,
) -> Vec<Vec<String>> {
    let consumers = consumers.into();
    let mut all = Vec::new();
    for (consumer, count) in consumers {
        let taken = take(consumer, count).await;
        all.push((consumer, taken));
    }
    let rests = world.rests().await;
    let mut more = false;
    for (consumer, taken) in &mut all {
        let extra = take_ready(consumer);
        more |= !extra.is_empty();
        taken.extend(extra);
    }
    assert!(rests || more, "it does not come to rest");
    all.into_iter().map(|(_, taken)| taken).collect()
}

/// What is here already, acked.
pub(crate) fn take_ready(consumer: &mut Consumer) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some(delivery) = consumer.try_next() {
        taken.push(label(&delivery));
        delivery.ack();
    }
    taken
}

// Replies.

/// Takes replies, and remembers where they are taken.
#[derive(Default)]
pub(crate) struct Sink {
    at: Mutex<Vec<ReplyTo>>,
    replies: Mutex<Vec<Message>>,
}

impl ReplySink for Sink {
    fn listening(&self, at: ReplyTo) {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).push(at);
    }

    fn deliver(&self, reply: Message) {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).push(reply);
    }
}

impl Sink {
    /// Where replies are taken now.
    pub(crate) fn at(&self) -> ReplyTo {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.last().cloned().expect("`listening` was called before `subscribe` returned")
    }

    pub(crate) fn replies(&self) -> Vec<Message> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The replies, when there are so many and nothing more comes.
    pub(crate) async fn exactly(&self, replies: usize, world: &World) -> Vec<String> {
        eventually(|| self.replies().len() >= replies).await;
        world.quiet().await;
        texts(&self.replies())
    }
}

pub(crate) async fn ask_as(on: &dyn Transport, name: &str) -> Test<(Consumer, Arc<Sink>)> {
    let sink = Arc::new(Sink::default());
    let subscription = Subscription::Replies { instance: name.parse()?, sink: sink.clone() };
    Ok((within(on.subscribe(subscription)).await?, sink))
}

pub(crate) async fn reply(
    on: &dyn Transport,
    to: &ReplyTo,
    body: &str,
) -> Result<(), PublishError> {
    within(on.send(Route::Reply(to), message(body))).await
}
