//! What goes wrong between a node and its broker, and what is left of it afterwards.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, Client, Context, Fault, Node, Status, SubscribeError,
    memory::{BrokerFault, Injection, MemoryBroker},
};
use tokio::time::Instant;

use crate::{CTRL, ECHO, Log, NOTE, Test, WHO, broker, client, node, note, who};

const SECOND: Duration = Duration::from_secs(1);

async fn slow_echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    tokio::time::sleep(SECOND).await;
    Ok(text)
}

#[tokio::test(start_paused = true)]
async fn a_call_survives_a_cut_of_its_caller() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let link = broker.connect();
    let client = Client::builder(link.clone(), "CLI.test".parse()?).start().await?;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::task::yield_now().await;
    link.cut_for(SECOND * 3);
    assert_eq!(*client.status().borrow(), Status::Connecting);
    let start = Instant::now();
    assert_eq!(call.await?, "x");
    assert_eq!(start.elapsed(), SECOND * 3, "the answer waited in the queue");
    assert!(client.status().borrow().is_ready());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_comes_again_when_its_handler_loses_the_connection() -> Test {
    let broker = broker();
    let link = broker.connect();
    let node = Node::builder(link.clone(), CTRL.at("host1")?).on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::time::sleep(SECOND / 2).await;
    link.cut();
    assert_eq!(call.await?, "x");
    broker.idle().await;
    // It was handled twice, which is what at-least-once means, and answered once of use.
    assert_eq!(node.stats().operations[0].1, 2);
    assert_eq!(client.stats().late_replies, 1);
    assert_eq!(broker.queue("CTRL").map(|queue| (queue.ready, queue.unsettled)), Some((0, 0)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_during_a_cut_waits_and_goes_in_order() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let link = broker.connect();
    let client = Client::builder(link.clone(), "CLI.test".parse()?).start().await?;
    link.cut_for(SECOND);
    let casts: Vec<_> = (0..5)
        .map(|n| client.cast(CTRL.at("host1").unwrap(), NOTE, &n.to_string()).send())
        .collect();
    assert_eq!(log.take(), [""; 0]);
    for cast in casts {
        cast.await?;
    }
    broker.idle().await;
    assert_eq!(
        log.take(),
        (0..5).map(|n| format!("CTRL.host1 CTRL.host1 {n}")).collect::<Vec<_>>()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_calls_go_on() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).on(WHO, who).start().await?;
    let client = client(&broker).await;
    // A call is not durable: the restart loses it, and its caller learns by the deadline.
    let call = client.call(CTRL, ECHO, &"x".into()).timeout(SECOND * 5).send();
    broker.restart();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert!(matches!(call.await, Err(CallError::DeadlinePassed)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_name_in_use_is_refused_and_takes_nothing_from_its_holder() -> Test {
    let broker = broker();
    let first = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let second = node(&broker, &CTRL, "host1").on(WHO, who).start().await;
    let Err(gear::StartError::Subscribe(SubscribeError::NameInUse(name))) = second else {
        panic!("{second:?}")
    };
    assert_eq!(name, CTRL.at("host1")?);
    let client = client(&broker).await;
    for _ in 0..3 {
        client.call(CTRL, WHO, &()).await?;
    }
    assert_eq!(first.stats().operations[0].1, 3);
    first.shutdown(SECOND).await;
    // Now it is free.
    let _second = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_is_declared_and_consumed_again() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    for queue in ["CTRL", "CTRL.host1"] {
        assert!(broker.delete_queue(queue));
        broker.idle().await;
        assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
        assert_eq!(client.call(CTRL.at("host1")?, WHO, &()).await?, "CTRL.host1");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_that_is_deleted_gets_a_new_name() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    let is_reply_queue = |name: &str| name.starts_with("CLI.test:reply.");
    let names = || -> Vec<String> {
        let queues = broker.queues().into_iter().map(|queue| queue.name.to_string());
        queues.filter(|name| is_reply_queue(name)).collect()
    };
    let before = names();
    assert!(broker.delete_queue(&before[0]));
    broker.idle().await;
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert_ne!(names(), before);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_alarm_blocks_publishers_while_handlers_finish() -> Test {
    let (broker, log) = (broker(), Log::default());
    let node = node(&broker, &CTRL, "host1").state(log.clone()).on(NOTE, note).start().await?;
    let client = client(&broker).await;
    broker.raise_alarm("disk");
    assert_eq!(*node.status().borrow(), Status::Blocked("disk".into()));
    let mut cast = Box::pin(client.cast(CTRL, NOTE, &"x".into()).into_future());
    let early = tokio::time::timeout(SECOND, &mut cast).await;
    assert!(early.is_err(), "it waits");
    broker.clear_alarm();
    cast.await?;
    broker.idle().await;
    assert_eq!(log.take(), ["CTRL.host1 CTRL x"]);
    assert!(node.status().borrow().is_ready());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_must_wait_for_the_broker_still_arrives() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(ECHO, slow_echo).start().await?;
    let client = client(&broker).await;
    let call = client.call(CTRL, ECHO, &"x".into()).send();
    tokio::time::sleep(SECOND / 2).await;
    broker.raise_alarm("memory");
    tokio::time::sleep(SECOND * 2).await;
    broker.clear_alarm();
    assert_eq!(call.await?, "x");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_noticed_by_the_deadline() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(BrokerFault::LoseMessage);
    let call = client.call(CTRL, WHO, &()).timeout(SECOND).await;
    assert!(matches!(call, Err(CallError::DeadlinePassed)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_arrives_late() -> Test {
    let broker = broker();
    let _node = node(&broker, &CTRL, "host1").on(WHO, who).start().await?;
    let client = client(&broker).await;
    broker.inject(Injection::new(BrokerFault::Delay(SECOND * 3)).on(gear::Pattern::new("CTRL")));
    let start = Instant::now();
    assert_eq!(client.call(CTRL, WHO, &()).await?, "CTRL.host1");
    assert_eq!(start.elapsed(), SECOND * 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() -> Test {
    async fn run() -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let broker = MemoryBroker::builder().seed(42).record(10_000).build();
        let mut nodes = Vec::new();
        for host in ["a", "b", "c"] {
            nodes.push(node(&broker, &CTRL, host).on(ECHO, slow_echo).on(WHO, who).start().await?);
        }
        let client = client(&broker).await;
        broker.inject(Injection::new(BrokerFault::Duplicate).times(3));
        let calls: Vec<_> =
            (0..20).map(|n| client.call(CTRL, ECHO, &n.to_string()).send()).collect();
        tokio::time::sleep(SECOND / 2).await;
        broker.restart();
        for call in calls {
            let _ = call.await;
        }
        broker.idle().await;
        Ok(broker.recorded().iter().map(ToString::to_string).collect())
    }
    let (first, second) = (run().await?, run().await?);
    assert!(first.len() > 50, "{}", first.len());
    assert_eq!(first, second);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cuts_leave_nothing_behind() -> Test {
    let broker = MemoryBroker::new();
    let link = broker.connect();
    let _node = Node::builder(link.clone(), CTRL.at("host1")?).on(WHO, who).start().await?;
    let client = client(&broker).await;
    client.call(CTRL, WHO, &()).await?;
    broker.idle().await;
    let queues = broker.queues();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..1000 {
        let call = client.call(CTRL, WHO, &()).send();
        link.cut();
        assert_eq!(call.await?, "CTRL.host1");
    }
    broker.idle().await;
    assert_eq!(broker.queues(), queues);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
    assert_eq!((client.stats().open_calls, broker.stored_bytes()), (0, 0));
    Ok(())
}
