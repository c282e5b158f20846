//! `cp.async`: when data lands, zero fill, ignored sources, faults.

use softcuda::exec::CopyMode;
use softcuda::fault::FaultKind;

use super::harness::{launch, levels};

/// A block of 64 threads. Thread i copies from `p + 16·i` to shared byte `16·i`; its result goes to
/// `p + 1024 + 16·i`. `%r1` is the shared address, `%rd1` the source, `%rd2` the result.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {{\n\
         .reg .b64 %rd<4>; .reg .b32 %r<20>; .reg .pred %q<4>; .shared .align 16 .b8 s[2048];\n\
         ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, 16, %rd0;\n\
         add.u64 %rd2, %rd1, 1024; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 16, %r1;\n{body}\nret;\n}}\n"
    )
}

const SHOW: &str =
    "ld.shared.v4.b32 {%r4,%r5,%r6,%r7}, [%r1]; st.global.v4.b32 [%rd2], {%r4,%r5,%r6,%r7};";

fn data() -> Vec<u8> {
    (0..2048u32).map(|i| if i < 1024 { (i * 7 + i / 256) as u8 } else { 0x11 }).collect()
}

/// Runs at every level, which must agree; the results of the threads.
fn run(body: &str, mode: CopyMode) -> Vec<[u8; 16]> {
    let mut first = None;
    for level in levels() {
        let out = launch(&kernel(body), (1, 64), &data(), level, mode);
        let out = out.unwrap_or_else(|f| panic!("{f}"));
        let rows: Vec<[u8; 16]> =
            out[1024..].chunks_exact(16).map(|c| c.try_into().expect("16")).collect();
        if let Some(first) = &first {
            assert_eq!(first, &rows, "{level:?}");
        }
        first.get_or_insert(rows);
    }
    first.expect("there is a level")
}

fn source_of(thread: usize) -> [u8; 16] {
    data()[16 * thread..16 * thread + 16].try_into().expect("16")
}

#[test]
fn data_is_there_after_the_wait_and_not_before() {
    let copy = "cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16; cp.async.commit_group;";
    let waited = format!("{copy} cp.async.wait_group 0; {SHOW}");
    let early = format!("{copy} {SHOW}");
    let newest = format!("{copy} cp.async.wait_group 1; {SHOW}");
    let second = format!("{copy} cp.async.commit_group; cp.async.wait_group 1; {SHOW}");
    let all = format!("cp.async.ca.shared.global [%r1], [%rd1], 16; cp.async.wait_all; {SHOW}");
    let uncommitted =
        format!("cp.async.ca.shared.global [%r1], [%rd1], 16; cp.async.wait_group 0; {SHOW}");
    for thread in 0..64 {
        let landed = source_of(thread);
        for (body, want) in [
            (&waited, landed),
            (&early, [0xff; 16]),
            (&newest, [0xff; 16]),
            (&second, landed),
            (&all, landed),
            (&uncommitted, [0xff; 16]),
        ] {
            if thread == 0 || thread == 63 {
                assert_eq!(run(body, CopyMode::Strict)[thread], want, "thread {thread}: {body}");
                assert_eq!(run(body, CopyMode::Eager)[thread], landed, "eager: {body}");
            }
        }
    }
}

#[test]
fn groups_land_in_order_and_each_thread_waits_for_its_own() {
    // Odd threads commit one group more, so their wait covers the copy; even ones' does not.
    let body = format!(
        "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;\n\
         and.b32 %r2, %r0, 1; setp.eq.u32 %q0, %r2, 0; @%q0 bra L;\n\
         cp.async.commit_group;\nL: cp.async.wait_group 1; {SHOW}"
    );
    for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate() {
        let want = if thread % 2 == 1 { source_of(thread) } else { [0xff; 16] };
        assert_eq!(*got, want, "thread {thread}");
    }
}

#[test]
fn a_copy_lands_when_its_thread_exits() {
    // Warp 0 copies for warp 1 and exits without a wait; warp 1 passes the barrier later.
    let body = format!(
        "setp.lt.u32 %q0, %r0, 32; @!%q0 bra W;\n\
         cp.async.cg.shared.global [%r1+512], [%rd1+512], 16; bra E;\n\
         W: bar.sync 0, 32; {SHOW}\nE:"
    );
    for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate().skip(32) {
        assert_eq!(*got, source_of(thread), "thread {thread}");
    }
}

#[test]
fn the_source_is_read_at_issue() {
    let body = format!(
        "cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;\n\
         mov.u32 %r8, 0; st.global.v4.b32 [%rd1], {{%r8,%r8,%r8,%r8}};\n\
         cp.async.wait_group 0; {SHOW}"
    );
    assert_eq!(run(&body, CopyMode::Strict)[5], source_of(5));
}

#[test]
fn another_warp_s_store_does_not_reach_a_copy_in_flight() {
    // Warp 0 begins to copy; warp 1 writes over the sources; warp 0 waits.
    let body = format!(
        "setp.lt.u32 %q0, %r0, 32; @!%q0 bra S;\n\
         cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;\n\
         S: bar.sync 0; @%q0 bra W; mov.u32 %r8, 0;\n\
         st.global.v4.b32 [%rd1+-512], {{%r8,%r8,%r8,%r8}};\n\
         W: bar.sync 0; cp.async.wait_group 0; {SHOW}"
    );
    for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate().take(32) {
        assert_eq!(*got, source_of(thread), "thread {thread}");
    }
}

#[test]
fn sizes_zero_fill_and_ignored_sources() {
    for size in [4usize, 8, 16] {
        for bytes in [0, 1, 3, size] {
            let body = format!(
                "mov.u32 %r8, -1; st.shared.v4.b32 [%r1], {{%r8,%r8,%r8,%r8}};\n\
                 mov.u32 %r3, {bytes}; cp.async.ca.shared.global [%r1], [%rd1], {size}, %r3;\n\
                 cp.async.wait_all; {SHOW}"
            );
            for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate() {
                let mut want = [0xff; 16];
                want[..size].fill(0);
                want[..bytes].copy_from_slice(&source_of(thread)[..bytes]);
                assert_eq!(*got, want, "{bytes} of {size}, thread {thread}");
            }
        }
    }
    let body = format!(
        "and.b32 %r2, %r0, 1; setp.eq.u32 %q0, %r2, 0;\n\
         cp.async.ca.shared.global [%r1], [%rd1], 16, %q0; cp.async.wait_all; {SHOW}"
    );
    for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate() {
        let want = if thread % 2 == 0 { [0; 16] } else { source_of(thread) };
        assert_eq!(*got, want, "thread {thread}");
    }
}

#[test]
fn wrong_addresses_and_sizes_are_faults_that_name_lanes() {
    let at = "mov.u32 %r3, 16; setp.eq.u32 %q0, %r0, 9;";
    let copy = "cp.async.ca.shared.global [%r1], [%rd1], 16, %r3;";
    for (what, set, kind) in [
        ("source outside", "@%q0 add.u64 %rd1, %rd1, 1000000;", "illegal global"),
        ("source misaligned", "@%q0 add.u64 %rd1, %rd1, 8;", "misaligned global"),
        ("source null", "@%q0 mov.u64 %rd1, 0;", "illegal global"),
        ("destination outside", "@%q0 add.u32 %r1, %r1, 2048;", "illegal shared"),
        ("destination misaligned", "@%q0 add.u32 %r1, %r1, 4;", "misaligned shared"),
        ("too many bytes", "@%q0 mov.u32 %r3, 17;", "operand"),
    ] {
        for level in levels() {
            let source = kernel(&format!("{at} {set} {copy} {SHOW}"));
            let fault = launch(&source, (1, 64), &data(), level, CopyMode::Strict);
            let fault = fault.expect_err(what);
            let got = match fault.kind {
                FaultKind::IllegalAddress { space, .. } => format!("illegal {space}"),
                FaultKind::Misaligned { space, .. } => format!("misaligned {space}"),
                FaultKind::InvalidOperand => "operand".to_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!((got.as_str(), fault.lanes), (kind, 1 << 9), "{what}: {fault}");
        }
    }
    // With no byte to read, the source is not looked at.
    let body = format!(
        "{at} @%q0 mov.u32 %r3, 0; @%q0 add.u64 %rd1, %rd1, 1000000;\n{copy}\n\
         cp.async.wait_all; {SHOW}"
    );
    assert_eq!(run(&body, CopyMode::Strict)[9], [0; 16]);
}

#[test]
fn swizzled_tiles_land_where_each_lane_said() {
    // Chunk c of row r (8 chunks of 16 bytes) goes to chunk c ^ key(r), as tiles are swizzled; the
    // last key is none that stays inside blocks of 64 bytes.
    let keys =
        ["and.b32 %r3, %r2, 7;", "shr.u32 %r3, %r2, 1;", "mov.u32 %r3, 5;", "mov.u32 %r3, 0;"];
    for (key, offset) in keys.into_iter().flat_map(|key| [(key, 0), (key, 16), (key, 64)]) {
        for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;"] {
            for parted in [false, true] {
                // With `parted`, odd lanes wait on a path of their own.
                let wait = if parted {
                    format!(
                        "and.b32 %r8, %r0, 1; setp.eq.u32 %q0, %r8, 0; @%q0 bra A;\n{wait} bra B;\n\
                         A: {wait}\nB:"
                    )
                } else {
                    wait.to_owned()
                };
                let body = format!(
                    "shr.u32 %r2, %r0, 3; {key} xor.b32 %r3, %r3, %r0; shl.b32 %r3, %r3, 4;\n\
                     and.b32 %r3, %r3, 1023; mov.u32 %r2, s; add.u32 %r3, %r3, %r2;\n\
                     cp.async.cg.shared.global [%r3+{offset}], [%rd1], 16;\n\
                     cp.async.commit_group; ld.shared.b32 %r9, [%r3+{offset}];\n{wait}\n\
                     ld.shared.v4.b32 {{%r4,%r5,%r6,%r7}}, [%r3+{offset}];\n\
                     add.u32 %r9, %r9, 1; or.b32 %r4, %r4, %r9;\n\
                     st.global.v4.b32 [%rd2], {{%r4,%r5,%r6,%r7}};"
                );
                for (thread, got) in run(&body, CopyMode::Strict).iter().enumerate() {
                    assert_eq!(*got, source_of(thread), "thread {thread}: {body}");
                }
            }
        }
    }
}

#[test]
fn a_copy_that_ends_past_its_allocation_is_a_fault_in_every_pattern() {
    // The allocation has 2,048 bytes; warp 1 reads 512 bytes from 1,536 + 16.
    let body =
        format!("add.u64 %rd1, %rd1, 1040; cp.async.cg.shared.global [%r1], [%rd1], 16; {SHOW}");
    for level in levels() {
        let fault = launch(&kernel(&body), (1, 64), &data(), level, CopyMode::Strict);
        let fault = fault.expect_err("the last lane reads past the end");
        assert_eq!((fault.warp, fault.lanes), (1, 1 << 31), "{fault}");
    }
}
