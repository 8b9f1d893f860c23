//! How many requests a node handles at a time, whatever becomes of its consumers.

use std::sync::Arc;

use gear::{Context, Fault, Node, Subscription, Transport};

use crate::{CTRL, Log, NOTE, SECOND, Test, broker, client};

async fn a_minute(log: Arc<Log>, _: Context, text: String) -> Result<(), Fault> {
    log.add(format!("{text} begins"));
    tokio::time::sleep(SECOND * 60).await;
    log.add(format!("{text} ends"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_still_handled_counts_for_the_consumer_that_is_subscribed_instead() -> Test {
    let (broker, log) = (broker(), Log::default());
    let (link, instance) = (broker.connect(), CTRL.at("host1")?);
    let ctrl = Node::builder(link.clone(), instance.clone()).concurrency(1).state(log.clone());
    let _ctrl = ctrl.on(NOTE, a_minute).start().await?;
    client(&broker).await.cast(&instance, NOTE, &"one".into()).await?;
    tokio::time::sleep(SECOND).await;
    link.cut_for(SECOND * 5);
    // Another one takes its name, so that its consumer ends when the link is back.
    let other = broker.connect();
    let holder = other.subscribe(Subscription::Instance { instance, prefetch: 1 }).await?;
    tokio::time::sleep(SECOND * 10).await;
    drop(holder);
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(log.take(), ["one begins"]);
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(log.take(), ["one ends", "one begins"]);
    Ok(())
}
