//! How the driver comes into a process that may have another one.

use std::path::Path;
use std::process::Command;

use cudarc::driver::sys;

/// A `libcuda.so` that says it is version 1.
const DECOY: &str =
    "int cuInit(unsigned f) { return 999; } int cuDriverGetVersion(int *v) { *v = 1; return 0; }";
const CHILD: &str = "DRIVER_TEST_CHILD";

fn decoy(folder: &Path) {
    let source = folder.join("decoy.c");
    std::fs::write(&source, DECOY).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        let soname = format!("-Wl,-soname,{name}");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-nostdlib", &soname, "-o"])
            .arg(folder.join(name))
            .arg(&source)
            .status();
        assert!(built.unwrap().success());
    }
}

/// Runs one test of this file in a process whose library path begins with a decoy.
fn with_decoy(test: &str) -> bool {
    let folder = std::env::temp_dir().join(format!("softcuda-decoy-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    decoy(&folder);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("install::{test}")])
        .env("LD_LIBRARY_PATH", &folder)
        .env(CHILD, "1")
        .status();
    std::fs::remove_dir_all(&folder).unwrap();
    child.unwrap().success()
}

fn version() -> i32 {
    let mut version = 0;
    assert_eq!(unsafe { sys::cuDriverGetVersion(&raw mut version) } as u32, 0);
    version
}

#[test]
fn installed_driver_wins_over_another_on_the_library_path() {
    if std::env::var_os(CHILD).is_none() {
        return assert!(with_decoy("installed_driver_wins_over_another_on_the_library_path"));
    }
    crate::support::install();
    assert_eq!(version(), 13_000);
}

/// Shows that the decoy of the test above is one.
#[test]
fn decoy_is_found_where_nothing_is_installed() {
    if std::env::var_os(CHILD).is_none() {
        return assert!(with_decoy("decoy_is_found_where_nothing_is_installed"));
    }
    assert_eq!(version(), 1);
}

#[test]
fn installing_again_changes_nothing() {
    crate::support::install();
    let other = softcuda::Config { memory: Some(1 << 20), ..softcuda::Config::default() };
    let installed = softcuda::install(&other).unwrap();
    assert_eq!(installed.method, softcuda::Method::Memory);
    let mut total = 0;
    assert_eq!(unsafe { sys::cuDeviceTotalMem_v2(&raw mut total, 0) } as u32, 0);
    assert_ne!(total, 1 << 20);
}
