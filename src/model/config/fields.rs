//! Typed access to the keys of a JSON object, where each error names file, key and value.
//!
//! Files of a checkpoint come from strangers: sizes are limited before reading, and a number that
//! is no count is refused rather than rounded.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::units::{Bytes, TokenId};

/// Largest JSON file of settings that is read; published ones have a few kilobytes.
const MAX_FILE: Bytes = Bytes(16 << 20);
/// Counts above this are an attack or a typing error: the reference stores them in 32 bits.
const MAX_COUNT: u64 = (1 << 31) - 1;
/// Longest value that an error repeats.
const MAX_VALUE_CHARS: usize = 80;

/// What is wrong with a JSON file of settings.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is missing or cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Path as it was opened.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any file of settings.
    #[error("{} has more than {max}", file.display())]
    TooLarge {
        /// Path as it was opened.
        file: PathBuf,
        /// Largest size that is read.
        max: Bytes,
    },
    /// The file is no JSON.
    #[error("{} is not valid JSON", file.display())]
    Json {
        /// Path as it was opened.
        file: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_json::Error,
    },
    /// The file's top level is no object.
    #[error("{} must hold a JSON object", file.display())]
    NotAnObject {
        /// Path as it was opened.
        file: PathBuf,
    },
    /// A key that has no default is missing.
    #[error("{}: missing field {key}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
    },
    /// A value has the wrong JSON type, or a count is negative, fractional or too large.
    #[error("{}: {key} = {value}, but must be {expected}", file.display())]
    WrongType {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// The value as JSON, shortened.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A value breaks a rule of its field.
    #[error("{}: {key} = {value}, but {rule}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// The value as JSON, shortened.
        value: String,
        /// The rule, a full sentence.
        rule: &'static str,
    },
    /// Two values do not fit one another.
    #[error("{}: {key} = {value} and {other_key} = {other_value}, but {rule}", file.display())]
    Conflict {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// The value as JSON, shortened.
        value: String,
        /// Dotted path of the other key, or the name of what follows from other keys.
        other_key: &'static str,
        /// The other value.
        other_value: usize,
        /// The rule, a full sentence.
        rule: &'static str,
    },
    /// A value is valid for the reference, would change the result, and is not built.
    #[error("{}: {key} = {value} is not supported (supported: {have})", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// The value as JSON, shortened.
        value: String,
        /// What is built.
        have: &'static str,
    },
}

impl ConfigError {
    /// Stable name of the kind of error: `io`, `unsupported` or `checkpoint_invalid`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "io",
            Self::Unsupported { .. } => "unsupported",
            _ => "checkpoint_invalid",
        }
    }
}

/// Reads a JSON file whose top level is an object.
pub(crate) fn read_object(file: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = read_limited(file, MAX_FILE)?;
    parse_object(&text, file)
}

/// Parses the content of `file`, whose top level must be an object.
pub(crate) fn parse_object(text: &[u8], file: &Path) -> Result<Map<String, Value>, ConfigError> {
    let value = serde_json::from_slice(text)
        .map_err(|source| ConfigError::Json { file: file.to_owned(), source })?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(ConfigError::NotAnObject { file: file.to_owned() }),
    }
}

/// Sets the keys of `over` in `object`, and those of `text_config` and `vision_config` in theirs.
pub(crate) fn lay_over(object: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        let inner = matches!(key.as_str(), "text_config" | "vision_config");
        match (object.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) if inner => below.extend(above),
            (_, value) => {
                object.insert(key, value);
            }
        }
    }
}

/// Content of a file that has at most `max` bytes, read without trusting its declared size.
pub(crate) fn read_limited(file: &Path, max: Bytes) -> Result<Vec<u8>, ConfigError> {
    let error = |source| ConfigError::Read { file: file.to_owned(), source };
    let mut content = Vec::new();
    let opened = File::open(file).map_err(error)?;
    opened.take(max.0.saturating_add(1)).read_to_end(&mut content).map_err(error)?;
    if u64::try_from(content.len()).is_ok_and(|read| read <= max.0) {
        return Ok(content);
    }
    Err(ConfigError::TooLarge { file: file.to_owned(), max })
}

/// One object of a file, with the path that leads to it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a Path,
    /// Dotted path of this object with a final dot, empty at the top level.
    prefix: &'static str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { file, prefix: "", object }
    }

    /// The same file's object that stands at `prefix`.
    pub(crate) fn inner(self, prefix: &'static str, object: &'a Map<String, Value>) -> Self {
        Self { prefix, object, ..self }
    }

    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// The raw value; `None` when it is absent, `Some(Null)` when it is null.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key)
    }

    /// The raw value; `None` when it is absent or null.
    pub(crate) fn set(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// All keys of this object, in the file's order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    /// Dotted path of a key.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An object; `None` when it is absent or null.
    pub(crate) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        match self.set(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.wrong_type(key, "an object")),
        }
    }

    /// A count of at least 1 that is given or has a default.
    pub(crate) fn positive(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        match self.raw(key) {
            None => Ok(default),
            Some(_) => match self.count(key)? {
                Some(count) if count > 0 => Ok(count),
                _ => Err(self.wrong_type(key, "a positive integer")),
            },
        }
    }

    /// A count from 0 to 2^31 - 1; `None` when it is absent or null.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.set(key) else { return Ok(None) };
        match count_of(value) {
            Some(count) => Ok(Some(count)),
            None => Err(self.wrong_type(key, "an integer from 0 to 2147483647")),
        }
    }

    /// A token id; `None` when it is absent or null.
    pub(crate) fn token(&self, key: &str) -> Result<Option<TokenId>, ConfigError> {
        let Some(value) = self.set(key) else { return Ok(None) };
        match token_of(value) {
            Some(token) => Ok(Some(token)),
            None => Err(self.wrong_type(key, "a token id from 0 to 2147483647")),
        }
    }

    /// One token id or a list of them; empty when absent or null.
    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<TokenId>, ConfigError> {
        let ids = match self.set(key) {
            None => Some(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(token_of).collect(),
            Some(value) => token_of(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong_type(key, "a token id or a list of token ids"))
    }

    /// A finite number; `None` when it is absent or null.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.set(key) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong_type(key, "a finite number")),
        }
    }

    /// A truth value; `None` when it is absent or null.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.set(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong_type(key, "true or false")),
        }
    }

    /// A text; `None` when it is absent or null.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.set(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(key, "a text")),
        }
    }

    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { file: self.file.to_owned(), key: self.path(key) }
    }

    pub(crate) fn wrong_type(&self, key: &str, expected: &'static str) -> ConfigError {
        let (file, key, value) = self.place(key);
        ConfigError::WrongType { file, key, value, expected }
    }

    pub(crate) fn invalid(&self, key: &str, rule: &'static str) -> ConfigError {
        let (file, key, value) = self.place(key);
        ConfigError::Invalid { file, key, value, rule }
    }

    pub(crate) fn unsupported(&self, key: &str, have: &'static str) -> ConfigError {
        let (file, key, value) = self.place(key);
        ConfigError::Unsupported { file, key, value, have }
    }

    pub(crate) fn conflict(
        &self,
        key: &str,
        other: (&'static str, usize),
        rule: &'static str,
    ) -> ConfigError {
        let (file, key, value) = self.place(key);
        let (other_key, other_value) = other;
        ConfigError::Conflict { file, key, value, other_key, other_value, rule }
    }

    fn place(&self, key: &str) -> (PathBuf, String, String) {
        let value = match self.raw(key) {
            Some(value) => shorten(&value.to_string()),
            None => "(default)".to_owned(),
        };
        (self.file.to_owned(), self.path(key), value)
    }
}

/// The number as a count, if it is an integer from 0 to 2^31 - 1.
pub(crate) fn count_of(value: &Value) -> Option<usize> {
    let count = value.as_u64().filter(|count| *count <= MAX_COUNT)?;
    usize::try_from(count).ok()
}

/// The number as a token id, if it is one.
pub(crate) fn token_of(value: &Value) -> Option<TokenId> {
    count_of(value).and_then(|id| u32::try_from(id).ok()).map(TokenId)
}

fn shorten(value: &str) -> String {
    if value.chars().count() <= MAX_VALUE_CHARS {
        return value.to_owned();
    }
    value.chars().take(MAX_VALUE_CHARS).chain(['…']).collect()
}
