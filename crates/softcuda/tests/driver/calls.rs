//! The forms of calls that the other files do not use: asynchronous, with flags, with nothing to
//! do.

use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::driver::sys;

use crate::module::{KERNELS, function, kernels};
use crate::support::{OwnContext, code, ok};

const NULL: sys::CUstream = ptr::null_mut();

/// Memory from the device's pool.
fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAllocAsync(&raw mut address, bytes, NULL) }));
    address
}

fn read(address: u64, bytes: usize) -> Vec<u8> {
    let mut host = vec![0xee_u8; bytes];
    let to = host.as_mut_ptr().cast();
    assert!(ok(unsafe { sys::cuMemcpyDtoHAsync_v2(to, address, bytes, NULL) }));
    assert!(ok(unsafe { sys::cuStreamSynchronize(NULL) }));
    host
}

#[test]
fn asynchronous_copies_and_fills() {
    let context = OwnContext::new();
    let (first, second) = (allocate(24), allocate(24));
    let host: Vec<u8> = (0..24).collect();
    let from = host.as_ptr().cast();
    assert!(ok(unsafe { sys::cuMemcpyHtoDAsync_v2(first, from, 24, NULL) }));
    assert!(ok(unsafe { sys::cuMemcpyDtoDAsync_v2(second, first, 24, NULL) }));
    assert_eq!(read(second, 24), host);
    assert_eq!(code(unsafe { sys::cuMemcpyHtoDAsync_v2(first, from, 25, NULL) }), 1);
    assert_eq!(code(unsafe { sys::cuMemcpyDtoDAsync_v2(second, first + 1, 24, NULL) }), 1);
    let nowhere = ptr::null_mut::<c_void>();
    assert_eq!(code(unsafe { sys::cuMemcpyDtoHAsync_v2(nowhere, first, 4, NULL) }), 1);
    assert!(ok(unsafe { sys::cuMemsetD8Async(first, 1, 8, NULL) }));
    assert!(ok(unsafe { sys::cuMemsetD32Async(first + 8, 0x0202_0202, 2, NULL) }));
    assert!(ok(unsafe { sys::cuMemsetD2D8Async(first + 16, 4, 3, 1, 2, NULL) }));
    assert_eq!(read(first, 20), [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 17, 18, 19]);
    assert!(ok(unsafe { sys::cuMemsetD2D16_v2(first, 8, 0x0404, 1, 3) }));
    assert!(ok(unsafe { sys::cuMemsetD2D16Async(first + 2, 8, 0x0505, 1, 3, NULL) }));
    assert!(ok(unsafe { sys::cuMemsetD2D32Async(first + 4, 8, 0x0606_0606, 1, 3, NULL) }));
    assert_eq!(read(first, 24), [4, 4, 5, 5, 6, 6, 6, 6].repeat(3));
    assert_eq!(code(unsafe { sys::cuMemsetD2D16_v2(first, 8, 0, 1, 4) }), 1, "a row too many");
    assert_eq!(code(unsafe { sys::cuMemsetD2D32Async(first, 6, 0, 1, 2, NULL) }), 1, "pitch");
    let copied = unsafe { sys::cuMemcpyPeerAsync(first, context.0, second, context.0, 24, NULL) };
    assert!(ok(copied));
    assert_eq!(read(first, 24), host);
    assert!(ok(unsafe { sys::cuMemFreeAsync(first, NULL) }));
    let mut none = 0;
    assert_eq!(code(unsafe { sys::cuMemAllocAsync(&raw mut none, 0, NULL) }), 1);
    assert_eq!(code(unsafe { sys::cuMemAllocAsync(&raw mut none, 1 << 40, NULL) }), 2);
}

#[test]
fn pitched_and_host_allocations() {
    let _context = OwnContext::new();
    let (mut address, mut pitch) = (0, 0);
    let allocate = |address, pitch, width, element| {
        code(unsafe { sys::cuMemAllocPitch_v2(address, pitch, width, 3, element) })
    };
    assert_eq!(allocate(&raw mut address, &raw mut pitch, 700, 4), 0);
    assert_eq!(pitch, 1024);
    assert!(ok(unsafe { sys::cuMemsetD8_v2(address, 0, 3 * 1024) }));
    assert_eq!(allocate(&raw mut address, &raw mut pitch, 700, 5), 1);
    assert_eq!(allocate(&raw mut address, ptr::null_mut(), 700, 4), 1);
    assert_eq!(allocate(&raw mut address, &raw mut pitch, usize::MAX / 2, 4), 2);
    let mut host = ptr::null_mut();
    assert!(ok(unsafe { sys::cuMemAllocHost_v2(&raw mut host, 64) }));
    assert!(ok(unsafe { sys::cuMemFreeHost(host) }));
    assert_eq!(code(unsafe { sys::cuMemAllocHost_v2(&raw mut host, 0) }), 1);
}

#[test]
fn advice_on_managed_memory_is_taken_and_ignored() {
    let _context = OwnContext::new();
    let (mut managed, plain) = (0, allocate(64));
    assert!(ok(unsafe { sys::cuMemAllocManaged(&raw mut managed, 64, 1) }));
    assert_eq!(code(unsafe { sys::cuMemAllocManaged(&raw mut managed, 64, 7) }), 1);
    let location =
        sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: 0 };
    let advice = sys::CUmem_advise::CU_MEM_ADVISE_SET_READ_MOSTLY;
    assert!(ok(unsafe { sys::cuMemAdvise_v2(managed, 64, advice, location) }));
    assert_eq!(code(unsafe { sys::cuMemAdvise_v2(plain, 64, advice, location) }), 1);
    assert!(ok(unsafe { sys::cuMemPrefetchAsync_v2(managed, 64, location, 0, NULL) }));
    let refused = unsafe { sys::cuMemPrefetchAsync_v2(managed, 65, location, 0, NULL) };
    assert_eq!(code(refused), 1);
    assert!(ok(unsafe { sys::cuStreamAttachMemAsync(NULL, managed, 0, 1) }));
    assert_eq!(code(unsafe { sys::cuStreamAttachMemAsync(NULL, plain, 0, 1) }), 1);
    let (sync, size) = (
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
    );
    let value = std::ptr::from_ref(&1_u32).cast();
    assert!(ok(unsafe { sys::cuPointerSetAttribute(value, sync, plain) }));
    assert_eq!(code(unsafe { sys::cuPointerSetAttribute(value, size, plain) }), 1);
}

#[test]
fn pools_are_accessed_by_their_device_alone() {
    let _context = OwnContext::new();
    let mut pool = ptr::null_mut();
    assert!(ok(unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, 0) }));
    let device =
        |id| sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id };
    let mut flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_NONE;
    let mut location = device(0);
    assert!(ok(unsafe { sys::cuMemPoolGetAccess(&raw mut flags, pool, &raw mut location) }));
    assert_eq!(flags, sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    let mut access = sys::CUmemAccessDesc { location, flags };
    assert!(ok(unsafe { sys::cuMemPoolSetAccess(pool, &raw const access, 1) }));
    access.location = device(1);
    assert_eq!(code(unsafe { sys::cuMemPoolSetAccess(pool, &raw const access, 1) }), 101);
}

#[test]
fn streams_know_their_device_and_call_back() {
    let context = OwnContext::new();
    let (mut device, mut owner, mut green) = (9, ptr::null_mut(), ptr::null_mut());
    assert!(ok(unsafe { sys::cuStreamGetDevice(NULL, &raw mut device) }));
    assert_eq!(device, 0);
    assert!(ok(unsafe { sys::cuStreamGetCtx_v2(NULL, &raw mut owner, &raw mut green) }));
    assert_eq!((owner, green), (context.0, ptr::null_mut()));
    assert!(ok(unsafe { sys::cuStreamCopyAttributes(NULL, NULL) }));
    let stranger = 0x99_usize as sys::CUstream;
    assert_eq!(code(unsafe { sys::cuStreamCopyAttributes(NULL, stranger) }), 400);
    unsafe extern "C" fn note(_: sys::CUstream, status: sys::CUresult, seen: *mut c_void) {
        unsafe { seen.cast::<u32>().write(status as u32 + 5) };
    }
    let mut seen = 0_u32;
    let data = (&raw mut seen).cast();
    assert!(ok(unsafe { sys::cuStreamAddCallback(NULL, Some(note), data, 0) }));
    assert!(ok(unsafe { sys::cuStreamSynchronize(NULL) }));
    assert_eq!(seen, 5);
    assert_eq!(code(unsafe { sys::cuStreamAddCallback(NULL, Some(note), data, 1) }), 1);
}

#[test]
fn functions_are_loaded_when_they_are_used() {
    let _context = OwnContext::new();
    let (mut module, mut mode) =
        (ptr::null_mut(), sys::CUmoduleLoadingMode::CU_MODULE_EAGER_LOADING);
    assert!(ok(unsafe { sys::cuModuleGetLoadingMode(&raw mut mode) }));
    assert_eq!(mode, sys::CUmoduleLoadingMode::CU_MODULE_LAZY_LOADING);
    let image = include_bytes!("../ptx/plain.fatbin").as_ptr().cast();
    assert!(ok(unsafe { sys::cuModuleLoadFatBinary(&raw mut module, image) }));
    let image = function(module, c"image");
    let mut state = sys::CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_MAX;
    assert!(ok(unsafe { sys::cuFuncIsLoaded(&raw mut state, image) }));
    assert_eq!(state, sys::CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_UNLOADED);
    assert!(ok(unsafe { sys::cuFuncLoad(image) }));
    assert!(ok(unsafe { sys::cuFuncIsLoaded(&raw mut state, image) }));
    assert_eq!(state, sys::CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_LOADED);
    let cache = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_SHARED;
    assert!(ok(unsafe { sys::cuFuncSetCacheConfig(image, cache) }));
    let banks = sys::CUsharedconfig::CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE;
    assert!(ok(unsafe { sys::cuFuncSetSharedMemConfig(image, banks) }));
    assert_eq!(code(unsafe { sys::cuFuncSetCacheConfig(ptr::null_mut(), cache) }), 400);
    assert_eq!(code(unsafe { sys::cuFuncSetSharedMemConfig(ptr::null_mut(), banks) }), 400);
}

#[test]
fn occupancy_takes_flags_and_clusters() {
    let _context = OwnContext::new();
    let empty = function(kernels(), c"empty");
    let mut blocks = 0;
    let active = |blocks, flags| {
        code(unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, empty, 512, 0, flags)
        })
    };
    assert_eq!(active(&raw mut blocks, 1), 0);
    assert_eq!(blocks, 4);
    assert_eq!(active(&raw mut blocks, 2), 1);
    let mut threads = 0;
    unsafe extern "C" fn shared(threads: i32) -> usize {
        threads as usize * 256
    }
    let mut best = |flags| {
        code(unsafe {
            sys::cuOccupancyMaxPotentialBlockSizeWithFlags(
                &raw mut blocks,
                &raw mut threads,
                empty,
                Some(shared),
                0,
                0,
                flags,
            )
        })
    };
    assert_eq!(best(0), 0);
    assert_eq!(best(5), 1);
    // 167,936 bytes hold 5 blocks of 128 threads with 32 KiB and the 1 KiB that the system takes.
    assert_eq!(blocks * threads, 108 * 640);
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1024,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: NULL,
        attrs: ptr::null_mut(),
        numAttrs: 0,
    };
    let (mut clusters, mut size) = (0, 0);
    let config = &raw const config;
    assert!(ok(unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, empty, config) }));
    assert_eq!(clusters, 216);
    assert!(ok(unsafe { sys::cuOccupancyMaxPotentialClusterSize(&raw mut size, empty, config) }));
    assert_eq!(size, 1);
    let none = ptr::null();
    assert_eq!(
        code(unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, empty, none) }),
        1
    );
}

#[test]
fn libraries_come_from_files_and_list_their_kernels() {
    let _context = OwnContext::new();
    let path = std::env::temp_dir().join(format!("softcuda-library-{}.ptx", std::process::id()));
    std::fs::write(&path, KERNELS.trim_end_matches('\0')).unwrap();
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut library = ptr::null_mut();
    let none = ptr::null_mut::<c_void>();
    let load = |library, name: &CStr| {
        code(unsafe {
            sys::cuLibraryLoadFromFile(
                library,
                name.as_ptr(),
                none.cast(),
                none.cast(),
                0,
                none.cast(),
                none.cast(),
                0,
            )
        })
    };
    assert_eq!(load(&raw mut library, &name), 0);
    let mut module = ptr::null_mut();
    assert!(ok(unsafe { sys::cuModuleLoad(&raw mut module, name.as_ptr()) }));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(&raw mut library, c"/nowhere/library.ptx"), 301);
    let (mut kernels, mut address, mut bytes) = ([ptr::null_mut(); 2], 0, 0);
    assert!(ok(unsafe { sys::cuLibraryEnumerateKernels(kernels.as_mut_ptr(), 2, library) }));
    let add = kernels[1];
    let mut text = ptr::null();
    assert!(ok(unsafe { sys::cuKernelGetName(&raw mut text, add) }));
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"add");
    let mut found = ptr::null_mut();
    assert!(ok(unsafe { sys::cuKernelGetLibrary(&raw mut found, add) }));
    assert_eq!(found, library);
    let counter = c"counter".as_ptr();
    let global =
        unsafe { sys::cuLibraryGetGlobal(&raw mut address, &raw mut bytes, library, counter) };
    assert!(ok(global));
    assert_eq!(bytes, 4);
    let (mut offset, mut size) = (0, 0);
    assert!(ok(unsafe { sys::cuKernelGetParamInfo(add, 1, &raw mut offset, &raw mut size) }));
    assert_eq!((offset, size), (8, 8));
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    assert!(ok(unsafe { sys::cuKernelSetAttribute(attribute, 50, add, 0) }));
    assert_eq!(code(unsafe { sys::cuKernelSetAttribute(attribute, 101, add, 0) }), 1);
    let cache = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1;
    assert!(ok(unsafe { sys::cuKernelSetCacheConfig(add, cache, 0) }));
    assert_eq!(code(unsafe { sys::cuKernelSetCacheConfig(add, cache, 4) }), 101);
    let mut module = ptr::null_mut();
    assert!(ok(unsafe { sys::cuLibraryGetModule(&raw mut module, library) }));
    let mut count = 0;
    assert!(ok(unsafe { sys::cuModuleGetFunctionCount(&raw mut count, module) }));
    assert!(count > 5);
}
