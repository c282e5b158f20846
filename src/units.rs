//! Types for quantities that have a unit, so that a page is never added to a token.
//!
//! Plain tuple structs: the number inside is public, arithmetic exists only where it makes sense.
//! A bare `usize` elsewhere is an element count or an index into the slice beside it.

use std::fmt;

use half::{bf16, f16};

/// Tokens that one page of the key/value cache holds.
pub const PAGE_TOKENS: usize = 64;

/// A size in bytes. Addition and products are checked, because sizes come from files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A number of token rows, or of tokens in a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(pub usize);

/// A number of pages of the key/value cache, [`PAGE_TOKENS`] tokens each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pages(pub usize);

/// One page of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

/// One request to an engine: one sequence, or several that share a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub usize);

/// One sequence of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub usize);

/// One entry of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// A number of patch rows: what the vision tower works on before merging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatchRows(pub usize);

/// Size of one picture or video in patches: `t` frame groups of `h` rows and `w` columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GridThw {
    /// Groups of frames; 1 for a picture.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Columns of patches.
    pub w: usize,
}

impl Bytes {
    /// Bytes of `count` values of type `T`; `None` on overflow.
    pub fn of<T>(count: usize) -> Option<Self> {
        let bytes = count.checked_mul(size_of::<T>())?;
        u64::try_from(bytes).ok().map(Self)
    }

    /// Sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Product, or `None` on overflow.
    pub fn checked_mul(self, times: u64) -> Option<Self> {
        self.0.checked_mul(times).map(Self)
    }

    /// Difference, 0 when `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// As a count in memory; `None` where it does not fit this machine's addresses.
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

/// `1023 B`, `1.50 KiB`, `3.54 GiB`: rounded down, three digits.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let (mut whole, mut rest, mut unit) = (self.0 >> 10, self.0 & 1023, UNITS[0]);
        for next in &UNITS[1..] {
            if whole < 1024 {
                break;
            }
            (whole, rest, unit) = (whole >> 10, whole & 1023, next);
        }
        match whole {
            0..10 => write!(f, "{whole}.{:02} {unit}", rest * 100 / 1024),
            10..100 => write!(f, "{whole}.{} {unit}", rest * 10 / 1024),
            _ => write!(f, "{whole} {unit}"),
        }
    }
}

impl Tokens {
    /// Pages that hold this many tokens.
    pub fn pages(self) -> Pages {
        Pages(self.0.div_ceil(PAGE_TOKENS))
    }

    /// Sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, 0 when `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Pages {
    /// Sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, 0 when `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Tokens that fit these pages, or `None` on overflow.
    pub fn tokens(self) -> Option<Tokens> {
        self.0.checked_mul(PAGE_TOKENS).map(Tokens)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PatchRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl GridThw {
    /// Patch rows of one frame group, `h * w`; `None` on overflow.
    pub fn frame_rows(self) -> Option<PatchRows> {
        self.h.checked_mul(self.w).map(PatchRows)
    }

    /// Patch rows of the whole, `t * h * w`; `None` on overflow.
    pub fn patch_rows(self) -> Option<PatchRows> {
        self.frame_rows()?.0.checked_mul(self.t).map(PatchRows)
    }

    /// Visual tokens of the whole after `merge` x `merge` patches became one, `t * (h / merge) *
    /// (w / merge)`; `None` on overflow, for `merge` 0, and where `merge` does not divide a side.
    pub fn merged_tokens(self, merge: usize) -> Option<Tokens> {
        if merge == 0 || !self.h.is_multiple_of(merge) || !self.w.is_multiple_of(merge) {
            return None;
        }
        Self { t: self.t, h: self.h / merge, w: self.w / merge }
            .patch_rows()
            .map(|rows| Tokens(rows.0))
    }
}

/// `1x34x46`.
impl fmt::Display for GridThw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.t, self.h, self.w)
    }
}

/// How the numbers of a model are stored and computed: weights, activations, keys and values.
/// Sums are f32 in every type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FloatType {
    /// 8 bits of exponent, 7 of fraction.
    #[default]
    Bf16,
    /// IEEE half: 5 bits of exponent, 10 of fraction.
    F16,
    /// IEEE single.
    F32,
}

impl FloatType {
    /// All types, in the order of [`FloatType::pick`].
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Bytes of a number.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The one of three that belongs to the type: bf16, f16, f32.
    pub fn pick<T>(self, [bf16, f16, f32]: [T; 3]) -> T {
        match self {
            Self::Bf16 => bf16,
            Self::F16 => f16,
            Self::F32 => f32,
        }
    }
}

/// `bf16`, `f16`, `f32`.
impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pick(["bf16", "f16", "f32"]))
    }
}

/// What becomes of each number between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It stays.
    Linear,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `x / 2 (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// [`Activation::Gelu`] clipped to [-10, 10].
    Gelu10,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` above 0, `0.01 x` below.
    LeakyRelu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `x tanh(log(1 + exp(x)))`.
    Mish,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Linear,
        Self::QuickGelu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Gelu10,
        Self::Silu,
        Self::Relu,
        Self::Relu2,
        Self::Relu6,
        Self::LeakyRelu,
        Self::Sigmoid,
        Self::Tanh,
        Self::Mish,
    ];

    /// The one of a name of the reference's; several names may mean the same function.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "linear" => Self::Linear,
            "quick_gelu" => Self::QuickGelu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "gelu_10" => Self::Gelu10,
            "silu" | "swish" => Self::Silu,
            "relu" => Self::Relu,
            "relu2" => Self::Relu2,
            "relu6" => Self::Relu6,
            "leaky_relu" => Self::LeakyRelu,
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "mish" => Self::Mish,
            _ => return None,
        })
    }
}

/// A number of one of the types of [`FloatType`]. Conversions go through f32 and round to nearest,
/// ties to even.
pub trait Float:
    Copy + Default + PartialEq + fmt::Debug + fmt::Display + Send + Sync + 'static
{
    /// Its type.
    const TYPE: FloatType;
    /// The nearest number of the type.
    fn from_f32(value: f32) -> Self;
    /// The nearest number of the type, rounded once.
    fn from_f64(value: f64) -> Self;
    /// The nearest number of the type.
    fn from_bf16(value: bf16) -> Self {
        Self::from_f32(value.to_f32())
    }
    /// The nearest number of the type.
    fn from_f16(value: f16) -> Self {
        Self::from_f32(value.to_f32())
    }
    /// The same value.
    fn to_f32(self) -> f32;
    /// The same value.
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Float for bf16 {
    const TYPE: FloatType = FloatType::Bf16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_f64(value: f64) -> Self {
        Self::from_f64(value)
    }
    fn from_bf16(value: bf16) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

impl Float for f16 {
    const TYPE: FloatType = FloatType::F16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_f64(value: f64) -> Self {
        Self::from_f64(value)
    }
    fn from_f16(value: f16) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

impl Float for f32 {
    const TYPE: FloatType = FloatType::F32;
    fn from_f32(value: f32) -> Self {
        value
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest even, which is meant")]
    fn from_f64(value: f64) -> Self {
        value as Self
    }
    fn to_f32(self) -> f32 {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_page_is_a_page() {
        let pages = [0, 1, 64, 65, 128].map(|tokens| Tokens(tokens).pages().0);
        assert_eq!(pages, [0, 1, 1, 2, 2]);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert_eq!(Bytes::of::<u32>(usize::MAX), None);
        assert_eq!(Bytes(u64::MAX).checked_add(Bytes(1)), None);
        let huge = GridThw { t: 1 << 30, h: 1 << 30, w: 1 << 30 };
        assert_eq!((huge.patch_rows(), huge.merged_tokens(2)), (None, None));
    }

    #[test]
    fn a_side_that_the_merge_does_not_divide_has_no_tokens() {
        let grid = GridThw { t: 2, h: 4, w: 6 };
        assert_eq!(grid.merged_tokens(2), Some(Tokens(12)));
        assert_eq!(grid.merged_tokens(4), None);
        assert_eq!(grid.merged_tokens(0), None);
    }

    #[test]
    fn bytes_print_three_digits() {
        let cases = [
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_835_008, "1.75 MiB"),
            (20 << 20, "20.0 MiB"),
            (1023 << 20, "1023 MiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
