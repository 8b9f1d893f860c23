//! A link that is cut and comes back.

use std::sync::Arc;

use gear_api::{Feed, PublishError, Status};
use tokio::{sync::watch, time::Instant};

use crate::{
    churn::{Account, come_and_go},
    kit::*,
    suite::{Test, suite},
    world::{World, eventually, within},
};

suite! { "cuts";
    the_status_tells_of_it: "connecting, then ready again",
    a_consumer_survives_it: "and gets again what it had not settled",
    all_subscriptions_come_back: "service, instance, group, replies and tap",
    others_get_what_the_lost_one_held: "they need not wait for it",
    a_cut_hits_one_connection_alone: "others go on meanwhile",
    what_is_sent_meanwhile_waits: "and is sent once, in order, in front of what comes later",
    what_waits_beyond_its_deadline_is_not_sent: "and its publisher learns that it was not",
    what_is_withdrawn_meanwhile_is_not_sent: "a dropped publish is taken back",
    nobody_there_is_told_afterwards(mandatory): "what waited learns it, too",
    a_settlement_of_before_is_ignored: "after the reconnect it settles nothing of the new",
    subscribing_meanwhile_waits: "until the connection is back",
    a_subscribe_that_is_given_up_leaves_no_consumer: "it does not come back as a ghost",
    closing_meanwhile_ends_what_waits: "publishers and subscribers, with closed",
    a_stopped_consumer_does_not_come_back: "with its connection",
    replies_wait_for_who_asked: "its reply queue keeps its name",
    nothing_is_lost_while_links_are_cut: "those of publishers, and of consumers that come and go",
}

async fn the_status_tells_of_it(world: World) -> Test {
    let link = world.link().await?;
    world.ready(&*link.transport).await?;
    world.cut(&link, SHORT).await?;
    assert_eq!(*link.transport.status().borrow(), Status::Connecting);
    world.ready(&*link.transport).await
}

async fn a_consumer_survives_it(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    let mut ctrl = serve(&*link.transport, 2).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    let held = next(&mut ctrl).await;
    world.cut(&link, SHORT).await?;
    drop(held);
    let mut taken = take_all(&world, &mut ctrl, 3).await;
    // The second may have been on its way already, or even have been here, and comes again.
    if taken[0] == "2" {
        taken.remove(0);
    }
    let bodies: Vec<_> = taken.iter().map(|label| label.trim_end_matches('!')).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    assert_eq!(taken[0], "1!");
    Ok(())
}

async fn all_subscriptions_come_back(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    let on = &*link.transport;
    let mut service = serve(on, 1).await?;
    let mut instance = join(on, "CTRL.h1").await?;
    let (_replies, sink) = ask_as(on, "CTRL.h1").await?;
    let mut group = match on.capabilities().events {
        true => Some(listen(on, "g", &["t"]).await?),
        false => None,
    };
    let mut watch = match on.capabilities().taps {
        true => Some(tap(on, Feed::Requests, "CTRL").await?),
        false => None,
    };
    world.cut(&link, SHORT).await?;
    world.ready(on).await?;
    send(&*web, "CTRL", "1").await?;
    send(&*web, "CTRL.*", "2").await?;
    reply(&*web, &sink.at(), "3").await?;
    if let Some(group) = &mut group {
        event(&*web, "t", "4").await?;
        assert_eq!(take(group, 1).await, ["4"]);
    }
    if let Some(watch) = &mut watch {
        assert_eq!(take(watch, 1).await, ["1"]);
    }
    assert_eq!(take(&mut service, 1).await, ["1"]);
    assert_eq!(take(&mut instance, 1).await, ["2"]);
    assert_eq!(sink.exactly(1, &world).await, ["3"]);
    Ok(())
}

async fn others_get_what_the_lost_one_held(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    let mut first = serve(&*link.transport, 10).await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    let held = [next(&mut first).await, next(&mut first).await];
    let mut second = serve(&*world.connect().await?, 10).await?;
    world.cut(&link, ms(2000)).await?;
    assert_eq!(take(&mut second, 2).await, ["1!", "2!"]);
    drop(held);
    world.ready(&*link.transport).await?;
    world.quiet().await;
    assert!(take_ready(&mut first).is_empty());
    Ok(())
}

async fn a_cut_hits_one_connection_alone(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.cut(&link, ms(2000)).await?;
    send(&*web, "CTRL", "m").await?;
    assert_eq!(take(&mut ctrl, 1).await, ["m"]);
    assert!(web.status().borrow().is_ready());
    Ok(())
}

async fn what_is_sent_meanwhile_waits(world: World) -> Test {
    let link = world.link().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.cut(&link, SHORT).await?;
    let waiting = ["1", "2", "3"].map(|body| publish(&*link.transport, "CTRL", message(body)));
    assert!(ctrl.try_next().is_none());
    // The answers are asked for in another order.
    for publish in waiting.into_iter().rev() {
        within(publish).await?;
    }
    send(&*link.transport, "CTRL", "4").await?;
    assert_eq!(take_all(&world, &mut ctrl, 4).await, ["1", "2", "3", "4"]);
    Ok(())
}

fn not_sent(answer: &Result<(), PublishError>) -> bool {
    matches!(answer, Err(error @ PublishError::NotSent(_)) if !error.may_have_arrived())
}

async fn what_waits_beyond_its_deadline_is_not_sent(world: World) -> Test {
    let link = world.link().await?;
    let on = &*link.transport;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.cut(&link, ms(3000)).await?;
    let start = Instant::now();
    let unasked = publish(on, "CTRL", expiring("unasked", on, SHORT));
    let answer = within(publish(on, "CTRL", expiring("asked", on, SHORT))).await;
    world.took(start, SHORT);
    assert!(not_sent(&answer), "{answer:?}");
    world.ready(on).await?;
    send(on, "CTRL", "later").await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["later"]);
    let answer = within(unasked).await;
    assert!(not_sent(&answer), "{answer:?}");
    Ok(())
}

async fn what_is_withdrawn_meanwhile_is_not_sent(world: World) -> Test {
    let link = world.link().await?;
    let on = &*link.transport;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    world.cut(&link, SHORT).await?;
    let dropped = publish(on, "CTRL", message("dropped"));
    let mut withdrawn = publish(on, "CTRL", message("withdrawn"));
    let kept = publish(on, "CTRL", message("kept"));
    publish(on, "CTRL", message("detached")).detach();
    drop(dropped);
    assert!(withdrawn.withdraw(), "it had not left");
    within(kept).await?;
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["kept", "detached"]);
    Ok(())
}

async fn nobody_there_is_told_afterwards(world: World) -> Test {
    let link = world.link().await?;
    world.cut(&link, SHORT).await?;
    let answer = send(&*link.transport, "NOBODY", "m").await;
    assert_eq!(answer, Err(PublishError::NotRouted));
    Ok(())
}

async fn a_settlement_of_before_is_ignored(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    let mut ctrl = serve(&*link.transport, 2).await?;
    send_all(&*web, "CTRL", &["1", "2"]).await?;
    let stale = [next(&mut ctrl).await, next(&mut ctrl).await];
    world.cut(&link, SHORT).await?;
    world.ready(&*link.transport).await?;
    let again = [next(&mut ctrl).await, next(&mut ctrl).await];
    let [one, two] = stale;
    one.ack();
    two.reject();
    world.pause().await;
    // They settled nothing: both go back with the connection.
    link.transport.close().await;
    drop(again);
    let mut other = serve(&*web, 10).await?;
    assert_eq!(take_all(&world, &mut other, 2).await, ["1!", "2!"]);
    Ok(())
}

async fn subscribing_meanwhile_waits(world: World) -> Test {
    let link = world.link().await?;
    world.cut(&link, SHORT).await?;
    let mut ctrl = serve(&*link.transport, 1).await?;
    send(&*link.transport, "CTRL", "m").await?;
    assert_eq!(take(&mut ctrl, 1).await, ["m"]);
    Ok(())
}

async fn a_subscribe_that_is_given_up_leaves_no_consumer(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    world.cut(&link, SHORT * 2).await?;
    let given_up = tokio::time::timeout(ms(50), join(&*link.transport, "CTRL.h1")).await;
    assert!(given_up.is_err(), "it waits");
    world.ready(&*link.transport).await?;
    world.quiet().await;
    let mut other = join_again(&*web, "CTRL.h1").await?;
    send(&*web, "CTRL.h1", "m").await?;
    assert_eq!(take_all(&world, &mut other, 1).await, ["m"]);
    Ok(())
}

async fn closing_meanwhile_ends_what_waits(world: World) -> Test {
    let link = world.link().await?;
    world.cut(&link, LONG).await?;
    let waiting = publish(&*link.transport, "CTRL", message("m"));
    let on = link.transport.clone();
    let subscribing = tokio::spawn(async move { join(&*on, "CTRL.h1").await.map(drop) });
    tokio::time::sleep(ms(50)).await;
    within(link.transport.close()).await;
    assert_eq!(within(waiting).await, Err(PublishError::Closed));
    assert_eq!(within(subscribing).await?, Err(gear_api::SubscribeError::Closed));
    Ok(())
}

async fn a_stopped_consumer_does_not_come_back(world: World) -> Test {
    let (web, link) = (world.connect().await?, world.link().await?);
    drop(serve(&*link.transport, 10).await?);
    world.cut(&link, SHORT).await?;
    world.ready(&*link.transport).await?;
    world.quiet().await;
    let mut other = serve(&*web, 10).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4"]).await?;
    assert_eq!(take_all(&world, &mut other, 4).await, ["1", "2", "3", "4"]);
    Ok(())
}

async fn replies_wait_for_who_asked(world: World) -> Test {
    let (ctrl, link) = (world.connect().await?, world.link().await?);
    let (_consumer, sink) = ask_as(&*link.transport, "WEB.h1").await?;
    let at = sink.at();
    world.cut(&link, ms(2000)).await?;
    // Replies are not acked: what the broker sends before it knows of the cut is lost.
    for n in 0..10 {
        reply(&*ctrl, &at, &n.to_string()).await?;
        tokio::time::sleep(ms(100)).await;
    }
    eventually(|| sink.replies().iter().any(|reply| text(reply) == "9")).await;
    assert!(sink.replies().iter().map(text).is_sorted(), "in their order, once each");
    assert_eq!(sink.at(), at);
    Ok(())
}

async fn nothing_is_lost_while_links_are_cut(world: World) -> Test {
    const EACH: usize = 100;
    let (account, over) = (Account::default(), watch::Sender::new(false));
    drop(serve(&*world.connect().await?, 1).await?); // the queue is there
    let (mut links, mut consuming, mut publishing) = (Vec::new(), Vec::new(), Vec::new());
    for prefetch in [1, 4, 64] {
        let link = world.link().await?;
        let on = Arc::clone(&link.transport);
        consuming.push(tokio::spawn(come_and_go(on, prefetch, account.clone(), over.subscribe())));
        links.push(link);
    }
    for publisher in 0..2 {
        let link = world.link().await?;
        let on = Arc::clone(&link.transport);
        publishing.push(tokio::spawn(async move {
            for n in 0..EACH {
                send(&*on, "CTRL", &format!("{publisher}/{n}")).await?;
                tokio::time::sleep(ms(5)).await;
            }
            Ok::<_, PublishError>(())
        }));
        links.push(link);
    }
    for link in &links {
        world.cut(link, ms(50)).await?;
        world.ready(&*link.transport).await?;
    }
    for publisher in publishing {
        publisher.await??;
    }
    eventually(|| account.len() == 2 * EACH).await;
    over.send_replace(true);
    for consumer in consuming {
        consumer.await??;
    }
    Ok(())
}
