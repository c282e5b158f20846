//! The PTX parser on what compilers write, on hand-written corners and on damaged text.
#![expect(clippy::panic, reason = "helpers of tests fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "a ceiling on the time that hostile text takes")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use softcuda::ptx;
use softcuda::ptx::ast::{
    AddressBase, CallTarget, FunctionKind, Linkage, Module, Operand, Symbol, Table,
};
use softcuda::ptx::types::{Axis, RegClass, Space, Special};

/// The compiled corpus: file name and text.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ptx");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("readable"))
        })
        .collect();
    files.sort();
    assert!(files.len() >= 15, "{} files", files.len());
    files
}

fn parse(text: &str) -> Module {
    ptx::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// A module with one kernel of this body.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n{body}\n}}\n"
    )
}

fn parse_kernel(body: &str) -> Module {
    let module = parse(&kernel(body));
    if let Some(Err(e)) = &module.functions[0].body {
        panic!("{e}");
    }
    module
}

fn kernel_error(body: &str) -> String {
    match &parse(&kernel(body)).functions[0].body {
        Some(Err(error)) => error.to_string(),
        other => panic!("parsed: {other:?}"),
    }
}

#[test]
fn everything_that_nvcc_wrote_parses() {
    let mut failures = String::new();
    for (name, text) in corpus() {
        match ptx::parse(&text) {
            Err(error) => writeln!(failures, "{name}: {error}").expect("a string"),
            Ok(module) => {
                let kernels = module.functions.iter().filter(|f| f.kind == FunctionKind::Entry);
                assert!(kernels.count() > 0, "{name}");
                for function in &module.functions {
                    if let Some(Err(error)) = &function.body {
                        let f = module.name(function.name);
                        writeln!(failures, "{name}: {f}: {error}").expect("a string");
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn variables_have_sizes_and_initial_values() {
    let module = parse(
        ".version 8.7 // a comment
.target sm_90a, debug
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .global .align 4 .u32 counter = 42;
.const .f32 table[4] = {0f3F800000, -1.5, 2};
.global .u16 rows[2][3] = {{1, 2}, {3}};
.global .u8 open[] = {1, 2, 3};
.func (.param .b32 r) f(.param .b32 a);
.global .u64 pointers[4] = {counter, generic(counter)+8, f, 7};
.global .u8 parts[2] = {0xFF(counter), 0xFF00(generic(counter))};
.global .v2 .f64 pair = {0d3FF0000000000000, 2.0};
.extern .global .u32 later;
.global .u32 later = 1 << 4 | 1;
",
    );
    assert_eq!(module.version, (8, 7));
    let targets: Vec<_> = module.targets.iter().map(|t| module.name(*t)).collect();
    assert_eq!(targets, ["sm_90a", "debug"]);
    let var = |name: &str| {
        let id = module.find_variable(name).unwrap_or_else(|| panic!("{name}"));
        module.variable(id).expect("an id of this module")
    };
    let bytes = |name: &str| var(name).init.as_ref().expect("an initial value").bytes.clone();

    assert!(var("dynamic").is_unsized());
    assert_eq!((var("dynamic").space, var("dynamic").align), (Space::Shared, 16));
    assert_eq!(var("counter").linkage, Linkage::Visible);
    assert_eq!(bytes("counter"), 42u32.to_le_bytes());
    let floats: Vec<u8> = [1.0f32, -1.5, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!((var("table").size, bytes("table")), (16, floats));
    assert_eq!((var("rows").size, bytes("rows")), (12, vec![1, 0, 2, 0, 0, 0, 3, 0]));
    assert_eq!((var("open").size, bytes("open")), (3, vec![1, 2, 3]));
    let pair: Vec<u8> = [1.0f64, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!((var("pair").size, var("pair").align, bytes("pair")), (16, 16, pair));
    assert_eq!(bytes("later"), 17u32.to_le_bytes());

    let counter = Symbol::Var(module.find_variable("counter").expect("declared"));
    let f = Symbol::Func(module.find_function("f").expect("declared"));
    let pointers = &var("pointers").init.as_ref().expect("an initial value").relocations;
    let seen: Vec<_> =
        pointers.iter().map(|r| (r.at, r.width, r.target, r.addend, r.generic)).collect();
    assert_eq!(seen, [(0, 8, counter, 0, false), (8, 8, counter, 8, true), (16, 8, f, 0, false)]);
    assert_eq!(bytes("pointers").len(), 32);
    let parts = &var("parts").init.as_ref().expect("an initial value").relocations;
    let masks: Vec<_> = parts.iter().map(|r| (r.at, r.width, r.mask, r.generic)).collect();
    assert_eq!(masks, [(0, 1, 0xff, false), (1, 1, 0xff00, true)]);
}

#[test]
fn parameters_are_laid_out() {
    let module = parse(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u8 a, .param .align 8 .b8 s[20], .param .u64 .ptr .global .align 16 p, .param .u16 b)
.maxntid 128, 2 .minnctapersm 3 .reqntid 64 { ret; }
.func (.reg .b32 r) g(.reg .b64 x, .reg .pred q) { mov.b32 r, 1; ret; }
.extern .func (.param .b32 v) vprintf(.param .b64 a, .param .b64 b);
",
    );
    let k = module.function(module.find_function("k").expect("declared")).expect("its id");
    let layout: Vec<_> = k.params.iter().map(|p| (p.offset, p.size, p.align)).collect();
    assert_eq!(layout, [(0, 1, 1), (8, 20, 8), (32, 8, 8), (40, 2, 2)]);
    assert_eq!(k.param_bytes(), 42);
    assert_eq!(k.params[2].pointer_space, Some(Space::Global));
    assert_eq!(k.perf.max_threads, Some([128, 2, 1]));
    assert_eq!(k.perf.required_threads, Some([64, 1, 1]));
    assert_eq!(k.perf.min_blocks_per_sm, Some(3));
    let g = module.function(module.find_function("g").expect("declared")).expect("its id");
    let body = g.body.as_ref().expect("a body").as_ref().expect("parsed");
    let reg = g.params[1].reg.expect("a register parameter");
    assert_eq!(body.reg_class(reg), Some(RegClass::Pred));
    assert_eq!(body.insts[0].operands[0], Operand::Reg(g.returns[0].reg.expect("a register")));
    let v = module.function(module.find_function("vprintf").expect("declared")).expect("its id");
    assert!(v.body.is_none() && v.params.len() == 2 && v.linkage == Linkage::Extern);
}

#[test]
fn operands_of_every_form() {
    let module = parse_kernel(
        ".reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .v4 .f32 v; .shared .f32 s[4];
mov.u32 %r1, %tid.x;
@!%p1 setp.lt.and.s32 %p1|%p2, %r1, -5, !%p2;
shfl.sync.idx.b32 %r2|_, %r1, 0x1f, 31, 0xffffffff;
ld.global.v4.f32 {%r3, %r4, _, %r5}, [%rd1+-16];
st.shared.f32 [s+8], v.y;
ld.param.u64 %rd2, [p];
mov.b64 %rd1, s+4;
mov.f32 %r6, 0f3F800000;
st.global.v4.f32 [%rd1], v;
ld.global.u32 %r7, [64];
add.u32 %r8, WARP_SZ, !0;
fma.rn.f64 %rd1, %rd1, 1.5, 0dBFF0000000000000;
mov.u64 %rd2, p;",
    );
    let body = module.functions[0].body.as_ref().expect("a body").as_ref().expect("parsed");
    let text = |r: &Operand| match r {
        Operand::Reg(r) | Operand::NotReg(r) => module.name(body.regs[r.0 as usize].name),
        other => panic!("{other:?}"),
    };
    let inst = |i: usize| &body.insts[i];
    let opcode = |i: usize| {
        let mut words = vec![module.name(inst(i).opcode)];
        words.extend(inst(i).modifiers.iter().map(|m| module.name(*m)));
        words.join(".")
    };
    assert_eq!(inst(0).operands[1], Operand::Special(Special::Tid(Axis::X)));
    assert_eq!(opcode(1), "setp.lt.and.s32");
    let guard = inst(1).guard.expect("a guard");
    assert!(guard.negated && text(&Operand::Reg(guard.reg)) == "%p1");
    assert!(matches!(inst(1).operands[0], Operand::Pair(Some(a), Some(_)) if a == guard.reg));
    assert_eq!(inst(1).operands[2], Operand::Int((-5i64).cast_unsigned()));
    assert!(
        matches!(inst(1).operands[3], Operand::NotReg(_)) && text(&inst(1).operands[3]) == "%p2"
    );
    assert!(matches!(inst(2).operands[0], Operand::Pair(Some(_), None)));
    assert_eq!(inst(2).operands[4], Operand::Int(0xffff_ffff));
    let Operand::Vector(vector) = &inst(3).operands[0] else { panic!("no vector") };
    assert!(vector[2] == Operand::Sink && text(&vector[3]) == "%r5");
    assert!(matches!(inst(3).operands[1], Operand::Address(AddressBase::Reg(_), -16)));
    let s = body.variables[0];
    assert_eq!(inst(4).operands[0], Operand::Address(AddressBase::Symbol(Symbol::Var(s)), 8));
    assert_eq!(
        body.reg_class(match inst(4).operands[1] {
            Operand::Reg(r) => r,
            _ => panic!("no register"),
        }),
        Some(RegClass::B32)
    );
    assert_eq!(inst(5).operands[1], Operand::Address(AddressBase::Symbol(Symbol::Param(0)), 0));
    assert_eq!(inst(6).operands[1], Operand::Symbol(Symbol::Var(s), 4));
    assert_eq!(inst(7).operands[1], Operand::F32(0x3f80_0000));
    let Operand::Vector(whole) = &inst(8).operands[1] else { panic!("no vector") };
    assert!(whole.len() == 4 && whole[1] == inst(4).operands[1]);
    assert_eq!(inst(9).operands[1], Operand::Address(AddressBase::Absolute, 64));
    assert_eq!(inst(10).operands[1..], [Operand::Int(32), Operand::Int(1)]);
    assert_eq!(inst(11).operands[2], Operand::F64(1.5f64.to_bits()));
    assert_eq!(inst(12).operands[1], Operand::Symbol(Symbol::Param(0), 0));
}

#[test]
fn scopes_shadow_registers_and_labels() {
    let module = parse_kernel(
        ".reg .b32 %r<4>; mov.b32 %r1, 1;
{ .reg .b16 %r<2>; mov.b16 %r1, 2; L: bra M; { bra L; } M: }
{ .reg .b64 %r1; mov.b64 %r1, 3; L: bra L; M: bra.uni END; }
mov.b32 %r1, 4;
END: ret;",
    );
    let body = module.functions[0].body.as_ref().expect("a body").as_ref().expect("parsed");
    let classes: Vec<_> = [0, 1, 4, 7]
        .map(|i: usize| match body.insts[i].operands[0] {
            Operand::Reg(r) => (r, body.reg_class(r).expect("a register of this body")),
            _ => panic!("no register"),
        })
        .into();
    let widths: Vec<_> = classes.iter().map(|c| c.1).collect();
    assert_eq!(widths, [RegClass::B32, RegClass::B16, RegClass::B64, RegClass::B32]);
    assert_eq!(classes[0].0, classes[3].0);
    let target = |i: usize| match body.insts[i].operands[0] {
        Operand::Label(label) => body.target(label).expect("a label of this body"),
        ref other => panic!("{other:?}"),
    };
    assert_eq!([2, 3, 5, 6].map(target), [4, 2, 5, 8]);
}

#[test]
fn calls_and_tables() {
    let module = parse(
        ".version 8.0 .target sm_80 .address_size 64
.func (.param .b32 r) f(.param .b32 a);
.func g();
.entry k() {
 .reg .b32 %r<3>; .reg .b64 %rd<2>;
 { .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call.uni (r), f, (a); ld.param.b32 %r2, [r]; }
 call g;
 { .param .b32 a; .param .b32 r;
   proto: .callprototype (.param .b32 _) _ (.param .b32 _);
   call (r), %rd1, (a), proto; }
 targets: .branchtargets A, B, A;
 brx.idx %r1, targets;
 A: ret;
 B: call %rd1, list;
 list: .calltargets g, g;
}",
    );
    let k = module.function(module.find_function("k").expect("declared")).expect("its id");
    let body = k.body.as_ref().expect("a body").as_ref().unwrap_or_else(|e| panic!("{e}"));
    let call = |i: usize| body.insts[i].call.as_ref().expect("a call");
    let f = module.find_function("f").expect("declared");
    assert_eq!(
        (call(1).target, call(1).args.len(), call(1).returns.len()),
        (CallTarget::Func(f), 1, 1)
    );
    let Operand::Symbol(Symbol::Var(slot), 0) = call(1).args[0] else { panic!("no slot") };
    let slot = module.variable(slot).expect("a variable");
    assert!(slot.space == Space::Param && slot.owner == module.find_function("k"));
    assert!(call(2 + 1).args.is_empty());
    assert!(matches!(call(4).target, CallTarget::Reg(_)));
    let table = |i: u32| &body.tables[i as usize];
    let id = call(4).table.expect("a prototype");
    assert!(
        matches!(table(id.0), Table::Prototype(p) if p.params.len() == 1 && p.returns.len() == 1)
    );
    let Operand::Table(id) = body.insts[5].operands[1] else { panic!("no table") };
    let Table::Branch(labels) = table(id.0) else { panic!("no branch table") };
    let targets: Vec<_> = labels.iter().map(|l| body.target(*l).expect("a label")).collect();
    assert_eq!(targets, [6, 7, 6]);
    assert!(
        matches!(table(call(7).table.expect("a list").0), Table::Call(list) if list.len() == 2)
    );
}

#[test]
fn positions_chain_through_inlining() {
    let module = parse(
        r#".version 8.0 .target sm_80 .address_size 64
.entry k() {
 .loc 1 50 3
 membar.gl;
 .loc 2 100 5, function_name $L__info_string0, inlined_at 1 50 3
 membar.gl;
 .loc 3 7 1, function_name $L__info_string0+4, inlined_at 2 100 5
 membar.gl;
 .loc 1 51 1
 ret;
}
.file 1 "/somewhere/kernels/gemm.cu"
.file 2 "/somewhere/kernels/include/mma.cuh", 1, 2
.file 3 "/usr/include/vector.h"
.section .debug_str {
$L__info_string0:
.b8 111,110,101,0
.b8 116,119,111
.b8 0
}"#,
    );
    let body = module.functions[0].body.as_ref().expect("a body").as_ref().expect("parsed");
    let chains: Vec<_> =
        body.insts.iter().map(|i| module.lines.chain(&module.names, i.loc)).collect();
    assert_eq!(chains[0], [("kernels/gemm.cu", 50, None)]);
    assert_eq!(
        chains[2],
        [
            ("vector.h", 7, Some("two")),
            ("kernels/include/mma.cuh", 100, Some("one")),
            ("kernels/gemm.cu", 50, None)
        ]
    );
    assert_eq!(
        module.lines.describe(&module.names, body.insts[1].loc).as_deref(),
        Some("kernels/include/mma.cuh:100 (inlined at kernels/gemm.cu:50)")
    );
    assert_eq!(chains[3], [("kernels/gemm.cu", 51, None)]);
    assert_eq!((body.insts[3].line, module.line_text(body.insts[3].line)), (10, "ret;".into()));
}

#[test]
fn lineinfo_of_the_compiler_resolves() {
    let (_, text) = corpus().into_iter().find(|f| f.0 == "warp.sm_80.ptx").expect("in the corpus");
    let module = ptx::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let mut inlined = 0;
    for function in &module.functions {
        let Some(Ok(body)) = &function.body else { continue };
        for inst in &body.insts {
            let chain = module.lines.chain(&module.names, inst.loc);
            let last = chain.last().unwrap_or_else(|| panic!("line {} has no position", inst.line));
            assert_eq!(last.0, "kernels/warp.cu", "line {}: {chain:?}", inst.line);
            if chain.len() > 1 {
                inlined += 1;
                assert!(chain[0].2.is_some_and(|f| !f.is_empty()), "{chain:?}");
            }
        }
    }
    assert!(inlined > 50, "{inlined}");
}

#[test]
fn an_error_names_line_and_text() {
    for (body, expected) in [
        (
            ".reg .b32 a;
mov.b32 a, b;",
            "PTX line 7:12: `b` is not declared: mov.b32 a, b;",
        ),
        ("mov.b32 %r1, 0;", "neither declared nor a special register"),
        (
            ".reg .b32 a;
.reg .b32 a;",
            "`a` is declared twice in this scope",
        ),
        ("L: L: ret;", "label `L` is defined twice"),
        ("bra L;", "`L` is not declared"),
        (".reg .b32 a; add.u32 a, a, %tid;", "special register"),
        (".reg .b32 a; @a ret;", "a guard is a predicate register"),
        ("call nothing;", "`nothing` is not a function"),
        (".reg .b32 a; mov.u32 a, 1/0;", "no value"),
        (".reg .b32 a; mov.u32 a, 99999999999999999999;", "not a number"),
        (".reg .b32 a; mov.u32 a, 1", "expected `;`"),
        ("ret", "expected an operand"),
        (".reg .b32 r<99999999999>;", "too many registers"),
        (".shared .b8 s[9223372036854775807][2];", "too large"),
        (".tex .b8 s;", "unknown state space"),
    ] {
        let error = kernel_error(body);
        assert!(error.contains(expected), "{body}: {error}");
    }
    for (text, expected) in [
        ("", "expected `.version`"),
        (".version 8.0 .target sm_80 .address_size 32", "only .address_size 64"),
        (
            ".version 8.0
.nonsense",
            "PTX line 2:1: unknown directive `.nonsense`: .nonsense",
        ),
        (".version 8.0 .entry k() {", "end of the text"),
        (".version 8.0 .global .u32 a[2] = {1,2,3};", "too many initial values"),
        (".version 8.0 .global .u32 a; .global .u32 a;", "declared twice"),
        (".version 8.0 .global .align 3 .u32 a;", "is not an alignment"),
        (".version 8.0 .global .texref t;", "cannot stand here"),
        (".version 8.0 .entry k() { ret; } .entry k() { ret; }", "declared twice"),
    ] {
        let error = ptx::parse(text.as_bytes()).map(|_| ()).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    let newer = ptx::parse(b".version 9.9 .nonsense").expect_err("not a directive");
    assert!(newer.newer_version);
}

#[test]
fn an_error_poisons_its_function_only() {
    let module = parse(
        ".version 8.0 .target sm_80 .address_size 64
.entry a() { ret; }
.entry b() { { .reg .b32 %r<2>; mov.b32 {%r1, %r9}, 5; } } }
"
        .replace("} } }", "} }")
        .as_str(),
    );
    assert!(matches!(module.functions[0].body, Some(Ok(_))));
    assert!(matches!(module.functions[1].body, Some(Err(_))));
    let module = parse(
        ".version 8.0 .target sm_80 .address_size 64
.entry b() { .reg .b32 %r<2>; mov.b64 {%r1, ?}, {5, 6}; { ret; } }
.global .u32 between;
.entry c() { ret; }",
    );
    assert!(matches!(module.functions[0].body, Some(Err(_))));
    assert!(matches!(module.functions[1].body, Some(Ok(_))));
    assert!(module.find_variable("between").is_some());
}

#[test]
fn an_alias_is_its_target() {
    let module = parse(
        ".version 8.0 .target sm_80 .address_size 64
.func f() { ret; }
.func g();
.alias g, f;
.entry k() { call g; ret; }",
    );
    let k = module.function(module.find_function("k").expect("declared")).expect("its id");
    let body = k.body.as_ref().expect("a body").as_ref().expect("parsed");
    let target = body.insts[0].call.as_ref().expect("a call").target;
    assert_eq!(target, CallTarget::Func(module.find_function("f").expect("declared")));
}

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("64-bit") % bound
    }
}

/// Changes, deletes, doubles or inserts some bytes, often ones that matter to the grammar.
fn damage(text: &[u8], random: &mut Random) -> Vec<u8> {
    const SPICE: &[u8] = b"{}[]()<>,;:@!|+-*/%&^~=.\"'\\_0x9fdU$\n\0\xff";
    let mut text = text.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(text.len());
        let until = (at + random.below(40)).min(text.len());
        match random.below(5) {
            0 => text[at] = SPICE[random.below(SPICE.len())],
            1 => text[at] ^= 1 << random.below(8),
            2 => drop(text.drain(at..until)),
            3 => text.insert(at, SPICE[random.below(SPICE.len())]),
            _ => {
                let piece = text[at..until].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, piece);
            }
        }
        if text.is_empty() {
            text.push(b'.');
        }
    }
    text
}

#[test]
fn damaged_text_never_panics_and_ends() {
    let mut random = Random(0x5eed_0001);
    let (mut failed, mut passed) = (0, 0);
    for (name, text) in corpus() {
        let rounds = if text.len() > 50_000 { 20 } else { 150 };
        for round in 0..rounds {
            let damaged = damage(&text, &mut random);
            let start = Instant::now();
            match ptx::parse(&damaged) {
                Ok(module) => {
                    passed += 1;
                    check_indices(&module);
                }
                Err(_) => failed += 1,
            }
            assert!(start.elapsed() < Duration::from_secs(1), "{name} round {round}");
        }
    }
    assert!(failed > 100 && passed > 100, "{failed} failed, {passed} passed");
}

/// Every index in the tree is one of the module.
fn check_indices(module: &Module) {
    for function in &module.functions {
        let Some(Ok(body)) = &function.body else { continue };
        let check = |operand: &Operand| check_operand(module, function.params.len(), body, operand);
        for inst in &body.insts {
            inst.operands.iter().for_each(check);
            assert!(!module.name(inst.opcode).is_empty());
            if let Some(call) = &inst.call {
                call.args.iter().chain(&call.returns).for_each(check);
                assert!(call.table.is_none_or(|t| (t.0 as usize) < body.tables.len()));
            }
        }
        for label in &body.labels {
            assert!(label.inst as usize <= body.insts.len());
        }
        for table in &body.tables {
            if let Table::Branch(labels) = table {
                assert!(labels.iter().all(|l| (l.0 as usize) < body.labels.len()));
            }
        }
    }
}

fn check_operand(module: &Module, params: usize, body: &ptx::ast::Body, operand: &Operand) {
    let reg = |r: &ptx::ast::RegId| assert!((r.0 as usize) < body.regs.len());
    let symbol = |s: &Symbol| match s {
        Symbol::Var(id) => assert!(module.variable(*id).is_some()),
        Symbol::Func(id) => assert!(module.function(*id).is_some()),
        Symbol::Param(i) => assert!((*i as usize) < params),
        Symbol::Return(_) => {}
    };
    match operand {
        Operand::Reg(r) | Operand::NotReg(r) => reg(r),
        Operand::Pair(a, b) => a.iter().chain(b).for_each(reg),
        Operand::Symbol(s, _) => symbol(s),
        Operand::Label(l) => assert!((l.0 as usize) < body.labels.len()),
        Operand::Table(t) => assert!((t.0 as usize) < body.tables.len()),
        Operand::Vector(v) => v.iter().for_each(|o| check_operand(module, params, body, o)),
        Operand::Address(base, _) | Operand::Tensor(base, _) => match base {
            AddressBase::Reg(r) => reg(r),
            AddressBase::Symbol(s) => symbol(s),
            AddressBase::Absolute => {}
        },
        Operand::Special(_)
        | Operand::Int(_)
        | Operand::F32(_)
        | Operand::F64(_)
        | Operand::Sink => {}
    }
}

#[test]
fn hostile_shapes_are_linear() {
    let many = |piece: &str| piece.repeat(100_000);
    let texts = [
        kernel(&"{".repeat(200_000)),
        kernel(&many("{}")),
        kernel(&format!(".reg .b32 a; mov.b32 {{{}}}, a;", many("a,"))),
        kernel(&format!(".reg .b32 a; mov.b32 {}, a;", "{".repeat(100_000))),
        kernel(&format!(".reg .b32 a; mov.b32 a, {}1;", many("1+"))),
        kernel(&format!(".reg .b32 a; mov.b32 a, {}1;", many("("))),
        kernel(&format!(".reg .b32 a<9>; {}", many("{ .reg .b32 a<9>; mov.b32 a1, a2; }"))),
        kernel(&format!("mov.b32 %r{}, 0;", many("1"))),
        kernel(&format!("{}L: ret;", many("bra L;"))),
        kernel(&format!("{}L: ret;", many("{ bra L; }"))),
        kernel(&many(
            ".loc 1 2 3, function_name a, inlined_at 1 2 3
",
        )),
        format!(".version 8.0 .global .u8 a[1000000][70000000] = {{{}}};", many("{1},")),
        format!(
            ".version 8.0 {}",
            (0..2000)
                .map(|i| format!(".global .u8 a{i}[100][60000000] = {{{{1}},{{1}}}};"))
                .collect::<String>()
        ),
        format!(".version 8.0 .global .u8 a[]{} = {{1}};", many("[1]")),
        format!(".version 8.0 .section .debug_str {{ {} }}", many("a: .b8 1,2,3 {")),
        format!(".version 8.0 {}", many("/*")),
        format!(".version 8.0 .visible .entry k({})", many(".param .u64 a,")),
    ];
    for (i, text) in texts.iter().enumerate() {
        let start = Instant::now();
        let result = ptx::parse(text.as_bytes());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "text {i}: {took:?}");
        if let Ok(module) = result {
            check_indices(&module);
        }
    }
}
