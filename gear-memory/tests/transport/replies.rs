//! Replies: straight to the sink, never settled, and never where they do not belong.

use gear_memory::{Event, Recorded};

use super::*;

async fn reply(on: &dyn Transport, to: &ReplyTo, body: &str) -> Result {
    on.send(Route::Reply(to), message(body)).await
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_who_has_stopped_listening_is_not_routed() {
    let broker = MemoryBroker::new();
    let web = connect(&broker);
    let (mut consumer, sink) = ask_as(&*web, "WEB.h1").await;
    consumer.stop();
    assert_eq!(reply(&*web, &sink.at(), "m").await, Err(PublishError::NotRouted));
}

#[tokio::test(start_paused = true)]
async fn a_reply_during_a_cut_waits_for_the_connection_to_come_back() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await;
    link.cut();
    reply(&*ctrl, &sink.at(), "m").await.unwrap();
    assert!(sink.bodies().is_empty());
    soon(broker.idle()).await;
    assert_eq!(sink.bodies(), ["m"]);
    assert_eq!(sink.at.lock().unwrap().len(), 1, "the queue has kept its name");
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_that_nobody_comes_back_to_goes_after_ten_minutes() {
    let broker = MemoryBroker::new();
    let ((link, web), ctrl) = (link(&broker), connect(&broker));
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await;
    link.cut_for(Duration::from_secs(700));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(reply(&*ctrl, &sink.at(), "early").await, Err(PublishError::NotRouted));
    soon(broker.idle()).await;
    reply(&*ctrl, &sink.at(), "late").await.unwrap();
    assert_eq!(sink.bodies(), ["late"]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_queue_is_looked_for_at_the_default_exchange_and_is_none_of_other_things() {
    let broker = MemoryBroker::builder().record(10).build();
    let web = connect(&broker);
    let nobody = ReplyTo::queue("some.queue/of:theirs");
    assert_eq!(reply(&*web, &nobody, "m").await, Err(PublishError::NotRouted));
    let _h1 = join(&*web, "CTRL.h1").await.unwrap();
    let refused = reply(&*web, &ReplyTo::queue("CTRL:dead"), "m").await;
    assert!(matches!(refused, Err(PublishError::Invalid(_))), "{refused:?}");
    assert_eq!(publications(&broker), [(String::new(), "some.queue/of:theirs".to_owned(), 0)]);
}

/// Exchange, key and number of queues of all that was published.
fn publications(broker: &MemoryBroker) -> Vec<(String, String, usize)> {
    let published = |recorded: Recorded| match recorded.event {
        Event::Published { exchange, key, queues, .. } => {
            Some((exchange.to_string(), key.to_string(), queues.len()))
        }
        _ => None,
    };
    broker.recorded().into_iter().filter_map(published).collect()
}

#[tokio::test(start_paused = true)]
async fn no_reply_reaches_an_instance_a_dead_letter_queue_or_a_group_through_the_reply_exchange() {
    let broker = MemoryBroker::builder().record(100).build();
    let web = connect(&broker);
    let _ctrl = serve(&*web, 1).await;
    let _h1 = join(&*web, "CTRL.h1").await.unwrap();
    let (_replies, sink) = ask_as(&*web, "CTRL.h1").await;
    let names = broker.queues().into_iter().map(|queue| queue.name.to_string());
    for name in names.chain(["CTRL.*".into(), "*.*".into(), sink.at().to_string()]) {
        let _ = reply(&*web, &ReplyTo::queue(name), "m").await;
    }
    let reached: Vec<_> = publications(&broker)
        .into_iter()
        .filter(|(exchange, _, queues)| exchange == "gear.reply" && *queues > 0)
        .map(|(_, key, _)| key)
        .collect();
    let own = sink.at().to_string();
    assert_eq!(reached, ["CTRL", &own, &own]);
}

#[tokio::test(start_paused = true)]
async fn several_brokers_do_not_hear_of_each_other() {
    let (here, there) = (MemoryBroker::new(), MemoryBroker::new());
    let web = connect(&here);
    let (_consumer, sink) = ask_as(&*web, "WEB.h1").await;
    let stranger = connect(&there);
    assert_eq!(reply(&*stranger, &sink.at(), "m").await, Err(PublishError::NotRouted));
}
