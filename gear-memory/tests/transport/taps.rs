//! Taps: they see what passes, and change nothing, but for one thing that is told here, too.

use gear_api::{Feed, Pattern, Topic};

use super::*;

async fn tap(on: &dyn Transport, feed: Feed, pattern: &'static str) -> Consumer {
    let pattern = Pattern::new(pattern);
    on.subscribe(Subscription::Tap { feed, pattern }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_tap_sees_copies_and_never_competes() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let mut tap = tap(&*web, Feed::Requests, "CTRL").await;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    assert_eq!(take_ready(&mut ctrl), ["1", "2", "3"]);
    assert_eq!(take_ready(&mut tap), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_sees_the_keys_that_its_pattern_matches() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 10).await;
    let _h1 = join(&*web, "CTRL.h1").await.unwrap();
    let mut tap = tap(&*web, Feed::Requests, "CTRL.*").await;
    send(&*web, "CTRL", "service").await.unwrap();
    send(&*web, "CTRL.h1", "instance").await.unwrap();
    send(&*web, "CTRL.*", "multicast").await.unwrap();
    send(&*web, "*.*", "broadcast").await.unwrap();
    assert_eq!(take_ready(&mut tap), ["instance", "multicast"]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_sees_requests_or_events_and_no_replies() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 10).await;
    let (_replies, sink) = ask_as(&*web, "CTRL.h1").await;
    let mut requests = tap(&*web, Feed::Requests, "#").await;
    let mut events = tap(&*web, Feed::Events, "#").await;
    send(&*web, "CTRL", "request").await.unwrap();
    web.send(Route::Event(&Topic::new("t")), message("event")).await.unwrap();
    web.send(Route::Reply(&sink.at()), message("reply")).await.unwrap();
    web.send(Route::Dead(&CTRL), message("dead")).await.unwrap();
    assert_eq!(take_ready(&mut requests), ["request"]);
    assert_eq!(take_ready(&mut events), ["event"]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_on_everything_makes_every_key_count_as_routed_until_it_is_dropped() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut tap = tap(&*web, Feed::Requests, "#").await;
    send(&*web, "CTRL", "m").await.expect("the tap has it");
    assert_eq!(take_ready(&mut tap), ["m"]);
    drop(tap);
    assert_eq!(send(&*web, "CTRL", "m").await, Err(PublishError::NotRouted));
    assert_eq!(broker.queues(), []);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_tap_shows_needs_no_settling() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut tap = tap(&*web, Feed::Requests, "#").await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    drop(next(&mut tap).await);
    next(&mut tap).await.requeue();
    assert!(tap.try_next().is_none(), "nothing comes back");
    assert_eq!(broker.stored_bytes(), 0);
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
async fn several_taps_see_everything_each() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut one = tap(&*web, Feed::Requests, "#").await;
    let mut two = tap(&*web, Feed::Requests, "#").await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    assert_eq!(take_ready(&mut one), ["1", "2"]);
    assert_eq!(take_ready(&mut two), ["1", "2"]);
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
