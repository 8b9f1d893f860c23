//! A publisher that is faster than its consumer: memory stays below the watermark.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gear::{
    Address, Kind, Message, Route, Service, Subscription, Text, Transport, memory::MemoryBroker,
};

use crate::{body, rate};

const MESSAGES: usize = 10_000_000;
const WATERMARK: usize = 64 * 1024 * 1024;
const SINK: Service = Service::new("SINK");

pub(crate) fn run() {
    let title = "watermark";
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if only.is_some_and(|only| !title.contains(&only)) {
        return;
    }
    let highest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&highest);
    let before = resident_kib();
    let start = Instant::now();
    let rate = rate(MESSAGES, async move {
        let broker = MemoryBroker::builder().watermark(WATERMARK).build();
        let publisher: Arc<dyn Transport> = broker.connect().into();
        let consumer: Arc<dyn Transport> = broker.connect().into();
        let subscription = Subscription::Service { service: SINK, prefetch: 1000 };
        let mut queue = consumer.subscribe(subscription).await.expect("it is empty");
        let consuming = tokio::spawn(async move {
            let mut backlog = Vec::new();
            for n in 0..MESSAGES {
                backlog.push(queue.next().await.expect("the queue is open"));
                // Settles in bursts with pauses, so that the publisher runs into the mark.
                if backlog.len() == 1000 || n + 1 == MESSAGES {
                    backlog.drain(..).for_each(gear::Delivery::ack);
                    if n % 2_000_000 < 1000 {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                }
            }
        });
        let to = Address::from(SINK);
        for n in 0..MESSAGES {
            let message =
                Message::builder(Kind::Cast, Text::from_static("take")).body(body()).build();
            publisher.send(Route::Address(&to), message).await.expect("somebody listens");
            if n % 1000 == 0 {
                seen.fetch_max(broker.stored_bytes(), Ordering::Relaxed);
            }
        }
        consuming.await.expect("the consumer lives");
    });
    let mib = |bytes: usize| bytes as f64 / (1024.0 * 1024.0);
    println!("\n{title}: {MESSAGES} messages through a mark of {} MiB", mib(WATERMARK));
    println!("  stored at most    {:>8.1} MiB", mib(highest.load(Ordering::Relaxed)));
    if let (Some(before), Some(peak)) = (before, resident_kib()) {
        println!(
            "  process grew by   {:>8.1} MiB (peak of the whole run)",
            (peak - before) as f64 / 1024.0
        );
    }
    println!("  took              {:>8.1} s ({rate:.0}/s)", start.elapsed().as_secs_f64());
}

/// The most memory that this process has ever had, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
