//! Many tasks on one connection, and many connections on one queue.

use std::sync::Arc;

use gear_api::{Consumer, PublishError, Transport};
use tokio::sync::watch;

use crate::{
    churn::{Account, come_and_go},
    kit::*,
    suite::{Test, suite},
    world::{World, eventually},
};

suite! { "concurrency";
    many_tasks_may_send_on_one_connection: "each keeps its order, none is lost",
    each_gets_the_answer_to_its_own_message(mandatory): "routed and not, from eight tasks at once",
    many_consumers_and_publishers_lose_nothing: "with every verdict, each is acked once",
    consumers_may_come_and_go_meanwhile: "nothing stays with one that was stopped, each is acked once",
    many_may_subscribe_at_once: "on one connection, and all of them serve",
}

const TASKS: usize = 8;
const EACH: usize = 50;

async fn many_tasks_may_send_on_one_connection(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 20).await?;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let web = Arc::clone(&web);
        tasks.push(tokio::spawn(async move {
            for n in 0..EACH {
                send(&*web, "CTRL", &format!("{task}/{n}")).await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, PublishError>(())
        }));
    }
    let taken = take(&mut ctrl, TASKS * EACH).await;
    for (task, sender) in tasks.into_iter().enumerate() {
        sender.await??;
        let of_task: Vec<_> =
            taken.iter().filter(|body| body.starts_with(&format!("{task}/"))).cloned().collect();
        let expected: Vec<_> = (0..EACH).map(|n| format!("{task}/{n}")).collect();
        assert_eq!(of_task, expected);
    }
    world.quiet().await;
    assert!(take_ready(&mut ctrl).is_empty());
    Ok(())
}

async fn each_gets_the_answer_to_its_own_message(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 100).await?;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let web = Arc::clone(&web);
        tasks.push(tokio::spawn(async move {
            let to = |n: usize| if (n + task).is_multiple_of(2) { "CTRL" } else { "NOBODY" };
            let sent: Vec<_> =
                (0..EACH).map(|n| (to(n), publish(&*web, to(n), message("m")))).collect();
            let mut wrong = Vec::new();
            for (to, answer) in sent {
                let answer = answer.await;
                let expected = if to == "CTRL" { Ok(()) } else { Err(PublishError::NotRouted) };
                if answer != expected {
                    wrong.push(format!("{to}: {answer:?}"));
                }
            }
            wrong
        }));
    }
    for task in tasks {
        assert_eq!(task.await?, [""; 0]);
    }
    assert_eq!(take_all(&world, &mut ctrl, TASKS * EACH / 2).await.len(), TASKS * EACH / 2);
    Ok(())
}

/// Requeues some, drops some, acks the rest; those that come again are acked.
async fn settle_all(mut consumer: Consumer, account: Account) {
    let mut n = 0;
    while let Some(delivery) = consumer.next().await {
        n += 1;
        if !delivery.is_redelivered() && n % 5 == 0 {
            delivery.requeue();
        } else if !delivery.is_redelivered() && n % 7 == 0 {
            drop(delivery);
        } else {
            account.ack(delivery);
        }
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn many_consumers_and_publishers_lose_nothing(world: World) -> Test {
    let account = Account::default();
    let mut consuming: Vec<Arc<dyn Transport>> = Vec::new();
    for prefetch in [1, 3, 16, 64] {
        let ctrl = world.connect().await?;
        tokio::spawn(settle_all(serve(&*ctrl, prefetch).await?, account.clone()));
        consuming.push(ctrl);
    }
    let mut tasks = Vec::new();
    for task in 0..4 {
        let web = world.connect().await?;
        tasks.push(tokio::spawn(async move {
            for n in 0..100 {
                send(&*web, "CTRL", &format!("{task}/{n}")).await?;
            }
            Ok::<_, PublishError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    eventually(|| account.len() >= 400).await;
    world.quiet().await;
    for ctrl in consuming {
        ctrl.close().await;
    }
    assert_eq!((account.len(), account.again()), (400, vec![]));
    Ok(())
}

async fn consumers_may_come_and_go_meanwhile(world: World) -> Test {
    let (account, over) = (Account::default(), watch::Sender::new(false));
    drop(serve(&*world.connect().await?, 1).await?); // the queue is there
    let mut consuming = Vec::new();
    for prefetch in [1, 4, 16, 64] {
        let ctrl = world.connect().await?;
        let come_and_go = come_and_go(ctrl, prefetch, account.clone(), over.subscribe());
        consuming.push(tokio::spawn(come_and_go));
    }
    let web = world.connect().await?;
    for n in 0..400 {
        send(&*web, "CTRL", &n.to_string()).await?;
    }
    eventually(|| account.len() >= 400).await;
    over.send_replace(true);
    for task in consuming {
        task.await??;
    }
    world.quiet().await;
    assert_eq!((account.len(), account.again()), (400, vec![]));
    Ok(())
}

async fn many_may_subscribe_at_once(world: World) -> Test {
    let web = world.connect().await?;
    let mut joining = Vec::new();
    for n in 0..TASKS {
        let web = Arc::clone(&web);
        joining.push(tokio::spawn(async move { join(&*web, &format!("CTRL.h{n}")).await }));
    }
    let mut joined = Vec::new();
    for task in joining {
        joined.push(task.await??);
    }
    send(&*web, "CTRL.*", "m").await?;
    let taken = take_each(&world, joined.iter_mut().map(|one| (one, 1)).collect::<Vec<_>>()).await;
    assert_eq!(taken, [["m"]; TASKS]);
    Ok(())
}
