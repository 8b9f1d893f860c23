//! Links that are cut while the broker's confirms are on their way.

use std::{collections::BTreeMap, time::Duration};

use gear_amqp::AmqpTransport;
use gear_api::{Address, Consumer, Message, Publish, PublishError, Route, Timestamp, Transport};
use gear_test_amqp::{Broker, Proxy, unique_system};

use crate::{CTRL, PATIENCE, System, Test, cast, next, nothing, serve, text};

/// How often each message came, by its id.
#[derive(Default)]
struct Copies(BTreeMap<String, usize>);

impl Copies {
    /// The sender's copies are news to the broker: no flag tells them from others, only their id.
    fn take(&mut self, message: &Message, is_redelivered: bool) {
        let id = message.id().expect("it was set").to_string();
        assert_eq!(text(message), id, "one id, one message");
        assert!(!is_redelivered && message.attempt() == 0, "{id} was given back by nobody");
        *self.0.entry(id).or_default() += 1;
    }

    fn of(&self, round: usize) -> impl Iterator<Item = usize> {
        let round = format!("{round}-");
        self.0.iter().filter(move |(id, _)| id.starts_with(&round)).map(|(_, copies)| *copies)
    }
}

struct Scene {
    proxy: Proxy,
    sender: AmqpTransport,
    /// Its link is never cut.
    queue: Consumer,
    _receiver: AmqpTransport,
    /// Without the proxy.
    direct: System,
    copies: Copies,
}

impl Scene {
    async fn new() -> Self {
        let (proxy, system) = System::behind_proxy().await;
        let sender = system.connect().await;
        let direct = system.direct().await;
        let receiver = direct.connect().await;
        let queue = serve(&receiver, &CTRL, 1_000).await;
        Self { proxy, sender, queue, _receiver: receiver, direct, copies: Copies::default() }
    }

    fn send(&self, round: usize, count: usize) -> Vec<Publish> {
        let to = Address::from(&CTRL);
        let message = |n| cast(&format!("{round}-{n}"));
        (0..count).map(|n| self.sender.send(Route::Address(&to), message(n))).collect()
    }

    async fn receive(&mut self, count: usize) {
        for _ in 0..count {
            let delivery = next(&mut self.queue).await;
            self.copies.take(delivery.message(), delivery.is_redelivered());
            delivery.ack();
        }
    }

    /// All that was confirmed before this is called.
    async fn receive_all(&mut self) -> Test {
        self.sender.send(Route::Address(&Address::from(&CTRL)), cast("end")).await?;
        loop {
            let delivery = next(&mut self.queue).await;
            let is_end = text(delivery.message()) == "end";
            if !is_end {
                self.copies.take(delivery.message(), delivery.is_redelivered());
            }
            delivery.ack();
            if is_end {
                return Ok(());
            }
        }
    }
}

async fn all_confirmed(sent: Vec<Publish>) -> Test {
    for publish in sent {
        tokio::time::timeout(PATIENCE, publish).await??;
    }
    Ok(())
}

const IN_FLIGHT: usize = 400;

/// The broker has them, and the sender can not know: each comes once more, under its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_are_unconfirmed_at_a_cut_come_exactly_twice() -> Test {
    let mut scene = Scene::new().await;
    for round in (0..10).step_by(2) {
        let confirmed = scene.send(round, 100);
        all_confirmed(confirmed).await?;
        scene.receive(100).await;
        scene.proxy.freeze_answers();
        let unconfirmed = scene.send(round + 1, IN_FLIGHT);
        scene.receive(IN_FLIGHT).await;
        scene.proxy.drop_connections();
        scene.proxy.heal();
        all_confirmed(unconfirmed).await?;
        scene.receive_all().await?;
        assert!(scene.copies.of(round).eq([1; 100]), "what was confirmed is not sent again");
        assert!(scene.copies.of(round + 1).eq([2; IN_FLIGHT]), "{:?}", scene.copies.0);
    }
    nothing(&mut scene.queue).await;
    Ok(())
}

/// Wherever the cut falls: in front of some, between the confirms of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_in_flight_are_confirmed_after_a_cut_and_come_twice_at_most() -> Test {
    let mut scene = Scene::new().await;
    for round in 0..10 {
        let sent = scene.send(round, IN_FLIGHT);
        // The broker is somewhere in the middle.
        scene.receive(round * IN_FLIGHT / 20).await;
        scene.proxy.drop_connections();
        all_confirmed(sent).await?;
        scene.receive_all().await?;
        assert_eq!(scene.copies.of(round).count(), IN_FLIGHT, "round {round}: none is lost");
        assert!(scene.copies.of(round).all(|copies| copies <= 2), "{:?}", scene.copies.0);
    }
    nothing(&mut scene.queue).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_was_not_confirmed_in_time_nobody_knows_whether_it_arrived() -> Test {
    let mut scene = Scene::new().await;
    scene.proxy.freeze_answers();
    let to = Address::from(&CTRL);
    let soon = Timestamp::from(std::time::SystemTime::now()) + Duration::from_millis(1_500);
    let message = cast("0-0").to_builder().deadline(soon).build();
    let outcome = scene.sender.send(Route::Address(&to), message).await;
    assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    assert!(outcome.is_err_and(|error| error.may_have_arrived()));
    // It did; and its confirm, which comes late, is nobody else's.
    scene.receive(1).await;
    let next = scene.send(1, 1);
    scene.proxy.heal();
    all_confirmed(next).await?;
    // What nobody waits for any more is not sent again with the next connection.
    scene.proxy.freeze_answers();
    let soon = Timestamp::from(std::time::SystemTime::now()) + Duration::from_millis(1_500);
    let message = cast("2-0").to_builder().deadline(soon).build();
    let outcome = scene.sender.send(Route::Address(&to), message).await;
    assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    scene.proxy.drop_connections();
    scene.proxy.heal();
    scene.receive_all().await?;
    for round in 0..3 {
        assert!(scene.copies.of(round).eq([1]), "{:?}", scene.copies.0);
    }
    nothing(&mut scene.queue).await;
    Ok(())
}

/// It was handled, and the queue was gone when it was sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_nobody_was_there_for_the_second_time_nobody_knows_either() -> Test {
    let mut scene = Scene::new().await;
    scene.proxy.freeze_answers();
    let sent = scene.send(0, 1).remove(0);
    scene.receive(1).await;
    scene.queue.stop();
    assert!(scene.queue.next().await.is_none());
    let (_connection, channel) = scene.direct.foreign().await?;
    let queue = scene.direct.on_broker(CTRL.as_str());
    channel.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await?;
    scene.proxy.drop_connections();
    scene.proxy.heal();
    let outcome = tokio::time::timeout(PATIENCE, sent).await?;
    assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    // What was not sent before is known not to be there.
    let outcome = scene.send(1, 1).remove(0).await;
    assert_eq!(outcome, Err(PublishError::NotRouted));
    Ok(())
}

/// It was handled, and its sender may not write any more when it is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_the_second_time_may_have_arrived_the_first_time() -> Test {
    let broker = Broker::shared().await;
    let user = unique_system();
    broker.add_user(&user, "secret").await;
    let proxy = broker.proxy().await;
    let name = unique_system();
    let of_user = |url: String| url.replace("guest:guest", &format!("{user}:secret"));
    let system = System { url: of_user(proxy.url()), name };
    let sender = system.connect().await;
    let receiver = system.direct().await.connect().await;
    let mut queue = serve(&receiver, &CTRL, 10).await;
    let to = Address::from(&CTRL);
    sender.send(Route::Address(&to), cast("before")).await?;
    next(&mut queue).await.ack();
    proxy.freeze_answers();
    let sent = sender.send(Route::Address(&to), cast("handled"));
    assert_eq!(text(next(&mut queue).await.message()), "handled");
    // What joining needs, and no more.
    let joins = r#"{"configure":".*","write":"gear\\.cast$","read":".*"}"#;
    broker.api("PUT", &format!("/api/permissions/%2f/{user}"), Some(joins)).await?;
    proxy.drop_connections();
    proxy.heal();
    let outcome = tokio::time::timeout(PATIENCE, sent).await?;
    assert!(matches!(&outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    // What was not sent before is known not to be there.
    let outcome = sender.send(Route::Address(&to), cast("refused")).await;
    assert!(matches!(&outcome, Err(PublishError::Refused(_))), "{outcome:?}");
    broker.api("DELETE", &format!("/api/users/{user}"), None).await?;
    Ok(())
}
