//! One program for all targets: `QWEN2VL_FUZZ_TARGET` names one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qwen2vl_fuzz::targets::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("QWEN2VL_FUZZ_TARGET").expect("QWEN2VL_FUZZ_TARGET");
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("a target of fuzz/src/targets.rs").1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
