//! What a node writes to the log. Alone in its process: what is logged is decided once for
//! each place in the code, and tests beside it that log nowhere would have a say in it.

use std::sync::Arc;

use gear::{Client, Context, Fault, Node, Operation, Service, memory::MemoryBroker};

const CTRL: Service = Service::new("CTRL");
const ECHO: Operation<String, String> = Operation::new("echo");

/// What a subscriber for people writes down.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics in here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_runs_in_a_span_and_the_log_says_why_it_failed_but_shows_no_body()
-> Result<(), Box<dyn std::error::Error>> {
    async fn fail(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        tracing::info!("handling");
        Ok(text.parse::<u32>()?.to_string())
    }
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let broker = MemoryBroker::new();
    let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(ECHO, fail).start().await?;
    let client = Client::builder(broker.connect(), "CLI.test".parse()?).start().await?;
    let call = client.call(CTRL, ECHO, &"canary".to_owned()).send();
    let id = call.id().expect("it was sent").to_string();
    assert!(call.await.is_err());
    drop(ctrl);

    let log = String::from_utf8(written.0.lock().expect("no test panics in here").clone())?;
    let span = format!("gear.handle{{operation=echo kind=call from=CLI.test id={id}}}");
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or("").to_owned();
    assert!(line("handling").contains(&span), "{log}");
    let failed = line("the handler failed");
    assert!(failed.contains(&span) && failed.contains("invalid digit"), "{log}");
    assert!(!log.contains("canary"), "{log}");
    Ok(())
}
