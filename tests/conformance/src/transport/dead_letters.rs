//! Messages that are set aside, and stay there.

use gear_api::{PublishError, Route};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "dead-letters";
    what_is_set_aside_waits_for_an_operator(dead_letters): "in the queue of its service",
    each_service_has_its_own(dead_letters): "also one that only has instances or groups",
    what_is_set_aside_does_not_expire(dead_letters, expiry): "its deadline means nothing there",
    without_such_a_service_it_is_not_routed(dead_letters, mandatory): "and not lost in silence",
}

async fn what_is_set_aside_waits_for_an_operator(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 10).await?;
    for body in ["1", "2"] {
        web.send(Route::Dead(&CTRL), durable(body)).await?;
    }
    assert_eq!(texts(&world.waits("CTRL:dead", 2).await?), ["1", "2"]);
    world.quiet().await;
    assert!(take_ready(&mut ctrl).is_empty(), "nobody works on it");
    Ok(())
}

async fn each_service_has_its_own(world: World) -> Test {
    let web = world.connect().await?;
    let _instance = join(&*web, "REPO.h1").await?;
    let _service = serve(&*web, 1).await?;
    web.send(Route::Dead(&REPO), durable("repo's")).await?;
    web.send(Route::Dead(&CTRL), durable("ctrl's")).await?;
    assert_eq!(texts(&world.waits("REPO:dead", 1).await?), ["repo's"]);
    assert_eq!(texts(&world.waits("CTRL:dead", 1).await?), ["ctrl's"]);
    Ok(())
}

async fn what_is_set_aside_does_not_expire(world: World) -> Test {
    let web = world.connect().await?;
    let _ctrl = serve(&*web, 1).await?;
    web.send(Route::Dead(&CTRL), expiring("m", &*web, SHORT)).await?;
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(texts(&world.waits("CTRL:dead", 1).await?), ["m"]);
    Ok(())
}

async fn without_such_a_service_it_is_not_routed(world: World) -> Test {
    let web = world.connect().await?;
    let answer = web.send(Route::Dead(&CTRL), durable("m")).await;
    assert_eq!(answer, Err(PublishError::NotRouted));
    Ok(())
}
