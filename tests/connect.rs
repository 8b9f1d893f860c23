//! `connect`: which URL gives which broker, and what the errors say.

use gear::ConnectError;

/// The error of a URL.
async fn error_of(url: &str) -> ConnectError {
    gear::connect(url).await.expect_err("it is not a URL that works")
}

#[cfg(feature = "memory")]
#[tokio::test(start_paused = true)]
async fn one_name_is_one_broker_and_another_is_another() -> Result<(), Box<dyn std::error::Error>> {
    use gear::{Route, Service, Subscription};
    const SINK: Service = Service::new("SINK");
    let (a, b) = (gear::connect("memory://one").await?, gear::connect("MEMORY://one").await?);
    let other = gear::connect("memory://other").await?;
    let mut queue = b.subscribe(Subscription::Service { service: SINK, prefetch: 1 }).await?;
    let message = gear::Message::builder(gear::Kind::Cast, "x").build();
    let to = SINK.into();
    a.send(Route::Address(&to), message.clone()).await?;
    queue.next().await.ok_or("ended")?.ack();
    assert_eq!(other.send(Route::Address(&to), message).await, Err(gear::PublishError::NotRouted));
    Ok(())
}

#[tokio::test]
async fn a_backend_that_is_not_compiled_in_names_its_feature() {
    #[cfg(not(feature = "amqp"))]
    for (url, feature) in [("amqp://broker", "amqp"), ("amqps://broker", "amqp")] {
        let error = error_of(url).await;
        assert!(matches!(error, ConnectError::NotCompiledIn { feature: f, .. } if f == feature));
        assert!(error.to_string().contains("\"amqp\""), "{error}");
    }
    #[cfg(not(feature = "memory"))]
    assert!(error_of("memory://x").await.to_string().contains("\"memory\""));
}

#[tokio::test]
async fn what_is_no_url_is_an_error_that_shows_no_password() {
    for url in ["", "memory", "user:canary@host", "canary canary://x", "://x", "kafka://u:canary@h"]
    {
        let error = error_of(url).await;
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    #[cfg(feature = "memory")]
    for url in ["memory://", "memory://a/b", "memory://user:canary@x"] {
        assert_eq!(error_of(url).await, ConnectError::MemoryName);
    }
}
