//! Accesses of all spaces: values, bounds, alignment, reports.

use softcuda::exec::Level;
use softcuda::fault::{Fault, FaultKind, Space};

use crate::support::{kernel, levels, run, run_all, settings};

/// The fault of a kernel of one warp, the same at every level.
fn fault(source: &str, data: &[u32]) -> Box<Fault> {
    let mut all = levels()
        .into_iter()
        .map(|l| run(source, 32, data, settings(l)).expect_err("the kernel must fail"));
    let first = all.next().expect("the base level is always there");
    // Addresses are those of another arena for each run, and equal.
    all.for_each(|other| assert_eq!(other, first));
    first
}

#[test]
fn a_load_past_its_allocation_is_reported_to_the_byte() {
    // 40 bytes for 32 lanes of 4 bytes: lanes 10 to 31 fail.
    let source = kernel("", "ld.global.u32 %r1, [%rd1];", 4);
    let fault = fault(&source, &[0; 10]);
    let FaultKind::IllegalAddress { addr, size: 4, space: Space::Global } = fault.kind else {
        panic!("{fault}");
    };
    assert_eq!(addr & 0xff, 40);
    assert_eq!((fault.code, fault.lanes, fault.warp), (700, !0 << 10, 0));
    assert_eq!(fault.thread, [10, 0, 0]);
    assert!(fault.ptx_text.contains("ld.global.u32 %r1, [%rd1];"), "{fault}");
    assert!(fault.detail.contains("1 byte past allocation"), "{fault}");
}

#[test]
fn a_failing_store_writes_nothing() {
    // Lane 31 points 2 GiB away; the others are right.
    let source = kernel(
        "",
        "setp.eq.u32 %p1, %r0, 31; mov.u64 %rd2, 0x80000000; @%p1 add.u64 %rd1, %rd1, %rd2;\n\
         st.global.u32 [%rd1], 7;",
        4,
    );
    let fault = fault(&source, &[1; 32]);
    assert_eq!((fault.code, fault.lanes), (700, 1 << 31));
}

#[test]
fn misaligned_accesses_are_refused() {
    let source = kernel("", "ld.global.v2.u32 {%r1, %r2}, [%rd1+4];", 8);
    let fault = fault(&source, &[0; 80]);
    assert!(matches!(fault.kind, FaultKind::Misaligned { size: 8, .. }), "{fault}");
    assert_eq!((fault.code, fault.lanes), (716, !0));
}

#[test]
fn null_host_and_freed_looking_addresses_are_refused() {
    for (address, what) in [("0", "null pointer"), ("0x7f0000001000", "not device memory")] {
        let body = format!("mov.u64 %rd2, {address}; ld.global.u32 %r1, [%rd2];");
        let fault = fault(&kernel("", &body, 4), &[0; 32]);
        assert!(fault.detail.contains(what), "{fault}");
        let body = format!("mov.u64 %rd2, {address}; ld.u32 %r1, [%rd2];");
        assert_eq!(self::fault(&kernel("", &body, 4), &[0; 32]).code, 700, "generic");
    }
}

#[test]
fn shared_local_and_parameter_bounds() {
    let shared = kernel(
        ".shared .align 8 .b8 s[64];",
        "mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 4, %r1; st.shared.u32 [%r1], %r0;",
        4,
    );
    let found = fault(&shared, &[0; 32]);
    assert_eq!(found.lanes, !0 << 16, "{found}");
    assert!(matches!(found.kind, FaultKind::IllegalAddress { addr: 64, space: Space::Shared, .. }));

    let local = kernel(
        ".local .align 8 .b8 l[16];",
        "mov.u64 %rd2, l; st.local.u64 [%rd2+8], %rd2; st.local.u64 [%rd2+16], %rd2;",
        4,
    );
    let found = fault(&local, &[0; 32]);
    assert!(matches!(found.kind, FaultKind::IllegalAddress { addr: 16, space: Space::Local, .. }));

    let param =
        kernel("", "mov.b64 %rd2, p; ld.param.u32 %r1, [%rd2+4]; ld.param.u32 %r1, [%rd2+8];", 4);
    let found = fault(&param, &[0; 32]);
    assert!(matches!(found.kind, FaultKind::IllegalAddress { addr: 8, space: Space::Param, .. }));

    let write = kernel("", "mov.b64 %rd2, p; cvta.param.u64 %rd2, %rd2; st.u32 [%rd2], 1;", 4);
    let found = fault(&write, &[0; 32]);
    assert_eq!(found.code, 700, "{found}");
}

#[test]
fn generic_addresses_reach_every_space() {
    let source = kernel(
        ".shared .align 4 .b8 s[128]; .local .align 4 .b8 l[8];",
        "mov.u64 %rd2, s; cvta.shared.u64 %rd3, %rd2; mad.wide.u32 %rd3, %r0, 4, %rd3;\n\
         add.u32 %r1, %r0, 100; st.u32 [%rd3], %r1;\n\
         mov.u64 %rd4, l; cvta.local.u64 %rd5, %rd4; add.u32 %r2, %r0, 200; st.u32 [%rd5+4], %r2;\n\
         mov.b64 %rd6, p; cvta.param.u64 %rd7, %rd6; ld.u64 %rd8, [%rd7];\n\
         and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 0; add.u64 %rd9, %rd5, 4;\n\
         selp.b64 %rd10, %rd3, %rd9, %p1; ld.u32 %r4, [%rd10];\n\
         mad.wide.u32 %rd11, %r0, 4, %rd8; st.u32 [%rd11], %r4;",
        4,
    );
    let want: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { i + 100 } else { i + 200 }).collect();
    assert_eq!(run_all(&source, 32, &[0; 32]), want);
}

#[test]
fn narrow_elements_extend_and_store_their_low_part() {
    let source = kernel(
        "",
        "ld.global.s8 %r1, [%rd1]; ld.global.u8 %r2, [%rd1+1]; ld.global.s16 %r3, [%rd1+2];\n\
         ld.global.u16 %h1, [%rd1+2]; ld.global.s8 %h2, [%rd1]; mov.b32 %r4, {%h1, %h2};\n\
         ld.global.u32 %rd5, [%rd1]; ld.global.s32 %rd6, [%rd1];\n\
         st.global.v2.u32 [%rd1+8], {%r1, %r2}; st.global.v2.u32 [%rd1+16], {%r3, %r4};\n\
         st.global.v2.u64 [%rd1+32], {%rd5, %rd6}; st.global.u8 [%rd1+48], %r1; st.global.u16 [%rd1+50], %r1;",
        64,
    );
    let mut data = vec![0; 16 * 32];
    for (i, row) in data.chunks_mut(16).enumerate() {
        row[0] = 0x8765_43f0 + i as u32;
    }
    let out = run_all(&source, 32, &data);
    for (i, row) in out.chunks(16).enumerate() {
        let word = 0x8765_43f0 + i as u32;
        let s8 = i32::from(word as i8) as u32;
        assert_eq!(
            row[2..6],
            [
                s8,
                (word >> 8) & 0xff,
                i32::from((word >> 16) as i16) as u32,
                (word >> 16) | (s8 << 16)
            ]
        );
        assert_eq!(row[8..12], [word, 0, word, !0], "zero and sign extension to 64 bits");
        assert_eq!(row[12], (s8 & 0xff) | (s8 << 16));
    }
}

#[test]
fn vectors_of_consecutive_and_scattered_lanes_agree() {
    // Consecutive lanes, lanes in reverse order, and a partial warp take different ways.
    for (order, guard) in [("%r0", ""), ("%r1", ""), ("%r0", "@%p1"), ("%r1", "@%p1")] {
        let source = kernel(
            "",
            &format!(
                "sub.u32 %r1, 31, %r0; setp.ne.u32 %p1, %r0, 5; mad.wide.u32 %rd2, {order}, 16, %rd0;\n\
                 mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u32 %r5, 0;\n\
                 {guard} ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd2];\n\
                 xor.b32 %r2, %r2, %r0;\n\
                 {guard} st.global.v4.u32 [%rd2+512], {{%r2, %r3, %r4, %r5}};"
            ),
            4,
        );
        let data: Vec<u32> = (0..256).map(|i| i * 7 + 1).collect();
        let out = run_all(&source, 32, &data);
        for lane in 0..32usize {
            let row = if order == "%r0" { lane } else { 31 - lane };
            let off = !guard.is_empty() && lane == 5;
            for k in 0..4 {
                let at = row * 4 + k;
                let moved = data[at] ^ if k == 0 { lane as u32 } else { 0 };
                let want = if off { data[128 + at] } else { moved };
                assert_eq!(out[128 + at], want, "{order} {guard} lane {lane} word {k}");
            }
        }
    }
}

#[test]
fn atomics_return_old_values_in_lane_order() {
    let source = kernel(
        ".shared .align 4 .u32 count;",
        "atom.global.add.u32 %r1, [%rd0+128], 2; atom.shared.inc.u32 %r2, [count], 9;\n\
         atom.global.cas.b32 %r3, [%rd0+132], 0, %r0; red.global.max.s32 [%rd0+136], %r0;\n\
         mad.lo.u32 %r4, %r2, 1000, %r1; st.global.u32 [%rd1], %r4;",
        4,
    );
    let mut data = vec![0; 36];
    data[34] = -5i32 as u32;
    let out = run_all(&source, 32, &data);
    for lane in 0..32 {
        assert_eq!(out[lane as usize], (lane % 10) * 1000 + lane * 2);
    }
    // Lane 0 swaps 0 for 0, lane 1 swaps 0 for 1, the others find 1.
    assert_eq!(out[32..35], [64, 1, 31]);
}

#[test]
fn module_variables_keep_their_values_and_addresses() {
    let source = kernel(
        "",
        "mov.u64 %rd2, table; ld.global.u64 %rd3, [%rd2+8]; ld.u32 %r1, [%rd3+4];\n\
         mad.wide.u32 %rd4, %r0, 4, %rd3; and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 1;\n\
         ld.const.u32 %r3, [consts+4]; add.u32 %r1, %r1, %r3; st.global.u32 [%rd1], %r1;",
        4,
    );
    let source = source.replace(
        ".visible .entry",
        ".const .align 4 .u32 consts[2] = {5, 6};\n.global .align 4 .u32 values[3] = {10, 20, 30};\n\
         .global .align 8 .u64 table[2] = {0, generic(values)};\n.visible .entry",
    );
    assert_eq!(run_all(&source, 32, &[0; 32]), [26; 32]);
}

#[test]
fn registers_that_are_never_written_read_as_zero() {
    // The first launch leaves other values in the registers.
    let source = kernel("", "add.u32 %r1, %r2, %r0; st.global.u32 [%rd1], %r1;", 4);
    let out = run(&source, 32, &[9; 32], settings(Level::Base)).expect("runs");
    assert_eq!(out, (0..32).collect::<Vec<u32>>());
}
