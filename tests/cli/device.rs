//! Which device the program chooses, with drivers that are missing, broken or old. The drivers are
//! small libraries made here; none of them computes.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

/// A folder with a `libcuda.so.1` whose functions return what the arguments say.
fn driver(init: u32, version: u32, count: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = format!(
        "int cuInit(unsigned flags) {{ (void)flags; return {init}; }}\n\
         int cuDriverGetVersion(int* v) {{ *v = {version}; return 0; }}\n\
         int cuDeviceGetCount(int* n) {{ *n = {count}; return 0; }}\n"
    );
    let file = folder.path().join("driver.c");
    fs::write(&file, source).unwrap();
    let library = folder.path().join("libcuda.so.1");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&file)
        .status()
        .expect("cc, which nvcc needs too");
    assert!(built.success());
    folder
}

/// Exit status, standard output and standard error of `doctor`.
fn doctor(driver: Option<&Path>, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
    command.arg("doctor").args(arguments).env_remove("QWEN2VL_DEVICE");
    if let Some(folder) = driver {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_software_device_is_used_where_the_driver_has_no_device() {
    for (init, count, reason) in [
        (100, 0, "the driver reports no device"),
        (0, 0, "the driver reports no device"),
        (34, 0, "a toolkit's stub"),
    ] {
        let folder = driver(init, 13_000, count);
        let (status, out, err) = doctor(Some(folder.path()), &[]);
        assert_eq!(status, 0, "cuInit {init}: {err}");
        assert!(out.contains(reason) && out.contains("software"), "cuInit {init}: {out}");
    }
}

#[test]
fn a_driver_that_is_broken_is_an_error_and_never_replaced() {
    let folder = driver(803, 13_000, 1);
    let (status, out, err) = doctor(Some(folder.path()), &[]);
    assert_eq!((status, out.as_str()), (5, ""));
    assert!(err.contains("cuInit failed with error 803"), "{err}");
}

#[test]
fn a_driver_that_is_too_old_is_an_error_that_names_the_versions() {
    let folder = driver(0, 11_080, 1);
    let (status, _, err) = doctor(Some(folder.path()), &[]);
    assert_eq!(status, 5);
    assert!(err.contains("supports CUDA 11.8, but 12.4 is needed"), "{err}");
}

#[test]
fn a_device_that_is_asked_for_and_missing_is_an_error() {
    let folder = driver(0, 13_000, 1);
    let (status, _, err) = doctor(Some(folder.path()), &["--device", "cuda:1"]);
    assert_eq!(status, 5);
    assert!(err.contains("no CUDA device 1: the driver reports 1"), "{err}");
    let empty = driver(100, 13_000, 0);
    let (status, _, err) = doctor(Some(empty.path()), &["--device", "cuda:0"]);
    assert_eq!(status, 5);
    assert!(err.contains("no NVIDIA driver"), "{err}");
}

#[test]
fn the_software_device_wins_over_a_driver_when_asked_for() {
    let folder = driver(803, 13_000, 1);
    let (status, out, err) = doctor(Some(folder.path()), &["--device", "software"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("softcuda (A100 profile)"), "{out}");
}

#[test]
fn the_environment_chooses_where_no_flag_does() {
    let run = |value: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
        let command = command.arg("doctor").args(arguments).env("QWEN2VL_DEVICE", value);
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(run("software", &[]), 0);
    assert_eq!(run("no-such-device", &[]), 2);
    assert_eq!(run("no-such-device", &["--device", "software"]), 0);
}
