//! Events: groups, their patterns, and one copy for each group.

use gear_api::{Pattern, Route, Topic};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::World,
};

suite! { "events";
    every_group_gets_one_copy(events): "and one of its members takes it",
    the_members_of_a_group_take_turns(events): "one event after another",
    patterns_select_as_they_say(events): "`*` is one word, `#` any number, case counts",
    patterns_that_overlap_make_one_copy(events): "in one group",
    a_group_that_is_away_keeps_its_events(events): "until somebody of it comes back",
    the_patterns_of_earlier_members_stay(events): "bindings are additive",
    events_and_addresses_do_not_mix(events): "a topic may be called as a service is",
    groups_of_one_name_in_two_services_are_two(events): "each gets its copy",
    the_topic_arrives_as_the_key(events): "and the longest that is allowed does, too",
}

async fn every_group_gets_one_copy(world: World) -> Test {
    let web = world.connect().await?;
    let mut bills = listen(&*world.connect().await?, "bills", &["orders.#"]).await?;
    let mut stock = listen(&*world.connect().await?, "stock", &["orders.*.placed"]).await?;
    let mut mail = listen(&*world.connect().await?, "mail", &["users.#"]).await?;
    event(&*web, "orders.eu.placed", "1").await?;
    event(&*web, "orders.eu.sent", "2").await?;
    let taken = take_each(&world, [(&mut bills, 2), (&mut stock, 1), (&mut mail, 0)]).await;
    assert_eq!(taken, [vec!["1", "2"], vec!["1"], vec![]]);
    Ok(())
}

async fn the_members_of_a_group_take_turns(world: World) -> Test {
    let web = world.connect().await?;
    let mut one = listen(&*world.connect().await?, "g", &["t"]).await?;
    let mut two = listen(&*world.connect().await?, "g", &["t"]).await?;
    let mut counts = [0, 0];
    for n in 0..6 {
        event(&*web, "t", &n.to_string()).await?;
        let (who, delivery) = tokio::select! {
            biased;
            delivery = next(&mut one) => (0, delivery),
            delivery = next(&mut two) => (1, delivery),
        };
        counts[who] += 1;
        delivery.ack();
    }
    assert_eq!(counts, [3, 3]);
    world.quiet().await;
    assert!(take_ready(&mut one).is_empty() && take_ready(&mut two).is_empty());
    Ok(())
}

async fn patterns_select_as_they_say(world: World) -> Test {
    const TOPICS: [&str; 9] =
        ["a", "a.b", "a.b.c", "A.b", "b.a", "a.b.c.d", "a-b", "x.a.b.y", "a.c.b"];
    const PATTERNS: [&str; 9] = ["a", "a.*", "a.#", "#", "*", "#.b", "*.b", "#.a.b.#", "a.#.b"];
    let web = world.connect().await?;
    let mut groups = Vec::new();
    for (n, pattern) in PATTERNS.into_iter().enumerate() {
        groups.push(listen(&*web, &format!("g{n}"), &[pattern]).await?);
    }
    for topic in TOPICS {
        event(&*web, topic, topic).await?;
    }
    let expected = PATTERNS.map(|pattern| {
        let pattern = Pattern::new(pattern);
        TOPICS.into_iter().filter(|topic| pattern.matches(topic)).collect::<Vec<_>>()
    });
    let counts = expected.iter().map(Vec::len);
    let taken = take_each(&world, groups.iter_mut().zip(counts).collect::<Vec<_>>()).await;
    for ((pattern, taken), expected) in PATTERNS.into_iter().zip(taken).zip(expected) {
        assert_eq!(taken, expected, "{pattern}");
    }
    Ok(())
}

async fn patterns_that_overlap_make_one_copy(world: World) -> Test {
    let web = world.connect().await?;
    let mut group = listen(&*world.connect().await?, "g", &["a.b", "a.*", "a.#", "#"]).await?;
    event(&*web, "a.b", "m").await?;
    assert_eq!(take_all(&world, &mut group, 1).await, ["m"]);
    Ok(())
}

async fn a_group_that_is_away_keeps_its_events(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    drop(listen(&*ctrl, "g", &["t"]).await?);
    ctrl.close().await;
    event(&*web, "t", "m").await?;
    let mut back = listen(&*world.connect().await?, "g", &["t"]).await?;
    assert_eq!(take_all(&world, &mut back, 1).await, ["m"]);
    Ok(())
}

async fn the_patterns_of_earlier_members_stay(world: World) -> Test {
    let web = world.connect().await?;
    drop(listen(&*web, "g", &["a"]).await?);
    let mut group = listen(&*world.connect().await?, "g", &["b"]).await?;
    for topic in ["a", "b", "c"] {
        event(&*web, topic, topic).await?;
    }
    assert_eq!(take_all(&world, &mut group, 2).await, ["a", "b"]);
    Ok(())
}

async fn events_and_addresses_do_not_mix(world: World) -> Test {
    let web = world.connect().await?;
    let mut group = listen(&*web, "g", &["#"]).await?;
    let mut service = serve(&*web, 10).await?;
    event(&*web, "CTRL", "event").await?;
    send(&*web, "CTRL", "cast").await?;
    let taken = take_each(&world, [(&mut group, 1), (&mut service, 1)]).await;
    assert_eq!(taken, [["event"], ["cast"]]);
    Ok(())
}

async fn groups_of_one_name_in_two_services_are_two(world: World) -> Test {
    let web = world.connect().await?;
    let mut both = Vec::new();
    for service in [CTRL, REPO] {
        let group = gear_api::EventGroup::new(service, "g")?;
        let patterns = vec![Pattern::new("t")];
        let subscription = gear_api::Subscription::Events { group, patterns, prefetch: 10 };
        both.push(web.subscribe(subscription).await?);
    }
    event(&*web, "t", "m").await?;
    let taken = take_each(&world, both.iter_mut().map(|one| (one, 1)).collect::<Vec<_>>()).await;
    assert_eq!(taken, [["m"], ["m"]]);
    Ok(())
}

async fn the_topic_arrives_as_the_key(world: World) -> Test {
    let web = world.connect().await?;
    let mut group = listen(&*web, "g", &["#"]).await?;
    let longest = format!("{}.é", "w".repeat(252));
    for topic in ["a", "orders.eu.placed", "слово.词", &longest] {
        let topic: Topic = topic.parse()?;
        web.send(Route::Event(&topic), message("m")).await?;
        let delivery = next(&mut group).await;
        assert_eq!(delivery.key().as_str(), topic.as_str());
        delivery.ack();
    }
    Ok(())
}
