//! Linear layers: rows times a weight, bias and activation or residual in the same launch. Kernels
//! `kernels/gemm.cu` (tiles), `kernels/gemv.cu` (few rows) and `kernels/gemm_f32.cu`, oracle
//! [`crate::reference::gemm`].
//!
//! [`Gemm`] is the one entry for every linear layer. It chooses the kernel from the shape alone;
//! all choices give the same bits (docs/numerics.md, N1), so the choice is a matter of speed.

use super::params::{
    GEMM_32X64_STAGES, GEMM_32X64_THREADS, GEMM_64X64_STAGES, GEMM_64X64_THREADS,
    GEMM_128X64_STAGES, GEMM_128X64_THREADS, GEMM_128X128_STAGES, GEMM_128X128_THREADS,
    GEMM_GELU_ERF, GEMM_LOGITS, GEMM_QUICK_GELU, GEMM_RESIDUAL, GEMM_STORE, GEMM_TILE_K,
    GemmParams,
};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product};
use super::{gemm_f32, gemv};
use crate::device::{Device, FloatView, FloatViewMut, Grid, ViewMut};
use crate::units::{Bytes, FloatType};

const OP: &str = "gemm";
/// N is a multiple of this: one 16-byte store.
const OUTPUTS_STEP: usize = 8;
/// K is a multiple of this: one mma.
const INPUTS_STEP: usize = 16;
/// From this N on a weight is large: blocks for every multiprocessor in any tile.
const MANY_OUTPUTS: usize = 8192;

/// What becomes of `sum = x . weight^T`, and where it goes. E is the type of x, and every
/// `E()` is a rounding point of the reference (docs/spec.md, 15.1); a bias is added before the first.
#[derive(Debug)]
pub enum Output<'a> {
    /// `y = E(sum + bias)`.
    Store(FloatViewMut<'a>),
    /// `y = E(E(sum + bias) + y)`: adds onto the residual stream, in place.
    Residual(FloatViewMut<'a>),
    /// `y = QuickGELU(E(sum + bias))`.
    QuickGelu(FloatViewMut<'a>),
    /// `y = GELU(E(sum + bias))`, with the error function.
    GeluErf(FloatViewMut<'a>),
    /// `y = f32(E(sum + bias))`.
    Logits(ViewMut<'a, f32>),
}

/// One launch of a linear layer, `y[m, n] = output(sum_k x[m, k] * weight[n, k])`.
#[derive(Debug)]
pub struct Gemm<'a> {
    /// `[rows, inputs]`.
    pub x: FloatView<'a>,
    /// `[outputs, inputs]`, as checkpoints store it.
    pub weight: FloatView<'a>,
    /// `[outputs]`.
    pub bias: Option<FloatView<'a>>,
    /// `[rows, outputs]`, written whole.
    pub y: Output<'a>,
    /// M of the kernel.
    pub rows: usize,
    /// N of the kernel, a multiple of 8.
    pub outputs: usize,
    /// K of the kernel, a multiple of 16.
    pub inputs: usize,
}

/// Entry points of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// On tensor cores, for bf16 and for f16.
    Halves([&'static str; 2]),
    /// Without tensor cores, for f32.
    Single(&'static str),
}

/// One compiled form of the linear layer: its tile and what a block of it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Entry points.
    pub entries: Entries,
    /// Rows of x of a block; the few-row forms take no more than these.
    pub rows: usize,
    /// Rows of the weight of a block.
    pub outputs: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Whether the launch may have more rows than a block.
    pub any_rows: bool,
}

/// The entry points `KERNEL_bf16_FORM` and `KERNEL_f16_FORM`.
macro_rules! halves {
    ($kernel:literal, $form:literal) => {
        Entries::Halves([concat!($kernel, "_bf16_", $form), concat!($kernel, "_f16_", $form)])
    };
}
pub(super) use halves;

const fn tile(entries: Entries, rows: u32, outputs: u32, threads: u32, stages: u32) -> Variant {
    let shared_bytes = stages * (rows + outputs) * GEMM_TILE_K * 2;
    let (rows, outputs) = (rows as usize, outputs as usize);
    Variant { entries, rows, outputs, threads, shared_bytes, any_rows: true }
}

const TILE_128X128: Variant =
    tile(halves!("gemm", "128x128"), 128, 128, GEMM_128X128_THREADS, GEMM_128X128_STAGES);
const TILE_128X64: Variant =
    tile(halves!("gemm", "128x64"), 128, 64, GEMM_128X64_THREADS, GEMM_128X64_STAGES);
const TILE_64X64: Variant =
    tile(halves!("gemm", "64x64"), 64, 64, GEMM_64X64_THREADS, GEMM_64X64_STAGES);
const TILE_32X64: Variant =
    tile(halves!("gemm", "32x64"), 32, 64, GEMM_32X64_THREADS, GEMM_32X64_STAGES);

impl Variant {
    /// Its entry point for a type, if it has one.
    pub fn entry(&self, dtype: FloatType) -> Option<&'static str> {
        match (self.entries, dtype) {
            (Entries::Halves([bf16, _]), FloatType::Bf16) => Some(bf16),
            (Entries::Halves([_, f16]), FloatType::F16) => Some(f16),
            (Entries::Single(f32), FloatType::F32) => Some(f32),
            (Entries::Halves(_), FloatType::F32) | (Entries::Single(_), _) => None,
        }
    }

    /// Its first entry point, as a name.
    pub fn name(&self) -> &'static str {
        match self.entries {
            Entries::Halves([first, _]) | Entries::Single(first) => first,
        }
    }
}

/// The tiles of `kernels/gemm.cu`, which take any number of rows.
pub const TILES: [Variant; 4] = [TILE_128X128, TILE_128X64, TILE_64X64, TILE_32X64];

/// What the choice of a variant needs to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Largest shared memory of a block.
    pub shared: Bytes,
    /// Whether it is the software device.
    pub software: bool,
}

impl Limits {
    /// Whether a block of the variant has the shared memory that it takes.
    pub(super) fn fit(self, variant: &Variant) -> bool {
        u64::from(variant.shared_bytes) <= self.shared.0
    }
}

/// The variant for a shape in bf16 or f16: a pure function, so a shape runs the same everywhere on a device.
pub fn choose(rows: usize, outputs: usize, limits: Limits) -> &'static Variant {
    if limits.software {
        return choose_software(rows, outputs, limits);
    }
    choose_gpu(rows, outputs, limits)
}

/// On a GPU the few-row forms read each weight once with no padded rows of mma;
/// small tiles where a weight has too few outputs to give every multiprocessor a large one.
fn choose_gpu(rows: usize, outputs: usize, limits: Limits) -> &'static Variant {
    let many = outputs >= MANY_OUTPUTS;
    if let Some(few) = gemv::choose(rows, many, limits) {
        return few;
    }
    let blocks = rows.div_ceil(128) * outputs.div_ceil(128);
    match rows {
        0..=32 => &TILE_32X64,
        33..=64 if many => &TILE_64X64,
        33..=64 => &TILE_32X64,
        65..=256 if many => &TILE_128X64,
        65..=256 => &TILE_64X64,
        _ if many || blocks >= 2 * limits.multiprocessors => &TILE_128X128,
        _ => &TILE_128X64,
    }
}

/// Relative speed of a variant on the software device, padded rows and outputs counted: GFLOP/s of
/// one thread with AVX-512 at K = 1536. What counts there is instructions for each mma.
const SOFTWARE_SPEED: [(Variant, u64); 10] = [
    (TILE_128X128, 83),
    (TILE_128X64, 62),
    (TILE_64X64, 69),
    (TILE_32X64, 47),
    (gemv::R64N16, 37),
    (gemv::R32N16, 28),
    (gemv::R64N8_DIRECT, 29),
    (gemv::R32N8, 25),
    (gemv::R16N8_DIRECT, 23),
    (gemv::R16N8, 19),
];

/// The variant with the least predicted time, which has no memory to wait for.
fn choose_software(rows: usize, outputs: usize, limits: Limits) -> &'static Variant {
    const SCALE: u64 = 1000;
    let takes = |variant: &Variant| variant.any_rows || rows <= variant.rows;
    let time = |variant: &Variant, speed: u64| {
        let padded_rows = rows.div_ceil(variant.rows).saturating_mul(variant.rows);
        let padded_outputs = outputs.div_ceil(variant.outputs).saturating_mul(variant.outputs);
        (padded_rows as u64).saturating_mul(padded_outputs as u64).saturating_mul(SCALE) / speed
    };
    let usable = SOFTWARE_SPEED.iter().filter(|(variant, _)| takes(variant) && limits.fit(variant));
    let best = usable.min_by_key(|(variant, speed)| time(variant, *speed));
    best.map_or(&TILE_32X64, |(variant, _)| variant)
}

impl Gemm<'_> {
    /// The least that a launch moves and computes; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let (m, n, k) = (self.rows as u64, self.outputs as u64, self.inputs as u64);
        let bias = if self.bias.is_some() { n } else { 0 };
        let element = self.x.dtype().size() as u64;
        let (again, size) = match self.y {
            Output::Residual(_) => (m * n, element),
            Output::Logits(_) => (0, 4),
            _ => (0, element),
        };
        let read = Bytes(element * (m * k + n * k + bias + again));
        Cost { read, written: Bytes(size * m * n), flop: 2 * m * n * k }
    }

    /// Queues the kernel that [`choose`] names. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `outputs` is no positive multiple of 8, `inputs` no positive multiple of
    /// 16, or a dimension passes `i32`; [`OpError::Shape`] if a view is not as long as its shape;
    /// [`OpError::Device`].
    pub fn launch(self, device: &Device) -> Result<(), OpError> {
        let limits = Limits {
            multiprocessors: usize::try_from(device.multiprocessors()).unwrap_or(usize::MAX),
            shared: device.shared_limit(),
            software: device.located().software,
        };
        let variant = match self.x.dtype() {
            FloatType::Bf16 | FloatType::F16 => choose(self.rows, self.outputs, limits),
            FloatType::F32 => gemm_f32::choose(self.rows),
        };
        self.launch_as(variant, device)
    }

    /// Queues one variant: for tests and measurements.
    ///
    /// # Errors
    /// As [`Gemm::launch`]; [`OpError::Dim`] too if a few-row form is given more rows than it takes.
    pub fn launch_as(mut self, variant: &Variant, device: &Device) -> Result<(), OpError> {
        let (params, dtype) = (self.params()?, self.x.dtype());
        let entry = variant.entry(dtype);
        let rule = "the form is not built for the type of x";
        let entry = entry.ok_or(OpError::Dim { op: OP, dim: "E", found: dtype.size(), rule })?;
        let fits = variant.any_rows || self.rows <= variant.rows;
        check_dim(fits, OP, "M", self.rows, "M must be within the rows of a few-row form")?;
        if self.rows == 0 {
            return Ok(());
        }
        let blocks = self.rows.div_ceil(variant.rows) * self.outputs.div_ceil(variant.outputs);
        let blocks = [dim(OP, "M * N / tile", blocks)?.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: variant.threads, shared_bytes: variant.shared_bytes };
        // SAFETY: `params` checked every length against M, N and K; a `View` starts on a 16-byte
        // boundary and rows are multiples of 16 bytes; the borrows keep `y` apart from the inputs;
        // memory is freed in stream order, after this launch.
        unsafe { device.launch(entry, grid, &params) }?;
        Ok(())
    }

    /// The parameter struct, once every length fits.
    fn params(&mut self) -> Result<GemmParams, OpError> {
        let (rows, outputs, inputs) = (self.rows, self.outputs, self.inputs);
        let whole = outputs > 0 && outputs.is_multiple_of(OUTPUTS_STEP);
        check_dim(whole, OP, "N", outputs, "N must be a positive multiple of 8")?;
        let whole = inputs > 0 && inputs.is_multiple_of(INPUTS_STEP);
        check_dim(whole, OP, "K", inputs, "K must be a positive multiple of 16")?;
        check_len(OP, "x", product(OP, "M", rows, inputs)?, self.x.len())?;
        check_len(OP, "weight", product(OP, "N", outputs, inputs)?, self.weight.len())?;
        if let Some(bias) = &self.bias {
            check_len(OP, "bias", outputs, bias.len())?;
        }
        let x_type = self.x.dtype();
        let (y, len, y_type, epilogue) = match &mut self.y {
            Output::Store(y) => (y.ptr_mut(), y.len(), y.dtype(), GEMM_STORE),
            Output::Residual(y) => (y.ptr_mut(), y.len(), y.dtype(), GEMM_RESIDUAL),
            Output::QuickGelu(y) => (y.ptr_mut(), y.len(), y.dtype(), GEMM_QUICK_GELU),
            Output::GeluErf(y) => (y.ptr_mut(), y.len(), y.dtype(), GEMM_GELU_ERF),
            Output::Logits(y) => (y.ptr_mut(), y.len(), x_type, GEMM_LOGITS),
        };
        check_len(OP, "y", product(OP, "M", rows, outputs)?, len)?;
        let bias = self.bias.map_or(x_type, |bias| bias.dtype());
        let others = [("weight", self.weight.dtype()), ("bias", bias), ("y", y_type)];
        check_types(OP, x_type, others)?;
        Ok(GemmParams {
            x: self.x.ptr(),
            weight: self.weight.ptr(),
            bias: self.bias.map_or(std::ptr::null(), |bias| bias.ptr()),
            y,
            M: dim(OP, "M", rows)?,
            N: dim(OP, "N", outputs)?,
            K: dim(OP, "K", inputs)?,
            epilogue: epilogue.cast_signed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A100: Limits =
        Limits { multiprocessors: 108, shared: Bytes(163 * 1024), software: false };
    const L4: Limits = Limits { multiprocessors: 58, shared: Bytes(99 * 1024), software: false };

    #[test]
    fn the_choice_follows_rows_and_outputs() {
        let cases = [
            (1, 1536, "gemv_bf16_r16n8_direct"),
            (2, 151_936, "gemv_bf16_r16n8_direct"),
            (3, 1536, "gemv_bf16_r16n8"),
            (8, 17_920, "gemv_bf16_r32n8"),
            (9, 1536, "gemv_bf16_r32n16"),
            (16, 8192, "gemv_bf16_r64n16"),
            (17, 8184, "gemm_bf16_32x64"),
            (32, 8192, "gemv_bf16_r64n32"),
            (33, 1536, "gemm_bf16_32x64"),
            (64, 8960, "gemm_bf16_64x64"),
            (65, 1536, "gemm_bf16_64x64"),
            (256, 17_920, "gemm_bf16_128x64"),
            (257, 1536, "gemm_bf16_128x64"),
            (4096, 1536, "gemm_bf16_128x128"),
        ];
        for (rows, outputs, kernel) in cases {
            assert_eq!(choose(rows, outputs, A100).name(), kernel, "M={rows} N={outputs}");
        }
    }

    #[test]
    fn the_software_device_is_given_few_instructions_for_each_mma() {
        let cases = [
            (1, 1536, "gemv_bf16_r64n8_direct"),
            (1, 24, "gemv_bf16_r32n8"),
            (1, 16, "gemv_bf16_r16n8_direct"),
            (16, 1536, "gemv_bf16_r64n16"),
            (32, 1536, "gemm_bf16_32x64"),
            (64, 1536, "gemm_bf16_64x64"),
            (128, 1536, "gemm_bf16_128x128"),
            (129, 1536, "gemm_bf16_64x64"),
            (4096, 64, "gemm_bf16_64x64"),
        ];
        let limits = Limits { software: true, ..A100 };
        for (rows, outputs, kernel) in cases {
            assert_eq!(choose(rows, outputs, limits).name(), kernel, "M={rows} N={outputs}");
        }
    }

    #[test]
    fn a_choice_fits_the_shared_memory_of_small_devices() {
        for rows in [1, 2, 3, 8, 9, 16, 17, 32, 33, 64, 65, 256, 257, 4096] {
            for outputs in [8, 1536, 8192, 151_936] {
                for limits in [L4, Limits { software: true, ..L4 }] {
                    let variant = choose(rows, outputs, limits);
                    assert!(limits.fit(variant), "M={rows} N={outputs}");
                    assert!(variant.any_rows || rows <= variant.rows, "M={rows} N={outputs}");
                }
            }
        }
    }
}
