//! Many calls in no particular order, and from many threads.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;
use proptest::prelude::*;

use crate::module::{function, kernels};
use crate::support::{OwnContext, code, ok};

/// A call, legal or not. Numbers choose among what was made so far.
#[derive(Clone, Debug)]
enum Call {
    Allocate { bytes: usize, pooled: bool },
    Free { which: usize, pooled: bool },
    Fill { which: usize, offset: u64, count: usize },
    Copy { from: usize, to: usize, bytes: usize },
    CreateStream { blocking: bool },
    DestroyStream { which: usize },
    Synchronize { which: usize },
    CreateEvent,
    Record { event: usize, stream: usize },
    Wait { event: usize, stream: usize },
    DestroyEvent { which: usize },
}

fn call() -> impl Strategy<Value = Call> {
    let which = 0..8_usize;
    prop_oneof![
        (0..3000_usize, any::<bool>()).prop_map(|(bytes, pooled)| Call::Allocate { bytes, pooled }),
        (which.clone(), any::<bool>()).prop_map(|(which, pooled)| Call::Free { which, pooled }),
        (which.clone(), 0..3000_u64, 0..3000_usize).prop_map(|(which, offset, count)| Call::Fill {
            which,
            offset,
            count
        }),
        (which.clone(), which.clone(), 0..3000_usize).prop_map(|(from, to, bytes)| Call::Copy {
            from,
            to,
            bytes
        }),
        any::<bool>().prop_map(|blocking| Call::CreateStream { blocking }),
        which.clone().prop_map(|which| Call::DestroyStream { which }),
        which.clone().prop_map(|which| Call::Synchronize { which }),
        Just(Call::CreateEvent),
        (which.clone(), which.clone()).prop_map(|(event, stream)| Call::Record { event, stream }),
        (which.clone(), which.clone()).prop_map(|(event, stream)| Call::Wait { event, stream }),
        which.prop_map(|which| Call::DestroyEvent { which }),
    ]
}

/// What must be true: live objects and the bytes of each allocation.
#[derive(Default)]
struct Model {
    /// Address, size, and the bytes while it lives.
    memory: Vec<(u64, usize, Option<Vec<u8>>)>,
    streams: Vec<(usize, bool)>,
    events: Vec<(usize, bool)>,
}

impl Model {
    fn stream(&self, which: usize) -> (sys::CUstream, bool) {
        match self.streams.get(which) {
            Some((stream, live)) => (*stream as sys::CUstream, *live),
            // The legacy stream.
            None => (ptr::null_mut(), true),
        }
    }

    fn event(&self, which: usize) -> (sys::CUevent, bool) {
        let (event, live) = self.events.get(which).copied().unwrap_or((0, false));
        (event as sys::CUevent, live)
    }

    fn make(&mut self, call: &Call) {
        let expect = |expected: bool, refusal: u32, result: sys::CUresult| {
            assert_eq!(code(result), if expected { 0 } else { refusal }, "{call:?}");
        };
        let null = ptr::null_mut();
        match *call {
            Call::Allocate { bytes, pooled } => {
                let mut address = 0;
                let result = match pooled {
                    true => unsafe { sys::cuMemAllocAsync(&raw mut address, bytes, null) },
                    false => unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) },
                };
                expect(bytes > 0, 1, result);
                if bytes > 0 {
                    assert!(ok(unsafe { sys::cuMemsetD8_v2(address, 0, bytes) }));
                    self.memory.push((address, bytes, Some(vec![0; bytes])));
                }
            }
            Call::Free { which, pooled } => {
                let Some((address, _, bytes)) = self.memory.get_mut(which) else { return };
                let live = bytes.take().is_some();
                let result = match pooled {
                    true => unsafe { sys::cuMemFreeAsync(*address, null) },
                    false => unsafe { sys::cuMemFree_v2(*address) },
                };
                expect(live, 1, result);
            }
            Call::Fill { which, offset, count } => {
                let Some((address, size, bytes)) = self.memory.get_mut(which) else { return };
                // Up to the next allocation, which is at least this far away.
                let offset = offset % (*size as u64 + 512);
                let value = (offset as u8) ^ (count as u8);
                let range = offset as usize..offset as usize + count;
                let place = bytes.as_mut().and_then(|bytes| bytes.get_mut(range));
                let legal = place.is_some() || count == 0;
                let result = unsafe { sys::cuMemsetD8_v2(*address + offset, value, count) };
                expect(legal, 1, result);
                if let Some(place) = place {
                    place.fill(value);
                }
            }
            Call::Copy { from, to, bytes } => {
                let (Some((source, _, from)), Some((target, ..))) =
                    (self.memory.get(from), self.memory.get(to))
                else {
                    return;
                };
                let copied = from.as_ref().and_then(|from| from.get(..bytes)).map(<[u8]>::to_vec);
                let result = unsafe { sys::cuMemcpyDtoD_v2(*target, *source, bytes) };
                let place = self.memory[to].2.as_mut().and_then(|to| to.get_mut(..bytes));
                expect(bytes == 0 || copied.is_some() && place.is_some(), 1, result);
                if let (Some(copied), Some(place)) = (copied, place) {
                    place.copy_from_slice(&copied);
                }
            }
            Call::CreateStream { blocking } => {
                let mut stream = ptr::null_mut();
                expect(true, 0, unsafe {
                    sys::cuStreamCreate(&raw mut stream, u32::from(blocking))
                });
                self.streams.push((stream as usize, true));
            }
            Call::DestroyStream { which } => {
                let Some((stream, live)) = self.streams.get_mut(which) else { return };
                let result = unsafe { sys::cuStreamDestroy_v2(*stream as sys::CUstream) };
                expect(std::mem::take(live), 400, result);
            }
            Call::Synchronize { which } => {
                let (stream, live) = self.stream(which);
                expect(live, 400, unsafe { sys::cuStreamSynchronize(stream) });
            }
            Call::CreateEvent => {
                let mut event = ptr::null_mut();
                expect(true, 0, unsafe { sys::cuEventCreate(&raw mut event, 0) });
                self.events.push((event as usize, true));
            }
            Call::Record { event, stream } => {
                let ((event, recorded), (stream, live)) = (self.event(event), self.stream(stream));
                expect(recorded && live, 400, unsafe { sys::cuEventRecord(event, stream) });
            }
            Call::Wait { event, stream } => {
                let ((event, there), (stream, live)) = (self.event(event), self.stream(stream));
                expect(there && live, 400, unsafe { sys::cuStreamWaitEvent(stream, event, 0) });
            }
            Call::DestroyEvent { which } => {
                let Some((event, live)) = self.events.get_mut(which) else { return };
                let result = unsafe { sys::cuEventDestroy_v2(*event as sys::CUevent) };
                expect(std::mem::take(live), 400, result);
            }
        }
    }

    fn check_memory(&self) {
        for (address, _, bytes) in &self.memory {
            let Some(bytes) = bytes else { continue };
            let mut host = vec![0xee_u8; bytes.len()];
            let to = host.as_mut_ptr().cast::<c_void>();
            assert!(ok(unsafe { sys::cuMemcpyDtoH_v2(to, *address, bytes.len()) }));
            assert!(host == *bytes, "allocation at {address:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_call_does_what_the_model_says(calls in prop::collection::vec(call(), 1..80)) {
        let _context = OwnContext::new();
        let mut model = Model::default();
        for call in &calls {
            model.make(call);
        }
        model.check_memory();
    }
}

#[test]
fn threads_share_a_context() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 50;
    const COUNT: u32 = 1000;
    let context = OwnContext::new();
    let add = function(kernels(), c"add") as usize;
    let context = context.0 as usize;
    let work = |thread: u32| {
        assert!(ok(unsafe { sys::cuCtxSetCurrent(context as sys::CUcontext) }));
        let mut stream = ptr::null_mut();
        assert!(ok(unsafe { sys::cuStreamCreate(&raw mut stream, thread % 2) }));
        let mut sums = BTreeMap::new();
        for round in 0..ROUNDS {
            let values: Vec<u32> = (0..COUNT).map(|value| value * (thread + 1) + round).collect();
            let bytes = 4 * values.len();
            let (mut input, mut output) = (0_u64, 0_u64);
            let mut result = vec![0_u32; values.len()];
            let count = COUNT;
            unsafe {
                assert!(ok(sys::cuMemAllocAsync(&raw mut input, bytes, stream)));
                assert!(ok(sys::cuMemAllocAsync(&raw mut output, bytes, stream)));
                let from = values.as_ptr().cast();
                assert!(ok(sys::cuMemcpyHtoDAsync_v2(input, from, bytes, stream)));
                let mut parameters: [*mut c_void; 4] = [
                    (&raw mut output).cast(),
                    (&raw mut input).cast(),
                    (&raw mut input).cast(),
                    (&raw const count).cast_mut().cast(),
                ];
                let (add, each) = (add as sys::CUfunction, parameters.as_mut_ptr());
                let none = ptr::null_mut();
                assert!(ok(sys::cuLaunchKernel(add, 8, 1, 1, 128, 1, 1, 0, stream, each, none)));
                let to = result.as_mut_ptr().cast();
                assert!(ok(sys::cuMemcpyDtoHAsync_v2(to, output, bytes, stream)));
                assert!(ok(sys::cuStreamSynchronize(stream)));
                assert!(ok(sys::cuMemFreeAsync(input, stream)));
                assert!(ok(sys::cuMemFree_v2(output)));
            }
            let right = values.iter().zip(&result).all(|(value, sum)| 2 * value == *sum);
            sums.insert(round, right);
        }
        assert!(ok(unsafe { sys::cuStreamDestroy_v2(stream) }));
        assert!(sums.values().all(|right| *right), "thread {thread}: {sums:?}");
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
    });
}
