//! Many threads at once: nothing is lost, nothing is delivered twice without a mark, and
//! the count of what is stored comes back to zero.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;

const PUBLISHERS: usize = 4;
const CONSUMERS: usize = 4;
const MESSAGES: usize = 2_500;

/// A small generator, so that a run can be told by its seed (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What is known of each message.
#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    delivered: u32,
    unmarked: u32,
    acked: u32,
}

type Ledger = Arc<Mutex<HashMap<String, Fate>>>;

async fn publish_all(node: Arc<dyn Transport>, publisher: usize) {
    for n in 0..MESSAGES {
        let message = durable(&format!("{publisher}/{n}"));
        let sent = node.send(Route::Address(&address("CTRL")), message).await;
        assert_eq!(sent, Ok(()), "{publisher}/{n}");
    }
}

/// Consumes until the connection is closed, with consumers that stop after a while.
async fn consume_all(
    node: Arc<dyn Transport>,
    prefetch: u16,
    ledger: Ledger,
    mut random: Random,
) -> Result<(), SubscribeError> {
    loop {
        let service = Subscription::Service { service: CTRL, prefetch };
        let mut consumer = node.subscribe(service).await?;
        let limit = 1 + random.below(200);
        settle_some(&mut consumer, limit, &ledger, &mut random).await;
        if random.below(2) == 0 {
            consumer.stop();
        }
    }
}

/// Settles at random. A stale ack does not count, and which are stale nobody can know: so
/// acks are counted as tried, and what was acked in vain comes again.
async fn settle_some(consumer: &mut Consumer, limit: u64, ledger: &Ledger, random: &mut Random) {
    for _ in 0..limit {
        let Some(delivery) = consumer.next().await else { return };
        // Not dropped twice: what is lost again and again is set aside, and that is another
        // test's affair.
        let verdict = match random.below(10) {
            0 if delivery.is_redelivered() => 9,
            other => other,
        };
        {
            let mut ledger = ledger.lock().unwrap();
            let fate = ledger.entry(text(delivery.message())).or_default();
            fate.delivered += 1;
            fate.unmarked += u32::from(!delivery.is_redelivered());
            fate.acked += u32::from(verdict > 2);
        }
        match verdict {
            0 => drop(delivery),
            1 => delivery.requeue(),
            2 => drop(tokio::spawn(async move { delivery.requeue() })),
            _ => delivery.ack(),
        }
        if random.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Cuts one connection after the other until it is over, and at least a few times.
async fn cut_often(links: Vec<MemoryTransport>, over: Arc<AtomicBool>, mut random: Random) {
    let mut cuts = 0;
    while cuts < 20 || !over.load(Ordering::Relaxed) {
        let link = &links[random.below(links.len() as u64) as usize];
        link.cut_for(Duration::from_micros(random.below(300)));
        cuts += 1;
        tokio::time::sleep(ms(1)).await;
    }
}

async fn run(seed: u64) {
    let broker = MemoryBroker::builder().reconnect_delay(Duration::ZERO).build();
    let ledger = Ledger::default();
    let over = Arc::new(AtomicBool::new(false));
    let (mut links, mut publishers, mut consumers) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CONSUMERS {
        let (link, node) = link(&broker);
        let prefetch = [1, 3, 16, 200][n % 4];
        drop(serve(&*node, prefetch).await); // the queue is there
        let random = Random(seed * 100 + n as u64 + 1);
        consumers.push(tokio::spawn(consume_all(node, prefetch, Arc::clone(&ledger), random)));
        links.push(link);
    }
    for n in 0..PUBLISHERS {
        let (link, node) = link(&broker);
        publishers.push(tokio::spawn(publish_all(node, n)));
        links.push(link);
    }
    let cutter = tokio::spawn(cut_often(links.clone(), Arc::clone(&over), Random(seed + 99)));
    for publisher in publishers {
        publisher.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    cutter.await.unwrap();
    while broker.stored_bytes() > 0 {
        tokio::time::sleep(ms(1)).await;
    }
    for link in links {
        link.close().await;
    }
    for consumer in consumers {
        assert!(matches!(consumer.await.unwrap(), Err(SubscribeError::Closed)));
    }
    check(&ledger.lock().unwrap(), &broker);
}

fn check(ledger: &HashMap<String, Fate>, broker: &MemoryBroker) {
    assert_eq!(broker.stored_bytes(), 0);
    for queue in broker.queues() {
        assert_eq!((queue.ready, queue.unsettled), (0, 0), "{}", queue.name);
    }
    assert_eq!(ledger.len(), PUBLISHERS * MESSAGES, "lost");
    for (body, fate) in ledger {
        assert!(fate.acked >= 1, "{body}: {fate:?}");
        assert!(fate.unmarked <= 1, "{body} came twice as new: {fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_under_cuts_stops_and_random_verdicts() {
    for seed in 1..=3 {
        let run = tokio::time::timeout(Duration::from_secs(60), run(seed));
        run.await.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
}

/// Looks all the time, so that it looks in the very moment of a reconnect, too.
fn look_all_the_time(mut consumer: Consumer, seen: &AtomicU64, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if let Some(delivery) = consumer.try_next() {
            seen.fetch_add(1, Ordering::Relaxed);
            delivery.requeue();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_looks_during_the_reconnect_gets_what_it_can_settle() {
    let broker = MemoryBroker::builder().reconnect_delay(Duration::ZERO).build();
    let (link, ctrl) = link(&broker);
    let consumer = serve(&*ctrl, 1).await;
    send(&*ctrl, "CTRL", "m").await.unwrap();
    let state = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
    let shared = Arc::clone(&state);
    let looking = std::thread::spawn(move || look_all_the_time(consumer, &shared.0, &shared.1));
    let (seen, over) = (&state.0, &state.1);
    for cut in 0..200 {
        link.cut();
        let _ = link.status().wait_for(Status::is_ready).await;
        let before = seen.load(Ordering::Relaxed);
        let more = async {
            while seen.load(Ordering::Relaxed) == before {
                tokio::task::yield_now().await;
            }
        };
        let more = tokio::time::timeout(Duration::from_secs(20), more).await;
        assert!(more.is_ok(), "stuck after {cut} cuts");
    }
    over.store(true, Ordering::Relaxed);
    looking.join().unwrap();
}

/// Sends a few at a time and then leaves the broker alone: a settlement that was left behind while
/// the publisher had the lock would stay there, and with a prefetch of one nothing would come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_comes_while_a_publisher_has_the_broker_is_not_left_behind() {
    for prefetch in [1, 2] {
        let broker = MemoryBroker::new();
        let (_publishing, web) = link(&broker);
        let (_consuming, ctrl) = link(&broker);
        let mut consumer = serve(&*ctrl, prefetch).await;
        let seen = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&seen);
        let consuming = tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                delivery.ack();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut random = Random(u64::from(prefetch));
        let mut sent = 0;
        while sent < 20_000 {
            for _ in 0..1 + random.below(6) {
                send(&*web, "CTRL", "m").await.unwrap();
                sent += 1;
            }
            let all = async {
                while seen.load(Ordering::Relaxed) < sent {
                    tokio::task::yield_now().await;
                }
            };
            let all = tokio::time::timeout(Duration::from_secs(20), all).await;
            assert!(all.is_ok(), "stuck after {sent} with a prefetch of {prefetch}");
        }
        ctrl.close().await;
        consuming.await.unwrap();
    }
}
