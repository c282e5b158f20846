//! A kernel and all that it calls as one list of items: calls are inlined.
//!
//! Parameters and results of calls are slots in local memory. Instructions that end a block, or
//! that may park a fragment, lose their guard to a branch around them.

use std::collections::HashMap;

use crate::fault::LoadError;
use crate::ptx::ast::{
    Body, Call, CallTarget, FuncId, Guard, Inst, Module, Operand, RegId, Symbol, Table, VarId,
};
use crate::ptx::types::{RegClass, ScalarType, Space};

/// Items of one kernel at most.
const LIMIT: usize = 1 << 20;
/// Nested calls at most.
const DEPTH: usize = 64;

/// A position of the list, known when the list is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target(pub usize);

/// One step of the list.
#[derive(Clone, Debug)]
pub(crate) enum Step<'m> {
    /// An instruction, with its guard if it may keep it.
    Inst(&'m Inst),
    /// To another place.
    Jump(Target),
    /// To another place where the guard holds.
    Branch(Guard, Target),
    /// Indirect branch by an index register.
    Index(RegId, Vec<Target>),
    /// A block barrier.
    Barrier(&'m Inst),
    /// End of the thread.
    Exit,
    /// `trap`, `brkpt`.
    Trap,
    /// A device-side assertion that failed.
    Assert,
    /// `nanosleep`.
    Pause,
    /// Copies an operand of frame `from` to a register of this frame, or back.
    Copy { to: RegId, from: Operand, from_frame: usize },
    /// Stores an argument that is a register or immediate to a local slot.
    StoreSlot { offset: u64, ty: ScalarType, from: Operand, from_frame: usize },
    /// Loads a result from a local slot to a register.
    LoadSlot { offset: u64, ty: ScalarType, to: Operand },
}

/// A step with where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Item<'m> {
    pub step: Step<'m>,
    pub frame: usize,
    pub line: u32,
    pub loc: u32,
}

/// One inlined body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub func: Option<FuncId>,
    pub classes: Vec<RegClass>,
    /// Local offsets of variables of the body.
    pub locals: HashMap<VarId, u64>,
    /// Local offsets of parameters; empty in the kernel.
    pub params: Vec<u64>,
    /// Local offsets of return parameters.
    pub returns: Vec<u64>,
}

/// The list.
#[derive(Debug)]
pub(crate) struct Flat<'m> {
    pub items: Vec<Item<'m>>,
    pub frames: Vec<Frame>,
    /// Position of each target.
    pub targets: Vec<usize>,
    /// Bytes of local memory of a lane.
    pub local_size: u64,
}

struct Builder<'m> {
    module: &'m Module,
    kernel: &'m str,
    flat: Flat<'m>,
    stack: Vec<FuncId>,
}

/// Flattens a kernel.
pub(crate) fn flatten<'m>(
    module: &'m Module,
    entry: FuncId,
    kernel: &'m str,
) -> Result<Flat<'m>, LoadError> {
    let flat = Flat { items: Vec::new(), frames: Vec::new(), targets: Vec::new(), local_size: 0 };
    let mut builder = Builder { module, kernel, flat, stack: Vec::new() };
    builder.body(entry, Vec::new(), Vec::new(), None)?;
    Ok(builder.flat)
}

/// The slot of each call argument: an offset in local memory.
fn reserve(size: &mut u64, bytes: u64, align: u32) -> u64 {
    let start = size.next_multiple_of(u64::from(align.max(1)));
    *size = start + bytes;
    start
}

impl<'m> Builder<'m> {
    fn error(&self, line: u32, message: String) -> LoadError {
        LoadError { code: 801, function: self.kernel.to_owned(), line, message }
    }

    fn target(&mut self) -> Target {
        self.flat.targets.push(usize::MAX);
        Target(self.flat.targets.len() - 1)
    }

    fn place(&mut self, target: Target) {
        self.flat.targets[target.0] = self.flat.items.len();
    }

    fn push(&mut self, step: Step<'m>, frame: usize, at: (u32, u32)) -> Result<(), LoadError> {
        if self.flat.items.len() >= LIMIT {
            return Err(self.error(at.0, "the kernel is too long".to_owned()));
        }
        self.flat.items.push(Item { step, frame, line: at.0, loc: at.1 });
        Ok(())
    }

    /// Appends a function's body; `caller` is the frame that registers of arguments belong to.
    fn body(
        &mut self,
        func: FuncId,
        params: Vec<u64>,
        returns: Vec<u64>,
        copies: Option<(usize, &'m Call)>,
    ) -> Result<usize, LoadError> {
        let module = self.module;
        let Some(function) = module.function(func) else {
            return Err(self.error(0, "no such function".to_owned()));
        };
        let name = module.name(function.name);
        let body = match &function.body {
            Some(Ok(body)) => body,
            Some(Err(e)) => {
                return Err(LoadError {
                    code: 218,
                    function: self.kernel.to_owned(),
                    line: e.line,
                    message: e.to_string(),
                });
            }
            None => return Err(self.error(function.line, format!("{name} has no body"))),
        };
        if self.stack.contains(&func) {
            return Err(self.error(function.line, format!("recursion of {name} is not supported")));
        }
        if self.stack.len() >= DEPTH {
            return Err(self.error(function.line, "calls are nested too deep".to_owned()));
        }
        self.stack.push(func);
        let frame = self.flat.frames.len();
        let mut locals = HashMap::new();
        for var in &body.variables {
            let Some(v) = module.variable(*var) else { continue };
            if matches!(v.space, Space::Local | Space::Param) {
                locals.insert(*var, reserve(&mut self.flat.local_size, v.size, v.align));
            }
        }
        let classes = body.regs.iter().map(|r| r.ty.reg_class()).collect();
        self.flat.frames.push(Frame { func: Some(func), classes, locals, params, returns });
        if let Some((caller, call)) = copies {
            for (param, arg) in function.params.iter().zip(&call.args) {
                if let Some(reg) = param.reg {
                    let step = Step::Copy { to: reg, from: arg.clone(), from_frame: caller };
                    self.push(step, frame, (function.line, 0))?;
                }
            }
        }
        self.instructions(body, frame)?;
        self.stack.pop();
        Ok(frame)
    }

    fn instructions(&mut self, body: &'m Body, frame: usize) -> Result<(), LoadError> {
        let labels: Vec<Target> = body.labels.iter().map(|_| self.target()).collect();
        let end = self.target();
        let mut by_position: HashMap<usize, Vec<Target>> = HashMap::new();
        for (label, target) in body.labels.iter().zip(&labels) {
            by_position.entry(label.inst as usize).or_default().push(*target);
        }
        for (position, inst) in body.insts.iter().enumerate() {
            for target in by_position.get(&position).into_iter().flatten() {
                self.place(*target);
            }
            self.instruction(inst, body, frame, (&labels, end))?;
        }
        for target in by_position.get(&body.insts.len()).into_iter().flatten() {
            self.place(*target);
        }
        self.place(end);
        if frame == 0 {
            self.push(Step::Exit, frame, (body.end_line, 0))?;
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        inst: &'m Inst,
        body: &'m Body,
        frame: usize,
        (labels, end): (&[Target], Target),
    ) -> Result<(), LoadError> {
        let opcode = self.module.name(inst.opcode);
        let at = (inst.line, inst.loc);
        let label = |operand: Option<&Operand>| match operand {
            Some(Operand::Label(l)) => labels.get(l.0 as usize).copied(),
            _ => None,
        };
        let bad = |this: &Self| {
            this.error(inst.line, format!("{}: bad operand", this.module.line_text(inst.line)))
        };
        if opcode == "bra" {
            let to = label(inst.operands.first()).ok_or_else(|| bad(self))?;
            return match inst.guard {
                Some(guard) => self.push(Step::Branch(guard, to), frame, at),
                None => self.push(Step::Jump(to), frame, at),
            };
        }
        let step = match opcode {
            "brx" => {
                let (Some(Operand::Reg(reg)), Some(Operand::Table(table))) =
                    (inst.operands.first(), inst.operands.get(1))
                else {
                    return Err(bad(self));
                };
                let Some(Table::Branch(list)) = body.tables.get(table.0 as usize) else {
                    return Err(bad(self));
                };
                let targets: Option<Vec<Target>> =
                    list.iter().map(|l| labels.get(l.0 as usize).copied()).collect();
                Step::Index(*reg, targets.ok_or_else(|| bad(self))?)
            }
            "exit" => Step::Exit,
            "ret" if frame == 0 => Step::Exit,
            "ret" => Step::Jump(end),
            "trap" | "brkpt" => Step::Trap,
            "nanosleep" => Step::Pause,
            "bar" | "barrier"
                if inst.modifiers.first().map(|n| self.module.name(*n)) != Some("warp") =>
            {
                Step::Barrier(inst)
            }
            _ => Step::Inst(inst),
        };
        let around = match inst.guard {
            Some(guard) if inst.call.is_some() || !keeps_guard(opcode) => {
                let skip = self.target();
                let inverse = Guard { negated: !guard.negated, ..guard };
                self.push(Step::Branch(inverse, skip), frame, at)?;
                Some(skip)
            }
            _ => None,
        };
        match &inst.call {
            Some(call) => self.call(inst, call, frame)?,
            None => self.push(step, frame, at)?,
        }
        if let Some(skip) = around {
            self.place(skip);
        }
        Ok(())
    }

    fn call(&mut self, inst: &'m Inst, call: &'m Call, frame: usize) -> Result<(), LoadError> {
        let module = self.module;
        let at = (inst.line, inst.loc);
        let CallTarget::Func(func) = call.target else {
            return Err(self.error(inst.line, "indirect calls are not supported".to_owned()));
        };
        let Some(function) = module.function(func) else {
            return Err(self.error(inst.line, "no such function".to_owned()));
        };
        let name = module.name(function.name);
        if function.body.is_none() {
            if name == "__assertfail" {
                return self.push(Step::Assert, frame, at);
            }
            return Err(self.error(inst.line, format!("a call of {name} is not supported")));
        }
        if call.args.len() != function.params.len() || call.returns.len() != function.returns.len()
        {
            return Err(self.error(inst.line, format!("wrong number of arguments of {name}")));
        }
        let mut params = Vec::new();
        for (param, arg) in function.params.iter().zip(&call.args) {
            params.push(self.slot(arg, frame, (param.size, param.align)));
            if param.reg.is_none() && !matches!(arg, Operand::Symbol(..)) {
                let offset = *params.last().unwrap_or(&0);
                let step =
                    Step::StoreSlot { offset, ty: param.ty, from: arg.clone(), from_frame: frame };
                self.push(step, frame, at)?;
            }
        }
        let returns: Vec<u64> = function
            .returns
            .iter()
            .zip(&call.returns)
            .map(|(param, arg)| self.slot(arg, frame, (param.size, param.align)))
            .collect();
        let slots = returns.clone();
        let callee = self.body(func, params, returns, Some((frame, call)))?;
        for ((param, to), offset) in function.returns.iter().zip(&call.returns).zip(slots) {
            match (param.reg, to) {
                (_, Operand::Symbol(..) | Operand::Sink) => {}
                (Some(reg), Operand::Reg(to)) => {
                    let from = Operand::Reg(reg);
                    self.push(Step::Copy { to: *to, from, from_frame: callee }, frame, at)?;
                }
                (None, to) => {
                    let step = Step::LoadSlot { offset, ty: param.ty, to: to.clone() };
                    self.push(step, frame, at)?;
                }
                _ => return Err(self.error(inst.line, "bad result operand".to_owned())),
            }
        }
        Ok(())
    }

    /// The local offset of an argument's slot: the caller's variable, or a new one.
    fn slot(&mut self, arg: &Operand, frame: usize, (size, align): (u64, u32)) -> u64 {
        if let Operand::Symbol(symbol, _) = arg {
            let frame = &self.flat.frames[frame];
            let found = match symbol {
                Symbol::Var(v) => frame.locals.get(v).copied(),
                Symbol::Param(i) => frame.params.get(*i as usize).copied(),
                Symbol::Return(i) => frame.returns.get(*i as usize).copied(),
                Symbol::Func(_) => None,
            };
            if let Some(offset) = found {
                return offset;
            }
        }
        reserve(&mut self.flat.local_size, size.max(8), align.max(8))
    }
}

/// Whether an instruction may run under a guard inside its block.
pub(crate) fn keeps_guard(opcode: &str) -> bool {
    !matches!(
        opcode,
        "brx"
            | "exit"
            | "ret"
            | "trap"
            | "brkpt"
            | "nanosleep"
            | "bar"
            | "barrier"
            | "call"
            | "shfl"
            | "vote"
            | "match"
            | "redux"
            | "elect"
            | "activemask"
            | "mma"
            | "wmma"
            | "ldmatrix"
            | "stmatrix"
            | "movmatrix"
    )
}
