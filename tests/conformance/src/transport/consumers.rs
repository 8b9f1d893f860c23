//! Consumers: names in use, stopping, ending.

use std::sync::{Arc, Mutex, PoisonError};

use gear_api::{
    Consumer, ConsumerEnd, Delivery, DeliverySink, PublishError, SubscribeError, Transport,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "consumers";
    a_name_in_use_is_refused(exclusive_instances): "to another connection, its holder unharmed",
    a_name_in_use_is_refused_on_its_own_connection(exclusive_instances): "which lives on",
    a_name_is_free_when_its_holder_stops(exclusive_instances): "or is dropped, or closed",
    a_stopped_consumer_ends_and_says_so: "and stopping twice does nothing",
    closing_ends_every_consumer: "those that wait learn of it, too",
    a_consumer_that_is_given_up_while_waiting_loses_nothing: "`next` may be dropped",
    a_queue_that_is_deleted_is_declared_and_consumed_again: "by the consumer that it had",
    every_consumer_of_a_queue_that_is_deleted_comes_back: "those of other connections, too",
    what_is_settled_late_settles_nothing_of_the_next_queue: "which has the name of the deleted one",
    subscribing_again_after_a_deletion_works: "the queue is there again",
    subscribing_on_a_closed_connection_is_refused: "at once",
    deliveries_may_go_straight_to_a_sink: "where a backend can: all of them, in their order",
}

async fn a_name_in_use_is_refused(world: World) -> Test {
    let (one, two) = (world.connect().await?, world.connect().await?);
    let mut holder = join(&*one, "CTRL.h1").await?;
    let refused = join(&*two, "CTRL.h1").await.err();
    assert_eq!(refused, Some(SubscribeError::NameInUse("CTRL.h1".parse()?)));
    let mut other = join(&*two, "CTRL.h2").await?;
    send_all(&*two, "CTRL.*", &["1", "2", "3", "4"]).await?;
    let taken = take_each(&world, [(&mut holder, 4), (&mut other, 4)]).await;
    assert_eq!(taken, [["1", "2", "3", "4"], ["1", "2", "3", "4"]]);
    Ok(())
}

async fn a_name_in_use_is_refused_on_its_own_connection(world: World) -> Test {
    let one = world.connect().await?;
    let mut holder = join(&*one, "CTRL.h1").await?;
    let refused = join(&*one, "CTRL.h1").await;
    assert!(matches!(refused, Err(SubscribeError::NameInUse(_))), "{refused:?}");
    send(&*one, "CTRL.h1", "m").await?;
    assert_eq!(take_all(&world, &mut holder, 1).await, ["m"]);
    Ok(())
}

async fn a_name_is_free_when_its_holder_stops(world: World) -> Test {
    let (one, two, three) =
        (world.connect().await?, world.connect().await?, world.connect().await?);
    let mut holder = join(&*one, "CTRL.h1").await?;
    holder.stop();
    drop(join_again(&*two, "CTRL.h1").await?);
    let _last = join_again(&*three, "CTRL.h1").await?;
    three.close().await;
    join_again(&*two, "CTRL.h1").await?;
    Ok(())
}

async fn a_stopped_consumer_ends_and_says_so(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    assert_eq!(ctrl.end(), None);
    ctrl.stop();
    ctrl.stop();
    assert!(within(ctrl.next()).await.is_none());
    assert_eq!(ctrl.end(), Some(&ConsumerEnd::Stopped));
    assert!(within(ctrl.next()).await.is_none(), "and stays so");
    Ok(())
}

async fn closing_ends_every_consumer(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    let mut h1 = join(&*web, "CTRL.h1").await?;
    let (mut replies, _sink) = ask_as(&*web, "WEB.h1").await?;
    let waiting = tokio::spawn(async move {
        assert!(h1.next().await.is_none());
        h1.end().cloned()
    });
    tokio::task::yield_now().await;
    web.close().await;
    assert_eq!(within(waiting).await?, Some(ConsumerEnd::Closed));
    assert!(within(ctrl.next()).await.is_none());
    assert_eq!(ctrl.end(), Some(&ConsumerEnd::Closed));
    assert!(within(replies.next()).await.is_none());
    assert_eq!(replies.end(), Some(&ConsumerEnd::Closed));
    Ok(())
}

async fn a_consumer_that_is_given_up_while_waiting_loses_nothing(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    for n in 0..20 {
        let given_up = tokio::time::timeout(ms(1), ctrl.next()).await;
        assert!(given_up.is_err(), "there is nothing yet");
        send(&*web, "CTRL", &n.to_string()).await?;
        assert_eq!(take(&mut ctrl, 1).await, [n.to_string()]);
    }
    Ok(())
}

async fn a_queue_that_is_deleted_is_declared_and_consumed_again(world: World) -> Test {
    let web = world.connect().await?;
    let (mut ctrl, mut h1) = (serve(&*web, 10).await?, join(&*web, "CTRL.h1").await?);
    for (queue, consumer) in [("CTRL", &mut ctrl), ("CTRL.h1", &mut h1)] {
        send(&*web, queue, "m").await?;
        let held = next(consumer).await;
        world.delete_queue(queue).await?;
        held.ack(); // of a queue that is gone: it settles nothing, and breaks nothing
        let after = within(after_a_deletion(&*web, queue, consumer)).await;
        assert_eq!(after.as_deref(), Some("after"), "{queue}: {:?}", consumer.end());
    }
    Ok(())
}

/// What comes to a consumer whose queue was deleted; none if it has ended.
async fn after_a_deletion(
    web: &dyn Transport,
    queue: &str,
    consumer: &mut Consumer,
) -> Option<String> {
    loop {
        // In between nobody is there.
        let sent = send(web, queue, "after").await;
        assert!(matches!(sent, Ok(()) | Err(PublishError::NotRouted)), "{sent:?}");
        if let Ok(next) = tokio::time::timeout(ms(100), consumer.next()).await {
            let delivery = next?;
            let label = label(&delivery);
            delivery.ack();
            return Some(label);
        }
    }
}

async fn what_is_settled_late_settles_nothing_of_the_next_queue(world: World) -> Test {
    let (web, other) = (world.connect().await?, world.connect().await?);
    let mut ctrl = serve(&*other, 10).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let late = [next(&mut ctrl).await, next(&mut ctrl).await, next(&mut ctrl).await];
    world.delete_queue("CTRL").await?;
    let mut held = Vec::new();
    for body in ["a", "b", "c"] {
        within(async {
            while send(&*web, "CTRL", body).await.is_err() {
                tokio::time::sleep(ms(20)).await; // nobody is there yet
            }
        })
        .await;
        held.push(next(&mut ctrl).await);
    }
    let [one, two, three] = late;
    one.ack();
    two.reject();
    three.requeue();
    // Brings along what was settled, and gives back what was not.
    other.close().await;
    drop(held);
    let mut again = serve(&*web, 10).await?;
    assert_eq!(take_all(&world, &mut again, 3).await, ["a!", "b!", "c!"]);
    Ok(())
}

async fn every_consumer_of_a_queue_that_is_deleted_comes_back(world: World) -> Test {
    let web = world.connect().await?;
    let (one, two) = (world.connect().await?, world.connect().await?);
    let mut consumers = [serve(&*one, 1).await?, serve(&*two, 1).await?];
    world.delete_queue("CTRL").await?;
    for consumer in &mut consumers {
        let after = within(after_a_deletion(&*web, "CTRL", consumer)).await;
        assert_eq!(after.as_deref(), Some("after"), "{:?}", consumer.end());
    }
    Ok(())
}

async fn subscribing_again_after_a_deletion_works(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = serve(&*web, 10).await?;
    world.delete_queue("CTRL").await?;
    drop(ctrl);
    let mut again = serve(&*web, 10).await?;
    send(&*web, "CTRL", "m").await?;
    let taken = take_all(&world, &mut again, 1).await;
    assert!(taken == ["m"] || taken == ["m!"], "{taken:?}");
    Ok(())
}

async fn subscribing_on_a_closed_connection_is_refused(world: World) -> Test {
    let web = world.connect().await?;
    web.close().await;
    assert_eq!(join(&*web, "CTRL.h1").await.err(), Some(SubscribeError::Closed));
    Ok(())
}

/// Keeps and acks what it gets.
#[derive(Default)]
struct Taken(Mutex<Vec<String>>);

impl DeliverySink for Taken {
    fn deliver(&self, delivery: Delivery) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(label(&delivery));
        delivery.ack();
    }
}

impl Taken {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

async fn deliveries_may_go_straight_to_a_sink(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 4).await?;
    let bodies: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    for body in &bodies[..10] {
        send(&*web, "CTRL", body).await?;
    }
    let taken = Arc::new(Taken::default());
    let sink: Arc<dyn DeliverySink> = taken.clone();
    // Where it can not be forwarded it goes on as before; either way it is to be polled.
    let _ = ctrl.forward(sink);
    let polled = Arc::clone(&taken);
    let polling = tokio::spawn(async move {
        while let Some(delivery) = ctrl.next().await {
            polled.deliver(delivery);
        }
    });
    for body in &bodies[10..] {
        send(&*web, "CTRL", body).await?;
    }
    eventually(|| taken.len() >= bodies.len()).await;
    world.quiet().await;
    polling.abort();
    assert_eq!(*taken.0.lock().unwrap_or_else(PoisonError::into_inner), bodies);
    Ok(())
}
