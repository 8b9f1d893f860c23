//! Deliveries that go straight to a sink: in their order, and never one within another.

use super::*;

const SIX: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

#[tokio::test(start_paused = true)]
async fn what_has_come_before_goes_first() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 3).await;
    send_all(&*web, "CTRL", &SIX).await;
    let sink = Arc::new(Acks::default());
    assert!(ctrl.forward(sink.clone()));
    assert_eq!(sink.take(), SIX);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_along_goes_before_what_came_later() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 4).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let first = next(&mut ctrl).await; // takes the second along
    send_all(&*web, "CTRL", &["3", "4", "5", "6"]).await;
    first.ack();
    let sink = Arc::new(Acks::default());
    assert!(ctrl.forward(sink.clone()));
    assert_eq!(sink.take(), SIX[1..]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_reconnect_they_come_in_their_order() {
    let broker = MemoryBroker::new();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 3).await;
    let sink = Arc::new(Acks::default());
    assert!(consumer.forward(sink.clone()));
    link.cut();
    send_all(&*web, "CTRL", &SIX).await;
    soon(broker.idle()).await;
    assert_eq!(sink.take(), SIX);
}

/// Takes over the deliveries of another consumer when it gets its first.
struct TakesOver {
    other: Mutex<Option<(Consumer, Arc<dyn DeliverySink>)>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl DeliverySink for TakesOver {
    fn deliver(&self, delivery: Delivery) {
        self.log.lock().unwrap().push(format!("begin {}", label(&delivery)));
        if let Some((consumer, sink)) = &mut *self.other.lock().unwrap() {
            consumer.forward(Arc::clone(sink));
        }
        self.log.lock().unwrap().push("end".to_owned());
        delivery.ack();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_forwards_another_consumer_does_not_run_it_within_itself() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let (mut one, two) = (serve(&*web, 1).await, join(&*web, "CTRL.h1").await.unwrap());
    send(&*web, "CTRL.h1", "inner").await.unwrap();
    let log = Arc::<Mutex<Vec<String>>>::default();
    let inner = Arc::new(TakesOver { other: Mutex::default(), log: Arc::clone(&log) });
    let other = Mutex::new(Some((two, inner as Arc<dyn DeliverySink>)));
    assert!(one.forward(Arc::new(TakesOver { other, log: Arc::clone(&log) })));
    send(&*web, "CTRL", "outer").await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["begin outer", "end", "begin inner", "end"]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_shows_each_once_even_to_who_would_have_it_forwarded() {
    struct Drops;
    impl DeliverySink for Drops {
        fn deliver(&self, _: Delivery) {}
    }
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let (feed, pattern) = (gear_api::Feed::Requests, gear_api::Pattern::ALL);
    let mut tap = web.subscribe(Subscription::Tap { feed, pattern }).await.unwrap();
    let forwarded = tap.forward(Arc::new(Drops));
    send_all(&*web, "CTRL", &SIX).await;
    if !forwarded {
        assert_eq!(take_ready(&mut tap), SIX);
    }
    assert_eq!(broker.stored_bytes(), 0);
}
