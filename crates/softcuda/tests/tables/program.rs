//! Random structured programs: nested divergent branches and loops, early exits, against a plain
//! interpreter that runs one lane after the other.

use std::fmt::Write as _;

use softcuda::exec::Order;

use super::harness::Random;
use super::machine::{Machine, levels};

/// Variables of a program; the first holds the thread's index at the start.
const VARIABLES: usize = 6;
/// Threads of a block: two warps and a part of one.
const THREADS: usize = 70;

#[derive(Debug)]
enum Expr {
    Variable(usize),
    Constant(u32),
    Binary(Op, Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    And,
    Xor,
    Shr,
    Min,
    Rem,
    /// 1 or 0.
    Less,
}

#[derive(Debug)]
enum Statement {
    Assign(usize, Expr),
    If(Expr, Vec<Statement>, Vec<Statement>),
    /// Runs while the condition holds, at most so many times.
    While(Expr, u32, Vec<Statement>),
    /// Leaves the innermost loop under a condition.
    Break(Expr),
    /// Ends the thread under a condition, after storing.
    Exit(Expr),
    /// Through shared memory and barriers, the variable of the thread so far behind, at the top
    /// level alone. Of a thread that has ended, what it gave last; nothing is 0.
    Exchange(usize, usize),
    /// A predicated assignment.
    Guarded(Expr, usize, Expr),
}

fn expr(random: &mut Random, depth: u32) -> Expr {
    match random.below(if depth == 0 { 2 } else { 6 }) {
        0 => Expr::Variable(random.below(VARIABLES as u64) as usize),
        1 => Expr::Constant([0, 1, 2, 3, 5, 7, 31, 0xffff_ffff, 1 << 31][random.below(9) as usize]),
        _ => {
            let ops =
                [Op::Add, Op::Sub, Op::Mul, Op::And, Op::Xor, Op::Shr, Op::Min, Op::Rem, Op::Less];
            let op = ops[random.below(9) as usize];
            Expr::Binary(op, Box::new(expr(random, depth - 1)), Box::new(expr(random, depth - 1)))
        }
    }
}

fn block(random: &mut Random, depth: u32, in_loop: bool) -> Vec<Statement> {
    (0..1 + random.below(4)).map(|_| statement(random, depth, in_loop)).collect()
}

fn statement(random: &mut Random, depth: u32, in_loop: bool) -> Statement {
    let target = random.below(VARIABLES as u64) as usize;
    match random.below(if depth == 0 { 5 } else { 10 }) {
        0..3 => Statement::Assign(target, expr(random, 3)),
        3 => Statement::Guarded(expr(random, 2), target, expr(random, 2)),
        4 if in_loop => Statement::Break(expr(random, 2)),
        4 if random.below(4) == 0 => Statement::Exit(expr(random, 3)),
        4 => Statement::Assign(target, expr(random, 2)),
        5..8 => {
            let other =
                if random.below(2) == 0 { block(random, depth - 1, in_loop) } else { Vec::new() };
            Statement::If(expr(random, 2), block(random, depth - 1, in_loop), other)
        }
        _ => Statement::While(
            expr(random, 2),
            1 + random.below(9) as u32,
            block(random, depth - 1, true),
        ),
    }
}

// The interpreter.

fn value(e: &Expr, v: &[u32; VARIABLES]) -> u32 {
    match e {
        Expr::Variable(i) => v[*i],
        Expr::Constant(c) => *c,
        Expr::Binary(op, a, b) => {
            let (a, b) = (value(a, v), value(b, v));
            match op {
                Op::Add => a.wrapping_add(b),
                Op::Sub => a.wrapping_sub(b),
                Op::Mul => a.wrapping_mul(b),
                Op::And => a & b,
                Op::Xor => a ^ b,
                Op::Shr => a.checked_shr(b).unwrap_or(0),
                Op::Min => a.min(b),
                Op::Rem => a.checked_rem(b).unwrap_or(a),
                Op::Less => u32::from(a < b),
            }
        }
    }
}

#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Exit,
}

fn interpret(program: &[Statement], v: &mut [u32; VARIABLES]) -> Flow {
    for statement in program {
        let flow = match statement {
            Statement::Assign(i, e) => {
                v[*i] = value(e, v);
                Flow::Next
            }
            Statement::Guarded(condition, i, e) => {
                if value(condition, v) & 1 == 1 {
                    v[*i] = value(e, v);
                }
                Flow::Next
            }
            Statement::If(condition, yes, no) => {
                interpret(if value(condition, v) & 1 == 1 { yes } else { no }, v)
            }
            Statement::While(condition, most, body) => {
                let mut flow = Flow::Next;
                for _ in 0..*most {
                    if value(condition, v) & 3 == 0 {
                        break;
                    }
                    flow = interpret(body, v);
                    if flow != Flow::Next {
                        break;
                    }
                }
                if flow == Flow::Exit { Flow::Exit } else { Flow::Next }
            }
            Statement::Break(condition) if value(condition, v) & 1 == 1 => Flow::Break,
            Statement::Exit(condition) if value(condition, v) & 3 == 1 => Flow::Exit,
            Statement::Break(_) | Statement::Exit(_) => Flow::Next,
            Statement::Exchange(..) => unreachable!("at the top level alone"),
        };
        if flow != Flow::Next {
            return flow;
        }
    }
    Flow::Next
}

// The translation to PTX.

#[derive(Default)]
struct Writer {
    text: String,
    registers: usize,
    predicates: usize,
    labels: usize,
}

impl Writer {
    fn line(&mut self, line: &str) {
        writeln!(self.text, " {line}").expect("a string");
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    /// The operand that holds an expression.
    fn expr(&mut self, e: &Expr) -> String {
        match e {
            Expr::Variable(i) => format!("%v{i}"),
            Expr::Constant(c) => c.to_string(),
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                let d = format!("%t{}", self.registers);
                self.registers += 1;
                let name = match op {
                    Op::Add => "add.u32",
                    Op::Sub => "sub.u32",
                    Op::Mul => "mul.lo.u32",
                    Op::And => "and.b32",
                    Op::Xor => "xor.b32",
                    Op::Shr => "shr.u32",
                    Op::Min => "min.u32",
                    Op::Rem => "rem.u32",
                    Op::Less => {
                        let p = self.predicate();
                        self.line(&format!("setp.lt.u32 {p}, {a}, {b};"));
                        self.line(&format!("selp.u32 {d}, 1, 0, {p};"));
                        return d;
                    }
                };
                self.line(&format!("{name} {d}, {a}, {b};"));
                d
            }
        }
    }

    fn predicate(&mut self) -> String {
        self.predicates += 1;
        format!("%p{}", self.predicates - 1)
    }

    /// A predicate: the expression masked is equal to a number.
    fn test(&mut self, e: &Expr, mask: u32, equal: u32) -> String {
        let value = self.expr(e);
        let (t, p) = (format!("%t{}", self.registers), self.predicate());
        self.registers += 1;
        self.line(&format!("and.b32 {t}, {value}, {mask};"));
        self.line(&format!("setp.eq.u32 {p}, {t}, {equal};"));
        p
    }

    fn block(&mut self, program: &[Statement], leave: Option<&str>) {
        for statement in program {
            match statement {
                Statement::Assign(i, e) => {
                    let value = self.expr(e);
                    self.line(&format!("mov.u32 %v{i}, {value};"));
                }
                Statement::Guarded(condition, i, e) => {
                    let p = self.test(condition, 1, 1);
                    let value = self.expr(e);
                    self.line(&format!("@{p} mov.u32 %v{i}, {value};"));
                }
                Statement::If(condition, yes, no) => {
                    let p = self.test(condition, 1, 1);
                    let (other, end) = (self.label(), self.label());
                    self.line(&format!("@!{p} bra {other};"));
                    self.block(yes, leave);
                    self.line(&format!("bra.uni {end};"));
                    self.line(&format!("{other}:"));
                    self.block(no, leave);
                    self.line(&format!("{end}:"));
                }
                Statement::While(condition, most, body) => {
                    let (top, end) = (self.label(), self.label());
                    let count = format!("%t{}", self.registers);
                    self.registers += 1;
                    self.line(&format!("mov.u32 {count}, {most};"));
                    self.line(&format!("{top}:"));
                    let p = self.predicate();
                    self.line(&format!("setp.eq.u32 {p}, {count}, 0;"));
                    self.line(&format!("@{p} bra {end};"));
                    self.line(&format!("sub.u32 {count}, {count}, 1;"));
                    let p = self.test(condition, 3, 0);
                    self.line(&format!("@{p} bra {end};"));
                    self.block(body, Some(&end));
                    self.line(&format!("bra {top};"));
                    self.line(&format!("{end}:"));
                }
                Statement::Exchange(variable, distance) => {
                    self.line(&format!("st.shared.u32 [%s], %v{variable};"));
                    self.line("bar.sync 0;");
                    let t = format!("%t{}", self.registers);
                    self.registers += 1;
                    self.line(&format!("add.u32 {t}, %i2, {distance};"));
                    self.line(&format!("rem.u32 {t}, {t}, {THREADS};"));
                    self.line(&format!("mad.lo.u32 {t}, {t}, 4, %base;"));
                    self.line(&format!("ld.shared.u32 %v{variable}, [{t}];"));
                    self.line("bar.sync 0;");
                }
                Statement::Break(condition) => {
                    let p = self.test(condition, 1, 1);
                    self.line(&format!("@{p} bra {};", leave.expect("in a loop")));
                }
                Statement::Exit(condition) => {
                    let p = self.test(condition, 3, 1);
                    let skip = self.label();
                    self.line(&format!("@!{p} bra {skip};"));
                    self.store();
                    self.line("exit;");
                    self.line(&format!("{skip}:"));
                }
            }
        }
    }

    fn store(&mut self) {
        for i in 0..VARIABLES {
            self.line(&format!("st.global.u32 [%w0+{}], %v{i};", 4 * i));
        }
    }
}

fn kernel(program: &[Statement]) -> String {
    let mut writer = Writer::default();
    writer.block(program, None);
    writer.store();
    format!(
        ".version 8.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 out) {{
 .shared .align 4 .b8 shared[{}]; .reg .b32 %s, %base, %v<{VARIABLES}>, %t<{}>, %i<4>; .reg .b64 %w<4>; .reg .pred %p<{}>;
 mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x; mad.lo.u32 %v0, %i0, %i1, %i2;
 ld.param.u64 %w0, [out]; mul.wide.u32 %w1, %v0, {}; add.u64 %w0, %w0, %w1;
 mov.u32 %base, shared; mad.lo.u32 %s, %i2, 4, %base; mov.u32 %i3, 0; st.shared.u32 [%s], %i3; bar.sync 0;
 mov.u32 %v1, 1; mov.u32 %v2, %i2; mov.u32 %v3, 3; mul.lo.u32 %v4, %v0, 2654435761; mov.u32 %v5, %i0;
{} ret;
}}\n",
        4 * THREADS,
        writer.registers + 1,
        writer.predicates + 1,
        4 * VARIABLES,
        writer.text
    )
}

/// A random program whose top level has exchanges between threads.
fn program(seed: u64) -> Vec<Statement> {
    let mut random = Random::new(seed);
    let mut program = block(&mut random, 4, false);
    for _ in 0..random.below(4) {
        let variable = random.below(VARIABLES as u64) as usize;
        let distance = 1 + random.below(THREADS as u64 - 1) as usize;
        let at = random.below(program.len() as u64 + 1) as usize;
        program.insert(at, Statement::Exchange(variable, distance));
        program.push(statement(&mut random, 3, false));
    }
    program
}

/// A kernel of a random program.
pub fn random_kernel(seed: u64) -> String {
    kernel(&program(seed))
}

/// The variables of all threads of a block at their ends.
fn model(program: &[Statement], number: usize) -> Vec<[u32; VARIABLES]> {
    let mut threads: Vec<[u32; VARIABLES]> = (0..THREADS)
        .map(|tid| {
            let thread = (number * THREADS + tid) as u32;
            [thread, 1, tid as u32, 3, thread.wrapping_mul(2_654_435_761), number as u32]
        })
        .collect();
    let mut ended = [false; THREADS];
    let mut shared = [0; THREADS];
    for statement in program {
        if let Statement::Exchange(variable, distance) = statement {
            let live = || (0..THREADS).filter(|tid| !ended[*tid]);
            live().for_each(|tid| shared[tid] = threads[tid][*variable]);
            for tid in live() {
                threads[tid][*variable] = shared[(tid + distance) % THREADS];
            }
            continue;
        }
        for (tid, v) in threads.iter_mut().enumerate() {
            if !ended[tid] {
                ended[tid] = interpret(std::slice::from_ref(statement), v) == Flow::Exit;
            }
        }
    }
    threads
}

#[test]
fn structured_programs_agree_with_a_lane_by_lane_interpreter() {
    for seed in 0..400 {
        let program = program(seed);
        let text = kernel(&program);
        let mut machine = Machine::new(&text);
        let expected: Vec<u32> =
            (0..2).flat_map(|block| model(&program, block)).flatten().collect();
        for level in levels() {
            // Warps from the first or from the last: nobody may notice.
            machine.settings.warps =
                if seed % 2 == 0 { Order::Ascending } else { Order::Descending };
            let out = machine.upload(&vec![0; 4 * expected.len()]);
            let block = [THREADS as u32, 1, 1];
            let launched = machine.launch(level, "k", [2, 1, 1], block, 0, &out.to_le_bytes());
            launched.unwrap_or_else(|why| panic!("seed {seed}: {why}\n{text}"));
            let got = machine.words(out, expected.len());
            machine.free(out);
            if let Some(at) = (0..got.len()).find(|i| got[*i] != expected[*i]) {
                let (thread, variable) = (at / VARIABLES, at % VARIABLES);
                panic!(
                    "seed {seed} at {level:?}: thread {thread} %v{variable} is {:#x}, not {:#x}\n{text}",
                    got[at], expected[at]
                );
            }
        }
    }
}
