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
use tokio::{task::JoinSet, time::sleep};

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

/// What became of everything of one kind.
#[derive(Default)]
struct Account {
    sent: AtomicU32,
    outcomes: Mutex<BTreeMap<String, u32>>,
    /// Those that went well: which, and when that was known.
    good: Mutex<Vec<(u32, Instant)>>,
    /// After its deadline, at most.
    late: Mutex<Duration>,
}

/// How long a cast may wait for its confirm, and a call for its answer.
const CAST: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(2);

impl Account {
    fn ended(&self, number: u32, start: Instant, limit: Duration, error: Option<String>) {
        let late = start.elapsed().saturating_sub(limit);
        let mut latest = self.late.lock().expect("no panic");
        *latest = late.max(*latest);
        if error.is_none() {
            self.good.lock().expect("no panic").push((number, Instant::now()));
        }
        // The name of the variant.
        let outcome = error.map_or("ok".to_owned(), |error| {
            error.split(['(', ' ']).next().unwrap_or_default().to_owned()
        });
        *self.outcomes.lock().expect("no panic").entry(outcome).or_default() += 1;
    }

    fn good(&self) -> Vec<(u32, Instant)> {
        self.good.lock().expect("no panic").clone()
    }

    fn count(&self) -> u32 {
        self.outcomes.lock().expect("no panic").values().sum()
    }

    fn late(&self) -> Duration {
        *self.late.lock().expect("no panic")
    }

    /// The longest time without a good one that ended between these two moments.
    fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Instant> = self.good().into_iter().map(|(_, at)| at).collect();
        times.sort();
        let before = times.iter().rev().find(|at| **at <= from).copied().unwrap_or(from);
        let within = times.into_iter().filter(|at| *at > from && *at <= to);
        let mut last = before;
        let mut longest = Duration::ZERO;
        for at in within.chain([to]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent = self.sent.load(Ordering::Relaxed);
        write!(f, "{sent} sent, {:?}", self.outcomes.lock().expect("no panic"))
    }
}

/// A steady load that goes on whatever happens, and its accounts.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    casts: Account,
    /// To any instance: the queue is on all nodes, that of the answers on one.
    calls: Account,
    /// To one instance, whose queue is on one node.
    calls_to_one: Account,
}

impl Load {
    async fn casts(self: Arc<Self>, client: Client) {
        let mut tasks = JoinSet::new();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (this, start) = (Arc::clone(&self), Instant::now());
            let cast = client.cast(CTRL, COUNT, &number).timeout(CAST).send();
            this.casts.sent.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(async move {
                let error = cast.await.err().map(|error| format!("{error:?}"));
                this.casts.ended(number, start, CAST, error);
            });
            sleep(Duration::from_millis(10)).await;
        }
        tasks.join_all().await;
    }

    async fn calls(self: Arc<Self>, client: Client, to: Address) {
        let mut tasks = JoinSet::new();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (this, client, to) = (Arc::clone(&self), client.clone(), to.clone());
            tasks.spawn(async move {
                let account = match &to {
                    Address::Instance(_) => &this.calls_to_one,
                    _ => &this.calls,
                };
                account.sent.fetch_add(1, Ordering::Relaxed);
                let start = Instant::now();
                let error = client.call(to, ECHO, &number).timeout(CALL).await.err();
                account.ended(number, start, CALL, error.map(|error| format!("{error:?}")));
            });
            sleep(Duration::from_millis(20)).await;
        }
        tasks.join_all().await;
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
    let to_one = Address::from(&CTRL.at("host1")?);
    let running = [
        tokio::spawn(Arc::clone(&load).casts(clients[0].clone())),
        tokio::spawn(Arc::clone(&load).calls(clients[1].clone(), Address::from(&CTRL))),
        tokio::spawn(Arc::clone(&load).calls(clients[1].clone(), to_one)),
    ];
    sleep(Duration::from_secs(3)).await;
    let mut report = String::new();
    for victim in 1..=3 {
        let homes = homes(&cluster, &system).await?;
        let own: Vec<&str> = homes.iter().filter(|home| home.1 == victim).map(|h| &*h.0).collect();
        cluster.kill(victim).await;
        let killed = Instant::now();
        sleep(Duration::from_secs(12)).await;
        cluster.start(victim).await;
        cluster.whole().await;
        // Its queues are there again.
        let back = Instant::now();
        let to_one = || load.calls_to_one.good().last().is_some_and(|(_, at)| *at > back);
        eventually("the instance is called", to_one).await;
        sleep(Duration::from_secs(2)).await;
        let gap = load.calls.longest_gap(killed, Instant::now());
        let gap_to_one = load.calls_to_one.longest_gap(killed, Instant::now());
        report += &format!(
            "node {victim} killed, home of {own:?}; without an answer for {gap:?} at most, of one \
             instance for {gap_to_one:?}\n"
        );
        assert!(gap < Duration::from_secs(10), "{report}");
    }
    load.stop.store(true, Ordering::Relaxed);
    for running in running {
        running.await?;
    }
    let Load { casts, calls, calls_to_one, .. } = &*load;
    let handled = || seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lost = || {
        let handled = handled();
        casts.good().iter().filter(|(number, _)| !handled.contains_key(number)).count()
    };
    let start = Instant::now();
    while lost() > 0 && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(100)).await;
    }
    let handled = handled();
    let again: u32 = handled.values().map(|times| times - 1).sum();
    report += &format!(
        "casts: {casts}; {} handled, {again} of them again, {} confirmed and lost\n\
         calls: {calls}\ncalls to one instance: {calls_to_one}\n\
         outcomes after their deadlines: {:?}, {:?}, {:?} at most\n",
        handled.len(),
        lost(),
        casts.late(),
        calls.late(),
        calls_to_one.late(),
    );
    println!("{report}");
    assert_eq!(lost(), 0, "{report}");
    for account in [casts, calls, calls_to_one] {
        assert_eq!(account.count(), account.sent.load(Ordering::Relaxed), "{report}");
        assert!(account.good().len() > 1_000, "{report}");
        assert!(account.late() <= Duration::from_millis(250), "{report}");
    }
    // For each fault what was unconfirmed, and what both instances had not acked.
    assert!(again <= 3 * (1_000 + 2 * 64), "{report}");
    Ok(())
}

/// The classic queues of the system, and the node that each is on.
async fn homes(
    cluster: &Cluster,
    system: &str,
) -> Result<Vec<(String, u16)>, gear_test_amqp::Error> {
    let queues =
        cluster.ctl(1, &["list_queues", "--no-table-headers", "name", "type", "pid"]).await?;
    let mine = format!("{system}/");
    let home = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.strip_prefix(&mine)?;
        let pid = (words.next()? == "classic").then(|| words.next())??;
        let node = pid.split_once('.')?.0.chars().last()?.to_digit(10)?;
        Some((name.to_owned(), u16::try_from(node).ok()?))
    };
    Ok(queues.lines().filter_map(home).collect())
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
    let at = |url: &str| {
        Ok::<_, gear_amqp::AmqpError>(
            AmqpTransport::builder(url)?.system(&system)?.queue_type(QueueType::Quorum),
        )
    };
    let home = at(&cluster.urls()[0])?.connect().await?;
    drop(home.subscribe(subscription.clone()).await?);
    home.send(Route::Address(&to), cast("lost with its node")).await?;
    home.close().await;
    cluster.kill(1).await;
    let killed = Instant::now();
    for (is_allowed, url) in [(false, &cluster.urls()[1]), (true, &cluster.urls()[2])] {
        let transport = at(url)?.recreate_instance_queue(is_allowed).connect().await?;
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

/// Its connections stay open, nothing is confirmed any more, and nothing comes. RabbitMQ 4.0 pauses such
/// a node after a minute (`net_ticktime`), 4.3 lets it run.
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
        let mut moved = None;
        for number in 20.. {
            if moved.is_some() && seen.len() == 20 {
                break;
            }
            // What the consumer there was given before is not given to others before the broker has
            // noticed; what comes later is.
            if moved.is_none() {
                transport.send(Route::Address(&to), cast(&format!("{victim} {number}"))).await?;
            }
            let limit = Duration::from_secs(if moved.is_none() { 1 } else { 240 });
            let Ok(next) = tokio::time::timeout(limit, queue.next()).await else {
                assert!(moved.is_none() && cut.elapsed() < PATIENCE, "{:?}", cut.elapsed());
                continue;
            };
            let delivery = next.ok_or("the consumer ended")?;
            let name = text(delivery.message());
            delivery.ack();
            match name
                .split_once(' ')
                .map(|(of, number)| (of.parse::<u16>(), number.parse::<u32>()))
            {
                Some((Ok(of), Ok(number))) if of == victim && number < 20 => {
                    seen.insert(number);
                }
                Some((Ok(of), Ok(20..))) if of == victim => {
                    moved.get_or_insert_with(|| cut.elapsed());
                }
                _ => {}
            }
        }
        println!(
            "node {victim} cut off: what comes is consumed after {moved:?}, what was given out after {:?}",
            cut.elapsed()
        );
        cluster.heal(victim).await;
        cluster.whole().await;
    }
    Ok(())
}
