//! Typed weight sets: what the kernels read, made from a checkpoint.
//!
//! Every name and shape is checked against the configuration before a byte is converted. Then each
//! tensor is prepared on the host in turn (converted to the compute type, stacked with those that one GEMM
//! reads, padded) and handed to whoever keeps it: a device in [`Weights::load`], a test in its own
//! way through [`prepare`].
//!
//! Layout: `[N, K]` row-major, K contiguous; every N and K is padded with zeros
//! to a multiple of [`WIDTH_STEP`], which changes no bit of a product. Vectors are `[N]`, padded
//! likewise.

use std::{collections::BTreeMap, fmt, marker::PhantomData, path::PathBuf};

use half::{bf16, f16};

use super::{
    ModelError,
    checkpoint::{Checkpoint, CheckpointError, StoredType, Tensor},
    config::ModelConfig,
    names::{self, Expected},
};
use crate::{
    device::{Device, Element, Floats},
    units::{Bytes, Float, FloatType},
};

/// Widths are padded to a multiple of this: the depth of one tensor-core step.
pub const WIDTH_STEP: usize = 16;
/// Alignment of a buffer on the device.
const BUFFER_ALIGNMENT: u64 = 256;
/// Problems after which a comparison with the configuration stops.
pub const MAX_PROBLEMS: usize = 100;

/// Weights of a vision block; E channels, F feed-forward width padded.
#[derive(Debug)]
pub struct VisionBlock<W> {
    /// `[E]`.
    pub norm1_weight: W,
    /// `[E]`; none of an RMS norm.
    pub norm1_bias: Option<W>,
    /// `[3E, E]`: rows of queries, keys, values.
    pub qkv_weight: W,
    /// `[3E]`.
    pub qkv_bias: W,
    /// `[E, E]`.
    pub proj_weight: W,
    /// `[E]`.
    pub proj_bias: W,
    /// `[E]`.
    pub norm2_weight: W,
    /// `[E]`; none of an RMS norm.
    pub norm2_bias: Option<W>,
    /// `[F, E]`; `[2F, E]` in the windowed tower, all gate rows, then all up rows.
    pub up_weight: W,
    /// `[F]` or `[2F]`.
    pub up_bias: W,
    /// `[E, F]`.
    pub down_weight: W,
    /// `[E]`.
    pub down_bias: W,
}

/// Weights of the merger; M = E * merge^2 channels of a merged row, C channels of a token row.
#[derive(Debug)]
pub struct Merger<W> {
    /// `[E]`.
    pub norm_weight: W,
    /// `[E]`; none of an RMS norm.
    pub norm_bias: Option<W>,
    /// `[M, M]`.
    pub fc1_weight: W,
    /// `[M]`.
    pub fc1_bias: W,
    /// `[C, M]`.
    pub fc2_weight: W,
    /// `[C]`.
    pub fc2_bias: W,
}

/// Weights of the vision tower.
#[derive(Debug)]
pub struct VisionWeights<W> {
    /// `[E, patch width padded]`: 1176 to 1184 for the published models.
    pub patch_embed: W,
    /// One for each block.
    pub blocks: Vec<VisionBlock<W>>,
    /// From patch rows to token rows.
    pub merger: Merger<W>,
}

/// Weights of a decoder layer; H query heads, G key/value heads, D head width, F padded.
#[derive(Debug)]
pub struct TextLayer<W> {
    /// `[C]`.
    pub input_norm: W,
    /// `[(H + 2G) D, C]`: rows of queries, keys, values.
    pub qkv_weight: W,
    /// `[(H + 2G) D]`.
    pub qkv_bias: W,
    /// `[C, H D]`.
    pub o_weight: W,
    /// `[C]`.
    pub post_norm: W,
    /// `[2F, C]`: all gate rows, then all up rows.
    pub gate_up_weight: W,
    /// `[C, F]`.
    pub down_weight: W,
}

/// Weights of the language model; V vocabulary padded.
#[derive(Debug)]
pub struct TextWeights<W> {
    /// `[V, C]`.
    pub embed: W,
    /// One for each layer.
    pub layers: Vec<TextLayer<W>>,
    /// `[C]`.
    pub norm: W,
    /// `[V, C]`; `None` where the head is the embedding table.
    pub head: Option<W>,
}

/// All weights of a model.
#[derive(Debug)]
pub struct WeightSet<W> {
    /// The vision tower.
    pub vision: VisionWeights<W>,
    /// The language model.
    pub text: TextWeights<W>,
}

/// Weights on a device.
pub type Weights = WeightSet<Floats>;

/// One prepared tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor<T> {
    /// Published name of the first tensor in it.
    pub name: String,
    /// Its dimensions after padding: `[N]` or `[N, K]`.
    pub shape: Vec<usize>,
    /// Its elements, row major.
    pub values: Vec<T>,
}

/// What was odd about a checkpoint and does not stop it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadWarning {
    /// Tensors were stored otherwise and were converted to the compute type.
    Converted {
        /// The type that they have on the device.
        to: FloatType,
        /// How they are stored.
        from: StoredType,
        /// How many.
        tensors: usize,
    },
    /// A tensor that the model does not have.
    Ignored {
        /// The file that holds it.
        file: PathBuf,
        /// Its name there.
        tensor: String,
    },
    /// A head was stored, but the configuration ties it to the embedding table.
    HeadIgnored {
        /// The file that holds it.
        file: PathBuf,
    },
}

impl LoadWarning {
    /// Stable name of the kind of warning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Converted { .. } => "dtype_converted",
            Self::Ignored { .. } | Self::HeadIgnored { .. } => "ignored_tensor",
        }
    }
}

impl fmt::Display for LoadWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Converted { to, from, tensors } => {
                write!(f, "{tensors} tensors are stored as {from} and were converted to {to}")
            }
            Self::Ignored { file, tensor } => {
                write!(f, "{}: tensor {tensor} is not part of the model", file.display())
            }
            Self::HeadIgnored { file } => {
                write!(f, "{}: lm_head.weight is ignored, the head is tied", file.display())
            }
        }
    }
}

impl Weights {
    /// Checks, prepares and uploads all weights as numbers of a type.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for the first tensor that is missing, misshapen or of a type
    /// that is not read; [`ModelError::Device`] if the device refuses.
    pub fn load(
        device: &Device,
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        dtype: FloatType,
    ) -> Result<(Self, Vec<LoadWarning>), ModelError> {
        fn upload<T: Float + Element>(
            device: &Device,
            tensor: &HostTensor<T>,
        ) -> Result<Floats, ModelError> {
            Ok(device.upload(&tensor.values)?.into())
        }
        match dtype {
            FloatType::Bf16 => prepare::<bf16, _, _>(config, checkpoint, |t| upload(device, &t)),
            FloatType::F16 => prepare::<f16, _, _>(config, checkpoint, |t| upload(device, &t)),
            FloatType::F32 => prepare::<f32, _, _>(config, checkpoint, |t| upload(device, &t)),
        }
    }
}

/// What a checkpoint is computed in unless something else is asked for: the type that its
/// configuration names, else the one that its embedding table is stored in.
pub fn own_type(config: &ModelConfig, checkpoint: &Checkpoint) -> FloatType {
    let stored = || checkpoint.tensor(names::EMBED).and_then(|tensor| tensor.dtype.float());
    config.stored_type.or_else(stored).unwrap_or_default()
}

/// The smallest multiple of [`WIDTH_STEP`] that holds `width`.
pub fn padded(width: usize) -> usize {
    width.next_multiple_of(WIDTH_STEP)
}

/// Device memory of all weights, known from the configuration alone; `None` on overflow.
pub fn planned_bytes(config: &ModelConfig, dtype: FloatType) -> Option<Bytes> {
    let times = |count: usize, tensors: &[Expected]| {
        sum_bytes(tensors.iter(), dtype)?.checked_mul(u64::try_from(count).ok()?)
    };
    let once: Vec<_> = names::expected_once(config).collect();
    let vision = names::vision_block_tensors(&config.vision, 0);
    let text = names::text_layer_tensors(&config.text, 0);
    sum_bytes(once.iter(), dtype)?
        .checked_add(times(config.vision.depth, &vision)?)?
        .checked_add(times(config.text.num_hidden_layers, &text)?)
}

fn sum_bytes<'a>(
    mut tensors: impl Iterator<Item = &'a Expected>,
    dtype: FloatType,
) -> Option<Bytes> {
    tensors.try_fold(Bytes(0), |sum, tensor| {
        let elements = padded_shape(&tensor.shape)?
            .iter()
            .try_fold(1usize, |product, side| product.checked_mul(*side))?;
        let bytes = Bytes::of::<u8>(elements.checked_mul(dtype.size())?)?
            .0
            .checked_next_multiple_of(BUFFER_ALIGNMENT)?;
        sum.checked_add(Bytes(bytes))
    })
}

/// Everything in which a checkpoint differs from its configuration, at most [`MAX_PROBLEMS`].
pub fn problems(config: &ModelConfig, checkpoint: &Checkpoint) -> Vec<CheckpointError> {
    names::expected(config)
        .filter_map(|expected| find(checkpoint, &expected).err())
        .take(MAX_PROBLEMS)
        .collect()
}

/// Checks all names and shapes, then prepares each tensor and gives it to `place`.
///
/// # Errors
/// [`CheckpointError`] for the first tensor that is missing, misshapen or of a type that is not
/// read, and whatever `place` returns.
pub fn prepare<T: Float, W, E: From<CheckpointError>>(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    place: impl FnMut(HostTensor<T>) -> Result<W, E>,
) -> Result<(WeightSet<W>, Vec<LoadWarning>), E> {
    let mut converted = BTreeMap::new();
    let mut known = Vec::new();
    for expected in names::expected(config) {
        let tensor = find(checkpoint, &expected)?;
        if tensor.dtype.float() != Some(T::TYPE) {
            *converted.entry(tensor.dtype).or_insert(0) += 1;
        }
        known.push(expected.name);
    }
    let converted = converted.into_iter().map(|(from, tensors)| LoadWarning::Converted {
        to: T::TYPE,
        from,
        tensors,
    });
    let warnings = converted.chain(ignored(config, checkpoint, known)).collect();
    let mut preparation = Preparation { checkpoint, place, element: PhantomData };
    let vision = preparation.vision(config)?;
    let text = preparation.text(config)?;
    Ok((WeightSet { vision, text }, warnings))
}

/// The stored tensor that `expected` means.
fn find<'a>(
    checkpoint: &'a Checkpoint,
    expected: &Expected,
) -> Result<Tensor<'a>, CheckpointError> {
    let Some(tensor) = checkpoint.tensor(&expected.name) else {
        let (folder, tensor) = (checkpoint.folder().to_owned(), expected.name.clone());
        return Err(CheckpointError::MissingTensor { folder, tensor });
    };
    let (file, name) = (tensor.file.to_owned(), tensor.name.to_owned());
    if tensor.shape != expected.shape {
        let (expected, found) = (expected.shape.clone(), tensor.shape.to_vec());
        return Err(CheckpointError::WrongShape { file, tensor: name, expected, found });
    }
    match tensor.dtype {
        found if found.float().is_some() => Ok(tensor),
        found => Err(CheckpointError::WrongType { file, tensor: name, found }),
    }
}

fn ignored(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    mut known: Vec<String>,
) -> Vec<LoadWarning> {
    known.sort_unstable();
    let extra = checkpoint
        .tensors()
        .filter(|(name, _)| known.binary_search_by(|known| known.as_str().cmp(name)).is_err());
    extra
        .map(|(name, tensor)| {
            let file = tensor.file.to_owned();
            if name == names::HEAD && config.text.tie_word_embeddings {
                LoadWarning::HeadIgnored { file }
            } else {
                LoadWarning::Ignored { file, tensor: tensor.name.to_owned() }
            }
        })
        .collect()
}

/// `[N]` or `[N, K]` with both sides padded; trailing dimensions are one width.
fn padded_shape(shape: &[usize]) -> Option<Vec<usize>> {
    let (rows, inner) = shape.split_first()?;
    let rows = rows.checked_next_multiple_of(WIDTH_STEP)?;
    if inner.is_empty() {
        return Some(vec![rows]);
    }
    let columns = inner.iter().try_fold(1usize, |product, side| product.checked_mul(*side))?;
    Some(vec![rows, columns.checked_next_multiple_of(WIDTH_STEP)?])
}

/// Prepares the tensors of a checkpoint whose names and shapes have been checked.
struct Preparation<'a, T, F> {
    checkpoint: &'a Checkpoint,
    place: F,
    element: PhantomData<T>,
}

impl<T, W, E, F> Preparation<'_, T, F>
where
    T: Float,
    E: From<CheckpointError>,
    F: FnMut(HostTensor<T>) -> Result<W, E>,
{
    fn vision(&mut self, config: &ModelConfig) -> Result<VisionWeights<W>, E> {
        Ok(VisionWeights {
            patch_embed: self.tensor(names::PATCH_EMBED)?,
            blocks: (0..config.vision.depth)
                .map(|block| match config.vision.windowed {
                    None => self.vision_block(block),
                    Some(_) => self.windowed_block(block),
                })
                .collect::<Result<_, E>>()?,
            merger: self.merger(config.vision.windowed.is_none())?,
        })
    }

    fn vision_block(&mut self, block: usize) -> Result<VisionBlock<W>, E> {
        let mut tensor = |name| self.tensor(&names::vision_block(block, name));
        Ok(VisionBlock {
            norm1_weight: tensor("norm1.weight")?,
            norm1_bias: Some(tensor("norm1.bias")?),
            qkv_weight: tensor("attn.qkv.weight")?,
            qkv_bias: tensor("attn.qkv.bias")?,
            proj_weight: tensor("attn.proj.weight")?,
            proj_bias: tensor("attn.proj.bias")?,
            norm2_weight: tensor("norm2.weight")?,
            norm2_bias: Some(tensor("norm2.bias")?),
            up_weight: tensor("mlp.fc1.weight")?,
            up_bias: tensor("mlp.fc1.bias")?,
            down_weight: tensor("mlp.fc2.weight")?,
            down_bias: tensor("mlp.fc2.bias")?,
        })
    }

    fn windowed_block(&mut self, block: usize) -> Result<VisionBlock<W>, E> {
        let mut stacked = |tensors: &[&str]| {
            let tensors = tensors.iter().map(|tensor| names::vision_block(block, tensor));
            self.stacked(&tensors.collect::<Vec<_>>())
        };
        Ok(VisionBlock {
            norm1_weight: stacked(&["norm1.weight"])?,
            norm1_bias: None,
            qkv_weight: stacked(&["attn.qkv.weight"])?,
            qkv_bias: stacked(&["attn.qkv.bias"])?,
            proj_weight: stacked(&["attn.proj.weight"])?,
            proj_bias: stacked(&["attn.proj.bias"])?,
            norm2_weight: stacked(&["norm2.weight"])?,
            norm2_bias: None,
            up_weight: stacked(&["mlp.gate_proj.weight", "mlp.up_proj.weight"])?,
            up_bias: stacked(&["mlp.gate_proj.bias", "mlp.up_proj.bias"])?,
            down_weight: stacked(&["mlp.down_proj.weight"])?,
            down_bias: stacked(&["mlp.down_proj.bias"])?,
        })
    }

    fn merger(&mut self, has_norm_bias: bool) -> Result<Merger<W>, E> {
        let mut tensor = |name| self.tensor(&names::merger(name));
        Ok(Merger {
            norm_weight: tensor("ln_q.weight")?,
            norm_bias: has_norm_bias.then(|| tensor("ln_q.bias")).transpose()?,
            fc1_weight: tensor("mlp.0.weight")?,
            fc1_bias: tensor("mlp.0.bias")?,
            fc2_weight: tensor("mlp.2.weight")?,
            fc2_bias: tensor("mlp.2.bias")?,
        })
    }

    fn text(&mut self, config: &ModelConfig) -> Result<TextWeights<W>, E> {
        Ok(TextWeights {
            embed: self.tensor(names::EMBED)?,
            layers: (0..config.text.num_hidden_layers)
                .map(|layer| self.text_layer(layer))
                .collect::<Result<_, E>>()?,
            norm: self.tensor(names::NORM)?,
            head: match config.text.tie_word_embeddings {
                true => None,
                false => Some(self.tensor(names::HEAD)?),
            },
        })
    }

    fn text_layer(&mut self, layer: usize) -> Result<TextLayer<W>, E> {
        let mut stacked = |tensors: &[&str]| {
            let tensors = tensors.iter().map(|tensor| names::text_layer(layer, tensor));
            self.stacked(&tensors.collect::<Vec<_>>())
        };
        Ok(TextLayer {
            input_norm: stacked(&["input_layernorm.weight"])?,
            qkv_weight: stacked(&[
                "self_attn.q_proj.weight",
                "self_attn.k_proj.weight",
                "self_attn.v_proj.weight",
            ])?,
            qkv_bias: stacked(&[
                "self_attn.q_proj.bias",
                "self_attn.k_proj.bias",
                "self_attn.v_proj.bias",
            ])?,
            o_weight: stacked(&["self_attn.o_proj.weight"])?,
            post_norm: stacked(&["post_attention_layernorm.weight"])?,
            gate_up_weight: stacked(&["mlp.gate_proj.weight", "mlp.up_proj.weight"])?,
            down_weight: stacked(&["mlp.down_proj.weight"])?,
        })
    }

    fn tensor(&mut self, name: &str) -> Result<W, E> {
        self.stacked(&[name.to_owned()])
    }

    /// The tensors' padded rows one after another.
    fn stacked(&mut self, names: &[String]) -> Result<W, E> {
        let mut values = Vec::new();
        let mut shape: Vec<usize> = Vec::new();
        for name in names {
            let tensor =
                self.checkpoint.tensor(name).ok_or_else(|| missing(self.checkpoint, name))?;
            let added = append_padded(&tensor, &mut values)?;
            match shape.first_mut() {
                Some(rows) => *rows += added[0],
                None => shape = added,
            }
        }
        let name = names.first().cloned().unwrap_or_default();
        (self.place)(HostTensor { name, shape, values })
    }
}

fn missing(checkpoint: &Checkpoint, tensor: &str) -> CheckpointError {
    let (folder, tensor) = (checkpoint.folder().to_owned(), tensor.to_owned());
    CheckpointError::MissingTensor { folder, tensor }
}

/// Appends a tensor with zeros behind each row and behind the last; its padded shape.
fn append_padded<T: Float>(
    tensor: &Tensor<'_>,
    values: &mut Vec<T>,
) -> Result<Vec<usize>, CheckpointError> {
    let Some(shape) = padded_shape(tensor.shape) else {
        let (file, tensor) = (tensor.file.to_owned(), tensor.name.to_owned());
        return Err(CheckpointError::ShapeOverflow { file, tensor });
    };
    let start = values.len();
    let total: usize = shape.iter().product();
    values.reserve(total);
    let columns: usize = tensor.shape.iter().skip(1).product();
    let stride = shape.get(1).copied().unwrap_or(1);
    if columns == stride {
        tensor.append(values)?;
    } else {
        let mut rows = Vec::with_capacity(tensor.elements());
        tensor.append(&mut rows)?;
        for row in rows.chunks_exact(columns) {
            values.extend_from_slice(row);
            values.resize(values.len() + stride - columns, T::default());
        }
    }
    values.resize(start + total, T::default());
    Ok(shape)
}

#[cfg(test)]
mod tests;
