//! Start, devices, contexts.

use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::support::{OwnContext, code, context, install, ok};

#[test]
fn cudarc_opens_the_device_and_reads_attributes() {
    let context = context();
    assert_eq!(context.name().unwrap(), "softcuda (A100 profile)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert!(context.has_async_alloc());
    let attribute = |which| context.attribute(which).unwrap();
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 108);
    assert_eq!(
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        166_912
    );
    let (free, total) = context.mem_get_info().unwrap();
    assert_eq!(total, 256 << 20);
    assert!(free <= total && free > 0);
}

#[test]
fn device_queries_check_their_arguments() {
    install();
    let mut value = 0;
    assert_eq!(code(unsafe { sys::cuInit(1) }), 1);
    assert!(ok(unsafe { sys::cuDriverGetVersion(&raw mut value) }));
    assert_eq!(value, 13_000);
    assert_eq!(code(unsafe { sys::cuDriverGetVersion(ptr::null_mut()) }), 1);
    assert!(ok(unsafe { sys::cuDeviceGetCount(&raw mut value) }));
    assert_eq!(value, 1);
    assert_eq!(code(unsafe { sys::cuDeviceGet(&raw mut value, 1) }), 101);
    assert_eq!(code(unsafe { sys::cuDeviceGet(&raw mut value, -1) }), 101);
    let warp = Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE;
    assert_eq!(code(unsafe { sys::cuDeviceGetAttribute(&raw mut value, warp, 5) }), 101);
    assert_eq!(code(unsafe { sys::cuDeviceGetAttribute(ptr::null_mut(), warp, 0) }), 1);
    let mut name = [1_i8; 9];
    assert!(ok(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 9, 0) }));
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"softcuda", "cut, and ended by NUL");
    assert_eq!(code(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 0, 0) }), 1);
    let mut properties = unsafe { std::mem::zeroed::<sys::CUdevprop>() };
    assert!(ok(unsafe { sys::cuDeviceGetProperties(&raw mut properties, 0) }));
    assert_eq!((properties.SIMDWidth, properties.maxThreadsDim), (32, [1024, 1024, 64]));
}

#[test]
fn bus_id_leads_back_to_the_device() {
    install();
    let mut id = [0_i8; 16];
    assert!(ok(unsafe { sys::cuDeviceGetPCIBusId(id.as_mut_ptr(), 16, 0) }));
    let mut device = 7;
    assert!(ok(unsafe { sys::cuDeviceGetByPCIBusId(&raw mut device, id.as_ptr()) }));
    assert_eq!(device, 0);
    let other = c"0000:77:00.0".as_ptr();
    assert_eq!(code(unsafe { sys::cuDeviceGetByPCIBusId(&raw mut device, other) }), 101);
}

#[test]
fn errors_have_names_and_texts() {
    install();
    let mut text = ptr::null();
    let error = sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert!(ok(unsafe { sys::cuGetErrorName(error, &raw mut text) }));
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert!(ok(unsafe { sys::cuGetErrorString(error, &raw mut text) }));
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"an illegal memory access was encountered");
    assert_eq!(code(unsafe { sys::cuGetErrorString(error, ptr::null_mut()) }), 1);
}

#[test]
fn contexts_are_a_stack() {
    let outer = OwnContext::new();
    let mut current = ptr::null_mut();
    {
        let inner = OwnContext::new();
        assert!(ok(unsafe { sys::cuCtxGetCurrent(&raw mut current) }));
        assert_eq!(current, inner.0);
    }
    assert!(ok(unsafe { sys::cuCtxGetCurrent(&raw mut current) }));
    assert_eq!(current, outer.0);
    assert!(ok(unsafe { sys::cuCtxPopCurrent_v2(&raw mut current) }));
    assert_eq!(current, outer.0);
    assert_eq!(code(unsafe { sys::cuCtxSynchronize() }), 201, "none is current");
    assert!(ok(unsafe { sys::cuCtxPushCurrent_v2(outer.0) }));
    let mut device = 7;
    assert!(ok(unsafe { sys::cuCtxGetDevice(&raw mut device) }));
    assert_eq!(device, 0);
}

#[test]
fn destroyed_and_made_up_contexts_are_refused() {
    let gone = OwnContext::new().0;
    assert_eq!(code(unsafe { sys::cuCtxSetCurrent(gone) }), 709);
    assert_eq!(code(unsafe { sys::cuCtxDestroy_v2(gone) }), 709);
    let made_up = 0x5555_0000_usize as sys::CUcontext;
    assert_eq!(code(unsafe { sys::cuCtxSetCurrent(made_up) }), 201);
}

#[test]
fn memory_goes_with_its_context() {
    let address = {
        let _context = OwnContext::new();
        let mut address = 0;
        assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut address, 1000) }));
        address
    };
    let _context = OwnContext::new();
    assert_eq!(code(unsafe { sys::cuMemFree_v2(address) }), 1);
}

#[test]
fn limits_are_kept() {
    let _context = OwnContext::new();
    let mut value = 0;
    let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    assert!(ok(unsafe { sys::cuCtxGetLimit(&raw mut value, stack) }));
    assert_eq!(value, 1024);
    assert!(ok(unsafe { sys::cuCtxSetLimit(stack, 4096) }));
    assert!(ok(unsafe { sys::cuCtxGetLimit(&raw mut value, stack) }));
    assert_eq!(value, 4096);
    let shared = sys::CUlimit::CU_LIMIT_SHMEM_SIZE;
    assert_eq!(code(unsafe { sys::cuCtxSetLimit(shared, 1) }), 215);
    let (mut least, mut greatest) = (9, 9);
    let range = unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) };
    assert!(ok(range));
    assert_eq!((least, greatest), (0, -5));
}

#[test]
fn entry_points_are_found_by_name() {
    install();
    let find = |name: &CStr, version| {
        let (mut function, mut status) =
            (ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
        let result = unsafe {
            sys::cuGetProcAddress_v2(name.as_ptr(), &raw mut function, version, 0, &raw mut status)
        };
        assert!(ok(result));
        (function, status as u32)
    };
    let (plain, status) = find(c"cuMemAlloc", 13_000);
    assert_eq!(status, 0);
    let (newest, _) = find(c"cuMemAlloc_v2", 13_000);
    assert_eq!(plain, newest);
    assert_eq!(find(c"cuNoSuchThing", 13_000), (ptr::null_mut(), 1));
    assert_eq!(find(c"cuMemAlloc", 14_000), (ptr::null_mut(), 2));
    // What is found is what is called.
    let (version, _) = find(c"cuDriverGetVersion", 13_000);
    let version: unsafe extern "C" fn(*mut i32) -> i32 = unsafe { std::mem::transmute(version) };
    let mut value = 0;
    assert_eq!(unsafe { version(&raw mut value) }, 0);
    assert_eq!(value, 13_000);
}

#[test]
fn what_is_not_there_says_so() {
    let _context = OwnContext::new();
    let mut array = ptr::null_mut();
    assert_eq!(code(unsafe { sys::cuArrayCreate_v2(&raw mut array, ptr::null()) }), 801);
    let mut table = ptr::null();
    let id = unsafe { std::mem::zeroed::<sys::CUuuid>() };
    assert_eq!(code(unsafe { sys::cuGetExportTable(&raw mut table, &raw const id) }), 500);
}
