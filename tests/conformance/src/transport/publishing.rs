//! What a publisher is told, and when.

use gear_api::{PublishError, Route, Topic};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "publishing";
    what_is_confirmed_is_stored(confirms): "it is there for who comes later",
    a_multicast_is_confirmed_when_all_have_it(confirms): "every queue has its copy by then",
    what_reaches_nobody_is_not_confirmed(mandatory): "after a success as well as before one",
    dropping_the_answer_does_not_unsend: "once it is handed over",
    a_detached_message_goes_its_way: "without anybody waiting",
    an_event_that_nobody_wants_is_no_error(events): "it is confirmed",
    a_send_is_handed_over_in_the_call: "on a connection that works",
    after_closing_it_is_closed: "and not silence, for each route",
}

async fn what_is_confirmed_is_stored(world: World) -> Test {
    let web = world.connect().await?;
    let ctrl = world.connect().await?;
    drop(serve(&*ctrl, 1).await?);
    ctrl.close().await;
    for n in 0..20 {
        send(&*web, "CTRL", &n.to_string()).await?;
    }
    web.close().await;
    let mut later = serve(&*world.connect().await?, 50).await?;
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(take_all(&world, &mut later, 20).await, expected);
    Ok(())
}

async fn a_multicast_is_confirmed_when_all_have_it(world: World) -> Test {
    let web = world.connect().await?;
    for name in ["CTRL.h1", "CTRL.h2", "CTRL.h3"] {
        let ctrl = world.connect().await?;
        drop(join(&*ctrl, name).await?);
        ctrl.close().await;
    }
    send(&*web, "CTRL.*", "m").await?;
    web.close().await;
    for name in ["CTRL.h1", "CTRL.h2", "CTRL.h3"] {
        let mut back = join_again(&*world.connect().await?, name).await?;
        assert_eq!(take(&mut back, 1).await, ["m"], "{name}");
    }
    Ok(())
}

async fn what_reaches_nobody_is_not_confirmed(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    for n in 0..5 {
        assert_eq!(send(&*web, "NOBODY", "m").await, Err(PublishError::NotRouted));
        send(&*web, "CTRL", &n.to_string()).await?;
    }
    assert_eq!(take_all(&world, &mut ctrl, 5).await, ["0", "1", "2", "3", "4"]);
    Ok(())
}

async fn dropping_the_answer_does_not_unsend(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let first = publish(&*web, "CTRL", message("1"));
    if first.is_handed_over() {
        drop(first);
    } else {
        within(first).await?; // a backend may want to wait
    }
    send(&*web, "CTRL", "2").await?;
    assert_eq!(take_all(&world, &mut ctrl, 2).await, ["1", "2"]);
    Ok(())
}

async fn a_detached_message_goes_its_way(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    for body in ["1", "2", "3"] {
        publish(&*web, "CTRL", message(body)).detach();
    }
    assert_eq!(take_all(&world, &mut ctrl, 3).await, ["1", "2", "3"]);
    Ok(())
}

async fn an_event_that_nobody_wants_is_no_error(world: World) -> Test {
    let web = world.connect().await?;
    event(&*web, "nobody.wants.it", "m").await?;
    let mut group = listen(&*world.connect().await?, "g", &["orders.#"]).await?;
    event(&*web, "nobody.wants.it", "m").await?;
    event(&*web, "orders", "n").await?;
    assert_eq!(take_all(&world, &mut group, 1).await, ["n"]);
    Ok(())
}

async fn a_send_is_handed_over_in_the_call(world: World) -> Test {
    let web = world.connect().await?;
    let _ctrl = serve(&*web, 10).await?;
    world.ready(&*web).await?;
    let sent = publish(&*web, "CTRL", message("m"));
    assert!(sent.is_handed_over());
    within(sent).await?;
    Ok(())
}

async fn after_closing_it_is_closed(world: World) -> Test {
    let web = world.connect().await?;
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await?;
    let to = sink.at();
    web.close().await;
    for route in [
        Route::Address(&CTRL.into()),
        Route::Reply(&to),
        Route::Event(&Topic::new("t")),
        Route::Dead(&CTRL),
        Route::Delayed { delay: ms(100), jitter: ms(0), queue: "CTRL" },
    ] {
        let answer = within(web.send(route, message("m"))).await;
        // A backend that has no such route refuses it first.
        let told = matches!(answer, Err(PublishError::Closed | PublishError::Unsupported(_)));
        assert!(told, "{route:?}: {answer:?}");
    }
    Ok(())
}
