//! Requests with an answer: one at a time, and many at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gear::{
    Client, Context, Delivery, Message, Node, Operation, Raw, Service, memory::MemoryBroker,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    body, compare,
    delivery::{Settled, delivery, message},
    rate,
};

const ECHO: Service = Service::new("ECHO");
const SAY: Operation<Bytes, Bytes, Raw> = Operation::new("say");
const CALLS: usize = 100_000;

pub(crate) fn run() {
    for in_flight in [1, 100] {
        let calls = if in_flight == 1 { CALLS / 4 } else { CALLS };
        compare(
            &format!(
                "calls, {in_flight} in flight: F2 is a channel, a task, a oneshot and a timeout"
            ),
            &[
                ("F2", &|| channel(calls, in_flight)),
                ("F2 with messages that are built and settled", &|| settled(calls, in_flight)),
                ("F (no task, no timeout)", &|| bare(calls, in_flight)),
                ("Node, raw bytes", &|| node(calls, in_flight)),
            ],
        );
    }
}

type Asked = (Bytes, oneshot::Sender<Bytes>);

fn channel(calls: usize, in_flight: usize) -> f64 {
    rate(calls, async move {
        let (sender, mut receiver) = mpsc::channel::<Asked>(1000);
        tokio::spawn(async move {
            while let Some((body, answer)) = receiver.recv().await {
                tokio::spawn(async move { answer.send(body).expect("the caller waits") });
            }
        });
        callers(calls, in_flight, move || {
            let sender = sender.clone();
            async move {
                let (answer, receiver) = oneshot::channel();
                sender.send((body(), answer)).await.expect("the server lives");
                let waited = tokio::time::timeout(Duration::from_secs(30), receiver).await;
                waited.expect("in time").expect("an answer");
            }
        })
        .await;
    })
}

/// F2, with a message there and one back.
fn settled(calls: usize, in_flight: usize) -> f64 {
    rate(calls, async move {
        let settled = Arc::new(Settled::default());
        let (sender, mut receiver) = mpsc::channel::<(Delivery, oneshot::Sender<Message>)>(1000);
        tokio::spawn(async move {
            while let Some((request, answer)) = receiver.recv().await {
                tokio::spawn(async move {
                    answer.send(message()).expect("the caller waits");
                    request.ack();
                });
            }
        });
        callers(calls, in_flight, move || {
            let (sender, settled) = (sender.clone(), Arc::clone(&settled));
            async move {
                let (answer, receiver) = oneshot::channel();
                let request = delivery(message(), &settled);
                assert!(sender.send((request, answer)).await.is_ok(), "the server lives");
                let waited = tokio::time::timeout(Duration::from_secs(30), receiver).await;
                waited.expect("in time").expect("an answer");
            }
        })
        .await;
    })
}

fn bare(calls: usize, in_flight: usize) -> f64 {
    rate(calls, async move {
        let (sender, mut receiver) = mpsc::channel::<Asked>(1000);
        tokio::spawn(async move {
            while let Some((body, answer)) = receiver.recv().await {
                answer.send(body).expect("the caller waits");
            }
        });
        callers(calls, in_flight, move || {
            let sender = sender.clone();
            async move {
                let (answer, receiver) = oneshot::channel();
                sender.send((body(), answer)).await.expect("the server lives");
                receiver.await.expect("an answer");
            }
        })
        .await;
    })
}

fn node(calls: usize, in_flight: usize) -> f64 {
    rate(calls, async move {
        let broker = MemoryBroker::new();
        let node = Node::builder(broker.connect(), ECHO.at("host1").expect("a valid name"))
            .concurrency(500)
            .on(SAY, async |_: Arc<()>, _: Context, body: Bytes| Ok(body))
            .start()
            .await
            .expect("nobody else has the name");
        let client = Client::builder(broker.connect(), "CLI.here".parse().expect("a valid name"));
        let client = client.start().await.expect("the broker is up");
        callers(calls, in_flight, move || {
            let client = client.clone();
            async move {
                client.call(ECHO, SAY, &body()).await.expect("an answer");
            }
        })
        .await;
        drop(node);
    })
}

/// `in_flight` tasks that make `calls` calls together.
async fn callers<F, Fut>(calls: usize, in_flight: usize, call: F)
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
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
}
