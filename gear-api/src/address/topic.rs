//! Event topics, the patterns that select them, and the groups that share them.

use std::{fmt, str::FromStr};

use super::{NameError, NameProblem, Service, name, serde_as_text, shown_as_text};
use crate::Text;

/// The key that an event is published under: words with dots between them,
/// 1 to 255 bytes, no word `*` or `#`.
///
/// ```
/// use gear_api::Topic;
///
/// const PLACED: Topic = Topic::new("orders.eu.placed");
/// assert!("orders.*".parse::<Topic>().is_err());
/// # let _ = PLACED;
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Text);

/// Selects topics: `*` stands for one word, `#` for any number of words, none too.
///
/// 1 to 255 bytes, at most two `#`. The rules are those of AMQP 0-9-1, section
/// 3.1.3.3, as RabbitMQ reads them.
///
/// ```
/// use gear_api::Pattern;
///
/// const ORDERS: Pattern = Pattern::new("orders.#");
/// assert!(ORDERS.matches("orders"));
/// assert!(ORDERS.matches("orders.eu.placed"));
/// assert!(!Pattern::new("orders.*").matches("orders.eu.placed"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Text);

/// The instances of a service that share the events of one queue: each event goes
/// to one of them. `SERVICE:events.GROUP` on the wire.
///
/// ```
/// use gear_api::{EventGroup, Service};
///
/// let group = EventGroup::new(Service::new("BILLING"), "invoices")?;
/// assert_eq!(group.to_string(), "BILLING:events.invoices");
/// # Ok::<(), gear_api::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventGroup {
    queue: Text,
    service: Service,
}

const GROUP_INFIX: &str = ":events.";

impl Topic {
    /// A topic that is known to the compiler.
    ///
    /// # Panics
    ///
    /// If it breaks a rule; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(topic: &'static str) -> Self {
        name::or_panic(name::check_key(topic, false));
        Self(Text::from_static(topic))
    }

    /// The routing key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The routing key, to keep.
    #[must_use]
    pub fn key(&self) -> Text {
        self.0.clone()
    }
}

impl Pattern {
    /// Matches every key.
    pub const ALL: Self = Self::new("#");

    /// A pattern that is known to the compiler.
    ///
    /// # Panics
    ///
    /// If it breaks a rule; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(pattern: &'static str) -> Self {
        name::or_panic(name::check_key(pattern, true));
        Self(Text::from_static(pattern))
    }

    /// The binding key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The binding key, to keep.
    #[must_use]
    pub fn key(&self) -> Text {
        self.0.clone()
    }

    /// Whether a message with this routing key is meant.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        matches(&self.0, key)
    }
}

/// RabbitMQ's rule, on any two texts: the empty text has no words.
fn matches(pattern: &str, key: &str) -> bool {
    let mut pattern = Words::new(pattern);
    let mut key = Words::new(key);
    // Where to go on after letting the last `#` take one word more.
    let mut retry: Option<(Words<'_>, Words<'_>)> = None;
    loop {
        let before = key.clone();
        match (pattern.next(), key.next()) {
            (Some("#"), _) => {
                key = before;
                retry = Some((pattern.clone(), key.clone()));
                continue;
            }
            (None, None) => return true,
            (Some("*"), Some(_)) => continue,
            (Some(wanted), Some(word)) if wanted == word => continue,
            _ => {}
        }
        let Some((after_hash, mut rest)) = retry.take() else { return false };
        if rest.next().is_none() {
            return false;
        }
        pattern = after_hash.clone();
        key = rest.clone();
        retry = Some((after_hash, rest));
    }
}

/// The words of a key: split on dots, none for the empty key.
#[derive(Clone)]
struct Words<'a>(Option<&'a str>);

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self((!text.is_empty()).then_some(text))
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        let (word, rest) = match text.split_once('.') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        self.0 = rest;
        Some(word)
    }
}

impl EventGroup {
    /// The group `name` of `service`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the name is not `[A-Za-z0-9_-]+`, or the queue name made of
    /// both would not fit 255 bytes.
    pub fn new(service: Service, name: &str) -> Result<Self, NameError> {
        let room = name::MAX_KEY_BYTES - name::MAX_SYSTEM_BYTES - GROUP_INFIX.len();
        let max = room.saturating_sub(service.as_str().len());
        name::check_word(name, max)
            .map_err(|problem| NameError::new("event group", name, problem))?;
        Ok(Self { queue: format!("{service}{GROUP_INFIX}{name}").into(), service })
    }

    /// The service that it belongs to.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The name within the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.queue[self.service.as_str().len() + GROUP_INFIX.len()..]
    }

    /// The name of its queue.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.queue
    }
}

fn parse(what: &'static str, text: &str, wildcards: bool) -> Result<Text, NameError> {
    match name::check_key(text, wildcards) {
        Ok(()) => Ok(text.into()),
        Err(problem) => Err(NameError::new(what, text, problem)),
    }
}

impl FromStr for Topic {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        parse("topic", text, false).map(Self)
    }
}

impl FromStr for Pattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        parse("pattern", text, true).map(Self)
    }
}

impl From<&Topic> for Topic {
    fn from(topic: &Topic) -> Self {
        topic.clone()
    }
}

impl FromStr for EventGroup {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((service, group)) = text.split_once(GROUP_INFIX) else {
            return Err(NameError::new("event group", text, NameProblem::Form));
        };
        Self::new(service.parse()?, group)
    }
}

shown_as_text!(Topic, Pattern, EventGroup);
serde_as_text!(Topic, Pattern, EventGroup);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word, with no cleverness to get wrong.
    fn oracle(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => oracle(rest, key),
            (Some((&"#", rest)), Some((_, tail))) => oracle(rest, key) || oracle(pattern, tail),
            (Some((&"*", rest)), Some((_, tail))) => oracle(rest, tail),
            (Some((word, rest)), Some((other, tail))) => word == other && oracle(rest, tail),
            _ => false,
        }
    }

    fn split(text: &str) -> Vec<&str> {
        if text.is_empty() { Vec::new() } else { text.split('.').collect() }
    }

    /// A million with `GEAR_TEST_LONG=1`.
    fn cases() -> u32 {
        if std::env::var_os("GEAR_TEST_LONG").is_some() { 1_000_000 } else { 2_000 }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

        #[test]
        fn matching_is_the_recursive_definition(
            pattern in "([ab*#]|aa|)(\\.([ab*#]|aa|)){0,6}",
            key in "([ab*#]|aa|)(\\.([ab*#]|aa|)){0,6}",
        ) {
            prop_assert_eq!(matches(&pattern, &key), oracle(&split(&pattern), &split(&key)));
        }
    }

    #[test]
    fn the_rules_of_the_real_broker() {
        for (pattern, key, expected) in [
            ("", "", true),
            ("#", "", true),
            ("#.#", "", true),
            ("*", "", false),
            ("*.*", ".", true),
            ("a.*", "a.", true),
            ("#", "a.b.c", true),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.#.c", "a.b.b", false),
            ("a#b", "a#b", true),
            ("a#b", "aab", false),
            ("A.*", "A.*", true),
            ("*.*", "A.*", true),
            ("A.h1", "A.*", false),
            ("a", "A", false),
            ("*", "a.b", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern:?} {key:?}");
        }
    }

    #[test]
    fn topics_and_patterns_refuse_what_no_broker_takes() {
        let long = "x".repeat(256);
        assert!(matches!(
            long.parse::<Topic>().unwrap_err().problem(),
            NameProblem::TooLong { bytes: 256, max: 255 }
        ));
        assert_eq!(
            "#.a.#.b.#".parse::<Pattern>().unwrap_err().problem(),
            NameProblem::TooManyHashes
        );
        assert!("#.a.#".parse::<Pattern>().is_ok());
        assert_eq!("a.#".parse::<Topic>().unwrap_err().problem(), NameProblem::Wildcard { at: 2 });
        assert_eq!(
            "a..b".parse::<Topic>().unwrap_err().problem(),
            NameProblem::EmptyWord { at: 2 }
        );
        assert_eq!("".parse::<Pattern>().unwrap_err().problem(), NameProblem::Empty);
    }

    #[test]
    fn groups_read_back_as_written() {
        let group: EventGroup = "BILLING:events.invoices".parse().unwrap();
        assert_eq!((group.service().as_str(), group.name()), ("BILLING", "invoices"));
        assert!("BILLING".parse::<EventGroup>().is_err());
        assert!("BILLING:events.a.b".parse::<EventGroup>().is_err());
    }
}
