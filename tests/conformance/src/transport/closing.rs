//! The states of a connection, and its end.

use gear_api::{ConsumerEnd, Status};

use crate::{
    kit::*,
    suite::{Test, suite},
    world::{World, within},
};

suite! { "closing";
    a_connection_is_ready_when_it_works: "and says so",
    a_closed_connection_says_so: "in its status, for good",
    closing_twice_does_nothing: "and neither hangs",
    closing_flushes_settlements: "what was acked does not come again",
    closing_flushes_what_was_sent: "what was handed over arrives",
    closing_gives_back_what_nobody_took: "and hands it out no more",
    closing_one_harms_no_other: "of the same program",
    closing_with_consumers_that_nobody_polls_returns: "in a few seconds",
}

async fn a_connection_is_ready_when_it_works(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*web, 1).await?;
    world.ready(&*web).await?;
    send(&*web, "CTRL", "m").await?;
    assert_eq!(take(&mut ctrl, 1).await, ["m"]);
    assert!(web.status().borrow().is_ready());
    Ok(())
}

async fn a_closed_connection_says_so(world: World) -> Test {
    let web = world.connect().await?;
    let mut status = web.status();
    web.close().await;
    within(status.wait_for(|status| matches!(status, Status::Closed(_)))).await?;
    assert!(matches!(*web.status().borrow(), Status::Closed(_)));
    Ok(())
}

async fn closing_twice_does_nothing(world: World) -> Test {
    let web = world.connect().await?;
    let _ctrl = serve(&*web, 1).await?;
    within(web.close()).await;
    within(web.close()).await;
    Ok(())
}

async fn closing_flushes_settlements(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut first = serve(&*ctrl, 50).await?;
    let bodies: Vec<String> = (0..37).map(|n| n.to_string()).collect();
    for body in &bodies {
        send(&*web, "CTRL", body).await?;
    }
    assert_eq!(take(&mut first, 37).await, bodies);
    ctrl.close().await;
    let mut second = serve(&*world.connect().await?, 50).await?;
    world.quiet().await;
    assert_eq!(take_ready(&mut second), [""; 0]);
    Ok(())
}

async fn closing_flushes_what_was_sent(world: World) -> Test {
    let web = world.connect().await?;
    let mut ctrl = serve(&*world.connect().await?, 50).await?;
    let bodies: Vec<String> = (0..37).map(|n| n.to_string()).collect();
    for body in &bodies {
        publish(&*web, "CTRL", message(body)).detach();
    }
    web.close().await;
    assert_eq!(take_all(&world, &mut ctrl, 37).await, bodies);
    Ok(())
}

async fn closing_gives_back_what_nobody_took(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut first = serve(&*ctrl, 10).await?;
    for body in ["1", "2", "3"] {
        send(&*web, "CTRL", body).await?;
    }
    world.pause().await; // until all of it is here
    assert_eq!(take(&mut first, 1).await, ["1"]);
    ctrl.close().await;
    assert!(within(first.next()).await.is_none());
    let second = world.connect().await?;
    let mut second = serve(&*second, 10).await?;
    let again = take_all(&world, &mut second, 2).await;
    let bodies: Vec<_> = again.iter().map(|label| label.trim_end_matches('!')).collect();
    assert_eq!(bodies, ["2", "3"]);
    Ok(())
}

async fn closing_one_harms_no_other(world: World) -> Test {
    let (one, two) = (world.connect().await?, world.connect().await?);
    let mut first = serve(&*one, 10).await?;
    let mut second = serve(&*two, 10).await?;
    one.close().await;
    assert!(within(first.next()).await.is_none());
    assert_eq!(first.end(), Some(&ConsumerEnd::Closed));
    send_all(&*two, "CTRL", &["1", "2"]).await?;
    assert_eq!(take_all(&world, &mut second, 2).await, ["1", "2"]);
    assert!(two.status().borrow().is_ready());
    Ok(())
}

async fn closing_with_consumers_that_nobody_polls_returns(world: World) -> Test {
    let (web, ctrl) = (world.connect().await?, world.connect().await?);
    let mut unpolled = serve(&*ctrl, 3).await?;
    send_all(&*web, "CTRL", &["1", "2", "3", "4", "5"]).await?;
    let _held = next(&mut unpolled).await;
    within(ctrl.close()).await;
    let mut second = serve(&*world.connect().await?, 10).await?;
    let taken = take_all(&world, &mut second, 5).await;
    let bodies: Vec<_> = taken.iter().map(|label| label.trim_end_matches('!')).collect();
    assert_eq!(bodies, ["1", "2", "3", "4", "5"]);
    Ok(())
}
