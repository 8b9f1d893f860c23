//! Tests of the test: brokers that are wrong in one way, each of which must be told from the model,
//! and by a sequence that is short when it has been shrunk.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{BoxError, Pattern, Transport};
use gear_differential::{
    campaign::{Campaign, Worlds},
    generate::Taste,
    memory::Memory,
    model::Depth,
    op::Node,
    world::{Waiting, World},
};
use gear_memory::{BrokerFault, Injection, Overflow, Policy};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    /// Every message arrives twice.
    Twice,
    /// Messages are confirmed and lost.
    Lost,
    /// Messages are refused for no reason.
    Refused,
    /// Messages come a moment late.
    Late,
    /// A queue keeps no more than one message.
    Short,
    /// What waits in a queue is gone a moment later.
    Mortal,
    /// Queues that an operator deletes stay.
    Undeleted,
    /// Connections that are cut stay up.
    Uncut,
    /// A restart is none.
    Unrestarted,
    /// An alarm keeps nobody from publishing.
    Deaf,
    /// What waits in a queue when all have left is gone.
    Empty,
}

const FLAWS: [(Flaw, Taste); 11] = [
    (Flaw::Twice, Taste::USUAL),
    (Flaw::Lost, Taste::USUAL),
    (Flaw::Refused, Taste::USUAL),
    (Flaw::Late, Taste::USUAL),
    (Flaw::Short, Taste::USUAL),
    (Flaw::Mortal, Taste::USUAL),
    (Flaw::Undeleted, Taste::USUAL),
    (Flaw::Uncut, Taste::USUAL),
    (Flaw::Unrestarted, Taste::SERIAL),
    (Flaw::Deaf, Taste::SERIAL),
    (Flaw::Empty, Taste::USUAL),
];

/// So many lines a shrunk sequence has at most.
const SHORT: usize = 12;

struct Flawed(Flaw);

struct Broken {
    inner: Memory,
    flaw: Flaw,
}

impl Worlds for Flawed {
    type World = Broken;

    async fn world(&self) -> Broken {
        let inner = Memory::new();
        let broker = inner.broker();
        let always = |fault| broker.inject(Injection::new(fault).times(u32::MAX));
        match self.0 {
            Flaw::Twice => always(BrokerFault::Duplicate),
            Flaw::Lost => always(BrokerFault::LoseMessage),
            Flaw::Refused => always(BrokerFault::Refuse),
            Flaw::Late => always(BrokerFault::Delay(Duration::from_secs(7))),
            Flaw::Short => broker
                .set_policy(Pattern::ALL, Policy::new().max_length(1).overflow(Overflow::DropHead)),
            Flaw::Mortal => {
                let soon = Policy::new().message_ttl(Duration::from_millis(1));
                broker.set_policy(Pattern::ALL, soon);
            }
            _ => {}
        }
        Broken { inner, flaw: self.0 }
    }
}

#[async_trait]
impl World for Broken {
    async fn connect(&self, node: Option<Node>) -> Result<Arc<dyn Transport>, BoxError> {
        self.inner.connect(node).await
    }

    async fn cut(&self, node: Node) {
        if self.flaw != Flaw::Uncut {
            self.inner.cut(node).await;
        }
    }

    async fn crash(&self, node: Node) {
        self.inner.crash(node).await;
    }

    async fn mend(&self, node: Node) {
        self.inner.mend(node).await;
    }

    async fn delete(&self, queue: &str) -> Result<(), BoxError> {
        match self.flaw {
            Flaw::Undeleted => Ok(()),
            _ => self.inner.delete(queue).await,
        }
    }

    async fn depth(&self, queue: &str) -> Result<Option<Depth>, BoxError> {
        self.inner.depth(queue).await
    }

    async fn contents(&self, queue: &str) -> Result<Option<Vec<Waiting>>, BoxError> {
        let contents = self.inner.contents(queue).await?;
        Ok(contents.map(|all| if self.flaw == Flaw::Empty { Vec::new() } else { all }))
    }

    async fn taps(&self) -> Result<usize, BoxError> {
        self.inner.taps().await
    }

    async fn settled(&self, transport: &Arc<dyn Transport>) -> Result<(), BoxError> {
        self.inner.settled(transport).await
    }

    async fn restart(&self) -> Result<(), BoxError> {
        match self.flaw {
            Flaw::Unrestarted => Ok(()),
            _ => self.inner.restart().await,
        }
    }

    async fn alarm(&self, on: bool) -> Result<(), BoxError> {
        match self.flaw {
            Flaw::Deaf => Ok(()),
            _ => self.inner.alarm(on).await,
        }
    }

    fn mortal(&self) -> Duration {
        self.inner.mortal()
    }

    fn patience(&self) -> Duration {
        self.inner.patience()
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_wrong_is_told_from_the_model_in_a_few_lines() {
    for (flaw, taste) in FLAWS {
        let campaign = Campaign { kept: Vec::new(), seeds: 200, taste, at_once: 1 };
        let found = campaign.run(&Flawed(flaw)).await;
        let found = found.expect_err(&format!("{flaw:?} was not noticed"));
        let (_, shrunk) = found.split_once("\n\nshrunk: ").expect("what it was shrunk to");
        assert!(!shrunk.contains("did not come again"), "{flaw:?}: {shrunk}");
        let (_, ops) = shrunk.split_once("\n\n").expect("the sequence");
        let lines = ops.lines().filter(|line| !line.is_empty()).count();
        assert!(lines <= SHORT, "{flaw:?} in {lines} lines:\n{ops}");
    }
}
