//! What takes a whole broker down: restarts and alarms, one after the other, on a broker of its
//! own. The shared one goes on for the tests beside it, which fill the time that restarts take.

use gear_differential::{
    campaign::{Campaign, on_memory, on_rabbitmq},
    generate::Taste,
    page,
};
use gear_test_amqp::Broker;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

const WHAT: &str = "sequences of 25 operations with restarts and alarms";

type Test = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::test(start_paused = true)]
async fn gear_memory_restarts_as_the_model_says() {
    on_memory(WHAT, Campaign::of(1_000, 20_000, Taste::SERIAL)).await;
}

/// One test: the broker is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_restarts_as_the_model_says() -> Test {
    let broker = Broker::private().await;
    on_rabbitmq(WHAT, Campaign::of(1, 40, Taste::SERIAL).one_by_one(), &broker).await;
    what_is_not_durable_survives_a_restart_in_a_quorum_queue(&broker).await
}

/// Quorum queues have no use for the delivery mode: everything is on disk.
async fn what_is_not_durable_survives_a_restart_in_a_quorum_queue(broker: &Broker) -> Test {
    let vhost = broker.vhost().await;
    let properties = ConnectionProperties::default;
    let connection = Connection::connect(&vhost.url(), properties()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for queue_type in ["classic", "quorum"] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue_type.into(), options, arguments).await?;
        for (mode, body) in [(1, "transient"), (2, "durable")] {
            let properties = BasicProperties::default().with_delivery_mode(mode);
            let options = BasicPublishOptions::default();
            let body = body.as_bytes();
            let publish =
                channel.basic_publish("".into(), queue_type.into(), options, body, properties);
            publish.await?.await?;
        }
    }
    broker.restart().await;
    let connection = Connection::connect(&vhost.url(), properties()).await?;
    let channel = connection.create_channel().await?;
    for (queue, expected) in
        [("classic", vec!["durable"]), ("quorum", vec!["transient", "durable"])]
    {
        let mut left = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel.basic_get(queue.into(), options).await? {
            left.push(String::from_utf8(message.delivery.data.clone())?);
        }
        assert_eq!(left, expected, "{queue}");
    }
    let broker = format!("RabbitMQ {}", broker.version());
    page::proven(&broker, "a quorum queue keeps what is not durable over a restart", "settled");
    Ok(())
}
