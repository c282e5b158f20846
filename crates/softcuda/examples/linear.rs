//! Times a kernel of a linear layer (`kernels/gemm.cu`, `kernels/gemv.cu`) on one thread, by the CPU
//! time of the thread: other programs disturb it less than a clock on the wall.
//!
//! `cargo run --profile ci -p softcuda --example linear -- FATBIN KERNEL ROWS OUTPUTS INPUTS
//! ROWS_PER_BLOCK OUTPUTS_PER_BLOCK THREADS SHARED_BYTES [base|avx2|avx512]`
//!
//! The fatbin is one of `target/kernel-images`. Weights are rotated, so that they come from memory.

use std::error::Error;
use std::io::Write as _;

use softcuda::direct::Device;
use softcuda::exec::{Level, Settings};
use softcuda::ptx::fatbin;

/// Launches; the best counts.
const LAUNCHES: usize = 16;
/// Bytes of weights to rotate through, at least.
const ROTATED: usize = 192 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, kernel, numbers @ ..] = &*words else {
        return Err("usage: see the head of this file".into());
    };
    let level = match numbers.last().map(String::as_str) {
        Some("base") => Level::Base,
        Some("avx2") => Level::Avx2,
        _ => Level::Avx512,
    };
    let sizes = numbers.iter().take(7).map(|n| n.parse());
    let sizes = sizes.collect::<Result<Vec<u32>, _>>()?;
    let [rows, outputs, inputs, block_rows, block_outputs, threads, shared] = sizes[..] else {
        return Err("seven numbers are needed".into());
    };
    if level > Level::detect() {
        return Err("the processor lacks this level".into());
    }
    let image = std::fs::read(file)?;
    let texts = fatbin::ptx_texts(&image)?;
    let (_, text) = texts.last().ok_or("no PTX in this fatbin")?;
    let device = Device::new(2 << 30, Settings { level, ..Settings::default() })?;
    let code = device.load_ptx(std::str::from_utf8(text)?)?.kernel(kernel)?;

    // Values near 0.5 and 1 of both signs.
    let half = |i: usize| 0x3f00 | (i.wrapping_mul(0x9e37_79b1) >> 7) as u16 & 0x803f;
    let halves = |count: usize| (0..count).flat_map(|i| half(i).to_le_bytes()).collect::<Vec<u8>>();
    let weight = halves(outputs as usize * inputs as usize);
    let copies = ROTATED.div_ceil(weight.len()).min(LAUNCHES);
    let weights = (0..copies).map(|_| {
        let at = device.alloc(weight.len())?;
        device.write(at, &weight).map(|()| at)
    });
    let weights = weights.collect::<Result<Vec<_>, _>>()?;
    let x = device.alloc(2 * rows as usize * inputs as usize)?;
    device.write(x, &halves(rows as usize * inputs as usize))?;
    let y = device.alloc(2 * rows as usize * outputs as usize)?;

    let mut best = f64::INFINITY;
    for launch in 0..LAUNCHES {
        // GemmParams of kernels/include/params.h: x, weight, bias, y; M, N, K, epilogue.
        let addresses = [x, weights[launch % copies], 0, y].into_iter().flat_map(u64::to_le_bytes);
        let shape = [rows, outputs, inputs, 0].into_iter().flat_map(u32::to_le_bytes);
        let params: Vec<u8> = addresses.chain(shape).collect();
        let grid = [outputs.div_ceil(block_outputs), rows.div_ceil(block_rows), 1];
        let start = cpu_seconds();
        device.launch(&code, grid, [threads, 1, 1], shared, &params)?;
        best = best.min(cpu_seconds() - start);
    }
    let flop = 2.0 * f64::from(rows) * f64::from(outputs) * f64::from(inputs);
    writeln!(
        std::io::stdout(),
        "{kernel} {level:?}: {:.2} ms, {:.2} GB/s of weights, {:.1} GFLOP/s",
        best * 1e3,
        weight.len() as f64 / best / 1e9,
        flop / best / 1e9
    )?;
    Ok(())
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
