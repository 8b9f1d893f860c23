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
async fn a_tap_comes_back_after_a_cut_and_has_missed_only_what_passed_meanwhile() {
    let broker = MemoryBroker::new();
    let ((link, watcher), web) = (link(&broker), connect(&broker));
    drop(serve(&*web, 10).await);
    let mut tap = tap(&*watcher, Feed::Requests, "#").await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    assert_eq!(label(&next(&mut tap).await), "1"); // takes the second along
    send(&*web, "CTRL", "3").await.unwrap();
    link.cut();
    send(&*web, "CTRL", "missed").await.unwrap();
    assert_eq!(take_ready(&mut tap), ["2", "3"], "what it had was its own");
    soon(broker.idle()).await;
    send(&*web, "CTRL", "4").await.unwrap();
    link.cut();
    soon(broker.idle()).await;
    send(&*web, "CTRL", "5").await.unwrap();
    assert_eq!(take_ready(&mut tap), ["4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_that_nobody_reads_keeps_the_newest_through_cuts() {
    let broker = MemoryBroker::new();
    let ((link, watcher), web) = (link(&broker), connect(&broker));
    drop(serve(&*web, 10).await);
    let mut tap = tap(&*watcher, Feed::Requests, "#").await;
    for n in 0..2_000 {
        send(&*web, "CTRL", &n.to_string()).await.unwrap();
        if n % 800 == 799 {
            link.cut();
            soon(broker.idle()).await;
        }
    }
    let seen = take_ready(&mut tap);
    assert_eq!((seen.len(), seen[0].as_str()), (1_400, "600"));
    let more: Vec<String> = (0..1_500).map(|n| n.to_string()).collect();
    for body in &more {
        send(&*web, "CTRL", body).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(ms(1), tap.next()).await {
        seen.push(label(&delivery));
    }
    assert_eq!(seen, more, "its buffer has room again");
}
