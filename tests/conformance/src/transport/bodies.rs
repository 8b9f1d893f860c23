//! Bodies: any bytes, of any size that the backend takes.

use bytes::Bytes;
use gear_api::{Kind, Message, PublishError, Transport};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "bodies";
    every_byte_arrives: "as it was, whatever its value",
    every_size_arrives: "around the powers of two and the usual size of a frame",
    the_largest_arrives: "up to the limit, or to 16 MiB",
    one_byte_more_is_refused(limit): "with the sizes, and the connection lives on",
    a_multicast_body_is_the_same_for_all: "every copy is whole",
}

async fn through(on: &dyn Transport, body: Bytes) -> Test<Bytes> {
    let mut ctrl = serve(on, 1).await?;
    let message = Message::builder(Kind::Cast, "test").body(body).build();
    within(publish(on, "CTRL", message)).await?;
    let (message, settlement) = next(&mut ctrl).await.into_parts();
    settlement.ack();
    Ok(message.body().clone())
}

/// Bytes in which a gap or a shift shows.
fn pattern(size: usize) -> Bytes {
    (0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

async fn every_byte_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
    assert_eq!(through(&*on, all.clone()).await?, all);
    Ok(())
}

async fn every_size_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let limit = on.capabilities().max_message_bytes;
    let around = |size: usize| [size - 1, size, size + 1];
    // A frame of 131,072 bytes has 8 that are not the body's.
    let sizes = [1, 256, 4096, 65_536, 131_064, 131_072, 262_128, 1_048_576].map(around);
    for size in sizes.into_iter().flatten().filter(|size| *size <= limit) {
        let body = pattern(size);
        let got = through(&*on, body.clone()).await?;
        assert!(got == body, "a body of {size} bytes came as another, of {}", got.len());
    }
    Ok(())
}

async fn the_largest_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let size = on.capabilities().max_message_bytes.min(16 * 1024 * 1024);
    let body = pattern(size);
    assert!(through(&*on, body.clone()).await? == body, "it came as another");
    Ok(())
}

async fn one_byte_more_is_refused(world: World) -> Test {
    let on = world.connect().await?;
    let limit = on.capabilities().max_message_bytes;
    drop(serve(&*on, 1).await?);
    let body = Bytes::from(vec![0; limit + 1]);
    let message = Message::builder(Kind::Cast, "test").body(body).build();
    let answer = within(publish(&*on, "CTRL", message)).await;
    assert_eq!(answer, Err(PublishError::TooLarge { bytes: limit + 1, limit }));
    assert_eq!(through(&*on, Bytes::from_static(b"small")).await?, "small");
    Ok(())
}

async fn a_multicast_body_is_the_same_for_all(world: World) -> Test {
    let on = world.connect().await?;
    let mut all = Vec::new();
    for name in ["CTRL.h1", "CTRL.h2", "CTRL.h3"] {
        all.push(join(&*on, name).await?);
    }
    let body = pattern(300_000);
    let message = Message::builder(Kind::Cast, "test").body(body.clone()).build();
    publish(&*on, "CTRL.*", message).await?;
    for consumer in &mut all {
        let (message, settlement) = next(consumer).await.into_parts();
        settlement.ack();
        assert!(*message.body() == body, "it came as another");
    }
    Ok(())
}
