//! Latency of the driver: launches, synchronisation, copies.
//!
//! `cargo bench -p softcuda --bench driver`

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

use criterion::{Criterion, criterion_group, criterion_main};
use cudarc::driver::sys;
use softcuda::Config;

const KERNELS: &str = concat!(include_str!("../tests/driver/kernels.ptx"), "\0");

fn check(result: sys::CUresult) {
    assert_eq!(result as u32, 0);
}

/// A function of the tests' kernels, in a context of its own.
fn function(name: &std::ffi::CStr) -> sys::CUfunction {
    let config = Config::from_env().expect("known settings");
    softcuda::install(&config).expect("memfd_create works here");
    let (mut context, mut module, mut function) =
        (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: every pointer is that of a live variable, the image ends with NUL.
    unsafe {
        check(sys::cuInit(0));
        check(sys::cuCtxCreate_v4(&raw mut context, ptr::null_mut(), 0, 0));
        check(sys::cuModuleLoadData(&raw mut module, KERNELS.as_ptr().cast()));
        check(sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()));
    }
    function
}

fn launch(function: sys::CUfunction, blocks: u32, threads: u32) {
    let null = ptr::null_mut();
    // SAFETY: the kernel takes no parameters.
    unsafe {
        check(sys::cuLaunchKernel(
            function,
            blocks,
            1,
            1,
            threads,
            1,
            1,
            0,
            null,
            null.cast(),
            null.cast(),
        ));
        check(sys::cuStreamSynchronize(null));
    }
}

fn driver(criterion: &mut Criterion) {
    let empty = function(c"empty");
    let mut group = criterion.benchmark_group("driver");
    // The design allows 20 microseconds.
    group.bench_function("empty launch and synchronise, 1 block", |bench| {
        bench.iter(|| launch(empty, 1, 32));
    });
    group.bench_function("empty launch and synchronise, 64 blocks of 256", |bench| {
        bench.iter(|| launch(empty, 64, 256));
    });
    let mut address = 0;
    let host = vec![1_u8; 16 << 20];
    // SAFETY: the pointers are those of live variables of the sizes given.
    check(unsafe { sys::cuMemAlloc_v2(&raw mut address, host.len()) });
    for (name, bytes) in
        [("copy 4 bytes to the device", 4), ("copy 16 MiB to the device", 16 << 20)]
    {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let from = black_box(host.as_ptr()).cast::<c_void>();
                // SAFETY: both sides have 16 MiB.
                check(unsafe { sys::cuMemcpyHtoD_v2(address, from, bytes) });
            });
        });
    }
    group.bench_function("allocate and free 1 MiB", |bench| {
        bench.iter(|| {
            let mut address = 0;
            // SAFETY: the pointer is that of a live variable.
            unsafe {
                check(sys::cuMemAllocAsync(&raw mut address, 1 << 20, ptr::null_mut()));
                check(sys::cuMemFreeAsync(address, ptr::null_mut()));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, driver);
criterion_main!(benches);
