//! Every barrier of the f32 kernels is needed.

use std::sync::Arc;

use qwen2vl::device::as_bytes;
use qwen2vl::ops::gemm::Variant;
use qwen2vl::ops::gemm_f32::FORMS;
use softcuda::direct::Device;
use softcuda::exec::Kernel;

use crate::mutants::{self, Outcome};
use crate::support::Rng;

/// Words of a parameter struct, pointers first.
fn params(pointers: &[u64], words: &[i32]) -> Vec<u8> {
    let pointers = pointers.iter().flat_map(|at| at.to_le_bytes());
    pointers.chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
}

fn upload(device: &Device, bytes: &[u8]) -> u64 {
    let at = device.alloc(bytes.len()).expect("memory");
    device.write(at, bytes).expect("memory just allocated");
    at
}

fn floats(device: &Device, rng: &mut Rng, count: usize) -> u64 {
    upload(device, as_bytes(&rng.f32s(count, 1.0)))
}

fn read(device: &Device, at: u64, count: usize) -> Outcome {
    let mut bytes = vec![0; 4 * count];
    device.read(at, &mut bytes).expect("memory just allocated");
    Some(bytes)
}

/// A second block in N, neither of them whole.
fn gemm(device: &Device, kernel: &Arc<Kernel>, variant: &Variant, inputs: usize) -> Outcome {
    let (rows, outputs) = (variant.rows - 1, variant.outputs + 8);
    let mut rng = Rng::new("f32 mutants");
    let x = floats(device, &mut rng, rows * inputs);
    let weight = floats(device, &mut rng, outputs * inputs);
    let y = upload(device, &vec![0; 4 * rows * outputs]);
    // GemmParams: x, weight, bias, y; M, N, K, epilogue (GEMM_STORE).
    let params = params(&[x, weight, 0, y], &[rows as i32, outputs as i32, inputs as i32, 0]);
    device.launch(kernel, [2, 1, 1], [variant.threads, 1, 1], 0, &params).ok()?;
    read(device, y, rows * outputs)
}

fn vision(device: &Device, kernel: &Arc<Kernel>, rows: usize) -> Outcome {
    const D: usize = 32;
    let qkv = floats(device, &mut Rng::new("f32 vision mutants"), rows * 3 * D);
    let items = rows.div_ceil(64);
    let work: Vec<i32> = (0..items).flat_map(|tile| [0, tile as i32, rows as i32, 0]).collect();
    let cu_rows = upload(device, as_bytes(&[0, rows as i32]));
    let (work, o) = (upload(device, as_bytes(&work)), upload(device, &vec![0; 4 * rows * D]));
    // AttnVisionParams: qkv, cu_rows, work, o; ld_qkv, ld_o, H, scale.
    let scale = (1.0 / (D as f32).sqrt()).to_bits().cast_signed();
    let params = params(&[qkv, cu_rows, work, o], &[3 * D as i32, D as i32, 1, scale]);
    let shared = 4 * (16 * D + 64 * (2 * D + 1) + 64 * 16);
    device.launch(kernel, [items as u32, 1, 4], [128, 1, 1], shared as u32, &params).ok()?;
    read(device, o, rows * D)
}

#[test]
fn every_barrier_of_gemm_f32_is_needed() {
    for variant in &FORMS {
        let short = |device: &Device, kernel: &Arc<Kernel>| gemm(device, kernel, variant, 64);
        let long = |device: &Device, kernel: &Arc<Kernel>| gemm(device, kernel, variant, 528);
        let found = mutants::check("gemm_f32", variant.name(), &[&short, &long]);
        assert_eq!(found, 2, "{}", variant.name());
    }
}

#[test]
fn every_barrier_of_attn_f32_is_needed() {
    let one = |device: &Device, kernel: &Arc<Kernel>| vision(device, kernel, 5);
    let many = |device: &Device, kernel: &Arc<Kernel>| vision(device, kernel, 200);
    assert_eq!(mutants::check("attn_f32", "attn_vision_f32", &[&one, &many]), 2);
}
