//! A private broker dies and comes back, as a child process and in a container.

use crate::{
    bare::{declare, get, open, publish, within},
    eventually,
};
use futures_util::StreamExt;
use gear_test_amqp::{Broker, Options, image, private_is_container};
use lapin::{
    options::{BasicConsumeOptions, QueueDeleteOptions},
    types::FieldTable,
};
use std::time::Instant;

#[tokio::test]
async fn a_private_broker_lives_and_dies() {
    survives(Options::default()).await;
}

#[tokio::test]
async fn a_container_lives_and_dies() {
    if private_is_container() {
        return; // The test above shows it.
    }
    survives(Options { image: Some(image()), ..Options::default() }).await;
}

async fn survives(options: Options) {
    let mut clock = Clock(Instant::now());
    let broker = Broker::private_with(options).await;
    clock.lap(&format!("RabbitMQ {} starts", broker.version()));
    let url = broker.url();
    hears_of_deletion(&url).await;
    let (connection, channel) = open(&url).await;
    declare(&channel, "kept").await;
    publish(&channel, "kept", b"1").await.expect("it is confirmed");

    clock.lap("connect");
    broker.restart().await;
    clock.lap("restart");
    assert_eq!(broker.url(), url, "it keeps its port");
    eventually("the connection is seen to be lost", || !connection.status().connected()).await;
    let (connection, channel) = open(&url).await;
    publish(&channel, "kept", b"2").await.expect("it is confirmed");

    clock.lap("connect");
    broker.kill().await;
    clock.lap("kill -9");
    eventually("the connection is seen to be lost", || !connection.status().connected()).await;
    broker.kill().await;
    broker.start().await;
    clock.lap("start");
    hears_of_deletion(&url).await;
    let (connection, channel) = open(&url).await;
    assert_eq!(get(&channel, "kept").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&channel, "kept").await.as_deref(), Some(&b"2"[..]));

    clock.lap("connect");
    let queues = broker.ctl(&["list_queues", "name"]).await.expect("rabbitmqctl works");
    clock.lap("rabbitmqctl");
    assert!(queues.contains("kept"), "{queues}");
    let nonsense = broker.ctl(&["no_such_command"]).await;
    assert!(nonsense.expect_err("it fails").to_string().contains("no_such_command"));

    clock.lap("rabbitmqctl");
    broker.raise_alarm().await;
    clock.lap("raise_alarm");
    let alarms = broker.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await.expect("eval works");
    assert!(alarms.contains("memory"), "{alarms}");
    broker.clear_alarm().await;
    let alarms = broker.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await.expect("eval works");
    assert!(!alarms.contains("memory"), "{alarms}");

    clock.lap("alarms");
    broker.close_all_connections().await;
    clock.lap("close_all_connections");
    eventually("the connection is seen to be lost", || !connection.status().connected()).await;
    drop(broker);
    clock.lap("drop");
    assert!(std::net::TcpStream::connect(url.split(['@', '/']).nth(3).expect("a port")).is_err());
}

/// RabbitMQ answers before it has started, but for that moment keeps this to itself.
async fn hears_of_deletion(url: &str) {
    let (_connection, channel) = open(url).await;
    declare(&channel, "deleted").await;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume("deleted".into(), "".into(), options, arguments);
    let mut consumer = within(consumer).await.expect("the queue is there");
    let deleted = channel.queue_delete("deleted".into(), QueueDeleteOptions::default());
    within(deleted).await.expect("it is deleted");
    assert!(within(consumer.next()).await.is_none(), "the consumer ends");
}

#[tokio::test]
async fn settings_reach_the_broker() {
    let conf = vec!["max_message_size = 65536".to_owned(), "heartbeat = 7".to_owned()];
    let broker = Broker::private_with(Options { conf, ..Options::default() }).await;
    let size = broker.ctl(&["eval", "application:get_env(rabbit, max_message_size)."]).await;
    assert!(size.expect("eval works").contains("65536"));
    let (connection, channel) = open(&broker.url()).await;
    assert_eq!(connection.configuration().heartbeat(), 7);
    declare(&channel, "q").await;
    let large = publish(&channel, "q", &vec![0; 70_000]).await;
    assert!(large.is_err(), "a message over the limit is refused: {large:?}");
}

struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:>7.3} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
