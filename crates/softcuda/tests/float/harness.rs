//! Runs PTX fragments over tables of inputs at every level.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use softcuda::exec::{CopyMode, Launch, Level, Settings, Worker};
use softcuda::fault::Fault;
use softcuda::lower::{Env, lower};
use softcuda::memory::Memory;
use softcuda::ptx;

/// Every level that this machine has.
pub(crate) fn levels() -> Vec<Level> {
    [Level::Base, Level::Avx2, Level::Avx512]
        .into_iter()
        .filter(|level| *level <= Level::detect())
        .collect()
}

/// A generator seeded by a label.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(label: &str) -> Self {
        let seed = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Rng(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// A device with one buffer, and one launch of kernel `k` on it.
pub(crate) fn launch(
    source: &str,
    (blocks, threads): (u32, u32),
    data: &[u8],
    level: Level,
    copies: CopyMode,
) -> Result<Vec<u8>, Box<Fault>> {
    let module = Arc::new(ptx::parse(source.as_bytes()).unwrap_or_else(|e| panic!("{e}")));
    let env = Env { level, plain: false, address: &|_| None };
    let kernel = lower(&module, "k", &env).unwrap_or_else(|e| panic!("{e}\n{source}"));
    let memory = Memory::new(data.len() as u64 + (4 << 20)).expect("the host has the memory");
    let at = memory.allocate(data.len() as u64, "test").expect("there is room");
    let host = memory.host_range(at, data.len() as u64).expect("just allocated");
    // SAFETY: the range was checked; nothing else uses it.
    unsafe { host.copy_from(data.as_ptr(), data.len()) };
    let launch = Launch {
        kernel: Arc::new(kernel),
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        params: at.to_le_bytes().to_vec().into(),
        memory: Arc::new(memory),
        number: 1,
        processors: 1,
        settings: Settings { level, copies, ..Settings::default() },
        stop: AtomicBool::new(false),
    };
    let mut worker = Worker::new();
    for block in 0..blocks {
        worker.run_block(&launch, [block, 0, 0])?;
    }
    let mut out = vec![0; data.len()];
    // SAFETY: as above.
    unsafe { host.copy_to(out.as_mut_ptr(), out.len()) };
    Ok(out)
}

/// Registers that fragments may use: `%a %b %c %d` by width (`%ah` 16, `%ar` 32, `%ad` 64 bits),
/// predicates `%p0` to `%p3`.
const REGISTERS: &str = ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<4>;\n\
     .reg .b16 %ah, %bh, %ch, %dh; .reg .b32 %ar, %br, %cr, %dr, %er; .reg .b64 %ad, %bd, %cd, %dd;";

fn suffix(bits: u32) -> &'static str {
    match bits {
        16 => "h",
        32 => "r",
        _ => "d",
    }
}

/// Runs `body` for each row of inputs (`%a %b %c`, of `widths` bits each) at a level; the result is
/// `%d` of `out` bits. Odd lanes of the last quarter of rows are inactive at the instruction: their
/// result must be what `%d` held before.
pub(crate) fn rows(
    body: &str,
    widths: &[u32],
    out: u32,
    inputs: &[[u64; 3]],
    level: Level,
) -> Vec<u64> {
    let threads = 128;
    let blocks = inputs.len().div_ceil(threads);
    let mut loads = String::new();
    for (i, bits) in widths.iter().enumerate() {
        let (name, s) = (["a", "b", "c"][i], suffix(*bits));
        loads += &format!("ld.global.b{bits} %{name}{s}, [%rd1+{}];\n", 8 * i);
    }
    let mask_from = inputs.len() - inputs.len() / 4;
    let s = suffix(out);
    let source = format!(
        ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         {REGISTERS}\n\
         ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;\n\
         mad.lo.u32 %r0, %r1, {threads}, %r0; mad.wide.u32 %rd1, %r0, 32, %rd0;\n\
         setp.lt.u32 %p0, %r0, {mask_from}; and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0;\n\
         or.pred %p0, %p0, %p1;\n{loads}\
         mov.b{out} %d{s}, 77;\n\
         @!%p0 bra E;\n{body}\nE: st.global.b{out} [%rd1+24], %d{s};\nret;\n}}\n"
    );
    let mut data = vec![0u8; blocks * threads * 32];
    for (row, values) in data.chunks_exact_mut(32).zip(inputs) {
        for (slot, value) in row.chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }
    let shape = (blocks as u32, threads as u32);
    let result = launch(&source, shape, &data, level, CopyMode::Strict);
    let result = result.unwrap_or_else(|f| panic!("{f}\n{body}"));
    let word = |row: &[u8]| u64::from_le_bytes(row[24..32].try_into().expect("8 bytes"));
    let results: Vec<u64> = result.chunks_exact(32).take(inputs.len()).map(word).collect();
    for (i, value) in results.iter().enumerate().skip(mask_from).filter(|(i, _)| i % 2 == 1) {
        assert_eq!(*value, 77, "an inactive lane was written: row {i} of {body}");
    }
    results
}

/// Compares every level with a model on all inputs; a model's `None` means that any value will do,
/// the same at every level.
pub(crate) fn check(
    body: &str,
    widths: &[u32],
    out: u32,
    inputs: &[[u64; 3]],
    model: impl Fn([u64; 3]) -> Option<u64>,
) {
    let mask_from = inputs.len() - inputs.len() / 4;
    let mut first: Option<Vec<u64>> = None;
    for level in levels() {
        let results = rows(body, widths, out, inputs, level);
        for (i, (input, got)) in inputs.iter().zip(&results).enumerate() {
            if i >= mask_from && i % 2 == 1 {
                continue;
            }
            let want = model(*input).unwrap_or_else(|| first.as_ref().map_or(*got, |f| f[i]));
            assert_eq!(*got, want, "{level:?}: {body} of {input:x?}: got {got:#x}, want {want:#x}");
        }
        first.get_or_insert(results);
    }
}

/// f32 bits that are likely to matter.
pub(crate) const EDGES32: &[u32] = &[
    0,
    1,
    2,
    0x7f_ffff,
    0x80_0000,
    0x80_0001,
    0xff_ffff,
    0x100_0000,
    0x0d80_0000,
    0x3300_0000,
    0x337f_ffff,
    0x3380_0000,
    0x3380_0001,
    0x387f_c000,
    0x387f_e000,
    0x387f_f000,
    0x3880_0000,
    0x3f00_0000,
    0x3f7f_ffff,
    0x3f80_0000,
    0x3f80_0001,
    0x3f80_1000,
    0x3f80_8000,
    0x3f81_8000,
    0x3fc0_0000,
    0x4000_0000,
    0x4020_0000,
    0x4049_0fdb,
    0x42ff_0000,
    0x4300_0000,
    0x437f_8000,
    0x43e0_0000,
    0x43e8_0000,
    0x4380_0000,
    0x46ff_fe00,
    0x4700_0000,
    0x477f_e000,
    0x477f_efff,
    0x477f_f000,
    0x4780_0000,
    0x4b00_0000,
    0x4b00_0001,
    0x4b80_0000,
    0x4eff_ffff,
    0x4f00_0000,
    0x4f7f_ffff,
    0x4f80_0000,
    0x5eff_ffff,
    0x5f00_0000,
    0x5f80_0000,
    0x7e80_0000,
    0x7f00_0000,
    0x7f7f_7fff,
    0x7f7f_8000,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7f80_0001,
    0x7fc0_0000,
    0x7fff_ffff,
];

/// One f32: an edge, a neighbour of it, a subnormal, or random bits of any or a middle exponent.
pub(crate) fn any32(rng: &mut Rng) -> u32 {
    let bits = rng.next() as u32;
    match rng.below(8) {
        0 | 1 => EDGES32[rng.below(EDGES32.len() as u64) as usize] | bits & 1 << 31,
        2 => EDGES32[rng.below(EDGES32.len() as u64) as usize] ^ bits & 3 ^ bits & 1 << 31,
        3 => bits & 0x807f_ffff,
        4 => bits,
        _ => bits & 0x807f_ffff | (100 + rng.below(60) as u32) << 23,
    }
}

/// One f64, likewise.
pub(crate) fn any64(rng: &mut Rng) -> u64 {
    let bits = rng.next();
    match rng.below(8) {
        0 | 1 => f64::from(f32::from_bits(any32(rng))).to_bits(),
        2 => bits & 0x800f_ffff_ffff_ffff,
        3 => bits,
        4 => {
            let edges = [0x7fef_ffff_ffff_ffff, 0x7ff0_0000_0000_0000, 1, 0x10_0000_0000_0000];
            edges[rng.below(4) as usize] | bits & 1 << 63
        }
        5 => bits & 0xbff0_0000_0000_0000 | bits & 3,
        _ => bits & 0x800f_ffff_ffff_ffff | (990 + rng.below(60)) << 52,
    }
}

/// `count` rows made by a function of the generator.
pub(crate) fn table(label: &str, count: usize, f: impl Fn(&mut Rng) -> [u64; 3]) -> Vec<[u64; 3]> {
    let mut rng = Rng::new(label);
    (0..count).map(|_| f(&mut rng)).collect()
}
