//! First in, first out: of one sender, to one queue, with one consumer.

use gear_api::{PublishError, Route, Topic};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "order";
    messages_arrive_in_the_order_of_the_calls: "500 sent without waiting",
    each_of_them_has_its_own_answer(mandatory): "where every third reaches nobody",
    forms_of_address_do_not_overtake_each_other: "one, group and all, to one queue",
    what_goes_back_comes_before_its_successors: "a requeued message is next again",
    what_goes_back_together_keeps_its_order: "several unsettled, when their consumer goes",
    replies_keep_their_order: "to one queue",
    events_keep_their_order(events): "of one topic, in each group",
}

async fn messages_arrive_in_the_order_of_the_calls(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 7).await?;
    let bodies: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let sent: Vec<_> = bodies.iter().map(|body| publish(&*web, "CTRL", message(body))).collect();
    // The answers are asked for in another order.
    for answer in sent.into_iter().rev() {
        answer.await?;
    }
    assert_eq!(take_all(&world, &mut ctrl, bodies.len()).await, bodies);
    Ok(())
}

async fn each_of_them_has_its_own_answer(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 50).await?;
    let to = |n: usize| if n.is_multiple_of(3) { "NOBODY" } else { "CTRL" };
    let sent: Vec<_> = (0..300).map(|n| publish(&*web, to(n), message(&n.to_string()))).collect();
    let mut routed = Vec::new();
    for (n, answer) in sent.into_iter().enumerate() {
        match answer.await {
            Ok(()) => routed.push(n.to_string()),
            Err(error) => assert_eq!(error, PublishError::NotRouted),
        }
    }
    let expected: Vec<_> = (0..300).filter(|n| to(*n) == "CTRL").map(|n| n.to_string()).collect();
    assert_eq!(routed, expected);
    assert_eq!(take_all(&world, &mut ctrl, routed.len()).await, routed);
    Ok(())
}

async fn forms_of_address_do_not_overtake_each_other(world: World) -> Test {
    let web = world.connect().await?;
    let mut h1 = join(&*world.connect().await?, "CTRL.h1").await?;
    let to = |n: usize| ["CTRL.h1", "CTRL.*", "*.*"][n % 3];
    let sent: Vec<_> = (0..60).map(|n| publish(&*web, to(n), message(&n.to_string()))).collect();
    for answer in sent {
        answer.await?;
    }
    let expected: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(take_all(&world, &mut h1, 60).await, expected);
    Ok(())
}

async fn what_goes_back_comes_before_its_successors(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 1).await?;
    send_all(&*web, "CTRL", &["1", "2", "3"]).await?;
    next(&mut ctrl).await.requeue();
    assert_eq!(take(&mut ctrl, 1).await, ["1!"]);
    next(&mut ctrl).await.requeue();
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["2!", "3"]);
    Ok(())
}

async fn what_goes_back_together_keeps_its_order(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = world.connect().await?;
    let mut first = serve(&*ctrl, 3).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4", "5"]).await?;
    let held = [next(&mut first).await, next(&mut first).await, next(&mut first).await];
    ctrl.close().await;
    drop(held);
    world.quiet().await;
    let mut second = serve(&*world.connect().await?, 10).await?;
    let taken = take_all(&world, &mut second, 5).await;
    assert_eq!(taken, ["1!", "2!", "3!", "4", "5"]);
    Ok(())
}

async fn replies_keep_their_order(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await?;
    let to = sink.at();
    let bodies: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let sent: Vec<_> =
        bodies.iter().map(|body| ctrl.send(Route::Reply(&to), message(body))).collect();
    for answer in sent {
        answer.await?;
    }
    assert_eq!(sink.exactly(50, &world).await, bodies);
    Ok(())
}

async fn events_keep_their_order(world: World) -> Test {
    let web = world.connect().await?;
    let mut one = listen(&*world.connect().await?, "one", &["t"]).await?;
    let mut all = listen(&*world.connect().await?, "all", &["#"]).await?;
    let topic = Topic::new("t");
    let bodies: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let sent: Vec<_> =
        bodies.iter().map(|body| web.send(Route::Event(&topic), message(body))).collect();
    for answer in sent {
        answer.await?;
    }
    let taken = take_each(&world, [(&mut one, 50), (&mut all, 50)]).await;
    assert_eq!(taken, [bodies.clone(), bodies]);
    Ok(())
}
