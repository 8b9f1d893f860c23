//! The rules of the wire contract on names, as functions that also run at
//! compile time, and the error that says which rule was broken and where.

/// A queue name may have this many bytes (AMQP 0-9-1, section 4.2.5.3: short
/// strings), and so may a routing key.
pub const MAX_KEY_BYTES: usize = 255;
/// Room that every queue name leaves for `SYSTEM/`, the name of one of several
/// systems that share a broker.
pub(super) const MAX_SYSTEM_BYTES: usize = 33;
/// `:reply.` and the 32 characters of a reply queue's id.
pub(super) const REPLY_SUFFIX_BYTES: usize = 7 + 32;
/// The longest `SERVICE.host` whose reply queue still has a valid name.
pub const MAX_INSTANCE_BYTES: usize = MAX_KEY_BYTES - MAX_SYSTEM_BYTES - REPLY_SUFFIX_BYTES;
/// The longest service name that leaves room for a host of one character.
pub const MAX_SERVICE_BYTES: usize = MAX_INSTANCE_BYTES - 2;
/// A topic pattern may hold this many `#` (RabbitMQ 4.3.5 refuses more).
pub const MAX_HASHES: usize = 2;

/// A name, key or pattern that breaks a rule of the wire contract.
///
/// It says what was being read, the input, and the first thing wrong with it.
///
/// ```
/// let error = "a.b*".parse::<gear_api::Address>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "invalid host name \"b*\": '*' at byte 1 is not one of A-Z a-z 0-9 _ - (or a dot between words)",
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {input:?}: {problem}")]
pub struct NameError {
    what: &'static str,
    input: String,
    problem: NameProblem,
}

impl NameError {
    pub(crate) fn new(what: &'static str, input: &str, problem: NameProblem) -> Self {
        // An input of megabytes must not become an error of megabytes.
        let mut end = input.len().min(MAX_KEY_BYTES + 1);
        while !input.is_char_boundary(end) {
            end -= 1;
        }
        Self { what, input: input[..end].to_owned(), problem }
    }

    /// Which rule was broken, and where.
    #[must_use]
    pub fn problem(&self) -> NameProblem {
        self.problem
    }
}

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than the queue names made from it may be.
    #[error("it has {bytes} bytes; at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest that is allowed, in bytes.
        max: usize,
    },
    /// A character that the wire contract does not allow there.
    #[error("{character:?} at byte {at} is not one of A-Z a-z 0-9 _ -{}", if *.dots { " (or a dot between words)" } else { "" })]
    Character {
        /// The character.
        character: char,
        /// Where it stands, in bytes from the start.
        at: usize,
        /// Whether dots would have been allowed.
        dots: bool,
    },
    /// Two dots in a row, or a dot at an end.
    #[error("there is an empty word at byte {at}: dots stand between words")]
    EmptyWord {
        /// Where the empty word is, in bytes from the start.
        at: usize,
    },
    /// Service names that start with `amq` belong to the broker.
    #[error("names that start with \"amq\" are reserved by the broker")]
    Reserved,
    /// `*` and `#` are words of patterns, not of topics.
    #[error("the word at byte {at} is a wildcard, which only a pattern may have")]
    Wildcard {
        /// Where the word starts, in bytes.
        at: usize,
    },
    /// More `#` than a broker accepts in one pattern.
    #[error("it has more than {MAX_HASHES} words \"#\"")]
    TooManyHashes,
    /// The name of an instance that is one of a service.
    #[error("the host is missing: an instance is SERVICE.host")]
    NoHost,
    /// A pattern of addresses that is none of the four forms.
    #[error("an address is SERVICE, SERVICE.host, SERVICE.* or *.*")]
    Form,
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

pub(super) const fn check_service(name: &str) -> Result<(), NameProblem> {
    let bytes = name.as_bytes();
    if bytes.len() >= 3 && bytes[0] == b'a' && bytes[1] == b'm' && bytes[2] == b'q' {
        return Err(NameProblem::Reserved);
    }
    check_words(name, MAX_SERVICE_BYTES, false)
}

pub(super) const fn check_host(name: &str) -> Result<(), NameProblem> {
    check_words(name, MAX_INSTANCE_BYTES - 2, true)
}

/// The name of an event group, or anything else that is one word of a queue name.
pub(super) const fn check_word(name: &str, max: usize) -> Result<(), NameProblem> {
    check_words(name, max, false)
}

const fn check_words(name: &str, max: usize, dots: bool) -> Result<(), NameProblem> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(NameProblem::Empty);
    }
    if bytes.len() > max {
        return Err(NameProblem::TooLong { bytes: bytes.len(), max });
    }
    let mut at = 0;
    let mut word = 0;
    while at < bytes.len() {
        if dots && bytes[at] == b'.' {
            if at == word {
                return Err(NameProblem::EmptyWord { at });
            }
            word = at + 1;
        } else if !is_name_byte(bytes[at]) {
            return Err(NameProblem::Character { character: character(bytes, at), at, dots });
        }
        at += 1;
    }
    if word == bytes.len() {
        return Err(NameProblem::EmptyWord { at: word });
    }
    Ok(())
}

/// The character of a text that begins at a byte: `str::chars` does not run at compile time.
const fn character(text: &[u8], at: usize) -> char {
    let first = text[at] as u32;
    let (bytes, mut code) = match first {
        0..=0x7f => (1, first),
        0x80..=0xdf => (2, first & 0x1f),
        0xe0..=0xef => (3, first & 0x0f),
        _ => (4, first & 0x07),
    };
    let mut next = 1;
    while next < bytes {
        code = code << 6 | (text[at + next] & 0x3f) as u32;
        next += 1;
    }
    match char::from_u32(code) {
        Some(character) => character,
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// Checks a topic (no wildcards) or a pattern (wildcards, at most two `#`).
pub(super) const fn check_key(key: &str, wildcards: bool) -> Result<(), NameProblem> {
    let bytes = key.as_bytes();
    if bytes.is_empty() {
        return Err(NameProblem::Empty);
    }
    if bytes.len() > MAX_KEY_BYTES {
        return Err(NameProblem::TooLong { bytes: bytes.len(), max: MAX_KEY_BYTES });
    }
    let mut at = 0;
    let mut word = 0;
    let mut hashes = 0;
    while at <= bytes.len() {
        if at == bytes.len() || bytes[at] == b'.' {
            if at == word {
                return Err(NameProblem::EmptyWord { at });
            }
            if at == word + 1 && (bytes[word] == b'*' || bytes[word] == b'#') {
                if !wildcards {
                    return Err(NameProblem::Wildcard { at: word });
                }
                if bytes[word] == b'#' {
                    hashes += 1;
                    if hashes > MAX_HASHES {
                        return Err(NameProblem::TooManyHashes);
                    }
                }
            }
            word = at + 1;
        }
        at += 1;
    }
    Ok(())
}

/// Turns a broken rule into a panic, which in a constant is a compile error.
pub(super) const fn or_panic(checked: Result<(), NameProblem>) {
    match checked {
        Ok(()) => {}
        Err(NameProblem::Empty) => panic!("the name is empty"),
        Err(NameProblem::TooLong { .. }) => panic!("the name is too long"),
        Err(NameProblem::Character { .. }) => {
            panic!("the name has a character that is not one of A-Z a-z 0-9 _ -")
        }
        Err(NameProblem::EmptyWord { .. }) => panic!("the name has an empty word"),
        Err(NameProblem::Reserved) => panic!("names that start with \"amq\" are reserved"),
        Err(NameProblem::Wildcard { .. }) => panic!("only a pattern may have wildcards"),
        Err(NameProblem::TooManyHashes) => panic!("the pattern has more than two words \"#\""),
        Err(NameProblem::NoHost) => panic!("the name has no host"),
        Err(NameProblem::Form) => panic!("this is not one of the four forms of an address"),
    }
}
