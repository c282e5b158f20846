//! Damaged kernels: lowering and execution end with a result or an error, never with a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use softcuda::exec::{Launch, Level, Settings, Worker};
use softcuda::lower::{Env, lower};
use softcuda::memory::Memory;
use softcuda::ptx;
use softcuda::ptx::ast::{FunctionKind, Module};

use super::harness::Random;

/// Texts of the corpus below this size, and a kernel of each random program.
fn corpus() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ptx");
    let mut texts: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("text"))
        })
        .filter(|(_, text)| text.len() < 70_000)
        .collect();
    texts.sort();
    for seed in 0..40 {
        texts.push((format!("program {seed}"), super::program::random_kernel(seed)));
    }
    texts
}

/// Exchanges words of a text: another operand, opcode, modifier or number of the same text takes
/// the place of one, so that most results still parse.
fn damage(text: &str, random: &mut Random) -> String {
    let body = text.find(".entry").unwrap_or(0);
    let is_word = |c: char| c.is_alphanumeric() || "%_$".contains(c);
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (is_word(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    let inside: Vec<_> = words.iter().copied().filter(|w| w.0 > body).collect();
    let mut pieces: Vec<(usize, usize, String)> = Vec::new();
    for _ in 0..1 + random.below(3) {
        let (from, to) = inside[random.below(inside.len() as u64) as usize];
        let (a, b) = inside[random.below(inside.len() as u64) as usize];
        let numbers =
            ["0", "1", "-1", "7", "31", "32", "65536", "4294967295", "9223372036854775807"];
        let word =
            if random.below(4) == 0 { numbers[random.below(9) as usize] } else { &text[a..b] };
        pieces.push((from, to, word.to_owned()));
    }
    pieces.sort();
    pieces.dedup_by_key(|p| p.0);
    let mut result = String::new();
    let mut at = 0;
    for (from, to, word) in pieces {
        result.push_str(&text[at..from]);
        result.push_str(&word);
        at = to;
    }
    result.push_str(&text[at..]);
    result
}

/// Runs a kernel for a while, with its parameter buffer full of device addresses.
fn run(
    module: &Arc<Module>,
    name: &str,
    level: Level,
    memory: &Arc<Memory>,
    buffer: u64,
) -> &'static str {
    let env = Env { level, address: &|_| Some(buffer) };
    let Ok(kernel) = lower(module, name, &env) else { return "refused" };
    let size = kernel.params_size as usize;
    let params: Vec<u8> = buffer.to_le_bytes().into_iter().cycle().take(size).collect();
    let launch = Launch {
        kernel: Arc::new(kernel),
        grid: [2, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 1024,
        params: Arc::from(params),
        memory: Arc::clone(memory),
        number: 1,
        processors: 4,
        settings: Settings { level, ..Settings::default() },
        stop: AtomicBool::new(false),
    };
    let mut state = Worker::new().take();
    if state.begin(&launch, [1, 0, 0]).is_err() {
        return "not begun";
    }
    for _ in 0..20 {
        match state.step(&launch, 2000) {
            Err(_) => return "fault",
            Ok(softcuda::exec::block::Progress::Done) => return "done",
            Ok(_) => {}
        }
    }
    "endless"
}

#[test]
fn damaged_kernels_end_without_a_panic() {
    let memory = Arc::new(Memory::new(64 << 20).expect("memory"));
    let buffer = memory.allocate(1 << 20, "test").expect("room");
    let mut random = Random::new(77);
    let mut outcomes = std::collections::BTreeMap::new();
    for (name, text) in corpus() {
        for _ in 0..60 {
            let damaged = damage(&text, &mut random);
            let Ok(module) = ptx::parse(damaged.as_bytes()) else {
                *outcomes.entry("not parsed").or_insert(0) += 1;
                continue;
            };
            let module = Arc::new(module);
            for function in module.functions.iter().filter(|f| f.kind == FunctionKind::Entry) {
                let kernel = module.name(function.name);
                let attempt = catch_unwind(AssertUnwindSafe(|| {
                    run(&module, kernel, Level::detect(), &memory, buffer)
                }));
                match attempt {
                    Ok(outcome) => *outcomes.entry(outcome).or_insert(0) += 1,
                    Err(_) => {
                        std::fs::write(std::env::temp_dir().join("softcuda-damaged.ptx"), &damaged)
                            .ok();
                        panic!(
                            "{name}: {kernel} panics; the text is in the folder for temporary files"
                        );
                    }
                }
            }
        }
    }
    for outcome in ["not parsed", "refused", "fault", "done"] {
        assert!(outcomes.get(outcome).is_some_and(|n| *n > 40), "{outcomes:?}");
    }
}
