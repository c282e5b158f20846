//! Integer arithmetic, logic, shifts, comparison, selection, on wide integers.

use super::harness::Kind::{Amount, I16, I32, I64, Pred};
use super::harness::{Kind, Row, check};

/// A register's bits as a number.
fn signed(bits: u32, x: u64) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

fn unsigned(bits: u32, x: u64) -> i128 {
    i128::from(x) & ((1 << bits) - 1)
}

/// A type by name: its kind and how it reads a register.
type Read = fn(u32, u64) -> i128;
const TYPES: [(&str, Kind, Read); 6] = [
    ("s16", I16, signed),
    ("u16", I16, unsigned),
    ("s32", I32, signed),
    ("u32", I32, unsigned),
    ("s64", I64, signed),
    ("u64", I64, unsigned),
];

fn binary(op: &str, f: fn(i128, i128) -> i128) -> Vec<Row> {
    let row = |(ty, kind, read): (&str, Kind, Read)| {
        let bits = kind.bits();
        let model = move |[a, b]: [u64; 2]| f(read(bits, a), read(bits, b)) as u64;
        Row::new(&format!("{op}.{ty} %d, %a, %b;"), kind, [kind, kind], model)
    };
    TYPES.map(row).into()
}

#[test]
fn sums_and_products() {
    let mut rows = binary("add", |a, b| a + b);
    rows.extend(binary("sub", |a, b| a - b));
    rows.extend(binary("mul.lo", |a, b| a.wrapping_mul(b)));
    rows.extend(binary("min", i128::min));
    rows.extend(binary("max", i128::max));
    for (ty, kind, read) in TYPES {
        let bits = kind.bits();
        let all = [kind, kind, kind];
        // A product of two u64 needs all of u128: multiply the magnitudes and keep the bits.
        let product = move |a: u64, b: u64| read(bits, a).wrapping_mul(read(bits, b));
        rows.push(Row::new(
            &format!("mul.hi.{ty} %d, %a, %b;"),
            kind,
            [kind, kind],
            move |[a, b]| (product(a, b) >> bits) as u64,
        ));
        rows.push(Row::new(
            &format!("mad.lo.{ty} %d, %a, %b, %c;"),
            kind,
            all,
            move |[a, b, c]| product(a, b).wrapping_add(read(bits, c)) as u64,
        ));
        rows.push(Row::new(
            &format!("mad.hi.{ty} %d, %a, %b, %c;"),
            kind,
            all,
            move |[a, b, c]| (product(a, b) >> bits).wrapping_add(read(bits, c)) as u64,
        ));
        rows.push(Row::new(&format!("sad.{ty} %d, %a, %b, %c;"), kind, all, move |[a, b, c]| {
            ((read(bits, a) - read(bits, b)).abs() + read(bits, c)) as u64
        }));
        let wide = if kind == I16 { I32 } else { I64 };
        if kind != I64 {
            rows.push(Row::new(
                &format!("mul.wide.{ty} %d, %a, %b;"),
                wide,
                [kind, kind],
                move |[a, b]| product(a, b) as u64,
            ));
            let text = format!("mad.wide.{ty} %d, %a, %b, %c;");
            rows.push(Row::new(&text, wide, [kind, kind, wide], move |[a, b, c]| {
                (product(a, b) + i128::from(c)) as u64
            }));
        }
        let text = format!("div.{ty} %d, %a, %b;");
        rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
            read(bits, a).checked_div(read(bits, b)).map_or(u64::MAX, |q| q as u64)
        }));
        let text = format!("rem.{ty} %d, %a, %b;");
        rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
            read(bits, a).checked_rem(read(bits, b)).map_or(a, |q| q as u64)
        }));
        if ty.starts_with('s') {
            let text = format!("abs.{ty} %d, %a;");
            rows.push(Row::new(&text, kind, [kind], move |[a]| {
                signed(bits, a).unsigned_abs() as u64
            }));
            let text = format!("neg.{ty} %d, %a;");
            rows.push(Row::new(&text, kind, [kind], move |[a]| a.wrapping_neg()));
        }
    }
    for (ty, read) in [("s32", signed as Read), ("u32", unsigned)] {
        rows.push(Row::new(&format!("add.{ty} %d, %a, -5;"), I32, [I32], |[a]| a.wrapping_sub(5)));
        rows.push(Row::new(&format!("sub.{ty} %d, 5, %a;"), I32, [I32], |[a]| {
            5u64.wrapping_sub(a)
        }));
        rows.push(Row::new(&format!("mad.lo.{ty} %d, %a, 7, %b;"), I32, [I32, I32], |[a, b]| {
            a.wrapping_mul(7).wrapping_add(b)
        }));
        rows.push(Row::new(&format!("mul.wide.{ty} %d, %a, -3;"), I64, [I32], move |[a]| {
            (read(32, a) * read(32, -3i64 as u64)) as u64
        }));
    }
    rows.push(Row::new("add.sat.s32 %d, %a, %b;", I32, [I32, I32], |[a, b]| {
        (signed(32, a) + signed(32, b)).clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64
    }));
    rows.push(Row::new("sub.sat.s32 %d, %a, %b;", I32, [I32, I32], |[a, b]| {
        (signed(32, a) - signed(32, b)).clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64
    }));
    check("sm_80", &rows);
}

#[test]
fn carries() {
    let split = "mov.b64 {%t0, %t1}, %a; mov.b64 {%t2, %t3}, %b;";
    let join = "mov.b64 %d, {%t4, %t5};";
    let row = |middle: &str, f: fn(u64, u64) -> u64| {
        Row::new(&format!("{split} {middle} {join}"), I64, [I64, I64], move |[a, b]| f(a, b))
    };
    let three = |middle: &str, f: fn(u64, u64, u64) -> u64| {
        let text = format!("{split} mov.b64 {{%t6, %t7}}, %c; {middle} {join}");
        Row::new(&text, I64, [I64, I64, I64], move |[a, b, c]| f(a, b, c))
    };
    check(
        "sm_80",
        &[
            row("add.cc.u32 %t4, %t0, %t2; addc.u32 %t5, %t1, %t3;", u64::wrapping_add),
            row("sub.cc.u32 %t4, %t0, %t2; subc.u32 %t5, %t1, %t3;", u64::wrapping_sub),
            row(
                "add.cc.s32 %t4, %t0, %t2; addc.cc.s32 %t5, %t1, %t3; addc.s32 %t5, 0, 0;",
                |a, b| {
                    let (sum, carry) = a.overflowing_add(b);
                    sum & 0xffff_ffff | u64::from(carry) << 32
                },
            ),
            row(
                "sub.cc.u32 %t4, %t0, %t2; subc.cc.u32 %t5, %t1, %t3; subc.u32 %t5, 0, 0;",
                |a, b| {
                    let (difference, borrow) = a.overflowing_sub(b);
                    difference & 0xffff_ffff | u64::from(if borrow { u32::MAX } else { 0 }) << 32
                },
            ),
            three(
                "mad.lo.cc.u32 %t4, %t0, %t2, %t6; madc.hi.u32 %t5, %t0, %t2, %t7;",
                |a, b, c| (a & 0xffff_ffff).wrapping_mul(b & 0xffff_ffff).wrapping_add(c),
            ),
            Row::new("add.cc.u64 %u0, %a, %b; addc.u64 %d, %a, 0;", I64, [I64, I64], |[a, b]| {
                a.wrapping_add(u64::from(a.overflowing_add(b).1))
            }),
        ],
    );
}

fn bits_of(op: &str, f: fn(u64, u32) -> u64) -> Vec<Row> {
    let row = |ty: &str, kind: Kind| {
        let bits = kind.bits();
        Row::new(&format!("{op}.{ty} %d, %a;"), I32, [kind], move |[a]| f(a, bits))
    };
    vec![row("b32", I32), row("b64", I64)]
}

#[test]
fn bit_counts_and_fields() {
    let mut rows = bits_of("popc", |a, _| u64::from(a.count_ones()));
    rows.extend(bits_of("clz", |a, bits| u64::from(a.leading_zeros()) - (64 - u64::from(bits))));
    for (ty, kind, read) in TYPES.into_iter().skip(2) {
        let bits = kind.bits();
        let find = move |a: u64| {
            let value = read(bits, a);
            let value = if value < 0 { !value } else { value };
            if value == 0 { None } else { Some(127 - u64::from(value.leading_zeros())) }
        };
        rows.push(Row::new(&format!("bfind.{ty} %d, %a;"), I32, [kind], move |[a]| {
            find(a).unwrap_or(0xffff_ffff)
        }));
        rows.push(Row::new(&format!("bfind.shiftamt.{ty} %d, %a;"), I32, [kind], move |[a]| {
            find(a).map_or(0xffff_ffff, |at| u64::from(bits) - 1 - at)
        }));
        let text = format!("bfe.{ty} %d, %a, %b, %c;");
        rows.push(Row::new(&text, kind, [kind, Amount, Amount], move |[a, b, c]| {
            let (position, length) = (b & 255, c & 255);
            let sign = if ty.starts_with('u') || length == 0 {
                0
            } else {
                a >> (position + length - 1).min(u64::from(bits) - 1) & 1
            };
            let bit = |i: u64| {
                let at = position + i;
                if i < length && at < u64::from(bits) { a >> at & 1 } else { sign }
            };
            (0..u64::from(bits)).map(|i| bit(i) << i).sum()
        }));
    }
    for kind in [I32, I64] {
        let bits = u64::from(kind.bits());
        rows.push(Row::new(&format!("brev.b{bits} %d, %a;"), kind, [kind], move |[a]| {
            a.reverse_bits() >> (64 - bits)
        }));
        let text = format!("bfi.b{bits} %d, %a, %b, %c, %e;");
        rows.push(Row::new(&text, kind, [kind, kind, Amount, Amount], move |[a, b, c, e]| {
            let (position, length) = (c & 255, e & 255);
            let bit = |at: u64| {
                if at >= position && at - position < length {
                    a >> (at - position) & 1
                } else {
                    b >> at & 1
                }
            };
            (0..bits).map(|at| bit(at) << at).sum()
        }));
    }
    for (ty, sign) in [("s32", true), ("u32", false)] {
        for mode in ["wrap", "clamp"] {
            let text = format!("szext.{mode}.{ty} %d, %a, %b;");
            rows.push(Row::new(&text, I32, [I32, Amount], move |[a, b]| {
                let length = if mode == "wrap" { b & 31 } else { b.min(32) };
                let field = a & ((1 << length) - 1);
                let negative = sign && length > 0 && field >> (length - 1) == 1;
                if negative { field | u64::MAX << length } else { field }
            }));
        }
    }
    for mode in ["wrap", "clamp"] {
        rows.push(Row::new(
            &format!("bmsk.{mode}.b32 %d, %a, %b;"),
            I32,
            [Amount, Amount],
            move |[a, b]| {
                let (position, length) =
                    if mode == "wrap" { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
                ((1 << length) - 1) << position
            },
        ));
    }
    check("sm_80", &rows);
}

#[test]
fn dot_products() {
    let bytes = |x: u64, sign: bool| -> [i128; 4] {
        std::array::from_fn(
            |i| if sign { signed(8, x >> (8 * i)) } else { unsigned(8, x >> (8 * i)) },
        )
    };
    let mut rows = Vec::new();
    for (ta, sa) in [("s32", true), ("u32", false)] {
        for (tb, sb) in [("s32", true), ("u32", false)] {
            rows.push(Row::new(
                &format!("dp4a.{ta}.{tb} %d, %a, %b, %c;"),
                I32,
                [I32; 3],
                move |[a, b, c]| {
                    let sum: i128 = bytes(a, sa).iter().zip(bytes(b, sb)).map(|(x, y)| x * y).sum();
                    (sum as u64).wrapping_add(c)
                },
            ));
            for (half, at) in [("lo", 0), ("hi", 2)] {
                let text = format!("dp2a.{half}.{ta}.{tb} %d, %a, %b, %c;");
                rows.push(Row::new(&text, I32, [I32; 3], move |[a, b, c]| {
                    let word = |x: u64| if sa { signed(16, x) } else { unsigned(16, x) };
                    let b = bytes(b, sb);
                    let sum = word(a) * b[at] + word(a >> 16) * b[at + 1];
                    (sum as u64).wrapping_add(c)
                }));
            }
        }
    }
    check("sm_80", &rows);
}

#[test]
fn logic_and_shifts() {
    let mut rows = Vec::new();
    for kind in [I16, I32, I64, Pred] {
        let ty = if kind == Pred { "pred".into() } else { format!("b{}", kind.bits()) };
        let two: [(&str, fn(u64, u64) -> u64); 3] =
            [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
        for (op, f) in two {
            let model = move |[a, b]: [u64; 2]| f(a, b);
            rows.push(Row::new(&format!("{op}.{ty} %d, %a, %b;"), kind, [kind, kind], model));
        }
        rows.push(Row::new(&format!("not.{ty} %d, %a;"), kind, [kind], |[a]| !a));
        if kind == Pred {
            continue;
        }
        rows.push(Row::new(&format!("cnot.{ty} %d, %a;"), kind, [kind], |[a]| u64::from(a == 0)));
        let bits = kind.bits();
        rows.push(Row::new(
            &format!("shl.{ty} %d, %a, %b;"),
            kind,
            [kind, Amount],
            move |[a, b]| {
                if b >= u64::from(bits) { 0 } else { a << b }
            },
        ));
        for (ty, read) in [("s", signed as Read), ("u", unsigned)] {
            rows.push(Row::new(
                &format!("shr.{ty}{bits} %d, %a, %b;"),
                kind,
                [kind, Amount],
                move |[a, b]| (read(bits, a) >> b.min(100)) as u64,
            ));
        }
        rows.push(Row::new(&format!("shr.b{bits} %d, %a, 5;"), kind, [kind], |[a]| a >> 5));
        rows.push(Row::new(&format!("shl.b{bits} %d, %a, 15;"), kind, [kind], |[a]| a << 15));
    }
    for lut in [0x96u64, 0xe8, 0xca, 0x01, 0x80, 0xff, 0x00, 0x3c, 0x5a, 0xf0, 0xcc, 0xaa] {
        rows.push(Row::new(
            &format!("lop3.b32 %d, %a, %b, %c, {lut};"),
            I32,
            [I32; 3],
            move |[a, b, c]| {
                let bit =
                    |i: u64| lut >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1;
                (0..32).map(|i| bit(i) << i).sum()
            },
        ));
    }
    for (direction, left) in [("l", true), ("r", false)] {
        for mode in ["wrap", "clamp"] {
            let text = format!("shf.{direction}.{mode}.b32 %d, %a, %b, %c;");
            rows.push(Row::new(&text, I32, [I32, I32, Amount], move |[a, b, c]| {
                let amount = if mode == "wrap" { c & 31 } else { c.min(32) };
                let both = u128::from(b << 32 | a);
                (if left { both << amount >> 32 } else { both >> amount }) as u64
            }));
        }
    }
    for mode in ["", ".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16"] {
        let text = format!("prmt.b32{mode} %d, %a, %b, %c;");
        rows.push(Row::new(&text, I32, [I32, I32, I32], move |[a, b, c]| permute(mode, a, b, c)));
    }
    rows.push(Row::new("prmt.b32 %d, %a, %b, 0x5410;", I32, [I32, I32], |[a, b]| {
        a & 0xffff | (b & 0xffff) << 16
    }));
    check("sm_80", &rows);
}

/// `prmt` from the tables of the PTX manual.
fn permute(mode: &str, a: u64, b: u64, c: u64) -> u64 {
    let source = |i: u64| (b << 32 | a) >> (8 * i) & 0xff;
    let s = c & 3;
    let pick: [u64; 4] = match mode {
        "" => std::array::from_fn(|i| c >> (4 * i) & 15),
        ".f4e" => std::array::from_fn(|i| s + i as u64),
        ".b4e" => std::array::from_fn(|i| (8 + s - i as u64) % 8),
        ".rc8" => [s; 4],
        ".ecl" => std::array::from_fn(|i| s.max(i as u64)),
        ".ecr" => std::array::from_fn(|i| s.min(i as u64)),
        _ => std::array::from_fn(|i| 2 * (s & 1) + (i as u64 & 1)),
    };
    let byte = |selector: u64| {
        let byte = source(selector & 7);
        match selector & 8 {
            0 => byte,
            _ if byte & 0x80 != 0 => 0xff,
            _ => 0,
        }
    };
    pick.iter().enumerate().map(|(i, p)| byte(*p) << (8 * i)).sum()
}

#[test]
fn comparison_and_selection() {
    let mut rows = Vec::new();
    let compares: [(&str, fn(i128, i128) -> bool); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (ty, kind, read) in TYPES {
        let bits = kind.bits();
        for (op, f) in compares {
            let compare = move |a, b| f(read(bits, a), read(bits, b));
            rows.push(Row::new(
                &format!("setp.{op}.{ty} %d, %a, %b;"),
                Pred,
                [kind, kind],
                move |[a, b]| u64::from(compare(a, b)),
            ));
            let text = format!("setp.{op}.and.{ty} %d|%q0, %a, %b, !%c;");
            rows.push(Row::new(&text, Pred, [kind, kind, Pred], move |[a, b, c]| {
                u64::from(compare(a, b) && c == 0)
            }));
            // The second destination is the complement of the comparison, combined too.
            let text = format!("setp.{op}.xor.{ty} %q0|%d, %a, %b, %c;");
            rows.push(Row::new(&text, Pred, [kind, kind, Pred], move |[a, b, c]| {
                u64::from(!compare(a, b)) ^ c
            }));
            if kind == I32 {
                let text = format!("set.{op}.u32.{ty} %d, %a, %b;");
                rows.push(Row::new(&text, I32, [kind, kind], move |[a, b]| {
                    if compare(a, b) { 0xffff_ffff } else { 0 }
                }));
                let text = format!("set.{op}.f32.{ty} %d, %a, %b;");
                rows.push(Row::new(&text, I32, [kind, kind], move |[a, b]| {
                    if compare(a, b) { 0x3f80_0000 } else { 0 }
                }));
            }
        }
        rows.push(Row::new(
            &format!("selp.{ty} %d, %a, %b, %c;"),
            kind,
            [kind, kind, Pred],
            |[a, b, c]| {
                if c == 0 { b } else { a }
            },
        ));
        rows.push(Row::new(
            &format!("slct.{ty}.s32 %d, %a, %b, %c;"),
            kind,
            [kind, kind, I32],
            |[a, b, c]| {
                if signed(32, c) >= 0 { a } else { b }
            },
        ));
    }
    for (op, f) in compares.into_iter().take(2) {
        for kind in [I16, I32, I64] {
            let bits = kind.bits();
            rows.push(Row::new(
                &format!("setp.{op}.b{bits} %d, %a, 1;"),
                Pred,
                [kind],
                move |[a]| u64::from(f(i128::from(a), 1)),
            ));
        }
    }
    rows.push(Row::new("setp.lo.u32 %d, %a, %b;", Pred, [I32, I32], |[a, b]| u64::from(a < b)));
    rows.push(Row::new("setp.hs.u64 %d, %a, %b;", Pred, [I64, I64], |[a, b]| u64::from(a >= b)));
    rows.push(Row::new("slct.b32.f32 %d, %a, %b, %c;", I32, [I32, I32, Kind::F32], |[a, b, c]| {
        // -0 is not below 0; a NaN selects the second.
        let below = c > 0x8000_0000 || c & 0x7fff_ffff > 0x7f80_0000;
        if below { b } else { a }
    }));
    check("sm_80", &rows);
}

#[test]
fn moves() {
    check(
        "sm_80",
        &[
            Row::new("mov.b16 %d, %a;", I16, [I16], |[a]| a),
            Row::new("mov.u32 %d, %a;", I32, [I32], |[a]| a),
            Row::new("mov.f64 %d, %a;", I64, [I64], |[a]| a),
            Row::new("mov.pred %d, %a;", Pred, [Pred], |[a]| a),
            Row::new("mov.b64 %d, {%a, %b};", I64, [I32, I32], |[a, b]| a | b << 32),
            Row::new("mov.b32 %d, {%a, %b};", I32, [I16, I16], |[a, b]| a | b << 16),
            Row::new("mov.b64 {%t0, %d}, %a;", I32, [I64], |[a]| a >> 32),
            Row::new("mov.b64 {_, %d}, %a;", I32, [I64], |[a]| a >> 32),
            Row::new("mov.b32 {%d, %h0}, %a;", I16, [I32], |[a]| a),
            Row::new("mov.b64 {%h0, %h1, %h2, %d}, %a;", I16, [I64], |[a]| a >> 48),
            Row::new("mov.b64 %d, {%a, %b, %a, %b};", I64, [I16, I16], |[a, b]| {
                a | b << 16 | a << 32 | b << 48
            }),
            Row::new("mov.u64 %d, 0x123456789abcdef0;", I64, [I16], |_| 0x1234_5678_9abc_def0),
            Row::new("mov.f32 %d, 0fC0490FDB;", I32, [I16], |_| 0xc049_0fdb),
            Row::new("mov.b32 %d, -2;", I32, [I16], |_| 0xffff_fffe),
        ],
    );
}
