//! What is wrong with a weight file, one variant for each way in which it can lie.

use std::path::PathBuf;

use thiserror::Error;

use super::StoredType;
use crate::units::{Bytes, FloatType};

/// A checkpoint that is missing, broken, or does not fit its configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what each field is")]
pub enum CheckpointError {
    /// The folder holds no weights in a form that is read.
    #[error(
        "{} has neither model.safetensors nor model.safetensors.index.json",
        folder.display()
    )]
    NoWeights { folder: PathBuf },
    /// A file cannot be opened or mapped.
    #[error("cannot read {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Something that is no regular file stands under a weight file's name.
    #[error("{} is no regular file", file.display())]
    NotAFile { file: PathBuf },
    /// A file too short for the length of its header.
    #[error("{} has {size}, too few for a safetensors file", file.display())]
    TooShort { file: PathBuf, size: Bytes },
    /// A header that passes the end of the file: a cut file, or not this format.
    #[error("{}: a header of {length} bytes passes the end of the file ({size} bytes)", file.display())]
    HeaderPastEnd { file: PathBuf, length: u64, size: u64 },
    /// A header longer than the format allows.
    #[error("{}: a header of {length} bytes is longer than {max}", file.display())]
    HeaderTooLong { file: PathBuf, length: u64, max: u64 },
    /// A header that is not the JSON it should be.
    #[error("{}: the header is not valid", file.display())]
    Header {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// More tensors than any checkpoint has.
    #[error("{}: {found} tensors, more than {max}", file.display())]
    TooManyTensors { file: PathBuf, found: usize, max: usize },
    /// A name that could drive the terminal that shows it.
    #[error("{}: the name {name:?} holds control characters", file.display())]
    Name { file: PathBuf, name: String },
    /// A storage type that the format does not define.
    #[error("{}: tensor {tensor} has the unknown type {found:?}", file.display())]
    UnknownType { file: PathBuf, tensor: String, found: String },
    /// Dimensions whose product passes 64 bits.
    #[error("{}: the shape of tensor {tensor} is absurd", file.display())]
    ShapeOverflow { file: PathBuf, tensor: String },
    /// Shape and type need another number of bytes than the offsets span.
    #[error("{}: tensor {tensor} needs {expected} bytes, but its offsets span {found}", file.display())]
    Size { file: PathBuf, tensor: String, expected: u64, found: u64 },
    /// Offsets that run backwards or past the end of the file.
    #[error(
        "{}: tensor {tensor} has offsets {begin} to {end}, but the file has {available} bytes of data",
        file.display()
    )]
    Offsets { file: PathBuf, tensor: String, begin: u64, end: u64, available: u64 },
    /// A tensor that shares bytes with the one before it.
    #[error("{}: tensor {tensor} begins at {begin}, inside the tensor that ends at {previous}", file.display())]
    Overlap { file: PathBuf, tensor: String, begin: u64, previous: u64 },
    /// Bytes that no tensor owns.
    #[error("{}: bytes {from} to {to} of the data belong to no tensor", file.display())]
    Gap { file: PathBuf, from: u64, to: u64 },
    /// A tensor that is stored twice, in one file or in two, or under two names.
    #[error("tensor {tensor} is in {} and again in {}", first.display(), second.display())]
    Duplicate { tensor: String, first: PathBuf, second: PathBuf },
    /// An index file that is not the JSON it should be.
    #[error("{}: the index is not valid", file.display())]
    Index {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// An index file larger than any is.
    #[error("{}: the index is larger than {max}", file.display())]
    IndexTooLarge { file: PathBuf, max: Bytes },
    /// More weight files than any checkpoint has.
    #[error("{}: {found} weight files, more than {max}", file.display())]
    TooManyShards { file: PathBuf, found: usize, max: usize },
    /// A weight file's name that could lead out of the folder.
    #[error("{}: {name:?} is no name of a file in the same folder", file.display())]
    ShardName { file: PathBuf, name: String },
    /// A weight file that the index names and the folder lacks.
    #[error("{} names the missing file {shard}", file.display())]
    MissingShard { file: PathBuf, shard: String },
    /// A tensor that is not in the file where the index puts it.
    #[error("{} puts tensor {tensor} into {shard}, which does not hold it", file.display())]
    NotInShard { file: PathBuf, tensor: String, shard: String },
    /// A tensor that the configuration asks for and no file holds.
    #[error("{} has no tensor {tensor}", folder.display())]
    MissingTensor { folder: PathBuf, tensor: String },
    /// A tensor of another shape than the configuration says.
    #[error("{}: tensor {tensor} has shape {found:?}, expected {expected:?}", file.display())]
    WrongShape { file: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    /// A weight in a type that is not read.
    #[error("{}: tensor {tensor} is stored as {found}, not as BF16, F16 or F32", file.display())]
    WrongType { file: PathBuf, tensor: String, found: StoredType },
    /// A finite weight that the compute type cannot hold.
    #[error("{}: element {index} of tensor {tensor} is too large for {to}", file.display())]
    TooLarge { file: PathBuf, tensor: String, index: usize, to: FloatType },
}

impl CheckpointError {
    /// Stable name of the kind of error: `io` or `checkpoint_invalid`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "io",
            _ => "checkpoint_invalid",
        }
    }
}
