//! Taps: what they hold, and what a cut does to them.

use gear_api::{Feed, Pattern};

use super::*;

async fn tap(on: &dyn Transport, feed: Feed, pattern: &'static str) -> Consumer {
    let pattern = Pattern::new(pattern);
    on.subscribe(Subscription::Tap { feed, pattern }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_tap_that_nobody_reads_drops_the_oldest_behind_its_buffer() {
    const BUFFER: usize = 1_000;
    const QUEUE: usize = 10_000;
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut tap = tap(&*web, Feed::Requests, "#").await;
    for n in 0..BUFFER + QUEUE + 7 {
        send(&*web, "CTRL", &n.to_string()).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(ms(1), tap.next()).await {
        seen.push(label(&delivery).parse::<usize>().unwrap());
    }
    let expected: Vec<usize> = (0..BUFFER).chain(BUFFER + 7..BUFFER + QUEUE + 7).collect();
    assert_eq!(seen.len(), BUFFER + QUEUE);
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn a_tap_comes_back_after_a_cut_and_has_missed_what_passed() {
    let broker = MemoryBroker::new();
    let ((link, watcher), web) = (link(&broker), connect(&broker));
    drop(serve(&*web, 10).await);
    let mut tap = tap(&*watcher, Feed::Requests, "#").await;
    send(&*web, "CTRL", "lost in its buffer").await.unwrap();
    link.cut();
    send(&*web, "CTRL", "missed").await.unwrap();
    soon(broker.idle()).await;
    send(&*web, "CTRL", "seen").await.unwrap();
    assert_eq!(take_ready(&mut tap), ["seen"]);
}
