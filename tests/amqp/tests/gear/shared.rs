//! One broker for many tests and many runtimes, and what isolates them.

use crate::bare::{declare, get, open, publish, within};
use gear_test_amqp::{Broker, unique_system};
use lapin::{Connection, ConnectionProperties};
use std::{collections::HashSet, thread, time::Instant};

#[tokio::test]
async fn a_vhost_is_of_ones_own_and_goes() {
    let broker = Broker::shared().await;
    println!("RabbitMQ {} at {}", broker.version(), broker.url());
    let started = Instant::now();
    let vhost = broker.vhost().await;
    println!("a vhost: {:?}", started.elapsed());
    let (_connection, channel) = open(&vhost.url()).await;
    declare(&channel, "mine").await;
    publish(&channel, "mine", b"hello").await.expect("it is confirmed");
    assert_eq!(get(&channel, "mine").await.as_deref(), Some(&b"hello"[..]));
    let url = vhost.url();
    drop(vhost);
    let again = within(Connection::connect(&url, ConnectionProperties::default())).await;
    assert!(again.is_err(), "the vhost is gone");
}

#[tokio::test]
async fn a_vhost_has_policies_of_its_own() {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let limit = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    vhost.set_policy("short", "^short$", limit, "queues").await.expect("a policy is set");
    let (_connection, channel) = open(&vhost.url()).await;
    declare(&channel, "short").await;
    for body in [b"1", b"2"] {
        _ = publish(&channel, "short", body).await;
    }
    let third = publish(&channel, "short", b"3").await.expect("an answer");
    assert!(third.is_nack(), "a full queue refuses: {third:?}");
    let bad = vhost.set_policy("bad", "[", "{}", "nothing").await;
    assert!(bad.is_err(), "and the broker refuses nonsense");
}

#[test]
fn runtimes_share_it() {
    let ports: HashSet<u16> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    runtime.block_on(async {
                        let broker = Broker::shared().await;
                        let vhost = broker.vhost().await;
                        let (_connection, channel) = open(&vhost.url()).await;
                        declare(&channel, "q").await;
                        broker.port()
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(ports.len(), 1, "all of them saw the same broker");
}

#[test]
fn system_names_are_unique() {
    let names: HashSet<String> = (0..1000).map(|_| unique_system()).collect();
    assert_eq!(names.len(), 1000);
    for name in names {
        assert!(name.starts_with('t') && name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
