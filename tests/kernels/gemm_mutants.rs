//! Every barrier and every wait of `kernels/gemm.cu` and `kernels/gemv.cu` is needed.

use std::sync::Arc;

use half::bf16;
use qwen2vl::device::as_bytes;
use qwen2vl::ops::gemm::{TILES, Variant};
use qwen2vl::ops::gemv::FORMS;
use softcuda::direct::Device;
use softcuda::exec::Kernel;

use crate::mutants::{self, Outcome};
use crate::support::Rng;

/// One launch of `variant` on a bare software device: a second block in N, none of them whole.
fn run(device: &Device, kernel: &Arc<Kernel>, variant: &Variant, inputs: usize) -> Outcome {
    let (rows, outputs) = (variant.rows - 1, variant.outputs + 8);
    let mut rng = Rng::new("mutants");
    let upload = |values: &[bf16]| {
        let at = device.alloc(size_of_val(values)).expect("memory");
        device.write(at, as_bytes(values)).expect("memory just allocated");
        at
    };
    let x = upload(&rng.bf16(rows * inputs, 1.0));
    let weight = upload(&rng.bf16(outputs * inputs, 1.0));
    let y = upload(&vec![bf16::ZERO; rows * outputs]);
    // GemmParams: x, weight, bias, y; M, N, K, epilogue (GEMM_STORE).
    let pointers = [x, weight, 0, y].map(u64::to_le_bytes).concat();
    let sizes = [rows, outputs, inputs, 0].map(|size| u32::try_from(size).unwrap().to_le_bytes());
    let params = [pointers, sizes.concat()].concat();
    let grid = [2, 1, 1];
    let block = [variant.threads, 1, 1];
    device.launch(kernel, grid, block, variant.shared_bytes, &params).ok()?;
    let mut bytes = vec![0; rows * outputs * size_of::<bf16>()];
    device.read(y, &mut bytes).expect("memory just allocated");
    Some(bytes)
}

fn check(stem: &str, variants: &[Variant]) {
    for variant in variants {
        // One step: y is written over the only stage that was read. Several groups and a tail:
        // stages are used again, and every warp has work.
        let short = |device: &Device, kernel: &Arc<Kernel>| run(device, kernel, variant, 64);
        let long = |device: &Device, kernel: &Arc<Kernel>| run(device, kernel, variant, 1360);
        let found = mutants::check(stem, variant.name(), &[&short, &long]);
        assert!(found >= 3, "{}: {found} synchronisations found", variant.name());
    }
}

#[test]
fn every_barrier_and_wait_of_gemm_is_needed() {
    check("gemm", &TILES);
}

#[test]
fn every_barrier_and_wait_of_gemv_is_needed() {
    check("gemv", &FORMS);
}
