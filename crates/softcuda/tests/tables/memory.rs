//! Loads and stores in every space.

use super::harness::{Kind, Row, check};
use super::machine::{Machine, levels};

/// Types of loads and stores: name, bytes, signed, register.
const TYPES: [(&str, u32, bool, Kind); 14] = [
    ("u8", 1, false, Kind::I16),
    ("s8", 1, true, Kind::I16),
    ("b8", 1, false, Kind::I32),
    ("s8", 1, true, Kind::I32),
    ("u16", 2, false, Kind::I16),
    ("s16", 2, true, Kind::I32),
    ("u16", 2, false, Kind::I32),
    ("b16", 2, false, Kind::I16),
    ("u32", 4, false, Kind::I32),
    ("s32", 4, true, Kind::I32),
    ("f32", 4, false, Kind::I32),
    ("b64", 8, false, Kind::I64),
    ("f64", 8, false, Kind::I64),
    ("s32", 4, true, Kind::I64),
];

/// Statements that leave the thread's 32 bytes in `%u0` (or `%t0`), and their declarations.
const SPACES: [(&str, &str, &str); 6] = [
    (
        ".shared",
        "mov.u32 %t0, %tid.x; shl.b32 %t0, %t0, 5; mov.u32 %t1, s; add.u32 %t0, %t0, %t1;",
        "[%t0+8]",
    ),
    (".local", "mov.u32 %t0, l;", "[%t0+8]"),
    (".global", "mov.u64 %u0, g; mul.wide.u32 %u1, %i3, 32; add.u64 %u0, %u0, %u1;", "[%u0+8]"),
    (
        "",
        "mov.u32 %t0, %tid.x; mul.wide.u32 %u1, %t0, 32; mov.u64 %u2, s; cvta.shared.u64 %u0, %u2; add.u64 %u0, %u0, %u1;",
        "[%u0+8]",
    ),
    ("", "mov.u64 %u1, l; cvta.local.u64 %u0, %u1;", "[%u0+8]"),
    (
        "",
        "mov.u64 %u0, g; mul.wide.u32 %u1, %i3, 32; add.u64 %u0, %u0, %u1; cvta.global.u64 %u0, %u0;",
        "[%u0+8]",
    ),
];

const DECLARE: &str =
    ".shared .align 16 .b8 s[3200]; .local .align 16 .b8 l[64]; .global .align 16 .b8 g[256000];";

fn declarations(text: &str) -> String {
    // Each row declares only what it names.
    DECLARE
        .split_inclusive(';')
        .filter(|d| {
            let name = d.trim().split(['[', ' ']).rev().nth(1).unwrap_or_default();
            text.contains(&format!(", {name};"))
        })
        .collect()
}

#[test]
fn loads_extend_and_stores_cut() {
    let mut rows = Vec::new();
    for (space, address, place) in SPACES {
        for (ty, bytes, sign, kind) in TYPES {
            // All bytes set first: what the store leaves alone is visible in the load of the word.
            let fill = format!("mov.u64 %u3, -1; st{space}.u64 {place}, %u3;");
            let text =
                format!("{address} {fill} st{space}.{ty} {place}, %a; ld{space}.{ty} %d, {place};");
            let declare = declarations(&text);
            rows.push(
                Row::new(&text, kind, [kind], move |[a]| {
                    let bits = 8 * bytes;
                    let cut = a & (u64::MAX >> (64 - bits));
                    if sign && cut >> (bits - 1) == 1 {
                        cut | u64::MAX.checked_shl(bits).unwrap_or(0)
                    } else {
                        cut
                    }
                })
                .declaring(&declare),
            );
            let text =
                format!("{address} {fill} st{space}.{ty} {place}, %a; ld{space}.u64 %d, {place};");
            rows.push(
                Row::new(&text, Kind::I64, [kind], move |[a]| {
                    let keep = u64::MAX.checked_shl(8 * bytes).unwrap_or(0);
                    keep | a & !keep
                })
                .declaring(&declare),
            );
        }
        for (vector, ty, register) in [
            ("v2", "u32", "t"),
            ("v4", "u32", "t"),
            ("v2", "u64", "u"),
            ("v4", "b16", "h"),
            ("v2", "b8", "h"),
        ] {
            let count = if vector == "v2" { 2 } else { 4 };
            let place = place.replace("+8", "+16");
            let list = |first: usize| -> String {
                (0..count)
                    .map(|i| format!("%{register}{}", first + i))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (source, last) = (list(4), format!("%{register}{}", 3 + count));
            let cut = match ty {
                "u32" => format!("cvt.u32.u64 {last}, %a;"),
                "u64" => format!("mov.u64 {last}, %a;"),
                _ => format!("cvt.u16.u64 {last}, %a;"),
            };
            let zero: String = (0..count - 1)
                .map(|i| {
                    format!(
                        "mov.b{} %{register}{}, 0; ",
                        match register {
                            "t" => 32,
                            "u" => 64,
                            _ => 16,
                        },
                        4 + i
                    )
                })
                .collect();
            let copy = match register {
                "t" => format!("cvt.u64.u32 %d, {last}"),
                "u" => format!("mov.u64 %d, {last}"),
                _ => format!("cvt.u64.u16 %d, {last}"),
            };
            let text = format!(
                "{address} {zero} {cut} st{space}.{vector}.{ty} {place}, {{{source}}}; mov.b{b} {last}, 0; ld{space}.{vector}.{ty} {{{source}}}, {place}; {copy};",
                b = match register {
                    "t" => 32,
                    "u" => 64,
                    _ => 16,
                }
            );
            let bits = match ty {
                "u32" => 32,
                "u64" => 64,
                "b16" => 16,
                _ => 8,
            };
            let declare = declarations(&text);
            rows.push(
                Row::new(&text, Kind::I64, [Kind::I64], move |[a]| a & (u64::MAX >> (64 - bits)))
                    .declaring(&declare),
            );
        }
    }
    check("sm_80", &rows);
}

#[test]
fn parameters_and_constants() {
    let text = ".version 8.0 .target sm_80 .address_size 64
.const .align 8 .b32 table[8] = {10, 20, 30, 40, 50, 60, 70, 80};
.global .u32 word = 77;
.global .align 8 .u64 pointer = generic(word);
.visible .entry k(.param .align 8 .b8 p[32], .param .u64 out)
{
 .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .b16 %h<4>;
 mov.b64 %rd3, p; add.s64 %rd2, %rd3, 16; ld.param.u64 %rd4, [%rd2+-16];
 ld.param.u64 %rd1, [out];
 mov.u32 %r1, %tid.x; mul.wide.u32 %rd5, %r1, 24; add.s64 %rd6, %rd1, %rd5;
 and.b32 %r2, %r1, 3; mul.wide.u32 %rd7, %r2, 4; add.s64 %rd8, %rd3, %rd7; ld.param.u32 %r3, [%rd8+8];
 ld.param.v2.u16 {%h1, %h2}, [p+24]; cvt.u32.u16 %r4, %h2;
 and.b32 %r5, %r1, 7; mul.wide.u32 %rd9, %r5, 4; mov.u64 %rd10, table; add.s64 %rd11, %rd10, %rd9;
 ld.const.u32 %r6, [%rd11]; ld.const.u32 %r7, [table+4];
 ld.global.u64 %rd12, [pointer]; ld.u32 %r8, [%rd12];
 cvta.param.u64 %rd13, %rd3; ld.u32 %r9, [%rd13+28];
 st.global.v2.u32 [%rd6], {%r3, %r4}; st.global.v2.u32 [%rd6+8], {%r6, %r7}; st.global.v2.u32 [%rd6+16], {%r8, %r9};
 ret;
}";
    let machine = Machine::new(text);
    for level in levels() {
        let out = machine.upload(&[0; 40 * 24]);
        let mut params = Vec::new();
        params.extend(5u64.to_le_bytes());
        for word in [101u32, 102, 103, 104, 0xbeef_0007, 999] {
            params.extend(word.to_le_bytes());
        }
        params.extend(out.to_le_bytes());
        machine
            .launch(level, "k", [1, 1, 1], [40, 1, 1], 0, &params)
            .unwrap_or_else(|e| panic!("{e}"));
        let words = machine.words(out, 40 * 6);
        for (tid, row) in words.chunks_exact(6).enumerate() {
            let expected = [101 + tid as u32 % 4, 0xbeef, 10 + 10 * (tid as u32 % 8), 20, 77, 999];
            assert_eq!(row, expected, "thread {tid} at {level:?}");
        }
    }
}
