//! A cluster as the tests get it: three nodes, each broken once.

use crate::bare::{declare, next, open, publish};
use gear_test_amqp::Cluster;
use std::time::Instant;

#[tokio::test]
#[ignore = "three containers and a minute: run with --ignored"]
async fn a_cluster_breaks_and_mends() {
    let started = Instant::now();
    let cluster = Cluster::up(None).await;
    println!("a cluster: {:?}", started.elapsed());
    let urls = cluster.urls();
    let (_connection, first) = open(&urls[0]).await;
    declare(&first, "q").await;
    publish(&first, "q", b"1").await.expect("it is confirmed");
    let (_connection, second) = open(&urls[1]).await;
    assert_eq!(next(&second, "q").await, b"1", "it is one broker");

    cluster.kill(3).await;
    cluster.start(3).await;
    cluster.whole().await;
    cluster.isolate(2).await;
    cluster.heal(2).await;
    cluster.pause(3).await;
    cluster.unpause(3).await;
    cluster.whole().await;
    let (_connection, third) = open(&urls[2]).await;
    publish(&third, "q", b"2").await.expect("it is confirmed");
    println!("all of it: {:?}", started.elapsed());
}
