//! The few-row forms of the linear layer, for decode. Kernel `kernels/gemv.cu`; launched through
//! [`Gemm`](super::gemm::Gemm), oracle [`crate::reference::gemm`].

use super::gemm::{Entries, Limits, Variant, halves};
use super::params::{
    GEMV_R16N8_DIRECT_STAGES, GEMV_R16N8_DIRECT_STEP, GEMV_R16N8_STAGES, GEMV_R16N8_STEP,
    GEMV_R32N8_STAGES, GEMV_R32N8_STEP, GEMV_R32N16_STAGES, GEMV_R32N16_STEP,
    GEMV_R64N8_DIRECT_STAGES, GEMV_R64N8_DIRECT_STEP, GEMV_R64N16_STAGES, GEMV_R64N16_STEP,
    GEMV_R64N32_STAGES, GEMV_R64N32_STEP, GEMV_THREADS, GEMV_WARPS,
};

/// Shape of one form: tile, pipeline, and whether x is staged beside the weight.
struct Form {
    outputs: u32,
    rows: u32,
    stages: u32,
    step: u32,
    x: Operand,
}

/// How a warp reads x.
enum Operand {
    /// From global memory into registers: x of one or two rows stays in L1.
    Direct,
    /// Through shared memory, like the weight.
    Staged,
}

const fn form(entries: Entries, form: Form) -> Variant {
    let Form { outputs, rows, stages, step, x } = form;
    let staged = match x {
        Operand::Direct => 0,
        Operand::Staged => rows,
    };
    let ring = GEMV_WARPS * stages * (outputs + staged) * step * 2;
    let parts = 2 * GEMV_WARPS * rows * outputs * 4;
    let (rows, outputs) = (rows as usize, outputs as usize);
    let shared_bytes = ring + parts;
    Variant { entries, rows, outputs, threads: GEMV_THREADS, shared_bytes, any_rows: false }
}

pub(super) const R16N8_DIRECT: Variant = form(
    halves!("gemv", "r16n8_direct"),
    Form {
        outputs: 16,
        rows: 8,
        stages: GEMV_R16N8_DIRECT_STAGES,
        step: GEMV_R16N8_DIRECT_STEP,
        x: Operand::Direct,
    },
);
/// Four tiles of weight for each fragment of x: the fewest instructions for an `mma`.
pub(super) const R64N8_DIRECT: Variant = form(
    halves!("gemv", "r64n8_direct"),
    Form {
        outputs: 64,
        rows: 8,
        stages: GEMV_R64N8_DIRECT_STAGES,
        step: GEMV_R64N8_DIRECT_STEP,
        x: Operand::Direct,
    },
);
pub(super) const R16N8: Variant = form(
    halves!("gemv", "r16n8"),
    Form {
        outputs: 16,
        rows: 8,
        stages: GEMV_R16N8_STAGES,
        step: GEMV_R16N8_STEP,
        x: Operand::Staged,
    },
);
pub(super) const R32N8: Variant = form(
    halves!("gemv", "r32n8"),
    Form {
        outputs: 32,
        rows: 8,
        stages: GEMV_R32N8_STAGES,
        step: GEMV_R32N8_STEP,
        x: Operand::Staged,
    },
);
pub(super) const R32N16: Variant = form(
    halves!("gemv", "r32n16"),
    Form {
        outputs: 32,
        rows: 16,
        stages: GEMV_R32N16_STAGES,
        step: GEMV_R32N16_STEP,
        x: Operand::Staged,
    },
);
pub(super) const R64N16: Variant = form(
    halves!("gemv", "r64n16"),
    Form {
        outputs: 64,
        rows: 16,
        stages: GEMV_R64N16_STAGES,
        step: GEMV_R64N16_STEP,
        x: Operand::Staged,
    },
);
const R64N32: Variant = form(
    halves!("gemv", "r64n32"),
    Form {
        outputs: 64,
        rows: 32,
        stages: GEMV_R64N32_STAGES,
        step: GEMV_R64N32_STEP,
        x: Operand::Staged,
    },
);

/// The forms of `kernels/gemv.cu`.
pub const FORMS: [Variant; 7] = [R16N8_DIRECT, R64N8_DIRECT, R16N8, R32N8, R32N16, R64N16, R64N32];

/// The form for a shape, if a few-row form is the best and fits the device.
///
/// More weight rows a block where there are many outputs: x is then read less often from L2.
pub(super) fn choose(rows: usize, many_outputs: bool, limits: Limits) -> Option<&'static Variant> {
    match rows {
        1..=2 => Some(&R16N8_DIRECT),
        3..=8 if many_outputs && limits.fit(&R32N8) => Some(&R32N8),
        3..=8 => Some(&R16N8),
        9..=16 if many_outputs && limits.fit(&R64N16) => Some(&R64N16),
        9..=16 => Some(&R32N16),
        17..=32 if many_outputs && limits.fit(&R64N32) => Some(&R64N32),
        _ => None,
    }
}
