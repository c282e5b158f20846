//! The header of a safetensors file: parsing and every check of its offsets.
//!
//! Eight bytes hold the header's length, little endian; then comes JSON that gives each tensor its
//! type, shape and offsets into the data that follow. Nothing of it is believed before it is
//! checked: the tensors must tile the data exactly.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    ops::Range,
    path::Path,
};

use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};

use super::{CheckpointError, StoredType};
use crate::units::Bytes;

/// 100 MB: the format's own limit on a header; a longer one is an attack or no header.
const MAX_HEADER: u64 = 100_000_000;
/// The largest published checkpoint has 1,300 tensors.
pub(super) const MAX_TENSORS: usize = 100_000;
/// Bytes of the header's length.
const PREFIX: usize = 8;
/// The entry that holds free text instead of a tensor.
const METADATA: &str = "__metadata__";

/// Where and how one tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub(super) dtype: StoredType,
    pub(super) shape: Vec<usize>,
    /// Bytes of the file; inside it by construction.
    pub(super) range: Range<usize>,
}

/// Parses and checks the header of `content`, the whole of `file`.
pub(super) fn parse(
    content: &[u8],
    file: &Path,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let (json, data_start) = split(content, file)?;
    let header: RawHeader = serde_json::from_slice(json)
        .map_err(|source| CheckpointError::Header { file: file.to_owned(), source })?;
    let found = header.0.len();
    if found > MAX_TENSORS {
        let file = file.to_owned();
        return Err(CheckpointError::TooManyTensors { file, found, max: MAX_TENSORS });
    }
    let available = as_u64(content.len()).saturating_sub(as_u64(data_start));
    let mut tensors = Vec::with_capacity(found);
    for (name, raw) in header.0 {
        tensors.push(check_tensor(name, raw, available, file)?);
    }
    check_tiling(&mut tensors, available, file)?;
    collect(tensors, data_start, file)
}

/// The header's JSON and where the data begin.
fn split<'a>(content: &'a [u8], file: &Path) -> Result<(&'a [u8], usize), CheckpointError> {
    let Some((prefix, rest)) = content.split_first_chunk::<PREFIX>() else {
        let size = Bytes(as_u64(content.len()));
        return Err(CheckpointError::TooShort { file: file.to_owned(), size });
    };
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER {
        let file = file.to_owned();
        return Err(CheckpointError::HeaderTooLong { file, length, max: MAX_HEADER });
    }
    let json = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let Some(json) = json else {
        let (file, size) = (file.to_owned(), as_u64(content.len()));
        return Err(CheckpointError::HeaderPastEnd { file, length, size });
    };
    Ok((json, PREFIX.saturating_add(json.len())))
}

struct Checked {
    name: String,
    dtype: StoredType,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

fn check_tensor(
    name: String,
    raw: RawTensor,
    available: u64,
    file: &Path,
) -> Result<Checked, CheckpointError> {
    let (begin, end) = raw.data_offsets;
    if name.contains(char::is_control) {
        return Err(CheckpointError::Name { file: file.to_owned(), name });
    }
    let Some(dtype) = StoredType::from_name(&raw.dtype) else {
        let (file, found) = (file.to_owned(), raw.dtype);
        return Err(CheckpointError::UnknownType { file, tensor: name, found });
    };
    if begin > end || end > available {
        let file = file.to_owned();
        return Err(CheckpointError::Offsets { file, tensor: name, begin, end, available });
    }
    let shape = raw.shape.iter().map(|side| usize::try_from(*side).ok()).collect();
    let bytes = dtype.bytes_of(&raw.shape);
    let (Some(shape), Some(expected)) = (shape, bytes) else {
        return Err(CheckpointError::ShapeOverflow { file: file.to_owned(), tensor: name });
    };
    let found = end.saturating_sub(begin);
    if expected != found {
        let file = file.to_owned();
        return Err(CheckpointError::Size { file, tensor: name, expected, found });
    }
    Ok(Checked { name, dtype, shape, begin, end })
}

/// Sorts by offset; each tensor must begin where the one before it ends, the last at the end.
fn check_tiling(
    tensors: &mut [Checked],
    available: u64,
    file: &Path,
) -> Result<(), CheckpointError> {
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let mut previous = 0;
    for tensor in &*tensors {
        let (file, begin) = (file.to_owned(), tensor.begin);
        if begin < previous {
            let tensor = tensor.name.clone();
            return Err(CheckpointError::Overlap { file, tensor, begin, previous });
        }
        if begin > previous {
            return Err(CheckpointError::Gap { file, from: previous, to: begin });
        }
        previous = tensor.end;
    }
    if previous != available {
        let file = file.to_owned();
        return Err(CheckpointError::Gap { file, from: previous, to: available });
    }
    Ok(())
}

fn collect(
    tensors: Vec<Checked>,
    data_start: usize,
    file: &Path,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let mut map = BTreeMap::new();
    for Checked { name, dtype, shape, begin, end } in tensors {
        let place = |offset: u64| usize::try_from(offset).ok()?.checked_add(data_start);
        let (Some(begin), Some(end)) = (place(begin), place(end)) else {
            return Err(CheckpointError::ShapeOverflow { file: file.to_owned(), tensor: name });
        };
        match map.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(TensorInfo { dtype, shape, range: begin..end });
            }
            Entry::Occupied(entry) => {
                let (first, second) = (file.to_owned(), file.to_owned());
                let tensor = entry.key().clone();
                return Err(CheckpointError::Duplicate { tensor, first, second });
            }
        }
    }
    Ok(map)
}

/// A count in memory as a 64-bit number; no machine has larger addresses.
pub(super) fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The header as it stands, so that a name that stands twice shows.
struct RawHeader(Vec<(String, RawTensor)>);

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

/// A JSON object of texts in the file's order, so that a key that stands twice shows.
pub(super) struct TextPairs(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for TextPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = TextPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextPairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(TextPairs(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
