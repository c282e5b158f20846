//! Atomic operations in every space, against a model that runs the lanes in order.

use super::exact::{self, F16, F32, F64, Mode};
use super::harness::{Kind, Random};
use super::machine::{Machine, levels};

/// An atomic on bits: old value and operand (and swap value of `cas`) to the new value.
type Update = fn(u64, u64, u64) -> u64;

fn flush(x: u64) -> u64 {
    F32.flush(x)
}

const ATOMICS: [(&str, &str, u32, Update); 37] = [
    ("add", "u32", 4, |o, b, _| (o as u32).wrapping_add(b as u32).into()),
    ("add", "s32", 4, |o, b, _| (o as u32).wrapping_add(b as u32).into()),
    ("add", "u64", 8, |o, b, _| o.wrapping_add(b)),
    ("inc", "u32", 4, |o, b, _| if o >= b { 0 } else { o + 1 }),
    ("dec", "u32", 4, |o, b, _| if o == 0 || o > b { b } else { o - 1 }),
    ("min", "u32", 4, |o, b, _| o.min(b)),
    ("max", "u32", 4, |o, b, _| o.max(b)),
    ("min", "s32", 4, |o, b, _| (o as i32).min(b as i32) as u32 as u64),
    ("max", "s32", 4, |o, b, _| (o as i32).max(b as i32) as u32 as u64),
    ("min", "u64", 8, |o, b, _| o.min(b)),
    ("max", "u64", 8, |o, b, _| o.max(b)),
    ("min", "s64", 8, |o, b, _| (o as i64).min(b as i64) as u64),
    ("max", "s64", 8, |o, b, _| (o as i64).max(b as i64) as u64),
    ("and", "b32", 4, |o, b, _| o & b),
    ("or", "b32", 4, |o, b, _| o | b),
    ("xor", "b32", 4, |o, b, _| o ^ b),
    ("and", "b64", 8, |o, b, _| o & b),
    ("or", "b64", 8, |o, b, _| o | b),
    ("xor", "b64", 8, |o, b, _| o ^ b),
    ("exch", "b32", 4, |_, b, _| b),
    ("exch", "b64", 8, |_, b, _| b),
    ("cas", "b32", 4, |o, b, c| if o == b { c } else { o }),
    ("cas", "b64", 8, |o, b, c| if o == b { c } else { o }),
    ("cas", "b16", 2, |o, b, c| if o == b { c } else { o }),
    ("add", "f64", 8, |o, b, _| exact::add(F64, Mode::Rn, o, b)),
    ("add.noftz", "f16", 2, |o, b, _| exact::add(F16, Mode::Rn, o, b)),
    ("add.noftz", "bf16", 2, |o, b, _| exact::add(exact::BF16, Mode::Rn, o, b)),
    ("add.noftz", "f16x2", 4, |o, b, _| both(F16, o, b)),
    ("add.noftz", "bf16x2", 4, |o, b, _| both(exact::BF16, o, b)),
    ("relaxed.gpu.add", "u32", 4, |o, b, _| (o as u32).wrapping_add(b as u32).into()),
    ("acq_rel.sys.add", "u64", 8, |o, b, _| o.wrapping_add(b)),
    ("acquire.cta.exch", "b32", 4, |_, b, _| b),
    ("release.gpu.cas", "b32", 4, |o, b, c| if o == b { c } else { o }),
    ("relaxed.cta.max", "s32", 4, |o, b, _| (o as i32).max(b as i32) as u32 as u64),
    ("relaxed.gpu.or", "b64", 8, |o, b, _| o | b),
    ("relaxed.gpu.inc", "u32", 4, |o, b, _| if o >= b { 0 } else { o + 1 }),
    ("relaxed.gpu.min", "u64", 8, |o, b, _| o.min(b)),
];

fn both(format: exact::Format, o: u64, b: u64) -> u64 {
    let half = |shift: u32| exact::add(format, Mode::Rn, o >> shift & 0xffff, b >> shift & 0xffff);
    half(0) | half(16) << 16
}

/// Puts the space after the semantics and scope, where PTX wants it.
fn spelled(op: &str, space: &str) -> String {
    let words: Vec<_> = op.split('.').collect();
    let split = words
        .iter()
        .position(|w| {
            !["relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys"].contains(w)
        })
        .unwrap_or(0);
    let (scope, rest) = words.split_at(split);
    let mut all: Vec<&str> = scope.to_vec();
    if !space.is_empty() {
        all.push(space);
    }
    all.extend(rest);
    all.join(".")
}

#[test]
fn atomics_in_lane_order() {
    let mut failures = String::new();
    for (op, ty, bytes, update) in ATOMICS {
        for space in ["global", "shared", ""] {
            // `add.f32` on global memory flushes, so it has its own test.
            atomic(op, ty, bytes, space, update, &mut failures);
        }
    }
    atomic(
        "add",
        "f32",
        4,
        "global",
        |o, b, _| flush(exact::add(F32, Mode::Rn, flush(o), flush(b))),
        &mut failures,
    );
    atomic("add", "f32", 4, "shared", |o, b, _| exact::add(F32, Mode::Rn, o, b), &mut failures);
    assert!(failures.is_empty(), "{failures}");
}

/// 64 threads on eight words, lanes 0 to 31 of warp 0 first.
fn atomic(op: &str, ty: &str, bytes: u32, space: &str, update: Update, failures: &mut String) {
    let (register, bits) = match bytes {
        2 => (".b16", 16),
        4 => (".b32", 32),
        _ => (".b64", 64),
    };
    let cas = op.ends_with("cas");
    let third = if cas { ", %c" } else { "" };
    let (move_in, move_out, base) = match space {
        "shared" => (
            format!("ld.global{register} %v, [%w4]; st.shared{register} [%s], %v; bar.sync 0;"),
            format!("bar.sync 0; ld.shared{register} %v, [%s]; st.global{register} [%w4], %v;"),
            "%s",
        ),
        _ => (String::new(), String::new(), "%w4"),
    };
    let atom = spelled(op, space);
    let red = !cas && !op.ends_with("exch");
    let reduce = if red { format!("red.{atom}.{ty} [{base}], %b;") } else { String::new() };
    let text = format!(
        ".version 8.0 .target sm_90 .address_size 64
.visible .entry k(.param .u64 in, .param .u64 out, .param .u64 words)
{{ .reg .b32 %i<8>; .reg .b64 %w<8>; .reg {register} %a, %b, %c, %v; .reg .b32 %s; .shared .align 8 .b8 s[64];
 mov.u32 %i0, %tid.x; ld.param.u64 %w0, [in]; ld.param.u64 %w1, [out]; ld.param.u64 %w2, [words];
 mul.wide.u32 %w3, %i0, 16; add.u64 %w0, %w0, %w3; mul.wide.u32 %w3, %i0, 8; add.u64 %w1, %w1, %w3;
 and.b32 %i1, %i0, 7; mul.wide.u32 %w3, %i1, 8; add.u64 %w4, %w2, %w3; shl.b32 %i2, %i1, 3; mov.u32 %s, s; add.u32 %s, %s, %i2;
 {move_in}
 ld.global{register} %b, [%w0]; ld.global{register} %c, [%w0+8];
 atom.{atom}.{ty} %a, [{base}], %b{third};
 st.global{register} [%w1], %a;
 {reduce}
 {move_out}
 ret; }}"
    );
    let mask = u64::MAX >> (64 - bits);
    let kind = match ty {
        "f16" => Kind::F16,
        "bf16" => Kind::Bf16,
        "f16x2" => Kind::F16x2,
        "bf16x2" => Kind::Bf16x2,
        "f32" => Kind::F32,
        "f64" => Kind::F64,
        _ if bytes == 2 => Kind::I16,
        _ if bytes == 4 => Kind::I32,
        _ => Kind::I64,
    };
    let machine = Machine::new(&text);
    let mut random = Random::new(u64::from(bytes));
    for level in levels() {
        for round in 0..8 {
            let edges = kind.edges();
            let mut value = || {
                let value = match random.below(4) {
                    0 => edges[random.below(edges.len() as u64) as usize],
                    // Small numbers, so that `cas` and `inc` hit.
                    1 => random.below(4),
                    _ => kind.random(&mut random),
                };
                value & mask
            };
            let words: Vec<u64> = (0..8).map(|_| value()).collect();
            let operands: Vec<[u64; 2]> = (0..64).map(|_| [value(), value()]).collect();
            let bytes_of =
                |v: &[u64]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
            let input = machine.upload(&bytes_of(&operands.concat()));
            let out = machine.upload(&[0; 64 * 8]);
            let place = machine.upload(&bytes_of(&words));
            let params = bytes_of(&[input, out, place]);
            if let Err(why) = machine.launch(level, "k", [1, 1, 1], [64, 1, 1], 0, &params) {
                failures.push_str(&format!("atom.{atom}.{ty} at {level:?}: {why}\n"));
                return;
            }
            let read = |address, count: usize| -> Vec<u64> {
                let bytes = machine.download(address, count * 8);
                bytes
                    .chunks_exact(8)
                    .map(|b| u64::from_le_bytes(b.try_into().expect("eight")) & mask)
                    .collect()
            };
            let (olds, finals) = (read(out, 64), read(place, 8));
            let mut model = words.clone();
            let mut expected = vec![0; 64];
            for warp in 0..2 {
                for lane in 0..32 {
                    let thread = 32 * warp + lane;
                    let [b, c] = operands[thread];
                    let word = &mut model[thread % 8];
                    expected[thread] = *word;
                    *word = update(*word, b, c) & mask;
                }
                if red {
                    for lane in 0..32 {
                        let thread = 32 * warp + lane;
                        let word = &mut model[thread % 8];
                        *word = update(*word, operands[thread][0], 0) & mask;
                    }
                }
            }
            if olds != expected || finals != model {
                failures.push_str(&format!(
                    "atom.{atom}.{ty} at {level:?}, round {round}:\n words {words:x?}\n old {olds:x?}\n not {expected:x?}\n final {finals:x?}\n not {model:x?}\n"
                ));
                return;
            }
            [input, out, place].into_iter().for_each(|p| machine.free(p));
        }
    }
}
