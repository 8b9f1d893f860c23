//! Whole systems under everything that can go wrong, from seeds: what must hold whatever happens.
//! A seed that breaks a promise is named, and runs the same again.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use gear::{
    Address, Caller, Client, Context, Deduplicate, Fault, Node, Operation, Outcome, Pattern, Retry,
    Service, Topic, Window,
    memory::{BrokerFault, Injection, MemoryBroker, MemoryTransport},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{CTRL, REPO, SECOND, Test};

/// Many more with `GEAR_TEST_LONG=1`.
const SEEDS: u64 = 150;
const LONG: u64 = 20_000;

/// Of each client.
const MESSAGES: u64 = 25;
const CLIENTS: u64 = 3;
const FAULTS: u64 = 30;

const DO: Operation<u64, u64> = Operation::new("do");
const NOTE: Operation<u64, ()> = Operation::new("note");
const HAPPENED: Operation<u64, ()> = Operation::new("happened");
const TOPIC: Topic = Topic::new("number.new");

#[test]
fn no_fault_breaks_a_promise() {
    let (first, seeds) = match std::env::var("GEAR_TEST_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => (seed, 1),
        None if std::env::var_os("GEAR_TEST_LONG").is_some() => (0, LONG),
        None => (0, SEEDS),
    };
    let mut outcomes = BTreeMap::<String, u32>::new();
    for seed in first..first + seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let run = || runtime.block_on(run(seed)).map_err(|error| error.to_string());
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(ended)) => ended.iter().for_each(|e| *outcomes.entry(e.word()).or_default() += 1),
            broken => panic!("GEAR_TEST_SEED={seed}: {broken:?}"),
        }
    }
    println!("{outcomes:?}");
    // All that can happen to a queue that exists has happened.
    let all = ["Ok", "Remote", "NotSent", "DeadlinePassed", "Unknown"];
    assert!(seeds == 1 || all.iter().all(|word| outcomes.contains_key(*word)), "{outcomes:?}");
}

/// A small generator (Marsaglia's xorshift).
#[derive(Clone)]
struct Random(u64);

impl Random {
    /// One for part `part` of what has this seed.
    fn new(seed: u64, part: u64) -> Self {
        let mut random = Self((seed << 8 | part).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(1);
        random
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn time(&mut self, limit_ms: u64) -> Duration {
        Duration::from_millis(self.below(limit_ms))
    }
}

/// Who has handled each message; the clones are one account.
#[derive(Clone, Default)]
struct Done(Arc<Mutex<BTreeMap<u64, Vec<String>>>>);

impl Done {
    fn add(&self, number: u64, who: &impl ToString) {
        self.0.lock().expect("no panic").entry(number).or_default().push(who.to_string());
    }

    fn by(&self, number: u64) -> Vec<String> {
        self.0.lock().expect("no panic").get(&number).cloned().unwrap_or_default()
    }
}

/// Some requests need another service, or are for it.
async fn ctrl(
    done: Arc<Done>,
    cx: Context,
    number: u64,
    caller: Caller<u64>,
) -> Result<Outcome, Fault> {
    done.add(number, cx.instance());
    tokio::time::sleep(Duration::from_millis(number * 7 % 40)).await;
    match number % 6 {
        0 | 3 => drop(cx.client().call(REPO, DO, &number).await?),
        1 => return Ok(caller.forward(REPO, DO, &number).await?),
        _ => {}
    }
    caller.reply(&number)
}

/// Some fail, and some of these again.
fn fails(cx: &Context, number: u64) -> Result<(), Fault> {
    match u64::from(cx.attempt()) < number % 4 {
        true => Err(Fault::new("flaky", "not this time")),
        false => Ok(()),
    }
}

async fn repo(_: Arc<Done>, _: Context, number: u64) -> Result<u64, Fault> {
    tokio::time::sleep(Duration::from_millis(number * 3 % 20)).await;
    Ok(number)
}

async fn note(done: Arc<Done>, cx: Context, number: u64) -> Result<(), Fault> {
    tokio::time::sleep(Duration::from_millis(number % 30)).await;
    fails(&cx, number)?;
    done.add(number, cx.instance());
    Ok(())
}

/// Of an event it counts which service has it.
async fn happened(done: Arc<Done>, cx: Context, number: u64) -> Result<(), Fault> {
    fails(&cx, number)?;
    done.add(number, cx.instance().service());
    Ok(())
}

/// The places where nodes run.
struct Fleet {
    broker: MemoryBroker,
    done: Done,
    /// It outlives the nodes, as a database does.
    once: Deduplicate<Window>,
    places: Vec<Place>,
}

struct Place {
    service: Service,
    host: &'static str,
    /// The one that runs there now.
    running: Option<(MemoryTransport, Node)>,
}

impl Fleet {
    fn new(broker: &MemoryBroker, done: &Done) -> Self {
        let hosts = [(CTRL, "h1"), (CTRL, "h2"), (CTRL, "h3"), (REPO, "h1"), (REPO, "h2")];
        let places = hosts.map(|(service, host)| Place { service, host, running: None }).into();
        let once = Deduplicate::new(Window::default());
        Self { broker: broker.clone(), done: done.clone(), once, places }
    }

    /// Sees to it that somebody runs at a place.
    async fn start(&mut self, at: usize) -> Test {
        let Place { service, host, running } = &mut self.places[at];
        if running.is_none() {
            let link = self.broker.connect();
            let node = Node::builder(link.clone(), service.at(host)?)
                .state(self.done.clone())
                .concurrency(if at.is_multiple_of(2) { 1 } else { 8 })
                .retries(3);
            let node = match *service == CTRL {
                true => node.on_with_caller(DO, ctrl),
                false => node.on(DO, repo),
            };
            let node = node
                .layer(self.once.clone())
                .on(NOTE, note)
                .on_event("g", Pattern::new("number.*"), HAPPENED, happened)
                .start()
                .await?;
            *running = Some((link, node));
        }
        Ok(())
    }

    async fn start_all(&mut self) -> Test {
        for at in 0..self.places.len() {
            self.start(at).await?;
        }
        Ok(())
    }
}

/// One fault after another, and what an operator does.
async fn disturb(fleet: &mut Fleet, clients: &[MemoryTransport], mut random: Random) -> Test {
    let broker = fleet.broker.clone();
    for _ in 0..FAULTS {
        let at = random.below(fleet.places.len() as u64) as usize;
        let fault = |fault, times| broker.inject(Injection::new(fault).times(times));
        let times = 1 + random.below(3) as u32;
        match random.below(12) {
            0 | 1 => {
                if let Some((link, _)) = &fleet.places[at].running {
                    link.cut_for(random.time(1500));
                }
            }
            2 => clients[random.below(CLIENTS) as usize].cut_for(random.time(1500)),
            3 => broker.restart(),
            4 => {
                broker.raise_alarm("the disk is full");
                tokio::time::sleep(random.time(800)).await;
                broker.clear_alarm();
            }
            5 => fault(BrokerFault::Refuse, times),
            6 => fault(BrokerFault::LoseConfirm, times),
            7 => fault(BrokerFault::Duplicate, times),
            8 => fault(BrokerFault::Delay(random.time(1200)), times),
            9 => {
                // It crashes: whatever it holds goes back.
                drop(fleet.places[at].running.take());
                tokio::time::sleep(Duration::from_millis(1) + random.time(300)).await;
                fleet.start(at).await?;
            }
            10 => {
                if let Some((_, node)) = fleet.places[at].running.take() {
                    let _ = node.shutdown(random.time(60)).await;
                }
                fleet.start(at).await?;
            }
            _ => {}
        }
        tokio::time::sleep(random.time(250)).await;
    }
    Ok(())
}

/// What is sent, and so who has to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Call,
    CallToOne,
    Cast,
    Multicast,
    Event,
}

impl What {
    /// Whether all have it who were to have it.
    fn is_done(self, by: &[String]) -> bool {
        match self {
            Self::Call | Self::Cast => !by.is_empty(),
            Self::CallToOne => by.iter().any(|who| who == "CTRL.h2"),
            Self::Multicast => {
                ["CTRL.h1", "CTRL.h2", "CTRL.h3"].iter().all(|h| by.contains(&h.to_string()))
            }
            Self::Event => ["CTRL", "REPO"].iter().all(|service| by.contains(&service.to_string())),
        }
    }

    /// Whether nobody has it twice who is to have it once.
    fn is_done_once(self, by: &[String]) -> bool {
        let once = |who| by.iter().filter(|other| *other == who).count() == 1;
        !matches!(self, Self::Multicast | Self::Event) || by.iter().all(once)
    }
}

/// How one of them ended.
#[derive(Debug)]
struct Ended {
    number: u64,
    what: What,
    /// The answer, if it is a call.
    result: Result<Option<u64>, Retry>,
    why: String,
    /// How much later than it may.
    late: Duration,
}

impl Ended {
    /// The name of the outcome.
    fn word(&self) -> String {
        let word = self.why.strip_prefix("Err(").unwrap_or(&self.why);
        word.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    }
}

async fn send(client: Client, what: What, number: u64, limit: Duration) -> Ended {
    let start = Instant::now();
    let to = match what {
        What::CallToOne => CTRL.at("h2").expect("a valid name").into(),
        What::Multicast => CTRL.all(),
        _ => Address::from(&CTRL),
    };
    let (result, why) = match what {
        What::Call | What::CallToOne => {
            let reply = client.call(to, DO, &number).timeout(limit).await;
            let why = format!("{reply:?}");
            (reply.map(Some).map_err(|error| error.retry()), why)
        }
        _ => {
            let sending = match what {
                What::Multicast => client.cast(to, NOTE, &number),
                What::Event => client.publish(TOPIC, HAPPENED, &number),
                _ => client.cast(to, DO, &number),
            };
            let sent = sending.timeout(limit).await;
            let why = format!("{sent:?}");
            (sent.map(|()| None).map_err(|error| error.retry()), why)
        }
    };
    Ended { number, what, result, why, late: start.elapsed().saturating_sub(limit) }
}

async fn send_all(client: Client, numbers: Range<u64>, mut random: Random) -> Vec<Ended> {
    use What::{Call, CallToOne, Cast, Event, Multicast};
    let mut sent = JoinSet::new();
    for number in numbers {
        let what = [Call, Call, CallToOne, Cast, Cast, Multicast, Event][random.below(7) as usize];
        let limit = Duration::from_millis(200) + random.time(2500);
        sent.spawn(send(client.clone(), what, number, limit));
        tokio::time::sleep(random.time(150)).await;
    }
    sent.join_all().await
}

async fn run(seed: u64) -> Test<Vec<Ended>> {
    let mut random = Random::new(seed, 0);
    let broker = MemoryBroker::builder().seed(seed).reconnect_delay(random.time(400)).build();
    let done = Done::default();
    let mut fleet = Fleet::new(&broker, &done);
    fleet.start_all().await?;
    let (mut sending, mut links, mut clients) = (JoinSet::new(), Vec::new(), Vec::new());
    for n in 0..CLIENTS {
        let link = broker.connect();
        let client = Client::builder(link.clone(), format!("CLI.c{n}").parse()?).start().await?;
        let numbers = n * 1000 + 1..n * 1000 + 1 + MESSAGES;
        sending.spawn(send_all(client.clone(), numbers, Random::new(seed, 1 + n)));
        links.push(link);
        clients.push(client);
    }
    disturb(&mut fleet, &links, Random::new(seed, 100)).await?;
    let ended: Vec<Ended> = sending.join_all().await.into_iter().flatten().collect();
    fleet.start_all().await?;
    // Requests of connections that were lost are still being handled, and may wait for answers
    // that a restart has taken.
    tokio::time::sleep(SECOND * 60).await;
    broker.idle().await;

    assert_eq!(ended.len() as u64, CLIENTS * MESSAGES);
    // What could not be held back until it is tried again.
    let dead = ["CTRL:dead", "REPO:dead"].map(|queue| broker.messages(queue)).concat();
    let is_dead = |number: u64| dead.iter().any(|message| *message.body() == number.to_string());
    for ended in &ended {
        let by = done.by(ended.number);
        let context = format!("handled by {by:?}: {ended:?}");
        assert!(ended.what.is_done_once(&by), "{context}");
        // Everything ends in its time,
        assert!(ended.late <= Duration::from_millis(1), "{context}");
        match ended.result {
            // with its own answer, and is done,
            Ok(answer) => {
                assert!(ended.what.is_done(&by) || is_dead(ended.number), "{context}");
                assert!(answer.is_none_or(|answer| answer == ended.number), "{context}");
            }
            // or, if trying again is said to be safe, was not done.
            Err(Retry::Safe) => assert!(by.is_empty(), "{context}"),
            Err(_) => {}
        }
    }
    // Nothing is left but what was set aside.
    for queue in broker.queues() {
        let is_dead = queue.name.ends_with(":dead");
        assert!(queue.unsettled == 0 && (is_dead || queue.ready == 0), "{queue:?}");
    }
    for client in clients {
        assert_eq!(client.stats().open_calls, 0);
    }
    let start = Instant::now();
    for (_, node) in fleet.places.into_iter().filter_map(|place| place.running) {
        let report = node.shutdown(SECOND).await;
        assert!(report.is_clean(), "{report:?}");
    }
    assert!(start.elapsed() < SECOND, "nobody has anything to do");
    Ok(ended)
}
