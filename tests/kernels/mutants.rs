//! Kernels with one synchronisation taken out of their PTX. Each must be noticed, by a fault or by
//! other bits, under strict asynchronous copies and one of the two orders of warps: a barrier that
//! no run misses is not needed, or a test is missing.

use std::sync::Arc;

use qwen2vl::device::images;
use softcuda::direct::Device;
use softcuda::exec::{CopyMode, Kernel, Order, Settings};
use softcuda::ptx::fatbin::{MemberKind, members};

/// The two orders of warps, copies strict.
pub fn orders() -> [Settings; 2] {
    let base = Settings { copies: CopyMode::Strict, ..Settings::default() };
    [Order::Ascending, Order::Descending].map(|warps| Settings { warps, ..base })
}

/// The PTX that is embedded for `kernels/STEM.cu`.
pub fn ptx(stem: &str) -> String {
    let (_, fatbin, _) = images().find(|(name, ..)| *name == stem).expect("an embedded image");
    let members = members(fatbin).expect("a fatbin");
    let member = members.iter().find(|member| member.kind == MemberKind::Ptx).expect("PTX");
    String::from_utf8(member.data().expect("plain PTX").into_owned()).expect("PTX is ASCII")
}

/// What a launch left in its output, or `None` if it faulted.
pub type Outcome = Option<Vec<u8>>;

/// A launch of a kernel on a device of its own.
pub type Run<'a> = &'a dyn Fn(&Device, &Arc<Kernel>) -> Outcome;

/// Deletes each `bar.sync` and each wait for asynchronous copies of `entry`, one at a time; each
/// must be missed. `runs` launches a kernel on a device of its own, in one shape after another.
/// Returns the number of mutants.
pub fn check(stem: &str, entry: &str, runs: &[Run<'_>]) -> usize {
    let (found, unnoticed) = mutate(stem, entry, runs);
    assert!(unnoticed.is_empty(), "{entry}: nothing misses {unnoticed:?}");
    found
}

/// As [`check`], but returns the number of mutants and those that no run notices: the line of
/// each, its PTX and the instruction before it.
pub fn mutate(stem: &str, entry: &str, runs: &[Run<'_>]) -> (usize, Vec<String>) {
    let ptx = ptx(stem);
    let lines: Vec<&str> = ptx.lines().collect();
    let settings = orders();
    let shapes = settings.iter().flat_map(|settings| runs.iter().map(move |run| (*settings, run)));
    // One launch after another, as far as they are asked for: the first differs for most mutants.
    let outcomes = |text: &str| {
        let text = text.to_owned();
        shapes.clone().map(move |(settings, run)| {
            let device = Device::new(64 << 20, settings).expect("memory");
            let module = device.load_ptx(&text).expect("PTX that parses");
            run(&device, &module.kernel(entry).expect("PTX that lowers"))
        })
    };
    let whole: Vec<Outcome> = outcomes(&ptx).collect();
    assert!(whole.iter().all(Option::is_some), "{entry} faults as it is");
    let (ascending, descending) = whole.split_at(runs.len());
    assert!(ascending == descending, "{entry} depends on the order of warps");

    let places = synchronisations(&lines, entry);
    let unnoticed = places.iter().filter(|&&place| {
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, line)| *line);
        outcomes(&kept.collect::<Vec<_>>().join("\n")).eq(whole.iter().cloned())
    });
    let is_instruction =
        |line: &&str| line.starts_with(|first: char| first.is_ascii_lowercase() || first == '@');
    let name = |&place: &usize| {
        let before = lines[..place].iter().rev().map(|line| line.trim()).find(is_instruction);
        let before = before.expect("an instruction before it");
        format!("line {}: {} after {before}", place + 1, lines[place].trim())
    };
    (places.len(), unnoticed.map(name).collect())
}

/// Lines of `entry` that order the threads of a block, or wait for copies.
fn synchronisations(lines: &[&str], entry: &str) -> Vec<usize> {
    let head = format!(".entry {entry}(");
    let start = lines.iter().position(|line| line.contains(&head)).expect("the entry");
    let rest = lines[start + 1..].iter().position(|line| line.contains(".entry "));
    let end = rest.map_or(lines.len(), |rest| start + 1 + rest);
    let is_one = |line: &str| {
        let line = line.trim_start();
        ["bar.sync", "barrier.sync", "cp.async.wait_group", "cp.async.wait_all"]
            .iter()
            .any(|opcode| line.starts_with(opcode))
    };
    (start..end).filter(|i| is_one(lines[*i])).collect()
}
