//! High availability: nodes of a cluster are killed, or cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use gear_amqp::{AmqpBuilder, AmqpTransport};
use gear_api::{
    Address, Client, Context, Fault, Node, Operation, Route, Subscription, Transport,
    topology::QueueType,
};
use gear_test_amqp::{Cluster, unique_system};
use tokio::time::sleep;

use crate::{CTRL, PATIENCE, Test, cast, eventually, next, serve, text};

const COUNT: Operation<u32, ()> = Operation::new("count");
const ECHO: Operation<u32, u32> = Operation::new("echo").idempotent();

/// How often each number was handled; the clones are one account.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<u32, u32>>>);

async fn count(seen: Arc<Seen>, _: Context, number: u32) -> Result<(), Fault> {
    *seen.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
    Ok(())
}

async fn echo(_: Arc<Seen>, _: Context, number: u32) -> Result<u32, Fault> {
    Ok(number)
}

/// A load of casts and calls that goes on whatever happens, and its account.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    confirmed: Mutex<Vec<u32>>,
    unconfirmed: AtomicU32,
    answered: Mutex<Vec<Instant>>,
    unanswered: AtomicU32,
}

impl Load {
    async fn casts(self: Arc<Self>, client: Client) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let this = Arc::clone(&self);
            let cast = client.cast(CTRL, COUNT, &number).timeout(Duration::from_secs(30));
            let cast = cast.send();
            tokio::spawn(async move {
                match cast.await {
                    Ok(()) => this.confirmed.lock().expect("no panic").push(number),
                    Err(_) => drop(this.unconfirmed.fetch_add(1, Ordering::Relaxed)),
                }
            });
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn calls(self: Arc<Self>, client: Client) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match client.call(CTRL, ECHO, &number).timeout(Duration::from_secs(2)).await {
                Ok(_) => self.answered.lock().expect("no panic").push(Instant::now()),
                Err(_) => drop(self.unanswered.fetch_add(1, Ordering::Relaxed)),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn builder(cluster: &Cluster, system: &str) -> Result<AmqpBuilder, gear_amqp::AmqpError> {
    let urls = cluster.urls();
    let mut builder = AmqpTransport::builder(&urls[0])?;
    for url in &urls[1..] {
        builder = builder.url(url)?;
    }
    Ok(builder
        .system(system)?
        .queue_type(QueueType::Quorum)
        .heartbeat(Duration::from_secs(5))
        .connect_timeout(Duration::from_secs(3))
        .confirm_timeout(Duration::from_secs(3)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three containers and some minutes: run with --ignored"]
async fn no_confirmed_cast_is_lost_and_calls_go_on_when_each_node_is_killed_once() -> Test {
    let cluster = Cluster::up(None).await;
    let system = unique_system();
    let seen = Seen::default();
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        let transport = builder(&cluster, &system)?.connect().await?;
        let node = Node::builder(transport, CTRL.at(host)?).state(seen.clone());
        nodes.push(node.on(COUNT, count).on(ECHO, echo).start().await?);
    }
    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for name in ["CLI.one", "CLI.two"] {
        let transport = builder(&cluster, &system)?.connect().await?;
        clients.push(Client::builder(transport, name.parse()?).start().await?);
    }
    let casts = tokio::spawn(Arc::clone(&load).casts(clients[0].clone()));
    let calls = tokio::spawn(Arc::clone(&load).calls(clients[1].clone()));
    sleep(Duration::from_secs(3)).await;
    let answered_after = |at: Instant| {
        let answered = load.answered.lock().expect("no panic");
        answered.iter().find(|answer| **answer > at + Duration::from_millis(300)).copied()
    };
    let mut report = String::new();
    for victim in 1..=3 {
        cluster.kill(victim).await;
        let killed = Instant::now();
        eventually("calls go on", || answered_after(killed).is_some()).await;
        let gap = answered_after(killed).map_or(Duration::MAX, |at| at - killed);
        report += &format!("node {victim} killed: the next answer after {gap:?}\n");
        assert!(gap < Duration::from_secs(10), "{report}");
        sleep(Duration::from_secs(5)).await;
        cluster.start(victim).await;
        cluster.whole().await;
        sleep(Duration::from_secs(3)).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    casts.await?;
    calls.await?;
    let confirmed = load.confirmed.lock().expect("no panic").clone();
    let handled = || seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lost = || {
        let handled = handled();
        confirmed.iter().filter(|number| !handled.contains_key(number)).count()
    };
    let start = Instant::now();
    while lost() > 0 && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(100)).await;
    }
    let twice = handled().values().filter(|times| **times > 1).count();
    report += &format!(
        "casts: {} confirmed, {} lost, {twice} handled more than once, {} not confirmed in 30 s\n\
         calls: {} answered, {} not\n",
        confirmed.len(),
        lost(),
        load.unconfirmed.load(Ordering::Relaxed),
        load.answered.lock().expect("no panic").len(),
        load.unanswered.load(Ordering::Relaxed),
    );
    println!("{report}");
    assert_eq!(lost(), 0, "{report}");
    assert!(confirmed.len() > 1_000, "{report}");
    Ok(())
}

/// The queue of an instance is classic, and so on one node of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three containers and a minute: run with --ignored"]
async fn an_instance_queue_on_a_dead_node_is_declared_again_where_that_is_allowed() -> Test {
    let cluster = Cluster::up(None).await;
    let system = unique_system();
    let instance = CTRL.at("host1")?;
    let to = Address::from(&instance);
    let subscription = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
    // Its home is the first node.
    let home = AmqpTransport::builder(&cluster.urls()[0])?.system(&system)?.connect().await?;
    drop(home.subscribe(subscription.clone()).await?);
    home.send(Route::Address(&to), cast("lost with its node")).await?;
    home.close().await;
    cluster.kill(1).await;
    let killed = Instant::now();
    for (is_allowed, url) in [(false, &cluster.urls()[1]), (true, &cluster.urls()[2])] {
        let builder = AmqpTransport::builder(url)?.system(&system)?;
        let transport = builder.recreate_instance_queue(is_allowed).connect().await?;
        let subscribing = transport.subscribe(subscription.clone());
        // The broker takes its time to say that the queue can not be reached.
        let limit = Duration::from_secs(if is_allowed { 240 } else { 5 });
        let Ok(subscribed) = tokio::time::timeout(limit, subscribing).await else {
            assert!(!is_allowed, "it is declared again");
            continue;
        };
        assert!(is_allowed || subscribed.is_err(), "nothing is lost unasked");
        if is_allowed {
            let mut own = subscribed?;
            println!("declared again {:?} after its node was killed", killed.elapsed());
            transport.send(Route::Address(&to), cast("again")).await?;
            assert_eq!(text(next(&mut own).await.message()), "again");
        }
        transport.close().await;
    }
    Ok(())
}

/// Its connections stay open, and nothing is confirmed any more: publishing goes elsewhere. Who
/// consumes there learns of it when the node pauses itself, a minute later (`net_ticktime`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three containers and some minutes: run with --ignored"]
async fn a_node_that_is_cut_off_from_its_cluster_is_left_for_another() -> Test {
    let cluster = Cluster::up(None).await;
    let system = unique_system();
    let transport = builder(&cluster, &system)?.connect().await?;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let to = Address::from(&CTRL);
    for victim in 1..=3 {
        cluster.isolate(victim).await;
        let cut = Instant::now();
        for number in 0..20 {
            let message = cast(&format!("{victim} {number}"));
            let sent = tokio::time::timeout(PATIENCE, transport.send(Route::Address(&to), message));
            sent.await.map_err(|_| format!("node {victim}: not confirmed in {PATIENCE:?}"))??;
        }
        println!("node {victim} cut off: 20 casts are confirmed after {:?}", cut.elapsed());
        let mut seen = BTreeSet::new();
        while seen.len() < 20 {
            let delivery = tokio::time::timeout(Duration::from_secs(150), queue.next()).await?;
            let delivery = delivery.ok_or("the consumer ended")?;
            let name = text(delivery.message());
            delivery.ack();
            if name.starts_with(&victim.to_string()) {
                seen.insert(name);
            }
        }
        println!("node {victim} cut off: they are consumed after {:?}", cut.elapsed());
        cluster.heal(victim).await;
        cluster.whole().await;
    }
    Ok(())
}
