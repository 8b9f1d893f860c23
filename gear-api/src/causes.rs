//! An error with what caused it: to look through, and in one line, for the log and for errors that
//! are shown alone.

use std::{error::Error, fmt, iter};

/// An error and the chain of its sources.
pub(crate) fn chain<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Shows an error and, after colons, the chain of its sources.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        chain(self.0).skip(1).try_for_each(|error| write!(f, ": {error}"))
    }
}
