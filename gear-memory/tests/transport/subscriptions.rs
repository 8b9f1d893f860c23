//! Names in use, prefetch, consumers that stop, and what a cut does to each.

use gear_api::ConsumerEnd;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_name_in_use_is_refused_until_it_is_free() {
    let broker = MemoryBroker::new();
    let (one, two) = (connect(&broker), connect(&broker));
    let mut holder = join(&*one, "CTRL.h1").await.unwrap();
    let refused = join(&*two, "CTRL.h1").await.unwrap_err();
    assert_eq!(refused, SubscribeError::NameInUse("CTRL.h1".parse().unwrap()));
    join(&*two, "CTRL.h2").await.expect("another name is free");

    holder.stop();
    join(&*two, "CTRL.h1").await.expect("it was stopped");
}

#[tokio::test(start_paused = true)]
async fn an_instance_name_is_free_when_its_consumer_is_dropped_or_its_connection_closed() {
    let broker = MemoryBroker::new();
    let (one, two, three) = (connect(&broker), connect(&broker), connect(&broker));
    drop(join(&*one, "CTRL.h1").await.unwrap());
    let _second = join(&*two, "CTRL.h1").await.unwrap();
    two.close().await;
    join(&*three, "CTRL.h1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_instance_name_is_in_use_within_one_connection_too() {
    let broker = MemoryBroker::new();
    let one = connect(&broker);
    let _holder = join(&*one, "CTRL.h1").await.unwrap();
    assert!(matches!(join(&*one, "CTRL.h1").await, Err(SubscribeError::NameInUse(_))));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_was_refused_leaves_nothing_behind() {
    let broker = MemoryBroker::new();
    let ((link, two), one) = (link(&broker), connect(&broker));
    let mut holder = join(&*one, "CTRL.h1").await.unwrap();
    assert!(join(&*two, "CTRL.h1").await.is_err());
    holder.stop();
    link.cut();
    soon(broker.idle()).await;
    assert_eq!(broker.queue("CTRL.h1").unwrap().consumers, 0, "it was not tried again");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_took_during_a_cut_ends_the_consumer() {
    let broker = MemoryBroker::new();
    let ((link, one), two) = (link(&broker), connect(&broker));
    let mut first = join(&*one, "CTRL.h1").await.unwrap();
    link.cut();
    let mut second = join(&*two, "CTRL.h1").await.expect("nobody has the name now");
    assert!(soon(first.next()).await.is_none());
    assert!(matches!(first.end(), Some(ConsumerEnd::Broker(why)) if why.starts_with("403")));
    send(&*two, "CTRL.h1", "m").await.unwrap();
    assert_eq!(take(&mut second, 1).await, ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_consumer_gives_back_in_order_what_nobody_took() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2", "3", "4"]).await;
    let taken = next(&mut ctrl).await;
    send(&*web, "CTRL", "5").await.unwrap(); // arrives behind the batch that was taken
    ctrl.stop();
    assert!(ctrl.next().await.is_none());
    assert_eq!(ctrl.end(), Some(&ConsumerEnd::Stopped));
    assert_eq!(ready(&broker, "CTRL"), ["2", "3", "4", "5"]);

    taken.requeue();
    assert_eq!(ready(&broker, "CTRL"), ["1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_gets_nothing_for_what_is_acked_when_it_stops() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 4).await;
    send_all(&*web, "CTRL", &["1", "2", "3", "4", "5"]).await;
    next(&mut ctrl).await.ack(); // by itself this would make room for the fifth
    ctrl.stop();
    assert_eq!(ready(&broker, "CTRL"), ["2", "3", "4", "5"]);
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_from_a_consumer_stays_settleable_after_it_stopped() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    let (one, two) = (next(&mut ctrl).await, next(&mut ctrl).await);
    ctrl.stop();
    one.ack();
    drop(ctrl);
    assert_eq!(broker.queue("CTRL").unwrap().unsettled, 1);
    two.ack();
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_is_a_stopped_one() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let ctrl = serve(&*web, 10).await;
    send_all(&*web, "CTRL", &["1", "2"]).await;
    drop(ctrl);
    let queue = broker.queue("CTRL").unwrap();
    assert_eq!((queue.ready, queue.unsettled, queue.consumers), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_consumer_does_not_come_back_with_its_connection() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    drop(serve(&*web, 10).await);
    link.cut();
    soon(broker.idle()).await;
    assert_eq!(broker.queue("CTRL").unwrap().consumers, 0);
}

#[tokio::test(start_paused = true)]
async fn stopping_twice_and_stopping_what_has_ended_do_nothing() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    ctrl.stop();
    ctrl.stop();
    let mut other = serve(&*web, 10).await;
    web.close().await;
    other.stop();
    assert!(other.next().await.is_none());
    assert_eq!(other.end(), Some(&ConsumerEnd::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_learns_of_its_end() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 10).await;
    let waiting = tokio::spawn(async move {
        assert!(ctrl.next().await.is_none());
        ctrl.end().cloned()
    });
    tokio::task::yield_now().await;
    web.close().await;
    assert_eq!(soon(waiting).await.unwrap(), Some(ConsumerEnd::Closed));
}

#[tokio::test(start_paused = true)]
async fn subscribing_while_the_connection_is_down_waits_until_it_is_back() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(700));
    let (mut ctrl, time) = timed(serve(&*web, 1)).await;
    assert_eq!(time, ms(700));
    send(&*web, "CTRL", "m").await.unwrap();
    assert_eq!(take_ready(&mut ctrl), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_that_is_given_up_leaves_no_consumer() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(700));
    let given_up = tokio::time::timeout(ms(100), serve(&*web, 1)).await;
    assert!(given_up.is_err());
    soon(broker.idle()).await;
    assert!(broker.queue("CTRL").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_a_subscribe_that_waits() {
    let broker = MemoryBroker::new();
    let (link, web) = link(&broker);
    link.cut_for(ms(700));
    let waiting = tokio::spawn(async move { join(&*web, "CTRL.h1").await.map(drop) });
    tokio::task::yield_now().await;
    link.close().await;
    assert_eq!(soon(waiting).await.unwrap(), Err(SubscribeError::Closed));
}

#[tokio::test(start_paused = true)]
async fn joining_removes_the_pattern_bindings_of_an_older_layout() {
    // Nothing in this broker makes them; what counts is that joining again is harmless.
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    for _ in 0..2 {
        let mut h1 = join(&*web, "CTRL.h1").await.unwrap();
        send(&*web, "CTRL.*", "m").await.unwrap();
        assert_eq!(take_ready(&mut h1), ["m"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_an_instance_waits_a_day_for_it_to_come_back() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    drop(join(&*web, "CTRL.h1").await.unwrap());
    tokio::time::sleep(DAY - ms(1)).await;
    send(&*web, "CTRL.h1", "m").await.unwrap();
    tokio::time::sleep(ms(2)).await;
    assert!(broker.queue("CTRL.h1").is_none());
    assert_eq!(broker.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_lost_its_name_does_not_take_it_back() {
    let broker = MemoryBroker::new();
    let ((link, one), two) = (link(&broker), connect(&broker));
    let mut first = join(&*one, "CTRL.h1").await.unwrap();
    link.cut();
    let second = join(&*two, "CTRL.h1").await.unwrap();
    assert!(soon(first.next()).await.is_none());
    drop(second);
    link.cut();
    soon(broker.idle()).await;
    assert_eq!(broker.queue("CTRL.h1").unwrap().consumers, 0);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_here_can_be_taken_without_a_pause() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let mut ctrl = serve(&*web, 1_000).await;
    for n in 0..500 {
        drop(web.send(Route::Address(&address("CTRL")), message(&n.to_string())));
    }
    assert_eq!(take_ready(&mut ctrl).len(), 500);
}
