//! What instructions cost on the executor: one warp runs a loop of 64 of them.
//!
//! `cargo bench -p softcuda --bench exec`. Divide a time by 64,000 for one instruction of a warp.
#![expect(clippy::panic, reason = "a benchmark that cannot run ends with the reason")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use softcuda::direct::Device;
use softcuda::exec::{Kernel, Level, Settings};

/// Loops of a launch.
const LOOPS: u32 = 1000;
/// Instructions of a loop.
const BODY: usize = 64;

/// A kernel whose loop is `BODY` instructions; `line` gives the n-th.
fn kernel(device: &Device, line: impl Fn(usize) -> String) -> Arc<Kernel> {
    let body: Vec<String> = (0..BODY).map(line).collect();
    let source = format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b64 %rd<40>; .reg .b32 %r<200>; .reg .f32 %f<200>; .reg .pred %p<8>;\n\
         .shared .align 16 .b8 s[8192];\n\
         ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, 4, %rd0;\n\
         mad.wide.u32 %rd2, %r0, 16, %rd0; mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1;\n\
         mad.lo.u32 %r3, %r0, 4, %r1; mov.u32 %r4, {LOOPS};\n\
         L:\n{}\nadd.s32 %r4, %r4, -1; setp.ne.s32 %p1, %r4, 0; @%p1 bra L;\nret;\n}}\n",
        body.join("\n")
    );
    let module = device.load_ptx(&source).unwrap_or_else(|e| panic!("{e}"));
    module.kernel("k").unwrap_or_else(|e| panic!("{e}"))
}

fn integer(n: usize) -> String {
    let (a, b, d) = (10 + n % 32, 10 + (n * 7) % 32, 10 + (n * 5) % 32);
    let name = ["add.s32", "xor.b32", "shl.b32", "min.u32", "mul.lo.s32"][n % 5];
    format!("{name} %r{d}, %r{a}, %r{b};")
}

fn mixed(n: usize) -> String {
    let (a, b, d) = (10 + n % 32, 10 + (n * 7) % 32, 10 + (n * 5) % 32);
    match n % 4 {
        0 => format!("add.s32 %r{d}, %r{a}, %r{b};"),
        1 => format!("fma.rn.f32 %f{d}, %f{a}, %f{b}, %f{d};"),
        2 => format!("xor.b32 %r{d}, %r{a}, %r{b};"),
        _ => format!("mul.rn.f32 %f{d}, %f{a}, %f{b};"),
    }
}

fn matrix(n: usize) -> String {
    let c = 10 + (n % 16) * 4;
    let (a, b) = (100 + (n / 4 % 4) * 4, 120 + (n % 4) * 2);
    format!(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f{c},%f{},%f{},%f{}}}, \
         {{%r{a},%r{},%r{},%r{}}}, {{%r{b},%r{}}}, {{%f{c},%f{},%f{},%f{}}};",
        c + 1,
        c + 2,
        c + 3,
        a + 1,
        a + 2,
        a + 3,
        b + 1,
        c + 1,
        c + 2,
        c + 3
    )
}

fn benches(c: &mut Criterion) {
    type Line = fn(usize) -> String;
    let rows: [(&str, Line); 16] = [
        ("integer", integer),
        ("mixed", mixed),
        ("add.s64", |n| {
            format!("add.s64 %rd{}, %rd{}, %rd{};", 10 + n % 8, 20 + n % 8, 30 + n % 8)
        }),
        ("setp.lt.s32", |n| {
            format!("setp.lt.s32 %p{}, %r{}, %r{};", 2 + n % 4, 10 + n % 8, 20 + n % 8)
        }),
        ("fma.rn.f32", |n| {
            let (a, b) = (30 + n % 8, 40 + n * 3 % 8);
            format!("fma.rn.f32 %f{}, %f{a}, %f{b}, %f{a};", 10 + n % 16)
        }),
        ("max.f32", |n| format!("max.f32 %f{}, %f{}, %f{};", 10 + n % 8, 30 + n % 8, 40 + n % 4)),
        ("cvt.bf16x2", |n| {
            format!("cvt.rn.bf16x2.f32 %r{}, %f{}, %f{};", 10 + n % 8, 30 + n % 8, 40 + n % 4)
        }),
        ("ex2.approx", |n| format!("ex2.approx.f32 %f{}, %f{};", 10 + n % 8, 30 + n % 8)),
        ("mma bf16", matrix),
        ("mma f16", |n| matrix(n).replace("bf16", "f16")),
        ("ldmatrix.x4.trans", |n| {
            let d = 10 + (n % 8) * 4;
            let (d1, d2, d3, at) = (d + 1, d + 2, d + 3, n * 16);
            format!(
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r{d},%r{d1},%r{d2},%r{d3}}}, \
                 [%r2+{at}];"
            )
        }),
        // Four copies, their group and the wait for the one before: 6 instructions in 16.
        ("cp.async", |n| match n % 16 {
            k @ 0..4 => {
                format!("cp.async.cg.shared.global [%r2+{}], [%rd2+{}], 16;", 512 * k, 512 * k)
            }
            4 => "cp.async.commit_group;".to_owned(),
            5 => "cp.async.wait_group 1;".to_owned(),
            _ => String::new(),
        }),
        ("ldmatrix.x4", |n| {
            let d = 10 + (n % 8) * 4;
            format!(
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r{d},%r{},%r{},%r{}}}, [%r2+{}];",
                d + 1,
                d + 2,
                d + 3,
                n * 16
            )
        }),
        ("ld.shared", |n| format!("ld.shared.u32 %r{}, [%r3+{}];", 10 + n % 16, n * 4)),
        ("ld.global", |n| format!("ld.global.u32 %r{}, [%rd1+{}];", 10 + n % 16, n * 4)),
        ("ld.global.v4", |n| {
            let d = 10 + (n % 8) * 4;
            format!(
                "ld.global.v4.u32 {{%r{d},%r{},%r{},%r{}}}, [%rd2+{}];",
                d + 1,
                d + 2,
                d + 3,
                n * 16
            )
        }),
    ];
    let mut group = c.benchmark_group("instruction");
    group.throughput(Throughput::Elements(u64::from(LOOPS) * BODY as u64));
    group.sample_size(10).measurement_time(Duration::from_millis(500));
    group.warm_up_time(Duration::from_millis(100));
    for level in [Level::Base, Level::Avx2, Level::Avx512] {
        if level > Level::detect() {
            continue;
        }
        // The optimiser would take most of a loop out of it.
        let settings = Settings { level, plain: true, ..Settings::default() };
        let device = Device::new(16 << 20, settings).expect("16 MiB can be reserved");
        let data = device.alloc(1 << 16).expect("there is room");
        for (name, line) in rows {
            let kernel = kernel(&device, line);
            let id = BenchmarkId::new(name, format!("{level:?}"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    let launched =
                        device.launch(&kernel, [1, 1, 1], [32, 1, 1], 0, &data.to_le_bytes());
                    launched.unwrap_or_else(|f| panic!("{f}"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(exec, benches);
criterion_main!(exec);
