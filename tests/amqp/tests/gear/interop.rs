//! Gear and a program in another language that knows nothing but the wire contract: the Python
//! programs in `tests/interop/`, with and without a system name.
//!
//! Where there is no `python3`, a test says so and passes.

mod python;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gear_amqp::AmqpTransport;
use gear_api::{
    Address, CallError, Client, Context, Fault, Instance, Node, NodeBuilder, Operation, Service,
    code,
};
use gear_test_amqp::{Broker, Vhost};
use python::{Python, Served};
use serde_json::{Value, json};

use crate::{CTRL, PATIENCE, REPO, Test};

/// What the Python program serves.
const PYSRV: Service = Service::new("PYSRV");

const ECHO: Operation<Value, Value> = Operation::new("echo");
const WHO: Operation<(), String> = Operation::new("who");
const NOTE: Operation<String, ()> = Operation::new("note");
const NOTED: Operation<(), Vec<String>> = Operation::new("noted");
const FAIL: Operation<String, ()> = Operation::new("fail");
const UNKNOWN: Operation<(), ()> = Operation::new("unknown");

/// One virtual host, in which two systems are: that without a name, and `acme`.
struct Systems {
    python: Python,
    vhost: Vhost,
}

const NAMES: [&str; 2] = ["", "acme"];

impl Systems {
    /// None without Python.
    async fn new() -> Test<Option<Self>> {
        match Python::find().await? {
            Some(python) => Ok(Some(Self { python, vhost: Broker::shared().await.vhost().await })),
            None => Ok(None),
        }
    }

    async fn connect(&self, system: &str) -> Test<AmqpTransport> {
        let builder = AmqpTransport::builder(&self.vhost.url())?;
        let builder = if system.is_empty() { builder } else { builder.system(system)? };
        Ok(builder.connect().await?)
    }

    async fn client(&self, system: &str) -> Test<Client> {
        let builder = Client::builder(self.connect(system).await?, "CLI.test".parse()?);
        Ok(builder.call_timeout(PATIENCE).start().await?)
    }

    async fn node(&self, system: &str, instance: Instance, notes: &Notes) -> Test<Node> {
        let builder: NodeBuilder<()> = Node::builder(self.connect(system).await?, instance);
        let builder = builder.state(notes.clone()).on(ECHO, echo).on(WHO, who).on(NOTE, note);
        Ok(builder.on(FAIL, fail).start().await?)
    }

    /// Runs the Python client: what it says is one JSON object.
    async fn ask(&self, system: &str, arguments: &[&str]) -> Test<Value> {
        self.python.client(&self.vhost.url(), system, arguments).await
    }

    /// Starts the Python service.
    async fn serve(&self, system: &str) -> Test<Served> {
        self.python.serve(&self.vhost.url(), system).await
    }
}

/// What handlers were told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines in alphabetical order, when there are so many; then there are none again.
    async fn take(&self, count: usize) -> Test<Vec<String>> {
        let all = async {
            while self.lines().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, all).await;
        waited.map_err(|_| format!("{count} notes, and there are {:?}", self.lines()))?;
        let mut lines = std::mem::take(&mut *self.lines());
        lines.sort();
        Ok(lines)
    }
}

async fn echo(_: Arc<Notes>, _: Context, value: Value) -> Result<Value, Fault> {
    Ok(value)
}

async fn who(_: Arc<Notes>, cx: Context, (): ()) -> Result<String, Fault> {
    Ok(cx.instance().to_string())
}

async fn note(notes: Arc<Notes>, cx: Context, text: String) -> Result<(), Fault> {
    let sender = cx.message().sender().clone();
    notes.lines().push(format!("{} from {sender}: {text}", cx.instance()));
    Ok(())
}

async fn fail(_: Arc<Notes>, _: Context, text: String) -> Result<(), Fault> {
    Err(Fault::new("too-bad", "it was asked to fail").details(json!({ "asked": text })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_calls_a_gear_service() -> Test {
    let Some(systems) = Systems::new().await? else { return Ok(()) };
    for system in NAMES {
        let notes = Notes::default();
        let _host1 = systems.node(system, CTRL.at("host1")?, &notes).await?;
        let host2 = systems.node(system, CTRL.at("host2")?, &notes).await?;
        // With a reply queue as Gear has them, with one of its own and with the broker's shortcut;
        // and knowing nothing of Gear but where to send a request.
        let text = r#""grüße ✓""#;
        for replies in ["gear", "exclusive", "direct"] {
            for bare in [&[][..], &["--bare"]] {
                let call = ["--replies", replies, "call", "CTRL", "echo", text];
                let reply = systems.ask(system, &[bare, &call].concat()).await?;
                assert_eq!(
                    (&reply["outcome"], &reply["body"]),
                    (&json!("reply"), &json!("grüße ✓"))
                );
                let sender = reply["sender"].as_str().unwrap_or_default();
                assert!(sender.starts_with("CTRL.host"), "{reply}");
            }
        }
        let reply = systems.ask(system, &["call", "CTRL.host2", "who", "null"]).await?;
        assert_eq!(reply["body"], json!("CTRL.host2"));

        let failure = systems.ask(system, &["call", "CTRL", "fail", r#""please""#]).await?;
        assert_eq!((&failure["outcome"], &failure["code"]), (&json!("failure"), &json!("too-bad")));
        let body = json!({
            "code": "too-bad", "message": "it was asked to fail", "retryable": false,
            "details": { "asked": "please" },
        });
        assert_eq!(failure["body"], body);
        let failure = systems.ask(system, &["call", "CTRL", "strange", "null"]).await?;
        assert_eq!(failure["code"], json!(code::UNKNOWN_OPERATION));
        let failure = systems.ask(system, &["call", "CTRL", "echo.", "null"]).await?;
        assert_eq!(failure["code"], json!(code::UNKNOWN_OPERATION));

        for nobody in ["NOBODY", "CTRL.host3", "NOBODY.*"] {
            let outcome = systems.ask(system, &["call", nobody, "who", "null"]).await?;
            assert_eq!(outcome, json!({ "outcome": "not routed" }), "{nobody}");
        }
        // An answer that takes too long.
        host2.shutdown(PATIENCE).await;
        let late = ["--timeout", "1", "call", "CTRL.host2", "who", "null"];
        assert_eq!(systems.ask(system, &late).await?, json!({ "outcome": "timeout" }));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_multicasts_and_broadcasts_to_gear() -> Test {
    let Some(systems) = Systems::new().await? else { return Ok(()) };
    let mut all = Vec::new();
    for system in NAMES {
        let (notes, mut nodes) = (Notes::default(), Vec::new());
        for instance in [CTRL.at("host1")?, CTRL.at("host2")?, REPO.at("db.example")?] {
            nodes.push(systems.node(system, instance, &notes).await?);
        }
        all.push((system, notes, nodes));
    }
    for (system, notes, _) in &all {
        for (key, expected) in [
            ("CTRL.*", &["CTRL.host1", "CTRL.host2"][..]),
            ("*.*", &["CTRL.host1", "CTRL.host2", "REPO.db.example"]),
            ("REPO.db.example", &["REPO.db.example"]),
            ("REPO", &["REPO.db.example"]),
        ] {
            let outcome = systems.ask(system, &["cast", key, "note", "\"hello\""]).await?;
            assert_eq!(outcome, json!({ "outcome": "confirmed" }));
            let told = notes.take(expected.len()).await?;
            let expected: Vec<_> =
                expected.iter().map(|who| format!("{who} from PYCLI.py1: hello")).collect();
            assert_eq!(told, expected, "{key}");
        }
    }
    // One copy each, and none in the other system.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (system, notes, _) in &all {
        assert!(notes.lines().is_empty(), "{system}: {:?}", notes.lines());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gear_calls_a_python_service() -> Test {
    let Some(systems) = Systems::new().await? else { return Ok(()) };
    for system in NAMES {
        let served = systems.serve(system).await?;
        let client = systems.client(system).await?;
        let value = json!({ "text": "grüße ✓", "list": [1, null, 2.5] });
        assert_eq!(client.call(PYSRV, ECHO, &value).await?, value);
        assert_eq!(client.call(PYSRV.at("py1")?, ECHO, &value).await?, value);

        let failed = client.call(PYSRV, FAIL, &"please".to_owned()).await;
        let Err(CallError::Remote(error)) = failed else {
            return Err(format!("{failed:?}").into());
        };
        assert_eq!((&*error.code, &*error.message), ("too-bad", "it was asked to fail"));
        assert!(!error.retryable);
        assert_eq!(error.details, Some(json!({ "asked": "please" })));
        let unknown = client.call(PYSRV, UNKNOWN, &()).await;
        assert_eq!(unknown.expect_err("it has none").code(), Some(code::UNKNOWN_OPERATION));
        let absent = client.call(PYSRV.at("py2")?, ECHO, &value).await;
        assert!(matches!(absent, Err(CallError::NotRouted)), "{absent:?}");

        let everybody = [Address::from(&PYSRV), PYSRV.at("py1")?.into(), "PYSRV.*".parse()?];
        for (n, to) in everybody.into_iter().chain([Address::Broadcast]).enumerate() {
            client.cast(to, NOTE, &format!("note {n}")).await?;
        }
        // Each once, whatever the order of its two queues.
        let noted = async {
            loop {
                let mut noted = client.call(PYSRV, NOTED, &()).await?;
                if noted.len() >= 4 {
                    noted.sort();
                    return Ok::<_, CallError>(noted);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let noted = tokio::time::timeout(PATIENCE, noted).await??;
        assert_eq!(noted, ["note 0", "note 1", "note 2", "note 3"]);
        served.stop().await?;
    }
    Ok(())
}

/// Instances of one service, one in each language: a group that is asked together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_service_in_two_languages() -> Test {
    let Some(systems) = Systems::new().await? else { return Ok(()) };
    for system in NAMES {
        let served = systems.serve(system).await?;
        let node = systems.node(system, PYSRV.at("rust1")?, &Notes::default()).await?;
        let client = systems.client(system).await?;
        let expected = BTreeSet::from([PYSRV.at("py1")?, PYSRV.at("rust1")?]);
        let group: Address = "PYSRV.*".parse()?;
        let mut answers =
            client.gather(group, ECHO, &json!("all")).expect(&expected).timeout(PATIENCE).await?;
        let mut answered = BTreeSet::new();
        while let Some(answer) = answers.next().await {
            assert_eq!(answer.result?, json!("all"));
            answered.extend(answer.from);
        }
        assert_eq!(answered, expected);
        // What the Python instance does not take, the other does.
        let python_asks = systems.ask(system, &["call", "PYSRV.rust1", "who", "null"]).await?;
        assert_eq!(python_asks["body"], json!("PYSRV.rust1"));
        let python_asks = systems.ask(system, &["call", "PYSRV.py1", "echo", "7"]).await?;
        assert_eq!(
            (&python_asks["body"], &python_asks["sender"]),
            (&json!(7), &json!("PYSRV.py1"))
        );
        served.stop().await?;
        let report = node.shutdown(PATIENCE).await;
        assert!(report.is_clean(), "{report:?}");
    }
    Ok(())
}
