//! Who may connect, over what, and that nobody ever reads a password.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use gear_amqp::{AmqpError, AmqpTransport};
use gear_test_amqp::{Broker, Options, Proxy};

use crate::{CTRL, PATIENCE, System, Test, cast, next, serve};

async fn refused(url: &str) -> AmqpError {
    let start = Instant::now();
    let connecting = tokio::time::timeout(PATIENCE, AmqpTransport::connect(url)).await;
    let error = connecting.expect("an error, not a retry for ever").expect_err("it is refused");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_an_error_at_once() -> Test {
    let broker = Broker::shared().await;
    let url = format!("amqp://guest:canary@127.0.0.1:{}/%2f", broker.port());
    let error = refused(&url).await;
    assert!(matches!(error, AmqpError::AccessRefused { .. }), "{error:?}");
    assert!(!error.is_transient());
    assert!(!format!("{error} {error:?}").contains("canary"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_host_that_does_not_exist_is_an_error_that_names_it() -> Test {
    let broker = Broker::shared().await;
    let url = format!("amqp://guest:guest@127.0.0.1:{}/no-such", broker.port());
    let error = refused(&url).await;
    assert!(
        matches!(&error, AmqpError::NoVirtualHost { vhost, .. } if *vhost == "no-such"),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_an_error_at_once() -> Test {
    let error = refused("amqp://guest:guest@127.0.0.1:1/%2f").await;
    assert!(matches!(error, AmqpError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    Ok(())
}

/// `connection_timeout` does not help lapin there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_accepts_and_stays_silent_is_an_error_within_the_limit() -> Test {
    let broker = Broker::shared().await;
    let proxy = broker.proxy().await;
    proxy.silent();
    let url = format!("{}?connect_timeout=500", proxy.url());
    let start = Instant::now();
    let error = refused(&url).await;
    assert!(matches!(error, AmqpError::Silent { ms: 500, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // Of several, the next one is tried.
    let system = System::at(url);
    let both = system.builder().url(&broker.url())?;
    both.connect_timeout(Duration::from_secs(2)).connect().await?;
    Ok(())
}

/// Or else each try would cost a thread and a socket for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_is_given_up_leaves_no_connection() -> Test {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let (accepted, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (accepts, ends) = (Arc::clone(&accepted), Arc::clone(&ended));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            accepts.fetch_add(1, Ordering::Relaxed);
            let ends = Arc::clone(&ends);
            tokio::spawn(async move {
                let mut greeting = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut greeting).await;
                ends.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    for scheme in ["amqp", "amqps"] {
        let url = format!("{scheme}://{at}?connect_timeout=300");
        for _ in 0..3 {
            let error = refused(&url).await;
            assert!(matches!(error, AmqpError::Silent { .. }), "{error:?}");
        }
        // Whoever waits may also lose interest.
        let before = accepted.load(Ordering::Relaxed);
        let url = format!("{scheme}://{at}?connect_timeout=600000");
        let connecting = tokio::spawn(async move { AmqpTransport::connect(&url).await });
        let is_there = || accepted.load(Ordering::Relaxed) > before;
        crate::eventually("it connects", is_there).await;
        connecting.abort();
        let none_remains = || accepted.load(Ordering::Relaxed) == ended.load(Ordering::Relaxed);
        crate::eventually("every connection is closed", none_remains).await;
    }
    Ok(())
}

/// As tokens of OAuth 2.0 are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_password_reaches_the_broker() -> Test {
    let broker = Broker::private().await;
    let long = "p".repeat(600);
    broker.add_user("long", &long).await;
    let url = format!("amqp://long:{long}@127.0.0.1:{}/%2f", broker.port());
    AmqpTransport::connect(&url).await?;
    let error = refused(&url.replace("pp@", "p@")).await;
    assert!(matches!(error, AmqpError::AccessRefused { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_that_is_no_broker_is_an_error() -> Test {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://u:canary@{}?connect_timeout=1000", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, hello).await;
        }
    });
    let error = refused(&url).await;
    assert!(error.is_transient(), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_verifies_who_the_broker_is_and_certificates_who_we_are() -> Test {
    let broker = Broker::private_with(Options { tls: true, ..Options::default() }).await;
    let tls = broker.tls();
    // Nobody vouches for it.
    let error = refused(&tls.password_url()).await;
    assert!(matches!(error, AmqpError::Tls { .. }), "{error:?}");
    // Somebody else does.
    let wrong = AmqpTransport::builder(&tls.password_url())?.ca_certificates(&*tls.wrong_ca_pem);
    let error = wrong.connect().await.expect_err("the wrong authority");
    assert!(matches!(error, AmqpError::Tls { .. }), "{error:?}");
    // It is somebody else.
    let trusted = || {
        Ok::<_, AmqpError>(
            AmqpTransport::builder(&tls.password_url())?.ca_certificates(&*tls.ca_pem),
        )
    };
    let error = trusted()?.server_name("other.example").connect().await.expect_err("another name");
    assert!(matches!(error, AmqpError::Tls { .. }), "{error:?}");
    // And so it works, with a password or with a certificate.
    let with_password = trusted()?.connect().await?;
    let mut queue = serve(&with_password, &CTRL, 1).await;
    let with_certificate = AmqpTransport::builder(&tls.url())?
        .ca_certificates(&*tls.ca_pem)
        .client_certificate(&*tls.client_cert_pem, &*tls.client_key_pem)
        .external_auth(true)
        .connect()
        .await?;
    let to = gear_api::Address::from(&CTRL);
    let route = gear_api::Route::Address(&to);
    gear_api::Transport::send(&with_certificate, route, cast("x")).await?;
    next(&mut queue).await.ack();
    // Half of a certificate is none.
    let half = AmqpTransport::builder(&format!("{}?keyfile=/dev/null", tls.url()))?;
    assert!(matches!(half.connect().await, Err(AmqpError::InvalidOption { .. })));
    Ok(())
}

/// Everything that was ever logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In a process of its own: the log is everybody's.
#[test]
fn no_log_debug_or_error_ever_shows_a_password() -> Test {
    const VARIABLE: &str = "GEAR_TEST_CANARY";
    if std::env::var_os(VARIABLE).is_some() {
        let runtime = tokio::runtime::Runtime::new()?;
        return runtime.block_on(sing());
    }
    let test = std::env::current_exe()?;
    let name = "security::no_log_debug_or_error_ever_shows_a_password";
    let mut child = std::process::Command::new(test);
    let output = child.args([name, "--exact", "--nocapture"]).env(VARIABLE, "1").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    Ok(())
}

async fn sing() -> Test {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let broker = Broker::private().await;
    broker.add_user("singer", "c4n4ry-p4ss").await;
    let proxy: Proxy = broker.proxy().await;
    let url = format!("amqp://singer:c4n4ry-p4ss@127.0.0.1:{}/%2f", proxy.port());
    let builder = AmqpTransport::builder(&url)?;
    let mut shown = format!("{builder:?}");
    let transport = builder.connect().await?;
    shown += &format!("{transport:?}");
    let mut queue = serve(&transport, &CTRL, 1).await;
    proxy.drop_connections();
    crate::eventually("it notices", || proxy.accepted() > 2).await;
    crate::ready(&transport).await;
    let to = gear_api::Address::from(&CTRL);
    gear_api::Transport::send(&transport, gear_api::Route::Address(&to), cast("x")).await?;
    next(&mut queue).await.ack();
    for wrong in ["@127.0.0.1:1/%2f", &format!("@127.0.0.1:{}/nowhere", proxy.port()), ":x@@"] {
        let error = AmqpTransport::connect(&format!("amqp://singer:c4n4ry-p4ss{wrong}")).await;
        shown += &format!("{error:?}");
        if let Err(error) = error {
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = source {
                shown += &error.to_string();
                source = error.source();
            }
        }
    }
    gear_api::Transport::close(&transport).await;
    let logged = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let logged = String::from_utf8_lossy(&logged).into_owned();
    assert!(logged.contains("lapin"), "the log is on");
    for line in logged.lines().chain([shown.as_str()]) {
        assert!(!line.contains("c4n4ry"), "{line}");
        // As lists of bytes are shown. At TRACE lapin logs its frames in that way, the login among
        // them; that is not ours to mend, and the crate's documentation warns of it.
        let bytes: Vec<String> = b"c4n4ry".iter().map(u8::to_string).collect();
        let is_lapins_own = line.contains("TRACE") && line.contains("lapin::io_loop");
        assert!(is_lapins_own || !line.contains(&bytes.join(", ")), "{line}");
    }
    Ok(())
}
