//! Leaving under load: hundreds of requests are on their way when one half of the nodes leaves,
//! and then the other. Every call has one outcome that is true, and no cast is lost or done twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use gear::{
    CallError, CastError, Client, Context, Fault, Node, Operation, Service, ShutdownReport, code,
    memory::{MemoryBroker, QueueInfo},
};

use crate::{SECOND, Test, broker, node};

/// Each request is a number of its own, and its answer the same.
const WORK: Operation<u32, u32> = Operation::new("work");
/// What some of the work asks of the next service.
const PART: Operation<u32, u32> = Operation::new("part");

const SERVICES: usize = 6;
const CLIENTS: u32 = 4;
/// Calls of each client, one each millisecond, and as many casts.
const EACH: u32 = 150;
/// How long a node that leaves waits for its handlers: some need longer.
const PATIENCE: Duration = ms(25);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Shop {
    services: Vec<Service>,
    /// How often each request came to its end.
    done: Mutex<BTreeMap<u32, usize>>,
}

impl Shop {
    fn new() -> Result<Arc<Self>, gear::NameError> {
        let services = (0..SERVICES).map(|n| format!("S{n}").parse());
        Ok(Arc::new(Self { services: services.collect::<Result<_, _>>()?, done: Mutex::default() }))
    }

    fn service(&self, n: u32) -> &Service {
        &self.services[n as usize % SERVICES]
    }

    fn done(&self, n: u32) -> usize {
        self.done.lock().expect("no panic in here").get(&n).copied().unwrap_or_default()
    }

    /// One instance of every service.
    async fn open(self: &Arc<Self>, broker: &MemoryBroker, host: &str) -> Test<Vec<Node>> {
        let mut nodes = Vec::new();
        for service in &self.services {
            let node = node(broker, service, host).concurrency(16).state(Arc::clone(self));
            nodes.push(node.on(WORK, work).on(PART, part).start().await?);
        }
        Ok(nodes)
    }
}

async fn work(shop: Arc<Shop>, cx: Context, n: u32) -> Result<u32, Fault> {
    tokio::time::sleep(ms(u64::from(20 + n * 7 % 50))).await;
    if n.is_multiple_of(5) {
        cx.client().call(shop.service(n + 1), PART, &n).await?;
    }
    *shop.done.lock().expect("no panic in here").entry(n).or_default() += 1;
    Ok(n)
}

async fn part(_: Arc<Shop>, _: Context, n: u32) -> Result<u32, Fault> {
    tokio::time::sleep(ms(3)).await;
    Ok(n)
}

type Outcome<T, E> = Vec<(u32, Result<T, E>)>;

/// Calls and casts in turn, and what became of each.
async fn ask(
    client: Client,
    shop: Arc<Shop>,
    first: u32,
) -> (Outcome<u32, CallError>, Outcome<(), CastError>) {
    let (mut calls, mut casts) = (Vec::new(), Vec::new());
    for n in (first..first + 2 * EACH).step_by(2) {
        let call = client.call(shop.service(n), WORK, &n).timeout(SECOND).send();
        calls.push(async move { (n, call.await) });
        let cast = client.cast(shop.service(n + 1), WORK, &(n + 1)).send();
        casts.push(async move { (n + 1, cast.await) });
        tokio::time::sleep(ms(1)).await;
    }
    (join_all(calls).await, join_all(casts).await)
}

async fn close(nodes: Vec<Node>) -> Vec<ShutdownReport> {
    join_all(nodes.into_iter().map(|node| node.shutdown(PATIENCE))).await
}

fn count(queues: &[QueueInfo], of: impl Fn(&QueueInfo) -> usize) -> usize {
    queues.iter().map(of).sum()
}

/// What became of every request, in words, in their order.
async fn run() -> Test<BTreeMap<u32, String>> {
    let (broker, shop) = (broker(), Shop::new()?);
    let (leave_first, leave_last) =
        (shop.open(&broker, "host1").await?, shop.open(&broker, "host2").await?);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let name = format!("CLI.{n}").parse()?;
        clients.push(Client::builder(broker.connect(), name).start().await?);
    }
    let asking = clients
        .iter()
        .zip((0..).step_by(2 * EACH as usize))
        .map(|(client, first)| tokio::spawn(ask(client.clone(), Arc::clone(&shop), first)));
    let asking: Vec<_> = asking.collect();

    tokio::time::sleep(ms(100)).await;
    let open: usize = clients.iter().map(|client| client.stats().open_calls).sum();
    let handled = count(&broker.queues(), |queue| queue.unsettled);
    let waiting = count(&broker.queues(), |queue| queue.ready);
    assert!(open > 200 && handled > 50 && waiting > 200, "{open} {handled} {waiting}");
    let mut reports = close(leave_first).await;
    tokio::time::sleep(ms(75)).await;
    reports.extend(close(leave_last).await);
    assert!(reports.iter().all(|report| report.stuck == 0), "{reports:?}");

    // Nobody is there any more: what is left of the calls ends in its time.
    let mut outcomes = BTreeMap::new();
    let mut casts = BTreeSet::new();
    for asked in join_all(asking).await {
        let (called, cast) = asked?;
        for (n, outcome) in called {
            let word = match outcome {
                Ok(answer) => {
                    assert_eq!(answer, n);
                    "done".to_owned()
                }
                Err(CallError::Remote(error)) => error.code,
                Err(error) => format!("{error:?}"),
            };
            assert_eq!(shop.done(n), usize::from(word == "done"), "{n}: {word}");
            assert_eq!(outcomes.insert(n, word), None, "{n} has two outcomes");
        }
        for (n, outcome) in cast {
            outcome?;
            assert!(casts.insert(n));
        }
    }
    assert!(clients.iter().all(|client| client.stats().open_calls == 0));
    assert_eq!((outcomes.len(), casts.len()), (600, 600));

    // Every cast is done, or where it can be done.
    broker.idle().await;
    assert_eq!(count(&broker.queues(), |queue| queue.unsettled), 0);
    let mut left: BTreeMap<u32, usize> = BTreeMap::new();
    for service in &shop.services {
        let messages = broker.messages(service.as_str()).into_iter();
        // Beside it there may be parts of work that was cut off, which nobody waits for.
        for message in messages.filter(|message| *message.operation() == WORK.name()) {
            *left.entry(serde_json::from_slice(message.body())?).or_default() += 1;
        }
    }
    for &n in &casts {
        let (done, left) = (shop.done(n), left.get(&n).copied().unwrap_or_default());
        assert_eq!(done + left, 1, "{n}: {done} times done, {left} times left");
        outcomes.insert(n, if done == 1 { "cast, done" } else { "cast, left" }.to_owned());
    }
    let unfinished: usize = reports.iter().map(|report| report.unfinished.len()).sum();
    assert!(unfinished > 20, "only {unfinished} were cut off");

    // And it is done by who comes next; but not the calls, whose time is over.
    let nodes = shop.open(&broker, "host3").await?;
    broker.idle().await;
    for (n, outcome) in &outcomes {
        assert_eq!(shop.done(*n), usize::from(casts.contains(n) || outcome == "done"), "{n}");
    }
    assert!(close(nodes).await.iter().all(ShutdownReport::is_clean));
    for client in clients {
        client.close().await;
    }
    assert_eq!(broker.stored_bytes(), 0, "{:?}", broker.queues());
    Ok(outcomes)
}

#[tokio::test(start_paused = true)]
async fn under_load_every_call_has_one_outcome_and_no_cast_is_lost_or_done_twice() -> Test {
    let outcomes = run().await?;
    let count = |word: &str| outcomes.values().filter(|outcome| *outcome == word).count();
    // There is enough of each to speak of.
    assert!(count("done") > 100, "{}", count("done"));
    assert!(count(code::DROPPED) > 10, "{}", count(code::DROPPED));
    assert!(count("DeadlinePassed") > 50, "{}", count("DeadlinePassed"));
    assert!(count("cast, done") > 100, "{}", count("cast, done"));
    assert!(count("cast, left") > 100, "{}", count("cast, left"));
    // The same again, to the last of them.
    assert_eq!(run().await?, outcomes);
    Ok(())
}
