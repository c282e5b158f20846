//! Allocation, copies, fills, pointers.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;

use crate::support::{OwnContext, code, context, ok};

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) }));
    address
}

fn read(address: u64, bytes: usize) -> Vec<u8> {
    let mut host = vec![0xee_u8; bytes];
    let to = host.as_mut_ptr().cast::<c_void>();
    assert!(ok(unsafe { sys::cuMemcpyDtoH_v2(to, address, bytes) }));
    host
}

fn write(address: u64, bytes: &[u8]) {
    let from = bytes.as_ptr().cast::<c_void>();
    assert!(ok(unsafe { sys::cuMemcpyHtoD_v2(address, from, bytes.len()) }));
}

#[test]
fn cudarc_copies_there_and_back() {
    let context = context();
    let stream = context.default_stream();
    let values: Vec<f32> = (0..1000).map(|value| value as f32).collect();
    let device = stream.clone_htod(&values).unwrap();
    let again = stream.clone_dtod(&device).unwrap();
    assert_eq!(stream.clone_dtoh(&again).unwrap(), values);
    let zeros = stream.alloc_zeros::<u16>(33).unwrap();
    assert_eq!(stream.clone_dtoh(&zeros).unwrap(), vec![0; 33]);
}

#[test]
fn cudarc_streams_events_and_pinned_memory() {
    let context = context();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let device = first.clone_htod(&[1_u32, 2, 3]).unwrap();
    let event = first.record_event(None).unwrap();
    second.wait(&event).unwrap();
    assert_eq!(second.clone_dtoh(&device).unwrap(), [1, 2, 3]);
    second.synchronize().unwrap();
    assert!(event.is_complete());
    let mut pinned = unsafe { context.alloc_pinned::<u32>(3) }.unwrap();
    first.memcpy_dtoh(&device, &mut pinned).unwrap();
    assert_eq!(pinned.as_slice().unwrap(), [1, 2, 3]);
}

#[test]
fn copies_are_checked_against_allocations() {
    let _context = OwnContext::new();
    let address = allocate(100);
    let host = [7_u8; 200];
    let from = host.as_ptr().cast::<c_void>();
    let copy = |to, from, bytes| code(unsafe { sys::cuMemcpyHtoD_v2(to, from, bytes) });
    assert_eq!(copy(address, from, 100), 0);
    assert_eq!(copy(address, from, 101), 1);
    assert_eq!(copy(address + 1, from, 100), 1);
    assert_eq!(copy(address, ptr::null(), 4), 1);
    assert_eq!(copy(from as u64, from, 4), 1, "not device memory");
    assert_eq!(copy(address, from, 0), 0);
    assert_eq!(code(unsafe { sys::cuMemFree_v2(address) }), 0);
    assert_eq!(code(unsafe { sys::cuMemFree_v2(address) }), 1, "freed twice");
    assert_eq!(copy(address, from, 4), 1, "freed");
    assert_eq!(code(unsafe { sys::cuMemFree_v2(0) }), 0);
    let mut none = 0;
    assert_eq!(code(unsafe { sys::cuMemAlloc_v2(&raw mut none, 0) }), 1);
    assert_eq!(code(unsafe { sys::cuMemAlloc_v2(ptr::null_mut(), 8) }), 1);
    assert_eq!(code(unsafe { sys::cuMemAlloc_v2(&raw mut none, 1 << 40) }), 2);
}

#[test]
fn unified_copies_go_by_address() {
    let _context = OwnContext::new();
    let address = allocate(16);
    let mut host = *b"0123456789abcdef";
    let pointer = host.as_mut_ptr() as u64;
    assert!(ok(unsafe { sys::cuMemcpy(address, pointer, 16) }));
    host.fill(0);
    assert!(ok(unsafe { sys::cuMemcpyAsync(pointer, address, 16, ptr::null_mut()) }));
    assert_eq!(&host, b"0123456789abcdef");
    assert!(ok(unsafe { sys::cuMemcpyDtoD_v2(address + 1, address, 15) }));
    assert_eq!(read(address, 16), b"00123456789abcde", "ranges may overlap");
}

#[test]
fn fills_write_their_elements_alone() {
    let _context = OwnContext::new();
    let address = allocate(64);
    let null = ptr::null_mut();
    assert!(ok(unsafe { sys::cuMemsetD8_v2(address, 1, 64) }));
    assert!(ok(unsafe { sys::cuMemsetD16Async(address + 2, 0x0302, 3, null) }));
    assert!(ok(unsafe { sys::cuMemsetD32_v2(address + 12, 0x0706_0504, 2) }));
    let expected = [1, 1, 2, 3, 2, 3, 2, 3, 1, 1, 1, 1, 4, 5, 6, 7, 4, 5, 6, 7, 1];
    assert_eq!(read(address, 21), expected);
    assert_eq!(code(unsafe { sys::cuMemsetD16_v2(address + 1, 0, 1) }), 1, "misaligned");
    assert_eq!(code(unsafe { sys::cuMemsetD32_v2(address, 0, 17) }), 1, "too long");
    assert_eq!(code(unsafe { sys::cuMemsetD32_v2(address, 0, usize::MAX / 2) }), 1);
    assert!(ok(unsafe { sys::cuMemsetD2D8_v2(address, 16, 9, 2, 4) }));
    let bytes = read(address, 64);
    for (index, byte) in bytes.iter().enumerate() {
        assert_eq!(*byte == 9, index % 16 < 2, "byte {index}");
    }
    assert_eq!(code(unsafe { sys::cuMemsetD2D32_v2(address, 4, 9, 2, 2) }), 1, "pitch too small");
}

#[test]
fn rectangles_are_copied_row_by_row() {
    let _context = OwnContext::new();
    let device = allocate(64);
    write(device, &[0; 64]);
    let host: Vec<u8> = (0..24).collect();
    let mut copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 1,
        srcY: 1,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: host.as_ptr().cast(),
        srcDevice: 0,
        srcArray: ptr::null_mut(),
        srcPitch: 6,
        dstXInBytes: 2,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: ptr::null_mut(),
        dstDevice: device,
        dstArray: ptr::null_mut(),
        dstPitch: 16,
        WidthInBytes: 3,
        Height: 3,
    };
    assert!(ok(unsafe { sys::cuMemcpy2D_v2(&raw const copy) }));
    let bytes = read(device, 64);
    for row in 0..4 {
        let expected = if row < 3 { [7, 8, 9].map(|first| first + 6 * row as u8) } else { [0; 3] };
        assert_eq!(bytes[16 * row + 2..16 * row + 5], expected);
        assert_eq!(bytes[16 * row + 5], 0);
    }
    copy.dstXInBytes = 14;
    assert_eq!(code(unsafe { sys::cuMemcpy2D_v2(&raw const copy) }), 1, "row over the pitch");
    copy.dstXInBytes = 2;
    copy.Height = 5;
    assert_eq!(code(unsafe { sys::cuMemcpy2DUnaligned_v2(&raw const copy) }), 1, "too many rows");
    copy.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_ARRAY;
    let null = ptr::null_mut();
    assert_eq!(code(unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, null) }), 1, "no arrays");
}

#[test]
fn host_memory_is_pinned_by_allocation_and_by_registration() {
    let _context = OwnContext::new();
    let mut pinned = ptr::null_mut();
    assert!(ok(unsafe { sys::cuMemHostAlloc(&raw mut pinned, 100, 2) }));
    let mut device = 0;
    let get =
        |device, pointer| code(unsafe { sys::cuMemHostGetDevicePointer_v2(device, pointer, 0) });
    assert_eq!(get(&raw mut device, pinned), 0);
    assert_eq!(device, pinned as u64);
    let mut flags = 0;
    assert!(ok(unsafe { sys::cuMemHostGetFlags(&raw mut flags, pinned) }));
    assert_eq!(flags, 2);
    assert!(ok(unsafe { sys::cuMemFreeHost(pinned) }));
    assert_eq!(code(unsafe { sys::cuMemFreeHost(pinned) }), 1);
    assert_eq!(get(&raw mut device, pinned), 1);

    let mut own = vec![0_u8; 4096];
    let pointer = own.as_mut_ptr().cast::<c_void>();
    assert!(ok(unsafe { sys::cuMemHostRegister_v2(pointer, 4096, 0) }));
    assert_eq!(code(unsafe { sys::cuMemHostRegister_v2(pointer, 4096, 0) }), 712);
    assert_eq!(code(unsafe { sys::cuMemFreeHost(pointer) }), 1, "is not the driver's");
    assert!(ok(unsafe { sys::cuMemHostUnregister(pointer) }));
    assert_eq!(code(unsafe { sys::cuMemHostUnregister(pointer) }), 713);
}

#[test]
fn pointers_are_described() {
    let context = OwnContext::new();
    use sys::CUpointer_attribute as Attribute;
    let address = allocate(1000);
    let get = |data: *mut c_void, attribute, address| {
        code(unsafe { sys::cuPointerGetAttribute(data, attribute, address) })
    };
    let mut kind = 0_u32;
    let memory_type = Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    assert_eq!(get((&raw mut kind).cast(), memory_type, address + 5), 0);
    assert_eq!(kind, 2);
    assert_eq!(get((&raw mut kind).cast(), memory_type, address + 1000), 1, "past the end");
    let mut owner: sys::CUcontext = ptr::null_mut();
    let of_context = Attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
    assert_eq!(get((&raw mut owner).cast(), of_context, address), 0);
    assert_eq!(owner, context.0);
    let (mut start, mut size) = (0_u64, 0_usize);
    assert!(ok(unsafe {
        sys::cuMemGetAddressRange_v2(&raw mut start, &raw mut size, address + 999)
    }));
    assert_eq!((start, size), (address, 1000));
    let mut managed = 0;
    assert!(ok(unsafe { sys::cuMemAllocManaged(&raw mut managed, 64, 1) }));
    let mut is_managed = 0_u8;
    let attribute = Attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED;
    assert_eq!(get((&raw mut is_managed).cast(), attribute, managed), 0);
    assert_eq!(is_managed, 1);
    assert!(ok(unsafe { sys::cuMemFree_v2(managed) }));
    let mut attributes = [memory_type, Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE];
    let mut places = [(&raw mut kind).cast::<c_void>(), (&raw mut size).cast()];
    let unknown = unsafe {
        sys::cuPointerGetAttributes(2, attributes.as_mut_ptr(), places.as_mut_ptr(), 0x1234)
    };
    assert!(ok(unknown));
    assert_eq!((kind, size), (0, 0));
}

#[test]
fn pools_keep_accounts() {
    let _context = OwnContext::new();
    use sys::CUmemPool_attribute as Attribute;
    let properties = sys::CUmemPoolProps {
        allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        handleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: 0,
        },
        win32SecurityAttributes: ptr::null_mut(),
        maxSize: 0,
        usage: 0,
        reserved: [0; 54],
    };
    let mut pool = ptr::null_mut();
    assert!(ok(unsafe { sys::cuMemPoolCreate(&raw mut pool, &raw const properties) }));
    let null = ptr::null_mut();
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAllocFromPoolAsync(&raw mut address, 500, pool, null) }));
    let used = |attribute| {
        let mut value = 0_u64;
        let place = (&raw mut value).cast();
        assert!(ok(unsafe { sys::cuMemPoolGetAttribute(pool, attribute, place) }));
        value
    };
    assert_eq!(used(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 500);
    assert!(ok(unsafe { sys::cuMemFreeAsync(address, null) }));
    assert_eq!(code(unsafe { sys::cuMemFreeAsync(address, null) }), 1);
    assert_eq!(used(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
    assert_eq!(used(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 500);
    let mut threshold = 7_u64;
    let attribute = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let place = (&raw mut threshold).cast();
    assert!(ok(unsafe { sys::cuMemPoolSetAttribute(pool, attribute, place) }));
    assert_eq!(used(attribute), 7);
    assert!(ok(unsafe { sys::cuMemPoolTrimTo(pool, 0) }));
    assert!(ok(unsafe { sys::cuMemPoolDestroy(pool) }));
    assert_eq!(code(unsafe { sys::cuMemPoolDestroy(pool) }), 1);
    let mut default = ptr::null_mut();
    assert!(ok(unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut default, 0) }));
    assert_eq!(code(unsafe { sys::cuMemPoolDestroy(default) }), 1);
}
