//! One installed driver for the process; a context of its own for each test that needs one.

use std::ptr;
use std::sync::{Arc, Once};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUcontext, CUresult};
use softcuda::{Config, ReportSink};

/// Puts the driver into this process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let set = Config::from_env().expect("a test that sets variables sets known ones");
        let (memory, threads) = (set.memory.or(Some(256 << 20)), set.threads.or(Some(2)));
        let config = Config { memory, threads, report: ReportSink::None, ..set };
        softcuda::install(&config).expect("memfd_create works here");
        assert!(ok(unsafe { sys::cuInit(0) }));
    });
}

/// The primary context through cudarc.
pub(crate) fn context() -> Arc<CudaContext> {
    install();
    CudaContext::new(0).expect("the device is there")
}

pub(crate) fn ok(result: CUresult) -> bool {
    code(result) == 0
}

pub(crate) fn code(result: CUresult) -> u32 {
    result as u32
}

/// A context of this test alone, which a fault may spoil. Current until it is dropped.
pub(crate) struct OwnContext(pub(crate) CUcontext);

impl OwnContext {
    pub(crate) fn new() -> Self {
        install();
        let mut context = ptr::null_mut();
        assert!(ok(unsafe { sys::cuCtxCreate_v4(&raw mut context, ptr::null_mut(), 0, 0) }));
        Self(context)
    }
}

impl Drop for OwnContext {
    fn drop(&mut self) {
        let result = unsafe { sys::cuCtxDestroy_v2(self.0) };
        if !std::thread::panicking() {
            assert_eq!(code(result), 0);
        }
    }
}

/// Runs a test again in a process of its own, with a variable set. False in that process.
pub(crate) fn in_child(test: &str, variable: (&str, &str)) -> bool {
    const CHILD: &str = "DRIVER_TEST_IN_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(CHILD, "1")
        .env(variable.0, variable.1)
        .status();
    assert!(child.unwrap().success());
    true
}
