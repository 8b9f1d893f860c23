//! The headers of a message: names with values, bounded in number, size and depth.

use std::fmt;

use bytes::Bytes;

use crate::Text;

/// The value of a header: the types of an AMQP 0-9-1 field table that every client
/// library has.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HeaderValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number; infinity and NaN are refused.
    Float(f64),
    /// Text.
    Text(Text),
    /// Bytes.
    Bytes(Bytes),
    /// A time, in seconds since 1970 (UTC).
    Time(u64),
    /// Values in order.
    List(Vec<HeaderValue>),
    /// Names with values, in order.
    Table(Vec<(Text, HeaderValue)>),
}

impl HeaderValue {
    /// The text, if that is what it is.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if that is what it is.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// Bytes that it takes, about as many as on the wire.
    fn size(&self) -> usize {
        1 + match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Float(_) | Self::Time(_) => 8,
            Self::Text(text) => 4 + text.len(),
            Self::Bytes(bytes) => 4 + bytes.len(),
            Self::List(values) => 4 + values.iter().map(Self::size).sum::<usize>(),
            Self::Table(fields) => {
                4 + fields.iter().map(|(name, value)| 1 + name.len() + value.size()).sum::<usize>()
            }
        }
    }

    /// Whether lists and tables in it are nested at most `depth` deep, with names and numbers
    /// that fit the wire. Stops at the limit, so no input can exhaust the stack.
    fn check(&self, depth: usize) -> Result<(), HeaderError> {
        match self {
            Self::Float(number) if !number.is_finite() => Err(HeaderError::NotFinite),
            Self::List(_) | Self::Table(_) if depth == 0 => Err(HeaderError::TooDeep),
            Self::List(values) => values.iter().try_for_each(|value| value.check(depth - 1)),
            Self::Table(fields) => fields.iter().try_for_each(|(name, value)| {
                check_length(name)?;
                value.check(depth - 1)
            }),
            _ => Ok(()),
        }
    }
}

macro_rules! header_value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for HeaderValue {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

header_value_from! {
    bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float,
    &str => Text, String => Text, Text => Text, Bytes => Bytes,
}

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// `gear-*`, `x-*`, `CC` and `BCC` have a meaning to Gear or to the broker.
    #[error("the header name {0:?} is reserved (gear-*, x-*, CC and BCC are)")]
    Reserved(String),
    /// Names have 1 to 128 bytes.
    #[error("a header name has {0} bytes; 1 to {max} are allowed", max = Headers::MAX_NAME_BYTES)]
    NameLength(usize),
    /// A message has at most [`Headers::MAX_COUNT`] headers.
    #[error("more than {} headers", Headers::MAX_COUNT)]
    TooMany,
    /// All headers together have at most [`Headers::MAX_BYTES`] bytes.
    #[error("the headers take more than {} bytes", Headers::MAX_BYTES)]
    TooLarge,
    /// Infinity or NaN: RabbitMQ closes the connection of whoever sends them, because Erlang has
    /// no such numbers.
    #[error("a number in a header is not finite")]
    NotFinite,
    /// Lists and tables are nested at most [`Headers::MAX_DEPTH`] deep.
    #[error("a header is nested more than {} deep", Headers::MAX_DEPTH)]
    TooDeep,
}

/// The headers of a message, in the order in which they were set.
///
/// At most 64, 16 KiB together, nested at most 4 deep; they must fit one frame of
/// the wire beside the other properties. The broker's headers and Gear's own have room beside them: 16
/// more, with 4 KiB.
///
/// ```
/// use gear_api::{HeaderError, Headers};
///
/// let mut headers = Headers::new();
/// headers.insert("tenant", "acme")?;
/// assert_eq!(headers.get("tenant").and_then(|value| value.as_str()), Some("acme"));
/// assert!(matches!(headers.insert("x-death", 1), Err(HeaderError::Reserved(_))));
/// # Ok::<(), HeaderError>(())
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Headers {
    fields: Vec<(Text, HeaderValue)>,
    bytes: usize,
}

/// So many headers of Gear and of the broker have room beside those of the user,
const MAX_RESERVED_COUNT: usize = 16;
/// with so many bytes.
const MAX_RESERVED_BYTES: usize = 4 * 1024;

impl Headers {
    /// Headers of one message, at most.
    pub const MAX_COUNT: usize = 64;
    /// Bytes of one name, at most.
    pub const MAX_NAME_BYTES: usize = 128;
    /// Bytes of all headers together, at most.
    pub const MAX_BYTES: usize = 16 * 1024;
    /// How deep lists and tables may be nested.
    pub const MAX_DEPTH: usize = 4;

    /// No headers; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { fields: Vec::new(), bytes: 0 }
    }

    /// Sets a header, in place of one of the same name.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] if the name is reserved or a limit would be exceeded; the
    /// headers are then as before.
    pub fn insert(
        &mut self,
        name: impl Into<Text>,
        value: impl Into<HeaderValue>,
    ) -> Result<(), HeaderError> {
        let name = name.into();
        if is_reserved(&name) {
            return Err(HeaderError::Reserved(name.chars().take(Self::MAX_NAME_BYTES).collect()));
        }
        self.insert_reserved(name, value.into())
    }

    /// Sets a header of any name: for backends, which read what is on the wire.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] if a limit would be exceeded; the headers are then as before.
    pub fn insert_reserved(&mut self, name: Text, value: HeaderValue) -> Result<(), HeaderError> {
        check_length(&name)?;
        value.check(Self::MAX_DEPTH)?;
        let added = field_size(&name, &value);
        let place = self.fields.iter().position(|(other, _)| *other == name);
        let removed = place.map_or(0, |at| field_size(&self.fields[at].0, &self.fields[at].1));
        let bytes = self.bytes - removed + added;
        let is_one_more = place.is_none();
        if (is_one_more && self.fields.len() >= Self::MAX_COUNT) || bytes > Self::MAX_BYTES {
            self.check_room(&name, is_one_more, bytes)?;
        }
        self.bytes = bytes;
        match place {
            Some(at) => self.fields[at].1 = value,
            None => self.fields.push((name, value)),
        }
        Ok(())
    }

    /// Whether the limits allow it, as far as the name is concerned: Gear's own headers, and the broker's, do not
    /// take the place of the user's, and have some of their own.
    #[cold]
    fn check_room(&self, name: &str, is_one_more: bool, bytes: usize) -> Result<(), HeaderError> {
        let reserved = || self.fields.iter().filter(|(name, _)| is_reserved(name));
        let count = reserved().count();
        let (mut max_count, mut max_bytes) = (Self::MAX_COUNT, Self::MAX_BYTES);
        if is_reserved(name) {
            max_count += MAX_RESERVED_COUNT;
            max_bytes += MAX_RESERVED_BYTES;
        } else {
            let size: usize = reserved().map(|(name, value)| field_size(name, value)).sum();
            max_count += count.min(MAX_RESERVED_COUNT);
            max_bytes += size.min(MAX_RESERVED_BYTES);
        }
        if is_one_more && self.fields.len() >= max_count {
            return Err(HeaderError::TooMany);
        }
        if bytes > max_bytes {
            return Err(HeaderError::TooLarge);
        }
        Ok(())
    }

    /// These and others, as far as they fit: those of a trace yield to the user's.
    pub(crate) fn with(mut self, others: Self) -> Self {
        if self.is_empty() {
            return others;
        }
        for (name, value) in &others.fields {
            if self.insert_reserved(name.clone(), value.clone()).is_err() {
                return others;
            }
        }
        self
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.fields.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Removes a header and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let at = self.fields.iter().position(|(other, _)| *other == name)?;
        let (name, value) = self.fields.remove(at);
        self.bytes -= field_size(&name, &value);
        Some(value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &HeaderValue)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The bytes that count towards [`Headers::MAX_BYTES`].
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn field_size(name: &str, value: &HeaderValue) -> usize {
    1 + name.len() + value.size()
}

fn check_length(name: &str) -> Result<(), HeaderError> {
    match name.len() {
        1..=Headers::MAX_NAME_BYTES => Ok(()),
        bytes => Err(HeaderError::NameLength(bytes)),
    }
}

/// Header names are case-sensitive on the wire, but nobody should have to know which
/// spelling of `X-Death` is harmless.
fn is_reserved(name: &str) -> bool {
    let starts = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    starts("gear-") || starts("x-") || name == "CC" || name == "BCC"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused() {
        let mut headers = Headers::new();
        for name in ["gear-kind", "Gear-x", "x-death", "X-Match", "CC", "BCC"] {
            assert_eq!(headers.insert(name, true), Err(HeaderError::Reserved(name.into())));
        }
        for name in ["cc", "gear", "x", "xy-z", "traceparent", "ключ"] {
            headers.insert(name, true).unwrap();
        }
        assert_eq!(headers.len(), 6);
    }

    #[test]
    fn number_size_depth_and_names_are_bounded() {
        let mut headers = Headers::new();
        for n in 0..Headers::MAX_COUNT {
            headers.insert(format!("h{n}"), 1).unwrap();
        }
        assert_eq!(headers.insert("one more", 1), Err(HeaderError::TooMany));
        headers.insert("h0", 2).unwrap();
        assert_eq!(headers.remove("h0"), Some(HeaderValue::Int(2)));
        let before = headers.clone();
        assert_eq!(headers.insert("big", "x".repeat(16 * 1024)), Err(HeaderError::TooLarge));
        assert_eq!(headers.insert("", 1), Err(HeaderError::NameLength(0)));
        assert_eq!(headers.insert("n".repeat(129), 1), Err(HeaderError::NameLength(129)));
        for number in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let list = HeaderValue::List(vec![number.into()]);
            assert_eq!(headers.insert_reserved("n".into(), list), Err(HeaderError::NotFinite));
        }
        assert_eq!(headers, before);

        let nest =
            |depth: usize| (0..depth).fold(HeaderValue::Null, |v, _| HeaderValue::List(vec![v]));
        headers.insert_reserved("deep".into(), nest(4)).unwrap();
        assert_eq!(headers.insert_reserved("deeper".into(), nest(5)), Err(HeaderError::TooDeep));
        assert_eq!(
            headers.insert_reserved("deepest".into(), nest(5000)),
            Err(HeaderError::TooDeep)
        );
    }

    #[test]
    fn what_gear_and_the_broker_say_takes_no_room_from_users() {
        let mut headers = Headers::new();
        for n in 0..Headers::MAX_COUNT {
            headers.insert(format!("h{n}"), 1).unwrap();
        }
        headers.insert_reserved("gear-key".into(), "a.b".into()).unwrap();
        for n in 1..MAX_RESERVED_COUNT {
            headers.insert_reserved(format!("x-{n}").into(), true.into()).unwrap();
        }
        let more = headers.insert_reserved("x-more".into(), true.into());
        assert_eq!(more, Err(HeaderError::TooMany));

        // Whoever comes first.
        let mut headers = Headers::new();
        for n in 0..MAX_RESERVED_COUNT {
            headers.insert_reserved(format!("x-{n}").into(), true.into()).unwrap();
        }
        for n in 0..Headers::MAX_COUNT {
            headers.insert(format!("y{n}"), 1).unwrap();
        }
        assert_eq!(headers.insert("y", 1), Err(HeaderError::TooMany));
        let all = "x".repeat(Headers::MAX_BYTES - headers.size());
        headers.insert("y0", all).unwrap();
        headers.insert_reserved("x-0".into(), "x".repeat(3 * 1024).into()).unwrap();
        let more = headers.insert_reserved("x-1".into(), "x".repeat(1024).into());
        assert_eq!(more, Err(HeaderError::TooLarge));
    }

    #[test]
    fn the_size_follows_replacement_and_removal() {
        let mut headers = Headers::new();
        headers.insert("a", "long text").unwrap();
        headers.insert("a", 1).unwrap();
        headers.insert("b", 2).unwrap();
        headers.remove("a");
        headers.remove("b");
        assert_eq!(headers.size(), 0);
    }
}
