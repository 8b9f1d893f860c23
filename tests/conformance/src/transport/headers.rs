//! The user's headers: every type, every script, up to the limits.

use bytes::Bytes;
use gear_api::{HeaderValue, Headers, Message, Text, Transport};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "headers";
    every_type_of_value_arrives: "as that type, with that value",
    extreme_values_arrive: "the smallest, the largest, the empty",
    nested_values_arrive: "lists in their order, and tables, as deep as is allowed",
    names_of_any_script_arrive: "with spaces, quotes and dots, and 128 bytes long",
    as_many_as_are_allowed_arrive: "64 of them",
    as_large_as_is_allowed_arrives: "16 KiB together",
    what_is_the_brokers_own_is_not_sent_on: "`x-*`, and `CC` and `BCC`, which multiply a message",
    none_are_none: "nothing of the backend's own is shown as a user's",
}

/// Sends headers, and returns those that arrive but for the broker's own.
async fn through(on: &dyn Transport, headers: Headers) -> Test<Vec<(String, HeaderValue)>> {
    let mut ctrl = serve(on, 1).await?;
    let sent: Message = message("m").to_builder().headers(headers).build();
    publish(on, "CTRL", sent).await?;
    let (message, settlement) = next(&mut ctrl).await.into_parts();
    settlement.ack();
    let users = message.headers().iter().filter(|(name, _)| !name.starts_with("x-"));
    Ok(users.map(|(name, value)| (name.to_owned(), value.clone())).collect())
}

/// A value with the fields of its tables in the order of their names: theirs is the wire's.
fn sorted(value: &HeaderValue) -> HeaderValue {
    match value {
        HeaderValue::List(values) => HeaderValue::List(values.iter().map(sorted).collect()),
        HeaderValue::Table(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), sorted(value)));
            let mut fields: Vec<_> = fields.collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            HeaderValue::Table(fields)
        }
        simple => simple.clone(),
    }
}

/// Checks that each arrives. The order of headers is the wire's.
async fn arrive(on: &dyn Transport, sent: Vec<(String, HeaderValue)>) -> Test {
    let mut headers = Headers::new();
    for (name, value) in sent.clone() {
        headers.insert(name, value)?;
    }
    let got = through(on, headers).await?;
    for (name, value) in &sent {
        let found = got.iter().find(|(other, _)| other == name);
        assert_eq!(found.map(|(_, value)| sorted(value)), Some(sorted(value)), "{name:?}");
    }
    assert_eq!(got.len(), sent.len(), "and no others: {got:?}");
    Ok(())
}

fn named(values: Vec<HeaderValue>) -> Vec<(String, HeaderValue)> {
    values.into_iter().enumerate().map(|(n, value)| (format!("h{n}"), value)).collect()
}

async fn every_type_of_value_arrives(world: World) -> Test {
    let on = world.connect().await?;
    let values = vec![
        HeaderValue::Null,
        HeaderValue::Bool(true),
        HeaderValue::Bool(false),
        HeaderValue::Int(42),
        HeaderValue::Float(0.5),
        HeaderValue::Text("text ✓".into()),
        HeaderValue::Bytes(Bytes::from_static(&[0, 255, 128, 1])),
        HeaderValue::Time(1_767_225_600),
        HeaderValue::List(vec![HeaderValue::Int(1), HeaderValue::Text("two".into())]),
        HeaderValue::Table(vec![("name".into(), HeaderValue::Bool(true))]),
    ];
    arrive(&*on, named(values)).await
}

async fn extreme_values_arrive(world: World) -> Test {
    let on = world.connect().await?;
    let values = vec![
        HeaderValue::Int(i64::MIN),
        HeaderValue::Int(i64::MAX),
        HeaderValue::Int(-1),
        HeaderValue::Float(f64::MAX),
        HeaderValue::Float(f64::MIN_POSITIVE),
        HeaderValue::Float(f64::MIN),
        HeaderValue::Time(0),
        HeaderValue::Text(Text::EMPTY),
        HeaderValue::Text("\u{0}\r\n\t\u{10ffff}".into()),
        HeaderValue::Text("x".repeat(5000).into()),
        HeaderValue::Bytes(Bytes::new()),
        HeaderValue::List(Vec::new()),
        HeaderValue::Table(Vec::new()),
    ];
    arrive(&*on, named(values)).await
}

async fn nested_values_arrive(world: World) -> Test {
    let on = world.connect().await?;
    let mut deep = HeaderValue::Text("at the bottom".into());
    for level in 0..Headers::MAX_DEPTH {
        deep = match level % 2 {
            0 => HeaderValue::List(vec![HeaderValue::Null, deep]),
            _ => HeaderValue::Table(vec![("имя".into(), deep), ("b".into(), 1.into())]),
        };
    }
    arrive(&*on, named(vec![deep])).await
}

async fn names_of_any_script_arrive(world: World) -> Test {
    let on = world.connect().await?;
    let longest = "n".repeat(Headers::MAX_NAME_BYTES);
    let names = ["имя", "名前", "with space", "quote\"s", "a.b/c", "🦀", "cc", &longest];
    let sent = names.iter().map(|name| ((*name).to_owned(), HeaderValue::from(*name)));
    arrive(&*on, sent.collect()).await
}

async fn as_many_as_are_allowed_arrive(world: World) -> Test {
    let on = world.connect().await?;
    let values = (0..Headers::MAX_COUNT).map(|n| HeaderValue::Int(n as i64)).collect();
    arrive(&*on, named(values)).await
}

async fn as_large_as_is_allowed_arrives(world: World) -> Test {
    let on = world.connect().await?;
    // A name of one byte and its length, a type and the length of the text are counted, too.
    let largest = "x".repeat(Headers::MAX_BYTES - 7);
    arrive(&*on, vec![("h".into(), largest.into())]).await
}

async fn what_is_the_brokers_own_is_not_sent_on(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 10).await?;
    let own = ["x-gear-test", "CC", "BCC"];
    let mut sent = message("m").to_builder().header("cc", "a user's")?;
    for name in own {
        let queues = HeaderValue::List(vec!["CTRL".into()]);
        sent.headers_mut().insert_reserved(name.into(), queues)?;
    }
    publish(&*web, "CTRL", sent.build()).await?;
    let (got, settlement) = next(&mut ctrl).await.into_parts();
    settlement.ack();
    assert_eq!(got.headers().get("cc").and_then(HeaderValue::as_str), Some("a user's"));
    for name in own {
        assert_eq!(got.headers().get(name), None, "{name}");
    }
    assert!(take_all(&world, &mut ctrl, 0).await.is_empty(), "and it comes once");
    Ok(())
}

async fn none_are_none(world: World) -> Test {
    let on = world.connect().await?;
    arrive(&*on, Vec::new()).await
}
