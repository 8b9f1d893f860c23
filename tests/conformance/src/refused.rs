//! What a backend that does not promise something must do instead: refuse it with the typed
//! error, never silently.

use std::time::Duration;

use gear_api::{
    EventGroup, Feed, Pattern, PublishError, Route, SubscribeError, Subscription, Topic,
};

use crate::{kit::*, suite::Test, world::World};

pub(crate) async fn delays(world: World) -> Test {
    let on = world.connect().await?;
    let route =
        Route::Delayed { delay: Duration::from_millis(100), jitter: Duration::ZERO, queue: "CTRL" };
    is_refused(on.send(route, message("m")).await)
}

pub(crate) async fn dead_letters(world: World) -> Test {
    let on = world.connect().await?;
    is_refused(on.send(Route::Dead(&CTRL), message("m")).await)?;
    is_refused(on.send(Route::Queue("CTRL"), message("m")).await)?;
    cannot_subscribe(&*on, Subscription::Dead { service: CTRL, prefetch: 1 }).await
}

pub(crate) async fn events(world: World) -> Test {
    let on = world.connect().await?;
    is_refused(on.send(Route::Event(&Topic::new("t")), message("m")).await)?;
    let group = EventGroup::new(CTRL, "g")?;
    let patterns = vec![Pattern::ALL];
    cannot_subscribe(&*on, Subscription::Events { group, patterns, prefetch: 1 }).await
}

pub(crate) async fn taps(world: World) -> Test {
    let on = world.connect().await?;
    let pattern = Pattern::ALL;
    cannot_subscribe(&*on, Subscription::Tap { feed: Feed::Requests, pattern }).await
}

fn is_refused(answer: Result<(), PublishError>) -> Test {
    match answer {
        Err(PublishError::Unsupported(_)) => Ok(()),
        other => Err(format!("not promised, and not refused: {other:?}").into()),
    }
}

async fn cannot_subscribe(on: &dyn gear_api::Transport, to: Subscription) -> Test {
    match on.subscribe(to).await {
        Err(SubscribeError::Unsupported(_)) => Ok(()),
        other => Err(format!("not promised, and not refused: {other:?}").into()),
    }
}
