//! What templates call beyond the interpreter's own: methods of Python's strings and dictionaries,
//! and JSON as Python writes it.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Methods that the interpreter does not know by itself.
pub(super) fn call(
    _: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let unknown = || Error::new(ErrorKind::UnknownMethod, method.to_owned());
    if let Some(text) = value.as_str() {
        let argument = |index: usize| arguments.get(index).and_then(Value::as_str);
        return string(text, method, [argument(0), argument(1)]).ok_or_else(unknown);
    }
    if value.kind() == ValueKind::Map {
        let pairs = || -> Result<Vec<(Value, Value)>, Error> {
            value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
        };
        return match (method, arguments) {
            ("keys", []) => Ok(pairs()?.into_iter().map(|(key, _)| key).collect()),
            ("values", []) => Ok(pairs()?.into_iter().map(|(_, item)| item).collect()),
            ("items", []) => {
                Ok(pairs()?.into_iter().map(|(key, item)| Value::from(vec![key, item])).collect())
            }
            ("get", [key]) => Ok(found(value, key, Value::from(()))),
            ("get", [key, default]) => Ok(found(value, key, default.clone())),
            _ => Err(unknown()),
        };
    }
    Err(unknown())
}

fn found(map: &Value, key: &Value, default: Value) -> Value {
    map.get_item(key).ok().filter(|item| !item.is_undefined()).unwrap_or(default)
}

/// Python's `str.isspace` of one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.strip()`.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn string(text: &str, method: &str, arguments: [Option<&str>; 2]) -> Option<Value> {
    let strips = |c: char| match arguments[0] {
        Some(set) => set.contains(c),
        None => is_space(c),
    };
    Some(match (method, arguments) {
        ("strip", _) => text.trim_matches(strips).into(),
        ("lstrip", _) => text.trim_start_matches(strips).into(),
        ("rstrip", _) => text.trim_end_matches(strips).into(),
        ("startswith", [Some(start), None]) => text.starts_with(start).into(),
        ("endswith", [Some(end), None]) => text.ends_with(end).into(),
        ("split", [None, None]) => {
            text.split(is_space).filter(|word| !word.is_empty()).map(Value::from).collect()
        }
        ("split", [Some(at), None]) if !at.is_empty() => text.split(at).map(Value::from).collect(),
        ("replace", [Some(from), Some(to)]) => text.replace(from, to).into(),
        ("upper", [None, None]) => text.to_uppercase().into(),
        ("lower", [None, None]) => text.to_lowercase().into(),
        _ => return None,
    })
}

/// `tojson` of the reference's templates: Python's separators, nothing escaped for HTML or ASCII.
pub(super) fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    arguments.assert_all_used()?;
    let mut bytes = Vec::new();
    let done = match indent {
        Some(spaces) => {
            let indent = " ".repeat(spaces.min(16));
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, PythonFormatter)),
    };
    done.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let text = String::from_utf8(bytes);
    text.map(Value::from)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A space after each comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}
