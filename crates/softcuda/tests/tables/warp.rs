//! Operations between the lanes of a warp, with full and partial member masks.

use std::fmt::Write as _;

use super::harness::{Kind, Random};
use super::machine::{Machine, levels};

/// Operands of a warp: `%a` (b64; `%a32` is its low word), `%b` (b32).
struct Inputs {
    a: [u64; 32],
    b: [u32; 32],
}

impl Inputs {
    fn low(&self, lane: u32) -> u32 {
        self.a[lane as usize] as u32
    }
}

/// Result and predicate of a lane.
type Model = Box<dyn Fn(u32, u32, &Inputs) -> (u32, bool)>;

struct Op {
    text: String,
    model: Model,
    /// Inputs for members of a mask.
    fill: fn(&mut Random, u32) -> Inputs,
}

fn any(random: &mut Random, _: u32) -> Inputs {
    Inputs {
        a: std::array::from_fn(|_| Kind::I64.random(random)),
        b: std::array::from_fn(|_| random.next() as u32),
    }
}

/// Few different values, so that lanes agree now and then.
fn few(random: &mut Random, _: u32) -> Inputs {
    let values = 1 + random.below(3);
    let mut inputs = any(random, 0);
    inputs.a = std::array::from_fn(|_| random.below(values) * 0x1_0000_0001);
    inputs
}

/// `%b` names a member.
fn members(random: &mut Random, mask: u32) -> Inputs {
    let lanes: Vec<u32> = (0..32).filter(|l| mask >> l & 1 == 1).collect();
    let mut inputs = any(random, mask);
    inputs.b = std::array::from_fn(|_| lanes[random.below(lanes.len() as u64) as usize]);
    inputs
}

fn op(
    text: &str,
    fill: fn(&mut Random, u32) -> Inputs,
    model: impl Fn(u32, u32, &Inputs) -> (u32, bool) + 'static,
) -> Op {
    Op { text: text.to_owned(), model: Box::new(model), fill }
}

fn kernel(name: &str, op: &Op, mask: &str) -> String {
    format!(
        ".visible .entry {name}(.param .u64 a, .param .u64 b, .param .u64 out, .param .u32 mask)
{{ .reg .b32 %i<8>; .reg .b64 %w<8>; .reg .pred %g, %p, %s; .reg .b64 %a; .reg .b32 %a32, %b, %d, %m, %x;
 mov.u32 %i0, %tid.x; ld.param.u64 %w0, [a]; ld.param.u64 %w1, [b]; ld.param.u64 %w2, [out]; ld.param.u32 %m, [mask];
 mul.wide.u32 %w3, %i0, 8; add.u64 %w0, %w0, %w3; add.u64 %w2, %w2, %w3;
 mul.wide.u32 %w4, %i0, 4; add.u64 %w1, %w1, %w4;
 ld.global.u64 %a, [%w0]; cvt.u32.u64 %a32, %a; ld.global.u32 %b, [%w1];
 mov.u32 %d, 0x5a5a5a5a; setp.ne.u32 %p, 0, 0; and.b32 %x, %a32, 1; setp.ne.u32 %s, %x, 0;
 mov.u32 %i1, %lanemask_eq; and.b32 %i2, %i1, %m; setp.eq.u32 %g, %i2, 0;
 @%g bra SKIP;
 {}
SKIP:
 selp.u32 %i3, 1, 0, %p; st.global.v2.u32 [%w2], {{%d, %i3}};
 ret; }}\n",
        op.text.replace("MASK", mask)
    )
}

const WARPS: usize = 6;

fn check(ops: &[Op]) {
    // Partial masks in a register and as a constant.
    const FIXED: u32 = 0x0ff1_23c5;
    let mut text = ".version 8.0 .target sm_80 .address_size 64\n".to_owned();
    for (i, op) in ops.iter().enumerate() {
        text.push_str(&kernel(&format!("full{i}"), op, "0xffffffff"));
        text.push_str(&kernel(&format!("fixed{i}"), op, &FIXED.to_string()));
        text.push_str(&kernel(&format!("part{i}"), op, "%m"));
    }
    let machine = Machine::new(&text);
    let mut random = Random::new(11);
    let mut failures = String::new();
    for (i, op) in ops.iter().enumerate() {
        for level in levels() {
            for round in 0..12 {
                let (kernel, mask) = match round % 3 {
                    0 => ("full", u32::MAX),
                    1 => ("fixed", FIXED),
                    _ => ("part", (random.next() as u32) | 1 << random.below(32)),
                };
                let inputs: Vec<Inputs> =
                    (0..WARPS).map(|_| (op.fill)(&mut random, mask)).collect();
                let a: Vec<u8> =
                    inputs.iter().flat_map(|w| w.a).flat_map(u64::to_le_bytes).collect();
                let b: Vec<u8> =
                    inputs.iter().flat_map(|w| w.b).flat_map(u32::to_le_bytes).collect();
                let [a, b, out] =
                    [machine.upload(&a), machine.upload(&b), machine.upload(&[0; WARPS * 256])];
                let mut params: Vec<u8> =
                    [a, b, out].iter().flat_map(|p| p.to_le_bytes()).collect();
                params.extend(mask.to_le_bytes());
                let block = [32 * WARPS as u32, 1, 1];
                let launched =
                    machine.launch(level, &format!("{kernel}{i}"), [1, 1, 1], block, 0, &params);
                let words = machine.words(out, WARPS * 64);
                [a, b, out].into_iter().for_each(|p| machine.free(p));
                if let Err(why) = launched {
                    writeln!(failures, "{} {mask:#x} at {level:?}: {why}", op.text)
                        .expect("a string");
                    break;
                }
                let wrong = (0..WARPS as u32 * 32).find_map(|thread| {
                    let (warp, lane) = ((thread / 32) as usize, thread % 32);
                    let expected = if mask >> lane & 1 == 1 {
                        (op.model)(lane, mask, &inputs[warp])
                    } else {
                        (0x5a5a_5a5a, false)
                    };
                    let got = (words[2 * thread as usize], words[2 * thread as usize + 1] != 0);
                    (got != expected).then(|| format!("lane {lane}: {got:x?}, not {expected:x?}"))
                });
                if let Some(wrong) = wrong {
                    writeln!(failures, "{} {mask:#x} at {level:?}: {wrong}", op.text)
                        .expect("a string");
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Source lane and predicate of a shuffle, as the PTX manual's pseudocode has it.
fn source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let highest = lane & segment | clamp & !segment;
    let lowest = lane & segment;
    let (from, inside) = match mode {
        "up" => (lane.wrapping_sub(b), lane as i32 - b as i32 >= highest as i32),
        "down" => (lane + b, lane + b <= highest),
        "bfly" => (lane ^ b, lane ^ b <= highest),
        _ => (lowest | b & !segment, lowest | b & !segment <= highest),
    };
    let inside = if mode == "bfly" || mode == "idx" { from <= highest } else { inside };
    if inside { (from, true) } else { (lane, false) }
}

#[test]
fn shuffles() {
    // With a full mask any lane may be read; the kernels with partial masks run idx alone.
    let mut text = ".version 8.0 .target sm_80 .address_size 64\n".to_owned();
    let mut ops = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        let clamps: &[u32] = if mode == "up" {
            &[0, 0x1000, 0x1800, 0x1c00]
        } else {
            &[0x1f, 0x101f, 0x181f, 0x1c1f, 0x100f]
        };
        for c in clamps {
            for b in ["%b", "1", "3", "16", "31"] {
                let number = b.parse::<u32>().ok();
                let c = *c;
                ops.push(op(
                    &format!("shfl.sync.{mode}.b32 %d|%p, %a32, {b}, {c}, MASK;"),
                    any,
                    move |lane, _, w| {
                        let (from, inside) =
                            source(mode, lane, number.unwrap_or(w.b[lane as usize]), c);
                        (w.low(from), inside)
                    },
                ));
            }
        }
    }
    for (i, op) in ops.iter().enumerate() {
        text.push_str(&kernel(&format!("k{i}"), op, "-1"));
    }
    let machine = Machine::new(&text);
    let mut random = Random::new(5);
    for (i, op) in ops.iter().enumerate() {
        let inputs = any(&mut random, 0);
        for level in levels() {
            let a: Vec<u8> = inputs.a.iter().flat_map(|x| x.to_le_bytes()).collect();
            let b: Vec<u8> = inputs.b.iter().flat_map(|x| x.to_le_bytes()).collect();
            let [a, b, out] = [machine.upload(&a), machine.upload(&b), machine.upload(&[0; 256])];
            let mut params: Vec<u8> = [a, b, out].iter().flat_map(|p| p.to_le_bytes()).collect();
            params.extend(u32::MAX.to_le_bytes());
            let launched =
                machine.launch(level, &format!("k{i}"), [1, 1, 1], [32, 1, 1], 0, &params);
            launched.unwrap_or_else(|why| panic!("{}: {why}", op.text));
            let words = machine.words(out, 64);
            for lane in 0..32 {
                let got = (words[2 * lane as usize], words[2 * lane as usize + 1] != 0);
                assert_eq!(
                    got,
                    (op.model)(lane, u32::MAX, &inputs),
                    "{} lane {lane} at {level:?}",
                    op.text
                );
            }
        }
    }
    check(&[
        op("shfl.sync.idx.b32 %d|%p, %a32, %b, 31, MASK;", members, |lane, _, w| {
            (w.low(w.b[lane as usize]), true)
        }),
        op("shfl.sync.idx.b32 %d, %a32, %b, 31, MASK;", members, |lane, _, w| {
            (w.low(w.b[lane as usize]), false)
        }),
        op("shfl.sync.bfly.b32 %d|%p, %a32, 0, 31, MASK;", any, |lane, _, w| (w.low(lane), true)),
    ]);
}

#[test]
fn votes() {
    let truth = |w: &Inputs, lane: u32| w.a[lane as usize] & 1 == 1;
    let ballot = move |mask: u32, w: &Inputs| -> u32 {
        (0..32).filter(|l| mask >> l & 1 == 1 && truth(w, *l)).map(|l| 1 << l).sum()
    };
    check(&[
        op("vote.sync.ballot.b32 %d, %s, MASK;", few, move |_, m, w| (ballot(m, w), false)),
        op("vote.sync.ballot.b32 %d, !%s, MASK;", few, move |_, m, w| (m & !ballot(m, w), false)),
        op("vote.sync.all.pred %p, %s, MASK; selp.u32 %d, 7, 8, %p;", few, move |_, m, w| {
            let all = ballot(m, w) == m;
            (if all { 7 } else { 8 }, all)
        }),
        op("vote.sync.any.pred %p, %s, MASK; mov.u32 %d, 1;", few, move |_, m, w| {
            (1, ballot(m, w) != 0)
        }),
        op("vote.sync.uni.pred %p, %s, MASK; mov.u32 %d, 1;", few, move |_, m, w| {
            (1, ballot(m, w) == 0 || ballot(m, w) == m)
        }),
        op("activemask.b32 %d; bar.warp.sync MASK;", any, |_, m, _| (m, false)),
    ]);
}

#[test]
fn matches() {
    let equal = |lane: u32, mask: u32, w: &Inputs, wide: bool| -> u32 {
        let key = |l: u32| if wide { w.a[l as usize] } else { u64::from(w.low(l)) };
        (0..32).filter(|l| mask >> l & 1 == 1 && key(*l) == key(lane)).map(|l| 1 << l).sum()
    };
    check(&[
        op("match.any.sync.b32 %d, %a32, MASK;", few, move |l, m, w| {
            (equal(l, m, w, false), false)
        }),
        op("match.any.sync.b64 %d, %a, MASK;", few, move |l, m, w| (equal(l, m, w, true), false)),
        op("match.all.sync.b32 %d|%p, %a32, MASK;", few, move |l, m, w| {
            let all = equal(l, m, w, false) == m;
            (if all { m } else { 0 }, all)
        }),
        op("match.all.sync.b64 %d|%p, %a, MASK;", few, move |l, m, w| {
            let all = equal(l, m, w, true) == m;
            (if all { m } else { 0 }, all)
        }),
        op("match.all.sync.b32 %d, %a32, MASK;", few, move |l, m, w| {
            (if equal(l, m, w, false) == m { m } else { 0 }, false)
        }),
    ]);
}

#[test]
fn reductions() {
    fn fold(mask: u32, w: &Inputs, f: impl Fn(u32, u32) -> u32) -> (u32, bool) {
        let lanes = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| w.low(l));
        (lanes.reduce(f).expect("a member"), false)
    }
    let mut ops: Vec<Op> = Vec::new();
    let table: [(&str, fn(u32, u32) -> u32); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (name, f) in table {
        ops.push(op(&format!("redux.sync.{name} %d, %a32, MASK;"), any, move |_, m, w| {
            fold(m, w, f)
        }));
    }
    check(&ops);
}

#[test]
fn special_registers() {
    let registers = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%lanemask_eq",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_gt",
        "%lanemask_ge",
        "%dynamic_smem_size",
        "%nsmid",
        "%smid",
    ];
    let mut body = String::new();
    for (i, register) in registers.iter().enumerate() {
        writeln!(body, "mov.u32 %r, {register}; st.global.u32 [%o+{}], %r;", 4 * i)
            .expect("a string");
    }
    let count = registers.len();
    let text = format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 out) {{ .reg .b32 %r, %i<9>; .reg .b64 %o, %w; ld.param.u64 %o, [out];
 mov.u32 %i0, %ctaid.z; mov.u32 %i1, %nctaid.y; mov.u32 %i2, %ctaid.y; mad.lo.u32 %i0, %i0, %i1, %i2;
 mov.u32 %i1, %nctaid.x; mov.u32 %i2, %ctaid.x; mad.lo.u32 %i0, %i0, %i1, %i2;
 mov.u32 %i1, %ntid.z; mov.u32 %i2, %tid.z; mad.lo.u32 %i0, %i0, %i1, %i2;
 mov.u32 %i1, %ntid.y; mov.u32 %i2, %tid.y; mad.lo.u32 %i0, %i0, %i1, %i2;
 mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x; mad.lo.u32 %i0, %i0, %i1, %i2;
 mul.wide.u32 %w, %i0, {}; add.u64 %o, %o, %w; {body} ret; }}",
        4 * count
    );
    let machine = Machine::new(&text);
    let (grid, block) = ([3u32, 2, 2], [5u32, 4, 3]);
    for level in levels() {
        let threads = 12 * 60;
        let out = machine.upload(&vec![0; threads * 4 * count]);
        machine
            .launch(level, "k", grid, block, 48, &out.to_le_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
        let words = machine.words(out, threads * count);
        for (global, row) in words.chunks_exact(count).enumerate() {
            let (b, t) = (global as u32 / 60, global as u32 % 60);
            let lane = t % 32;
            let expected = [
                t % 5,
                t / 5 % 4,
                t / 20,
                5,
                4,
                3,
                b % 3,
                b / 3 % 2,
                b / 6,
                3,
                2,
                2,
                lane,
                t / 32,
                2,
                1 << lane,
                (1 << lane) - 1,
                (1u64 << (lane + 1)).wrapping_sub(1) as u32,
                !((1u64 << (lane + 1)).wrapping_sub(1) as u32),
                !((1 << lane) - 1),
                48,
                4,
                b % 4,
            ];
            assert_eq!(row, expected, "block {b} thread {t} at {level:?}");
        }
    }
}
