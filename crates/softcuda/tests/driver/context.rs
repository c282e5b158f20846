//! The primary context, settings of contexts, several devices.

use std::ptr;

use cudarc::driver::sys;

use crate::support::{OwnContext, code, in_child, install, ok};

fn state() -> (u32, i32) {
    let (mut flags, mut active) = (9, 9);
    let result = unsafe { sys::cuDevicePrimaryCtxGetState(0, &raw mut flags, &raw mut active) };
    assert!(ok(result));
    (flags, active)
}

fn retain() -> sys::CUcontext {
    let mut context = ptr::null_mut();
    assert!(ok(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, 0) }));
    context
}

/// In a process of its own: other tests use the primary context.
#[test]
fn primary_context_is_counted() {
    if in_child("context::primary_context_is_counted", ("SOFTCUDA_MEMORY", "16M")) {
        return;
    }
    install();
    assert_eq!(state(), (0, 0));
    assert!(ok(unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(0, 4) }));
    assert_eq!(code(unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(0, 1 << 20) }), 1);
    let (first, second) = (retain(), retain());
    assert_eq!(first, second);
    assert_eq!(state(), (4, 1));
    assert!(ok(unsafe { sys::cuCtxSetCurrent(first) }));
    let mut flags = 0;
    assert!(ok(unsafe { sys::cuCtxGetFlags(&raw mut flags) }));
    assert_eq!(flags, 4);
    assert_eq!(code(unsafe { sys::cuCtxDestroy_v2(first) }), 201, "not by this function");
    assert!(ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }));
    assert_eq!(code(unsafe { sys::cuCtxSynchronize() }), 0, "retained once more");
    assert!(ok(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }));
    assert_eq!(code(unsafe { sys::cuCtxSynchronize() }), 709);
    assert_eq!(code(unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }), 201);
    let third = retain();
    assert!(ok(unsafe { sys::cuCtxSetCurrent(third) }));
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut address, 1 << 20) }));
    assert!(ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }));
    assert_eq!(state().1, 0);
    assert_eq!(code(unsafe { sys::cuCtxSynchronize() }), 709);
    assert_eq!(code(unsafe { sys::cuDevicePrimaryCtxRetain(ptr::null_mut(), 0) }), 1);
}

#[test]
fn contexts_have_numbers_versions_and_devices() {
    let context = OwnContext::new();
    let (mut own, mut same, mut version, mut device) = (0, 0, 0, 9);
    assert!(ok(unsafe { sys::cuCtxGetId(context.0, &raw mut own) }));
    assert!(ok(unsafe { sys::cuCtxGetId(ptr::null_mut(), &raw mut same) }));
    assert_eq!(own, same, "null is the current one");
    assert!(ok(unsafe { sys::cuCtxGetApiVersion(context.0, &raw mut version) }));
    assert_eq!(version, 13_000);
    assert!(ok(unsafe { sys::cuCtxGetDevice_v2(&raw mut device, context.0) }));
    assert_eq!(device, 0);
    assert!(ok(unsafe { sys::cuCtxSynchronize_v2(context.0) }));
    let stranger = 0x1234_usize as sys::CUcontext;
    assert_eq!(code(unsafe { sys::cuCtxSynchronize_v2(stranger) }), 201);
    assert_eq!(code(unsafe { sys::cuCtxGetId(stranger, &raw mut own) }), 201);
}

#[test]
fn settings_without_effect_are_kept_and_checked() {
    let context = OwnContext::new();
    use sys::{CUfunc_cache, CUsharedconfig};
    let mut cache = CUfunc_cache::CU_FUNC_CACHE_PREFER_NONE;
    assert!(ok(unsafe { sys::cuCtxSetCacheConfig(CUfunc_cache::CU_FUNC_CACHE_PREFER_L1) }));
    assert!(ok(unsafe { sys::cuCtxGetCacheConfig(&raw mut cache) }));
    assert_eq!(cache, CUfunc_cache::CU_FUNC_CACHE_PREFER_L1);
    let mut banks = CUsharedconfig::CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE;
    let eight = CUsharedconfig::CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE;
    assert!(ok(unsafe { sys::cuCtxSetSharedMemConfig(eight) }));
    assert!(ok(unsafe { sys::cuCtxGetSharedMemConfig(&raw mut banks) }));
    assert_eq!(banks, eight);
    assert!(ok(unsafe { sys::cuCtxResetPersistingL2Cache() }));
    assert!(ok(unsafe { sys::cuCtxSetFlags(1) }));
    assert_eq!(code(unsafe { sys::cuCtxSetFlags(1 << 12) }), 1);
    assert_eq!(code(unsafe { sys::cuCtxEnablePeerAccess(context.0, 0) }), 101);
    assert_eq!(code(unsafe { sys::cuCtxEnablePeerAccess(context.0, 1) }), 1);
    assert!(ok(unsafe { sys::cuProfilerStart() }));
    assert!(ok(unsafe { sys::cuProfilerStop() }));
    let mut refused = ptr::null_mut();
    let flags = unsafe { sys::cuCtxCreate_v4(&raw mut refused, ptr::null_mut(), 1 << 20, 0) };
    assert_eq!(code(flags), 1);
    let device = unsafe { sys::cuCtxCreate_v4(&raw mut refused, ptr::null_mut(), 0, 3) };
    assert_eq!(code(device), 101);
}

#[test]
fn devices_have_identities_and_pools() {
    install();
    let (mut major, mut minor, mut peer, mut bytes) = (0, 0, 9, 0);
    assert!(ok(unsafe { sys::cuDeviceComputeCapability(&raw mut major, &raw mut minor, 0) }));
    assert_eq!((major, minor), (8, 0));
    assert!(ok(unsafe { sys::cuDeviceCanAccessPeer(&raw mut peer, 0, 0) }));
    assert_eq!(peer, 0);
    assert_eq!(code(unsafe { sys::cuDeviceCanAccessPeer(&raw mut peer, 0, 1) }), 101);
    assert!(ok(unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, 0) }));
    assert_eq!(bytes, 256 << 20);
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    assert!(ok(unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, 0) }));
    assert_ne!(uuid.bytes, [0; 16]);
    assert_eq!(code(unsafe { sys::cuDeviceGetUuid_v2(ptr::null_mut(), 0) }), 1);
    let (mut luid, mut mask) = ([0_i8; 8], 0);
    assert_eq!(code(unsafe { sys::cuDeviceGetLuid(luid.as_mut_ptr(), &raw mut mask, 0) }), 801);
    let (mut default, mut current) = (ptr::null_mut(), ptr::null_mut());
    assert!(ok(unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut default, 0) }));
    assert!(ok(unsafe { sys::cuDeviceGetMemPool(&raw mut current, 0) }));
    assert_eq!(default, current);
    assert!(ok(unsafe { sys::cuDeviceSetMemPool(0, default) }));
    assert_eq!(code(unsafe { sys::cuDeviceSetMemPool(0, ptr::null_mut()) }), 1);
}

/// In a process of its own because of the setting.
#[test]
fn several_devices_are_equal() {
    if in_child("context::several_devices_are_equal", ("SOFTCUDA_DEVICES", "2")) {
        return;
    }
    install();
    let mut count = 0;
    assert!(ok(unsafe { sys::cuDeviceGetCount(&raw mut count) }));
    assert_eq!(count, 2);
    let mut context = ptr::null_mut();
    assert!(ok(unsafe { sys::cuCtxCreate_v4(&raw mut context, ptr::null_mut(), 0, 1) }));
    let mut device = 0;
    assert!(ok(unsafe { sys::cuCtxGetDevice(&raw mut device) }));
    assert_eq!(device, 1);
    let first = OwnContext::new();
    let (mut from, mut to) = (0, 0);
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut from, 4) }));
    assert!(ok(unsafe { sys::cuMemsetD32_v2(from, 77, 1) }));
    assert!(ok(unsafe { sys::cuCtxPushCurrent_v2(context) }));
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut to, 4) }));
    assert!(ok(unsafe { sys::cuMemcpyPeer(to, context, from, first.0, 4) }));
    let mut value = 0_u32;
    assert!(ok(unsafe { sys::cuMemcpyDtoH_v2((&raw mut value).cast(), to, 4) }));
    assert_eq!(value, 77);
    assert_eq!(code(unsafe { sys::cuMemcpyPeer(to, ptr::null_mut(), from, first.0, 4) }), 201);
    assert!(ok(unsafe { sys::cuCtxDestroy_v2(context) }));
}
