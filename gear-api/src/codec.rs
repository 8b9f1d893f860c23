//! How values become bodies: JSON, or bytes as they are.

use std::{error::Error, fmt};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Text, causes::Causes};

/// A value could not be written as a body, or a body could not be read as a value. Shows the
/// error of the codec with all its causes.
#[derive(Debug)]
pub struct CodecError(Box<dyn Error + Send + Sync>);

impl CodecError {
    /// Wraps the error of a codec.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The error of the codec.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Causes(&*self.0).fmt(f)
    }
}

impl Error for CodecError {}

/// A way to write values of a type `T` as bodies and to read them back.
///
/// [`Json`] does it for everything that serde knows, [`Raw`] for bytes. One of your
/// own is a type without values:
///
/// ```
/// use bytes::Bytes;
/// use gear_api::{Codec, CodecError, Operation, Text};
///
/// #[derive(Debug)]
/// enum BigEndian {}
///
/// impl Codec<u64> for BigEndian {
///     const CONTENT_TYPE: Text = Text::from_static("application/x-be64");
///     fn encode(value: &u64) -> Result<Bytes, CodecError> {
///         Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
///     }
///     fn decode(body: &Bytes) -> Result<u64, CodecError> {
///         Ok(u64::from_be_bytes(body[..].try_into().map_err(CodecError::new)?))
///     }
/// }
///
/// const DOUBLE: Operation<u64, u64, BigEndian> = Operation::new("double");
/// # let _ = DOUBLE;
/// ```
pub trait Codec<T>: 'static {
    /// The MIME type of the bodies.
    const CONTENT_TYPE: Text;

    /// Writes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the format has no form for it.
    fn encode(value: &T) -> Result<Bytes, CodecError>;

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the body is not one.
    fn decode(body: &Bytes) -> Result<T, CodecError>;
}

/// `application/json`, for everything that serde can write and read.
///
/// An empty body reads as `null`, so that a bare message of a foreign program can
/// call an operation whose request is `()` or an `Option`.
#[derive(Debug, Clone, Copy)]
pub enum Json {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const CONTENT_TYPE: Text = Text::from_static("application/json");

    fn encode(value: &T) -> Result<Bytes, CodecError> {
        serde_json::to_vec(value).map(Bytes::from).map_err(CodecError::new)
    }

    fn decode(body: &Bytes) -> Result<T, CodecError> {
        let body: &[u8] = if body.is_empty() { b"null" } else { body };
        serde_json::from_slice(body).map_err(CodecError::new)
    }
}

/// Bytes as they are: `application/octet-stream`. Copies nothing. `()` is the empty
/// body.
#[derive(Debug, Clone, Copy)]
pub enum Raw {}

const OCTETS: Text = Text::from_static("application/octet-stream");

impl Codec<Bytes> for Raw {
    const CONTENT_TYPE: Text = OCTETS;

    fn encode(value: &Bytes) -> Result<Bytes, CodecError> {
        Ok(value.clone())
    }

    fn decode(body: &Bytes) -> Result<Bytes, CodecError> {
        Ok(body.clone())
    }
}

impl Codec<()> for Raw {
    const CONTENT_TYPE: Text = OCTETS;

    fn encode((): &()) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn decode(_: &Bytes) -> Result<(), CodecError> {
        Ok(())
    }
}
