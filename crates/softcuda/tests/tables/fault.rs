//! What must fail: each bad access and misuse, with the right kind, lanes, line and place.

use softcuda::fault::{Fault, FaultKind, Space};

use super::machine::{Machine, Shape, levels};

/// The line of the kernel on which the instruction under test stands.
const LINE: u32 = 14;

/// A kernel whose line [`LINE`] is `instruction`. `%w0` is the address of 1,000 bytes and `%w1`
/// that address plus 16 bytes for each thread; `%i0` is the lane.
fn kernel(declare: &str, before: &str, instruction: &str) -> String {
    assert!(!declare.contains('\n') && !before.contains('\n'));
    format!(
        ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p)
{{
 .reg .b32 %i<8>, %d<8>; .reg .b64 %w<8>; .reg .pred %p<4>; .reg .b16 %h;
 {declare}
 ld.param.u64 %w0, [p];
 mov.u32 %i0, %tid.x; mul.wide.u32 %w2, %i0, 16; add.u64 %w1, %w0, %w2; mov.u64 %w3, 0; mov.u32 %i1, 77;
 {before}
 .loc 1 48 5
 mov.u32 %i2, 0;
 .loc 2 7 9, function_name name, inlined_at 1 48 5
 {instruction}
 .loc 1 50 1
 st.global.u32 [%w0], %i2;
 ret;
}}
.file 1 \"/somewhere/kernels/test.cu\"
.file 2 \"/somewhere/kernels/include/vec.cuh\"
.section .debug_str
{{
name:
.b8 111,110,101,0
}}
"
    )
}

/// Runs 40 threads; the fault that must come, the same at every level.
fn fault(text: &str) -> Box<Fault> {
    let mut first: Option<Box<Fault>> = None;
    for level in levels() {
        let machine = Machine::new(text);
        let bytes = machine.upload(&[0x11; 1000]);
        let shape =
            Shape { grid: [2, 1, 1], block: [40, 1, 1], shared: 64, params: &bytes.to_le_bytes() };
        let result = machine.run(level, "k", shape).unwrap_or_else(|e| panic!("{e}"));
        let fault = result.map(|()| panic!("no fault at {level:?}: {text}")).unwrap_err();
        assert_eq!(fault.kernel, "k");
        match &first {
            None => first = Some(fault),
            Some(first) => assert_eq!(
                (&first.kind, first.lanes, first.ptx_line),
                (&fault.kind, fault.lanes, fault.ptx_line),
                "at {level:?}"
            ),
        }
    }
    first.expect("a level")
}

/// A fault of the instruction on [`LINE`].
fn fault_of(declare: &str, before: &str, instruction: &str) -> Box<Fault> {
    let text = kernel(declare, before, instruction);
    let expected = text.lines().nth(LINE as usize - 1).expect("the line").trim().to_owned();
    assert_eq!(expected, instruction);
    let fault = fault(&text);
    assert_eq!((fault.ptx_line, fault.ptx_text.trim()), (LINE, instruction), "{fault}");
    let loc = fault.loc.as_ref().unwrap_or_else(|| panic!("no source position: {fault}"));
    assert_eq!((loc.file.as_str(), loc.line), ("kernels/include/vec.cuh", 7));
    let outer = loc.inlined_at.as_ref().expect("it was inlined");
    assert_eq!((outer.file.as_str(), outer.line), ("kernels/test.cu", 48));
    fault
}

fn illegal(fault: &Fault, space: Space, size: u32) -> u64 {
    match fault.kind {
        FaultKind::IllegalAddress { addr, size: s, space: found }
            if s == size && found == space =>
        {
            addr
        }
        _ => panic!("{fault}"),
    }
}

fn misaligned(fault: &Fault, space: Space, size: u32) -> u64 {
    match fault.kind {
        FaultKind::Misaligned { addr, size: s, space: found } if s == size && found == space => {
            addr
        }
        _ => panic!("{fault}"),
    }
}

#[test]
fn accesses_outside_of_an_allocation() {
    for instruction in [
        "ld.global.u32 %d0, [%w1+992];",
        "ld.global.v4.u32 {%d0, %d1, %d2, %d3}, [%w1+992];",
        "st.global.u32 [%w1+992], %d0;",
        "st.global.u8 [%w1+1000], %d0;",
        "ld.global.nc.u32 %d0, [%w1+1000];",
        "atom.global.add.u32 %d0, [%w1+1000], 1;",
        "red.global.add.u32 [%w1+1000], 1;",
        "cp.async.cg.shared.global [s], [%w1+992], 16;",
    ] {
        let f = fault_of(".shared .align 16 .b8 s[64];", "", instruction);
        assert_eq!((f.code, f.block, f.warp), (700, [0, 0, 0], 0), "{f}");
        // Threads 0 and up at +1000; at +992 thread 0 reaches 4 bytes, but 16 only in part.
        let from = if instruction.contains("+992")
            && instruction.contains(".u32")
            && !instruction.contains("v4")
        {
            1
        } else {
            0
        };
        assert_eq!(f.lanes, u32::MAX << from, "{instruction}: {f}");
        assert_eq!(f.thread, [from, 0, 0], "{instruction}: {f}");
        assert!(f.detail.contains("allocation #") && f.detail.contains("1000 bytes"), "{f}");
    }
    let f = fault_of("", "", "ld.u32 %d0, [%w1+1000];");
    assert_eq!((f.code, f.lanes), (700, u32::MAX), "{f}");
}

#[test]
fn null_and_host_pointers() {
    let f = fault_of("", "", "ld.global.u32 %d0, [%w3];");
    assert_eq!(illegal(&f, Space::Global, 4), 0);
    assert!(f.detail.contains("null"), "{f}");
    let host = Box::new(5u32);
    let address = std::ptr::from_ref(&*host) as u64;
    let f = fault_of("", &format!("mov.u64 %w4, {address};"), "ld.global.u32 %d0, [%w4];");
    assert_eq!(illegal(&f, Space::Global, 4), address);
}

#[test]
fn memory_that_was_freed() {
    for level in levels() {
        let machine = Machine::new(&kernel("", "", "ld.global.u32 %d0, [%w1];"));
        let bytes = machine.upload(&[0; 1000]);
        machine.free(bytes);
        let shape =
            Shape { grid: [1, 1, 1], block: [1, 1, 1], shared: 0, params: &bytes.to_le_bytes() };
        let fault = machine.run(level, "k", shape).expect("loads").expect_err("freed");
        assert_eq!((fault.code, fault.lanes, fault.ptx_line), (700, 1, LINE));
        assert!(fault.detail.contains("freed"), "{fault}");
    }
}

#[test]
fn misaligned_accesses() {
    let cases = [
        ("ld.global.u32 %d0, [%w1+2];", Space::Global, 4),
        ("ld.global.v2.u32 {%d0, %d1}, [%w1+4];", Space::Global, 8),
        ("ld.global.v4.u32 {%d0, %d1, %d2, %d3}, [%w1+8];", Space::Global, 16),
        ("st.global.u16 [%w1+1], %h;", Space::Global, 2),
        ("st.global.u64 [%w1+4], %w1;", Space::Global, 8),
        ("atom.global.add.u32 %d0, [%w1+2], 1;", Space::Global, 4),
        ("ld.shared.u32 %d0, [s+2];", Space::Shared, 4),
        ("st.shared.v4.u32 [s+8], {%d0, %d1, %d2, %d3};", Space::Shared, 16),
        ("ld.local.u64 %w4, [l+4];", Space::Local, 8),
    ];
    for (instruction, space, size) in cases {
        let f =
            fault_of(".shared .align 16 .b8 s[64]; .local .align 16 .b8 l[32];", "", instruction);
        assert_eq!((f.code, f.lanes), (716, u32::MAX), "{instruction}: {f}");
        misaligned(&f, space, size);
    }
    let f =
        fault_of(".shared .align 16 .b8 s[64];", "", "cp.async.ca.shared.global [s+4], [%w1], 8;");
    assert_eq!(f.code, 716, "{f}");
    let f = fault_of(
        ".shared .align 16 .b8 s[64];",
        "mov.u32 %i3, s;",
        "@!%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%d0}, [%i3+8];",
    );
    assert_eq!(f.code, 716, "{f}");
}

#[test]
fn shared_local_and_parameter_bounds() {
    let s = ".shared .align 16 .b8 s[64]; .local .align 16 .b8 l[32];";
    // 64 static and 64 dynamic bytes.
    let f = fault_of(
        s,
        "mov.u32 %i3, s; shl.b32 %i4, %i0, 2; add.u32 %i3, %i3, %i4;",
        "ld.shared.u32 %d0, [%i3+4];",
    );
    assert_eq!((f.code, f.lanes), (700, 1 << 31), "{f}");
    assert_eq!(illegal(&f, Space::Shared, 4), 128);
    let f = fault_of(s, "", "st.shared.u32 [s+128], %d0;");
    assert_eq!(f.code, 700, "{f}");
    let f = fault_of(
        s,
        "mov.u32 %i3, l; shl.b32 %i4, %i0, 12; add.u32 %i3, %i3, %i4;",
        "st.local.u32 [%i3], %d0;",
    );
    assert_eq!((f.code, f.lanes & 1), (700, 0), "{f}");
    let f = fault_of(s, "mov.b64 %w4, p;", "ld.param.u64 %w5, [%w4+8];");
    assert_eq!(f.code, 700, "{f}");
    let f = fault_of(s, "mov.b64 %w4, p; cvta.param.u64 %w4, %w4;", "st.u32 [%w4], %d0;");
    assert_eq!(f.code, 700, "{f}");
}

#[test]
fn a_failing_instruction_writes_nothing() {
    // Lane 5 alone is out of range; no lane's store may land.
    let before = "setp.eq.u32 %p1, %i0, 5; selp.b64 %w4, 1048576, 0, %p1; add.u64 %w4, %w1, %w4;";
    let text = kernel("", before, "st.global.u32 [%w4], %i1;");
    for level in levels() {
        let machine = Machine::new(&text);
        let bytes = machine.upload(&[0x11; 1000]);
        let shape =
            Shape { grid: [1, 1, 1], block: [32, 1, 1], shared: 0, params: &bytes.to_le_bytes() };
        let fault = machine.run(level, "k", shape).expect("loads").expect_err("out of range");
        assert_eq!((fault.lanes, fault.thread), (1 << 5, [5, 0, 0]), "{fault}");
        assert!(machine.download(bytes, 1000).iter().all(|b| *b == 0x11));
    }
}

#[test]
fn lanes_that_do_not_take_part_cannot_fail() {
    let text = kernel("", "setp.eq.u32 %p1, %i0, 99;", "@%p1 ld.global.u32 %d0, [%w3];");
    for level in levels() {
        let machine = Machine::new(&text);
        let bytes = machine.upload(&[0; 1000]);
        let launched = machine.launch(level, "k", [1, 1, 1], [40, 1, 1], 0, &bytes.to_le_bytes());
        assert_eq!(launched, Ok(()));
    }
}

#[test]
fn misuse_of_warp_and_block_operations() {
    let cases = [
        "shfl.sync.idx.b32 %d0, %i0, 9, 31, 0x1ff;",
        "bar.sync 16;",
        "bar.sync 1, 33;",
        "trap;",
        "cp.async.cg.shared.global [s], [%w0], 16, 17;",
    ];
    for instruction in cases {
        // A shuffle among nine lanes: the others go around it.
        let (before, instruction) = if instruction.starts_with("shfl") {
            ("setp.gt.u32 %p1, %i0, 8;", format!("@!%p1 {instruction}"))
        } else {
            ("", instruction.to_owned())
        };
        let f = fault_of(".shared .align 16 .b8 s[64];", before, &instruction);
        assert_eq!(f.code, 719, "{instruction}: {f}");
    }
}

#[test]
fn what_is_not_supported_is_named_when_its_kernel_is_loaded() {
    for instruction in [
        "mul24.lo.s32 %d0, %d1, %d2;",
        "frobnicate.u32 %d0, %d1;",
        "add.sideways.u32 %d0, %d1, %d2;",
        "tex.2d.v4.f32.s32 {%d0, %d1, %d2, %d3}, [%w0, {%d0, %d1}];",
        "vadd2.u32.u32.u32 %d0, %d1, %d2, %d3;",
    ] {
        let machine = Machine::new(&kernel("", "", instruction));
        for level in levels() {
            let shape = Shape { grid: [1, 1, 1], block: [1, 1, 1], shared: 0, params: &[0; 8] };
            let error = machine.run(level, "k", shape).map(|_| ()).expect_err(instruction);
            assert_eq!(
                (error.code, error.line, error.function.as_str()),
                (801, LINE, "k"),
                "{error}"
            );
            assert!(error.message.contains(instruction), "{error}");
        }
    }
}

#[test]
fn other_kernels_of_the_module_do_not_matter() {
    let text = ".version 8.0 .target sm_80 .address_size 64
.visible .entry bad() { .reg .b32 %d<4>; frobnicate.u32 %d0, %d1; ret; }
.visible .entry good() { ret; }";
    let machine = Machine::new(text);
    for level in levels() {
        assert_eq!(machine.launch(level, "good", [1, 1, 1], [32, 1, 1], 0, &[]), Ok(()));
        assert!(machine.launch(level, "bad", [1, 1, 1], [32, 1, 1], 0, &[]).is_err());
    }
}
