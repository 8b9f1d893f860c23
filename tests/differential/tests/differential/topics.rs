//! Topics and patterns below everything else: a topic exchange, many bindings and keys at a time.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use gear_api::{Feed, Kind, Message, Pattern, Route, Subscription, Topic, Transport};
use gear_differential::{generate::Random, page, selects};
use gear_memory::MemoryBroker;
use gear_test_amqp::Broker;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, options::*};

type Test<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Those that are nobody's idea of a topic: nothing, only dots, dots at the ends.
const ODD: [&str; 8] = ["", ".", "..", "a.", ".a", "a..b", "*", "#"];
const PATTERNS: usize = 40;
const KEYS: usize = 100;

fn rounds() -> u64 {
    if std::env::var_os("GEAR_TEST_LONG").is_some() { 250 } else { 10 }
}

/// A pattern or a key: up to 255 bytes, with at most two `#` (more are refused by some brokers).
fn draw(random: &mut Random) -> String {
    match random.below(20) {
        0 => return random.one(&ODD).to_owned(),
        1 => return format!("{}.{}", "x".repeat(251), random.one(&["a", "*", "#", "aaa"])),
        2 => return format!("{}{}", "a.".repeat(127), random.one(&["a", "*", "#", ""])),
        _ => {}
    }
    let mut words = Vec::new();
    for _ in 0..=random.below(6) {
        let hashes = words.iter().filter(|word| **word == "#").count();
        let word = random.one(&["a", "a", "b", "aa", "", "*", "*", "#", "#", "a#"]);
        words.push(if word == "#" && hashes == 2 { "*" } else { word });
    }
    words.join(".")
}

fn drawn(random: &mut Random, count: usize) -> Vec<String> {
    let mut all = BTreeSet::new();
    while all.len() < count {
        all.insert(draw(random));
    }
    all.into_iter().collect()
}

#[test]
fn a_pattern_matches_what_it_selects_by_definition() {
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let (pattern, key) = (draw(&mut random), draw(&mut random));
        if let Ok(valid) = pattern.parse::<Pattern>() {
            assert_eq!(valid.matches(&key), selects(&pattern, &key), "{pattern:?} {key:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn gear_memory_delivers_what_a_pattern_selects() -> Test {
    let mut pairs = 0;
    for round in 0..rounds() {
        let mut random = Random::new(round);
        let broker = MemoryBroker::new();
        let (watching, sending) = (broker.connect(), broker.connect());
        let mut taps = Vec::new();
        for pattern in drawn(&mut random, PATTERNS) {
            let Ok(valid) = pattern.parse::<Pattern>() else { continue };
            let tap = Subscription::Tap { feed: Feed::Events, pattern: valid };
            taps.push((pattern, watching.subscribe(tap).await?));
        }
        for key in drawn(&mut random, KEYS) {
            let Ok(topic) = key.parse::<Topic>() else { continue };
            let message = Message::builder(Kind::Event, "note").build();
            sending.send(Route::Event(&topic), message).await?;
            // A task that has taken much in one go is shown nothing more before it yields.
            tokio::task::yield_now().await;
            for (pattern, tap) in &mut taps {
                let got = tap.try_next().is_some();
                assert_eq!(got, selects(pattern, &key), "{pattern:?} {key:?}");
                assert!(tap.try_next().is_none(), "{key:?} came twice for {pattern:?}");
                pairs += 1;
            }
        }
    }
    page::proven("gear-memory", "topics and patterns", &format!("{pairs} pairs"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_exchange_of_rabbitmq_routes_what_a_pattern_selects() -> Test {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let connection = Connection::connect(&vhost.url(), ConnectionProperties::default()).await?;
    let mut pairs = 0;
    for round in 0..rounds() {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut random = Random::new(round);
        let patterns = drawn(&mut random, PATTERNS);
        let keys = drawn(&mut random, KEYS);
        // Names of its own: what the round before has used goes when RabbitMQ has the time.
        let exchange = format!("topics {round}");
        let routed = route(&channel, &exchange, &patterns, &keys).await?;
        for (p, pattern) in patterns.iter().enumerate() {
            for (k, key) in keys.iter().enumerate() {
                let count = routed.iter().filter(|pair| **pair == (p, k)).count();
                assert_eq!(count, usize::from(selects(pattern, key)), "{pattern:?} {key:?}");
                pairs += 1;
            }
        }
        channel.close(200, "done".into()).await?;
    }
    let name = format!("RabbitMQ {}", broker.version());
    page::proven(&name, "topics and patterns", &format!("{pairs} pairs"));
    Ok(())
}

/// Which pattern's queue gets which key's message, by their numbers.
async fn route(
    channel: &Channel,
    exchange: &str,
    patterns: &[String],
    keys: &[String],
) -> Test<Vec<(usize, usize)>> {
    let auto_delete = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let declare = channel.exchange_declare(
        exchange.into(),
        ExchangeKind::Topic,
        auto_delete,
        Default::default(),
    );
    declare.await?;
    for (n, pattern) in patterns.iter().enumerate() {
        let auto_delete =
            QueueDeclareOptions { auto_delete: true, exclusive: true, ..Default::default() };
        let queue = format!("{exchange} {n}");
        channel.queue_declare(queue.as_str().into(), auto_delete, Default::default()).await?;
        let options = QueueBindOptions::default();
        let bind = channel.queue_bind(
            queue.into(),
            exchange.into(),
            pattern.as_str().into(),
            options,
            Default::default(),
        );
        bind.await?;
    }
    let mut confirms = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let (options, body) = (BasicPublishOptions::default(), n.to_string());
        let publish = channel.basic_publish(
            exchange.into(),
            key.as_str().into(),
            options,
            body.as_bytes(),
            BasicProperties::default(),
        );
        confirms.push(publish.await?);
    }
    for confirm in confirms {
        confirm.await?;
    }
    let mut routed = Vec::new();
    for n in 0..patterns.len() {
        let queue = format!("{exchange} {n}");
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.as_str().into(), passive, Default::default());
        let count = declared.await?.message_count();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let tag = queue.clone();
        let mut consumer = channel
            .basic_consume(queue.into(), tag.as_str().into(), options, Default::default())
            .await?;
        for _ in 0..count {
            let delivery = consumer.next().await.ok_or("the consumer ended")??;
            routed.push((n, std::str::from_utf8(&delivery.data)?.parse()?));
        }
        channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await?;
    }
    Ok(routed)
}
