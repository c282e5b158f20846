//! NVIDIA's header against the driver: a C library is compiled with it and run.

use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::install;

/// The folder of `cuda.h`: of the toolkit that builds the kernels.
fn include_folder() -> PathBuf {
    let named = ["QWEN2VL_CUDA_HOME", "CUDA_HOME"].into_iter().filter_map(std::env::var_os);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.toolchain/cuda");
    let mut folders = named.map(PathBuf::from).chain([fetched]).map(|home| home.join("include"));
    folders
        .find(|folder| folder.join("cuda.h").is_file())
        .expect("cuda.h: `make toolchain` gets it")
}

#[test]
fn c_program_with_nvidia_s_header_runs() {
    install();
    let folder = std::env::temp_dir().join(format!("softcuda-header-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("header.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/header.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-deprecated-declarations", "-o"])
        .arg(&library)
        .arg("-I")
        .arg(include_folder())
        .arg(source)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let path = CString::new(library.to_str().unwrap()).unwrap();
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!handle.is_null());
    let run = unsafe { libc::dlsym(handle, c"run".as_ptr()) };
    assert!(!run.is_null());
    let run: unsafe extern "C" fn() -> c_int = unsafe { std::mem::transmute(run) };
    assert_eq!(unsafe { run() }, 0, "line of header.c that failed");
}

#[test]
fn every_entry_point_is_named_by_the_header() {
    let text = std::fs::read_to_string(include_folder().join("cuda.h")).unwrap();
    let mut words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    words.sort_unstable();
    let list = include_str!("../../src/driver/api.txt");
    let names = list.lines().filter(|line| line.starts_with("cu"));
    let names = names.filter_map(|line| line.split(' ').next());
    let unknown: Vec<&str> = names.filter(|name| words.binary_search(name).is_err()).collect();
    // Declared by cudaProfiler.h, which the toolchain lacks.
    assert_eq!(unknown, ["cuProfilerInitialize"]);
}
