//! What a handler returns when it fails.

use std::{error::Error, fmt};

#[cfg(feature = "tower")]
use tower::{load_shed::error::Overloaded, timeout::error::Elapsed};

use crate::{CallError, CastError, NotSent, RemoteError, Retry, Text, causes::chain};

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
    /// Services hand the request on to each other in a circle.
    pub const LOOP: &str = "loop";
    /// The service has too much to do.
    pub const OVERLOADED: &str = "overloaded";
}

/// What a handler returns when it fails: what the caller sees, and beside it what only
/// the local log shows.
///
/// `?` turns any error type into a fault with the code [`code::FAILED`]: the caller learns that
/// it failed, the log learns why. Errors in a box, and anyhow's, are none themselves:
/// [`from_error`](Self::from_error) takes them too. Where a nested [`CallError`] or [`CastError`] is in
/// the chain of its sources the caller also learns whether trying again may help ([`code::TIMEOUT`],
/// [`code::UNAVAILABLE`]); what the handler had done before the `?` nobody knows, so that is for
/// idempotent operations only. A handler that has done nothing yet says so with
/// [`retryable`](Self::retryable). What else the caller shall see is chosen:
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
    /// Whether it is a panic in this process: the code alone may have come from elsewhere.
    panic: bool,
    /// Whether it would fail again.
    permanent: bool,
    /// Whether its time was over before it was its turn.
    expired: bool,
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

    /// As `?` does it, of any error, also of one in a box: for `map_err`. A fault that is in the box, or
    /// in the chain of its sources, is that fault again.
    ///
    /// ```
    /// use gear_api::{BoxError, Context, Fault};
    /// # use std::sync::Arc;
    ///
    /// fn load(name: &str) -> Result<String, BoxError> {
    ///     match name {
    ///         "" => Err(Fault::new("no-name", "which one?").into()),
    ///         name => Ok(std::fs::read_to_string(name)?),
    ///     }
    /// }
    ///
    /// async fn show(_: Arc<()>, _: Context, name: String) -> Result<String, Fault> {
    ///     let text = load(&name).map_err(Fault::from_error)?;
    ///     Ok(text.to_uppercase())
    /// }
    /// # let _ = show;
    ///
    /// let fault = load("").map_err(Fault::from_error).unwrap_err();
    /// assert_eq!(fault.code(), "no-name");
    /// let fault = load("/no/such/file").map_err(Fault::from_error).unwrap_err();
    /// assert_eq!(fault.code(), gear_api::code::FAILED);
    /// ```
    ///
    /// An `anyhow::Error` hides the type of its outermost error when it becomes another; one that may be
    /// a [`CallError`] without a context is opened with
    /// `reallocate_into_boxed_dyn_error_without_backtrace` before.
    #[must_use]
    pub fn from_error(error: impl Into<BoxError>) -> Self {
        let error = match error.into().downcast::<FaultError>() {
            Ok(fault) => return fault.0,
            Err(error) => error,
        };
        let meaning = Meaning::of(&*error);
        let permanent = match meaning {
            Meaning::Fault(fault) => fault.is_permanent(),
            Meaning::Loop => true,
            _ => false,
        };
        let mut fault = Self::of(meaning.shown());
        fault.0.permanent = permanent;
        fault.because(error)
    }

    /// Answers what another service has answered: its code, message and details. Not that asking again
    /// is safe: of what was done here before, it knows nothing. So callers may ask again if all is
    /// idempotent where the code is one of Gear's for what passes by itself ([`code::TIMEOUT`],
    /// [`code::DROPPED`], [`code::UNAVAILABLE`], [`code::OVERLOADED`]); with any other code it is final
    /// to them, also where the other service said otherwise. A handler that has done nothing before adds
    /// [`retryable`](Self::retryable) where `error.retryable` was set.
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
        chain(error).find_map(|error| error.downcast_ref().map(|FaultError(fault)| fault))
    }

    /// One that shows exactly this.
    pub(super) fn of(shown: RemoteError) -> Self {
        Self(Box::new(Inner {
            shown,
            source: None,
            panic: false,
            permanent: false,
            expired: false,
        }))
    }

    /// Its time was over before it was its turn.
    pub(super) fn expired(error: BoxError) -> Self {
        let mut fault = Self::from_error(error);
        fault.0.expired = true;
        fault
    }

    pub(super) fn is_expired(&self) -> bool {
        self.0.expired
    }

    /// What is a handler's own panicked.
    pub(super) fn of_panic(message: &str) -> Self {
        let mut fault = Self::new(code::PANICKED, message);
        fault.0.panic = true;
        fault
    }

    pub(super) fn is_panic(&self) -> bool {
        self.0.panic
    }

    /// For calls: tells the caller that asking again makes sense, whatever the operation: nothing was done. That is
    /// not for the handler to say of a request that [was delivered
    /// before](crate::Context::is_redelivered).
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.shown.retryable = true;
        self
    }

    /// For casts and events: says that it would fail again. It is set aside at once, and not
    /// [tried again](crate::NodeBuilder::retries).
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.0.permanent = true;
        self
    }

    /// Whether it would fail again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.0.permanent
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
    pub(super) fn of_layer(error: BoxError, redelivered: bool) -> Self {
        // What a layer sheds it has not begun; but who had it before may have.
        let shed = matches!(Meaning::of(&*error), Meaning::Overloaded);
        let fault = Self::from_error(error);
        if shed && !redelivered { fault.retryable() } else { fault }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::from_error(error)
    }
}

/// The deadline passed while a layer was not ready.
#[derive(Debug, thiserror::Error)]
#[error("its deadline passed before it was its turn")]
pub(super) struct Expired;

/// Without tower there is none.
#[cfg(not(feature = "tower"))]
#[derive(Debug, thiserror::Error)]
enum Elapsed {}

/// Without tower there is none.
#[cfg(not(feature = "tower"))]
#[derive(Debug, thiserror::Error)]
enum Overloaded {}

/// What an error stands for: the first of these in the chain of its sources.
pub(super) enum Meaning<'e> {
    /// A fault on its way through layers.
    Fault(&'e Fault),
    /// Its time was over before the handler was called.
    Expired,
    /// Cut off in the middle: nobody knows what was done.
    Elapsed,
    /// Not begun.
    Overloaded,
    /// A nested call had no answer in time.
    DeadlinePassed,
    /// What is behind the service could not be asked or told, or may be another time. That nothing was
    /// done there does not say what was done here.
    Unavailable,
    /// It was handed on too often.
    Loop,
    /// Nothing that is known here.
    Other,
}

impl<'e> Meaning<'e> {
    pub(super) fn of(error: &'e (dyn Error + 'static)) -> Self {
        chain(error).find_map(Self::of_one).unwrap_or(Self::Other)
    }

    fn of_one(error: &'e (dyn Error + 'static)) -> Option<Self> {
        let nested = |retry| match retry {
            Retry::Safe | Retry::IfIdempotent => Self::Unavailable,
            Retry::Useless => Self::Other,
        };
        if let Some(FaultError(fault)) = error.downcast_ref() {
            return Some(if fault.is_expired() { Self::Expired } else { Self::Fault(fault) });
        }
        if let Some(call) = error.downcast_ref::<CallError>() {
            return Some(match call {
                CallError::DeadlinePassed => Self::DeadlinePassed,
                // It is this node that can not ask any more; another one can.
                CallError::NotSent(NotSent::Closed) => Self::Unavailable,
                call => nested(call.retry()),
            });
        }
        if let Some(cast) = error.downcast_ref::<CastError>() {
            return Some(match cast {
                CastError::Closed => Self::Unavailable,
                CastError::NotSent(NotSent::TooManyHops) => Self::Loop,
                cast => nested(cast.retry()),
            });
        }
        if error.is::<Expired>() {
            return Some(Self::Expired);
        }
        if error.is::<Elapsed>() {
            return Some(Self::Elapsed);
        }
        error.is::<Overloaded>().then_some(Self::Overloaded)
    }

    /// What the caller sees of it.
    fn shown(&self) -> RemoteError {
        let (code, message) = match self {
            Self::Fault(fault) => return fault.shown().clone(),
            Self::Expired => (code::TIMEOUT, "it was not its turn in time"),
            Self::Elapsed => (code::TIMEOUT, "it took too long"),
            Self::Overloaded => (code::OVERLOADED, "too much to do"),
            Self::DeadlinePassed => (code::TIMEOUT, "a service behind it took too long"),
            Self::Unavailable => (code::UNAVAILABLE, "a service behind it could not be asked"),
            Self::Loop => (code::LOOP, "it was handed on too often"),
            Self::Other => (code::FAILED, "the service failed"),
        };
        RemoteError::new(code, message, false)
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
    /// An error with another one as its source, as layers and programs wrap them.
    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] BoxError);

    fn wrapped(error: impl Into<BoxError>) -> BoxError {
        Wrapped(Wrapped(error.into()).into()).into()
    }

    #[cfg(feature = "tower")]
    #[test]
    fn what_towers_layers_say_is_understood_however_it_is_wrapped() {
        let code_of = |fault: &Fault| (fault.code().to_owned(), fault.shown().retryable);
        for error in [Elapsed::new().into(), wrapped(Elapsed::new())] {
            assert_eq!(code_of(&Fault::of_layer(error, false)), (code::TIMEOUT.into(), false));
        }
        for error in [Overloaded::new().into(), wrapped(Overloaded::new())] {
            assert_eq!(code_of(&Fault::of_layer(error, false)), (code::OVERLOADED.into(), true));
        }
        // Who had it before may have begun with it.
        let again = Fault::of_layer(Overloaded::new().into(), true);
        assert_eq!(code_of(&again), (code::OVERLOADED.into(), false));
        // What a handler had done before it was turned away elsewhere nobody knows.
        let fault = Fault::from(Overloaded::new());
        assert_eq!(code_of(&fault), (code::OVERLOADED.into(), false));
    }

    #[test]
    fn a_fault_is_itself_again_and_the_first_error_that_is_known_counts() {
        let fault = || Fault::new("odd", "it is odd").retryable();
        for error in [fault().into(), wrapped(fault())] {
            assert_eq!(Fault::from_error(error).shown(), fault().shown());
        }
        assert_eq!(Fault::from(Wrapped(fault().into())).code(), "odd");
        let nested = |error: BoxError| Fault::from_error(error).code().to_owned();
        assert_eq!(nested(wrapped(CallError::DeadlinePassed)), code::TIMEOUT);
        assert_eq!(nested(wrapped(CastError::NotRouted)), code::UNAVAILABLE);
        assert_eq!(nested(CastError::Closed.into()), code::UNAVAILABLE);
        assert_eq!(nested(CallError::NotSent(NotSent::Closed).into()), code::UNAVAILABLE);
        assert_eq!(nested(wrapped(fault().because(CastError::NotRouted))), "odd");
        assert_eq!(nested("a text".into()), code::FAILED);
    }
}
