//! Rows of the instruction tables: one instruction, inputs, an independent model, all levels.

use std::fmt::Write as _;

use softcuda::exec::Level;

use super::exact::{self, Format};
use super::machine::{Machine, levels};

/// xorshift64*: the same numbers everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`, from the high bits.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }
}

/// What a register of a row holds, which decides its width and its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pred,
    I16,
    I32,
    I64,
    /// 32 bits, often a small number: shift amounts, positions, lengths.
    Amount,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    F32,
    F64,
}

impl Kind {
    pub fn bits(self) -> u32 {
        match self {
            Kind::Pred => 1,
            Kind::I16 | Kind::F16 | Kind::Bf16 => 16,
            Kind::I64 | Kind::F64 => 64,
            _ => 32,
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Kind::F16 | Kind::F16x2 => Some(exact::F16),
            Kind::Bf16 | Kind::Bf16x2 => Some(exact::BF16),
            Kind::F32 => Some(exact::F32),
            Kind::F64 => Some(exact::F64),
            _ => None,
        }
    }

    fn register(self) -> &'static str {
        match self.bits() {
            1 => ".pred",
            16 => ".b16",
            32 => ".b32",
            _ => ".b64",
        }
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// Values at which instructions break.
    pub fn edges(self) -> Vec<u64> {
        if let Some(f) = self.format() {
            let mut edges = Vec::new();
            let ulp = 1;
            let half = f.one() - (1 << (f.precision - 1));
            let small = [0, ulp, (1 << (f.precision - 1)) - 1, 1 << (f.precision - 1)];
            let middle =
                [f.one(), f.one() + ulp, f.one() - ulp, half, f.one() + (1 << (f.precision - 2))];
            let integers = [f.one() + (3 << (f.precision - 2)), f.one() + (7 << (f.precision - 1))];
            let large = [f.infinity() - 1, f.infinity(), f.infinity() + 1, f.nan()];
            for magnitude in small.into_iter().chain(middle).chain(integers).chain(large) {
                edges.push(magnitude);
                edges.push(magnitude | f.sign_bit());
            }
            if matches!(self, Kind::F16x2 | Kind::Bf16x2) {
                let other = edges.clone();
                return edges.iter().zip(other.iter().rev()).map(|(a, b)| a | b << 16).collect();
            }
            return edges;
        }
        let top = 1u64 << (self.bits() - 1);
        match self {
            Kind::Pred => vec![0, 1],
            Kind::Amount => {
                vec![0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 255, 256, 0x8000_0000, 0xffff_ffff]
            }
            _ => {
                let values = [
                    0,
                    1,
                    2,
                    3,
                    0x55,
                    0x7f,
                    0x80,
                    0xff,
                    0x7fff,
                    0x8000,
                    0xffff,
                    top - 1,
                    top,
                    top + 1,
                ];
                let mut edges: Vec<_> = values.into_iter().collect();
                edges.extend([!0u64, !1u64, 0x5555_5555_5555_5555, 0xffff_ffff, 1 << 31, 1 << 32]);
                edges.iter_mut().for_each(|e| *e &= self.mask());
                edges.sort_unstable();
                edges.dedup();
                edges
            }
        }
    }

    /// A random value: plain bits, or for floats often of moderate exponents.
    pub fn random(self, random: &mut Random) -> u64 {
        let bits = random.next() & self.mask();
        match self {
            Kind::Amount if random.below(4) > 0 => bits & 63,
            Kind::I16 | Kind::I32 | Kind::I64 if random.below(3) == 0 => {
                // Few significant bits, either sign.
                let shift = random.below(u64::from(self.bits()));
                let small = bits >> shift;
                if random.below(2) == 0 { small } else { small.wrapping_neg() & self.mask() }
            }
            Kind::F16x2 | Kind::Bf16x2 => {
                let single = if self == Kind::F16x2 { Kind::F16 } else { Kind::Bf16 };
                single.random(random) | single.random(random) << 16
            }
            Kind::F16 | Kind::Bf16 | Kind::F32 | Kind::F64 if random.below(3) > 0 => {
                let Some(f) = self.format() else { return bits };
                let exponent = (f.one() >> (f.precision - 1)) + random.below(24) - 12;
                let fraction = bits & ((1 << (f.precision - 1)) - 1);
                bits & f.sign_bit() | exponent << (f.precision - 1) | fraction
            }
            _ => bits,
        }
    }
}

type Model = Box<dyn Fn(&[u64]) -> u64>;
type Check = Box<dyn Fn(&[u64], u64) -> Result<(), String>>;

enum Expect {
    Bits(Model),
    Checked(Check),
}

/// An instruction, or several, from `%a %b %c %e` to `%d`.
///
/// Free registers: `%t0`–`%t7` of 32 bits, `%u0`–`%u7` of 64, `%h0`–`%h7` of 16, `%q0`–`%q7` predicates.
pub struct Row {
    text: String,
    dst: Kind,
    src: Vec<Kind>,
    /// Declarations that the statements need.
    declare: String,
    /// All inputs instead of edges and random ones.
    inputs: Option<Vec<Vec<u64>>>,
    expect: Expect,
}

impl Row {
    /// A row whose result is what the model says, bit for bit.
    pub fn new<const N: usize>(
        text: &str,
        dst: Kind,
        src: [Kind; N],
        model: impl Fn([u64; N]) -> u64 + 'static,
    ) -> Row {
        let model = move |inputs: &[u64]| model(inputs.try_into().expect("as many as sources"));
        let expect = Expect::Bits(Box::new(model));
        Row {
            text: text.to_owned(),
            dst,
            src: src.to_vec(),
            declare: String::new(),
            inputs: None,
            expect,
        }
    }

    /// A row whose result a function judges.
    pub fn checked<const N: usize>(
        text: &str,
        dst: Kind,
        src: [Kind; N],
        check: impl Fn([u64; N], u64) -> Result<(), String> + 'static,
    ) -> Row {
        let check = move |inputs: &[u64], result: u64| {
            check(inputs.try_into().expect("as many as sources"), result)
        };
        let expect = Expect::Checked(Box::new(check));
        Row {
            text: text.to_owned(),
            dst,
            src: src.to_vec(),
            declare: String::new(),
            inputs: None,
            expect,
        }
    }

    /// Every value of the 16-bit source.
    pub fn all16(mut self) -> Row {
        assert!(self.src.len() == 1);
        self.inputs = Some((0..=0xffff).map(|x| vec![x]).collect());
        self
    }

    /// Declares variables for the statements.
    pub fn declaring(mut self, text: &str) -> Row {
        self.declare = text.to_owned();
        self
    }

    /// These inputs.
    pub fn with(mut self, inputs: Vec<Vec<u64>>) -> Row {
        self.inputs = Some(inputs);
        self
    }

    fn cases(&self, random: &mut Random) -> Vec<Vec<u64>> {
        if let Some(inputs) = &self.inputs {
            return inputs.clone();
        }
        let edges: Vec<_> = self.src.iter().map(|k| k.edges()).collect();
        let mut cases = Vec::new();
        let all: usize = edges.iter().map(Vec::len).product();
        if all <= 2048 {
            for mut index in 0..all {
                let mut case = Vec::new();
                for list in &edges {
                    case.push(list[index % list.len()]);
                    index /= list.len();
                }
                cases.push(case);
            }
        } else {
            for _ in 0..2048 {
                let pick = |list: &Vec<u64>| list[random.below(list.len() as u64) as usize];
                cases.push(edges.iter().map(pick).collect());
            }
        }
        for _ in 0..4096 {
            let mixed = random.below(8) == 0;
            let value = |(kind, list): (&Kind, &Vec<u64>)| {
                if mixed && random.below(2) == 0 {
                    list[random.below(list.len() as u64) as usize]
                } else {
                    kind.random(random)
                }
            };
            cases.push(self.src.iter().zip(&edges).map(value).collect());
        }
        cases
    }

    fn kernel(&self, name: &str) -> String {
        let names = ["%a", "%b", "%c", "%e"];
        let stride = 8 * self.src.len();
        let mut text = format!(
            ".visible .entry {name}(.param .u64 in, .param .u64 out, .param .u64 mask)\n{{\n\
             .reg .b32 %i<8>; .reg .b64 %w<8>; .reg .pred %g; .reg .b32 %t<8>; .reg .b64 %u<8>;\n\
             .reg .b16 %h<8>; .reg .pred %q<8>; .reg {} %d;\n\
             mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x;\n\
             mad.lo.u32 %i3, %i0, %i1, %i2;\n\
             ld.param.u64 %w0, [in]; ld.param.u64 %w1, [out]; ld.param.u64 %w2, [mask];\n\
             mul.wide.u32 %w3, %i3, {stride}; add.s64 %w3, %w0, %w3;\n\
             mul.wide.u32 %w4, %i3, 8; add.s64 %w4, %w1, %w4;\n\
             mul.wide.u32 %w5, %i3, 4; add.s64 %w5, %w2, %w5;\n\
             ld.global.u32 %i4, [%w5]; setp.ne.u32 %g, %i4, 0;\n",
            self.dst.register()
        );
        text.push_str(&self.declare);
        text.push('\n');
        for (at, (kind, name)) in self.src.iter().zip(names).enumerate() {
            let offset = 8 * at;
            let register = kind.register();
            writeln!(text, ".reg {register} {name};").expect("a string");
            if *kind == Kind::Pred {
                writeln!(text, "ld.global.u32 %i5, [%w3+{offset}]; setp.ne.u32 {name}, %i5, 0;")
            } else {
                writeln!(text, "ld.global{register} {name}, [%w3+{offset}];")
            }
            .expect("a string");
        }
        match self.dst.bits() {
            1 => text.push_str("setp.eq.u32 %d, 0, 0;\n"),
            bits => writeln!(text, "mov.b{bits} %d, {};", poison(self.dst)).expect("a string"),
        }
        for statement in self.text.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            writeln!(text, "@%g {statement};").expect("a string");
        }
        match self.dst.bits() {
            1 => text.push_str("selp.u32 %i6, 1, 0, %d; st.global.u32 [%w4], %i6;\n"),
            bits => writeln!(text, "st.global.b{bits} [%w4], %d;").expect("a string"),
        }
        text.push_str("ret;\n}\n");
        text
    }
}

/// What a lane holds that does not execute the row.
fn poison(kind: Kind) -> u64 {
    if kind == Kind::Pred { 1 } else { 0x5a5a_a5a5_1234_4321 & kind.mask() }
}

/// Runs rows at every level, with full and with random masks. Panics with all that differs.
pub fn check(target: &str, rows: &[Row]) {
    let mut text = format!(".version 8.7\n.target {target}\n.address_size 64\n");
    for (i, row) in rows.iter().enumerate() {
        text.push_str(&row.kernel(&format!("row{i}")));
    }
    let machine = Machine::new(&text);
    let mut random = Random::new(rows.len() as u64);
    let mut failures = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cases = row.cases(&mut random);
        for level in levels() {
            if let Err(why) = row.run(&machine, &format!("row{i}"), level, &cases, &mut random) {
                writeln!(failures, "{} at {level:?}: {why}", row.text).expect("a string");
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
#[should_panic(expected = "add.u32 %d, %a, %b; at Base: full masks")]
fn a_wrong_model_is_found() {
    check("sm_80", &[Row::new("add.u32 %d, %a, %b;", Kind::I32, [Kind::I32; 2], |[a, b]| a | b)]);
}

/// Threads of a block: three warps and a part of one.
const BLOCK: usize = 100;

impl Row {
    fn run(
        &self,
        machine: &Machine,
        kernel: &str,
        level: Level,
        cases: &[Vec<u64>],
        random: &mut Random,
    ) -> Result<(), String> {
        let blocks = cases.len().div_ceil(BLOCK);
        let threads = blocks * BLOCK;
        let case = |i: usize| &cases[i % cases.len()];
        let inputs: Vec<u8> =
            (0..threads).flat_map(|i| case(i).iter().flat_map(|x| x.to_le_bytes())).collect();
        for full in [true, false] {
            let on: Vec<bool> = (0..threads).map(|_| full || random.below(2) == 0).collect();
            let mask: Vec<u8> = on.iter().flat_map(|on| u32::from(*on).to_le_bytes()).collect();
            let [input, output, mask] = [
                machine.upload(&inputs),
                machine.upload(&vec![0; threads * 8]),
                machine.upload(&mask),
            ];
            let params: Vec<u8> =
                [input, output, mask].iter().flat_map(|p: &u64| p.to_le_bytes()).collect();
            let launched = machine.launch(
                level,
                kernel,
                [blocks as u32, 1, 1],
                [BLOCK as u32, 1, 1],
                0,
                &params,
            );
            let results = machine.download(output, threads * 8);
            [input, output, mask].into_iter().for_each(|p| machine.free(p));
            launched?;
            let mut wrong = Vec::new();
            for (i, bytes) in results.chunks_exact(8).enumerate() {
                let got = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
                if let Err(why) = self.judge(on[i], case(i), got) {
                    wrong.push(format!("{:x?} gives {got:#x}: {why}", case(i)));
                }
            }
            if !wrong.is_empty() {
                let masks = if full { "full" } else { "random" };
                let some = wrong.iter().take(4).cloned().collect::<Vec<_>>().join("; ");
                return Err(format!("{masks} masks, {} of {threads} wrong: {some}", wrong.len()));
            }
        }
        Ok(())
    }

    fn judge(&self, on: bool, inputs: &[u64], got: u64) -> Result<(), String> {
        let equal = |expected: u64| {
            if got == expected { Ok(()) } else { Err(format!("expected {expected:#x}")) }
        };
        match &self.expect {
            _ if !on => equal(poison(self.dst)).map_err(|e| format!("not executed, {e}")),
            Expect::Bits(model) => equal(model(inputs) & self.dst.mask()),
            Expect::Checked(check) => check(inputs, got),
        }
    }
}
