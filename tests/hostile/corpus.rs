//! The inputs that fuzzing found worth keeping, through the functions that were fuzzed
//! (`fuzz/run.sh`): each a value or a typed error.

use std::{fs, path::Path};

// The targets name their subject as the crate that they are built in.
use qwen2vl::{media, model, prompt, units};

#[path = "../../fuzz/src/targets.rs"]
#[expect(unreachable_pub, reason = "public in the crate that is fuzzed")]
mod targets;

#[test]
fn the_kept_inputs_are_values_or_errors() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut ran = 0;
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
            ran += 1;
        }
    }
    println!("corpus: {ran} inputs of {} targets", targets::TARGETS.len());
}
