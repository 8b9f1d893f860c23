//! What is asked: a typed constant that both ends share.

use std::{fmt, marker::PhantomData, time::Duration};

use crate::{Json, Text};

/// What is asked: a name, the types of request and reply, how they are encoded, how
/// long a call waits unless it says otherwise, and whether asking twice does no harm.
///
/// A constant that both ends share; an event is one whose reply is `()`.
///
/// ```
/// use gear_api::{Operation, Raw};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// #[derive(Serialize, Deserialize)]
/// pub struct Query { pub words: Vec<String> }
/// #[derive(Serialize, Deserialize)]
/// pub struct Hits { pub files: Vec<String> }
///
/// pub const SEARCH: Operation<Query, Hits> =
///     Operation::new("search").timeout(Duration::from_secs(2)).idempotent();
/// pub const STORE: Operation<bytes::Bytes, (), Raw> = Operation::new("store");
/// assert_eq!(SEARCH.name(), "search");
/// # let _ = STORE;
/// ```
pub struct Operation<Req, Rep, C = Json> {
    name: &'static str,
    timeout: Option<Duration>,
    idempotent: bool,
    // A function type, so that the constant is Send and Sync whatever the types are.
    types: PhantomData<fn(Req, C) -> Rep>,
}

impl<Req, Rep, C> Operation<Req, Rep, C> {
    /// Bytes of a name, at most (AMQP 0-9-1: `type` is a short string).
    pub const MAX_NAME_BYTES: usize = 255;

    /// An operation called `name`.
    ///
    /// # Panics
    ///
    /// If the name is empty or longer than 255 bytes; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "an operation has a name");
        assert!(
            name.len() <= Self::MAX_NAME_BYTES,
            "the name of an operation has at most 255 bytes"
        );
        Self { name, timeout: None, idempotent: false, types: PhantomData }
    }

    /// How long a call of it waits, unless the call says otherwise.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Declares that doing it twice has the effect of doing it once, so that a retry is
    /// safe even when nobody knows whether it was done. This is for who calls: any handler may get a
    /// message twice, as its delivery is [at least once](crate::Context::is_redelivered).
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Its name, AMQP's `type`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether doing it twice has the effect of doing it once.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// How long a call of it waits, if it has a wish.
    #[must_use]
    pub const fn default_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) const fn text(&self) -> Text {
        Text::from_static(self.name)
    }
}

// Not derived: that would ask the same of the types, of which it holds no value.
impl<Req, Rep, C> Clone for Operation<Req, Rep, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Req, Rep, C> Copy for Operation<Req, Rep, C> {}

impl<Req, Rep, C> fmt::Debug for Operation<Req, Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}
