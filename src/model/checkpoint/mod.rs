//! Weight files: safetensors as hostile input, in one file or in shards with an index.
//!
//! Files are mapped, not read; sizes and offsets are checked before anything is used. What a
//! tensor means and whether its shape is right is decided in `names` and `weights`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod error;
mod header;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use serde::Deserialize;

pub use error::CheckpointError;

use self::header::{TensorInfo, TextPairs, as_u64};
use super::{
    config::fields::{ConfigError, read_limited},
    names,
};
use crate::units::{Bytes, FloatType};

/// Name of an unsharded weight file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Name of the file that says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The largest published checkpoint has 38 shards.
const MAX_SHARDS: usize = 1000;
/// An index repeats the names of a header.
const MAX_INDEX: Bytes = Bytes(100_000_000);

/// Storage types of the safetensors format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the format's own names")]
pub enum StoredType {
    Bool,
    F4,
    F6E2M3,
    F6E3M2,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

/// Each type with the format's name and its size in bits.
const STORED_TYPES: [(StoredType, &str, u64); 20] = [
    (StoredType::Bool, "BOOL", 8),
    (StoredType::F4, "F4", 4),
    (StoredType::F6E2M3, "F6_E2M3", 6),
    (StoredType::F6E3M2, "F6_E3M2", 6),
    (StoredType::U8, "U8", 8),
    (StoredType::I8, "I8", 8),
    (StoredType::F8E5M2, "F8_E5M2", 8),
    (StoredType::F8E4M3, "F8_E4M3", 8),
    (StoredType::F8E8M0, "F8_E8M0", 8),
    (StoredType::I16, "I16", 16),
    (StoredType::U16, "U16", 16),
    (StoredType::F16, "F16", 16),
    (StoredType::Bf16, "BF16", 16),
    (StoredType::I32, "I32", 32),
    (StoredType::U32, "U32", 32),
    (StoredType::F32, "F32", 32),
    (StoredType::C64, "C64", 64),
    (StoredType::F64, "F64", 64),
    (StoredType::I64, "I64", 64),
    (StoredType::U64, "U64", 64),
];

impl StoredType {
    fn from_name(name: &str) -> Option<Self> {
        let entry = STORED_TYPES.iter().find(|(_, known, _)| *known == name)?;
        Some(entry.0)
    }

    /// The type of numbers that models are computed in, if it is one.
    pub fn float(self) -> Option<FloatType> {
        match self {
            Self::Bf16 => Some(FloatType::Bf16),
            Self::F16 => Some(FloatType::F16),
            Self::F32 => Some(FloatType::F32),
            _ => None,
        }
    }

    fn entry(self) -> (&'static str, u64) {
        let entry = STORED_TYPES.iter().find(|(known, _, _)| *known == self);
        entry.map(|(_, name, bits)| (*name, *bits)).expect("the table holds every variant")
    }

    /// Bytes of a tensor of this shape; `None` on overflow or for a part of a byte.
    fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        let bits =
            shape.iter().try_fold(self.entry().1, |product, side| product.checked_mul(*side))?;
        bits.is_multiple_of(8).then(|| bits.wrapping_shr(3))
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().0)
    }
}

/// One tensor of a file, its bytes in place.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// How it is stored.
    pub dtype: StoredType,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// Its elements, little endian, row major, with no alignment.
    pub bytes: &'a [u8],
    /// The file that holds it.
    pub file: &'a Path,
}

/// A mapped safetensors file whose header has been checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    content: Mmap,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// [`CheckpointError`] for a file that cannot be read or whose header lies.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let error = |source| CheckpointError::Read { file: path.to_owned(), source };
        let file = File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if !metadata.is_file() {
            return Err(CheckpointError::NotAFile { file: path.to_owned() });
        }
        if metadata.len() == 0 {
            return Err(CheckpointError::TooShort { file: path.to_owned(), size: Bytes(0) });
        }
        #[expect(unsafe_code, reason = "mapping a file of gigabytes instead of reading it")]
        // SAFETY: the map is read-only and private. Another process that writes the file changes
        // weights but breaks no invariant of ours, since bytes are only ever read as numbers; one
        // that cuts it ends this process by SIGBUS, which README states.
        let content = unsafe { Mmap::map(&file) }.map_err(error)?;
        let tensors = header::parse(&content, path)?;
        Ok(Self { path: path.to_owned(), content, tensors })
    }

    /// Path as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file.
    pub fn size(&self) -> Bytes {
        Bytes(as_u64(self.content.len()))
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, info) = self.tensors.get_key_value(name)?;
        self.view(name, info)
    }

    /// All tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.tensors.iter().filter_map(|(name, info)| self.view(name, info))
    }

    fn view<'a>(&'a self, name: &'a str, info: &'a TensorInfo) -> Option<Tensor<'a>> {
        // `header::parse` has put every range inside the file.
        let bytes = self.content.get(info.range.clone())?;
        Some(Tensor { name, dtype: info.dtype, shape: &info.shape, bytes, file: &self.path })
    }
}

/// All weight files of a checkpoint folder, by published tensor names.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// Published name to (number of the file, name in the file).
    tensors: BTreeMap<String, (usize, String)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: TextPairs,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or else the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`CheckpointError`], for everything that is wrong with the files themselves.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join(WEIGHTS_FILE);
        if single.exists() {
            return Self::from_files(folder, vec![TensorFile::open(&single)?]);
        }
        let index_file = folder.join(INDEX_FILE);
        if !index_file.exists() {
            return Err(CheckpointError::NoWeights { folder: folder.to_owned() });
        }
        let placed = read_index(&index_file)?;
        let shards = shard_names(&placed, &index_file)?;
        let mut files = Vec::with_capacity(shards.len());
        for shard in &shards {
            let path = folder.join(shard);
            if !path.exists() {
                let shard = (*shard).to_owned();
                return Err(CheckpointError::MissingShard { file: index_file, shard });
            }
            files.push(TensorFile::open(&path)?);
        }
        check_placed(&placed, &shards, &files, &index_file)?;
        Self::from_files(folder, files)
    }

    fn from_files(folder: &Path, files: Vec<TensorFile>) -> Result<Self, CheckpointError> {
        let mut tensors: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for stored in file.tensors.keys() {
                let Some(published) = names::published(stored) else { continue };
                match tensors.entry(published) {
                    Entry::Vacant(entry) => {
                        entry.insert((number, stored.clone()));
                    }
                    Entry::Occupied(entry) => {
                        let first = files.get(entry.get().0).unwrap_or(file).path.clone();
                        let (tensor, second) = (stored.clone(), file.path.clone());
                        return Err(CheckpointError::Duplicate { tensor, first, second });
                    }
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), files, tensors })
    }

    /// The folder as it was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The weight files.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// The tensor with this published name, whatever its name in the file.
    pub fn tensor(&self, published: &str) -> Option<Tensor<'_>> {
        let (file, stored) = self.tensors.get(published)?;
        self.files.get(*file)?.tensor(stored)
    }

    /// Published names and tensors in the order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.tensors.iter().filter_map(|(published, (file, stored))| {
            Some((published.as_str(), self.files.get(*file)?.tensor(stored)?))
        })
    }
}

/// (tensor, shard) of each line of the index.
fn read_index(file: &Path) -> Result<Vec<(String, String)>, CheckpointError> {
    let text = read_limited(file, MAX_INDEX).map_err(|error| match error {
        ConfigError::Read { file, source } => CheckpointError::Read { file, source },
        _ => CheckpointError::IndexTooLarge { file: file.to_owned(), max: MAX_INDEX },
    })?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|source| CheckpointError::Index { file: file.to_owned(), source })?;
    let placed = index.weight_map.0;
    if let Some((name, _)) = placed.iter().find(|(tensor, _)| tensor.contains(char::is_control)) {
        return Err(CheckpointError::Name { file: file.to_owned(), name: name.clone() });
    }
    let mut seen = BTreeSet::new();
    match placed.iter().find(|(tensor, _)| !seen.insert(tensor)) {
        None => Ok(placed),
        Some((tensor, _)) => Err(CheckpointError::Duplicate {
            tensor: tensor.clone(),
            first: file.to_owned(),
            second: file.to_owned(),
        }),
    }
}

/// The names of all shards in order, each a plain file name.
fn shard_names<'a>(
    placed: &'a [(String, String)],
    file: &Path,
) -> Result<Vec<&'a str>, CheckpointError> {
    let names: BTreeSet<&str> = placed.iter().map(|(_, shard)| shard.as_str()).collect();
    if names.len() > MAX_SHARDS {
        let (file, found) = (file.to_owned(), names.len());
        return Err(CheckpointError::TooManyShards { file, found, max: MAX_SHARDS });
    }
    match names.iter().find(|name| !is_plain_name(name)) {
        None => Ok(names.into_iter().collect()),
        Some(name) => {
            let (file, name) = (file.to_owned(), (*name).to_owned());
            Err(CheckpointError::ShardName { file, name })
        }
    }
}

/// Whether a name stays inside the folder on every system, and shows as it is.
fn is_plain_name(name: &str) -> bool {
    let foreign = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !matches!(name, "" | "." | "..") && !name.contains(foreign)
}

/// Each tensor must be in the shard where the index puts it.
fn check_placed(
    placed: &[(String, String)],
    shards: &[&str],
    files: &[TensorFile],
    index: &Path,
) -> Result<(), CheckpointError> {
    let by_name: BTreeMap<&str, &TensorFile> = shards.iter().copied().zip(files).collect();
    for (tensor, shard) in placed {
        if !by_name.get(shard.as_str()).is_some_and(|file| file.tensors.contains_key(tensor)) {
            let (file, tensor, shard) = (index.to_owned(), tensor.clone(), shard.clone());
            return Err(CheckpointError::NotInShard { file, tensor, shard });
        }
    }
    Ok(())
}
