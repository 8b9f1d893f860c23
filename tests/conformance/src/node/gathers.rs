//! One request to many, with an answer from each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gear_api::{Context, Fault, Kind, Message, Node, Route};
use tokio::time::Instant;

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "node-gathers";
    it_ends_when_all_have_answered: "and does not wait for its deadline",
    it_names_who_has_not_answered: "at its deadline",
    it_hears_failures_too: "a failure is an answer",
    it_hears_each_instance_once: "an instance that answers twice is heard once",
}

async fn repos(world: &World) -> Test<Vec<Node>> {
    let mut nodes = Vec::new();
    for host in ["host1", "host2"] {
        nodes.push(world.node(&REPO, host).await?.on(WHO, who).start().await?);
    }
    Ok(nodes)
}

async fn it_ends_when_all_have_answered(world: World) -> Test {
    let _nodes = repos(&world).await?;
    let client = world.client().await?;
    let start = Instant::now();
    let gather = client.gather(REPO.all(), WHO, &());
    let mut answers = gather.expect([REPO.at("host1")?, REPO.at("host2")?]).timeout(LONG).await?;
    let mut names = Vec::new();
    while let Some(answer) = answers.next().await {
        let name = answer.result?;
        assert_eq!(answer.from, Some(name.parse()?));
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["REPO.host1", "REPO.host2"]);
    assert_eq!(answers.missing().len(), 0);
    world.took(start, Duration::ZERO);
    Ok(())
}

async fn it_names_who_has_not_answered(world: World) -> Test {
    let _nodes = repos(&world).await?;
    let client = world.client().await?;
    let start = Instant::now();
    let absent = REPO.at("host3")?;
    let expected = [REPO.at("host1")?, REPO.at("host2")?, absent.clone()];
    let gather = client.gather(REPO.all(), WHO, &()).expect(expected);
    let mut answers = gather.timeout(ms(2000)).await?;
    let mut heard = 0;
    while answers.next().await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, 2);
    assert_eq!(answers.missing().collect::<Vec<_>>(), [&absent]);
    world.took(start, ms(2000));
    Ok(())
}

async fn it_hears_failures_too(world: World) -> Test {
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    let _ok = world.node(&REPO, "host1").await?.on(ECHO, echo).start().await?;
    let _strange = world.node(&REPO, "host2").await?.start().await?;
    let client = world.client().await?;
    let both = [REPO.at("host1")?, REPO.at("host2")?];
    let mut answers = client.gather(REPO.all(), ECHO, &"x".into()).expect(both).await?;
    let mut heard = BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let from = answer.from.expect("Gear says who answers").to_string();
        let result = answer.result.map_err(|error| error.code().unwrap_or("?").to_owned());
        heard.insert(from, result);
    }
    let expected = [
        ("REPO.host1".to_owned(), Ok("x".to_owned())),
        ("REPO.host2".to_owned(), Err("unknown-operation".to_owned())),
    ];
    assert_eq!(heard, expected.into());
    Ok(())
}

async fn it_hears_each_instance_once(world: World) -> Test {
    let stutterer = world.connect().await?;
    let mut queue = join(&*stutterer, "REPO.host1").await?;
    let client = world.client().await?;
    let gather = client.gather(REPO.all(), WHO, &()).timeout(ms(2000)).into_future();
    let gather = tokio::spawn(gather);
    let request = next(&mut queue).await;
    let answer = Message::builder(Kind::Reply, "who")
        .sender("REPO.host1")
        .correlation(request.message().correlation().cloned())
        .body("\"me\"")
        .build();
    let to = request.message().reply_to().ok_or("it wants no answer")?.clone();
    for _ in 0..2 {
        stutterer.send(Route::Reply(&to), answer.clone()).await?;
    }
    request.ack();
    let mut answers = gather.await??;
    let mut heard = Vec::new();
    while let Some(answer) = answers.next().await {
        heard.push(answer.result?);
    }
    assert_eq!(heard, ["me"]);
    Ok(())
}
