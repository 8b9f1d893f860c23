//! How the consumers of one queue share what comes.

use std::collections::BTreeSet;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "sharing";
    consumers_take_turns: "one message after another goes round",
    each_message_goes_to_one_consumer: "none to two, none to nobody",
    a_busy_consumer_is_passed_over: "what it has no room for goes to another",
    who_comes_later_has_a_share: "a new consumer is served at once",
    who_stops_has_no_share_any_more: "the others get all",
}

async fn consumers_take_turns(world: World) -> Test {
    let web = world.connect().await?;
    let mut one = serve(&*world.connect().await?, 10).await?;
    let mut two = serve(&*world.connect().await?, 10).await?;
    let mut counts = [0, 0];
    for n in 0..10 {
        send(&*web, "CTRL", &n.to_string()).await?;
        let (who, delivery) = tokio::select! {
            biased;
            delivery = next(&mut one) => (0, delivery),
            delivery = next(&mut two) => (1, delivery),
        };
        counts[who] += 1;
        delivery.ack();
    }
    assert_eq!(counts, [5, 5]);
    Ok(())
}

async fn each_message_goes_to_one_consumer(world: World) -> Test {
    let web = world.connect().await?;
    let mut consumers = Vec::new();
    for prefetch in [1, 5, 50] {
        consumers.push(serve(&*world.connect().await?, prefetch).await?);
    }
    let all: BTreeSet<String> = (0..120).map(|n| n.to_string()).collect();
    let sent: Vec<_> = all.iter().map(|body| publish(&*web, "CTRL", message(body))).collect();
    for answer in sent {
        answer.await?;
    }
    let mut got = Vec::new();
    while got.len() < all.len() {
        let [one, two, three] = &mut consumers[..] else { unreachable!("there are three") };
        let delivery = tokio::select! {
            delivery = next(one) => delivery,
            delivery = next(two) => delivery,
            delivery = next(three) => delivery,
        };
        got.push(label(&delivery));
        delivery.ack();
    }
    world.quiet().await;
    got.extend(consumers.iter_mut().flat_map(take_ready));
    assert_eq!(got.len(), all.len(), "some came twice");
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), all);
    Ok(())
}

async fn a_busy_consumer_is_passed_over(world: World) -> Test {
    let web = world.connect().await?;
    let mut busy = serve(&*world.connect().await?, 1).await?;
    send(&*web, "CTRL", "held").await?;
    let held = next(&mut busy).await;
    let mut free = serve(&*world.connect().await?, 10).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    assert_eq!(take(&mut free, 3).await, ["1", "2", "3"]);
    assert!(busy.try_next().is_none());
    held.ack();
    Ok(())
}

async fn who_comes_later_has_a_share(world: World) -> Test {
    let web = world.connect().await?;
    let mut first = serve(&*world.connect().await?, 2).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4"]).await?;
    let held = [next(&mut first).await, next(&mut first).await];
    let mut second = serve(&*world.connect().await?, 2).await?;
    assert_eq!(take(&mut second, 2).await, ["3", "4"]);
    held.into_iter().for_each(gear_api::Delivery::ack);
    Ok(())
}

async fn who_stops_has_no_share_any_more(world: World) -> Test {
    let web = world.connect().await?;
    let mut one = serve(&*world.connect().await?, 10).await?;
    let mut two = serve(&*world.connect().await?, 10).await?;
    one.stop();
    assert!(crate::world::within(one.next()).await.is_none());
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    assert_eq!(take_all(&world, &mut two, 3).await, ["1", "2", "3"]);
    Ok(())
}
