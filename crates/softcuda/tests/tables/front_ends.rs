//! The same sources through nvcc's two front ends and without optimisation: the same bits.

use std::path::PathBuf;

use super::harness::{Kind, Random};
use super::machine::{Machine, levels};

fn machine(file: &str) -> Machine {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ptx").join(file);
    Machine::new(&std::fs::read_to_string(path).expect("in the corpus"))
}

/// An input or output buffer of a kernel, or a plain value.
enum Argument {
    /// Elements of a kind.
    Input(Kind, usize),
    /// Bytes of output.
    Output(usize),
    /// A 32-bit value.
    Value(u32),
}

/// Runs a kernel of each file at each level on the same inputs; all outputs must agree.
fn agree(files: &[&str], kernel: &str, threads: u32, arguments: &[Argument]) {
    let mut first: Option<Vec<Vec<u8>>> = None;
    for file in files {
        let machine = machine(file);
        for level in levels() {
            let mut random = Random::new(23);
            let mut params: Vec<u8> = Vec::new();
            let mut outputs = Vec::new();
            for argument in arguments {
                let bytes = match argument {
                    Argument::Value(value) => {
                        params.extend(value.to_le_bytes());
                        continue;
                    }
                    Argument::Input(kind, count) => (0..*count)
                        .flat_map(|_| {
                            kind.random(&mut random).to_le_bytes()[..kind.bits() as usize / 8]
                                .to_vec()
                        })
                        .collect(),
                    Argument::Output(size) => vec![0; *size],
                };
                let address = machine.upload(&bytes);
                if let Argument::Output(size) = argument {
                    outputs.push((address, *size));
                }
                params.resize(params.len().next_multiple_of(8), 0);
                params.extend(address.to_le_bytes());
            }
            machine
                .launch(level, kernel, [threads / 64, 1, 1], [64, 1, 1], 4096, &params)
                .unwrap_or_else(|why| panic!("{file}: {why}"));
            let result: Vec<_> =
                outputs.iter().map(|(address, size)| machine.download(*address, *size)).collect();
            assert!(result.iter().flatten().any(|b| *b != 0), "{kernel} of {file} wrote nothing");
            match &first {
                None => first = Some(result),
                Some(first) => {
                    let differs = first
                        .iter()
                        .flatten()
                        .zip(result.iter().flatten())
                        .position(|(a, b)| a != b);
                    assert_eq!(
                        differs, None,
                        "{kernel} of {file} at {level:?}, first differing byte"
                    );
                }
            }
        }
    }
}

#[test]
fn integer_kernels() {
    use Argument::{Input, Output, Value};
    let files = ["integer.sm_80.ptx", "integer.sm_120.ptx"];
    let n = 256;
    agree(
        &files,
        "integer64",
        256,
        &[Input(Kind::I64, n), Input(Kind::I64, n), Output(8 * n), Value(250)],
    );
    let [narrow, byte] = [Input(Kind::I16, n), Input(Kind::I16, n)];
    agree(
        &files,
        "narrow",
        256,
        &[
            narrow,
            byte,
            Input(Kind::I16, n),
            Input(Kind::I16, n),
            Output(n),
            Output(2 * n),
            Value(250),
        ],
    );
}

#[test]
fn float_kernels() {
    use Argument::{Input, Output, Value};
    let files = ["real.sm_80.ptx", "real.sm_120.ptx"];
    let n = 256;
    agree(
        &files,
        "real64",
        256,
        &[Input(Kind::F64, n), Input(Kind::F64, n), Output(8 * n), Value(250)],
    );
    let inputs =
        [Input(Kind::F16, n), Input(Kind::F16x2, n), Input(Kind::Bf16, n), Input(Kind::Bf16x2, n)];
    let mut arguments: Vec<_> = inputs.into();
    arguments.extend([Output(4 * n), Value(250)]);
    agree(&files, "half16", 256, &arguments);
}

#[test]
fn control_and_memory_kernels() {
    use Argument::{Input, Output, Value};
    let files = ["control.sm_80.ptx", "control.sm_120.ptx", "control.debug.ptx"];
    agree(&files, "switches", 64, &[Input(Kind::I32, 128), Output(256), Value(60)]);
    agree(&files, "scopes", 64, &[Output(256), Value(3)]);
    let files = ["memory.sm_80.ptx", "memory.sm_120.ptx", "memory.debug.ptx"];
    let arguments = [
        Input(Kind::F32, 1024),
        Input(Kind::I16, 256),
        Input(Kind::I16, 256),
        Output(8 * 512),
        Value(6),
    ];
    agree(&files, "spaces", 64, &arguments);
}
