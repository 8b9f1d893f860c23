//! Stopping, closing, and lost links at moments that are unfortunate for it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gear_api::{
    Address, Consumer, Delivery, DeliverySink, EventGroup, Feed, Kind, Message, Pattern, ReplySink,
    ReplyTo, Route, Subscription, Transport, topology::QueueType,
};
use gear_test_amqp::Broker;
use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::{
    CTRL, PATIENCE, REPO, System, Test, cast, eventually,
    handshake::{Handshake, Then},
    next, nothing, ready, serve, text,
};

const MOMENT: Duration = Duration::from_millis(200);

/// Takes and acks so many, and checks that each comes once.
async fn once_each(consumer: &mut Consumer, count: usize) {
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        assert!(seen.insert(text(delivery.message())), "{delivery:?} again");
        delivery.ack();
    }
    nothing(consumer).await;
}

/// Counts what comes.
#[derive(Default)]
struct Sink {
    at: Mutex<Option<ReplyTo>>,
    count: AtomicUsize,
}

impl ReplySink for Sink {
    fn listening(&self, at: ReplyTo) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn deliver(&self, _: Message) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl DeliverySink for Sink {
    fn deliver(&self, delivery: Delivery) {
        self.count.fetch_add(1, Ordering::Relaxed);
        delivery.ack();
    }
}

fn replies(sink: &Arc<Sink>) -> Result<Subscription, gear_api::NameError> {
    let sink: Arc<dyn ReplySink> = Arc::<Sink>::clone(sink);
    Ok(Subscription::Replies { instance: CTRL.at("host1")?, sink })
}

/// A link that goes while the exchange of a delay is declared is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_lost_while_a_delay_is_declared() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &REPO, 10).await;
    proxy.freeze();
    let route =
        Route::Delayed { delay: Duration::from_millis(50), jitter: Duration::ZERO, queue: "REPO" };
    let sent = transport.send(route, cast("later"));
    tokio::time::sleep(MOMENT).await;
    proxy.cut();
    proxy.heal();
    tokio::time::timeout(PATIENCE, sent).await??;
    next(&mut queue).await.ack();
    Ok(())
}

/// A message to be held back is all that there is for a node that has stopped to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_declared_elsewhere_if_a_broker_answers_nothing() -> Test {
    let broker = Broker::shared().await;
    let (one, two) = (broker.proxy().await, broker.proxy().await);
    let system = System::at(one.url());
    let builder = system.builder().url(&two.url())?.heartbeat(Duration::from_secs(60));
    let transport = builder.confirm_timeout(Duration::from_secs(2)).connect().await?;
    let direct = system.direct().await.connect().await;
    let mut queue = serve(&direct, &REPO, 10).await;
    if one.connections() > 0 {
        one.freeze_answers();
    } else {
        two.freeze_answers();
    }
    let route =
        Route::Delayed { delay: Duration::from_millis(50), jitter: Duration::ZERO, queue: "REPO" };
    tokio::time::timeout(PATIENCE, transport.send(route, cast("later"))).await??;
    next(&mut queue).await.ack();
    Ok(())
}

/// What comes after the stop is not given back: the broker waits for no word about replies, takes one
/// as an error, and closes the channel that others have deliveries of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_stopped_while_answers_come() -> Test {
    let system = System::new().await;
    let (transport, sender) = (system.connect().await, system.connect().await);
    let instance = CTRL.at("host1")?;
    let own = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
    let mut own = transport.subscribe(own).await?;
    transport.send(Route::Address(&Address::from(&instance)), cast("held")).await?;
    let held = next(&mut own).await;
    for _ in 0..10 {
        let sink = Arc::new(Sink::default());
        let mut replies = transport.subscribe(replies(&sink)?).await?;
        let to = sink.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let to = to.ok_or("it listens nowhere")?;
        for n in 0..300 {
            let reply = Message::builder(Kind::Reply, "x").body(n.to_string()).build();
            sender.send(Route::Reply(&to), reply).detach();
        }
        eventually("answers come", || sink.count.load(Ordering::Relaxed) > 0).await;
        replies.stop();
        while replies.next().await.is_some() {}
    }
    nothing(&mut own).await;
    held.ack();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_has_not_taken_what_it_has_when_its_channel_goes() -> Test {
    let broker = Broker::shared().await;
    let between = Handshake::before(broker, Then::GoesOn).await?;
    let transport = System::at(between.url()).connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    for n in 0..10 {
        transport.send(Route::Address(&Address::from(&CTRL)), cast(&n.to_string())).await?;
    }
    tokio::time::sleep(MOMENT).await;
    between.close_channels();
    tokio::time::sleep(MOMENT * 5).await;
    ready(&transport).await;
    once_each(&mut queue, 10).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_has_a_batch_in_its_hands_when_its_link_goes() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 100).await;
    for n in 0..50 {
        transport.send(Route::Address(&Address::from(&CTRL)), cast(&n.to_string())).await?;
    }
    tokio::time::sleep(MOMENT).await;
    let first = next(&mut queue).await;
    proxy.drop_connections();
    tokio::time::sleep(MOMENT * 5).await;
    ready(&transport).await;
    first.ack(); // of a link that is gone
    once_each(&mut queue, 50).await;
    Ok(())
}

/// A tap acks what it shows, in whatever way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_that_goes_straight_to_a_sink_does_not_run_full() -> Test {
    const MANY: usize = 3_000;
    let transport = System::new().await.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let tap = Subscription::Tap { feed: Feed::Requests, pattern: Pattern::ALL };
    let mut tap = transport.subscribe(tap).await?;
    let sink = Arc::new(Sink::default());
    assert!(tap.forward(Arc::<Sink>::clone(&sink)));
    let to = Address::from(&CTRL);
    let message = |n: usize| cast(&n.to_string());
    let sent: Vec<_> = (0..MANY).map(|n| transport.send(Route::Address(&to), message(n))).collect();
    for sent in sent {
        sent.await?;
    }
    eventually("it sees all", || sink.count.load(Ordering::Relaxed) == MANY).await;
    queue.stop();
    Ok(())
}

/// Waits until the broker has so many unsettled on each channel of this vhost. Nothing is known of a
/// broker that somebody else runs.
async fn until_unsettled(broker: &Broker, vhost: &str, expected: &[u32]) {
    let start = Instant::now();
    while let Ok(channels) =
        broker.ctl(&["list_channels", "vhost", "messages_unacknowledged"]).await
    {
        let ours = channels.lines().filter_map(|line| line.strip_prefix(vhost));
        let mut ours: Vec<u32> = ours.filter_map(|count| count.trim().parse().ok()).collect();
        ours.sort_unstable();
        if ours == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{channels}");
    }
    tokio::time::sleep(MOMENT).await;
}

/// It would stay with the channel that all taps have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tap_has_not_shown_is_settled_when_it_is_dropped() -> Test {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let transport = System::at(vhost.url()).connect().await;
    let mut queue = serve(&transport, &CTRL, 100).await;
    let own = Subscription::Instance { instance: CTRL.at("host1")?, prefetch: 10 };
    let _own = transport.subscribe(own).await?;
    let tap = Subscription::Tap { feed: Feed::Requests, pattern: Pattern::ALL };
    let tap = transport.subscribe(tap).await?;
    for n in 0..20 {
        transport.send(Route::Address(&CTRL.into()), cast(&n.to_string())).await?;
        next(&mut queue).await.ack();
    }
    // None of it is with the channel of the instance, which must not be closed for being slow.
    until_unsettled(broker, vhost.name(), &[0, 0, 0, 20]).await;
    drop(tap);
    until_unsettled(broker, vhost.name(), &[0; 4]).await;
    Ok(())
}

/// While nobody looks, a tap keeps what it has seen: the newest of it, however often its link goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_that_nobody_reads_does_not_grow_with_each_lost_link() -> Test {
    const SENT: usize = 1_500;
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let proxy = broker.proxy().await;
    let watcher = System::at(proxy.through(&vhost.url()));
    let transport = watcher.connect().await;
    let tap = Subscription::Tap { feed: Feed::Requests, pattern: Pattern::ALL };
    let mut tap = transport.subscribe(tap).await?;
    let direct = System { url: vhost.url(), name: watcher.name.clone() }.connect().await;
    for round in 0..3 {
        let send = |n| direct.send(Route::Address(&CTRL.into()), cast(&format!("{round}-{n}")));
        let sent: Vec<_> = (0..SENT).map(send).collect();
        for publish in sent {
            tokio::time::timeout(PATIENCE, publish).await??;
        }
        until_unsettled(broker, vhost.name(), &[0, 0, 1_000]).await;
        proxy.drop_connections();
        eventually("the link is gone", || !transport.status().borrow().is_ready()).await;
        ready(&transport).await;
    }
    let mut seen = Vec::new();
    direct.send(Route::Address(&CTRL.into()), cast("last")).await?;
    while seen.last().is_none_or(|last| last != "last") {
        seen.push(text(next(&mut tap).await.message()));
    }
    let last_round = seen.iter().filter(|text| text.starts_with("2-")).count();
    assert_eq!((seen.len(), last_round), (1_001, 1_000), "{:?} to {:?}", seen[0], seen[1_000]);
    Ok(())
}

/// A quorum queue keeps what comes back in the order in which it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_closing_gives_back_goes_back_in_order() -> Test {
    const SENT: usize = 1_000;
    let system = System::new().await;
    let connect = || system.builder().queue_type(QueueType::Quorum).connect();
    let (sender, mut transport) = (connect().await?, connect().await?);
    drop(serve(&transport, &CTRL, 1).await);
    let to = Address::from(&CTRL);
    let send = |n: usize| sender.send(Route::Address(&to), cast(&n.to_string()));
    for publish in (0..SENT).map(send).collect::<Vec<_>>() {
        publish.await?;
    }
    for wait in 0..20 {
        let queue = serve(&transport, &CTRL, 1_000).await;
        tokio::time::sleep(Duration::from_millis(wait)).await; // in the midst of what comes
        transport.close().await;
        drop(queue);
        transport = connect().await?;
    }
    let mut queue = serve(&transport, &CTRL, 1_000).await;
    for n in 0..SENT {
        let delivery = next(&mut queue).await;
        assert_eq!(text(delivery.message()), n.to_string());
        delivery.ack();
    }
    Ok(())
}

/// What a foreign program may send does not fit into the frames that we ask for to publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_headers_of_a_foreign_program_end_no_connection() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let accepted = proxy.accepted();
    let direct = system.direct().await;
    let (_connection, channel) = direct.foreign().await?;
    let mut headers = FieldTable::default();
    let large = AMQPValue::LongString(LongString::from("x".repeat(60_000)));
    headers.insert(ShortString::from("large"), large);
    let (to, properties) = (direct.on_broker("CTRL"), BasicProperties::default());
    let properties = properties.with_headers(headers);
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), to.into(), options, b"large", properties).await?;
    let delivery = next(&mut queue).await;
    assert_eq!(text(delivery.message()), "large");
    delivery.ack();
    assert_eq!(proxy.accepted(), accepted);
    Ok(())
}

/// Whoever stops waits for no broker that is slow; and what that sends before it hears of it goes
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_hears_late_that_a_consumer_has_stopped() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(60)).connect().await?;
    let mut other = serve(&transport, &REPO, 10).await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    proxy.freeze();
    let start = Instant::now();
    queue.stop();
    while queue.next().await.is_some() {}
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let direct = system.direct().await.connect().await;
    for n in 0..5 {
        direct.send(Route::Address(&Address::from(&CTRL)), cast(&n.to_string())).await?;
    }
    proxy.heal();
    let mut again = serve(&direct, &CTRL, 10).await;
    once_each(&mut again, 5).await;
    direct.send(Route::Address(&Address::from(&REPO)), cast("x")).await?;
    next(&mut other).await.ack();
    Ok(())
}

/// lapin takes the answer to something that nobody awaits any more for an error, and ends the
/// connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_given_up_at_every_moment() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut other = serve(&transport, &REPO, 10).await;
    let accepted = proxy.accepted();
    for us in (0..12_000).step_by(120) {
        let group = EventGroup::new(CTRL, &format!("g{}", us % 7))?;
        let events = Subscription::Events { group, patterns: vec!["a.b".parse()?], prefetch: 1 };
        let subscribing = transport.subscribe(events);
        drop(tokio::time::timeout(Duration::from_micros(us), subscribing).await);
    }
    transport.send(Route::Address(&Address::from(&REPO)), cast("x")).await?;
    next(&mut other).await.ack();
    assert_eq!(proxy.accepted(), accepted);
    Ok(())
}

/// That there is no such queue may be the answer to a question that was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_answers_too_late_keeps_its_connections() -> Test {
    async fn try_at(moment: Duration) -> Test {
        let (proxy, system) = System::behind_proxy().await;
        let transport = system.builder().heartbeat(Duration::from_secs(60)).connect().await?;
        let mut other = serve(&transport, &REPO, 10).await;
        let accepted = proxy.accepted();
        let subscribing = tokio::spawn({
            let transport = transport.clone();
            async move { serve(&transport, &CTRL, 10).await }
        });
        tokio::time::sleep(moment).await;
        proxy.freeze_answers();
        tokio::time::sleep(Duration::from_secs(7)).await;
        proxy.heal();
        let mut queue = tokio::time::timeout(PATIENCE, subscribing).await??;
        for (to, queue) in [(&CTRL, &mut queue), (&REPO, &mut other)] {
            transport.send(Route::Address(&Address::from(to)), cast("x")).await?;
            next(queue).await.ack();
        }
        tokio::time::sleep(MOMENT).await;
        assert_eq!(proxy.accepted(), accepted, "{moment:?}");
        Ok(())
    }
    // Some of these are between the question and the answer.
    let moments = (0..24).map(|n| try_at(Duration::from_micros(n * 400)));
    for result in futures_util::future::join_all(moments).await {
        result?;
    }
    Ok(())
}

/// Others work on the channel of a consumer that begins when nobody waits for it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_begins_too_late_costs_no_other_its_deliveries() -> Test {
    let between = Handshake::before(Broker::shared().await, Then::GoesOn).await?;
    let system = System::at(between.url());
    let (transport, direct) = (system.connect().await, system.direct().await.connect().await);
    let instance = CTRL.at("host1")?;
    let own = Subscription::Instance { instance: instance.clone(), prefetch: 10 };
    let mut own = transport.subscribe(own).await?;
    let (to, topic) = (Address::from(&instance), "a.b".parse()?);
    direct.send(Route::Address(&to), cast("held")).await?;
    let held = next(&mut own).await;
    let group = EventGroup::new(CTRL, "group")?;
    let events = Subscription::Events { group, patterns: vec!["a.b".parse()?], prefetch: 10 };
    drop(direct.subscribe(events.clone()).await?);
    for n in 0..20 {
        let event = Message::builder(Kind::Event, "x").body(n.to_string()).build();
        direct.send(Route::Event(&topic), event).await?;
    }
    between.begin_late();
    let start = Instant::now();
    let mut events = transport.subscribe(events).await?;
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    once_each(&mut events, 20).await;
    direct.send(Route::Address(&to), cast("goes on")).await?;
    let delivery = next(&mut own).await;
    assert_eq!((text(delivery.message()).as_str(), delivery.is_redelivered()), ("goes on", false));
    // The acks of that channel are told at the end, too.
    held.ack();
    delivery.ack();
    transport.close().await;
    let own = Subscription::Instance { instance, prefetch: 10 };
    let mut own = direct.subscribe(own).await?;
    nothing(&mut own).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_is_given_up_and_done_again() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let _replies = transport.subscribe(replies(&Arc::default())?).await?;
    proxy.freeze();
    assert!(tokio::time::timeout(MOMENT, transport.close()).await.is_err());
    transport.close().await;
    assert!(tokio::time::timeout(PATIENCE, queue.next()).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_over_a_dead_link_takes_no_longer_for_many_subscriptions() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(60)).connect().await?;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(transport.subscribe(replies(&Arc::default())?).await?);
    }
    proxy.freeze();
    let start = Instant::now();
    transport.close().await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    Ok(())
}

/// lapin's task for a connection that it is told there is no link for goes on for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_leaves_no_task_behind() -> Test {
    let system = System::at("amqp://guest:guest@127.0.0.1:1/%2f".to_owned());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..100 {
        assert!(system.builder().connect().await.is_err());
    }
    eventually("they end", || tasks() <= before + 2).await;
    Ok(())
}
