//! Every kernel of the compiled corpus is lowered at every level, or names what it lacks.

use std::path::PathBuf;
use std::sync::Arc;

use softcuda::lower::{Env, lower};
use softcuda::memory::GLOBAL_BASE;
use softcuda::ptx;
use softcuda::ptx::ast::FunctionKind;

use super::machine::levels;

/// Kernels that use what is not supported yet, and a word of the error that says so.
const LACKING: [(&str, &str); 6] = [
    ("calls", "recursion"),
    ("messages", "vprintf"),
    ("integer32", "not supported"),
    ("atomics", "createpolicy"),
    ("wmma_tile", "wmma"),
    ("groups", "special register"),
];

#[test]
fn every_kernel_is_lowered_or_says_what_it_lacks() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ptx");
    let mut lowered = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|e| e != "ptx") {
            continue;
        }
        let text = std::fs::read(&path).expect("readable");
        let module =
            Arc::new(ptx::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        for function in module.functions.iter().filter(|f| f.kind == FunctionKind::Entry) {
            let name = module.name(function.name);
            for level in levels() {
                let env = Env { level, plain: false, address: &|_| Some(GLOBAL_BASE) };
                let lacking = LACKING.iter().find(|l| l.0 == name);
                match (lower(&module, name, &env), lacking) {
                    (Ok(kernel), _) => {
                        assert!(!kernel.ops.is_empty());
                        lowered += 1;
                    }
                    (Err(error), Some((_, word))) => {
                        assert_eq!(error.code, 801, "{error}");
                        assert!(error.line > 0 && error.message.contains(word), "{error}");
                    }
                    (Err(error), None) => panic!("{}: {error}", path.display()),
                }
            }
        }
    }
    assert!(lowered >= 26, "{lowered}");
}
