//! The `softcuda` command as a user runs it.

use std::process::Command;

const SAXPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx/saxpy.ptx");
const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx/plain.fatbin");

/// Exit status, standard output and standard error.
fn softcuda(arguments: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_softcuda"))
        .args(arguments.split_whitespace())
        .output()
        .expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_kernel_runs_and_its_buffer_is_printed() {
    let buffers = "--arg buf:f32:20:iota --arg buf:f32:20:1 --out 3";
    let (status, output, _) = softcuda(&format!(
        "run {SAXPY} -f saxpy --grid 2 --block 16 --arg u32:20 --arg f32:2.5 {buffers}"
    ));
    assert_eq!(status, 0);
    assert_eq!(
        output,
        "argument 3, 20 elements:\n\
         \x20      0: 1 3.5 6 8.5 11 13.5 16 18.5\n\
         \x20      8: 21 23.5 26 28.5 31 33.5 36 38.5\n\
         \x20     16: 41 43.5 46 48.5\n"
    );
    let (status, output, _) =
        softcuda(&format!("run {IMAGE} -f image --block 4 --arg buf:f32:4:3 --out 0"));
    assert_eq!((status, output.as_str()), (0, "argument 0, 4 elements:\n       0: 6 6 6 6\n"));
}

#[test]
fn exit_statuses() {
    let arguments = "--arg u32:32 --arg f32:2.5 --arg buf:f32:20 --arg buf:f32:20";
    let (status, output, report) =
        softcuda(&format!("run {SAXPY} -f saxpy --block 32 {arguments}"));
    assert_eq!((status, output.as_str()), (1, ""));
    assert!(report.starts_with("softcuda: illegal address in saxpy\n"), "{report}");
    assert!(report.contains("12 lanes failed"), "{report}");

    for usage in [
        "",
        "dance",
        "run",
        &format!("run {SAXPY}"),
        &format!("run {SAXPY} -f saxpy --grid 0"),
        &format!("run {SAXPY} -f saxpy --block 2000"),
        &format!("run {SAXPY} -f saxpy --arg u8:256"),
        &format!("run {SAXPY} -f saxpy --arg u32:1"),
        &format!("run {SAXPY} -f saxpy {arguments} --out 0"),
        "profile show z100",
    ] {
        let (status, output, error) = softcuda(usage);
        assert_eq!((status, output.as_str()), (2, ""), "{usage}");
        assert!(error.contains("usage: softcuda"), "{usage}: {error}");
    }
    for load in
        ["ptx /does/not/exist", &format!("run {SAXPY} -f other"), "run /does/not/exist -f k"]
    {
        let (status, _, error) = softcuda(load);
        assert_eq!(status, 3, "{load}: {error}");
    }
}

#[test]
fn listings() {
    let (status, output, _) = softcuda(&format!("ptx {SAXPY}"));
    assert_eq!(status, 0);
    for line in [
        "PTX 8.0, target sm_80",
        "kernel saxpy: 24 bytes of parameters, 18 instructions",
        "     2 ld.global.f32\n",
        "runs: ",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let (status, output, _) = softcuda(&format!("ptx {IMAGE}"));
    assert_eq!(status, 0);
    assert!(
        output.contains("sm_80  image: ") && output.contains("1200 bytes of static shared memory"),
        "{output}"
    );
    assert!(output.contains("(compute_89): PTX 9.0"), "{output}");
    let (status, output, _) = softcuda("profile list");
    assert_eq!((status, output.lines().count()), (0, 4));
    let (status, output, _) = softcuda("profile show h100");
    assert!(status == 0 && output.contains("multiprocessors                     132"), "{output}");
}
