//! What nodes and clients write to the log. Alone in its process: what is logged is decided once for
//! each place in the code, and tests beside it that log nowhere would have a say in it.

use std::{sync::Arc, time::Duration};

use gear::{
    CallError, Client, Context, Fault, Node, Operation, Pattern, Service, Topic,
    memory::{BrokerFault, Injection, MemoryBroker},
};
use tracing_subscriber::fmt::format::FmtSpan;

const CTRL: Service = Service::new("CTRL");
const REPO: Service = Service::new("REPO");
const ECHO: Operation<String, String> = Operation::new("echo");
const ASK: Operation<(), String> = Operation::new("ask");

type Test = Result<(), Box<dyn std::error::Error>>;

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

impl Written {
    /// Listens to what this thread does; spans are written when they end.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::CLOSE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no test panics in here")).into_owned()
    }

    /// The spans of this name that have ended, without their parents and ids: what they say of
    /// themselves.
    fn ended(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let closed = text.lines().filter(|line| line.ends_with(": close"));
        let spans = closed.filter_map(|line| {
            let (span, _) = line.trim_start().strip_prefix("INFO ")?.rsplit_once("}: ")?;
            let own = span.rsplit("}:").next()?;
            let fields = own.strip_prefix(name)?.strip_prefix('{')?;
            let of_id = |field: &&str| !field.starts_with("messaging.message.id=");
            Some(fields.split(' ').filter(of_id).collect::<Vec<_>>().join(" "))
        });
        spans.collect()
    }
}

async fn client(broker: &MemoryBroker) -> Client {
    let name = "CLI.test".parse().expect("a valid name");
    Client::builder(broker.connect(), name).start().await.expect("the broker is up")
}

async fn fail(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
    /// An error with a cause, which its own text leaves out.
    #[derive(Debug)]
    struct NoNumber(std::num::ParseIntError);
    impl std::fmt::Display for NoNumber {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("it is no number")
        }
    }
    impl std::error::Error for NoNumber {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    tracing::info!("handling");
    Ok(text.parse::<u32>().map_err(NoNumber)?.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_handler_runs_in_a_span_and_the_log_says_why_it_failed_but_shows_no_body() -> Test {
    let written = Written::default();
    let _guard = written.listen();

    let broker = MemoryBroker::new();
    let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(ECHO, fail).start().await?;
    let call = client(&broker).await.call(CTRL, ECHO, &"canary".to_owned()).send();
    let id = call.id().expect("it was sent").to_string();
    assert!(call.await.is_err());
    drop(ctrl);

    let log = written.text();
    let span = format!(
        "gear.handle{{operation=echo kind=call from=CLI.test otel.kind=\"server\" \
         messaging.destination.name=CTRL messaging.destination.subscription.name=CTRL \
         messaging.message.id={id}}}"
    );
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or("").to_owned();
    assert!(line("handling").contains(&span), "{log}");
    let failed = line("the handler failed");
    let why = "source=it is no number: invalid digit found in string";
    assert!(failed.contains(&span) && failed.contains(why), "{log}");
    assert!(!log.contains("canary"), "{log}");
    assert!(log.contains(&format!("messaging.message.id={id} error.type=\"failed\"")), "{log}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_error_that_can_not_be_shown_fails_like_any_other() -> Test {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words");
        }
    }
    impl std::error::Error for Unspeakable {}
    async fn fail(_: Arc<()>, _: Context, _: String) -> Result<String, Fault> {
        Err(Unspeakable.into())
    }
    let written = Written::default();
    let _guard = written.listen();
    let broker = MemoryBroker::new();
    let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(ECHO, fail).start().await?;
    let client = client(&broker).await;
    let error = client.call(CTRL, ECHO, &"x".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(gear::code::FAILED));
    client.cast(CTRL, ECHO, &"x".into()).await?;
    broker.idle().await;
    assert_eq!(broker.messages("CTRL:dead").len(), 1);
    assert!(ctrl.shutdown(Duration::from_secs(1)).await.is_clean());
    assert!(written.text().contains("source=(its text panics)"), "{}", written.text());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_thing_sent_has_a_span_with_its_outcome() -> Test {
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    let (written, text) = (Written::default(), "x".to_owned());
    let _guard = written.listen();
    let broker = MemoryBroker::new();
    let client = client(&broker).await;

    // Nobody is there yet.
    assert!(client.call(CTRL, ECHO, &text).await.is_err());
    assert!(client.cast(CTRL.at("host1")?, ECHO, &text).await.is_err());
    let _ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(ECHO, echo).start().await?;
    client.call(CTRL, ECHO, &text).await?;
    drop(client.call(CTRL, ECHO, &text).send());
    client.cast(CTRL.all(), ECHO, &text).await?;
    client.cast(CTRL, ECHO, &text).send().detach();
    broker.inject(BrokerFault::LoseConfirm);
    assert!(client.cast(CTRL, ECHO, &text).await.is_err());
    client.call(CTRL, ECHO, &text).reply_to(&CTRL).await?;
    client.publish("orders.paid".parse::<Topic>()?, ECHO, &text).await?;
    for host in ["host1", "host2"] {
        let gather = client.gather(CTRL.all(), ECHO, &text).expect([CTRL.at(host)?]);
        let mut answers = gather.await?;
        while answers.next().await.is_some() {}
    }
    drop(client.gather(CTRL.all(), ECHO, &text).await?);
    assert!(client.gather(REPO.all(), ECHO, &text).await.is_err());
    broker.idle().await;

    let client = r#"operation=echo otel.kind="client" messaging.destination.name="#;
    let producer = r#"operation=echo otel.kind="producer" messaging.destination.name="#;
    assert_eq!(
        written.ended("gear.call"),
        [
            format!(r#"{client}CTRL error.type="not-routed" outcome="error""#),
            format!(r#"{client}CTRL outcome="ok""#),
            format!(r#"{client}CTRL outcome="given-up""#),
        ]
    );
    assert_eq!(
        written.ended("gear.cast"),
        [
            format!(r#"{producer}CTRL.host1 error.type="not-routed" outcome="error""#),
            format!(r#"{producer}CTRL.* outcome="ok""#),
            format!(r#"{producer}CTRL outcome="detached""#),
            format!(r#"{producer}CTRL error.type="unknown" outcome="error""#),
        ]
    );
    assert_eq!(written.ended("gear.request"), [format!(r#"{producer}CTRL outcome="ok""#)]);
    assert_eq!(written.ended("gear.publish"), [format!(r#"{producer}orders.paid outcome="ok""#)]);
    assert_eq!(
        written.ended("gear.gather"),
        [
            format!(r#"{client}CTRL.* answers=1 outcome="ok""#),
            format!(r#"{client}CTRL.* answers=1 outcome="incomplete""#),
            format!(r#"{client}CTRL.* outcome="given-up""#),
            format!(r#"{client}REPO.* error.type="not-routed" outcome="error""#),
        ]
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_sends_is_within_its_span_and_what_it_lets_others_handle_is_not() -> Test {
    async fn ask(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        Ok(cx.client().call(REPO, ASK, &()).await?)
    }
    async fn answer(_: Arc<()>, _: Context, (): ()) -> Result<String, Fault> {
        tracing::info!("answering");
        Ok("x".to_owned())
    }
    async fn note(_: Arc<()>, _: Context, text: String) -> Result<(), Fault> {
        tracing::info!("noting {text}");
        Ok(())
    }
    let written = Written::default();
    let _guard = written.listen();
    let broker = MemoryBroker::new();
    let _ctrl = Node::builder(broker.connect(), CTRL.at("host1")?).on(ASK, ask).start().await?;
    let node = Node::builder(broker.connect(), REPO.at("host1")?).concurrency(1).on(ASK, answer);
    let note_event: Operation<String, ()> = Operation::new("note");
    let _repo = node.on_event("notes", Pattern::new("#"), note_event, note).start().await?;
    let client = client(&broker).await;
    client.call(CTRL, ASK, &()).await?;
    for text in ["one", "two", "three"] {
        client.publish("a".parse::<Topic>()?, note_event, &text.to_owned()).send().detach();
    }
    broker.idle().await;

    let log = written.text();
    let spans = |text: &str| {
        let line = log.lines().find(|line| line.contains(text)).unwrap_or("");
        line.matches("gear.").count()
    };
    let nested = log.lines().find(|line| line.contains("gear.call") && line.contains("name=REPO"));
    assert!(nested.is_some_and(|line| line.contains("gear.handle{operation=ask")), "{log}");
    // The broker is in this process, and delivers on the stack of whoever lets it.
    assert_eq!(spans("answering"), 1, "{log}");
    for text in ["noting one", "noting two", "noting three"] {
        assert_eq!(spans(text), 1, "{log}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_read_is_not_shown() -> Test {
    const COUNT: Operation<u64, ()> = Operation::new("count");
    const COUNT_OF_TEXT: Operation<String, ()> = Operation::new("count");
    const ADD: Operation<Vec<u64>, ()> = Operation::new("add");
    const ADD_TEXTS: Operation<Vec<String>, ()> = Operation::new("add");
    const ECHO_NUMBER: Operation<String, u64> = Operation::new("echo");
    #[derive(Debug, thiserror::Error)]
    #[error("REPO says: {0}")]
    struct Nested(CallError);

    async fn count(_: Arc<()>, _: Context, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    async fn add(_: Arc<()>, _: Context, _: Vec<u64>) -> Result<(), Fault> {
        Ok(())
    }
    async fn echo(_: Arc<()>, _: Context, text: String) -> Result<String, Fault> {
        Ok(text)
    }
    async fn ask(_: Arc<()>, cx: Context, (): ()) -> Result<String, Fault> {
        let number = cx.client().call(REPO, ECHO_NUMBER, &"canary".to_owned()).await;
        Ok(number.map_err(Nested)?.to_string())
    }
    let written = Written::default();
    let _guard = written.listen();
    let broker = MemoryBroker::new();
    let _repo = Node::builder(broker.connect(), REPO.at("host1")?).on(ECHO, echo).start().await?;
    let node = Node::builder(broker.connect(), CTRL.at("host1")?).on(COUNT, count).on(ADD, add);
    let _ctrl = node.on(ASK, ask).start().await?;
    let client = client(&broker).await;
    let (canary, canaries) = ("canary".to_owned(), vec!["canary".to_owned()]);
    let error = client.call(CTRL, COUNT_OF_TEXT, &canary).await.expect_err("it is no number");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    client.cast(CTRL, ADD_TEXTS, &canaries).await?;
    client.call(CTRL, ASK, &()).await.expect_err("it is no number either");
    let error = client.call(REPO, ECHO_NUMBER, &canary).await.expect_err("as here");
    assert_eq!(
        error.to_string(),
        "the reply could not be decoded: JSON of another kind at line 1 column 8"
    );
    // Whoever looks for it finds it.
    let CallError::ReplyNotDecodable(error) = error else { panic!("{error:?}") };
    assert!(error.get_ref().to_string().contains("canary"), "{error:?}");
    broker.idle().await;

    let dead = broker.messages("CTRL:dead");
    assert_eq!(dead.len(), 1);
    assert!(!format!("{:?}", dead[0].headers()).contains("canary"), "{:?}", dead[0].headers());
    let log = written.text();
    assert!(!log.contains("canary"), "{log}");
    for place in ["line 1 column 8", "line 1 column 9"] {
        assert!(log.contains(&format!("source=JSON of another kind at {place}")), "{log}");
    }
    assert!(log.contains("source=REPO says: the reply could not be decoded: JSON of"), "{log}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_handled_has_a_span_with_its_outcome() -> Test {
    async fn act(_: Arc<()>, _: Context, how: String) -> Result<String, Fault> {
        match &*how {
            "long" => return Ok("x".repeat(2_000)),
            "odd" => return Err(Fault::new("odd", "it is odd")),
            "panic" => panic!("as it was told"),
            "hang" => std::future::pending::<()>().await,
            _ => tokio::time::sleep(Duration::from_secs(2)).await,
        }
        Ok(how)
    }
    let written = Written::default();
    let _guard = written.listen();
    let broker = MemoryBroker::new();
    let node = Node::builder(broker.connect(), CTRL.at("host1")?).max_body_bytes(1_000);
    let node = node.concurrency(1).retries(1).on(ECHO, act).start().await?;
    let client = client(&broker).await;
    let mut outcomes = Vec::new();
    for how in ["long", "odd", "panic", "late", "echo"] {
        let call = client.call(CTRL, ECHO, &how.to_owned());
        outcomes.push(call.timeout(Duration::from_secs(5)).await.is_ok());
    }
    assert_eq!(outcomes, [false, false, false, true, true]);
    client.cast(CTRL, ECHO, &"odd".to_owned()).await?;
    client.cast(CTRL, ECHO, &"echo".to_owned()).await?;
    broker.idle().await;
    broker.inject(Injection::new(BrokerFault::Delay(Duration::from_secs(2))));
    let cast = client.cast(CTRL, ECHO, &"echo".to_owned()).expires(Duration::from_secs(1));
    cast.send().detach();
    broker.idle().await;
    assert_eq!(node.stats().expired, 1);
    let call = client.call(CTRL, ECHO, &"hang".to_owned()).send();
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.shutdown(Duration::ZERO).await;
    assert!(call.await.is_err());

    let spans = written.ended("gear.handle").into_iter();
    let told = spans.map(|span| {
        let (_, told) = span.split_once("subscription.name=CTRL ").expect("it came by a queue");
        told.to_owned()
    });
    let failed = |code: &str| format!(r#"error.type="{code}" outcome="error""#);
    let ok = || r#"outcome="ok""#.to_owned();
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            failed("too-large"),
            failed("odd"),
            failed("panicked"),
            ok(),
            ok(),
            failed("odd"),
            ok(),
            format!("attempt=1 {}", failed("odd")),
            r#"outcome="expired""#.to_owned(),
            failed("dropped"),
        ]
    );
    Ok(())
}
