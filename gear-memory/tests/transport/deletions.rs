//! Queues that are deleted while somebody consumes them: they are there again at once.

use gear_api::{EventGroup, Feed, Pattern, Topic};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_is_declared_and_consumed_again_by_the_same_consumer() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 2).await;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await;
    let held = [next(&mut ctrl).await, next(&mut ctrl).await];
    assert!(broker.delete_queue("CTRL"));
    let queue = broker.queue("CTRL").unwrap();
    assert_eq!((queue.ready, queue.unsettled, queue.consumers), (0, 0, 1));
    assert_eq!(broker.stored_bytes(), 0);

    send_all(&*web, "CTRL", &["4", "5", "6"]).await;
    for late in held {
        late.requeue(); // settles nothing, and nothing of those that came since
    }
    let again = [next(&mut ctrl).await, next(&mut ctrl).await];
    assert_eq!(again.each_ref().map(label), ["4", "5"]);
    assert!(ctrl.try_next().is_none(), "its hands are full");
    assert_eq!(ready(&broker, "CTRL"), ["6"]);
    assert!(ctrl.end().is_none());
    assert!(!broker.delete_queue("none"));
}

#[tokio::test(start_paused = true)]
async fn what_had_arrived_from_a_queue_that_is_deleted_is_given_out_once_and_settles_nothing() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    let mut ctrl = serve(&*web, 3).await;
    send(&*web, "CTRL", "deleted").await.unwrap();
    broker.delete_queue("CTRL");
    send(&*web, "CTRL", "not deleted").await.unwrap();
    let deleted = next(&mut ctrl).await;
    assert_eq!(label(&deleted), "deleted");
    deleted.requeue();
    assert_eq!(take(&mut ctrl, 1).await, ["not deleted"]);
    assert!(ctrl.try_next().is_none());

    send_all(&*web, "CTRL", &["1", "2"]).await;
    let one = next(&mut ctrl).await; // takes the second along
    send_all(&*web, "CTRL", &["3", "4"]).await;
    broker.delete_queue("CTRL");
    send(&*web, "CTRL", "5").await.unwrap();
    one.requeue();
    for expected in ["2", "3"] {
        let delivery = next(&mut ctrl).await;
        assert_eq!(label(&delivery), expected);
        delivery.requeue();
    }
    let five = next(&mut ctrl).await;
    assert_eq!(label(&five), "5");
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 1);
    link.cut();
    assert_eq!(take(&mut ctrl, 1).await, ["5!"], "and the others do not come again");
    assert!(ctrl.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_goes_straight_to_a_sink_does_so_after_a_deletion() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1).await;
    let sink = Arc::new(Acks::default());
    assert!(ctrl.forward(sink.clone()));
    for body in ["1", "2", "3"] {
        send(&*web, "CTRL", body).await.unwrap();
        broker.delete_queue("CTRL");
    }
    assert_eq!(sink.take(), ["1", "2", "3"]);
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_consumers_of_a_queue_that_is_deleted_come_back_and_take_turns_as_they_connected() {
    let broker = MemoryBroker::new();
    // Connections come and go, so that the broker's own order would be another one.
    let gone = [connect(&broker), connect(&broker)];
    for connection in &gone {
        connection.close().await;
    }
    let (one, two) = (connect(&broker), connect(&broker));
    let (mut second, mut first) = (serve(&*two, 10).await, serve(&*one, 10).await);
    let mut other = join(&*one, "CTRL.h1").await.unwrap();
    broker.delete_queue("CTRL");
    assert_eq!(broker.queue("CTRL").unwrap().consumers, 2);
    send_all(&*one, "CTRL", &["1", "2", "3", "4"]).await;
    send(&*one, "CTRL.h1", "5").await.unwrap();
    assert_eq!(take_ready(&mut first), ["1", "3"]);
    assert_eq!(take_ready(&mut second), ["2", "4"]);
    assert_eq!(take_ready(&mut other), ["5"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_keeps_its_name_when_its_queue_is_deleted() {
    let broker = MemoryBroker::new();
    let (one, two) = (connect(&broker), connect(&broker));
    let mut holder = join(&*one, "CTRL.h1").await.unwrap();
    broker.delete_queue("CTRL.h1");
    assert!(matches!(join(&*two, "CTRL.h1").await, Err(SubscribeError::NameInUse(_))));
    send(&*two, "CTRL.*", "m").await.unwrap();
    assert_eq!(take_ready(&mut holder), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn whose_connection_is_down_when_its_queue_is_deleted_declares_it_when_it_is_back() {
    let broker = MemoryBroker::new();
    let ((link, ctrl), web) = (link(&broker), connect(&broker));
    let mut consumer = serve(&*ctrl, 10).await;
    link.cut_for(ms(700));
    broker.delete_queue("CTRL");
    assert_eq!(send(&*web, "CTRL", "m").await, Err(PublishError::NotRouted));
    soon(broker.idle()).await;
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(take_ready(&mut consumer), ["m"]);
    assert_eq!(broker.queue("CTRL").unwrap().consumers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_consumer_does_not_come_back_to_a_queue_that_is_deleted() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send(&*web, "CTRL", "m").await.unwrap();
    let held = next(&mut ctrl).await;
    ctrl.stop();
    broker.delete_queue("CTRL");
    assert!(broker.queue("CTRL").is_none());
    held.requeue();
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_goes_on_when_its_queue_is_deleted() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let waiting = tokio::spawn(async move { label(&next(&mut ctrl).await) });
    tokio::task::yield_now().await;
    broker.delete_queue("CTRL");
    tokio::task::yield_now().await;
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), "m");
}

async fn hear(on: &dyn Transport, pattern: &'static str) -> Consumer {
    let (group, patterns) = (EventGroup::new(CTRL, "g").unwrap(), vec![Pattern::new(pattern)]);
    on.subscribe(Subscription::Events { group, patterns, prefetch: 10 }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_queue_is_deleted_hears_what_its_members_want_and_nothing_else() {
    let broker = MemoryBroker::new();
    let (one, two) = (connect(&broker), connect(&broker));
    let mut first = hear(&*one, "a").await;
    let mut second = hear(&*two, "b").await;
    drop(hear(&*one, "c").await); // its pattern stays as long as the queue
    broker.delete_queue("CTRL:events.g");
    for topic in ["a", "b", "c"] {
        let topic: Topic = topic.parse().unwrap();
        one.send(Route::Event(&topic), message(topic.as_str())).await.unwrap();
    }
    assert_eq!(take_ready(&mut first), ["a"]);
    assert_eq!(take_ready(&mut second), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_that_is_deleted_keeps_its_name() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await;
    assert!(broker.delete_queue(sink.at().as_str()));
    web.send(Route::Reply(&sink.at()), message("m")).await.unwrap();
    assert_eq!(sink.bodies(), ["m"]);
    assert_eq!(sink.at.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tap_whose_queue_is_deleted_gets_another_one() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(serve(&*web, 1).await);
    let (feed, pattern) = (Feed::Requests, Pattern::ALL);
    let mut tap = web.subscribe(Subscription::Tap { feed, pattern }).await.unwrap();
    send(&*web, "CTRL", "1").await.unwrap();
    assert!(broker.delete_queue("amq.gen-1"));
    send(&*web, "CTRL", "2").await.unwrap();
    assert_eq!(take_ready(&mut tap), ["1", "2"]);
    tap.stop();
    let left: Vec<_> = broker.queues().into_iter().map(|queue| queue.name.to_string()).collect();
    assert_eq!(left, ["CTRL", "CTRL:dead"]);
}

#[tokio::test(start_paused = true)]
async fn acks_before_a_deletion_count_and_are_not_among_what_it_loses() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    next(&mut ctrl).await.ack();
    let held = next(&mut ctrl).await;
    broker.delete_queue("CTRL");
    held.ack();
    send(&*web, "CTRL", "3").await.unwrap();
    let lines = broker.recorded().into_iter().map(|line| line.to_string().trim().to_owned());
    let lines: Vec<_> = lines.filter(|line| !line.contains("publish")).collect();
    assert_eq!(
        lines,
        [
            "0.000ns  deliver  cast test from CTRL to 0",
            "0.000ns  deliver  cast test from CTRL to 0",
            "0.000ns  settle   cast test from CTRL by 0: Ack",
            "0.000ns  delete   CTRL: 1 messages",
            "0.000ns  deliver  cast test from CTRL to 0",
        ]
    );
}
