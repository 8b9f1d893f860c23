//! How values become bodies: JSON, or bytes as they are.

use std::{error::Error, fmt};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::error::Category;

use crate::{Text, causes::Causes};

/// A value could not be written as a body, or a body could not be read as a value.
///
/// Its text goes to logs, also of services that only pass it on, and so quotes no body. Of JSON that
/// could not be read it says where it ceased to be as expected; what serde found there is in
/// [`get_ref`](Self::get_ref), and shown by `Debug`.
#[derive(Debug)]
pub struct CodecError {
    error: Box<dyn Error + Send + Sync>,
    /// Whether its text may quote what was read.
    private: bool,
}

impl CodecError {
    /// Wraps the error of a codec, and shows it with all its causes: none of them may quote a body. For
    /// one that may there is [`private`](Self::private).
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), private: false }
    }

    /// Wraps the error of a codec whose text may quote what was read, as those of serde's formats do
    /// (`invalid type: string "secret"`). It is not shown.
    pub fn private(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), private: true }
    }

    /// The error of the codec.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.error
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.private {
            return Causes(&*self.error).fmt(f);
        }
        let Some(error) = self.error.downcast_ref::<serde_json::Error>() else {
            return f.write_str("it is not what the codec reads");
        };
        f.write_str(match error.classify() {
            Category::Eof => "JSON that ends too early",
            Category::Data => "JSON of another kind",
            Category::Syntax | Category::Io => "not JSON",
        })?;
        match (error.line(), error.column()) {
            (0, _) => Ok(()), // not known
            (line, column) => write!(f, " at line {line} column {column}"),
        }
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
    /// [`CodecError`] if the body is not one; [`CodecError::private`] if the error may quote it.
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
        serde_json::from_slice(body).map_err(CodecError::private)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_json_says_where_and_not_what() {
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String")]
        struct Mail(String);
        impl TryFrom<String> for Mail {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                if text.contains('@') { Ok(Self(text)) } else { Err(format!("{text} is no mail")) }
            }
        }
        let shown = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            let error = <Json as Codec<Vec<Mail>>>::decode(&body).unwrap_err();
            (error.to_string(), error.get_ref().to_string())
        };
        let of_kind = |(shown, _): (String, String)| shown;
        assert_eq!(of_kind(shown("[")), "JSON that ends too early at line 1 column 1");
        assert_eq!(of_kind(shown("secret")), "not JSON at line 1 column 1");
        let (text, found) = shown("[\"a@b\",\n\"secret\"]");
        assert!(text.starts_with("JSON of another kind at line 2 column"), "{text}");
        assert!(found.contains("secret is no mail"), "{found}");

        let body = Bytes::from_static(b"\"secret\"");
        let error = <Json as Codec<Mail>>::decode(&body).unwrap_err();
        assert_eq!(error.to_string(), "JSON of another kind");
        let error = CodecError::private("found \"secret\"");
        assert_eq!(error.to_string(), "it is not what the codec reads");
    }
}
