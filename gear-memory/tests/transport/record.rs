//! The record: what happened, in words, and the same for every run with one seed.

use gear_memory::{Event, Recorded};

use super::*;

fn lines(broker: &MemoryBroker) -> Vec<String> {
    let line = |recorded: Recorded| recorded.to_string();
    // Times are aligned to the right; what they are is tested once.
    broker.recorded().into_iter().map(line).map(|line| line.trim_start().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_event_is_one_line_that_can_be_read() {
    let broker = MemoryBroker::builder().record(100).build();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 1).await;
    let hello = Message::builder(Kind::Cast, "hello").id(gear_api::Id::from("order-17")).build();
    web.send(Route::Address(&address("CTRL")), hello).await.unwrap();
    next(&mut consumer).await.requeue();
    tokio::time::sleep(ms(1_500)).await;
    next(&mut consumer).await.reject();
    assert_eq!(send(&*web, "NONE", "m").await, Err(PublishError::NotRouted));
    link.cut();
    soon(broker.idle()).await;
    assert_eq!(
        lines(&broker),
        [
            "0.000ns  publish  cast hello [order-17] to \"gear\" CTRL: CTRL",
            "0.000ns  deliver  cast hello [order-17] from CTRL",
            "0.000ns  settle   cast hello [order-17] from CTRL: Requeue",
            "0.000ns  deliver  cast hello [order-17] from CTRL again",
            "1.500s  settle   cast hello [order-17] from CTRL: Reject",
            "1.500s  die      cast hello [order-17] in CTRL: rejected",
            "1.500s  publish  cast test to \"gear\" NONE: nobody",
            "1.500s  cut      0",
            "1.600s  connect  0",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_recorded_as_such() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let message = expiring("m", &*web, ms(100));
    web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    tokio::time::sleep(ms(101)).await;
    assert_eq!(lines(&broker).last().unwrap(), "100.000ms  die      cast test in CTRL: expired");
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_nobody_brought_to_the_broker_is_recorded_when_somebody_looks() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 100).await;
    send(&*web, "CTRL", "m").await.unwrap();
    next(&mut ctrl).await.ack();
    assert!(lines(&broker).last().unwrap().ends_with("settle   cast test from CTRL: Ack"));
}

#[tokio::test(start_paused = true)]
async fn without_asking_for_it_nothing_is_recorded() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let _ = send(&*web, "CTRL", "m").await;
    assert_eq!(broker.recorded(), []);
}

#[tokio::test(start_paused = true)]
async fn the_record_keeps_the_latest() {
    let broker = MemoryBroker::builder().record(2).build();
    let web = connect(&broker);
    for name in ["A", "B", "C"] {
        let _ = send(&*web, name, "m").await;
    }
    let keys: Vec<_> = broker
        .recorded()
        .into_iter()
        .filter_map(|recorded| match recorded.event {
            Event::Published { key, .. } => Some(key),
            _ => None,
        })
        .collect();
    assert_eq!(keys, ["B", "C"]);
}

/// Several tasks that send, handle, fail and lose their connections; what happened.
async fn busy_run(seed: u64) -> (Vec<Recorded>, Vec<u64>, Vec<ReplyTo>) {
    let broker = MemoryBroker::builder().seed(seed).record(100_000).build();
    let (mut seeds, mut replies) = (Vec::new(), Vec::new());
    for n in 0..3u64 {
        let (link, node) = link(&broker);
        let (consumer, sink) = ask_as(&*node, &format!("CTRL.h{n}")).await;
        seeds.push(node.seed());
        replies.push(sink.at());
        let mut ctrl = serve(&*node, 3).await;
        tokio::spawn(async move {
            let _replies = consumer;
            let mut count = n;
            while let Some(delivery) = ctrl.next().await {
                count += 1;
                tokio::time::sleep(ms(count % 5)).await;
                match count % 7 {
                    0 => drop(delivery),
                    1 => delivery.requeue(),
                    _ => delivery.ack(),
                }
            }
        });
        tokio::spawn(async move {
            for round in 0..30 {
                let message = expiring("m", &*node, ms(500));
                let _ = node.send(Route::Address(&address("CTRL")), message).await;
                tokio::time::sleep(ms(n + 1)).await;
                if round == 10 + n {
                    link.cut_for(ms(20));
                }
            }
            std::future::pending::<()>().await; // keeps its connection
        });
    }
    tokio::time::sleep(ms(2_000)).await;
    soon(broker.idle()).await;
    (broker.recorded(), seeds, replies)
}

fn run_alone<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

#[test]
fn one_seed_gives_one_run_and_another_seed_other_ids() {
    let (one, two) = (run_alone(busy_run(7)), run_alone(busy_run(7)));
    assert!(one.0.len() > 300, "only {} events", one.0.len());
    assert_eq!(one, two);
    let other = run_alone(busy_run(8));
    assert_ne!(one.1, other.1);
    assert_ne!(one.2, other.2);
}

#[tokio::test(start_paused = true)]
async fn a_seed_fixes_the_clock_and_gives_each_connection_a_seed_of_its_own() {
    let (one, two) =
        (MemoryBroker::builder().seed(7).build(), MemoryBroker::builder().seed(7).build());
    assert_eq!(one.clock().now(), two.clock().now());
    let seeds = [connect(&one).seed(), connect(&one).seed()];
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(seeds, [connect(&two).seed(), connect(&two).seed()]);
}
