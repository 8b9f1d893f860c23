//! The properties of a message: each arrives as it was sent.

use gear_api::{Id, Kind, Message, MessageBuilder, ReplyTo, Timestamp, Transport};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "properties";
    what_is_asked_arrives: "kind and operation, of any script",
    ids_arrive: "UUIDs, and what a foreign program chose",
    where_the_answer_goes_arrives: "instances, services, foreign queues",
    who_sent_it_and_when_arrives: "the time to the second",
    what_a_body_is_arrives: "its content type, also none",
    durability_arrives: "as yes and as no",
    attempts_and_hops_arrive: "also the largest",
    what_was_not_set_is_not_there: "a bare message stays bare, but for an id",
}

/// What comes out of what is sent.
async fn through(on: &dyn Transport, message: MessageBuilder) -> Test<Message> {
    let mut ctrl = serve(on, 1).await?;
    publish(on, "CTRL", message.build()).await?;
    let (message, settlement) = next(&mut ctrl).await.into_parts();
    settlement.ack();
    Ok(message)
}

fn cast() -> MessageBuilder {
    Message::builder(Kind::Cast, "test")
}

async fn what_is_asked_arrives(world: World) -> Test {
    let on = world.connect().await?;
    for kind in [Kind::Call, Kind::Cast, Kind::Event, Kind::Reply] {
        for operation in ["find", "a.b c/d", "поиск✓", &"o".repeat(255)] {
            let got = through(&*on, Message::builder(kind, operation.to_owned())).await?;
            assert_eq!((got.kind(), got.operation().as_str()), (kind, operation));
        }
    }
    Ok(())
}

async fn ids_arrive(world: World) -> Test {
    let on = world.connect().await?;
    for id in ["0199d9a4-7b3c-7000-8000-000000000001", "order-17", "заказ №17", &"i".repeat(255)]
    {
        let id = Id::from(id);
        let other = Id::from("0199d9a4-7b3c-7000-8000-0000000000ff");
        let got = through(&*on, cast().id(id.clone()).correlation(other.clone())).await?;
        assert_eq!((got.id(), got.correlation()), (Some(&id), Some(&other)));
        let got = through(&*on, cast().id(other.clone()).correlation(id.clone())).await?;
        assert_eq!((got.id(), got.correlation()), (Some(&other), Some(&id)));
    }
    Ok(())
}

async fn where_the_answer_goes_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let foreign = ReplyTo::queue("some.queue/of:theirs");
    for to in [ReplyTo::service(&WEB), ReplyTo::instance(&WEB.at("h.1")?, "6f"), foreign] {
        let call = Message::builder(Kind::Call, "test").reply_to(to.clone());
        let got = through(&*on, call).await?;
        assert_eq!(got.reply_to(), Some(&to));
    }
    Ok(())
}

async fn who_sent_it_and_when_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let at = Timestamp::from_unix_ms(1_767_225_600_000);
    let got = through(&*on, cast().sender("WEB.db-1.eu").sent_at(at)).await?;
    assert_eq!((got.sender().as_str(), got.sent_at()), ("WEB.db-1.eu", Some(at)));
    Ok(())
}

async fn what_a_body_is_arrives(world: World) -> Test {
    let on = world.connect().await?;
    for content_type in ["application/json", "text/plain; charset=utf-8", ""] {
        let got = through(&*on, cast().content_type(content_type.to_owned())).await?;
        assert_eq!(got.content_type(), content_type);
    }
    Ok(())
}

async fn durability_arrives(world: World) -> Test {
    let on = world.connect().await?;
    for durable in [false, true] {
        let got = through(&*on, cast().durable(durable)).await?;
        assert_eq!(got.is_durable(), durable);
    }
    Ok(())
}

async fn attempts_and_hops_arrive(world: World) -> Test {
    let on = world.connect().await?;
    for (attempt, hops) in [(0, 0), (3, 7), (u32::MAX, u32::MAX)] {
        let got = through(&*on, cast().attempt(attempt).hops(hops)).await?;
        assert_eq!((got.attempt(), got.hops()), (attempt, hops));
    }
    Ok(())
}

async fn what_was_not_set_is_not_there(world: World) -> Test {
    let on = world.connect().await?;
    let got = through(&*on, Message::builder(Kind::Cast, "")).await?;
    assert_eq!((got.kind(), got.operation().as_str()), (Kind::Cast, ""));
    // The wire may want an id of every message; one that the sender chose is never replaced.
    assert_eq!((got.correlation(), got.reply_to()), (None, None));
    assert_eq!((got.deadline(), got.sent_at(), got.error()), (None, None, None));
    assert_eq!((got.attempt(), got.hops(), got.sender().as_str()), (0, 0, ""));
    assert!(got.body().is_empty());
    Ok(())
}
