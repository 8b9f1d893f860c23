//! Generated sequences, after those that are kept, on a RabbitMQ that others may use too.

use gear_differential::{
    campaign::{Campaign, on_memory, on_rabbitmq},
    generate::Taste,
};
use gear_test_amqp::Broker;

/// 20,000 of them take as long as 100 on RabbitMQ.
#[tokio::test(start_paused = true)]
async fn gear_memory_does_what_the_model_says() {
    on_memory("sequences of 50 operations", Campaign::of(2_000, 50_000, Taste::USUAL)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_does_what_the_model_says() {
    let campaign = Campaign::of(60, 5_000, Taste::USUAL);
    on_rabbitmq("sequences of 50 operations", campaign, Broker::shared().await).await;
}
