//! The program that a test target is: the part of the standard harness's command line that
//! people, `cargo test` and cargo-nextest use.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use crate::{
    SUITES,
    backend::Backend,
    report::{Outcome, Report, TestResult},
    run::{Run, full_name},
};

/// Where the table goes as Markdown, if the command line does not say.
const MARKDOWN: &str = "GEAR_CONFORMANCE_MARKDOWN";

const HELP: &str = "\
Usage: [OPTIONS] [FILTER ...]       runs the tests whose names contain a FILTER

  --list                  names the tests
  --explain               names the tests and what each proves
  --exact                 a FILTER is a whole name
  --skip FILTER           not those whose names contain FILTER
  --test-threads N        so many at a time
  --markdown FILE         writes the table there, too (or GEAR_CONFORMANCE_MARKDOWN),
                          if all tests ran
";

/// The place for the table in a page that has more to say.
const BEGIN: &str = "<!-- conformance -->";
const END: &str = "<!-- /conformance -->";

/// How long a test took is told from here on.
const SLOW: Duration = Duration::from_secs(2);

/// Runs the suite as the command line says: the whole `main` of a test target with
/// `harness = false`.
///
/// It takes filters, `--exact`, `--skip`, `--list` and `--test-threads` as the standard harness
/// does, so that `cargo test NAME` and cargo-nextest work; `--explain` lists what each test
/// proves, and `--markdown FILE`, or the variable `GEAR_CONFORMANCE_MARKDOWN`, writes the
/// table: between the lines `<!-- conformance -->` and `<!-- /conformance -->` of a file that has
/// them, such as a README, or else as the whole file. A run of some tests only writes nothing.
/// Fails if a test does, and if the command line makes no sense.
pub fn main(backend: impl Backend) -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match options.what {
        What::Help => print!("{HELP}"),
        What::List { proofs } => list(&options, proofs),
        What::Run => return run(backend, options),
    }
    ExitCode::SUCCESS
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum What {
    #[default]
    Run,
    List {
        proofs: bool,
    },
    Help,
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    what: What,
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    /// Only tests that are off by default, of which there are none.
    ignored: bool,
    threads: Option<usize>,
    markdown: Option<OsString>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.flat_map(|arg| match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.into(), value.into()],
            _ => vec![arg],
        });
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--help" | "-h" => options.what = What::Help,
                "--list" => options.what = What::List { proofs: false },
                "--explain" => options.what = What::List { proofs: true },
                "--exact" => options.exact = true,
                "--ignored" => options.ignored = true,
                "--skip" => options.skip.push(value()?),
                "--markdown" => options.markdown = Some(value()?.into()),
                "--test-threads" => {
                    let threads = value()?;
                    let number = threads.parse().map_err(|_| format!("no number: {threads}"))?;
                    options.threads = Some(number);
                }
                // Of the standard harness, and without a meaning here.
                "--color" | "--format" | "--logfile" | "-Z" => drop(value()?),
                "--nocapture" | "--no-capture" | "--show-output" | "--include-ignored"
                | "--quiet" | "-q" | "--test" => {}
                option if option.starts_with('-') => return Err(format!("what is {option}?")),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }

    fn selects_all(&self) -> bool {
        !self.ignored && self.filters.is_empty() && self.skip.is_empty()
    }

    fn selects(&self, name: &str) -> bool {
        let fits = |filter: &String| {
            if self.exact { name == filter } else { name.contains(filter.as_str()) }
        };
        !self.ignored
            && (self.filters.is_empty() || self.filters.iter().any(fits))
            && !self.skip.iter().any(fits)
    }
}

fn list(options: &Options, proofs: bool) {
    for suite in SUITES {
        for case in suite.cases {
            let name = full_name(suite.name, case.name);
            match options.selects(&name) {
                true if proofs => println!("{name}: {}", case.proves),
                true => println!("{name}: test"),
                false => {}
            }
        }
    }
}

fn run(backend: impl Backend, options: Options) -> ExitCode {
    println!("\nconformance of {}", backend.name());
    let markdown = options.markdown.clone().or_else(|| std::env::var_os(MARKDOWN));
    let run = match options.threads {
        Some(threads) => Run::default().threads(threads),
        None => Run::default(),
    };
    let is_whole = options.selects_all();
    let report = run.only(move |name| options.selects(name)).on(backend, print_result);
    print_failures(&report);
    println!("\n{report}");
    match markdown {
        Some(path) if is_whole => {
            if let Err(error) = write_table(&path, &report) {
                eprintln!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
        Some(path) => println!("not all tests ran: {} stays as it is", path.display()),
        None => {}
    }
    if report.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes the table as a file, or into one that has a place for it.
fn write_table(path: &OsStr, report: &Report) -> io::Result<()> {
    let table = report.to_markdown();
    let page = match fs::read_to_string(path) {
        Ok(old) => insert(&old, &table).unwrap_or(table),
        Err(error) if error.kind() == io::ErrorKind::NotFound => table,
        Err(error) => return Err(error),
    };
    fs::write(path, page)
}

/// The page with the table in its place, if it has one.
fn insert(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn print_result(result: &TestResult) {
    let name = result.full_name();
    match &result.outcome {
        Outcome::Passed if result.took >= SLOW => {
            println!("test {name} ... ok ({:.1} s)", result.took.as_secs_f32());
        }
        Outcome::Passed => println!("test {name} ... ok"),
        Outcome::NotClaimed(why) => println!("test {name} ... not claimed ({why})"),
        Outcome::Failed(_) => println!("test {name} ... FAILED"),
    }
    // Whoever does not read on is not to hold up the tests.
    let _ = io::stdout().flush();
}

fn print_failures(report: &Report) {
    for (result, why) in report.failed() {
        println!("\n---- {} ----\nnot so: {}\n{why}", result.full_name(), result.proves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn filters_select_by_part_and_by_whole_name() {
        let all = parse("").unwrap();
        assert!(all.selects("a::b"));
        let some = parse("a::b c --skip a::bb").unwrap();
        assert!(some.selects("xa::b") && some.selects("c") && !some.selects("a::bb"));
        // As cargo-nextest runs one.
        let one = parse("a::b --exact --nocapture").unwrap();
        assert!(one.selects("a::b") && !one.selects("a::bb"));
        assert!(!parse("--list --format terse --ignored").unwrap().selects("a::b"));
    }

    #[test]
    fn only_a_whole_run_has_a_table() {
        assert!(parse("--markdown README.md --test-threads 2").unwrap().selects_all());
        for some in ["order", "--skip restart", "a::b --exact", "--ignored"] {
            assert!(!parse(some).unwrap().selects_all(), "{some}");
        }
    }

    #[test]
    fn the_table_goes_where_a_page_has_a_place_for_it() {
        let page = "# X\n<!-- conformance -->\nold\n<!-- /conformance -->\nmore\n";
        let new = insert(page, "table\n").unwrap();
        let expected = "# X\n<!-- conformance -->\n\ntable\n\n<!-- /conformance -->\nmore\n";
        assert_eq!(new, expected);
        assert_eq!(insert(&new, "table\n").unwrap(), expected);
        assert_eq!(insert("# X\n", "table\n"), None);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert_eq!(parse("--test-threads=3").unwrap().threads, Some(3));
        assert!(parse("--test-threads many").is_err());
        assert!(parse("--markdown").is_err());
        assert!(parse("--frobnicate").is_err());
    }
}
