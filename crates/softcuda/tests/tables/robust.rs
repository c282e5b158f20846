//! Damaged kernels: lowering and execution end with a result or an error, never with a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use softcuda::exec::{Launch, Level, Progress, Settings, Worker};
use softcuda::fault::FaultKind;
use softcuda::lower::{Env, lower};
use softcuda::memory::Memory;
use softcuda::ptx;
use softcuda::ptx::ast::{FunctionKind, Module};

use super::harness::Random;
use super::machine::levels;

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
    let env = Env { level, plain: false, address: &|_| Some(buffer) };
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
            Ok(Progress::Done) => return "done",
            Ok(_) => {}
        }
    }
    "endless"
}

#[test]
fn damaged_kernels_end_without_a_panic() {
    let memory = Arc::new(Memory::new(64 << 20).expect("memory"));
    let buffer = memory.allocate(1 << 20, "test").expect("room");
    let mut random = Random::new(104729);
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

/// A launch of one block of 64 threads of the only kernel of a text.
fn one_block(text: &str, level: Level) -> Launch {
    let module = Arc::new(ptx::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}")));
    let env = Env { level, plain: false, address: &|_| None };
    Launch {
        kernel: Arc::new(lower(&module, "k", &env).unwrap_or_else(|e| panic!("{e}"))),
        grid: [1, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 0,
        params: Arc::from([]),
        memory: Arc::new(Memory::new(1 << 20).expect("memory")),
        number: 1,
        processors: 4,
        settings: Settings { level, ..Settings::default() },
        stop: AtomicBool::new(false),
    }
}

fn kernel(body: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k() {{ .reg .b32 %r<8>; .reg .pred %p<8>; .shared .u32 flag;
 mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; mov.u32 %r3, 0;
 st.volatile.shared.u32 [flag], %r3; bar.sync 0; setp.eq.u32 %p2, %r1, 31;
 {body} }}"
    )
}

#[test]
fn endless_loops_use_up_their_budget_and_can_be_stopped() {
    for body in [
        "L: bra L;",
        "L: bar.sync 0; bra L;",
        "L: nanosleep.u32 100; bra L;",
        // The lanes part and meet in every round.
        "L: @%p1 bra A; add.u32 %r3, %r3, 1; bra J; A: add.u32 %r3, %r3, 2; J: bra L;",
        "@%p1 bra M; L: bra L; M: nanosleep.u32 1; bra M;",
    ] {
        for level in levels() {
            let launch = one_block(&kernel(body), level);
            let mut state = Worker::new().take();
            state.begin(&launch, [0; 3]).expect("it may begin");
            for _ in 0..3 {
                let progress = state.step(&launch, 10_000);
                assert!(matches!(progress, Ok(Progress::Yielded)), "{body}");
            }
            launch.stop.store(true, Ordering::Relaxed);
            let fault = state.step(&launch, 1 << 40).expect_err("stopped");
            assert_eq!(fault.kind, FaultKind::Cancelled, "{body}");
        }
    }
}

#[test]
fn lanes_that_spin_and_diverge_let_the_others_run() {
    let spin = "L: @%p1 bra A; add.u32 %r3, %r3, 1; bra J; A: add.u32 %r3, %r3, 2;\n\
         J: ld.volatile.shared.u32 %r4, [flag]; setp.eq.u32 %p3, %r4, 0; @%p3 bra L; bra E;\n";
    let set = "S: st.volatile.shared.u32 [flag], 1; bra E;\n";
    for body in
        [format!("@%p2 bra S;\n{spin}{set}E: ret;"), format!("@!%p2 bra L;\n{set}{spin}E: ret;")]
    {
        for level in levels() {
            let launch = one_block(&kernel(&body), level);
            let mut state = Worker::new().take();
            state.begin(&launch, [0; 3]).expect("it may begin");
            let done =
                (0..1000).any(|_| matches!(state.step(&launch, 100_000), Ok(Progress::Done)));
            assert!(done, "{body}");
        }
    }
}
