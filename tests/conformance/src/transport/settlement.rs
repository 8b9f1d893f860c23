//! What becomes of a delivery by each verdict.

use std::sync::Arc;

use gear_api::Transport;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "settlement";
    an_acked_message_is_forgotten: "nobody gets it again, not after a reconnect either",
    a_rejected_message_is_dropped: "nobody gets it again",
    a_requeued_message_comes_again: "marked, and as often as it is requeued",
    a_dropped_delivery_comes_again: "a handler that forgets it loses nothing",
    the_token_is_what_counts: "the message may go before its settlement",
    a_panic_does_not_lose_a_message: "it comes again",
    a_requeued_message_may_go_to_another: "it is not tied to who had it",
    a_requeue_makes_no_copies_elsewhere: "it goes back to its queue, not through the exchange",
    settlements_may_come_in_any_order: "and each is of its own delivery",
    settling_from_another_thread_works: "outside of the runtime, too",
    what_was_taken_stays_settleable_after_a_stop: "an ack counts then, a requeue too",
}

/// A client of CTRL and its only consumer; whatever is left in the queue then comes to a new
/// consumer, of a new connection.
struct Pair {
    web: Arc<dyn Transport>,
    ctrl: Arc<dyn Transport>,
}

async fn pair(world: &World) -> Test<Pair> {
    Ok(Pair { web: world.connect().await?, ctrl: world.connect().await? })
}

impl Pair {
    /// What is in the queue when the consumer's connection is gone.
    async fn left(self, world: &World, count: usize) -> Test<Vec<String>> {
        self.ctrl.close().await;
        let mut next = serve(&*world.connect().await?, 10).await?;
        Ok(take_all(world, &mut next, count).await)
    }
}

async fn an_acked_message_is_forgotten(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 10).await?;
    send_all(&*pair.web, "CTRL", &["1", "2", "3"]).await?;
    assert_eq!(take_all(&world, &mut ctrl, 3).await, ["1", "2", "3"]);
    assert!(pair.left(&world, 0).await?.is_empty());
    Ok(())
}

async fn a_rejected_message_is_dropped(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 10).await?;
    send_all(&*pair.web, "CTRL", &["no", "yes"]).await?;
    next(&mut ctrl).await.reject();
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["yes"]);
    assert!(pair.left(&world, 0).await?.is_empty());
    Ok(())
}

async fn a_requeued_message_comes_again(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 1).await?;
    send(&*pair.web, "CTRL", "m").await?;
    let first = next(&mut ctrl).await;
    assert_eq!(label(&first), "m");
    first.requeue();
    for _ in 0..30 {
        let again = next(&mut ctrl).await;
        assert_eq!(label(&again), "m!");
        again.requeue();
    }
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["m!"]);
    assert!(pair.left(&world, 0).await?.is_empty());
    Ok(())
}

async fn a_dropped_delivery_comes_again(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 1).await?;
    send(&*pair.web, "CTRL", "m").await?;
    drop(next(&mut ctrl).await);
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["m!"]);
    Ok(())
}

async fn the_token_is_what_counts(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 1).await?;
    send(&*pair.web, "CTRL", "m").await?;
    let (message, token) = next(&mut ctrl).await.into_parts();
    drop(message);
    world.pause().await;
    assert!(ctrl.try_next().is_none(), "the message is not the delivery");
    token.ack();
    world.quiet().await;
    assert!(pair.left(&world, 0).await?.is_empty());
    Ok(())
}

async fn a_panic_does_not_lose_a_message(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 1).await?;
    send(&*pair.web, "CTRL", "m").await?;
    let delivery = next(&mut ctrl).await;
    let handler = tokio::spawn(async move {
        let _held = delivery;
        std::panic::resume_unwind(Box::new("a bug"));
    });
    assert!(handler.await.is_err());
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["m!"]);
    Ok(())
}

async fn a_requeued_message_may_go_to_another(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut one = serve(&*pair.ctrl, 1).await?;
    send(&*pair.web, "CTRL", "m").await?;
    let held = next(&mut one).await;
    let mut two = serve(&*world.connect().await?, 1).await?;
    one.stop();
    held.requeue();
    assert_eq!(take_all(&world, &mut two, 1).await, ["m!"]);
    Ok(())
}

async fn a_requeue_makes_no_copies_elsewhere(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut one = join(&*pair.ctrl, "CTRL.h1").await?;
    let mut two = join(&*world.connect().await?, "CTRL.h2").await?;
    send(&*pair.web, "CTRL.*", "m").await?;
    assert_eq!(take(&mut two, 1).await, ["m"]);
    next(&mut one).await.requeue();
    assert_eq!(take_all(&world, &mut one, 1).await, ["m!"]);
    assert!(take_ready(&mut two).is_empty());
    Ok(())
}

async fn settlements_may_come_in_any_order(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 10).await?;
    send_all(&*pair.web, "CTRL", &["1", "2", "3", "4", "5"]).await?;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut ctrl).await);
    }
    // The last first: an ack must not take those before it along.
    held.remove(4).ack();
    held.remove(2).reject();
    held.remove(0).ack();
    ctrl.stop();
    world.pause().await;
    // The second and the fourth go back with the connection.
    drop(ctrl);
    pair.ctrl.close().await;
    drop(held);
    let mut next = serve(&*world.connect().await?, 10).await?;
    assert_eq!(take_all(&world, &mut next, 2).await, ["2!", "4!"]);
    Ok(())
}

async fn settling_from_another_thread_works(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 1).await?;
    send_all(&*pair.web, "CTRL", &["1", "2"]).await?;
    let delivery = next(&mut ctrl).await;
    let settled = std::thread::spawn(move || delivery.ack()).join();
    assert!(settled.is_ok(), "it panicked");
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["2"]);
    Ok(())
}

async fn what_was_taken_stays_settleable_after_a_stop(world: World) -> Test {
    let pair = pair(&world).await?;
    let mut ctrl = serve(&*pair.ctrl, 10).await?;
    send_all(&*pair.web, "CTRL", &["1", "2"]).await?;
    let (one, two) = (next(&mut ctrl).await, next(&mut ctrl).await);
    ctrl.stop();
    assert!(crate::world::within(ctrl.next()).await.is_none());
    one.ack();
    two.requeue();
    world.quiet().await;
    assert_eq!(pair.left(&world, 1).await?, ["2!"]);
    Ok(())
}
