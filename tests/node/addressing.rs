//! The four ways to address, and the two ways to answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gear::{
    Address, CallError, Context, Fault, Node, RemoteError,
    memory::{BrokerFault, MemoryBroker},
};

use crate::{CTRL, ECHO, Log, NOTE, REPO, Test, WEB, WHO, broker, client, node, note, who};

/// Two instances of CTRL, two of REPO, one of WEB, all noting what they get.
async fn five(broker: &MemoryBroker, log: &Log) -> Result<Vec<Node>, gear::StartError> {
    let mut nodes = Vec::new();
    for (service, host) in
        [(&CTRL, "host1"), (&CTRL, "host2"), (&REPO, "host1"), (&REPO, "host2"), (&WEB, "host1")]
    {
        let started = node(broker, service, host)
            .on(WHO, who)
            .state(log.clone())
            .on(NOTE, note)
            .start()
            .await?;
        nodes.push(started);
    }
    Ok(nodes)
}

#[tokio::test(start_paused = true)]
async fn a_service_is_one_instance_in_turn() -> Test {
    let broker = broker();
    let _nodes = five(&broker, &Log::default()).await?;
    let client = client(&broker).await;
    let mut answers = BTreeMap::new();
    for _ in 0..10 {
        *answers.entry(client.call(CTRL, WHO, &()).await?).or_insert(0) += 1;
    }
    assert_eq!(answers, [("CTRL.host1".into(), 5), ("CTRL.host2".into(), 5)].into());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_that_one_and_nobody_else() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _nodes = five(&broker, &log).await?;
    let client = client(&broker).await;
    for _ in 0..3 {
        client.cast(REPO.at("host2")?, NOTE, &"x".into()).await?;
    }
    broker.idle().await;
    assert_eq!(log.take(), ["REPO.host2 REPO.host2 x"; 3]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_multicast_is_every_instance_of_the_service_once() -> Test {
    let (broker, log) = (broker(), Log::default());
    let _nodes = five(&broker, &log).await?;
    client(&broker).await.cast(CTRL.all(), NOTE, &"x".into()).await?;
    broker.idle().await;
    assert_eq!(log.sorted(), ["CTRL.host1 CTRL.* x", "CTRL.host2 CTRL.* x"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_is_everybody_once_and_the_sender_too() -> Test {
    let (broker, log) = (broker(), Log::default());
    let nodes = five(&broker, &log).await?;
    nodes[4].client().cast(Address::Broadcast, NOTE, &"x".into()).await?;
    broker.idle().await;
    let everybody = ["CTRL.host1", "CTRL.host2", "REPO.host1", "REPO.host2", "WEB.host1"];
    assert_eq!(log.sorted(), everybody.map(|instance| format!("{instance} *.* x")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_not_routed_for_each_form() -> Test {
    let broker = broker();
    let client = client(&broker).await;
    for to in ["GONE", "GONE.host1", "GONE.*", "*.*"] {
        let to: Address = to.parse()?;
        let call = client.call(&to, WHO, &()).await;
        assert!(matches!(call, Err(CallError::NotRouted)), "{to}: {call:?}");
        let cast = client.cast(&to, NOTE, &"x".into()).await;
        assert!(matches!(cast, Err(gear::CastError::NotRouted)), "{to}: {cast:?}");
        let gather = client.gather(&to, WHO, &()).await;
        assert!(matches!(gather, Err(CallError::NotRouted)), "{to}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn host_names_may_have_dots() -> Test {
    let broker = broker();
    let _node = node(&broker, &REPO, "db-1.eu.example.com").on(WHO, who).start().await?;
    let client = client(&broker).await;
    let exact = "REPO.db-1.eu.example.com";
    assert_eq!(client.call(exact.parse::<Address>()?, WHO, &()).await?, exact);
    assert_eq!(client.call(REPO.all(), WHO, &()).await?, exact);
    assert_eq!(client.call(Address::Broadcast, WHO, &()).await?, exact);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_to_the_instance_that_asked() -> Test {
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, echo).start().await?;
    // Two clients of one name: the ids of their calls may meet, their queues do not.
    let (a, b) = (client(&broker).await, client(&broker).await);
    let (from_a, from_b) = tokio::join!(
        a.call(CTRL, ECHO, &"a".into()).send(),
        b.call(CTRL, ECHO, &"b".into()).send(),
    );
    assert_eq!((from_a?, from_b?), ("a".into(), "b".into()));
    assert_eq!((a.stats().late_replies, b.stats().late_replies), (0, 0));
    Ok(())
}

async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    if text == "fail" { Err(Fault::new("told-to", "it was told to fail")) } else { Ok(text) }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_service_goes_to_the_reply_handler_of_any_instance() -> Test {
    async fn answered(
        log: Arc<Log>,
        cx: Context,
        answer: Result<String, RemoteError>,
    ) -> Result<(), Fault> {
        let answer = answer.unwrap_or_else(|error| error.code);
        log.add(format!("{} {answer} from {}", cx.instance(), cx.message().sender()));
        Ok(())
    }
    let (broker, log) = (broker(), Log::default());
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, echo).start().await?;
    let mut webs = Vec::new();
    for host in ["host1", "host2"] {
        let web = node(&broker, &WEB, host).state(log.clone()).on_reply(ECHO, answered);
        webs.push(web.start().await?);
    }
    for text in ["one", "fail"] {
        webs[0].client().call(CTRL, ECHO, &text.into()).reply_to(&WEB).await?;
    }
    broker.idle().await;
    // Round-robin: the two answers went to the two instances.
    assert_eq!(
        log.sorted(),
        ["WEB.host1 one from CTRL.host1", "WEB.host2 told-to from CTRL.host1"]
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_handler_takes_is_counted_and_gone() -> Test {
    let broker = broker();
    let _ctrl = node(&broker, &CTRL, "host1").on(ECHO, echo).start().await?;
    let web = node(&broker, &WEB, "host1").start().await?;
    web.client().call(CTRL, ECHO, &"x".into()).reply_to(&WEB).await?;
    broker.idle().await;
    assert_eq!(web.stats().unknown, 1);
    assert_eq!(broker.queue("WEB:dead").map(|queue| queue.ready), Some(0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gather_ends_when_all_have_answered_or_names_who_has_not() -> Test {
    let broker = broker();
    let _nodes = five(&broker, &Log::default()).await?;
    let client = client(&broker).await;
    let repos = [REPO.at("host1")?, REPO.at("host2")?];

    let start = tokio::time::Instant::now();
    let mut answers = client.gather(REPO.all(), WHO, &()).expect(repos.clone()).await?;
    let mut names = Vec::new();
    while let Some(answer) = answers.next().await {
        let name = answer.result?;
        assert_eq!(answer.from, Some(name.parse()?));
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["REPO.host1", "REPO.host2"]);
    assert_eq!(answers.missing().len(), 0);
    assert_eq!(start.elapsed(), Duration::ZERO, "it did not wait for the deadline");

    let absent = REPO.at("host3")?;
    let expected = repos.into_iter().chain([absent.clone()]);
    let gather = client.gather(REPO.all(), WHO, &()).expect(expected);
    let mut answers = gather.timeout(Duration::from_secs(3)).await?;
    let mut heard = 0;
    while answers.next().await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, 2);
    assert_eq!(answers.missing().collect::<Vec<_>>(), [&absent]);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gather_hears_each_instance_once_and_failures_too() -> Test {
    let broker = broker();
    let _ok = node(&broker, &REPO, "host1").on(ECHO, echo).start().await?;
    let _strange = node(&broker, &REPO, "host2").start().await?;
    broker.inject(BrokerFault::Duplicate);
    let client = client(&broker).await;
    let gather = client.gather(REPO.all(), ECHO, &"x".into()).timeout(Duration::from_secs(1));
    let mut answers = gather.await?;
    let mut heard = BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let from = answer.from.expect("Gear says who answers").to_string();
        let result = answer.result.map_err(|error| error.code().unwrap_or("?").to_owned());
        assert!(heard.insert(from, result).is_none());
    }
    let expected = [
        ("REPO.host1".to_owned(), Ok("x".to_owned())),
        ("REPO.host2".to_owned(), Err("unknown-operation".to_owned())),
    ];
    assert_eq!(heard, expected.into());
    Ok(())
}
