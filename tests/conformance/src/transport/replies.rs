//! Replies: straight to the sink, never settled, and never where they do not belong.

use std::sync::Arc;

use gear_api::{
    Id, Kind, Message, PublishError, ReplySink, ReplyTo, Route, Subscription, Transport,
};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "replies";
    a_reply_goes_to_the_sink_that_asked: "and the consumer yields nothing",
    every_start_has_a_reply_queue_of_its_own: "under one name, too",
    where_replies_are_taken_is_known_at_once: "and it is a name that Gear understands",
    a_reply_keeps_its_correlation_and_its_error: "by which it finds its call",
    a_reply_for_a_service_goes_to_one_of_its_instances: "through its shared queue",
    a_reply_to_nobody_is_not_routed(mandatory): "whether Gear's name or a foreign one",
    no_reply_reaches_a_group(mandatory): "a caller can not misuse who answers",
    no_reply_reaches_a_queue_of_other_things: "nor lead it to what was set aside",
    a_sink_may_send: "it is called where that is possible",
}

async fn a_reply_goes_to_the_sink_that_asked(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let (mut consumer, sink) = ask_as(&*web, "WEB.h1").await?;
    let (_other, stranger) = ask_as(&*world.connect().await?, "WEB.h2").await?;
    for body in ["1", "2", "3"] {
        reply(&*ctrl, &sink.at(), body).await?;
    }
    assert_eq!(sink.exactly(3, &world).await, ["1", "2", "3"]);
    assert!(consumer.try_next().is_none(), "it yields nothing");
    assert!(stranger.replies().is_empty());
    Ok(())
}

async fn every_start_has_a_reply_queue_of_its_own(world: World) -> Test {
    let web = world.connect().await?;
    let (_one, first) = ask_as(&*web, "WEB.h1").await?;
    let (_two, second) = ask_as(&*web, "WEB.h1").await?;
    let (_three, third) = ask_as(&*world.connect().await?, "WEB.h1").await?;
    let all = [&first, &second, &third];
    for (n, sink) in all.into_iter().enumerate() {
        reply(&*web, &sink.at(), &n.to_string()).await?;
    }
    for (n, sink) in all.into_iter().enumerate() {
        assert_eq!(sink.exactly(1, &world).await, [n.to_string()]);
    }
    Ok(())
}

async fn where_replies_are_taken_is_known_at_once(world: World) -> Test {
    let web = world.connect().await?;
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await?;
    let at = sink.at();
    assert!(at.is_gear(), "{at}");
    assert!(at.as_str().starts_with("WEB.h1:reply."), "{at}");
    Ok(())
}

async fn a_reply_keeps_its_correlation_and_its_error(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await?;
    let correlation = Id::from("0199d9a4-7b3c-7000-8000-000000000001");
    let sent = Message::builder(Kind::Reply, "find")
        .correlation(correlation.clone())
        .error(gear_api::Text::from("too-large"))
        .sender("CTRL.h1")
        .body("{}")
        .build();
    ctrl.send(Route::Reply(&sink.at()), sent).await?;
    sink.exactly(1, &world).await;
    let got = &sink.replies()[0];
    assert_eq!(got.correlation(), Some(&correlation));
    assert_eq!(got.error().map(gear_api::Text::as_str), Some("too-large"));
    assert_eq!((got.kind(), got.operation().as_str()), (Kind::Reply, "find"));
    assert_eq!(got.sender(), "CTRL.h1");
    Ok(())
}

async fn a_reply_for_a_service_goes_to_one_of_its_instances(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut one = serve(&*world.connect().await?, 10).await?;
    let mut instance = join(&*web, "CTRL.h1").await?;
    reply(&*ctrl, &ReplyTo::service(&CTRL), "m").await?;
    assert_eq!(take_all(&world, &mut one, 1).await, ["m"]);
    assert!(instance.try_next().is_none());
    Ok(())
}

async fn a_reply_to_nobody_is_not_routed(world: World) -> Test {
    let ctrl = world.connect().await?;
    for nobody in ["WEB.h1:reply.0123456789abcdef", "WEB", "some.queue/of:theirs"] {
        let answer = reply(&*ctrl, &ReplyTo::queue(nobody), "m").await;
        assert_eq!(answer, Err(PublishError::NotRouted), "{nobody}");
    }
    Ok(())
}

async fn no_reply_reaches_a_group(world: World) -> Test {
    let web = world.connect().await?;
    let mut h1 = join(&*web, "CTRL.h1").await?;
    for group in ["CTRL.*", "*.*"] {
        let answer = reply(&*web, &ReplyTo::queue(group), "m").await;
        assert_eq!(answer, Err(PublishError::NotRouted), "{group}");
    }
    world.quiet().await;
    assert!(take_ready(&mut h1).is_empty());
    Ok(())
}

async fn no_reply_reaches_a_queue_of_other_things(world: World) -> Test {
    let web = world.connect().await?;
    let _ctrl = serve(&*web, 1).await?;
    for queue in ["CTRL:dead", "CTRL:events.mail", "gear:retry.1000"] {
        let answer = reply(&*web, &ReplyTo::queue(queue), "m").await;
        assert!(matches!(answer, Err(PublishError::Invalid(_))), "{queue}: {answer:?}");
    }
    world.quiet().await;
    if web.capabilities().dead_letters {
        assert!(world.messages("CTRL:dead").await?.is_empty());
    }
    Ok(())
}

/// Sends whatever it gets on to CTRL.
struct Forwarder {
    on: Arc<dyn Transport>,
    at: Sink,
}

impl ReplySink for Forwarder {
    fn listening(&self, at: ReplyTo) {
        self.at.listening(at);
    }

    fn deliver(&self, reply: Message) {
        self.on.send(Route::Address(&CTRL.into()), reply).detach();
    }
}

async fn a_sink_may_send(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let sink = Arc::new(Forwarder { on: world.connect().await?, at: Sink::default() });
    let instance = "WEB.h1".parse()?;
    let _replies = web.subscribe(Subscription::Replies { instance, sink: sink.clone() }).await?;
    reply(&*web, &sink.at.at(), "m").await?;
    assert_eq!(take_all(&world, &mut ctrl, 1).await, ["m"]);
    Ok(())
}
