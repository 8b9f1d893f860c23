//! The command line.

use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
A small distributed code search on Gear: 1 WEB, 2 CTRL and 4 REPO.

Usage: cargo run --release --example code_search -- [FOLDER] [OPTIONS]

  FOLDER           what to index; the crates that this workspace depends on, if not given
  --query WORDS    find the lines that have all of the words; may be repeated
  --limit N        how many hits of a query to show (default 5)
  --interactive    ask for queries; the default on a terminal
  --verify         compare complete answers with a plain scan of the same files
  --url URL        the broker (default memory://code-search)
  --help           this text
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) queries: Vec<String>,
    /// How many hits of a query are shown.
    pub(crate) limit: usize,
    pub(crate) interactive: bool,
    pub(crate) verify: bool,
    pub(crate) url: String,
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
        let mut options = Self {
            folder: None,
            queries: Vec::new(),
            limit: 5,
            interactive: false,
            verify: false,
            url: "memory://code-search".to_owned(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--query" => options.queries.push(value()?),
                "--limit" => {
                    let text = value()?;
                    let wrong = |_| format!("--limit needs a number, not {text:?}");
                    options.limit = text.parse().map_err(wrong)?;
                }
                "--interactive" => options.interactive = true,
                "--verify" => options.verify = true,
                "--url" => options.url = value()?,
                _ if argument.starts_with('-') => {
                    return Err(format!("there is no option {argument}; try --help"));
                }
                _ if options.folder.is_some() => {
                    return Err(format!("one folder is enough, what is {argument:?}? try --help"));
                }
                _ => options.folder = Some(argument.into()),
            }
        }
        Ok(Some(options))
    }
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
        assert_eq!((options.queries, options.limit), (vec!["a".into(), "b".into()], 3));
        assert!(options.verify && !options.interactive);
        assert_eq!(options.url, "memory://code-search");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("x --help").unwrap(), None);
        assert!(parse("--limit").unwrap_err().contains("--limit needs a value"));
        assert!(parse("--limit many").unwrap_err().contains("\"many\""));
        assert!(parse("--role web").unwrap_err().contains("--role"));
        assert!(parse("a b").unwrap_err().contains("\"b\""));
    }
}
