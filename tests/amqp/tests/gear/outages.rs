//! Links that are cut, brokers that restart, freeze, block and come back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use gear_amqp::AmqpError;
use gear_api::{
    Address, CallError, Client, Context, Fault, Id, Node, Operation, PublishError, Route, Status,
    SubscribeError, Subscription, Timestamp, Transport,
};
use gear_test_amqp::Broker;

use crate::{
    CTRL, PATIENCE, REPO, System, Test, cast, eventually,
    handshake::{CORRUPTED, Handshake, Then},
    next, ready, serve, text,
};

const WAIT: Operation<u64, u64> = Operation::new("wait").idempotent();

async fn wait(_: Arc<()>, _: Context, ms: u64) -> Result<u64, Fault> {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(ms)
}

fn in_future(ms: u64) -> Timestamp {
    Timestamp::from(std::time::SystemTime::now()) + Duration::from_millis(ms)
}

/// Sends messages while the link is cut again and again: each is confirmed, and each arrives; those
/// that were on their way may come twice, under the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_when_the_link_is_cut_again_and_again() -> Test {
    const MESSAGES: usize = 2_000;
    let broker = Broker::shared().await;
    let proxy = Arc::new(broker.proxy().await);
    let system = System::at(proxy.url());
    let (sender, receiver) = (system.connect().await, system.connect().await);
    let mut queue = serve(&receiver, &CTRL, 50).await;
    let cutter = {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                proxy.drop_connections();
            }
        })
    };
    let to = Address::from(&CTRL);
    let sending = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let sent = sender.send(Route::Address(&to), cast(&n.to_string()));
            tokio::time::timeout(PATIENCE, sent).await.expect("in time").expect("confirmed");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        sender
    });
    let mut seen = BTreeMap::<String, u32>::new();
    while seen.len() < MESSAGES {
        let delivery = next(&mut queue).await;
        *seen.entry(text(delivery.message())).or_default() += 1;
        delivery.ack();
    }
    cutter.await?;
    sending.await?;
    // At most the window and the prefetch, for each of the cuts.
    let twice = seen.values().filter(|times| **times > 1).count();
    assert!(twice <= 5 * (50 + 1), "{twice} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_during_an_outage_waits_and_is_sent_once() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    // With one connection there is one moment at which it is noticed.
    let transport = system.builder().single_connection(true).connect().await?;
    let mut queue = serve(&transport, &CTRL, 50).await;
    proxy.cut();
    let mut status = transport.status();
    tokio::time::timeout(PATIENCE, status.wait_for(|s| *s == Status::Connecting)).await??;
    let to = Address::from(&CTRL);
    let patient = transport.send(Route::Address(&to), cast("patient"));
    let late = cast("late").to_builder().deadline(in_future(300)).build();
    let late = transport.send(Route::Address(&to), late);
    assert!(!patient.is_handed_over());
    let start = Instant::now();
    let outcome = late.await;
    assert!(matches!(outcome, Err(PublishError::NotSent(_))), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_millis(1300), "{:?}", start.elapsed());
    proxy.heal();
    tokio::time::timeout(PATIENCE, patient).await??;
    let delivery = next(&mut queue).await;
    assert_eq!(text(delivery.message()), "patient");
    assert!(!delivery.is_redelivered());
    delivery.ack();
    crate::nothing(&mut queue).await;
    Ok(())
}

/// With lapin's own recovery pending confirms resolve after the reconnect, 20 to 39 s later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_dead_without_a_word_is_noticed_by_its_heartbeat() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.builder().heartbeat(Duration::from_secs(1)).connect().await?;
    let mut queue = serve(&transport, &CTRL, 50).await;
    proxy.freeze();
    let to = Address::from(&CTRL);
    let sent = transport.send(Route::Address(&to), cast("x"));
    let mut status = transport.status();
    let start = Instant::now();
    tokio::time::timeout(PATIENCE, status.wait_for(|s| *s == Status::Connecting)).await??;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    proxy.drop_connections();
    proxy.heal();
    tokio::time::timeout(PATIENCE, sent).await??;
    next(&mut queue).await.ack();
    Ok(())
}

/// Its answer comes to the queue that the call named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_queue_stays_while_a_cluster_binds_nothing() -> Test {
    let between = Handshake::before(Broker::shared().await, Then::GoesOn).await?;
    let system = System::at(between.url());
    let direct = system.direct().await.connect().await;
    let node = Node::builder(direct, CTRL.at("host1")?).on(WAIT, wait).start().await?;
    let client = Client::builder(system.connect().await, "CLI.test".parse()?).start().await?;
    let call = client.call(CTRL, WAIT, &1_000).timeout(PATIENCE).send();
    let handled = || node.stats().operations.iter().any(|(_, count)| *count > 0);
    eventually("it is being handled", handled).await;
    between.lose_binds();
    between.change(Then::GoesOn); // ends the connections
    assert_eq!(call.await?, 1_000);
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// Whoever waits no longer leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_that_is_given_up_leaves_no_connection_to_a_silent_broker() -> Test {
    let silent = Handshake::before(Broker::shared().await, Then::IsSilent).await?;
    let system = System::at(silent.url());
    let connecting = system.builder().heartbeat(Duration::from_secs(60)).connect();
    let given_up = tokio::time::timeout(Duration::from_secs(1), connecting).await;
    assert!(given_up.is_err(), "{given_up:?}");
    assert_eq!((silent.accepted(), silent.open()), (2, 2), "it had begun");
    eventually("they end", || silent.open() == 0).await;
    Ok(())
}

/// A foreign program may send it, and the broker passes it on. lapin ends the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_can_not_be_read_is_delivered_once_it_can() -> Test {
    let between = Handshake::before(Broker::shared().await, Then::GoesOn).await?;
    let system = System::at(between.url());
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let sender = system.direct().await.connect().await;
    let accepted = between.accepted();
    between.corrupt(true);
    let message = cast("x").to_builder().correlation(Id::from(CORRUPTED)).build();
    sender.send(Route::Address(&Address::from(&CTRL)), message).await?;
    eventually("it comes with the next connection, too", || between.accepted() > accepted + 1)
        .await;
    between.corrupt(false);
    let delivery = next(&mut queue).await;
    assert_eq!((text(delivery.message()).as_str(), delivery.is_redelivered()), ("x", true));
    delivery.ack();
    Ok(())
}

/// Behind a load balancer whose broker is ill, for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_accepts_and_closes_is_tried_with_growing_pauses() -> Test {
    let broker = Broker::shared().await;
    let ill = Handshake::before(broker, Then::GoesOn).await?;
    let system = System::at(ill.url());
    let transport = system.builder().single_connection(true).connect().await?;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let start = Instant::now();
    ill.change(Then::IsClosed);
    let before = ill.accepted();
    eventually("it is tried", || ill.accepted() >= before + 8).await;
    // Half of 50, 100, 200, 400, 800, 1600 and twice 2000 ms at least.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(3_575), "8 tries in {elapsed:?}");
    ill.change(Then::GoesOn);
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_accepts_and_closes_is_left_for_another() -> Test {
    let broker = Broker::shared().await;
    let ill = Handshake::before(broker, Then::IsClosed).await?;
    let proxy = broker.proxy().await;
    let system = System::at(proxy.url());
    let builder = system.builder().single_connection(true).url(&ill.url())?;
    let transport = builder.connect().await?;
    let mut queue = serve(&transport, &CTRL, 1).await;
    // The good one is away for a moment.
    proxy.cut();
    eventually("the ill one is tried", || ill.accepted() > 0).await;
    proxy.heal();
    transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
    next(&mut queue).await.ack();
    Ok(())
}

/// As a node does that is cut off from its cluster: no exchange can be declared there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_a_broker_that_answers_nothing_goes_on_at_the_next() -> Test {
    let broker = Broker::shared().await;
    let silent = Handshake::before(broker, Then::IsSilent).await?;
    // It begins with either of them.
    for _ in 0..4 {
        let system = System::at(silent.url());
        let builder = system.builder().url(&broker.url())?.connect_timeout(STARTING);
        let start = Instant::now();
        let transport = builder.connect().await?;
        assert!(start.elapsed() < 3 * STARTING, "{:?}", start.elapsed());
        let mut queue = serve(&transport, &CTRL, 1).await;
        transport.send(Route::Address(&Address::from(&CTRL)), cast("x")).await?;
        next(&mut queue).await.ack();
    }
    let start = Instant::now();
    let alone = System::at(silent.url()).builder().connect_timeout(STARTING).connect().await;
    let error = alone.expect_err("there is no other");
    assert!(matches!(error, AmqpError::Silent { .. }), "{error:?}");
    assert!(start.elapsed() < 3 * STARTING, "{:?}", start.elapsed());
    Ok(())
}

const STARTING: Duration = Duration::from_secs(2);

/// A reply queue that does not answer is left for another one, but not because its broker is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_arrives_although_the_broker_said_nothing_for_a_while() -> Test {
    const ASK: Operation<(), ()> = Operation::new("ask");
    type Gate = [tokio::sync::Semaphore; 2];
    async fn ask(gate: Arc<Gate>, _: Context, (): ()) -> Result<(), Fault> {
        gate[0].add_permits(1);
        gate[1].acquire().await?.forget();
        Ok(())
    }
    let broker = Broker::shared().await;
    let slow = Handshake::before(broker, Then::GoesOn).await?;
    let system = System::at(slow.url());
    let direct = system.direct().await;
    let gate: Arc<Gate> = Arc::new([0; 2].map(tokio::sync::Semaphore::new));
    let node = Node::builder(direct.connect().await, CTRL.at("host1")?).state(Arc::clone(&gate));
    let node = node.on(ASK, ask).start().await?;
    let transport = system.connect().await;
    let client = Client::builder(transport.clone(), "CLI.test".parse()?).start().await?;
    let call = client.call(CTRL, ASK, &()).timeout(4 * PATIENCE);
    let call = tokio::spawn(call.into_future());
    gate[0].acquire().await?.forget();
    let before = slow.accepted();
    slow.change(Then::IsSilent);
    // Publishing gives a connection up after 10 s: consuming has tried again by then.
    eventually("it has tried for long", || slow.accepted() >= before + 4).await;
    slow.change(Then::GoesOn);
    ready(&transport).await;
    gate[1].add_permits(1);
    call.await??;
    node.shutdown(PATIENCE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_end_once_when_the_broker_restarts() -> Test {
    let broker = Broker::private().await;
    let system = System::on(&broker);
    let node =
        Node::builder(system.connect().await, CTRL.at("host1")?).on(WAIT, wait).start().await?;
    let client = Client::builder(system.connect().await, "CLI.test".parse()?).start().await?;
    let ended = Arc::new(AtomicU32::new(0));
    let mut calls = Vec::new();
    for n in 0..50u64 {
        let (client, ended) = (client.clone(), Arc::clone(&ended));
        calls.push(tokio::spawn(async move {
            let start = Instant::now();
            let timeout = Duration::from_secs(20);
            let answer = client.call(CTRL, WAIT, &(n * 20)).timeout(timeout).await;
            ended.fetch_add(1, Ordering::Relaxed);
            // How exactly is asked in virtual time.
            assert!(start.elapsed() < timeout + Duration::from_secs(2));
            answer
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    broker.kill().await;
    broker.start().await;
    for call in calls {
        match call.await? {
            Ok(_) | Err(CallError::DeadlinePassed) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(ended.load(Ordering::Relaxed), 50);
    assert_eq!(client.call(CTRL, WAIT, &1).timeout(PATIENCE).await?, 1);
    node.shutdown(PATIENCE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_is_back_within_5_s_of_the_broker() -> Test {
    let broker = Broker::private().await;
    let system = System::on(&broker);
    let node =
        Node::builder(system.connect().await, CTRL.at("host1")?).on(WAIT, wait).start().await?;
    let client = Client::builder(system.connect().await, "CLI.test".parse()?).start().await?;
    broker.stop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.start().await;
    let start = Instant::now();
    loop {
        let answer = client.call(CTRL, WAIT, &0).timeout(Duration::from_secs(1)).await;
        if answer.is_ok() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{answer:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    broker.close_all_connections().await;
    let again = client.call(CTRL, WAIT, &0).timeout(PATIENCE).await;
    assert!(matches!(again, Ok(0) | Err(CallError::DeadlinePassed)), "{again:?}");
    assert_eq!(client.call(CTRL, WAIT, &0).timeout(PATIENCE).await?, 0);
    node.shutdown(PATIENCE).await;
    Ok(())
}

/// On one connection acks would hang as long as the alarm lasts, and close for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_blocks_publishers_says_so_and_consuming_goes_on() -> Test {
    let broker = Broker::private().await;
    let system = System::on(&broker);
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    let to = Address::from(&CTRL);
    for n in 0..5 {
        transport.send(Route::Address(&to), cast(&n.to_string())).await?;
    }
    broker.raise_alarm().await;
    // The broker says so to those that publish.
    let nudge = transport.send(Route::Address(&to), cast("nudge"));
    let mut status = transport.status();
    let blocked = status.wait_for(|status| matches!(status, Status::Blocked(_)));
    tokio::time::timeout(PATIENCE, blocked).await??;
    let late = cast("late").to_builder().deadline(in_future(300)).build();
    let outcome = transport.send(Route::Address(&to), late).await;
    assert!(matches!(outcome, Err(PublishError::NotSent(_))), "{outcome:?}");
    let waits = transport.send(Route::Address(&to), cast("waits"));
    assert!(!waits.is_handed_over());
    // Whether the holder of a name lives is asked by a message, too.
    let own = || Subscription::Instance { instance: REPO.at("host1").expect("valid"), prefetch: 1 };
    let holder = system.connect().await;
    let _held = holder.subscribe(own()).await?;
    let asking = tokio::spawn({
        let transport = transport.clone();
        async move { transport.subscribe(own()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    // With a prefetch of 1 each needs the ack of the one before.
    let start = Instant::now();
    for n in 0..5 {
        let delivery = next(&mut queue).await;
        assert_eq!(text(delivery.message()), n.to_string());
        delivery.ack();
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    broker.clear_alarm().await;
    ready(&transport).await;
    tokio::time::timeout(PATIENCE, nudge).await??;
    tokio::time::timeout(PATIENCE, waits).await??;
    let in_use = tokio::time::timeout(PATIENCE, asking).await??;
    assert!(matches!(in_use, Err(SubscribeError::NameInUse(_))), "{in_use:?}");
    let start = Instant::now();
    transport.close().await;
    assert!(start.elapsed() < Duration::from_secs(5));
    Ok(())
}

/// The broker reads nothing then, so it answers nothing, and is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_while_a_delay_is_declared_costs_no_connection() -> Test {
    let broker = Broker::private().await;
    let proxy = broker.proxy().await;
    let system = System::at(proxy.url());
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let accepted = proxy.accepted();
    broker.raise_alarm().await;
    let sent = transport.send(Route::Address(&Address::from(&CTRL)), cast("at once"));
    let route =
        Route::Delayed { delay: Duration::from_millis(50), jitter: Duration::ZERO, queue: "CTRL" };
    let delayed = transport.send(route, cast("later"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(proxy.accepted(), accepted, "over the connections that there were");
    broker.clear_alarm().await;
    tokio::time::timeout(PATIENCE, sent).await??;
    tokio::time::timeout(PATIENCE, delayed).await??;
    for expected in ["at once", "later"] {
        let delivery = next(&mut queue).await;
        assert_eq!(text(delivery.message()), expected);
        delivery.ack();
    }
    assert_eq!(proxy.accepted(), accepted, "over the connections that there were");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_the_broker_is_away_takes_no_time() -> Test {
    let (proxy, system) = System::behind_proxy().await;
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 1).await;
    proxy.freeze();
    let waits = transport.send(Route::Address(&Address::from(&CTRL)), cast("x"));
    let start = Instant::now();
    transport.close().await;
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(matches!(waits.await, Err(PublishError::Unknown(_) | PublishError::Closed)));
    assert!(queue.next().await.is_none());
    Ok(())
}

/// As a cluster with Mnesia is after it has lost sight of a node, until `net_ticktime` is over: its other
/// nodes can not write what is bound where, and route by what they know. With Khepri (4.3) nothing is in
/// the way here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_binds_nothing_for_a_while_is_used_all_the_same() -> Test {
    const BUSY: Duration = Duration::from_secs(20);
    let broker = Broker::private().await;
    let proxy = broker.proxy().await;
    let system = System::at(proxy.url());
    let transport = system.connect().await;
    let mut queue = serve(&transport, &CTRL, 10).await;
    let lock = format!(
        "spawn(fun() -> mnesia:transaction(fun() -> mnesia:write_lock_table(rabbit_route), \
         receive after {} -> ok end end) end).",
        BUSY.as_millis()
    );
    broker.ctl(&["eval", &lock]).await?;
    let start = Instant::now();
    proxy.drop_connections();
    transport.send(Route::Address(&Address::from(&CTRL)), cast("all the same")).await?;
    let delivery = next(&mut queue).await;
    assert_eq!(text(delivery.message()), "all the same");
    delivery.ack();
    assert!(start.elapsed() < BUSY, "{:?}", start.elapsed());
    transport.close().await;
    Ok(())
}
