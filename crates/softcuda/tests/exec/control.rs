//! Branches, loops, reconvergence, barriers, warp synchronisation.

use softcuda::exec::{Level, Order, Settings};
use softcuda::fault::FaultKind;

use crate::support::{kernel, run, run_all, settings};

#[test]
fn each_thread_stores_its_index() {
    let source = kernel("", "st.global.u32 [%rd1], %r0;", 4);
    let out = run_all(&source, 70, &[9; 80]);
    let want: Vec<u32> = (0..80).map(|i| if i < 70 { i } else { 9 }).collect();
    assert_eq!(out, want);
}

#[test]
fn divergent_loop_runs_each_lane_its_own_count() {
    let source = kernel(
        "",
        "mov.u32 %r1, 0; mov.u32 %r2, 0;\n\
         L: setp.ge.u32 %p1, %r2, %r0; @%p1 bra E;\n\
         add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1; bra.uni L;\n\
         E: activemask.b32 %r3; st.global.u32 [%rd1], %r1; st.global.u32 [%rd1+4], %r3;",
        8,
    );
    let out = run_all(&source, 32, &[0; 64]);
    for i in 0..32u32 {
        assert_eq!(out[i as usize * 2], i * i.wrapping_sub(1) / 2 * u32::from(i > 0));
        assert_eq!(out[i as usize * 2 + 1], !0, "lanes meet behind the loop");
    }
}

#[test]
fn sides_of_a_branch_meet_again() {
    let source = kernel(
        "",
        "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra A;\n\
         activemask.b32 %r2; add.u32 %r3, %r0, 100; bra J;\n\
         A: activemask.b32 %r2; add.u32 %r3, %r0, 200;\n\
         J: activemask.b32 %r4; st.global.v2.u32 [%rd1], {%r2, %r3}; st.global.u32 [%rd1+8], %r4;",
        16,
    );
    let out = run_all(&source, 32, &[0; 128]);
    for i in 0..32usize {
        let even = i % 2 == 0;
        assert_eq!(out[i * 4], if even { 0x5555_5555 } else { 0xaaaa_aaaa });
        assert_eq!(out[i * 4 + 1], i as u32 + if even { 200 } else { 100 });
        assert_eq!(out[i * 4 + 2], !0);
    }
}

#[test]
fn a_lane_may_spin_for_another_lane_of_its_warp() {
    // Lane 0 waits for a flag that lane 31 sets, whichever side stands first in the text.
    let one =
        "W: ld.volatile.shared.u32 %r1, [flag]; setp.eq.u32 %p2, %r1, 0; @%p2 bra W; bra.uni E;";
    let two = "S: st.volatile.shared.u32 [flag], 7; bra.uni E;";
    for sides in [format!("{one}\n{two}"), format!("{two}\n{one}")] {
        let source = kernel(
            ".shared .align 4 .u32 flag;",
            &format!(
                "setp.eq.u32 %p1, %r0, 0; setp.eq.u32 %p3, %r0, 31;\n\
                 @%p1 bra W; @%p3 bra S; bra.uni E;\n{sides}\n\
                 E: bar.warp.sync -1; ld.shared.u32 %r2, [flag]; st.global.u32 [%rd1], %r2;"
            ),
            4,
        );
        assert_eq!(run_all(&source, 32, &[0; 32]), [7; 32]);
    }
}

#[test]
fn warps_exchange_through_shared_memory_in_either_order() {
    let source = kernel(
        ".shared .align 4 .b8 s[512];",
        "shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0;\n\
         bar.sync 0; xor.b32 %r4, %r0, 127; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r2;\n\
         ld.shared.u32 %r5, [%r4]; st.global.u32 [%rd1], %r5;",
        4,
    );
    let want: Vec<u32> = (0..128).map(|i| i ^ 127).collect();
    assert_eq!(run_all(&source, 128, &[0; 128]), want);
    let back = Settings { warps: Order::Descending, ..settings(Level::Base) };
    assert_eq!(run(&source, 128, &[0; 128], back).expect("runs"), want);
}

#[test]
fn barrier_reductions_count_all_threads() {
    let source = kernel(
        "",
        "setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.or.pred %p2, 0, %p1;\n\
         bar.red.and.pred %p3, 0, !%p1; selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 1, 0, %p3;\n\
         st.global.u32 [%rd1], %r1; st.global.v2.u32 [%rd1+8], {%r2, %r3};",
        16,
    );
    let out = run_all(&source, 96, &[0; 384]);
    for row in out.chunks(4) {
        assert_eq!((row[0], row[2], row[3]), (40, 1, 0));
    }
}

#[test]
fn named_barriers_hand_over_between_warps() {
    // Warp 1 produces and only arrives; warp 0 waits.
    let source = kernel(
        ".shared .align 4 .u32 box;",
        "setp.ge.u32 %p1, %r0, 32; @%p1 bra P;\n\
         bar.sync 3, 64; ld.shared.u32 %r1, [box]; st.global.u32 [%rd1], %r1; bra.uni E;\n\
         P: st.shared.u32 [box], 55; bar.arrive 3, 64; E:",
        4,
    );
    let out = run_all(&source, 64, &[0; 64]);
    assert_eq!(&out[..32], &[55; 32]);
}

#[test]
fn a_barrier_that_cannot_complete_is_reported() {
    let source = kernel(
        "",
        "setp.ge.u32 %p1, %r0, 32; @%p1 bra P;\nbar.sync 1; bra.uni E;\nP: bar.sync 2; E:",
        4,
    );
    let fault = run(&source, 64, &[0; 64], settings(Level::Base)).expect_err("deadlock");
    assert_eq!(fault.kind, FaultKind::Barrier);
    assert!(fault.detail.contains("warp 0 waits at barrier 1"), "{fault}");
    assert!(fault.detail.contains("warp 1 waits at barrier 2"), "{fault}");
}

#[test]
fn a_shuffle_whose_members_never_arrive_is_reported() {
    let source = kernel(
        "",
        "setp.ge.u32 %p1, %r0, 16; @%p1 bra P;\n\
         shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; bra.uni E;\n\
         P: bar.sync 0; E:",
        4,
    );
    let fault = run(&source, 32, &[0; 64], settings(Level::Base)).expect_err("never together");
    assert_eq!(fault.kind, FaultKind::WarpSync);
    assert_eq!(fault.lanes, 0xffff);
}

#[test]
fn indirect_branches_split_by_target() {
    let source = kernel(
        "",
        "and.b32 %r1, %r0, 3;\nT: .branchtargets A, B, C, A;\nbrx.idx %r1, T;\n\
         A: mov.u32 %r2, 10; bra.uni E; B: mov.u32 %r2, 20; bra.uni E; C: mov.u32 %r2, 30;\n\
         E: activemask.b32 %r3; st.global.v2.u32 [%rd1], {%r2, %r3};",
        8,
    );
    let out = run_all(&source, 32, &[0; 64]);
    for i in 0..32 {
        assert_eq!(out[i * 2], [10, 20, 30, 10][i % 4]);
        assert_eq!(out[i * 2 + 1], !0);
    }
}

#[test]
fn calls_pass_parameters_and_results() {
    let source = ".version 8.7\n.target sm_80\n.address_size 64\n\
        .func (.param .b32 r) twice(.param .b32 a, .param .b64 b) {\n\
        .reg .b32 %x<4>; .reg .b64 %y<2>; .reg .pred %q<2>;\n\
        ld.param.u32 %x0, [a]; ld.param.u64 %y0, [b]; cvt.u32.u64 %x1, %y0; mad.lo.u32 %x2, %x0, 2, %x1;\n\
        setp.gt.u32 %q0, %x2, 50; @%q0 bra BIG; st.param.b32 [r], %x2; ret; BIG: mov.u32 %x3, 50; st.param.b32 [r], %x3; ret; }\n\
        .visible .entry k(.param .u64 p) { .reg .b32 %r<8>; .reg .b64 %rd<4>; ld.param.u64 %rd0,[p]; mov.u32 %r0,%tid.x;\n\
        mul.wide.u32 %rd1,%r0,4; add.u64 %rd0,%rd0,%rd1; mov.u64 %rd2, 3;\n\
        { .param .b32 a0; .param .b64 a1; .param .b32 r0; st.param.b32 [a0], %r0; st.param.b64 [a1], %rd2; call.uni (r0), twice, (a0, a1); ld.param.b32 %r1, [r0]; }\n\
        st.global.u32 [%rd0], %r1; ret; }";
    let source = source.replace("cvt.u32.u64 %x1, %y0", "mov.b64 {%x1, %x3}, %y0");
    let want: Vec<u32> = (0..32).map(|i| (i * 2 + 3).min(50)).collect();
    assert_eq!(run_all(&source, 32, &[0; 32]), want);
}
