//! What a handler returns when it fails.

use std::{error::Error, fmt};

use crate::{CallError, RemoteError, Retry, Text};

/// Any error, boxed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The codes that Gear itself puts into [`RemoteError::code`]. A service may have more of
/// its own.
pub mod code {
    /// The handler failed, and said nothing more.
    pub const FAILED: &str = "failed";
    /// The service has no handler for the operation.
    pub const UNKNOWN_OPERATION: &str = "unknown-operation";
    /// The body of the request is not what the operation says.
    pub const UNDECODABLE: &str = "undecodable";
    /// The handler's reply has no form in the operation's encoding.
    pub const UNENCODABLE: &str = "unencodable";
    /// The reply is larger than the service's limit.
    pub const TOO_LARGE: &str = "too-large";
    /// The handler panicked.
    pub const PANICKED: &str = "panicked";
    /// The handler was cut off, as by the shutdown of its node.
    pub const DROPPED: &str = "dropped";
    /// Something that the handler waited for took too long.
    pub const TIMEOUT: &str = "timeout";
    /// A service that the handler needs could not be asked, or says that it may be asked again.
    pub const UNAVAILABLE: &str = "unavailable";
    /// The service has too much to do.
    pub const OVERLOADED: &str = "overloaded";
}

/// What a handler returns when it fails: what the caller sees, and beside it what only
/// the local log shows.
///
/// `?` turns any error into a fault with the code [`code::FAILED`]: the caller learns that
/// it failed, the log learns why. Of a nested [`CallError`] the caller also learns whether
/// trying again may help ([`code::TIMEOUT`], [`code::UNAVAILABLE`]); what the handler had done before
/// the `?` nobody knows, so that is for idempotent operations only. A handler that has done nothing yet
/// says so with [`retryable`](Self::retryable). What else the caller shall see is chosen:
///
/// ```
/// use gear_api::Fault;
///
/// fn parse(text: &str) -> Result<u32, Fault> {
///     if text.is_empty() {
///         return Err(Fault::new("empty", "there is nothing to parse"));
///     }
///     Ok(text.parse::<u32>()?) // the text of this error stays here
/// }
///
/// assert_eq!(parse("").unwrap_err().code(), "empty");
/// let fault = parse("x").unwrap_err();
/// assert_eq!(fault.code(), gear_api::code::FAILED);
/// assert!(!format!("{:?}", fault.shown()).contains("invalid digit"));
/// assert!(fault.source().unwrap().to_string().contains("invalid digit"));
/// ```
///
/// Like the error type of anyhow it is not an [`Error`] itself, or `?` could not take all of them.
pub struct Fault(Box<Inner>);

struct Inner {
    shown: RemoteError,
    source: Option<BoxError>,
}

/// A short string of AMQP 0-9-1 (section 4.2.5.3).
const MAX_CODE_BYTES: usize = 255;

impl Fault {
    /// A failure that the caller sees with this code and message. A code is a short word; what
    /// it has beyond 255 bytes is cut off, since it travels where brokers have no room for more. An
    /// empty one is [`code::FAILED`].
    #[must_use]
    pub fn new(code: impl Into<Text>, message: impl Into<String>) -> Self {
        let code = code.into();
        let mut end = code.len().min(MAX_CODE_BYTES);
        while !code.is_char_boundary(end) {
            end -= 1;
        }
        let code = if code.is_empty() { code::FAILED } else { &code[..end] };
        Self::of(RemoteError::new(code, message, false))
    }

    /// Answers what another service has answered: its code, message and details. Not that asking again
    /// is safe: of what was done here before, it knows nothing.
    ///
    /// ```
    /// use gear_api::{CallError, Context, Fault, Operation, Service};
    /// # use std::sync::Arc;
    ///
    /// const REPO: Service = Service::new("REPO");
    /// const LOOKUP: Operation<String, Vec<u32>> = Operation::new("lookup");
    ///
    /// async fn search(_: Arc<()>, cx: Context, word: String) -> Result<Vec<u32>, Fault> {
    ///     match cx.client().call(REPO, LOOKUP, &word).await {
    ///         Err(CallError::Remote(error)) if error.code == "no-such-word" => {
    ///             Err(Fault::relay(error)) // our caller knows this code
    ///         }
    ///         found => Ok(found?),
    ///     }
    /// }
    /// # let _ = search;
    /// ```
    #[must_use]
    pub fn relay(error: RemoteError) -> Self {
        let mut fault = Self::new(error.code, error.message);
        fault.0.shown.details = error.details;
        fault
    }

    /// The fault in an error that comes out of a handler through layers, wherever in the chain of its
    /// sources it is. None if the error is a layer's own.
    #[must_use]
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(FaultError(fault)) = error.downcast_ref() {
                return Some(fault);
            }
            next = error.source();
        }
        None
    }

    fn of(shown: RemoteError) -> Self {
        Self(Box::new(Inner { shown, source: None }))
    }

    /// Tells the caller that asking again makes sense.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.shown.retryable = true;
        self
    }

    /// Gives the caller something for its program to read.
    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.0.shown.details = Some(details);
        self
    }

    /// Keeps the error behind it, for the local log.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The code that the caller sees.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.shown.code
    }

    /// All that the caller sees.
    #[must_use]
    pub fn shown(&self) -> &RemoteError {
        &self.0.shown
    }

    /// The error behind it, which the caller does not see.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The fault in an error that passed through layers, or the fault that it stands for.
    pub(crate) fn from_box(error: BoxError) -> Self {
        let error = match error.downcast::<FaultError>() {
            Ok(fault) => return fault.0,
            Err(error) => error,
        };
        if let Some(fault) = Self::find(&*error) {
            let shown = fault.shown().clone();
            return Self::of(shown).because(error); // a layer has wrapped it
        }
        #[cfg(feature = "tower")]
        {
            if error.is::<tower::timeout::error::Elapsed>() {
                // Cut off in the middle: nobody knows what was done.
                return Self::new(code::TIMEOUT, "it took too long").because(error);
            }
            if error.is::<tower::load_shed::error::Overloaded>() {
                return Self::new(code::OVERLOADED, "too much to do").retryable().because(error);
            }
        }
        Self::new(code::FAILED, "the service failed").because(error)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        let call = loop {
            match cause {
                None => break None,
                Some(error) => match error.downcast_ref::<CallError>() {
                    Some(call) => break Some(call),
                    None => cause = error.source(),
                },
            }
        };
        // That nothing was done behind the service does not say what was done in it.
        let fault = match call.map(|call| (call, call.retry())) {
            Some((CallError::DeadlinePassed, _)) => {
                Self::new(code::TIMEOUT, "a service behind it took too long")
            }
            Some((_, Retry::Safe | Retry::IfIdempotent)) => {
                Self::new(code::UNAVAILABLE, "a service behind it could not be asked")
            }
            _ => Self::new(code::FAILED, "the service failed"),
        };
        fault.because(error)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("shown", &self.0.shown)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shown.fmt(f)
    }
}

/// A fault on its way through layers, which know only errors.
struct FaultError(Fault);

impl fmt::Debug for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for FaultError {}

impl From<Fault> for BoxError {
    fn from(fault: Fault) -> Self {
        Box::new(FaultError(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_cut_where_a_character_ends() {
        assert_eq!(Fault::new("é".repeat(200), "").code(), "é".repeat(127));
        assert_eq!(Fault::new("empty", "").code(), "empty");
        assert_eq!(Fault::new("", "?").code(), code::FAILED);
    }
}
