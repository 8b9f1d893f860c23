//! Requests with an answer: one at a time, and many at once.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join, stream::FuturesUnordered};
use gear_api::{Client, Context, Node, Operation, Raw, Service, topology::exchange};
use lapin::{
    BasicProperties, Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::sync::oneshot;

use crate::{
    measure::{Figures, Report, Stopwatch, round},
    place::Place,
    raw::{self, MANDATORY, PREFETCH, Shape, body, written_id},
};

pub(crate) const ECHO: Service = Service::new("ECHO");
const SAY: Operation<Bytes, Bytes, Raw> = Operation::new("say");
/// The service that is written by hand; `RAW:reply` takes the answers.
pub(crate) const RAW: &str = "RAW";
const TIMEOUT: Duration = Duration::from_secs(30);
const SERIAL: usize = 1_000;
const TOGETHER: usize = 10_000;

pub(crate) fn run(report: &mut Report, place: &Place) {
    declare(place);
    for in_flight in [1, 100] {
        let calls = if in_flight == 1 { SERIAL } else { TOGETHER };
        let bare = Way { tuned: true, persistent: false, shape: Shape::Bare };
        let raw = |way| raw(place, calls, in_flight, way);
        report.compare(
            &format!("calls, {in_flight} in flight"),
            &[
                ("lapin, polled once, not awaited", &|| raw(bare)),
                ("the same, with Gear's properties", &|| raw(Way { shape: Shape::Gear, ..bare })),
                ("lapin, each awaited", &|| raw(Way { tuned: false, ..bare })),
                ("the first, persistent", &|| raw(Way { persistent: true, ..bare })),
                ("gear, `Client::call` to a `Node`", &|| gear(place, calls, in_flight)),
            ],
        );
    }
}

/// How the one by hand is written.
#[derive(Debug, Clone, Copy)]
struct Way {
    tuned: bool,
    persistent: bool,
    shape: Shape,
}

fn declare(place: &Place) {
    let place = place.clone();
    let watch = Stopwatch::start();
    round(async move {
        let connection = place.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let reply_queue = format!("{RAW}:reply");
        for (queue, exchange, key) in [
            (place.name(RAW), place.entry(), RAW.into()),
            (place.name(&reply_queue), place.name(&exchange::REPLY), place.name(&reply_queue)),
        ] {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let table = FieldTable::default();
            channel.queue_declare(queue.clone(), options, table.clone()).await.expect("a queue");
            let options = QueueBindOptions::default();
            channel.queue_bind(queue, exchange, key, options, table).await.expect("a binding");
        }
        raw::close(&connection).await;
        watch.stop(1)
    });
}

/// What both ends of the one by hand need.
struct Line {
    place: Place,
    way: Way,
    channel: Channel,
    connections: [Connection; 2],
    /// Held while a message is given to lapin: it mixes the confirms of two that publish at once.
    order: Mutex<()>,
    awaited_order: tokio::sync::Mutex<()>,
    next: AtomicUsize,
}

impl Line {
    /// A connection to publish and one to consume, as Gear has them.
    async fn open(place: &Place, way: Way, queue: &str) -> (Arc<Self>, Channel, Consumer) {
        let (publishing, channel) = raw::publisher(place).await;
        let no_ack = queue != RAW;
        let (consuming, consume, consumer) = raw::consumer(place, queue, no_ack).await;
        let line = Self {
            place: place.clone(),
            way,
            channel,
            connections: [publishing, consuming],
            order: Mutex::default(),
            awaited_order: tokio::sync::Mutex::default(),
            next: AtomicUsize::new(0),
        };
        (Arc::new(line), consume, consumer)
    }

    fn properties(&self, kind: &str, correlation: ShortString) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_delivery_mode(if self.way.persistent { 2 } else { 1 })
            .with_correlation_id(correlation)
            .with_expiration(TIMEOUT.as_millis().to_string().into());
        if self.way.shape == Shape::Bare {
            return properties;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let deadline = (now + TIMEOUT).as_millis() as i64;
        let mut headers = FieldTable::default();
        headers.insert("gear-kind".into(), AMQPValue::LongString(kind.into()));
        headers.insert("gear-deadline".into(), AMQPValue::LongLongInt(deadline));
        properties
            .with_type("say".into())
            .with_content_type("application/octet-stream".into())
            .with_app_id("CLI.here".into())
            .with_timestamp(now.as_secs())
            .with_headers(headers)
    }

    fn id(&self) -> ShortString {
        written_id(self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// Publishes; `written` runs before the broker's answer is awaited.
    async fn publish<T>(
        &self,
        exchange: ShortString,
        key: ShortString,
        body: &[u8],
        properties: BasicProperties,
        written: impl Future<Output = T>,
    ) {
        let publish = self.channel.basic_publish(exchange, key, MANDATORY, body, properties);
        let confirm = if self.way.tuned {
            let mut publish = Box::pin(publish);
            let first = {
                let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
                let mut cx = std::task::Context::from_waker(Waker::noop());
                Pin::new(&mut publish).poll(&mut cx)
            };
            match first {
                std::task::Poll::Ready(confirm) => confirm,
                std::task::Poll::Pending => publish.await,
            }
        } else {
            let _order = self.awaited_order.lock().await;
            publish.await
        };
        let confirm = confirm.expect("it is written");
        written.await;
        let confirm = confirm.await.expect("an answer");
        assert!(confirm.is_ack() && confirm.take_message().is_none());
    }

    async fn close(&self) {
        for connection in &self.connections {
            raw::close(connection).await;
        }
    }
}

/// Answers each request with its own body; acks it once the answer is written.
async fn serve(line: Arc<Line>, requests: Channel, mut consumer: Consumer) {
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let Some(Ok(delivery)) = delivery else { return };
                if line.way.tuned {
                    answers.push(answer(Arc::clone(&line), requests.clone(), delivery));
                } else {
                    tokio::spawn(answer(Arc::clone(&line), requests.clone(), delivery));
                }
            }
            Some(()) = answers.next() => {}
        }
    }
}

async fn answer(line: Arc<Line>, requests: Channel, request: Delivery) {
    let (tag, properties) = (request.delivery_tag, request.properties);
    let to = properties.reply_to().clone().expect("it wants an answer");
    let correlation = properties.correlation_id().clone().expect("it has an id");
    let reply = line.properties("reply", correlation).with_message_id(line.id());
    let exchange = line.place.name(&exchange::REPLY);
    let ack = requests.basic_ack(tag, BasicAckOptions::default());
    if line.way.tuned {
        let ack = async { drop(ack.now_or_never()) };
        line.publish(exchange, to, &request.data, reply, ack).await;
    } else {
        line.publish(exchange, to, &request.data, reply, ack).await;
    }
}

type Waiting = Mutex<HashMap<ShortString, oneshot::Sender<Vec<u8>>>>;

/// Gives each reply to who waits for it.
async fn listen(waiting: Arc<Waiting>, mut replies: Consumer) {
    while let Some(Ok(reply)) = replies.next().await {
        let correlation = reply.properties.correlation_id().clone().unwrap_or_default();
        let waiter = waiting.lock().expect("nobody panics").remove(&correlation);
        if let Some(waiter) = waiter {
            let _ = waiter.send(reply.data);
        }
    }
}

async fn call(line: &Line, waiting: &Waiting, reply_to: ShortString) {
    let id = line.id();
    let (waiter, reply) = oneshot::channel();
    waiting.lock().expect("nobody panics").insert(id.clone(), waiter);
    let properties =
        line.properties("call", id.clone()).with_message_id(id.clone()).with_reply_to(reply_to);
    let body = body();
    let publish =
        line.publish(line.place.entry(), RAW.into(), &body, properties, std::future::ready(()));
    let reply = tokio::time::timeout(TIMEOUT, reply);
    let reply = if line.way.tuned {
        join(publish, reply).await.1
    } else {
        publish.await;
        reply.await
    };
    assert_eq!(reply.expect("in time").expect("an answer").len(), body.len());
}

fn raw(place: &Place, calls: usize, in_flight: usize, way: Way) -> Figures {
    let place = place.clone();
    round(async move {
        let (server, requests, consumer) = Line::open(&place, way, RAW).await;
        let serving = tokio::spawn(serve(Arc::clone(&server), requests, consumer));
        let reply_queue = format!("{RAW}:reply");
        let (client, _, consumer) = Line::open(&place, way, &reply_queue).await;
        let waiting = Arc::new(Waiting::default());
        let listening = tokio::spawn(listen(Arc::clone(&waiting), consumer));
        let reply_to = place.name(&reply_queue);
        let line = Arc::clone(&client);
        let figures = callers(calls, in_flight, move || {
            let (line, waiting) = (Arc::clone(&line), Arc::clone(&waiting));
            let reply_to = reply_to.clone();
            async move { call(&line, &waiting, reply_to).await }
        })
        .await;
        client.close().await;
        server.close().await;
        let _ = tokio::join!(serving, listening);
        figures
    })
}

fn gear(place: &Place, calls: usize, in_flight: usize) -> Figures {
    let place = place.clone();
    round(async move {
        let transport = place.transport().await;
        let node = Node::builder(transport, ECHO.at("host1").expect("a valid name"))
            .concurrency(PREFETCH)
            .on(SAY, async |_: Arc<()>, _: Context, body: Bytes| Ok(body))
            .start()
            .await
            .expect("nobody else has the name");
        let transport = place.transport().await;
        let here = "CLI.here".parse().expect("a valid name");
        let client = Client::builder(transport.clone(), here);
        let client = client.start().await.expect("the broker is up");
        let figures = callers(calls, in_flight, move || {
            let client = client.clone();
            async move {
                let reply = client.call(ECHO, SAY, &body()).timeout(TIMEOUT);
                assert_eq!(reply.await.expect("an answer").len(), body().len());
            }
        })
        .await;
        gear_api::Transport::close(&transport).await;
        assert!(node.shutdown(Duration::from_secs(5)).await.is_clean());
        figures
    })
}

/// `in_flight` tasks that make `calls` calls together, after a tenth as many that do not count.
async fn callers<F, Fut>(calls: usize, in_flight: usize, call: F) -> Figures
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let run = async |calls: usize| {
        let callers: Vec<_> = (0..in_flight)
            .map(|_| {
                let call = call.clone();
                tokio::spawn(async move {
                    for _ in 0..calls / in_flight {
                        call().await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("the caller lives");
        }
    };
    run(calls / 10).await;
    let watch = Stopwatch::start();
    run(calls).await;
    watch.stop(calls)
}
