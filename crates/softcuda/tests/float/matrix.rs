//! `mma.sync` and `ldmatrix`: where each element lies, the order of sums, every level.

use half::f16;
use softcuda::exec::CopyMode;
use softcuda::fault::FaultKind;

use super::harness::{Rng, any32, launch, levels};

/// A shape: PTX name, types, k, elements in a word, registers of A, B and C.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    depth: usize,
    per_word: usize,
    registers: (usize, usize, usize),
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bf16,
    F16,
    F16Sum,
    Tf32,
    S8,
    U8,
    MixedClamp,
    E4m3,
}

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    Shape { name: "m16n8k16.row.col.f32.bf16.bf16.f32", depth: 16, per_word: 2, registers: (4, 2, 4), kind: Kind::Bf16 },
    Shape { name: "m16n8k8.row.col.f32.bf16.bf16.f32", depth: 8, per_word: 2, registers: (2, 1, 4), kind: Kind::Bf16 },
    Shape { name: "m16n8k16.row.col.f32.f16.f16.f32", depth: 16, per_word: 2, registers: (4, 2, 4), kind: Kind::F16 },
    Shape { name: "m16n8k8.row.col.f32.f16.f16.f32", depth: 8, per_word: 2, registers: (2, 1, 4), kind: Kind::F16 },
    Shape { name: "m16n8k16.row.col.f16.f16.f16.f16", depth: 16, per_word: 2, registers: (4, 2, 2), kind: Kind::F16Sum },
    Shape { name: "m16n8k8.row.col.f16.f16.f16.f16", depth: 8, per_word: 2, registers: (2, 1, 2), kind: Kind::F16Sum },
    Shape { name: "m16n8k8.row.col.f32.tf32.tf32.f32", depth: 8, per_word: 1, registers: (4, 2, 4), kind: Kind::Tf32 },
    Shape { name: "m16n8k4.row.col.f32.tf32.tf32.f32", depth: 4, per_word: 1, registers: (2, 1, 4), kind: Kind::Tf32 },
    Shape { name: "m16n8k32.row.col.s32.s8.s8.s32", depth: 32, per_word: 4, registers: (4, 2, 4), kind: Kind::S8 },
    Shape { name: "m16n8k16.row.col.s32.u8.u8.s32", depth: 16, per_word: 4, registers: (2, 1, 4), kind: Kind::U8 },
    Shape { name: "m16n8k32.row.col.satfinite.s32.s8.u8.s32", depth: 32, per_word: 4, registers: (4, 2, 4), kind: Kind::MixedClamp },
    Shape { name: "m16n8k32.row.col.f32.e4m3.e4m3.f32", depth: 32, per_word: 4, registers: (4, 2, 4), kind: Kind::E4m3 },
];

type A = [[u32; 32]; 16];
type B = [[u32; 8]; 32];
type C = [[u32; 8]; 16];

/// One product; elements are raw bits.
#[derive(Clone)]
struct Tile {
    a: A,
    b: B,
    c: C,
}

impl Tile {
    fn zero() -> Self {
        Tile { a: [[0; 32]; 16], b: [[0; 8]; 32], c: [[0; 8]; 16] }
    }
}

/// Words of a lane: A, B, C, then D.
const WORDS: usize = 16;

impl Shape {
    /// Row and first k of register `r` of A in a lane.
    fn a_at(&self, lane: usize, r: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        (g + if r % 2 == 1 { 8 } else { 0 }, t * self.per_word + r / 2 * 4 * self.per_word)
    }

    /// First k and column of register `r` of B.
    fn b_at(&self, lane: usize, r: usize) -> (usize, usize) {
        ((lane % 4) * self.per_word + r * 4 * self.per_word, lane / 4)
    }

    /// Row and column of accumulator `i` (0 to 3).
    fn c_at(lane: usize, i: usize) -> (usize, usize) {
        (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
    }

    fn word(&self, elements: impl Fn(usize) -> u32) -> u32 {
        let bits = 32 / self.per_word as u32;
        (0..self.per_word).fold(0, |w, e| w | elements(e) << (bits * e as u32))
    }

    fn pack(&self, tile: &Tile) -> Vec<u8> {
        let mut words = [[0u32; WORDS]; 32];
        for (lane, w) in words.iter_mut().enumerate() {
            for r in 0..self.registers.0 {
                let (row, k) = self.a_at(lane, r);
                w[r] = self.word(|e| tile.a[row][k + e]);
            }
            for r in 0..self.registers.1 {
                let (k, column) = self.b_at(lane, r);
                w[4 + r] = self.word(|e| tile.b[k + e][column]);
            }
            for i in 0..4 {
                let (row, column) = Self::c_at(lane, i);
                if self.kind == Kind::F16Sum {
                    w[6 + i / 2] |= tile.c[row][column] << (16 * (i % 2));
                } else {
                    w[6 + i] = tile.c[row][column];
                }
            }
        }
        words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn unpack(&self, bytes: &[u8]) -> C {
        let word = |lane: usize, i: usize| {
            let at = (lane * WORDS + i) * 4;
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
        };
        let mut d = [[0; 8]; 16];
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = Self::c_at(lane, i);
                d[row][column] = if self.kind == Kind::F16Sum {
                    word(lane, 10 + i / 2) >> (16 * (i % 2)) & 0xffff
                } else {
                    word(lane, 10 + i)
                };
            }
        }
        d
    }

    fn source(&self) -> String {
        let list = |from: usize, n: usize| {
            let names: Vec<String> = (from..from + n).map(|i| format!("%r{i}")).collect();
            format!("{{{}}}", names.join(","))
        };
        let (a, b, c) = self.registers;
        let loads: String =
            (0..10).map(|i| format!("ld.global.b32 %r{i}, [%rd1+{}];\n", 4 * i)).collect();
        let stores: String = (0..c)
            .map(|i| format!("st.global.b32 [%rd1+{}], %r{};\n", 40 + 4 * i, 10 + i))
            .collect();
        format!(
            ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
             .reg .b64 %rd<3>; .reg .b32 %r<20>;\n\
             ld.param.u64 %rd0, [p]; mov.u32 %r18, %tid.x; mov.u32 %r19, %ctaid.x;\n\
             shl.b32 %r19, %r19, 5; add.u32 %r18, %r18, %r19;\n\
             mad.wide.u32 %rd1, %r18, {}, %rd0;\n{loads}\
             mma.sync.aligned.{} {}, {}, {}, {};\n{stores}ret;\n}}\n",
            4 * WORDS,
            self.name,
            list(10, c),
            list(0, a),
            list(4, b),
            list(6, c),
        )
    }

    /// The products of all tiles at every level, which must agree.
    fn run(&self, tiles: &[Tile]) -> Vec<C> {
        let data: Vec<u8> = tiles.iter().flat_map(|t| self.pack(t)).collect();
        let shape = (tiles.len() as u32, 32);
        let mut first: Option<Vec<C>> = None;
        for level in levels() {
            let out = launch(&self.source(), shape, &data, level, CopyMode::Strict);
            let out = out.unwrap_or_else(|f| panic!("{f}"));
            let results: Vec<C> =
                out.chunks_exact(32 * WORDS * 4).map(|bytes| self.unpack(bytes)).collect();
            if let Some(first) = &first {
                for (i, (x, y)) in first.iter().zip(&results).enumerate() {
                    assert_eq!(x, y, "{}: tile {i}: the base level and {level:?}", self.name);
                }
            }
            first.get_or_insert(results);
        }
        first.expect("there is a level")
    }

    /// The bits of a small integer as an element.
    fn element(&self, x: i32) -> u32 {
        match self.kind {
            Kind::Bf16 => (x as f32).to_bits() >> 16,
            Kind::F16 | Kind::F16Sum => f16::from_f32(x as f32).to_bits().into(),
            Kind::Tf32 => (x as f32).to_bits(),
            Kind::S8 | Kind::U8 | Kind::MixedClamp => (x as u8).into(),
            Kind::E4m3 => {
                let magnitude = [0, 0x38, 0x40, 0x44, 0x48][x.unsigned_abs() as usize];
                if x < 0 { magnitude | 0x80 } else { magnitude }
            }
        }
    }

    /// The bits of a small integer as an accumulator.
    fn sum(&self, x: i32) -> u32 {
        match self.kind {
            Kind::F16Sum => f16::from_f32(x as f32).to_bits().into(),
            Kind::S8 | Kind::U8 | Kind::MixedClamp => x as u32,
            _ => (x as f32).to_bits(),
        }
    }
}

#[test]
fn unit_matrices_meet_where_the_fragment_table_says() {
    for shape in SHAPES {
        let mut tiles = Vec::new();
        let mut places = Vec::new();
        for i in 0..16 {
            for k in 0..shape.depth {
                for j in 0..8 {
                    let mut tile = Tile::zero();
                    tile.a[i][k] = shape.element(1);
                    tile.b[k][j] = shape.element(1);
                    tiles.push(tile);
                    places.push((i, j));
                }
            }
        }
        for (d, (i, j)) in shape.run(&tiles).iter().zip(places) {
            let mut want = [[0; 8]; 16];
            want[i][j] = shape.sum(1);
            assert_eq!(*d, want, "{}: unit at ({i}, {j})", shape.name);
        }
    }
}

#[test]
fn small_integers_multiply_exactly() {
    for shape in SHAPES {
        let mut rng = Rng::new(shape.name);
        let unsigned = shape.kind == Kind::U8;
        let mut tiles = Vec::new();
        let mut want = Vec::new();
        for _ in 0..40 {
            let mut tile = Tile::zero();
            let mut small = |low: i32| low + rng.below((5 - low.max(0)) as u64) as i32;
            let mut a = [[0; 32]; 16];
            let mut b = [[0; 8]; 32];
            let mut d = [[0; 8]; 16];
            for k in 0..shape.depth {
                for i in 0..16 {
                    a[i][k] = small(if unsigned { 0 } else { -2 }).min(4);
                    tile.a[i][k] = shape.element(a[i][k]);
                }
                for j in 0..8 {
                    b[k][j] = small(0);
                    tile.b[k][j] = shape.element(b[k][j]);
                }
            }
            for i in 0..16 {
                for j in 0..8 {
                    let c = small(-3);
                    tile.c[i][j] = shape.sum(c);
                    let sum: i32 = (0..shape.depth).map(|k| a[i][k] * b[k][j]).sum();
                    d[i][j] = shape.sum(c + sum);
                }
            }
            tiles.push(tile);
            want.push(d);
        }
        assert_eq!(shape.run(&tiles), want, "{}", shape.name);
    }
}

#[test]
fn sums_are_chains_of_fma_with_the_odd_element_of_each_pair_first() {
    for shape in SHAPES {
        let decode = |bits: u32| match shape.kind {
            Kind::Bf16 => f32::from_bits(bits << 16),
            Kind::F16 | Kind::F16Sum => f16::from_bits(bits as u16).to_f32(),
            Kind::Tf32 => f32::from_bits(bits & !0x1fff),
            _ => 0.0,
        };
        if !matches!(shape.kind, Kind::Bf16 | Kind::F16 | Kind::F16Sum | Kind::Tf32) {
            continue;
        }
        let mut rng = Rng::new(shape.name);
        let mut tiles = Vec::new();
        for n in 0..400 {
            let mut tile = Tile::zero();
            // From ordinary values over ever wider exponents to raw bits with NaN and infinity.
            let mut element = || match (shape.kind, n % 8) {
                (Kind::Bf16, 0..3) => {
                    let x = rng.next() as u32;
                    x & 0x807f | (110 + rng.below(20) as u32) << 7
                }
                (Kind::Bf16, 3) => {
                    let x = rng.next() as u32 & 0x807f;
                    x | [0, 71, 72, 70, 1][rng.below(5) as usize] << 7
                }
                (Kind::Bf16, 4 | 5) => rng.next() as u32 & 0x80ff,
                (Kind::Tf32, 0..4) => rng.next() as u32 & 0x807f_ffff | 0x3f00_0000,
                (Kind::Tf32, _) => any32(&mut rng),
                (_, 0..4) => rng.next() as u32 & 0x83ff | 0x3800,
                _ => rng.next() as u32 & 0xffff,
            };
            for k in 0..shape.depth {
                (0..16).for_each(|i| tile.a[i][k] = element());
                (0..8).for_each(|j| tile.b[k][j] = element());
            }
            for c in tile.c.iter_mut().flatten() {
                *c = match (shape.kind, n % 8) {
                    (Kind::F16Sum, _) => rng.next() as u32 & 0xffff,
                    (_, 3) => rng.next() as u32 & 0x807f_ffff | (22 + rng.below(5) as u32) << 23,
                    (_, 7) => any32(&mut rng),
                    _ => ((rng.next() >> 40) as f32 / 1e6 - 8.0).to_bits(),
                };
            }
            tiles.push(tile);
        }
        for (tile, d) in tiles.iter().zip(shape.run(&tiles)) {
            for i in 0..16 {
                for j in 0..8 {
                    let mut sum = match shape.kind {
                        Kind::F16Sum => f16::from_bits(tile.c[i][j] as u16).to_f32(),
                        _ => f32::from_bits(tile.c[i][j]),
                    };
                    for step in 0..shape.depth {
                        let k = if shape.per_word == 1 { step } else { step ^ 1 };
                        sum = decode(tile.a[i][k]).mul_add(decode(tile.b[k][j]), sum);
                    }
                    let want = match shape.kind {
                        Kind::F16Sum if sum.is_nan() => 0x7fff,
                        Kind::F16Sum => f16::from_f32(sum).to_bits().into(),
                        _ if sum.is_nan() => 0x7fff_ffff,
                        _ => sum.to_bits(),
                    };
                    assert_eq!(d[i][j], want, "{} at ({i}, {j})", shape.name);
                }
            }
        }
    }
}

#[test]
fn integer_sums_wrap_or_clamp() {
    for shape in SHAPES {
        if !matches!(shape.kind, Kind::S8 | Kind::MixedClamp) {
            continue;
        }
        let mut rng = Rng::new(shape.name);
        let mut tiles = Vec::new();
        for _ in 0..50 {
            let mut tile = Tile::zero();
            tile.a.iter_mut().flatten().for_each(|x| *x = rng.next() as u32 & 0xff);
            tile.b.iter_mut().flatten().for_each(|x| *x = rng.next() as u32 & 0xff);
            let limits = [i32::MAX as u32, i32::MIN as u32];
            tile.c.iter_mut().flatten().for_each(|x| *x = limits[rng.below(2) as usize]);
            tiles.push(tile);
        }
        for (tile, d) in tiles.iter().zip(shape.run(&tiles)) {
            for i in 0..16 {
                for j in 0..8 {
                    let mut sum = i64::from(tile.c[i][j] as i32);
                    for k in 0..shape.depth {
                        let a = i64::from(tile.a[i][k] as u8 as i8);
                        let b = tile.b[k][j] as u8;
                        let b = if shape.kind == Kind::S8 { (b as i8).into() } else { b.into() };
                        let b: i64 = b;
                        sum += a * b;
                    }
                    let clamped = sum.clamp(i32::MIN.into(), i32::MAX.into());
                    let sum = if shape.kind == Kind::S8 { sum } else { clamped };
                    assert_eq!(d[i][j], sum as u32, "{} at ({i}, {j})", shape.name);
                }
            }
        }
    }
}

/// A kernel of one warp: 1,024 bytes go to shared memory, then `ldmatrix` with the address of row
/// `lane` (register 0 of the lane's words) fills the words after it.
fn ldmatrix(form: &str, count: usize, lane_addresses: &[u32; 32]) -> (String, Vec<u8>) {
    let names: Vec<String> = (0..count).map(|i| format!("%r{}", 10 + i)).collect();
    let copies: String = (0..8)
        .map(|i| {
            format!(
                "ld.global.b32 %r9, [%rd1+{}]; st.shared.b32 [%r1+{}], %r9;\n",
                128 * i,
                128 * i
            )
        })
        .collect();
    let stores: String = (0..count)
        .map(|i| format!("st.global.b32 [%rd2+{}], %r{};\n", 4 + 4 * i, 10 + i))
        .collect();
    let source = format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b64 %rd<4>; .reg .b32 %r<20>; .shared .align 16 .b8 s[1024];\n\
         ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd1, %rd0;\n\
         mov.u32 %r2, s; shl.b32 %r1, %r0, 2; add.u32 %r1, %r1, %r2;\n{copies}\
         mad.wide.u32 %rd2, %r0, 32, %rd0; ld.global.b32 %r3, [%rd2+1024]; add.u64 %rd2, %rd2, 1024;\n\
         bar.sync 0; add.u32 %r3, %r3, %r2;\n\
         ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {{{}}}, [%r3+0];\n{stores}ret;\n}}\n",
        names.join(",")
    );
    let mut data: Vec<u8> = (0..512u32).flat_map(|x| (x as u16).to_le_bytes()).collect();
    for address in lane_addresses {
        let mut words = [0u32; 8];
        words[0] = *address;
        data.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }
    (source, data)
}

#[test]
fn ldmatrix_gives_row_g_word_t_and_transposed_the_columns() {
    let mut rng = Rng::new("ldmatrix");
    let addresses: [u32; 32] = std::array::from_fn(|_| 16 * rng.below(64) as u32);
    for (form, count) in [("x1", 1), ("x2", 2), ("x4", 4)] {
        for trans in [false, true] {
            let name = if trans { format!("{form}.trans") } else { form.to_owned() };
            let (source, data) = ldmatrix(&name, count, &addresses);
            for level in levels() {
                let out = launch(&source, (1, 32), &data, level, CopyMode::Strict).expect("runs");
                for lane in 0..32usize {
                    let (g, t) = (lane / 4, lane % 4);
                    for i in 0..count {
                        // Element e of shared memory has the value e.
                        let element =
                            |row: usize, column: usize| addresses[8 * i + row] / 2 + column as u32;
                        let want = if trans {
                            element(2 * t, g) | element(2 * t + 1, g) << 16
                        } else {
                            element(g, 2 * t) | element(g, 2 * t + 1) << 16
                        };
                        let at = 1024 + lane * 32 + 4 + 4 * i;
                        let got = u32::from_le_bytes(out[at..at + 4].try_into().expect("4"));
                        assert_eq!(got, want, "{level:?} {name}: register {i} of lane {lane}");
                    }
                }
            }
        }
    }
}

#[test]
fn ldmatrix_names_the_lanes_of_wrong_addresses() {
    let good: [u32; 32] = std::array::from_fn(|lane| 16 * lane as u32);
    for level in levels() {
        let run = |form: &str, addresses: &[u32; 32]| {
            let (source, data) = ldmatrix(form, 1, addresses);
            launch(&source, (1, 32), &data, level, CopyMode::Strict)
        };
        let mut outside = good;
        outside[3] = 1024;
        let fault = run("x1", &outside).expect_err("row 3 is outside");
        assert!(matches!(fault.kind, FaultKind::IllegalAddress { addr: 1024, .. }), "{fault}");
        assert_eq!(fault.lanes, 1 << 3);
        let mut misaligned = good;
        misaligned[5] = 24;
        let fault = run("x1", &misaligned).expect_err("row 5 is misaligned");
        assert!(matches!(fault.kind, FaultKind::Misaligned { addr: 24, .. }), "{fault}");
        assert_eq!(fault.lanes, 1 << 5);
        // Addresses of lanes beyond the matrices are not used.
        let mut unused = good;
        unused[8] = 4096;
        run("x1", &unused).expect("lane 8 holds no row of x1");
    }
}

#[test]
fn a_matrix_instruction_of_a_part_of_a_warp_is_a_fault() {
    let source = SHAPES[0]
        .source()
        .replace("mma.sync", "{ .reg .pred %q; setp.lt.u32 %q, %r18, 3; @%q bra E; }\nmma.sync");
    let source = source.replace("ret;\n}", "E: ret;\n}");
    let data = SHAPES[0].pack(&Tile::zero());
    for level in levels() {
        let fault = launch(&source, (1, 32), &data, level, CopyMode::Strict);
        let fault = fault.expect_err("lanes 0 to 2 have left");
        assert_eq!(fault.kind, FaultKind::WarpSync, "{fault}");
    }
}

#[test]
fn a_run_of_products_gives_what_single_ones_give() {
    // Shared operands, sums that feed the next product, and sums whose bits are operands.
    let list = |from: usize, n: usize| {
        let names: Vec<String> = (from..from + n).map(|i| format!("%r{i}")).collect();
        format!("{{{}}}", names.join(","))
    };
    // A: 0-3 and 4-7, B: 8-9 and 10-11, C: 12-15, D: 16-31.
    let steps = [
        (16, 0, 8, 12),
        (20, 0, 10, 12),
        (24, 4, 8, 16),
        (28, 4, 10, 20),
        (16, 0, 8, 24),
        (20, 0, 28, 12),
        (8, 4, 10, 16),
        (28, 0, 8, 28),
    ];
    let products = |between: &str| -> String {
        let mma = SHAPES[0].name;
        let one = |(d, a, b, c): (usize, usize, usize, usize)| {
            let (d, a, b, c) = (list(d, 4), list(a, 4), list(b, 2), list(c, 4));
            format!("mma.sync.aligned.{mma} {d}, {a}, {b}, {c};\n{between}")
        };
        steps.into_iter().map(one).collect()
    };
    let source = |between: &str| {
        let loads: String =
            (0..16).map(|i| format!("ld.global.b32 %r{i}, [%rd1+{}];\n", 4 * i)).collect();
        let stores: String =
            (8..32).map(|i| format!("st.global.b32 [%rd1+{}], %r{i};\n", 4 * i - 32)).collect();
        format!(
            ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
             .reg .b64 %rd<3>; .reg .b32 %r<40>;\n\
             ld.param.u64 %rd0, [p]; mov.u32 %r38, %tid.x; mov.u32 %r39, %ctaid.x;\n\
             shl.b32 %r39, %r39, 5; add.u32 %r38, %r38, %r39;\n\
             mad.wide.u32 %rd1, %r38, 96, %rd0;\n{loads}{}{stores}ret;\n}}\n",
            products(between)
        )
    };
    let mut rng = Rng::new("runs");
    let mut data = Vec::new();
    for n in 0..64 {
        for _ in 0..32 {
            for i in 0..24 {
                let x = rng.next() as u32;
                // Operands of ordinary size; in some tiles one of them has subnormal elements.
                let small = i < 12 && (n % 8 == 7 || (n % 4 == 1 && i / 4 == n as usize / 16));
                let word = if small { x & 0x80ff_80ff } else { x & 0x83ff_83ff | 0x3c00_3c00 };
                data.extend(word.to_le_bytes());
            }
        }
    }
    // A `bar.warp.sync` between the products keeps them apart.
    let apart = source("bar.warp.sync -1;\n");
    let together = source("");
    let base = launch(&apart, (64, 32), &data, levels()[0], CopyMode::Strict).expect("runs");
    for level in levels() {
        for source in [&apart, &together] {
            let got = launch(source, (64, 32), &data, level, CopyMode::Strict).expect("runs");
            assert!(got == base, "{level:?}");
        }
    }
}
