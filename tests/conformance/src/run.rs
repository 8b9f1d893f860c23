//! Running: each test in a thread and a runtime of its own, within limits, so that a backend
//! that hangs, spins or panics fails a test and stops nothing else.

use std::{
    cell::RefCell,
    panic,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

use crate::{
    backend::{Backend, Cannot, Time},
    report::{Outcome, Report, TestResult},
    suite::{Case, Need, Running, Suite},
    world::World,
};

/// How long a test may take by its own clock. In virtual time nothing runs when it passes, so
/// it passes at once.
const LIMIT: Duration = Duration::from_secs(3600);
const REAL_LIMIT: Duration = Duration::from_secs(75);
/// How long a test may take by the clock on the wall: in virtual time a message that goes
/// round for ever lets no time pass.
const WALL_LIMIT: Duration = Duration::from_secs(90);

/// How tests are run; [`on`](Self::on) runs them.
///
/// ```no_run
/// # fn of(backend: impl gear_conformance::Backend) {
/// let report = gear_conformance::Run::default()
///     .only(|test| test.starts_with("settlement::"))
///     .on(backend, |result| println!("{}: {:?}", result.full_name(), result.outcome));
/// assert!(report.is_passed());
/// # }
/// ```
pub struct Run {
    threads: Option<usize>,
    wall_limit: Duration,
    only: Box<dyn Fn(&str) -> bool>,
}

impl Default for Run {
    fn default() -> Self {
        Self { threads: None, wall_limit: WALL_LIMIT, only: Box::new(|_| true) }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Run {
    /// How many tests run at a time. By default as many as there are processors in virtual
    /// time, and 8 in real time, where most of a test is waiting.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// How long one test may take by the clock on the wall; 90 s by default.
    #[must_use]
    pub fn wall_limit(mut self, limit: Duration) -> Self {
        self.wall_limit = limit;
        self
    }

    /// Only the tests whose full name, `suite::test`, this is true for.
    #[must_use]
    pub fn only(mut self, select: impl Fn(&str) -> bool + 'static) -> Self {
        self.only = Box::new(select);
        self
    }

    /// Runs the tests on a backend, and tells of each as it ends. Those that touch the whole
    /// broker come last, one at a time.
    pub fn on(self, backend: impl Backend, each: impl Fn(&TestResult) + Sync) -> Report {
        catch_panics();
        let backend: Arc<dyn Backend> = Arc::new(backend);
        let all =
            crate::SUITES.iter().flat_map(|suite| suite.cases.iter().map(move |c| (suite, c)));
        let selected = all.filter(|(suite, case)| (self.only)(&full_name(suite.name, case.name)));
        let (alone, together): (Vec<_>, Vec<_>) = selected.partition(|(_, case)| case.runs_alone());
        let threads = self.threads.unwrap_or_else(|| match backend.time() {
            Time::Virtual => thread::available_parallelism().map_or(1, Into::into),
            Time::Real => 8,
        });
        let mut results = Vec::new();
        for (cases, threads) in [(together, threads), (alone, 1)] {
            results.extend(run_all(&backend, &cases, threads, self.wall_limit, &each));
        }
        Report { backend: backend.name(), results }
    }
}

pub(crate) fn full_name(suite: &str, name: &str) -> String {
    format!("{suite}::{name}")
}

type Selected = (&'static Suite, &'static Case);

/// Runs tests, so many at a time; the results are in the order of the tests.
fn run_all(
    backend: &Arc<dyn Backend>,
    cases: &[Selected],
    threads: usize,
    wall_limit: Duration,
    each: &(impl Fn(&TestResult) + Sync),
) -> Vec<TestResult> {
    let results = Mutex::new(Vec::new());
    let taken = AtomicUsize::new(0);
    let work = || {
        while let Some(&(suite, case)) = cases.get(taken.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let outcome = run_guarded(Arc::clone(backend), case, wall_limit);
            let Case { name, proves, .. } = *case;
            let took = start.elapsed();
            let result = TestResult { suite: suite.name, name, proves, outcome, took };
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            each(&result);
            results.push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |result: &TestResult| {
        cases
            .iter()
            .position(|(suite, case)| (suite.name, case.name) == (result.suite, result.name))
    };
    results.sort_by_key(place);
    results
}

/// Runs one test in a thread that is left behind if it does not end.
fn run_guarded(backend: Arc<dyn Backend>, case: &'static Case, wall_limit: Duration) -> Outcome {
    let panics = Panics::default();
    let caught = panics.clone();
    let (sender, receiver) = mpsc::channel();
    let body = move || {
        let _ = sender.send(run_one(&backend, case, &caught));
    };
    if let Err(error) = thread::Builder::new().name(case.name.to_owned()).spawn(body) {
        return Outcome::Failed(format!("no thread for it: {error}"));
    }
    match receiver.recv_timeout(wall_limit) {
        Ok(outcome) => outcome,
        // It panicked outside of the test's own task: in what the backend wrote.
        Err(mpsc::RecvTimeoutError::Disconnected) => Outcome::Failed(panics.text()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Outcome::Failed(format!("it hangs, or goes round without end\n{}", panics.text()))
        }
    }
}

fn run_one(backend: &Arc<dyn Backend>, case: &'static Case, panics: &Panics) -> Outcome {
    let runtime = match runtime(backend.time(), panics) {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Failed(format!("no runtime for it: {error}")),
    };
    let outcome = runtime.block_on(run_case(Arc::clone(backend), case, panics));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// Runs a test, or what is to be checked in its place, and lets the system end, however that
/// ends.
async fn run_case(backend: Arc<dyn Backend>, case: &'static Case, panics: &Panics) -> Outcome {
    let limit = if backend.time() == Time::Virtual { LIMIT } else { REAL_LIMIT };
    // Nothing is proven of a system that can not be had, so here `Cannot` is a failure.
    let world = match World::new(backend).await {
        Ok(world) => world,
        Err(error) => return Outcome::Failed(format!("no system for it: {}", chain(&*error))),
    };
    let outcome = match world.capabilities().await {
        Ok(all) => {
            let unmet = case.needs.iter().find(|need| !need.is_met(&all)).copied();
            let body = match unmet {
                None => Some((case.run)(world.clone())),
                Some(need) => need.refusal(world.clone()),
            };
            let ended = match body {
                Some(body) => run_body(body, limit, panics).await,
                None => Outcome::Passed,
            };
            match (ended, unmet) {
                (Outcome::Passed, Some(need)) => Outcome::NotClaimed(not_claimed(need)),
                (ended, _) => ended,
            }
        }
        Err(error) => Outcome::Failed(format!("no connection: {}", chain(&*error))),
    };
    world.end().await;
    outcome
}

/// Runs it in a task of its own, so that a panic is an outcome.
async fn run_body(body: Running, limit: Duration, panics: &Panics) -> Outcome {
    let mut task = tokio::spawn(body);
    match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(error))) => match error.downcast::<Cannot>() {
            Ok(cannot) => Outcome::NotClaimed(cannot.to_string()),
            Err(error) => Outcome::Failed(format!("{}{}", panics.text(), chain(&*error))),
        },
        Ok(Err(_)) => Outcome::Failed(panics.text()),
        Err(_) => {
            task.abort();
            let _ = task.await;
            Outcome::Failed(format!("{}what it waits for never comes", panics.text()))
        }
    }
}

fn not_claimed(need: Need) -> String {
    match need {
        Need::delays | Need::dead_letters | Need::events | Need::taps => {
            format!("it promises no {need:?}, and refuses them")
        }
        _ => format!("it does not promise {need:?}"),
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn runtime(time: Time, panics: &Panics) -> std::io::Result<Runtime> {
    panics.catch_here();
    match time {
        Time::Virtual => Builder::new_current_thread().enable_all().start_paused(true).build(),
        Time::Real => {
            let panics = panics.clone();
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(2).enable_all();
            builder.on_thread_start(move || panics.catch_here()).build()
        }
    }
}

/// What the panics of one test said, its handlers' among them: shown if the test fails.
#[derive(Clone, Default)]
struct Panics(Arc<Mutex<String>>);

thread_local! {
    /// The test that this thread belongs to.
    static CAUGHT: RefCell<Option<Panics>> = const { RefCell::new(None) };
}

impl Panics {
    fn catch_here(&self) {
        CAUGHT.set(Some(self.clone()));
    }

    fn add(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends the panics of tests where they belong, instead of mixing them on the console.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let console = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let caught = CAUGHT.try_with(|caught| caught.borrow().clone()).ok().flatten();
            match caught {
                Some(panics) => panics.add(&info.to_string()),
                None => console(info),
            }
        }));
    });
}
