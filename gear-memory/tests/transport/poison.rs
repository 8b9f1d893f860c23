//! Messages that are lost again and again: set aside for good, or kept.

use gear_api::{Pattern, Verdict};
use gear_memory::{Overflow, Policy};

use super::*;

/// Drops whatever comes, and counts.
fn drop_all(mut consumer: Consumer) -> Arc<Mutex<u32>> {
    let count = Arc::<Mutex<u32>>::default();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            *counted.lock().unwrap() += 1;
            drop(delivery);
        }
    });
    count
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_survives_a_restart() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    send(&*web, "CTRL", "poison").await.unwrap();
    for _ in 0..Verdict::MAX_RETURNS {
        drop(next(&mut ctrl).await);
    }
    broker.restart();
    assert_eq!(ready(&broker, "CTRL:dead"), ["poison"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_queue_refuses_stays_and_is_not_spun() {
    let broker = MemoryBroker::new();
    let full = |length| Policy::new().max_length(length).overflow(Overflow::RejectPublish);
    broker.set_policy(Pattern::new("CTRL:dead"), full(0));
    let web = connect(&broker);
    let count = drop_all(serve(&*web, 10).await);
    send_all(&*web, "CTRL", &["1", "2"]).await;
    tokio::time::sleep(ms(4_500)).await;
    assert_eq!(*count.lock().unwrap(), 2 * 5 * Verdict::MAX_RETURNS);
    assert!(ready(&broker, "CTRL:dead").is_empty());

    broker.set_policy(Pattern::new("CTRL:dead"), full(1));
    tokio::time::sleep(ms(1_000)).await;
    assert_eq!(ready(&broker, "CTRL:dead").len(), 1);
    assert!(tokio::time::timeout(ms(10_000), broker.idle()).await.is_err(), "the other goes round");
    broker.set_policy(Pattern::new("CTRL:dead"), Policy::new());
    soon(broker.idle()).await;
    assert_eq!(ready(&broker, "CTRL:dead").len(), 2);
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn others_get_what_could_not_be_set_aside_when_its_consumer_goes() {
    let broker = MemoryBroker::new();
    let (web, other) = (connect(&broker), connect(&broker));
    let mut ctrl = serve(&*web, 1).await;
    broker.delete_queue("CTRL:dead");
    send_all(&*web, "CTRL", &["poison", "m"]).await;
    for _ in 0..Verdict::MAX_RETURNS {
        drop(next(&mut ctrl).await);
    }
    assert!(ctrl.try_next().is_none(), "its hands are full for a while");
    web.close().await;
    let mut other = serve(&*other, 10).await;
    assert_eq!(take(&mut other, 2).await, ["poison!", "m"]);
    soon(broker.idle()).await;
    tokio::time::sleep(ms(10_000)).await;
    assert!(other.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_does_not_take_along_what_the_broker_had_added() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    let route = Route::Delayed { delay: ms(100), jitter: ms(0), queue: "CTRL" };
    web.send(route, message("poison")).await.unwrap();
    for _ in 0..Verdict::MAX_RETURNS {
        let delivery = next(&mut ctrl).await;
        assert!(delivery.message().headers().get("x-death").is_some());
    }
    let dead = broker.messages("CTRL:dead");
    assert!(dead[0].headers().get("x-death").is_none());
    assert_eq!(dead[0].headers().len(), 2);
}
