//! The record: what happened, in words, and the same for every run with one seed.

use gear_api::Pattern;
use gear_memory::{BrokerFault, Event, Overflow, Policy, Recorded};

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
            "0.000ns  deliver  cast hello [order-17] from CTRL to 0",
            "0.000ns  settle   cast hello [order-17] from CTRL by 0: Requeue",
            "0.000ns  deliver  cast hello [order-17] from CTRL to 0 again",
            "1.500s  settle   cast hello [order-17] from CTRL by 0: Reject",
            "1.500s  die      cast hello [order-17] in CTRL: rejected",
            "1.500s  publish  cast test to \"gear\" NONE: nobody",
            "1.500s  cut      0",
            "1.600s  connect  0",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn it_says_which_of_two_had_a_message_and_who_has_left() {
    let broker = MemoryBroker::builder().record(100).build();
    let (one, two) = (connect(&broker), connect(&broker));
    let (mut first, mut second) = (serve(&*one, 1).await, serve(&*two, 1).await);
    send_all(&*one, "CTRL", &["1", "2"]).await;
    next(&mut second).await.ack();
    next(&mut first).await.ack();
    drop((first, second));
    one.close().await;
    assert_eq!(
        lines(&broker),
        [
            "0.000ns  publish  cast test to \"gear\" CTRL: CTRL",
            "0.000ns  deliver  cast test from CTRL to 0",
            "0.000ns  publish  cast test to \"gear\" CTRL: CTRL",
            "0.000ns  deliver  cast test from CTRL to 1",
            "0.000ns  settle   cast test from CTRL by 1: Ack",
            "0.000ns  settle   cast test from CTRL by 0: Ack",
            "0.000ns  close    0",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_recorded_where_it_hits() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let faults = [
        BrokerFault::Refuse,
        BrokerFault::LoseConfirm,
        BrokerFault::LoseMessage,
        BrokerFault::Duplicate,
        BrokerFault::Delay(ms(500)),
    ];
    for fault in faults {
        broker.inject(fault);
        let sent = web.send(Route::Address(&address("CTRL")), message("m"));
        sent.detach();
    }
    soon(broker.idle()).await;
    let publish = "publish  cast test to \"gear\" CTRL: CTRL";
    assert_eq!(
        lines(&broker),
        [
            "0.000ns  fault    cast test to CTRL: Refuse".to_owned(),
            "0.000ns  fault    cast test to CTRL: LoseConfirm".to_owned(),
            format!("0.000ns  {publish}"),
            "0.000ns  fault    cast test to CTRL: LoseMessage".to_owned(),
            "0.000ns  fault    cast test to CTRL: Duplicate".to_owned(),
            format!("0.000ns  {publish}"),
            format!("0.000ns  {publish}"),
            "0.000ns  fault    cast test to CTRL: Delay(500ms)".to_owned(),
            format!("500.000ms  {publish}"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn alarms_are_recorded_and_so_is_the_watermark() {
    let broker = MemoryBroker::builder().record(100).watermark(1_000).build();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    broker.raise_alarm("no disk");
    broker.raise_alarm("no disk");
    broker.raise_alarm("no memory");
    broker.clear_alarm();
    broker.clear_alarm();
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let (one, two) = (next(&mut ctrl).await, next(&mut ctrl).await);
    one.ack();
    two.ack();
    let mut lines = lines(&broker);
    lines.retain(|line| line.contains("block"));
    assert_eq!(
        lines,
        [
            "0.000ns  block    no disk",
            "0.000ns  block    no memory",
            "0.000ns  unblock",
            "0.000ns  block    the memory watermark is exceeded",
            "0.000ns  unblock",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn restarts_and_deleted_queues_are_recorded_with_what_they_lose() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    for message in [durable("1"), message("2"), message("3")] {
        web.send(Route::Address(&address("CTRL")), message).await.unwrap();
    }
    broker.restart();
    soon(broker.idle()).await;
    let mut ctrl = serve(&*web, 1).await;
    let _held = next(&mut ctrl).await;
    send(&*web, "CTRL", "4").await.unwrap();
    assert!(broker.delete_queue("CTRL"));
    let mut lines = lines(&broker);
    lines.retain(|line| !line.contains("publish") && !line.contains("deliver"));
    assert_eq!(
        lines,
        [
            "0.000ns  cut      0",
            "0.000ns  restart  2 messages lost",
            "100.000ms  connect  0",
            "101.000ms  delete   CTRL: 2 messages",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_is_told_from_those_that_take() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    for name in ["CTRL.h1", "CTRL.h2"] {
        drop(join(&*web, name).await.unwrap());
    }
    let full = Policy::new().max_length(0).overflow(Overflow::RejectPublish);
    broker.set_policy(Pattern::new("CTRL.h2"), full);
    for key in ["CTRL.*", "CTRL.h2"] {
        assert!(matches!(send(&*web, key, "m").await, Err(PublishError::Refused(_))));
    }
    assert_eq!(
        lines(&broker),
        [
            "0.000ns  publish  cast test to \"gear\" CTRL.*: CTRL.h1; refused by CTRL.h2",
            "0.000ns  publish  cast test to \"gear\" CTRL.h2: nobody; refused by CTRL.h2",
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
    assert!(lines(&broker).last().unwrap().ends_with("settle   cast test from CTRL by 0: Ack"));
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
