//! After many cycles nothing has piled up.

use std::{sync::Arc, time::Duration};

use gear_amqp::AmqpTransport;
use gear_api::{
    Address, Client, Context, EventGroup, Fault, Node, Operation, Route, Subscription, Transport,
};
use gear_test_amqp::{Broker, Vhost};

use crate::{CTRL, PATIENCE, REPO, System, Test, cast, eventually, next, ready, serve};

/// Of lost connections. With `GEAR_TEST_LONG` half an hour: pauses between them grow to 2 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cycle_after_cycle_leaves_nothing_behind() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let _queue = serve(&transport, &CTRL, 1).await;
    let cycles = if std::env::var_os("GEAR_TEST_LONG").is_some() { 1_000 } else { 20 };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (mut before, mut threads_before) = (0, 0);
    for cycle in 0..=cycles {
        if cycle == 3 {
            (before, threads_before) = (tasks(), threads());
        }
        let accepted = proxy.accepted();
        proxy.drop_connections();
        eventually("both are back", || proxy.accepted() >= accepted + 2).await;
        ready(&transport).await;
    }
    eventually("connections are where they were", || proxy.connections() == 2).await;
    eventually("tasks are where they were", || tasks() <= before + 4).await;
    eventually("threads are where they were", || threads() <= threads_before + 2).await;
    Ok(())
}

/// A connection has 2,047 numbers for its channels, and those that the broker has closed can not
/// be used again: as many as queues were looked for and not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_do_not_run_out_of_channels() -> Test {
    const AT_ONCE: u32 = 16;
    let system = System::new().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            let transport = transport.clone();
            tokio::spawn(async move {
                for number in (first..2_100).step_by(AT_ONCE as usize) {
                    let group = EventGroup::new(REPO, &format!("g{number}"))?;
                    let patterns = vec!["a.b".parse()?];
                    let events = Subscription::Events { group, patterns, prefetch: 1 };
                    let mut consumer = transport.subscribe(events).await?;
                    consumer.stop();
                    while consumer.next().await.is_some() {}
                }
                Test::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    Ok(())
}

const ECHO: Operation<u64, u64> = Operation::new("echo").idempotent();

async fn echo(_: Arc<()>, _: Context, number: u64) -> Result<u64, Fault> {
    Ok(number)
}

/// So many are counted.
const CYCLES: u64 = 500;

/// In a process of its own: its memory and threads are nobody else's.
#[test]
fn hundreds_of_cycles_of_service_leave_nothing_behind() -> Test {
    const VARIABLE: &str = "GEAR_TEST_CYCLES";
    if std::env::var_os(VARIABLE).is_some() {
        return tokio::runtime::Runtime::new()?.block_on(cycles());
    }
    let mut child = std::process::Command::new(std::env::current_exe()?);
    let name = "cycles::hundreds_of_cycles_of_service_leave_nothing_behind";
    let output = child.args([name, "--exact", "--nocapture"]).env(VARIABLE, "1").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    Ok(())
}

async fn cycles() -> Test {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let system = System::at(vhost.url());
    let node = Node::builder(system.connect().await, REPO.at("host1")?).on(ECHO, echo);
    let node = node.start().await?;
    let transport = system.connect().await;
    let client = Client::builder(transport.clone(), "CLI.test".parse()?).start().await?;
    for number in 0..100 {
        cycle(&system, &transport, &client, number).await?;
    }
    let before = Left::count(broker, &vhost).await;
    for number in 0..CYCLES {
        cycle(&system, &transport, &client, number).await?;
    }
    // What was closed last may still be on its way out.
    let start = std::time::Instant::now();
    let after = loop {
        let after = Left::count(broker, &vhost).await;
        if after.is_no_more_than(&before) || start.elapsed() > PATIENCE {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("{before:?}, then {after:?}");
    assert!(after.is_no_more_than(&before), "{before:?}, then {after:?}");
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// A consumer comes and goes, a call is answered and another given up, and now and then a whole
/// connection comes and goes.
async fn cycle(system: &System, transport: &AmqpTransport, client: &Client, number: u64) -> Test {
    let mut queue = serve(transport, &CTRL, 10).await;
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    queue.stop();
    assert!(queue.next().await.is_none());
    assert_eq!(client.call(REPO, ECHO, &number).await?, number);
    let call = client.call(REPO, ECHO, &number).into_future();
    drop(tokio::time::timeout(Duration::from_micros(100), call).await);
    if number.is_multiple_of(20) {
        let transport = system.connect().await;
        let client = Client::builder(transport.clone(), "CLI.other".parse()?).start().await?;
        assert_eq!(client.call(REPO, ECHO, &number).await?, number);
        transport.close().await;
    }
    Ok(())
}

/// What there is of everything that could pile up.
#[derive(Debug)]
struct Left {
    tasks: usize,
    threads: usize,
    kib: u64,
    channels: usize,
    queues: usize,
}

impl Left {
    async fn count(broker: &Broker, vhost: &Vhost) -> Self {
        // Of a broker that somebody else runs nothing is known.
        let channels = broker.ctl(&["list_channels", "vhost"]).await.unwrap_or_default();
        let queues = broker.ctl(&["list_queues", "-p", vhost.name(), "name"]).await;
        Self {
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            threads: threads(),
            kib: resident_kib(),
            channels: channels.lines().filter(|line| *line == vhost.name()).count(),
            queues: queues.unwrap_or_default().lines().count(),
        }
    }

    fn is_no_more_than(&self, before: &Self) -> bool {
        /// Allocators keep some of what they were given back: 10 bytes for each message would
        /// not be seen, and 10 KiB would.
        const SLACK_KIB: u64 = CYCLES * 8;
        self.tasks <= before.tasks + 4
            && self.threads <= before.threads + 2
            && self.kib <= before.kib + SLACK_KIB
            && self.channels <= before.channels
            && self.queues <= before.queues
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
