//! What came of a run, as a table for people and as Markdown for a README.

use std::{fmt, fmt::Write as _, time::Duration};

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What it proves holds.
    Passed,
    /// The backend does not promise it, and where it can be asked for refuses it as it must; or
    /// its tests can not bring it about. The text says which.
    NotClaimed(String),
    /// It does not hold; why.
    Failed(String),
}

/// One test that ran.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// The subject.
    pub suite: &'static str,
    /// The name, unique within the suite.
    pub name: &'static str,
    /// What is known when it passes, in one line.
    pub proves: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// By the clock on the wall.
    pub took: Duration,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The backend's name.
    pub backend: String,
    /// Every test that ran.
    pub results: Vec<TestResult>,
}

/// Passed, failed and not claimed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts([usize; 3]);

impl Counts {
    fn of<'a>(results: impl Iterator<Item = &'a TestResult>) -> Self {
        let mut counts = [0; 3];
        for result in results {
            counts[match result.outcome {
                Outcome::Passed => 0,
                Outcome::Failed(_) => 1,
                Outcome::NotClaimed(_) => 2,
            }] += 1;
        }
        Self(counts)
    }
}

impl TestResult {
    /// `suite::test`, by which it is chosen.
    #[must_use]
    pub fn full_name(&self) -> String {
        crate::run::full_name(self.suite, self.name)
    }
}

impl Report {
    /// Whether no test failed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The tests that failed, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&TestResult, &str)> {
        self.results.iter().filter_map(|result| match &result.outcome {
            Outcome::Failed(why) => Some((result, why.as_str())),
            _ => None,
        })
    }

    /// The tests of what the backend does not claim, and why they did not run.
    pub fn not_claimed(&self) -> impl Iterator<Item = (&TestResult, &str)> {
        self.results.iter().filter_map(|result| match &result.outcome {
            Outcome::NotClaimed(why) => Some((result, why.as_str())),
            _ => None,
        })
    }

    /// The suites with their counts, in their order.
    fn rows(&self) -> Vec<(&'static str, Counts)> {
        let of = |suite| self.results.iter().filter(move |result| result.suite == suite);
        let suites = crate::SUITES.iter().map(|suite| suite.name);
        suites
            .filter(|&suite| of(suite).next().is_some())
            .map(|suite| (suite, Counts::of(of(suite))))
            .collect()
    }

    /// The same as Markdown: a table of the suites, then what failed and what is not claimed.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = format!("## Conformance of {}\n\n", self.backend);
        out.push_str("| suite | passed | failed | not claimed |\n|---|---:|---:|---:|\n");
        let total = Counts::of(self.results.iter());
        for (name, Counts([passed, failed, not])) in
            self.rows().into_iter().chain([("**all**", total)])
        {
            // Writing to a string can not fail.
            let _ = writeln!(out, "| {name} | {passed} | {failed} | {not} |");
        }
        self.list(&mut out, "Failed", self.failed());
        self.list(&mut out, "Not claimed", self.not_claimed());
        out
    }

    fn list<'a>(
        &self,
        out: &mut String,
        title: &str,
        results: impl Iterator<Item = (&'a TestResult, &'a str)>,
    ) {
        for (n, (result, why)) in results.enumerate() {
            if n == 0 {
                let _ = write!(out, "\n{title}:\n\n");
            }
            let why = why.lines().next().unwrap_or_default();
            let _ = writeln!(out, "- `{}`: {}; {why}", result.full_name(), result.proves);
        }
    }
}

/// The table for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(8);
        writeln!(f, "{:width$}  passed  failed  not claimed", "suite")?;
        let total = ("all", Counts::of(self.results.iter()));
        for (name, Counts([passed, failed, not])) in rows.into_iter().chain([total]) {
            writeln!(f, "{name:width$}  {passed:6}  {failed:6}  {not:11}")?;
        }
        Ok(())
    }
}
