//! Measures gear-memory, and Node on top of it, beside floors of bare tokio channels.
//!
//! `cargo bench --bench memory` prints the ratios that `BENCHMARKS.md` explains. Contestants
//! take turns, so that a machine that gets slower gets slower for all; each figure is the
//! median of five rounds. `cargo bench --bench memory -- NAME` runs only what has NAME in
//! its title, and with a second name only those contestants whose names have that.

mod calls;
mod delivery;
mod fanout;
mod one_way;
mod routing;
mod watermark;

use std::{future::Future, time::Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

const ROUNDS: usize = 5;

/// A body of 256 bytes.
fn body() -> Bytes {
    Bytes::from_static(&[b'x'; 256])
}

/// Runs `work` on a runtime of two threads, and returns operations a second.
fn rate<F: Future<Output = ()> + Send + 'static>(operations: usize, work: F) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs threads and memory only");
    let start = Instant::now();
    runtime.block_on(async { tokio::spawn(work).await.expect("a contestant failed") });
    operations as f64 / start.elapsed().as_secs_f64()
}

/// The consumer of a floor: takes all that comes, which must be so many.
async fn take_all<T>(mut receiver: mpsc::Receiver<T>, take: fn(T), count: usize) {
    let mut seen = 0;
    while let Some(it) = receiver.recv().await {
        take(it);
        seen += 1;
    }
    assert_eq!(seen, count);
}

/// One who is measured: a name, and a round that returns a rate.
type Contestant<'a> = (&'a str, &'a dyn Fn() -> f64);

/// Lets all take turns, and prints each one's median and its ratio to the first.
fn compare(title: &str, contestants: &[Contestant<'_>]) {
    let mut wanted = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    if wanted.next().is_some_and(|wanted| !title.contains(&wanted)) {
        return;
    }
    let wanted = wanted.next().unwrap_or_default();
    let contestants: Vec<_> =
        contestants.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    let mut rates = vec![Vec::new(); contestants.len()];
    for _ in 0..ROUNDS {
        for ((_, round), rates) in contestants.iter().zip(&mut rates) {
            rates.push(round());
        }
    }
    println!("\n{title}");
    let mut floor = 0.0;
    for ((name, _), rates) in contestants.iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let median = rates[ROUNDS / 2];
        if floor == 0.0 {
            floor = median;
        }
        let (low, high) = (rates[0], rates[ROUNDS - 1]);
        println!(
            "  {name:<44} {:>6.2}   ({median:>10.0}/s; {low:.0} to {high:.0})",
            median / floor
        );
    }
}

fn main() {
    println!(
        "Ratios to the first of each group; 256-byte bodies, two threads, medians of {ROUNDS}."
    );
    one_way::run();
    calls::run();
    fanout::run();
    routing::run();
    watermark::run();
}
