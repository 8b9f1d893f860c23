//! Many sequences on one backend.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use gear_test_amqp::Broker;

use crate::{
    generate::{Taste, sequence},
    kept::{self, Kept},
    memory::Memory,
    op::Op,
    page,
    rabbit::Rabbit,
    runner::{Compared, Difference, run},
    shrink::shrink,
    world::World,
};

/// Makes worlds, each with nothing in it.
pub trait Worlds: Sync {
    /// What it makes.
    type World: World;

    /// A new one.
    fn world(&self) -> impl Future<Output = Self::World>;
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// These first.
    pub kept: Vec<Kept>,
    /// Then one for each of so many seeds,
    pub seeds: u64,
    /// to this taste,
    pub taste: Taste,
    /// so many at a time.
    pub at_once: usize,
}

/// On gear-memory. Wants a paused clock.
///
/// # Panics
///
/// If there is a difference: the message is the shortest sequence that shows it.
pub async fn on_memory(what: &str, campaign: Campaign) {
    struct Worlds;
    impl self::Worlds for Worlds {
        type World = Memory;
        async fn world(&self) -> Memory {
            Memory::new()
        }
    }
    campaign.one_by_one().prove("gear-memory", what, &Worlds).await;
}

/// On a RabbitMQ.
///
/// # Panics
///
/// If there is a difference: the message is the shortest sequence that shows it.
pub async fn on_rabbitmq(what: &str, campaign: Campaign, broker: &Broker) {
    struct Worlds<'b>(&'b Broker);
    impl<'b> self::Worlds for Worlds<'b> {
        type World = Rabbit<'b>;
        async fn world(&self) -> Rabbit<'b> {
            Rabbit::new(self.0).await
        }
    }
    let name = format!("RabbitMQ {}", broker.version());
    campaign.prove(&name, what, &Worlds(broker)).await;
}

impl Campaign {
    /// So many sequences after those in `kept.txt` to the same taste: with what takes a whole
    /// broker down, or without. `long` of them with `GEAR_TEST_LONG=1`.
    ///
    /// # Panics
    ///
    /// If `kept.txt` is not well written.
    #[must_use]
    pub fn of(short: u64, long: u64, taste: Taste) -> Self {
        let kept = kept::read(include_str!("../kept.txt"));
        let mut kept = kept.unwrap_or_else(|error| panic!("kept.txt: {error}"));
        kept.retain(|kept| kept.ops.iter().any(Op::is_serial) == (taste.restarts > 0));
        let wanted = env::var("GEAR_DIFFERENTIAL_SEQUENCES").ok().and_then(|n| n.parse().ok());
        let seeds = if env::var_os("GEAR_TEST_LONG").is_some() { long } else { short };
        Self { kept, seeds: wanted.unwrap_or(seeds), taste, at_once: 24 }
    }

    /// One after the other.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        Self { at_once: 1, ..self }
    }

    async fn prove<W: Worlds>(&self, broker: &str, what: &str, worlds: &W) {
        let start = Instant::now();
        let compared = self.run(worlds).await.unwrap_or_else(|found| panic!("{broker}: {found}"));
        let Compared { operations, outcomes, deliveries, queues } = compared;
        let sequences = self.kept.len() as u64 + self.seeds;
        let how_often = format!(
            "{sequences} with {operations} operations: {outcomes} answers to publishers, \
             {deliveries} deliveries, {queues} queues at the end",
        );
        page::proven(broker, what, &how_often);
        println!("in {:.1} s", start.elapsed().as_secs_f64());
    }

    /// Runs it until the first difference.
    ///
    /// # Errors
    ///
    /// What to print: the difference, and the shortest sequence that shows one, as the file of
    /// kept sequences has it.
    pub async fn run<W: Worlds>(&self, worlds: &W) -> Result<Compared, String> {
        let next = AtomicU64::new(0);
        let results = match self.at_once {
            1 => vec![self.one_by_one_from(&next, worlds).await],
            _ => tokio::task::block_in_place(|| self.on_threads(&next, worlds)),
        };
        let mut total = Compared::default();
        let mut worst = None;
        for result in results {
            match result {
                Ok(compared) => total += compared,
                Err(found) => worst = worst.or(Some(found)),
            }
        }
        match worst {
            None => Ok(total),
            Some((name, ops, difference)) => Err(explain(worlds, &name, &ops, &difference).await),
        }
    }

    /// Each thread has a runtime of its own: a sequence mostly waits, and nothing that it blocks
    /// keeps another from going on.
    fn on_threads<W: Worlds>(&self, next: &AtomicU64, worlds: &W) -> Vec<Result<Compared, Found>> {
        let one_by_one = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            runtime.block_on(self.one_by_one_from(next, worlds))
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.at_once).map(|_| scope.spawn(one_by_one)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        })
    }

    async fn one_by_one_from<W: Worlds>(
        &self,
        next: &AtomicU64,
        worlds: &W,
    ) -> Result<Compared, Found> {
        let mut compared = Compared::default();
        while let Some((name, ops)) = self.nth(next.fetch_add(1, Ordering::Relaxed)) {
            match run(&worlds.world().await, &ops).await {
                Ok(more) => compared += more,
                Err(difference) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed); // the others come to an end
                    return Err((name, ops, difference));
                }
            }
        }
        Ok(compared)
    }

    fn nth(&self, nth: u64) -> Option<(String, Vec<Op>)> {
        let kept = self.kept.len() as u64;
        match self.kept.get(usize::try_from(nth).ok()?) {
            Some(Kept { name, ops }) => Some((name.clone(), ops.clone())),
            None => {
                let seed = nth - kept;
                let ops = || sequence(seed, self.taste);
                (seed < self.seeds).then(|| (format!("seed {seed}"), ops()))
            }
        }
    }
}

/// The name of a sequence, what it does, and what is wrong.
type Found = (String, Vec<Op>, Difference);

async fn explain<W: Worlds>(worlds: &W, name: &str, ops: &[Op], first: &Difference) -> String {
    eprintln!("{name}: {first}\n\n{}\nto be shrunk …", kept::write(name, ops));
    let mut last = None;
    let short = shrink(ops, async |ops: &[Op]| {
        let difference = run(&worlds.world().await, ops).await.err();
        let fails = difference.is_some();
        last = difference.or(last.take());
        fails
    })
    .await;
    let last = last.map_or("it did not come again".to_owned(), |last| last.to_string());
    let short = kept::write("what is wrong", &short);
    format!("{name}: {first}\n\nshrunk: {last}\n\n{short}")
}
