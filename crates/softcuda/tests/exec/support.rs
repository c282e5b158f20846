//! A device for tests, and kernels in a few lines of PTX.

use softcuda::direct::{Device, Module};
use softcuda::exec::{CopyMode, Level, Order, Settings};
use softcuda::fault::Fault;

/// Every level that this machine has.
pub(crate) fn levels() -> Vec<Level> {
    [Level::Base, Level::Avx2, Level::Avx512]
        .into_iter()
        .filter(|l| *l <= Level::detect())
        .collect()
}

/// Settings for a level, in ascending order.
pub(crate) fn settings(level: Level) -> Settings {
    let (blocks, warps) = (Order::Ascending, Order::Ascending);
    Settings { level, plain: false, blocks, warps, copies: CopyMode::Strict }
}

/// Wraps a body in a kernel `k` of one pointer parameter; `%rd1` points to a row of `stride` bytes
/// for each thread.
pub(crate) fn kernel(regs: &str, body: &str, stride: u32) -> String {
    format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b64 %rd<40>; .reg .b32 %r<60>; .reg .b16 %h<20>; .reg .pred %p<20>; .reg .f32 %f<20>;\n{regs}\n\
         ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, {stride}, %rd0;\n\
         {body}\nret;\n}}\n"
    )
}

/// Runs kernel `k` of `source` on one block of `threads` with `data` as its buffer; returns the
/// buffer afterwards.
pub(crate) fn run(
    source: &str,
    threads: u32,
    data: &[u32],
    settings: Settings,
) -> Result<Vec<u32>, Box<Fault>> {
    let device = Device::new(16 << 20, settings).expect("16 MiB can be reserved");
    let module: Module = device.load_ptx(source).unwrap_or_else(|e| panic!("{e}\n{source}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}\n{source}"));
    let bytes: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
    let at = device.alloc(bytes.len()).expect("there is room");
    device.write(at, &bytes).expect("just allocated");
    device.launch(&kernel, [1, 1, 1], [threads, 1, 1], 0, &at.to_le_bytes())?;
    let mut out = vec![0; bytes.len()];
    device.read(at, &mut out).expect("still allocated");
    Ok(out.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

/// As [`run`] at every level; all must agree.
pub(crate) fn run_all(source: &str, threads: u32, data: &[u32]) -> Vec<u32> {
    let mut results = levels().into_iter().map(|l| {
        run(source, threads, data, settings(l)).unwrap_or_else(|f| panic!("{l:?}: {f}\n{source}"))
    });
    let first = results.next().expect("the base level is always there");
    for other in results {
        assert_eq!(first, other, "levels differ\n{source}");
    }
    first
}
