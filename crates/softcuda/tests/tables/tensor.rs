//! Matrix instructions: layouts by unit matrices, integers against plain products, floats by the
//! order that softcuda defines; ldmatrix; asynchronous copies.

use std::fmt::Write as _;

use softcuda::exec::{CopyMode, Level};

use super::exact::{self, BF16, F16, F32, F64, Format, Mode};
use super::harness::{Kind, Random};
use super::machine::{Machine, levels};

/// An element type of A and B.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    Float(Format),
    Tf32,
    Int { signed: bool },
}

/// A shape of `mma`, with the maps of the fragments.
#[derive(Clone, Copy)]
struct Shape {
    text: &'static str,
    m: usize,
    n: usize,
    k: usize,
    element: Element,
    /// Bits of an element of A and B.
    bits: usize,
    /// Registers of A, B, C.
    registers: [usize; 3],
    accumulator: Accumulator,
}

#[derive(Clone, Copy, PartialEq)]
enum Accumulator {
    F32,
    F16,
    F64,
    S32 { saturate: bool },
}

/// Place of an element of A in the fragment: register, bit, lane.
fn place_a(s: &Shape, row: usize, k: usize) -> (usize, usize, usize) {
    let per = 32 / s.bits.min(32);
    let (g, upper) = (row % 8, row / 8);
    // Registers hold `per` neighbours along k; four lanes share a row of 4·per elements.
    let (chunk, inside) = (k / (4 * per), k % (4 * per));
    let (t, element) = (inside / per, inside % per);
    let halves = s.m / 8;
    (chunk * halves + upper, element * s.bits, 4 * g + t)
}

fn place_b(s: &Shape, k: usize, col: usize) -> (usize, usize, usize) {
    let per = 32 / s.bits.min(32);
    let (chunk, inside) = (k / (4 * per), k % (4 * per));
    (chunk, inside % per * s.bits, 4 * col + inside / per)
}

/// Place of an element of C and D.
fn place_c(s: &Shape, row: usize, col: usize) -> (usize, usize, usize) {
    let (g, upper, t, odd) = (row % 8, row / 8, col / 2, col % 2);
    match s.accumulator {
        Accumulator::F16 => (upper, 16 * odd, 4 * g + t),
        _ => (2 * upper + odd, 0, 4 * g + t),
    }
}

const fn shape(
    text: &'static str,
    mnk: [usize; 3],
    element: Element,
    bits: usize,
    registers: [usize; 3],
) -> Shape {
    let [m, n, k] = mnk;
    Shape { text, m, n, k, element, bits, registers, accumulator: Accumulator::F32 }
}

fn shapes() -> Vec<Shape> {
    let (f16, bf16) = (Element::Float(F16), Element::Float(BF16));
    let (s8, u8) = (Element::Int { signed: true }, Element::Int { signed: false });
    let mut all = vec![
        shape("m16n8k16.row.col.f32.bf16.bf16.f32", [16, 8, 16], bf16, 16, [4, 2, 4]),
        shape("m16n8k16.row.col.f32.f16.f16.f32", [16, 8, 16], f16, 16, [4, 2, 4]),
        shape("m16n8k8.row.col.f32.bf16.bf16.f32", [16, 8, 8], bf16, 16, [2, 1, 4]),
        shape("m16n8k8.row.col.f32.f16.f16.f32", [16, 8, 8], f16, 16, [2, 1, 4]),
        shape("m16n8k8.row.col.f32.tf32.tf32.f32", [16, 8, 8], Element::Tf32, 32, [4, 2, 4]),
        shape("m16n8k4.row.col.f32.tf32.tf32.f32", [16, 8, 4], Element::Tf32, 32, [2, 1, 4]),
    ];
    for (text, k) in
        [("m16n8k16.row.col.f16.f16.f16.f16", 16), ("m16n8k8.row.col.f16.f16.f16.f16", 8)]
    {
        let registers = if k == 16 { [4, 2, 2] } else { [2, 1, 2] };
        let one = shape(text, [16, 8, k], f16, 16, registers);
        all.push(Shape { accumulator: Accumulator::F16, ..one });
    }
    for (text, k, element, saturate) in [
        ("m16n8k32.row.col.s32.s8.s8.s32", 32, s8, false),
        ("m16n8k32.row.col.s32.u8.u8.s32", 32, u8, false),
        ("m16n8k32.row.col.satfinite.s32.s8.s8.s32", 32, s8, true),
        ("m16n8k16.row.col.s32.s8.s8.s32", 16, s8, false),
        ("m16n8k16.row.col.s32.u8.u8.s32", 16, u8, false),
    ] {
        let registers = if k == 32 { [4, 2, 4] } else { [2, 1, 4] };
        let one = shape(text, [16, 8, k], element, 8, registers);
        all.push(Shape { accumulator: Accumulator::S32 { saturate }, ..one });
    }
    let one =
        shape("m8n8k4.row.col.f64.f64.f64.f64", [8, 8, 4], Element::Float(F64), 64, [1, 1, 2]);
    all.push(Shape { accumulator: Accumulator::F64, ..one });
    all
}

/// The matrices of one `mma`, elements as bits.
struct Problem {
    a: Vec<Vec<u64>>,
    b: Vec<Vec<u64>>,
    c: Vec<Vec<u64>>,
}

/// Bytes of a register of C, and of A and B.
fn widths(s: &Shape) -> (usize, usize) {
    (if s.accumulator == Accumulator::F64 { 8 } else { 4 }, if s.bits == 64 { 8 } else { 4 })
}

fn kernel(s: &Shape) -> String {
    let list = |name: &str, count: usize| {
        let all: Vec<_> = (0..count).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", all.join(", "))
    };
    let [na, nb, nc] = s.registers;
    let (wc, wab) = widths(s);
    let (rc, rab) = (format!(".b{}", 8 * wc), format!(".b{}", 8 * wab));
    let mut text = format!(
        ".version 8.4 .target sm_89 .address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)
{{ .reg .b32 %i<8>; .reg .b64 %w<8>; .reg {rab} %a<4>, %b<4>; .reg {rc} %c<4>;
 mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x; mad.lo.u32 %i3, %i0, %i1, %i2;
 ld.param.u64 %w0, [a]; ld.param.u64 %w1, [b]; ld.param.u64 %w2, [c];
 mul.wide.u32 %w3, %i3, {}; add.u64 %w0, %w0, %w3; mul.wide.u32 %w3, %i3, {}; add.u64 %w1, %w1, %w3;
 mul.wide.u32 %w3, %i3, {}; add.u64 %w2, %w2, %w3;\n",
        na * wab,
        nb * wab,
        nc * wc
    );
    for (name, base, count, width, ty) in
        [("a", "%w0", na, wab, &rab), ("b", "%w1", nb, wab, &rab), ("c", "%w2", nc, wc, &rc)]
    {
        for i in 0..count {
            writeln!(text, " ld.global{ty} %{name}{i}, [{base}+{}];", i * width).expect("a string");
        }
    }
    let (a, b, c) = (list("a", na), list("b", nb), list("c", nc));
    writeln!(text, " mma.sync.aligned.{} {c}, {a}, {b}, {c};", s.text).expect("a string");
    for i in 0..nc {
        writeln!(text, " st.global{rc} [%w2+{}], %c{i};", i * wc).expect("a string");
    }
    text.push_str(" ret; }\n");
    text
}

/// Puts elements into fragments: `registers` of `width` bytes for each of 32 lanes.
fn pack(
    place: impl Fn(usize, usize) -> (usize, usize, usize),
    matrix: &[Vec<u64>],
    registers: usize,
    width: usize,
) -> Vec<u8> {
    let mut words = vec![0u64; registers * 32];
    for (i, row) in matrix.iter().enumerate() {
        for (j, bits) in row.iter().enumerate() {
            let (register, bit, lane) = place(i, j);
            words[lane * registers + register] |= bits << bit;
        }
    }
    words.iter().flat_map(|w| w.to_le_bytes()[..width].to_vec()).collect()
}

/// Runs each problem in its own warp, returns the matrices D.
fn run(machine: &Machine, s: &Shape, level: Level, problems: &[Problem]) -> Vec<Vec<Vec<u64>>> {
    let [na, nb, nc] = s.registers;
    let (wc, wab) = widths(s);
    let gather =
        |f: &dyn Fn(&Problem) -> Vec<u8>| -> Vec<u8> { problems.iter().flat_map(f).collect() };
    let a = machine.upload(&gather(&|p| pack(|i, k| place_a(s, i, k), &p.a, na, wab)));
    let b = machine.upload(&gather(&|p| pack(|k, j| place_b(s, k, j), &p.b, nb, wab)));
    let c = machine.upload(&gather(&|p| pack(|i, j| place_c(s, i, j), &p.c, nc, wc)));
    let params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.to_le_bytes()).collect();
    let launched =
        machine.launch(level, "k", [problems.len() as u32, 1, 1], [32, 1, 1], 0, &params);
    launched.unwrap_or_else(|why| panic!("{}: {why}", s.text));
    let bytes = machine.download(c, problems.len() * 32 * nc * wc);
    [a, b, c].into_iter().for_each(|p| machine.free(p));
    bytes
        .chunks_exact(32 * nc * wc)
        .map(|warp| {
            let element = |i: usize, j: usize| {
                let (register, bit, lane) = place_c(s, i, j);
                let mut word = [0; 8];
                let at = (lane * nc + register) * wc;
                word[..wc].copy_from_slice(&warp[at..at + wc]);
                let word = u64::from_le_bytes(word) >> bit;
                if s.accumulator == Accumulator::F16 { word & 0xffff } else { word }
            };
            (0..s.m).map(|i| (0..s.n).map(|j| element(i, j)).collect()).collect()
        })
        .collect()
}

/// The bits of a small integer as an element of A or B, and of C.
fn element(s: &Shape, value: i64) -> u64 {
    match s.element {
        Element::Float(format) => format.encode(&exact::Value::integer(value.into()), Mode::Rn),
        Element::Tf32 => F32.encode(&exact::Value::integer(value.into()), Mode::Rn),
        Element::Int { .. } => value as u64 & 0xff,
    }
}

fn accumulated(s: &Shape, value: i64) -> u64 {
    let encode = |format: Format| format.encode(&exact::Value::integer(value.into()), Mode::Rn);
    match s.accumulator {
        Accumulator::F32 => encode(F32),
        Accumulator::F16 => encode(F16),
        Accumulator::F64 => encode(F64),
        Accumulator::S32 { .. } => value as u32 as u64,
    }
}

fn zeros(rows: usize, columns: usize) -> Vec<Vec<u64>> {
    vec![vec![0; columns]; rows]
}

#[test]
fn unit_matrices_show_the_layout() {
    for s in shapes() {
        let machine = Machine::new(&kernel(&s));
        let mut problems = Vec::new();
        let mut wanted = Vec::new();
        for i in 0..s.m {
            for k in 0..s.k {
                for j in 0..s.n {
                    // The other k of B shows that nothing else is summed.
                    for (kb, hit) in [(k, true), ((k + 1) % s.k, false)] {
                        if !hit && (i + j) % 4 != 0 {
                            continue;
                        }
                        let mut p =
                            Problem { a: zeros(s.m, s.k), b: zeros(s.k, s.n), c: zeros(s.m, s.n) };
                        p.a[i][k] = element(&s, 1);
                        p.b[kb][j] = element(&s, 1);
                        problems.push(p);
                        wanted.push((i, j, hit));
                    }
                }
            }
        }
        let level = Level::detect();
        for ((i, j, hit), d) in wanted.into_iter().zip(run(&machine, &s, level, &problems)) {
            let mut expected = zeros(s.m, s.n);
            expected[i][j] = if hit { accumulated(&s, 1) } else { 0 };
            assert_eq!(d, expected, "{} D[{i}][{j}]", s.text);
        }
    }
}

#[test]
fn small_integers_are_exact() {
    let mut random = Random::new(3);
    for s in shapes() {
        let machine = Machine::new(&kernel(&s));
        let signed = s.element != Element::Int { signed: false };
        let mut value =
            |bound: u64| random.below(2 * bound + 1) as i64 - if signed { bound as i64 } else { 0 };
        let mut matrix = |rows: usize, columns: usize, bound: u64| -> Vec<Vec<i64>> {
            (0..rows).map(|_| (0..columns).map(|_| value(bound)).collect()).collect()
        };
        let plain: Vec<_> = (0..20)
            .map(|_| (matrix(s.m, s.k, 6), matrix(s.k, s.n, 6), matrix(s.m, s.n, 50)))
            .collect();
        let map = |m: &Vec<Vec<i64>>, f: &dyn Fn(i64) -> u64| -> Vec<Vec<u64>> {
            m.iter().map(|row| row.iter().map(|x| f(*x)).collect()).collect()
        };
        let problems: Vec<_> = plain
            .iter()
            .map(|(a, b, c)| Problem {
                a: map(a, &|x| element(&s, x)),
                b: map(b, &|x| element(&s, x)),
                c: map(c, &|x| accumulated(&s, x)),
            })
            .collect();
        for level in levels() {
            for ((a, b, c), d) in plain.iter().zip(run(&machine, &s, level, &problems)) {
                let product = |i: usize, j: usize| -> i64 {
                    (0..s.k).map(|k| a[i][k] * b[k][j]).sum::<i64>() + c[i][j]
                };
                let expected: Vec<Vec<u64>> = (0..s.m)
                    .map(|i| (0..s.n).map(|j| accumulated(&s, product(i, j))).collect())
                    .collect();
                assert_eq!(d, expected, "{} at {level:?}", s.text);
            }
        }
    }
}

/// One element of D by the definition of the README.
fn defined(s: &Shape, a: &[u64], b: &[u64], c: u64) -> u64 {
    let f32_chain = |format: Format, start: u64| {
        let wide = |x: u64| exact::convert(format, F32, Mode::Rn, x);
        let mut sum = start;
        for pair in 0..s.k / 2 {
            for k in [2 * pair + 1, 2 * pair] {
                sum = exact::fma(F32, Mode::Rn, wide(a[k]), wide(b[k]), sum);
            }
        }
        sum
    };
    match (s.element, s.accumulator) {
        (Element::Float(F64), _) => {
            (0..s.k).fold(c, |sum, k| exact::fma(F64, Mode::Rn, a[k], b[k], sum))
        }
        (Element::Float(format), Accumulator::F16) => exact::convert(
            F32,
            F16,
            Mode::Rn,
            f32_chain(format, exact::convert(F16, F32, Mode::Rn, c)),
        ),
        (Element::Float(format), _) => {
            let sum = f32_chain(format, c);
            if F32.is_nan(sum) { F32.nan() } else { sum }
        }
        (Element::Tf32, _) => {
            let cut = |x: u64| x & !0x1fff;
            (0..s.k).fold(c, |sum, k| exact::fma(F32, Mode::Rn, cut(a[k]), cut(b[k]), sum))
        }
        (Element::Int { signed }, accumulator) => {
            let read = |x: u64| if signed { i64::from(x as u8 as i8) } else { x as u8 as i64 };
            let sum =
                i64::from(c as u32 as i32) + (0..s.k).map(|k| read(a[k]) * read(b[k])).sum::<i64>();
            match accumulator {
                Accumulator::S32 { saturate: true } => {
                    sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 as u64
                }
                _ => sum as u32 as u64,
            }
        }
    }
}

#[test]
fn random_values_follow_the_defined_order() {
    let mut random = Random::new(17);
    for s in shapes() {
        let machine = Machine::new(&kernel(&s));
        let kind = match s.element {
            Element::Float(F64) => Kind::F64,
            Element::Float(F16) => Kind::F16,
            Element::Float(_) => Kind::Bf16,
            Element::Tf32 => Kind::F32,
            Element::Int { .. } => Kind::I32,
        };
        let kind_c = match s.accumulator {
            Accumulator::F32 => Kind::F32,
            Accumulator::F16 => Kind::F16,
            Accumulator::F64 => Kind::F64,
            Accumulator::S32 { .. } => Kind::I32,
        };
        let mut problems = Vec::new();
        for round in 0..24 {
            // Moderate numbers, any bits, edge values; sums near the limits of i32.
            let mut value = |kind: Kind| match round % 3 {
                0 => kind.random(&mut random),
                1 => random.next(),
                _ => {
                    let edges = kind.edges();
                    if random.below(3) == 0 {
                        edges[random.below(edges.len() as u64) as usize]
                    } else {
                        kind.random(&mut random)
                    }
                }
            };
            let mut matrix =
                |rows: usize, columns: usize, kind: Kind, bits: usize| -> Vec<Vec<u64>> {
                    let mask = u64::MAX >> (64 - bits);
                    (0..rows).map(|_| (0..columns).map(|_| value(kind) & mask).collect()).collect()
                };
            let bits_c = kind_c.bits() as usize;
            problems.push(Problem {
                a: matrix(s.m, s.k, kind, s.bits),
                b: matrix(s.k, s.n, kind, s.bits),
                c: matrix(s.m, s.n, kind_c, bits_c),
            });
        }
        for level in levels() {
            for (p, d) in problems.iter().zip(run(&machine, &s, level, &problems)) {
                for (i, row) in d.iter().enumerate() {
                    for (j, got) in row.iter().enumerate() {
                        let column: Vec<u64> = (0..s.k).map(|k| p.b[k][j]).collect();
                        let expected = defined(&s, &p.a[i], &column, p.c[i][j]);
                        assert_eq!(
                            *got, expected,
                            "{} D[{i}][{j}] at {level:?}: {:x?} · {column:x?} + {:#x}",
                            s.text, p.a[i], p.c[i][j]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn ldmatrix_reads_rows_and_columns() {
    for (count, trans) in [(1usize, false), (2, false), (4, false), (1, true), (2, true), (4, true)]
    {
        let list: Vec<_> = (0..count).map(|i| format!("%d{i}")).collect();
        let suffix = if trans { ".trans" } else { "" };
        let stores: String =
            (0..count).map(|i| format!("st.global.u32 [%w2+{}], %d{i}; ", 4 * i)).collect();
        // Rows are 48 bytes apart; lane l names row `perm[l]`.
        let text = format!(
            ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 rows, .param .u64 out) {{ .reg .b32 %i<8>, %d<4>; .reg .b64 %w<8>; .reg .b16 %h; .reg .pred %p;
 .shared .align 16 .b8 pad[32]; .shared .align 16 .b8 s[1536];
 ld.param.u64 %w0, [rows]; ld.param.u64 %w1, [out]; mov.u32 %i0, %tid.x; mov.u32 %i2, 0; mov.u32 %i3, s; shl.b32 %i4, %i0, 1; add.u32 %i3, %i3, %i4;
FILL: cvt.u16.u32 %h, %i2; mov.u32 %i5, %tid.x; cvt.u32.u16 %i6, %h; add.u32 %i6, %i6, %i5; cvt.u16.u32 %h, %i6; st.shared.u16 [%i3], %h;
 add.u32 %i3, %i3, 64; add.u32 %i2, %i2, 32; setp.lt.u32 %p, %i2, 768; @%p bra FILL;
 bar.sync 0;
 mul.wide.u32 %w3, %i0, 4; add.u64 %w0, %w0, %w3; ld.global.u32 %i1, [%w0]; mad.lo.u32 %i1, %i1, 48, 0; mov.u32 %i3, s; add.u32 %i1, %i1, %i3;
 ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {{{}}}, [%i1+16];
 mul.wide.u32 %w3, %i0, {}; add.u64 %w2, %w1, %w3; {stores} ret; }}",
            list.join(", "),
            4 * count
        );
        let machine = Machine::new(&text);
        let mut random = Random::new(9);
        for level in levels() {
            let rows: Vec<u32> = (0..32).map(|_| random.below(31) as u32).collect();
            let bytes: Vec<u8> = rows.iter().flat_map(|r| r.to_le_bytes()).collect();
            let (input, out) = (machine.upload(&bytes), machine.upload(&vec![0; 128 * count]));
            let params: Vec<u8> = [input, out].iter().flat_map(|p| p.to_le_bytes()).collect();
            machine
                .launch(level, "k", [1, 1, 1], [32, 1, 1], 0, &params)
                .unwrap_or_else(|e| panic!("{e}"));
            let words = machine.words(out, 32 * count);
            // Half h of the row named by lane l: the fill is the index of each half in `s`.
            let half = |lane: usize, h: usize| rows[lane] * 24 + 8 + h as u32;
            for lane in 0..32 {
                for i in 0..count {
                    let (g, t) = (lane / 4, lane % 4);
                    let [low, high] = [0, 1].map(|h| {
                        if trans { half(8 * i + 2 * t + h, g) } else { half(8 * i + g, 2 * t + h) }
                    });
                    assert_eq!(
                        words[lane * count + i],
                        low | high << 16,
                        "x{count}{suffix} register {i} lane {lane} at {level:?}"
                    );
                }
            }
        }
    }
}

/// A kernel whose threads copy `size` bytes each and read before and after the wait.
fn copy_kernel(copy: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) {{ .reg .b32 %i<8>, %v<4>, %x<4>, %n; .reg .b64 %w<8>; .reg .pred %p;
 .shared .align 16 .b8 s[512];
 ld.param.u64 %w0, [in]; ld.param.u64 %w1, [out]; mov.u32 %i0, %tid.x; mul.wide.u32 %w3, %i0, 16; add.u64 %w0, %w0, %w3;
 mul.wide.u32 %w3, %i0, 32; add.u64 %w1, %w1, %w3; mov.u32 %i1, s; shl.b32 %i2, %i0, 4; add.u32 %i1, %i1, %i2;
 st.shared.v4.u32 [%i1], {{%i0, %i0, %i0, %i0}}; and.b32 %n, %i0, 15; setp.lt.u32 %p, %i0, 9;
 {copy}
 ld.shared.v4.u32 {{%v0, %v1, %v2, %v3}}, [%i1];
 cp.async.commit_group; cp.async.wait_group 0;
 ld.shared.v4.u32 {{%x0, %x1, %x2, %x3}}, [%i1];
 st.global.v4.u32 [%w1], {{%v0, %v1, %v2, %v3}}; st.global.v4.u32 [%w1+16], {{%x0, %x1, %x2, %x3}}; ret; }}"
    )
}

#[test]
fn asynchronous_copies_land_at_the_wait() {
    // Instruction, bytes written, bytes of them that come from the source by lane.
    let cases: [(&str, usize, fn(usize) -> usize); 8] = [
        ("cp.async.ca.shared.global [%i1], [%w0], 4;", 4, |_| 4),
        ("cp.async.ca.shared.global [%i1+8], [%w0+8], 8;", 8, |_| 8),
        ("cp.async.ca.shared.global.L2::128B [%i1], [%w0], 16;", 16, |_| 16),
        ("cp.async.cg.shared.global [%i1], [%w0], 16;", 16, |_| 16),
        ("cp.async.cg.shared.global.L2::256B [%i1], [%w0], 16, %n;", 16, |lane| lane % 16),
        ("cp.async.cg.shared.global [%i1], [%w0], 16, 0;", 16, |_| 0),
        ("cp.async.ca.shared.global [%i1], [%w0], 4, %p;", 4, |lane| if lane < 9 { 0 } else { 4 }),
        ("@%p cp.async.ca.shared.global [%i1], [%w0], 16;", 16, |lane| {
            if lane < 9 { 16 } else { usize::MAX }
        }),
    ];
    for (copy, size, from) in cases {
        for mode in [CopyMode::Strict, CopyMode::Eager] {
            let mut machine = Machine::new(&copy_kernel(copy));
            machine.settings.copies = mode;
            for level in levels() {
                let source: Vec<u8> = (0..512).map(|i| (i * 7 + 3) as u8).collect();
                let (input, out) = (machine.upload(&source), machine.upload(&[0; 1024]));
                let params: Vec<u8> = [input, out].iter().flat_map(|p| p.to_le_bytes()).collect();
                machine
                    .launch(level, "k", [1, 1, 1], [32, 1, 1], 0, &params)
                    .unwrap_or_else(|e| panic!("{e}"));
                let result = machine.download(out, 1024);
                for lane in 0..32 {
                    let before: Vec<u8> =
                        [lane as u32; 4].iter().flat_map(|w| w.to_le_bytes()).collect();
                    let (mut after, mut pending) = (before.clone(), before.clone());
                    let first = if size == 8 { 8 } else { 0 };
                    if from(lane) != usize::MAX {
                        for byte in first..first + size {
                            let copied = byte - first < from(lane);
                            after[byte] = if copied { source[16 * lane + byte] } else { 0 };
                            pending[byte] = 0xff;
                        }
                    }
                    let early = if mode == CopyMode::Eager { &after } else { &pending };
                    let row = &result[32 * lane..32 * lane + 32];
                    assert_eq!(
                        (&row[..16], &row[16..]),
                        (&early[..], &after[..]),
                        "{copy} lane {lane} {mode:?} at {level:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn wait_group_counts_groups() {
    let text = ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) { .reg .b32 %i<8>, %v; .reg .b64 %w<8>; .shared .align 16 .b8 s[64];
 ld.param.u64 %w0, [in]; ld.param.u64 %w1, [out]; mov.u32 %i1, s;
 cp.async.ca.shared.global [%i1], [%w0], 4; cp.async.commit_group;
 cp.async.ca.shared.global [%i1+4], [%w0+4], 4; cp.async.ca.shared.global [%i1+8], [%w0+8], 4; cp.async.commit_group;
 cp.async.commit_group;
 cp.async.ca.shared.global [%i1+12], [%w0+12], 4;
 cp.async.wait_group 2; ld.shared.u32 %v, [%i1]; st.global.u32 [%w1], %v; ld.shared.u32 %v, [%i1+4]; st.global.u32 [%w1+4], %v;
 cp.async.wait_group 1; ld.shared.u32 %v, [%i1+8]; st.global.u32 [%w1+8], %v; ld.shared.u32 %v, [%i1+12]; st.global.u32 [%w1+12], %v;
 cp.async.wait_group 0; ld.shared.u32 %v, [%i1+12]; st.global.u32 [%w1+16], %v;
 cp.async.wait_all; ld.shared.u32 %v, [%i1+12]; st.global.u32 [%w1+20], %v; ret; }";
    let machine = Machine::new(text);
    for level in levels() {
        let bytes: Vec<u8> = [1u32, 2, 3, 4].iter().flat_map(|w| w.to_le_bytes()).collect();
        let (input, out) = (machine.upload(&bytes), machine.upload(&[0; 24]));
        let params: Vec<u8> = [input, out].iter().flat_map(|p| p.to_le_bytes()).collect();
        machine
            .launch(level, "k", [1, 1, 1], [1, 1, 1], 0, &params)
            .unwrap_or_else(|e| panic!("{e}"));
        let pending = u32::MAX;
        assert_eq!(machine.words(out, 6), [1, pending, 3, pending, pending, 4], "{level:?}");
    }
}
