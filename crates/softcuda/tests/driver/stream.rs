//! Streams, events, host functions.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{self, CUevent, CUstream};

use crate::support::{OwnContext, code, ok};

fn stream(flags: u32) -> CUstream {
    let mut stream = ptr::null_mut();
    assert!(ok(unsafe { sys::cuStreamCreate(&raw mut stream, flags) }));
    stream
}

fn event(flags: u32) -> CUevent {
    let mut event = ptr::null_mut();
    assert!(ok(unsafe { sys::cuEventCreate(&raw mut event, flags) }));
    event
}

#[test]
fn streams_say_what_they_are() {
    let context = OwnContext::new();
    let mut made = ptr::null_mut();
    assert!(ok(unsafe { sys::cuStreamCreateWithPriority(&raw mut made, 1, -99) }));
    let (mut priority, mut flags, mut owner) = (1, 0, ptr::null_mut());
    assert!(ok(unsafe { sys::cuStreamGetPriority(made, &raw mut priority) }));
    assert_eq!(priority, -5, "clamped to the range");
    assert!(ok(unsafe { sys::cuStreamGetFlags(made, &raw mut flags) }));
    assert_eq!(flags, 1);
    assert!(ok(unsafe { sys::cuStreamGetCtx(made, &raw mut owner) }));
    assert_eq!(owner, context.0);
    let (mut first, mut second) = (0, 0);
    assert!(ok(unsafe { sys::cuStreamGetId(made, &raw mut first) }));
    assert!(ok(unsafe { sys::cuStreamGetId(ptr::null_mut(), &raw mut second) }));
    assert_ne!(first, second);
    let mut capturing = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    assert!(ok(unsafe { sys::cuStreamIsCapturing(made, &raw mut capturing) }));
    assert_eq!(capturing, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
    assert!(ok(unsafe { sys::cuStreamQuery(made) }));
    assert!(ok(unsafe { sys::cuStreamDestroy_v2(made) }));
    assert_eq!(code(unsafe { sys::cuStreamSynchronize(made) }), 400);
    assert_eq!(code(unsafe { sys::cuStreamDestroy_v2(ptr::null_mut()) }), 400);
    assert_eq!(code(unsafe { sys::cuStreamCreate(&raw mut made, 6) }), 1);
}

#[test]
fn special_streams_are_there_without_being_made() {
    let _context = OwnContext::new();
    for special in 0..=2_usize {
        assert!(ok(unsafe { sys::cuStreamSynchronize(special as CUstream) }), "{special}");
    }
    assert_eq!(code(unsafe { sys::cuStreamSynchronize(3_usize as CUstream) }), 400);
}

#[test]
fn events_measure_time() {
    let _context = OwnContext::new();
    let stream = stream(0);
    let (start, end) = (event(0), event(0));
    let mut elapsed = -1.0;
    let measure =
        |elapsed, start, end| code(unsafe { sys::cuEventElapsedTime_v2(elapsed, start, end) });
    assert_eq!(measure(&raw mut elapsed, start, end), 400, "not recorded");
    assert!(ok(unsafe { sys::cuEventRecord(start, stream) }));
    assert!(ok(unsafe { sys::cuEventRecordWithFlags(end, stream, 0) }));
    assert!(ok(unsafe { sys::cuEventSynchronize(end) }));
    assert!(ok(unsafe { sys::cuEventQuery(end) }));
    assert_eq!(measure(&raw mut elapsed, start, end), 0);
    assert!((0.0..1000.0).contains(&elapsed), "{elapsed}");
    let untimed = event(2);
    assert!(ok(unsafe { sys::cuEventRecord(untimed, stream) }));
    assert_eq!(measure(&raw mut elapsed, start, untimed), 400);
    assert_eq!(measure(ptr::null_mut(), start, end), 1);
    assert!(ok(unsafe { sys::cuEventDestroy_v2(untimed) }));
    assert_eq!(code(unsafe { sys::cuEventRecord(untimed, stream) }), 400);
    let mut made = ptr::null_mut();
    assert_eq!(code(unsafe { sys::cuEventCreate(&raw mut made, 64) }), 1);
}

#[test]
fn waiting_takes_any_event_of_the_device() {
    let _context = OwnContext::new();
    let stream = stream(1);
    let never_recorded = event(0);
    assert!(ok(unsafe { sys::cuStreamWaitEvent(stream, never_recorded, 0) }));
    assert_eq!(code(unsafe { sys::cuStreamWaitEvent(stream, never_recorded, 7) }), 1);
    assert_eq!(code(unsafe { sys::cuStreamWaitEvent(stream, ptr::null_mut(), 0) }), 400);
    let mut other_context = ptr::null_mut();
    assert!(ok(unsafe { sys::cuCtxPopCurrent_v2(&raw mut other_context) }));
    {
        let _other = OwnContext::new();
        assert_eq!(code(unsafe { sys::cuEventRecord(never_recorded, ptr::null_mut()) }), 400);
    }
    assert!(ok(unsafe { sys::cuCtxPushCurrent_v2(other_context) }));
}

unsafe extern "C" fn calls_back(seen: *mut c_void) {
    let mut free = 0;
    let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut free) };
    unsafe { seen.cast::<u32>().write(code(result)) };
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    let _context = OwnContext::new();
    let mut seen = 0_u32;
    let data = (&raw mut seen).cast();
    assert!(ok(unsafe { sys::cuLaunchHostFunc(ptr::null_mut(), Some(calls_back), data) }));
    assert!(ok(unsafe { sys::cuCtxSynchronize() }));
    assert_eq!(seen, 800);
    assert_eq!(code(unsafe { sys::cuLaunchHostFunc(ptr::null_mut(), None, data) }), 1);
}

#[test]
fn values_are_written_in_stream_order() {
    let _context = OwnContext::new();
    let mut address = 0;
    assert!(ok(unsafe { sys::cuMemAlloc_v2(&raw mut address, 8) }));
    let null = ptr::null_mut();
    assert!(ok(unsafe { sys::cuStreamWriteValue64_v2(null, address, 0x1122_3344_5566, 0) }));
    let mut value = 0_u64;
    assert!(ok(unsafe { sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 8) }));
    assert_eq!(value, 0x1122_3344_5566);
    assert_eq!(code(unsafe { sys::cuStreamWriteValue32_v2(null, address + 2, 1, 0) }), 1);
    assert_eq!(code(unsafe { sys::cuStreamWriteValue32_v2(null, address + 8, 1, 0) }), 1);
}
