//! From PTX to ops.

mod cfg;
pub mod emit;
pub(crate) mod flatten;
mod listing;
mod opt;
mod regalloc;
mod verify;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::exec::handlers::access::{GLOBAL, SHARED};
use crate::exec::handlers::{self, control, ldst, mov, special};
use crate::exec::{Kernel, KernelParam, Level, Site};
use crate::fault::LoadError;
use crate::ptx::ast::{
    AddressBase, FuncId, FunctionKind, Guard, Inst, Module, Operand, Symbol, VarId,
};
use crate::ptx::types::{RegClass, Space};
use cfg::Graph;
use emit::{A, B, C, D, Emit, M, Mark, Mods, V, VOp, X};
use flatten::{Flat, Item, Step, flatten};
pub use listing::list;

/// What lowering needs to know of the device.
pub struct Env<'a> {
    /// Level of the handlers.
    pub level: Level,
    /// Leave out the optimiser.
    pub plain: bool,
    /// Generic address of a `.global` or `.const` variable of the module.
    pub address: &'a dyn Fn(VarId) -> Option<u64>,
}

/// Lowers the kernel called `name`.
///
/// # Errors
/// If there is no such kernel, or it uses what we do not support.
pub fn lower(module: &Arc<Module>, name: &str, env: &Env) -> Result<Kernel, LoadError> {
    match lower_once(module, name, env, env.plain) {
        // What is the same for a launch keeps its registers for good: a large kernel may need more
        // than there are, and fit without it.
        Err(e) if e.code == regalloc::TOO_MANY && !env.plain => lower_once(module, name, env, true),
        done => done,
    }
}

/// A kernel as ops without registers.
struct Prepared<'a> {
    id: FuncId,
    cx: Emit<'a>,
    code: Vec<Code>,
    preamble: Vec<emit::VOp>,
    sites: Vec<Site>,
    shared_size: u32,
    local_size: u32,
}

fn prepare<'a>(
    module: &'a Module,
    name: &str,
    env: &Env,
    plain: bool,
) -> Result<Prepared<'a>, LoadError> {
    let found = module.find_function(name).and_then(|id| Some((id, module.function(id)?)));
    let Some((id, function)) = found.filter(|(_, f)| f.kind == FunctionKind::Entry) else {
        return Err(LoadError {
            code: 500,
            function: name.to_owned(),
            line: 0,
            message: "no such kernel".to_owned(),
        });
    };
    let flat = flatten(module, id, name)?;
    let graph = cfg::build(&flat);
    let (addresses, shared_size) = place_variables(module, &flat, env);
    let params_size = function.param_bytes() as u32;
    let mut cx = Emit {
        module,
        level: env.level,
        kernel: name.to_owned(),
        line: 0,
        position: 0,
        params_size,
        frames: flat.frames.clone(),
        values: Vec::new(),
        frame: 0,
        addresses,
        carry: None,
        widths: Vec::new(),
        mask_count: 0,
        constants: HashMap::new(),
        out: Vec::new(),
    };
    name_registers(&mut cx);
    let mut sites = vec![Site { line: function.line, loc: 0 }];
    let mut code = lower_blocks(&mut cx, &flat, &graph, &mut sites)?;
    let mut preamble = Vec::new();
    if !plain {
        let open = verify::read_first(&cx, &code);
        preamble = opt::run(&mut cx, &mut code);
        verify::check(&cx, &code, &preamble, &open)?;
    }
    let local_size = u32::try_from(flat.local_size).unwrap_or(u32::MAX);
    Ok(Prepared { id, cx, code, preamble, sites, shared_size, local_size })
}

fn lower_once(
    module: &Arc<Module>,
    name: &str,
    env: &Env,
    plain: bool,
) -> Result<Kernel, LoadError> {
    let prepared = prepare(module, name, env, plain)?;
    let Prepared { id, cx, code, preamble, sites, shared_size, local_size } = prepared;
    let Some(function) = module.function(id) else { return Err(cx.error("no such function")) };
    let threads = |t: [u32; 3]| t.iter().product::<u32>();
    let perf = &function.perf;
    let max_threads = perf.required_threads.or(perf.max_threads).map_or(1024, threads);
    let mut out = regalloc::assign(&cx, code, &preamble)?;
    handlers::mma::plan_runs(&mut out.ops);
    Ok(Kernel {
        name: name.to_owned(),
        params: function
            .params
            .iter()
            .map(|p| KernelParam { offset: p.offset as u32, size: p.size as u32 })
            .collect(),
        params_size: function.param_bytes() as u32,
        shared_size,
        local_size,
        max_threads,
        required_threads: perf.required_threads,
        regs: out.regs,
        masks: out.masks,
        constants: out.constants,
        preamble: out.preamble.into_boxed_slice(),
        ops: out.ops.into_boxed_slice(),
        sites,
        level: env.level,
        module: Arc::clone(module),
    })
}

/// Gives each register of each inlined body a value or predicate.
fn name_registers(cx: &mut Emit) {
    for at in 0..cx.frames.len() {
        let classes = cx.frames[at].classes.clone();
        let values = classes
            .iter()
            .map(|class| match class {
                RegClass::Pred => cx.temp_mask().0,
                RegClass::B16 | RegClass::B32 => cx.temp(1).id,
                RegClass::B64 => cx.temp(2).id,
                RegClass::B128 => cx.temp(4).id,
            })
            .collect();
        cx.values.push(values);
    }
}

/// Addresses of the variables that the list names, and the bytes of static shared memory.
fn place_variables(module: &Module, flat: &Flat, env: &Env) -> (HashMap<VarId, (u8, u64)>, u32) {
    let mut used = HashSet::new();
    for item in &flat.items {
        let (Step::Inst(inst) | Step::Barrier(inst)) = &item.step else { continue };
        for operand in &inst.operands {
            match operand {
                Operand::Symbol(Symbol::Var(v), _)
                | Operand::Address(AddressBase::Symbol(Symbol::Var(v)), _)
                | Operand::Tensor(AddressBase::Symbol(Symbol::Var(v)), _) => {
                    used.insert(*v);
                }
                _ => {}
            }
        }
    }
    let reached: HashSet<Option<FuncId>> = flat.frames.iter().map(|f| f.func).collect();
    let mut addresses = HashMap::new();
    let mut dynamic = Vec::new();
    let (mut end, mut align) = (0u64, 16u64);
    for (index, v) in module.variables.iter().enumerate() {
        let id = VarId(index as u32);
        match v.space {
            Space::Global | Space::Const => {
                if let Some(address) = (env.address)(id) {
                    addresses.insert(id, (GLOBAL, address));
                }
            }
            Space::Shared => {
                let mine =
                    if v.owner.is_none() { used.contains(&id) } else { reached.contains(&v.owner) };
                if !mine {
                    continue;
                }
                if v.is_unsized() {
                    align = align.max(u64::from(v.align));
                    dynamic.push(id);
                } else {
                    end = end.next_multiple_of(u64::from(v.align.max(1)));
                    addresses.insert(id, (SHARED, end));
                    end += v.size;
                }
            }
            _ => {}
        }
    }
    if !dynamic.is_empty() {
        end = end.next_multiple_of(align);
        for id in dynamic {
            addresses.insert(id, (SHARED, end));
        }
    }
    (addresses, u32::try_from(end).unwrap_or(u32::MAX))
}

/// The ops of a block.
pub(crate) struct Code {
    pub ops: Vec<VOp>,
    /// Blocks, as positions in the layout, that may follow.
    pub next: Vec<usize>,
}

fn lower_blocks(
    cx: &mut Emit,
    flat: &Flat,
    graph: &Graph,
    sites: &mut Vec<Site>,
) -> Result<Vec<Code>, LoadError> {
    let mut layout = vec![usize::MAX; graph.blocks.len()];
    for (position, block) in graph.order.iter().enumerate() {
        layout[*block] = position;
    }
    let place = |target: &flatten::Target| -> Option<u32> {
        let item = *flat.targets.get(target.0)?;
        let block = graph.at.get(item).copied().flatten()?;
        Some(layout[block] as u32)
    };
    let mut code = Vec::with_capacity(graph.order.len());
    for block in &graph.order {
        let block = &graph.blocks[*block];
        cx.out = Vec::new();
        cx.position = 0;
        let mut open: Option<OpenGuard> = None;
        for item in &flat.items[block.start..block.end] {
            sites.push(Site { line: item.line, loc: item.loc });
            cx.frame = item.frame;
            cx.line = item.line;
            let first = cx.out.len();
            lower_item(cx, item, &mut open, &place)?;
            // An `unguard` that was taken away shortens the list.
            let first = first.min(cx.out.len());
            let ends = matches!(
                item.step,
                Step::Jump(_)
                    | Step::Branch(..)
                    | Step::Index(..)
                    | Step::Exit
                    | Step::Trap
                    | Step::Assert
                    | Step::Pause
            );
            for op in &mut cx.out[first..] {
                op.site = sites.len() as u32 - 1;
                op.ends = ends;
            }
            cx.position += 1;
        }
        let count = u64::from(cx.position);
        let through = graph.at[block.end].map(|b| layout[b] as u32);
        finish_block(cx, &flat.items[block.end - 1], through, count, sites.len() as u32 - 1);
        let next = block.next.iter().map(|b| layout[*b]).collect();
        code.push(Code { ops: std::mem::take(&mut cx.out), next });
    }
    Ok(code)
}

/// Sets the instruction count of the terminator, and adds a jump where the block runs on.
fn finish_block(cx: &mut Emit, last: &Item, through: Option<u32>, count: u64, site: u32) {
    match &last.step {
        Step::Jump(_) | Step::Exit => {}
        Step::Branch(..) => {
            if let Some(op) = cx.out.last_mut() {
                op.rest = through;
            }
        }
        Step::Pause => {
            if let Some(op) = cx.out.last_mut() {
                op.target = through;
            }
        }
        Step::Trap | Step::Assert => return,
        Step::Index(_, list) => {
            let at = cx.out.len().saturating_sub(list.len() + 1);
            if let Some(op) = cx.out.get_mut(at) {
                op.imm = count;
            }
            return;
        }
        _ => {
            let mut op = VOp::new(control::jump);
            op.target = through;
            op.site = site;
            op.ends = true;
            cx.push(op);
        }
    }
    if let Some(op) = cx.out.last_mut() {
        op.imm = count;
    }
}

/// A guard at the end of the ops so far, which a following instruction may join.
struct OpenGuard {
    mask: M,
    negated: bool,
    /// Index of its first op.
    start: usize,
}

fn lower_item(
    cx: &mut Emit,
    item: &Item,
    open: &mut Option<OpenGuard>,
    place: &dyn Fn(&flatten::Target) -> Option<u32>,
) -> Result<(), LoadError> {
    let goes = |cx: &Emit, target: &flatten::Target| {
        place(target).ok_or_else(|| cx.error("the label stands at the end of the code"))
    };
    match &item.step {
        Step::Inst(inst) => match inst.guard.filter(|_| guard_is_kept(cx, inst)) {
            Some(guard) => return guarded(cx, inst, guard, open),
            None => instruction(cx, inst)?,
        },
        Step::Jump(to) => {
            let mut op = VOp::new(control::jump);
            op.target = Some(goes(cx, to)?);
            cx.push(op);
        }
        Step::Branch(guard, to) => {
            let mask = cx.mask_of(guard.reg)?;
            let mut op =
                VOp::new(control::branch).src_mask(A, mask).raw(B, u16::from(guard.negated));
            op.target = Some(goes(cx, to)?);
            cx.push(op);
        }
        Step::Index(reg, list) => {
            let index = cx.value(*reg)?;
            let count = u16::try_from(list.len()).map_err(|e| cx.error(&e.to_string()))?;
            cx.push(VOp::new(control::branch_index).src(A, index).raw(B, count));
            for to in list {
                let mut op = VOp::new(control::jump);
                op.target = Some(goes(cx, to)?);
                cx.push(op);
            }
        }
        Step::Barrier(inst) => barrier(cx, inst)?,
        Step::Exit => cx.push(VOp::new(control::exit)),
        Step::Trap => cx.push(VOp::new(control::trap)),
        Step::Assert => cx.push(VOp::new(control::trap).raw(A, 1)),
        Step::Pause => cx.push(VOp::new(control::pause)),
        Step::Copy { to, from, from_frame } => copy(cx, item.frame, *to, (*from_frame, from))?,
        Step::StoreSlot { offset, ty, from, from_frame } => {
            cx.frame = *from_frame;
            ldst::store_slot(cx, *offset, *ty, from)?;
        }
        Step::LoadSlot { offset, ty, to } => ldst::load_slot_at(cx, *offset, *ty, to)?,
    }
    *open = None;
    Ok(())
}

/// Instructions that lost their guard to a branch keep it in the tree.
fn guard_is_kept(cx: &Emit, inst: &Inst) -> bool {
    flatten::keeps_guard(cx.module.name(inst.opcode))
}

fn guarded(
    cx: &mut Emit,
    inst: &Inst,
    guard: Guard,
    open: &mut Option<OpenGuard>,
) -> Result<(), LoadError> {
    let mask = cx.mask_of(guard.reg)?;
    let negated = guard.negated;
    let start = match open.take() {
        Some(o) if o.mask == mask && o.negated == negated => {
            cx.out.pop();
            o.start
        }
        _ => {
            let mut op = VOp::new(control::guard).src_mask(A, mask).raw(B, u16::from(negated));
            op.mark = Mark::Guard;
            cx.push(op);
            cx.out.len()
        }
    };
    let first = cx.out.len();
    instruction(cx, inst)?;
    let mut changed = false;
    for op in &mut cx.out[first..] {
        op.guarded = true;
        changed |= op.slots.contains(&emit::Slot::DefMask(mask));
    }
    let mut end = VOp::new(control::unguard);
    end.mark = Mark::Unguard;
    cx.push(end);
    if !changed {
        *open = Some(OpenGuard { mask, negated, start });
    }
    Ok(())
}

fn copy(
    cx: &mut Emit,
    frame: usize,
    to: crate::ptx::ast::RegId,
    (from_frame, from): (usize, &Operand),
) -> Result<(), LoadError> {
    cx.frame = frame;
    let class = cx.class(to)?;
    match class {
        RegClass::Pred => {
            let d = cx.mask_of(to)?;
            cx.frame = from_frame;
            let a = cx.src_mask(from)?;
            handlers::logic::mask_logic(cx, d, a, a, 0b1100);
        }
        RegClass::B64 => {
            let d = cx.value(to)?;
            cx.frame = from_frame;
            let a = cx.src64(from)?;
            mov::copy64(cx, d, a);
        }
        _ => {
            let d = cx.value(to)?;
            cx.frame = from_frame;
            let a = cx.src32(from)?;
            mov::copy32(cx, d, a);
        }
    }
    Ok(())
}

/// `bar.sync`, `barrier.cta.red` and their relatives.
fn barrier(cx: &mut Emit, inst: &Inst) -> Result<(), LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    mods.take("cta");
    mods.take("aligned");
    let kind = mods.take_any(&["sync", "arrive", "red"]);
    let red = mods.take_any(&["popc", "and", "or"]);
    mods.take_any(&["u32", "pred"]);
    mods.finish(cx)?;
    let (kind, code) = match (kind, red) {
        (Some("sync"), None) => ("sync", 0),
        (Some("arrive"), None) => ("arrive", 1),
        (Some("red"), Some("popc")) => ("red", 2),
        (Some("red"), Some("and")) => ("red", 3),
        (Some("red"), Some("or")) => ("red", 4),
        _ => return Err(cx.error("this barrier is not supported")),
    };
    let mut op = VOp::new(control::barrier).raw(X + 3, code);
    let mut operands = inst.operands.iter();
    if kind == "red" {
        let dest = cx.operand(inst, 0)?;
        operands.next();
        op = if code == 2 {
            let d = cx.dst32(dest)?;
            op.def(D, d)
        } else {
            let d = cx.dst_mask(dest)?;
            op.def_mask(D, d)
        };
    }
    let id = operands.next().ok_or_else(|| cx.error("an operand is missing"))?;
    let id = cx.src32(id)?;
    op = op.src(A, id);
    let mut rest: Vec<&Operand> = operands.collect();
    if kind == "red" {
        let (negated, reg) = match rest.pop() {
            Some(Operand::Reg(reg)) => (0, *reg),
            Some(Operand::NotReg(reg)) => (1, *reg),
            _ => return Err(cx.error("a predicate is needed")),
        };
        let mask = cx.mask_of(reg)?;
        op = op.src_mask(C, mask).raw(X + 4, negated);
    }
    if let Some(count) = rest.first() {
        let count = cx.src32(count)?;
        op = op.src(B, count).raw(X + 2, 1);
    }
    cx.push(op);
    Ok(())
}

type Family = fn(&mut Emit, &str, &Inst) -> Result<bool, LoadError>;

const FAMILIES: &[Family] = &[
    handlers::mov::lower,
    handlers::ldst::lower,
    handlers::alu_int::lower,
    handlers::logic::lower,
    handlers::warpops::lower,
    handlers::atom::lower,
    handlers::alu_f32::lower,
    handlers::compare::lower,
    handlers::cvt::lower,
    handlers::approx::lower,
    handlers::mma::lower,
    handlers::ldsm::lower,
    handlers::cpasync::lower,
    handlers::alu_f16::lower,
    handlers::alu_f64::lower,
];

/// Lowers an instruction by the first family that knows it.
fn instruction(cx: &mut Emit, inst: &Inst) -> Result<(), LoadError> {
    let module = cx.module;
    let opcode = module.name(inst.opcode);
    if opcode == "bar" || opcode == "barrier" {
        // bar.warp.sync: the other forms end a block.
        let operand = cx.operand(inst, 0)?;
        handlers::warpops::meet(cx, operand)?;
        return Ok(());
    }
    for family in FAMILIES {
        if family(cx, opcode, inst)? {
            return Ok(());
        }
    }
    Err(cx.error("the instruction is not supported"))
}

/// Values that are read before they are written on some path are zero: ops for the prologue.
pub(crate) fn clear_ops(cx: &Emit, values: &[u32], masks: &[u32]) -> Vec<VOp> {
    let mut out = Vec::new();
    for id in values {
        for part in 0..cx.widths[*id as usize] {
            let v = V { id: *id, part };
            out.push(VOp::of::<special::Clear>(cx).def(D, v));
        }
    }
    for m in masks {
        out.push(VOp::of::<special::ClearMask>(cx).def_mask(D, M(*m)));
    }
    out
}
