//! Launches: results, checks, faults, schedules, cancelling.

use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUfunction, CUmodule};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use softcuda::exec::Order;
use softcuda::fault::FaultKind;
use softcuda::{LaunchRecord, Schedule};

use crate::module::{KERNELS, function, kernels};
use crate::support::{OwnContext, code, context, in_child, ok};

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) }));
    assert!(ok(unsafe { sys::cuMemsetD8_v2(address, 0, bytes) }));
    address
}

fn words(address: u64, count: usize) -> Vec<u32> {
    let mut host = vec![0_u32; count];
    let to = host.as_mut_ptr().cast();
    assert!(ok(unsafe { sys::cuMemcpyDtoH_v2(to, address, 4 * count) }));
    host
}

/// Launches with parameters by pointer.
fn launch(function: CUfunction, grid: u32, block: u32, shared: u32, parameters: &[u64]) -> u32 {
    let mut pointers: Vec<_> = parameters
        .iter()
        .map(|parameter| ptr::from_ref(parameter).cast_mut().cast::<c_void>())
        .collect();
    let each = if pointers.is_empty() { ptr::null_mut() } else { pointers.as_mut_ptr() };
    let null = ptr::null_mut();
    code(unsafe {
        sys::cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, null, each, null.cast())
    })
}

fn synchronize() -> u32 {
    code(unsafe { sys::cuCtxSynchronize() })
}

fn loaded(name: &CStr) -> (CUmodule, CUfunction) {
    let module = kernels();
    (module, function(module, name))
}

#[test]
fn cudarc_adds_vectors_on_two_streams() {
    let context = context();
    let module = context.load_module(Ptx::from_src(KERNELS.trim_end_matches('\0'))).unwrap();
    let add = module.load_function("add").unwrap();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let values: Vec<u32> = (0..1000).collect();
    let a = first.clone_htod(&values).unwrap();
    let mut b = first.alloc_zeros::<u32>(1000).unwrap();
    let mut c = second.alloc_zeros::<u32>(1000).unwrap();
    let count = 1000_u32;
    let config = LaunchConfig::for_num_elems(count);
    unsafe {
        first.launch_builder(&add).arg(&mut b).arg(&a).arg(&a).arg(&count).launch(config).unwrap();
    }
    second.wait(&first.record_event(None).unwrap()).unwrap();
    unsafe {
        second.launch_builder(&add).arg(&mut c).arg(&b).arg(&a).arg(&count).launch(config).unwrap();
    }
    let expected: Vec<u32> = (0..1000).map(|value| 3 * value).collect();
    assert_eq!(second.clone_dtoh(&c).unwrap(), expected);
}

#[test]
fn a_declared_block_fits_the_registers_without_machine_code() {
    let _context = OwnContext::new();
    let lines = |line: &dyn Fn(u32) -> String| (0..90).map(line).collect::<String>();
    let text = |directive: &str| {
        let loads = lines(&|n| format!("ld.global.u32 %r{n}, [%rd1+{}];\n", 4 * n));
        let sums = lines(&|n| format!("xor.b32 %r100, %r100, %r{n};\n"));
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n\
             .visible .entry wide(.param .u64 data){directive}\n{{\n\
             .reg .b32 %r<101>; .reg .b64 %rd<2>;\nld.param.u64 %rd1, [data];\n\
             mov.u32 %r100, 0;\n{loads}bar.sync 0;\n{sums}\
             st.global.u32 [%rd1+400], %r100;\nret;\n}}\n\0"
        )
    };
    let data = allocate(1024);
    for (directive, expected) in [(" .maxntid 1024, 1, 1", 0), (" .reqntid 1024", 0), ("", 701)] {
        let text = text(directive);
        let mut module = ptr::null_mut();
        let image = text.as_ptr().cast();
        assert!(ok(unsafe { sys::cuModuleLoadData(&raw mut module, image) }));
        assert_eq!(launch(function(module, c"wide"), 1, 1024, 0, &[data]), expected, "{directive}");
        assert_eq!(synchronize(), 0);
    }
}

#[test]
fn fatbin_kernel_uses_shared_memory_and_barriers() {
    let context = context();
    let image = include_bytes!("../ptx/plain.fatbin").to_vec();
    let module = context.load_module(Ptx::from_binary(image)).unwrap();
    let image = module.load_function("image").unwrap();
    let stream = context.default_stream();
    let mut values = stream.clone_htod(&[0.0_f32, 1.5, 0.0, 0.0]).unwrap();
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (4, 1, 1), shared_mem_bytes: 0 };
    unsafe { stream.launch_builder(&image).arg(&mut values).launch(config).unwrap() };
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [3.0; 4]);
}

#[test]
fn module_variables_are_shared_by_launches() {
    let _context = OwnContext::new();
    let (module, bump) = loaded(c"bump");
    assert_eq!(launch(bump, 1, 1, 0, &[]), 0);
    assert_eq!(launch(bump, 1, 1, 0, &[]), 0);
    let mut address = 0;
    let name = c"counter".as_ptr();
    let found =
        unsafe { sys::cuModuleGetGlobal_v2(&raw mut address, ptr::null_mut(), module, name) };
    assert!(ok(found));
    assert_eq!(words(address, 1), [7 + 4 + 4]);
}

#[test]
fn parameters_may_come_in_one_buffer() {
    let _context = OwnContext::new();
    let (_, store) = loaded(c"store");
    let address = allocate(4);
    let mut buffer = [0_u8; 12];
    buffer[..8].copy_from_slice(&address.to_le_bytes());
    buffer[8..].copy_from_slice(&77_u32.to_le_bytes());
    let (size, short) = (buffer.len(), 8_usize);
    let extra = |key: usize, size: &usize| {
        [
            key as *mut c_void,
            buffer.as_ptr().cast_mut().cast(),
            2_usize as *mut c_void,
            ptr::from_ref(size).cast_mut().cast(),
            ptr::null_mut(),
        ]
    };
    let null = ptr::null_mut();
    let go = |extra: *mut *mut c_void| {
        code(unsafe {
            sys::cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, null, ptr::null_mut(), extra)
        })
    };
    assert_eq!(go(extra(1, &size).as_mut_ptr()), 0);
    assert_eq!(words(address, 1), [77]);
    assert_eq!(go(extra(1, &short).as_mut_ptr()), 1, "too short");
    assert_eq!(go(extra(9, &size).as_mut_ptr()), 1, "unknown key");
}

#[test]
fn launches_are_checked() {
    let _context = OwnContext::new();
    let module = kernels();
    let empty = function(module, c"empty");
    let null = ptr::null_mut();
    let shape = |function, grid: [u32; 3], block: [u32; 3], shared| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        code(unsafe {
            sys::cuLaunchKernel(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                null,
                null.cast(),
                null.cast(),
            )
        })
    };
    assert_eq!(shape(empty, [1, 1, 1], [1024, 1, 1], 0), 0);
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 0, 1]),
        ([1 << 31, 1, 1], [1, 1, 1]),
        ([1, 65_536, 1], [1, 1, 1]),
        ([1, 1, 65_536], [1, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [1, 1, 65]),
        ([1, 1, 1], [32, 33, 1]),
    ] {
        assert_eq!(shape(empty, grid, block, 0), 1, "{grid:?} {block:?}");
    }
    assert_eq!(shape(function(module, c"at_most_64"), [1; 3], [64, 1, 1], 0), 0);
    assert_eq!(shape(function(module, c"at_most_64"), [1; 3], [65, 1, 1], 0), 1);
    assert_eq!(shape(function(module, c"exactly_32_by_2"), [1; 3], [32, 2, 1], 0), 0);
    assert_eq!(shape(function(module, c"exactly_32_by_2"), [1; 3], [64, 1, 1], 0), 1);
    assert_eq!(shape(function(module, c"store"), [1; 3], [1; 3], 0), 1, "no parameters");
    assert_eq!(shape(ptr::null_mut(), [1; 3], [1; 3], 0), 400);
    assert_eq!(shape(function(module, c"unknown_instruction"), [1; 3], [1; 3], 0), 801);
    assert_eq!(synchronize(), 0, "a refused launch spoils nothing");
}

#[test]
fn shared_memory_above_the_default_needs_opting_in() {
    let _context = OwnContext::new();
    let (_, dynamic) = loaded(c"dynamic");
    let out = allocate(4);
    assert_eq!(launch(dynamic, 1, 1, 49_152, &[out]), 0);
    assert_eq!(words(out, 1), [49_152]);
    assert_eq!(launch(dynamic, 1, 1, 49_153, &[out]), 1);
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(ok(unsafe { sys::cuFuncSetAttribute(dynamic, attribute, 100_000) }));
    assert_eq!(launch(dynamic, 1, 1, 100_000, &[out]), 0);
    assert_eq!(words(out, 1), [100_000]);
    assert_eq!(launch(dynamic, 1, 1, 100_001, &[out]), 1);
}

#[test]
fn faults_are_reported_and_stay() {
    let context = OwnContext::new();
    let (_, store) = loaded(c"store");
    let address = allocate(100);
    assert_eq!(launch(store, 1, 1, 0, &[address + 96, 1]), 0);
    assert_eq!(synchronize(), 0, "the last word");
    assert_eq!(launch(store, 3, 32, 0, &[address + 100, 1]), 0, "errors come later");
    assert_eq!(synchronize(), 700);
    let fault = softcuda::last_fault().expect("it was reported");
    assert_eq!((fault.kernel.as_str(), fault.code, fault.lanes), ("store", 700, 1));
    assert!(
        matches!(fault.kind, FaultKind::IllegalAddress { addr, size: 4, .. } if addr == address + 100)
    );
    assert!(fault.detail.contains("1 byte past allocation"), "{}", fault.detail);
    assert!(fault.ptx_text.contains("st.u32"), "{}", fault.ptx_text);
    let report = softcuda::last_report().expect("it was reported");
    assert!(report.starts_with("softcuda: "), "{report}");
    // Every later call of this context says so, other contexts are not concerned.
    assert_eq!(launch(store, 1, 1, 0, &[address, 1]), 700);
    let mut other = 0;
    assert_eq!(code(unsafe { sys::cuMemAlloc_v2(&raw mut other, 4) }), 700);
    assert_eq!(code(unsafe { sys::cuStreamSynchronize(ptr::null_mut()) }), 700);
    {
        let _second = OwnContext::new();
        assert_eq!(synchronize(), 0);
    }
    assert!(ok(unsafe { sys::cuCtxSetCurrent(context.0) }));
}

#[test]
fn kinds_of_faults_have_their_codes() {
    for (name, offset, expected) in
        [(c"store", 2, 716), (c"traps", 0, 719), (c"store", 1 << 30, 700)]
    {
        let _context = OwnContext::new();
        let (_, function) = loaded(name);
        let address = allocate(100);
        let parameters = [address + offset, 1];
        let parameters = if name == c"traps" { &[][..] } else { &parameters[..] };
        assert_eq!(launch(function, 1, 1, 0, parameters), 0);
        assert_eq!(synchronize(), expected, "{name:?} {offset}");
    }
}

#[test]
fn host_memory_is_accessible_when_it_is_pinned() {
    let _context = OwnContext::new();
    let (_, store) = loaded(c"store");
    let mut pinned = ptr::null_mut();
    assert!(ok(unsafe { sys::cuMemHostAlloc(&raw mut pinned, 4, 0) }));
    assert_eq!(launch(store, 1, 1, 0, &[pinned as u64, 5]), 0);
    assert_eq!(synchronize(), 0);
    assert_eq!(unsafe { pinned.cast::<u32>().read() }, 5);
    let mut plain = 0_u32;
    assert_eq!(launch(store, 1, 1, 0, &[(&raw mut plain) as u64, 5]), 0);
    assert_eq!(synchronize(), 700);
    assert_eq!(plain, 0);
    let fault = softcuda::last_fault();
    assert!(fault.is_some());
}

/// In a process of its own: one thread alone runs blocks strictly in order.
#[test]
fn blocks_run_in_the_order_of_the_schedule() {
    let test = "launch::blocks_run_in_the_order_of_the_schedule";
    if in_child(test, ("SOFTCUDA_THREADS", "1")) {
        return;
    }
    let _context = OwnContext::new();
    let (_, last) = loaded(c"last");
    for (blocks, expected) in [(Order::Ascending, 99), (Order::Descending, 0)] {
        let out = allocate(4);
        let schedule = Schedule { blocks, ..Schedule::default() };
        let result = softcuda::scheduled(schedule, || launch(last, 100, 32, 0, &[out]));
        assert_eq!((result, synchronize()), (0, 0));
        assert_eq!(words(out, 1), [expected]);
    }
}

#[test]
fn blocks_may_wait_for_later_blocks() {
    let _context = OwnContext::new();
    let (_, handshake) = loaded(c"handshake");
    for blocks in [Order::Ascending, Order::Descending] {
        let flag = allocate(4);
        let schedule = Schedule { blocks, ..Schedule::default() };
        let result = softcuda::scheduled(schedule, || launch(handshake, 2, 1, 0, &[flag]));
        assert_eq!((result, synchronize()), (0, 0));
        assert_eq!(words(flag, 1), [2]);
    }
    let flag = allocate(4);
    let mut parameter = ptr::from_ref(&flag).cast_mut().cast::<c_void>();
    let null = ptr::null_mut();
    let mut cooperative = |grid| {
        code(unsafe {
            sys::cuLaunchCooperativeKernel(
                handshake,
                grid,
                1,
                1,
                1,
                1,
                1,
                0,
                null,
                &raw mut parameter,
            )
        })
    };
    assert_eq!((cooperative(2), synchronize()), (0, 0));
    assert_eq!(words(flag, 1), [2]);
    assert_eq!(cooperative(108 * 32 + 1), 720);
}

#[test]
fn extended_launch_takes_attributes() {
    let _context = OwnContext::new();
    let (_, store) = loaded(c"store");
    let address = allocate(4);
    let (value, null) = (9_u32, ptr::null_mut());
    let mut parameters = [
        ptr::from_ref(&address).cast_mut().cast::<c_void>(),
        ptr::from_ref(&value).cast_mut().cast(),
    ];
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { cooperative: 1 },
    };
    let mut go = |attribute: &mut sys::CUlaunchAttribute| {
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: null,
            attrs: attribute,
            numAttrs: 1,
        };
        code(unsafe {
            sys::cuLaunchKernelEx(&raw const config, store, parameters.as_mut_ptr(), null.cast())
        })
    };
    assert_eq!(go(&mut attribute), 0);
    assert_eq!(words(address, 1), [9]);
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
    assert_eq!(go(&mut attribute), 801);
}

#[test]
fn launches_are_recorded_for_the_thread_that_makes_them() {
    let _context = OwnContext::new();
    let (_, empty) = loaded(c"empty");
    let (result, records) = softcuda::launches(|| launch(empty, 5, 64, 16, &[]));
    assert_eq!(result, 0);
    let [record] = &records[..] else { panic!("one launch: {records:?}") };
    let LaunchRecord { number, kernel, grid, block, shared_bytes } = record;
    assert!(*number > 0);
    assert_eq!((kernel.as_str(), grid, block), ("empty", &[5, 1, 1], &[64, 1, 1]));
    assert_eq!(*shared_bytes, 16);
}

/// In a process of its own because of the setting.
#[test]
fn launches_that_take_too_long_fail() {
    if in_child("launch::launches_that_take_too_long_fail", ("SOFTCUDA_TIMEOUT", "1")) {
        return;
    }
    let _context = OwnContext::new();
    let (module, spin) = loaded(c"spin");
    assert_eq!(launch(function(module, c"empty"), 1, 1, 0, &[]), 0);
    assert_eq!(synchronize(), 0);
    assert_eq!(launch(spin, 4, 32, 0, &[allocate(4)]), 0);
    assert_eq!(synchronize(), 702);
}

/// In a process of its own because of the setting.
#[test]
fn blocking_launches_report_their_own_faults() {
    if in_child("launch::blocking_launches_report_their_own_faults", ("SOFTCUDA_BLOCKING", "1")) {
        return;
    }
    let _context = OwnContext::new();
    let (_, traps) = loaded(c"traps");
    assert_eq!(launch(traps, 1, 1, 0, &[]), 719);
}

/// In a process of its own: cancelling stops every launch that runs.
#[test]
fn cancelling_stops_a_running_launch() {
    if in_child("launch::cancelling_stops_a_running_launch", ("SOFTCUDA_THREADS", "2")) {
        return;
    }
    let _context = OwnContext::new();
    let (_, spin) = loaded(c"spin");
    let flag = allocate(4);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (result, code) = std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            // Cancelling before the launch runs does nothing, so it is repeated.
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                softcuda::cancel();
                std::thread::yield_now();
            }
        });
        let result = launch(spin, 4, 32, 0, &[flag]);
        let code = synchronize();
        done.store(true, std::sync::atomic::Ordering::Release);
        (result, code)
    });
    assert_eq!((result, code), (0, 719));
    assert_eq!(softcuda::last_fault().map(|fault| fault.kind), Some(FaultKind::Cancelled));
}
