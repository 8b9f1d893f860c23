//! The command line.

use std::path::PathBuf;

use gear_api::{Instance, Service};

use crate::roster::{CTRL, REPO, Roster, WEB, hosts};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
A small distributed code search on Gear: 1 WEB, 2 CTRL and 4 REPO.

Usage: cargo run --release --example code_search -- [FOLDER] [OPTIONS]

  FOLDER           what to index; the crates that this workspace depends on, if not given
  --query WORDS    find the lines that have all of the words; may be repeated
  --limit N        how many hits of a query to show (default 5)
  --interactive    ask for queries; the default on a terminal
  --verify         compare complete answers with a plain scan of the same files
  --url URL        the broker (default memory://code-search); for amqp://… build with
                   --features amqp
  --help           this text

Each instance as a process of its own, on as many machines as you like:

  --role ROLE      run only one instance: web, ctrl or repo
  --host NAME      on which host it is (default host1)
  --ctrls NAMES    the hosts of all CTRL (default host1,host2)
  --repos NAMES    the hosts of all REPO (default host1,host2,host3,host4); the same for
                   WEB and every CTRL, or they look for files in different places
";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) queries: Vec<String>,
    /// How many hits of a query are shown.
    pub(crate) limit: usize,
    pub(crate) interactive: bool,
    pub(crate) verify: bool,
    pub(crate) url: String,
    /// Who takes part.
    pub(crate) roster: Roster,
    /// The one that this process is; none if it is all of them.
    pub(crate) only: Option<Instance>,
}

impl Options {
    /// Reads the arguments, without the name of the program; none if they ask for help.
    ///
    /// # Errors
    ///
    /// What is wrong with them, for people.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Option<Self>, String> {
        let mut folder = None;
        let mut queries = Vec::new();
        let mut limit = 5;
        let (mut interactive, mut verify) = (false, false);
        let mut url = "memory://code-search".to_owned();
        let (mut role, mut host) = (None, None);
        let (mut ctrls, mut repos) = (hosts(2), hosts(4));

        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--query" => queries.push(value()?),
                "--limit" => {
                    let text = value()?;
                    let wrong = |_| format!("--limit needs a number, not {text:?}");
                    limit = text.parse().map_err(wrong)?;
                }
                "--interactive" => interactive = true,
                "--verify" => verify = true,
                "--url" => url = value()?,
                "--role" => role = Some(service(&value()?)?),
                "--host" => host = Some(value()?),
                "--ctrls" => ctrls = names(&value()?),
                "--repos" => repos = names(&value()?),
                _ if argument.starts_with('-') => {
                    return Err(format!("there is no option {argument}; try --help"));
                }
                _ if folder.is_some() => {
                    return Err(format!("one folder is enough, what is {argument:?}? try --help"));
                }
                _ => folder = Some(argument.into()),
            }
        }

        let only = only(role, host.as_deref(), &url)?;
        let web = only.as_ref().filter(|only| *only.service() == WEB).map(Instance::host);
        let roster = Roster::new(web.unwrap_or("host1"), &ctrls, &repos)
            .map_err(|error| error.to_string())?;
        if let Some(only) = &only
            && !roster.everyone().any(|one| one == only)
        {
            return Err(format!("{only} is not one of those in --ctrls and --repos"));
        }
        Ok(Some(Self { folder, queries, limit, interactive, verify, url, roster, only }))
    }

    /// Whether this process is to run `instance`.
    pub(crate) fn runs(&self, instance: &Instance) -> bool {
        self.only.as_ref().is_none_or(|only| only == instance)
    }
}

/// The instance that the process is; none if it is all of them.
fn only(role: Option<Service>, host: Option<&str>, url: &str) -> Result<Option<Instance>, String> {
    match (role, host) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("--host is for one instance: name its --role".to_owned()),
        (Some(_), _) if url.starts_with("memory:") => {
            Err("--role needs a broker between the processes: --url amqp://…".to_owned())
        }
        (Some(role), host) => {
            let instance = role.at(host.unwrap_or("host1"));
            instance.map(Some).map_err(|error| format!("--host: {error}"))
        }
    }
}

fn service(role: &str) -> Result<Service, String> {
    match role {
        "web" => Ok(WEB),
        "ctrl" => Ok(CTRL),
        "repo" => Ok(REPO),
        _ => Err(format!("--role is web, ctrl or repo, not {role:?}")),
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_in_any_order() {
        let options = parse("--query a src --limit 3 --verify --query b").unwrap().unwrap();
        assert_eq!(options.folder, Some("src".into()));
        assert_eq!((options.queries.join(" "), options.limit), ("a b".to_owned(), 3));
        assert!(options.verify && !options.interactive && options.only.is_none());
        assert_eq!(options.url, "memory://code-search");
    }

    #[test]
    fn a_process_runs_all_or_one() {
        let all = parse("").unwrap().unwrap();
        assert!(all.roster.everyone().all(|one| all.runs(one)));
        let line = "--url amqp://b --role repo --host b.example --repos a.example,b.example";
        let one = parse(line).unwrap().unwrap();
        let runs: Vec<&Instance> = one.roster.everyone().filter(|who| one.runs(who)).collect();
        assert_eq!(runs, [&REPO.at("b.example").unwrap()]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("x --help").unwrap().is_none());
        for (line, told) in [
            ("--limit", "--limit needs a value"),
            ("--limit many", "\"many\""),
            ("--roles web", "--roles"),
            ("a b", "\"b\""),
            ("--role cook", "\"cook\""),
            ("--role web", "--url"),
            ("--host a", "--role"),
            ("--url amqp://b --role repo --host host5", "REPO.host5 is not one of"),
            ("--url amqp://b --role repo --host a:b", "--host"),
            ("--repos a,,b", "it is empty"),
        ] {
            let mistake = parse(line).unwrap_err();
            assert!(mistake.contains(told), "{line}: {mistake}");
        }
    }
}
