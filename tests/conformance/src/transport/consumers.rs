//! Consumers: names in use, stopping, ending.

use std::sync::{Arc, Mutex, PoisonError};

use gear_api::{ConsumerEnd, Delivery, DeliverySink, PublishError, SubscribeError};

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
    a_queue_that_is_deleted_ends_its_consumer_or_comes_back: "and it says that the broker did it",
    subscribing_again_after_a_deletion_works: "the queue is there again",
    subscribing_on_a_closed_connection_is_refused: "at once",
    deliveries_may_go_straight_to_a_sink: "where a backend can, none is lost or doubled",
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

async fn a_queue_that_is_deleted_ends_its_consumer_or_comes_back(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    send(&*web, "CTRL", "m").await?;
    let held = next(&mut ctrl).await;
    world.delete_queue("CTRL").await?;
    held.ack(); // of a queue that is gone: it settles nothing, and breaks nothing
    // Until something arrives, or nothing can any more.
    let after = within(async {
        loop {
            let sent = send(&*web, "CTRL", "after").await;
            assert!(matches!(sent, Ok(()) | Err(PublishError::NotRouted)), "{sent:?}");
            if let Ok(next) = tokio::time::timeout(ms(100), ctrl.next()).await {
                return next;
            }
        }
    });
    match after.await {
        Some(delivery) => {
            assert_eq!(label(&delivery), "after");
            delivery.ack();
        }
        None => {
            assert!(matches!(ctrl.end(), Some(ConsumerEnd::Broker(_))), "{:?}", ctrl.end());
            if web.capabilities().mandatory {
                assert_eq!(send(&*web, "CTRL", "m").await, Err(PublishError::NotRouted));
            }
        }
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
    let mut got = taken.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    got.sort_by_key(|body| body.parse::<u32>().ok());
    assert_eq!(got, bodies);
    Ok(())
}
