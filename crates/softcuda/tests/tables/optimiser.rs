//! Optimised code against the code of the text, on random programs; and what each pass does.

use std::fmt::Write as _;
use std::sync::Arc;

use softcuda::exec::Level;
use softcuda::lower::{Env, list};
use softcuda::ptx;

use super::harness::Random;
use super::machine::{Machine, Shape, levels};

/// Threads of a block: two warps and a part of one.
const THREADS: u32 = 70;
const BLOCKS: u32 = 3;
/// Words that each thread stores.
const RESULTS: u32 = 20;
/// Words that programs read.
const INPUTS: u32 = 1024;

const NARROW: u64 = 10;
const WIDE: u64 = 5;
const FLOATS: u64 = 4;
const PREDICATES: u64 = 4;

/// Writes programs that use few registers over and over: everything is there twice, and much of it
/// in loops.
struct Writer {
    random: Random,
    text: String,
    labels: u32,
    counters: u32,
}

impl Writer {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, " {line}");
    }

    fn pick(&mut self, kind: &str, count: u64) -> String {
        format!("%{kind}{}", self.random.below(count))
    }

    fn narrow(&mut self) -> String {
        match self.random.below(6) {
            0 => ["0", "1", "3", "31", "-5", "65536"][self.random.below(6) as usize].to_owned(),
            1 => ["%tx", "%bx", "%pn", "%lane"][self.random.below(4) as usize].to_owned(),
            _ => self.pick("r", NARROW),
        }
    }

    fn register(&mut self) -> String {
        self.pick("r", NARROW)
    }

    fn instruction(&mut self) {
        let (d, a, b, c) = (self.register(), self.narrow(), self.narrow(), self.narrow());
        let (wd, wa, wb) = (self.pick("w", WIDE), self.pick("w", WIDE), self.pick("w", WIDE));
        let (fd, fa, fb) = (self.pick("f", FLOATS), self.pick("f", FLOATS), self.pick("f", FLOATS));
        let (p, q) = (self.pick("p", PREDICATES), self.pick("p", PREDICATES));
        let (x, y) = (self.register(), self.register());
        let offset = 4 * self.random.below(8);
        let text = match self.random.below(26) {
            0 => format!("add.s32 {d}, {x}, {b};"),
            1 => format!("mul.lo.s32 {d}, {x}, {b};"),
            2 => format!("mad.lo.s32 {d}, {x}, {b}, {c};"),
            3 => format!("xor.b32 {d}, {x}, {b};"),
            4 => format!("and.b32 {d}, {x}, {b};"),
            5 => format!("shl.b32 {d}, {x}, {};", self.random.below(32)),
            6 => format!("shr.s32 {d}, {x}, {};", self.random.below(32)),
            7 => format!("mov.u32 {d}, {a};"),
            8 => format!("min.s32 {d}, {x}, {b};"),
            9 => format!("div.u32 {d}, {x}, {b};"),
            10 => format!("mul.wide.s32 {wd}, {x}, {b};"),
            11 => format!("add.s64 {wd}, {wa}, {wb};"),
            12 => format!("shl.b64 {wd}, {wa}, {};", self.random.below(64)),
            13 => format!("cvt.u32.u64 {d}, {wa};"),
            14 => format!("cvt.s64.s32 {wd}, {x};"),
            15 => format!("mov.b64 {{{x}, {y}}}, {wa};"),
            16 => format!("mov.b64 {wd}, {{{x}, {y}}};"),
            17 => format!("setp.lt.s32 {p}, {x}, {b};"),
            18 => format!("setp.ne.u32 {p}|{q}, {x}, {b};"),
            19 => format!("selp.b32 {d}, {a}, {b}, {p};"),
            20 => format!("and.pred {p}, {p}, {q};"),
            21 => format!("cvt.rn.f32.s32 {fd}, {x};"),
            22 => format!("fma.rn.f32 {fd}, {fa}, {fb}, {fd};"),
            23 => format!("mov.b32 {d}, {fa};"),
            // Words of the input: the same register for several, so that loads form groups.
            24 => format!(
                "and.b32 %i0, {x}, {}; mul.wide.u32 %wi, %i0, 4; add.s64 %wi, %wi, %in;\n \
                 ld.global.u32 {d}, [%wi+{offset}]; ld.global.u32 {y}, [%wi+{}];",
                INPUTS - 16,
                4 * self.random.below(8)
            ),
            _ => format!("ld.param.u32 {d}, [%pa+{}];", 16 + offset),
        };
        if self.random.below(8) == 0 && !text.contains('\n') {
            let not = if self.random.below(2) == 0 { "" } else { "!" };
            let guard = self.pick("p", PREDICATES);
            self.line(&format!("@{not}{guard} {text}"));
        } else {
            self.line(&text);
        }
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    fn block(&mut self, depth: u32) {
        for _ in 0..4 + self.random.below(10) {
            match self.random.below(14) {
                0 if depth > 0 => {
                    let (start, counter) = (self.label(), self.counters);
                    self.counters += 1;
                    self.line(&format!("mov.u32 %n{counter}, 0;"));
                    self.line(&format!("{start}:"));
                    self.block(depth - 1);
                    // Lanes leave the loop at different times.
                    let bound = if self.random.below(2) == 0 { "3" } else { "%few" };
                    self.line(&format!("add.u32 %n{counter}, %n{counter}, 1;"));
                    self.line(&format!("setp.lt.u32 %leave, %n{counter}, {bound};"));
                    self.line(&format!("@%leave bra {start};"));
                }
                1 if depth > 0 => {
                    let (other, end) = (self.label(), self.label());
                    let p = self.pick("p", PREDICATES);
                    self.line(&format!("@{p} bra {other};"));
                    self.block(depth - 1);
                    self.line(&format!("bra {end};"));
                    self.line(&format!("{other}:"));
                    self.block(depth - 1);
                    self.line(&format!("{end}:"));
                }
                _ => self.instruction(),
            }
        }
    }
}

/// A kernel of parameters (out, in, ten words).
fn program(seed: u64) -> String {
    let random = Random::new(seed);
    let mut writer = Writer { random, text: String::new(), labels: 0, counters: 0 };
    writer.block(3);
    let mut stores = String::new();
    for i in 0..NARROW {
        let _ = writeln!(stores, " st.global.u32 [%out+{}], %r{i};", 4 * i);
    }
    for i in 0..WIDE {
        let _ =
            writeln!(stores, " cvt.u32.u64 %i0, %w{i}; st.global.u32 [%out+{}], %i0;", 40 + 4 * i);
    }
    for i in 0..FLOATS {
        let _ = writeln!(stores, " st.global.f32 [%out+{}], %f{i};", 60 + 4 * i);
    }
    format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .align 8 .b8 p[56]) {{
 .reg .b32 %r<{NARROW}>, %i<2>, %n<{}>, %tx, %bx, %pn, %lane, %few;
 .reg .b64 %w<{WIDE}>, %out, %in, %wi, %pa; .reg .f32 %f<{FLOATS}>; .reg .pred %p<{PREDICATES}>, %leave;
 mov.u32 %tx, %tid.x; mov.u32 %bx, %ctaid.x; mov.u32 %lane, %laneid; and.b32 %few, %tx, 3;
 mov.b64 %pa, p; ld.param.u64 %out, [p]; ld.param.u64 %in, [%pa+8]; ld.param.u32 %pn, [%pa+16];
 mad.lo.s32 %i0, %bx, {THREADS}, %tx; mul.wide.u32 %wi, %i0, {}; add.s64 %out, %out, %wi;
{}{stores} ret;
}}\n",
        writer.counters + 1,
        4 * RESULTS,
        writer.text
    )
}

#[test]
fn optimised_code_gives_the_bits_of_the_text() {
    let input: Vec<u8> =
        (0..INPUTS).flat_map(|i| (i.wrapping_mul(0x9e37_79b9)).to_le_bytes()).collect();
    for seed in 0..250 {
        let text = program(seed);
        let mut machine = Machine::new(&text);
        let source = machine.upload(&input);
        let count = (THREADS * BLOCKS * RESULTS) as usize;
        let mut first: Option<Vec<u32>> = None;
        for (level, plain) in levels().flat_map(|l| [(l, true), (l, false)]) {
            machine.settings.plain = plain;
            let mut got = Vec::new();
            let out = [0; 2].map(|_| machine.upload(&vec![0; 4 * count]));
            // The second launch has other parameters, the same code and the same buffers.
            let params = [0, 1].map(|i| {
                let words = (0..10u32).flat_map(|n| (n * 7 + 1000 * i).to_le_bytes());
                let addresses = [out[i as usize], source].into_iter().flat_map(u64::to_le_bytes);
                addresses.chain(words).collect::<Vec<u8>>()
            });
            let shapes = [0, 1].map(|i| Shape {
                grid: [BLOCKS, 1, 1],
                block: [THREADS, 1, 1],
                shared: 0,
                params: &params[i],
            });
            let ran = machine.run_all(level, "k", &shapes);
            ran.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"))
                .unwrap_or_else(|f| panic!("seed {seed} {level:?} plain {plain}: {f}\n{text}"));
            for out in out {
                got.extend(machine.words(out, count));
            }
            out.iter().for_each(|out| machine.free(*out));
            match &first {
                None => first = Some(got),
                Some(want) => {
                    let at = (0..got.len()).find(|i| got[*i] != want[*i]);
                    assert!(at.is_none(), "seed {seed} {level:?} plain {plain} at {at:?}\n{text}");
                }
            }
        }
    }
}

/// The ops of a kernel whose body this is.
fn ops(body: &str) -> String {
    let text = format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 out, .param .u32 n) {{
 .reg .b32 %r<20>; .reg .b64 %rd<6>; .reg .pred %p<4>;
 ld.param.u64 %rd0, [out]; ld.param.u32 %r0, [n]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
{body}
 ret; }}\n"
    );
    let module = Arc::new(ptx::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}")));
    let env = Env { level: Level::Base, plain: false, address: &|_| None };
    list(&module, "k", &env).unwrap_or_else(|e| panic!("{e}"))
}

/// How often a text stands in another.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

/// The part of a listing in front of its blocks.
fn preamble(text: &str) -> &str {
    text.split("block 0").next().unwrap_or_default()
}

#[test]
fn what_is_repeated_or_unread_goes() {
    let text = ops("add.s32 %r3, %r2, %r1; add.s32 %r4, %r2, %r1; mul.lo.s32 %r5, %r3, %r4;
        xor.b32 %r6, %r5, %r2; st.global.u32 [%rd0], %r5;");
    assert_eq!((count(&text, "Add"), count(&text, "Xor")), (1, 0), "{text}");
}

#[test]
fn constants_are_worked_out() {
    let text = ops("mov.u32 %r3, 6; mul.lo.s32 %r4, %r3, 7; add.s32 %r5, %r4, 1;
        cvt.u64.u32 %rd1, %r5; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r5;");
    assert!(text.contains("0x2b") && count(&text, "Mul") == 0, "{text}");
}

#[test]
fn what_holds_for_a_launch_is_in_the_preamble_and_what_depends_on_the_block_is_not() {
    let text =
        ops("mad.lo.s32 %r3, %r0, 4, %r1; add.s32 %r4, %r3, %r2; st.global.u32 [%rd0], %r4;");
    let before = preamble(&text);
    assert!(before.contains("Mad") && !before.contains("Add<"), "{text}");
    assert_eq!(count(before, "Add"), 0, "{text}");
}

#[test]
fn what_a_loop_does_not_change_leaves_it() {
    let text = ops("mov.u32 %r3, 0;
        L: mul.lo.s32 %r4, %r2, %r1; add.s32 %r3, %r3, %r4; setp.lt.s32 %p0, %r3, %r0; @%p0 bra L;
        st.global.u32 [%rd0], %r3;");
    let first = text.split("block 1").next().unwrap_or_default();
    assert!(count(first, "Mul") == 1 && count(&text, "Mul") == 1, "{text}");
    // What the loop changes stays.
    assert_eq!(count(first, "Add"), 0, "{text}");
}

#[test]
fn a_changed_operand_is_another_value() {
    let text = ops("add.s32 %r3, %r2, 1; add.s32 %r4, %r3, %r1; add.s32 %r3, %r2, 2;
        add.s32 %r5, %r3, %r1; st.global.u32 [%rd0], %r4; st.global.u32 [%rd0+4], %r5;");
    assert_eq!(count(&text, "Add"), 4, "{text}");
}
