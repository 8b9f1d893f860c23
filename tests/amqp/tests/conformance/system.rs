//! A virtual host, and what tests do to it and to its broker.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use gear_amqp::AmqpTransport;
use gear_api::{BoxError, Message};
use gear_conformance::{Cannot, Connection, Full, Link, System};
use gear_test_amqp::{Broker, Proxy, Vhost};
use tokio::time::sleep;

use crate::look;

/// How long the broker may take for what takes it milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A virtual host of its own on the broker.
pub(crate) struct Host {
    broker: &'static Broker,
    url: String,
    state: Mutex<State>,
    /// This test has raised it.
    alarm: AtomicBool,
}

struct State {
    /// None at the end.
    vhost: Option<Arc<Vhost>>,
    /// They must live as long as the connections that go over them.
    proxies: Vec<Arc<Proxy>>,
}

impl Host {
    pub(crate) async fn new(broker: &'static Broker) -> Self {
        let vhost = broker.vhost().await;
        let url = vhost.url();
        let state = State { vhost: Some(Arc::new(vhost)), proxies: Vec::new() };
        Self { broker, url, state: Mutex::new(state), alarm: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vhost(&self) -> Result<Arc<Vhost>, BoxError> {
        Ok(self.state().vhost.clone().ok_or("the system has ended")?)
    }

    /// Whether the broker is ours to stop.
    fn is_ours(&self) -> bool {
        std::env::var_os("GEAR_TEST_AMQP_URL").is_none()
    }
}

#[async_trait]
impl System for Host {
    async fn connect(&self) -> Result<Connection, BoxError> {
        let proxy = Arc::new(self.broker.proxy().await);
        self.state().proxies.push(Arc::clone(&proxy));
        let url = proxy.through(&self.url) + &crate::options();
        let transport = AmqpTransport::connect(&url).await?;
        Ok(Connection::over(transport, Wire(proxy)))
    }

    async fn messages(&self, queue: &str) -> Result<Option<Vec<Message>>, BoxError> {
        look::messages(&self.url, queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BoxError> {
        look::delete(&self.url, queue).await
    }

    async fn limit_queue(&self, queue: &str, messages: u32, when: Full) -> Result<(), BoxError> {
        let overflow = match when {
            Full::DropsOldest => "drop-head",
            Full::Refuses => "reject-publish",
        };
        let definition = format!(r#"{{"max-length":{messages},"overflow":"{overflow}"}}"#);
        let pattern = format!("^{}$", queue.replace('.', r"\."));
        // It is in force when this returns: queues are told before the answer is given.
        Ok(self.vhost()?.set_policy(queue, &pattern, &definition, "queues").await?)
    }

    async fn restart(&self) -> Result<(), BoxError> {
        if !self.is_ours() {
            return Err(Cannot("restart a broker that somebody else runs").into());
        }
        self.broker.kill().await;
        self.broker.start().await;
        // Whoever makes the next virtual host needs the management API as well.
        let start = Instant::now();
        while let Err(error) = self.broker.api("GET", "/api/whoami", None).await {
            if start.elapsed() > PATIENCE {
                return Err(error.into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        if !self.is_ours() {
            return Err(Cannot("raise an alarm on a broker that somebody else runs").into());
        }
        self.alarm.store(on, Ordering::SeqCst);
        match on {
            true => self.broker.raise_alarm().await,
            false => self.broker.clear_alarm().await,
        }
        Ok(())
    }

    async fn end(&self) {
        if self.alarm.swap(false, Ordering::SeqCst) {
            self.broker.clear_alarm().await;
        }
        let (vhost, proxies) = {
            let mut state = self.state();
            (state.vhost.take(), std::mem::take(&mut state.proxies))
        };
        // Connections say goodbye before their virtual host goes.
        let start = Instant::now();
        while proxies.iter().any(|proxy| proxy.connections() > 0)
            && start.elapsed() < Duration::from_secs(1)
        {
            sleep(Duration::from_millis(5)).await;
        }
        drop(proxies);
        // It blocks until it is deleted.
        let _ = tokio::task::spawn_blocking(move || drop(vhost)).await;
    }
}

/// The link of one connection.
struct Wire(Arc<Proxy>);

#[async_trait]
impl Link for Wire {
    async fn cut(&self, time: Duration) -> Result<(), BoxError> {
        self.0.cut();
        let proxy = Arc::clone(&self.0);
        tokio::spawn(async move {
            sleep(time).await;
            proxy.heal();
        });
        Ok(())
    }
}
