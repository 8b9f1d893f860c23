//! Short immutable text that costs nothing, or one reference count, to clone.
//! Names, keys, operations and content types are made of it.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// Short immutable text: a `&'static str`, or shared by a reference count.
///
/// Compares, hashes and orders as the `str` it holds.
///
/// ```
/// use gear_api::Text;
///
/// const JSON: Text = Text::from_static("application/json");
/// assert_eq!(JSON, Text::from(String::from("application/json")));
/// assert!(JSON.starts_with("application/"));
/// ```
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Text {
    /// The empty text.
    pub const EMPTY: Self = Self::from_static("");

    /// Text that lives as long as the program; allocates nothing.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Repr::Static(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(text) => text,
            Repr::Shared(text) => text,
        }
    }

    /// The same text, kept for as long as the program lives, if there is room among the kept ones. For
    /// the names that a program gives itself, which go with every message: threads that count the users
    /// of one text wait for each other, and so does whoever reads it.
    pub(crate) fn kept(self) -> Self {
        static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        self.kept_among(&mut KEPT.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn kept_among(self, kept: &mut BTreeSet<&'static str>) -> Self {
        if let Some(text) = kept.get(self.as_str()) {
            return Self::from_static(text);
        }
        match &self.0 {
            Repr::Shared(text) if kept.len() < MOST_KEPT => {
                let text = Box::leak(Box::from(&**text));
                kept.insert(text);
                Self::from_static(text)
            }
            _ => self,
        }
    }
}

/// A program has a few names. One that makes a new one for each task of its has its later ones counted.
const MOST_KEPT: usize = 1_000;

impl Default for Text {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Repr::Shared(text.into()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Repr::Shared(text.into()))
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_texts_are_kept_and_no_more() {
        let mut kept = BTreeSet::new();
        let mut keep = |n: usize| Text::from(n.to_string()).kept_among(&mut kept);
        for n in 0..MOST_KEPT {
            assert!(matches!(keep(n).0, Repr::Static(_)));
        }
        let (one, again) = (keep(1), keep(1));
        assert!(std::ptr::eq(one.as_str(), again.as_str()) && one == "1");
        let late = keep(MOST_KEPT);
        assert!(matches!(late.0, Repr::Shared(_)) && late == MOST_KEPT.to_string().as_str());
        assert_eq!(kept.len(), MOST_KEPT);
    }
}
