//! Every barrier of a block and every wait of the attention kernels is needed, at every head width.

use std::sync::Arc;

use half::bf16;
use qwen2vl::device::{as_bytes, images};
use softcuda::direct::Device;
use softcuda::exec::Kernel;

use crate::mutants::{self, Outcome};
use crate::support::Rng;

const PAGE: usize = 64;

/// Uploads to a bare software device.
struct Memory<'a>(&'a Device);

impl Memory<'_> {
    fn bytes(&self, bytes: &[u8]) -> u64 {
        let at = self.0.alloc(bytes.len()).expect("memory");
        self.0.write(at, bytes).expect("memory just allocated");
        at
    }

    fn elements(&self, rng: &mut Rng, count: usize) -> u64 {
        self.bytes(as_bytes(&rng.bf16(count, 1.0)))
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read(at, &mut bytes).expect("memory just allocated");
        bytes
    }
}

/// A parameter struct, field by field.
#[derive(Default)]
struct Params(Vec<u8>);

impl Params {
    fn words(mut self, words: &[u64]) -> Self {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn ints(mut self, ints: &[i32]) -> Self {
        self.0.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
        self
    }

    /// log2(e) / sqrt(d).
    fn scale(mut self, d: usize) -> Self {
        self.0.extend((std::f32::consts::LOG2_E / (d as f32).sqrt()).to_le_bytes());
        self
    }
}

/// Memory that attn_prefill and attn_decode share: one sequence, one layer, one key head.
struct Paged {
    q: u64,
    pool: u64,
    cu_rows: u64,
    pages: u64,
    o: u64,
    width: u64,
    table_width: i32,
}

impl Paged {
    fn new(memory: &Memory<'_>, d: usize, rows: usize, keys: usize, heads: usize) -> Self {
        let (mut rng, pages) = (Rng::new("attention mutants"), keys.div_ceil(PAGE));
        let table: Vec<i32> = (0..pages as i32).rev().collect();
        Self {
            q: memory.elements(&mut rng, rows * heads * d),
            pool: memory.elements(&mut rng, pages * 2 * PAGE * d),
            cu_rows: memory.bytes(as_bytes(&[0, rows as i32])),
            pages: memory.bytes(as_bytes(&table)),
            o: memory.bytes(&vec![0; rows * heads * d * size_of::<bf16>()]),
            width: (heads * d) as u64,
            table_width: pages as i32,
        }
    }

    /// KvStrides: page, layer, values, head.
    fn strides(d: usize) -> [u64; 4] {
        let head = (PAGE * d) as u64;
        [2 * head, 0, head, head]
    }
}

fn prefill(device: &Device, kernel: &Arc<Kernel>, d: usize, rows: usize, keys: usize) -> Outcome {
    let (memory, heads) = (Memory(device), 1);
    let paged = Paged::new(&memory, d, rows, keys, heads);
    let work: Vec<i32> =
        (0..rows.div_ceil(64)).flat_map(|tile| [0, tile as i32, keys as i32, 0]).collect();
    let Paged { q, pool, cu_rows, pages, o, width, table_width } = paged;
    let params = Params::default()
        .words(&[q, pool, cu_rows, pages, memory.bytes(as_bytes(&work)), o, width, width])
        .words(&Paged::strides(d))
        .ints(&[heads as i32, 1, table_width, i32::MAX])
        .scale(d)
        .ints(&[0]);
    let grid = [rows.div_ceil(64) as u32, 1, 1];
    device.launch(kernel, grid, [128, 1, 1], 320 * 2 * d as u32, &params.0).ok()?;
    Some(memory.read(o, rows * heads * d * 2))
}

fn decode(device: &Device, kernel: &Arc<Kernel>, d: usize, keys: usize) -> Outcome {
    let (memory, heads) = (Memory(device), 6);
    let paged = Paged::new(&memory, d, 1, keys, heads);
    let segments = keys.div_ceil(256);
    let work: Vec<i32> =
        (0..segments).flat_map(|segment| [0, segment as i32, keys as i32, 0]).collect();
    // Poison: an element that is folded before its block stored it shows.
    let poison = |elements: usize| vec![0xff; elements * size_of::<f32>()];
    let part = memory.bytes(&poison(heads * segments * d));
    let states = memory.bytes(&poison(heads * segments * 2));
    let counter = memory.bytes(&[0; 4]);
    let Paged { q, pool, cu_rows, pages, o, width, table_width } = paged;
    let params = Params::default()
        .words(&[q, pool, cu_rows, pages, memory.bytes(as_bytes(&work)), o])
        .words(&[part, states, counter, width, width])
        .words(&Paged::strides(d))
        .ints(&[heads as i32, 1, table_width, segments as i32, i32::MAX])
        .scale(d);
    let grid = [segments as u32, 1, 1];
    device.launch(kernel, grid, [128, 1, 1], 256 * 2 * d as u32, &params.0).ok()?;
    Some([memory.read(o, heads * d * 2), memory.read(counter, 4)].concat())
}

fn vision(device: &Device, kernel: &Arc<Kernel>, d: usize, rows: usize) -> Outcome {
    let memory = Memory(device);
    let qkv = memory.elements(&mut Rng::new("vision mutants"), rows * 3 * d);
    let work: Vec<i32> =
        (0..rows.div_ceil(64)).flat_map(|tile| [0, tile as i32, rows as i32, 0]).collect();
    let o = memory.bytes(&vec![0; rows * d * size_of::<bf16>()]);
    let cu_rows = memory.bytes(as_bytes(&[0, rows as i32]));
    let params = Params::default()
        .words(&[qkv, cu_rows, memory.bytes(as_bytes(&work)), o])
        .ints(&[3 * d as i32, d as i32, 1])
        .scale(d);
    let grid = [rows.div_ceil(64) as u32, 1, 1];
    device.launch(kernel, grid, [128, 1, 1], 320 * 2 * d as u32, &params.0).ok()?;
    Some(memory.read(o, rows * d * 2))
}

/// (entry point, head width) of `kernels/STEM.cu`, widths ascending; those of bf16, since f16 is the
/// same code.
fn entries(stem: &str) -> Vec<(&'static str, usize)> {
    let (_, _, entries) = images().find(|(name, ..)| *name == stem).expect("an embedded image");
    let width = |entry: &str| entry.rsplit_once("_d").and_then(|(_, d)| d.parse().ok());
    let bf16 = entries.iter().copied().filter(|entry| entry.contains("_bf16_"));
    let mut all: Vec<_> = bf16.map(|entry| (entry, width(entry).expect("a head width"))).collect();
    all.sort_by_key(|(_, d)| *d);
    all
}

#[test]
fn every_barrier_and_wait_of_attn_prefill_is_needed() {
    let found = entries("attn_prefill").into_iter().map(|(entry, d)| {
        let one = |device: &Device, kernel: &Arc<Kernel>| prefill(device, kernel, d, 5, 5);
        let many = |device: &Device, kernel: &Arc<Kernel>| prefill(device, kernel, d, 70, 330);
        (d, mutants::check("attn_prefill", entry, &[&one, &many]))
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found, [(32, 4), (64, 4), (128, 4)], "head widths and synchronisations");
}

#[test]
fn every_barrier_and_wait_of_attn_vision_is_needed() {
    let found = entries("attn_vision").into_iter().map(|(entry, d)| {
        let one = |device: &Device, kernel: &Arc<Kernel>| vision(device, kernel, d, 5);
        let many = |device: &Device, kernel: &Arc<Kernel>| vision(device, kernel, d, 200);
        (d, mutants::check("attn_vision", entry, &[&one, &many]))
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found, [(32, 5), (64, 5), (80, 5)], "head widths and synchronisations");
}

#[test]
fn every_barrier_and_wait_of_attn_decode_but_one_is_missed() {
    let found = entries("attn_decode").into_iter().map(|(entry, d)| {
        let one = |device: &Device, kernel: &Arc<Kernel>| decode(device, kernel, d, 5);
        let many = |device: &Device, kernel: &Arc<Kernel>| decode(device, kernel, d, 600);
        let (found, unnoticed) = mutants::mutate("attn_decode", entry, &[&one, &many]);
        // The barrier between a block's parts and its count orders them for blocks that run at the
        // same time; this device runs a grid's blocks one after another.
        assert_eq!(unnoticed.len(), 1, "{entry}: {unnoticed:?}");
        let count = unnoticed[0].ends_with("bar.sync 0; after membar.gl;");
        assert!(count, "{entry}: {unnoticed:?}");
        (d, found)
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found, [(32, 6), (64, 6), (128, 6)], "head widths and synchronisations");
}
