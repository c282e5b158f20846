//! What instruction families use to turn an instruction into ops.
//!
//! A family reads modifiers with [`Mods`], resolves operands with [`Emit::src32`] and its
//! relatives, and pushes [`VOp`]s. Their operands are values ([`V`], [`M`]) that register
//! allocation later turns into indices. Handlers are register-register: an immediate becomes a
//! register that holds it in every lane ([`Emit::const32`]).
//!
//! Rules:
//! - A `VOp` that writes a value writes all 32 bits of each of its registers in the active lanes.
//!   A 16-bit value has zeros above.
//! - Destinations may share a register with sources: a handler reads its sources before it writes.
//!   A handler that cannot do so calls [`VOp::early`].
//! - Guards (`@p`) are done outside; families never see them.

use std::collections::HashMap;

use crate::exec::handlers::access::{GLOBAL, LOCAL, PARAM};
use crate::exec::op::{Exec, Handler, Level, pick};
use crate::fault::LoadError;
use crate::lower::flatten::Frame;
use crate::memory::FUNCTION_BASE;
use crate::ptx::ast::{Inst, Module, Operand, RegId, Symbol, VarId};
use crate::ptx::types::{RegClass, ScalarType};

/// A lane value of one, two or four registers, or one register of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct V {
    /// Index of the value.
    pub id: u32,
    /// Which register of it, from 0.
    pub part: u8,
}

impl V {
    /// Register `part` of a wide value, as a source: 1 is the high word of 64 bits.
    #[must_use]
    pub fn part(self, part: u8) -> V {
        V { id: self.id, part: self.part + part }
    }
}

/// A predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct M(pub u32);

/// An operand field of a [`VOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Not used.
    None,
    /// A number that the handler interprets.
    Raw(u16),
    /// Reads a value.
    Use(V),
    /// Writes a value.
    Def(V),
    /// Reads a predicate.
    UseMask(M),
    /// Writes a predicate.
    DefMask(M),
}

/// Index of `d` in [`VOp::slots`]; `a`, `b`, `c` follow.
pub const D: usize = 0;
/// Index of `a`.
pub const A: usize = 1;
/// Index of `b`.
pub const B: usize = 2;
/// Index of `c`.
pub const C: usize = 3;
/// Index of `x[0]`; eight of them.
pub const X: usize = 4;
/// Index of `y(0)`, the low 16 bits of `imm`; four of them. Do not use with [`VOp::imm`].
pub const Y: usize = 12;

/// The ends of a guarded run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    Guard,
    Unguard,
}

/// What the optimiser knows of an op beyond its being pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Other,
    /// `d` is a copy of `a`.
    Copy,
    /// A load of 4 bytes from global memory.
    LoadWord,
    /// A load of so many bytes from the kernel's parameters: pure at a constant address.
    ParamLoad(u32),
}

/// An op whose operands are values.
#[derive(Clone, Debug)]
pub struct VOp {
    /// Handler.
    pub handler: Handler,
    /// The type of its body, for listings.
    pub(crate) name: &'static str,
    /// See [`Exec::PURE`].
    pub(crate) pure: bool,
    /// Without operands, the result is another for each block of the grid.
    pub(crate) per_block: bool,
    pub(crate) kind: Kind,
    /// Reads memory and may fail, but writes registers alone, and its lanes do not wait.
    pub(crate) loads: bool,
    /// The optimiser has no use for it.
    pub(crate) dropped: bool,
    /// Ends its block (or is an entry of the table of an indirect branch).
    pub(crate) ends: bool,
    /// Operands: `d a b c`, `x[0..8]`, `y(0..4)`.
    pub slots: [Slot; 16],
    /// Immediate.
    pub imm: u64,
    /// Destinations must not share registers with sources.
    pub early: bool,
    /// Set by lowering: definitions do not end the value before (`@p`).
    pub(crate) guarded: bool,
    /// Set by lowering: the instruction.
    pub(crate) site: u32,
    /// Branch target: a block, set by lowering.
    pub(crate) target: Option<u32>,
    /// Set by lowering: begins or ends a guarded run.
    pub(crate) mark: Mark,
    /// Where the lanes that do not branch go, set by lowering.
    pub(crate) rest: Option<u32>,
}

impl VOp {
    /// An op of a handler, without operands.
    #[must_use]
    pub fn new(handler: Handler) -> Self {
        VOp {
            handler,
            name: "",
            pure: false,
            per_block: false,
            kind: Kind::Other,
            loads: false,
            dropped: false,
            ends: false,
            slots: [Slot::None; 16],
            imm: 0,
            early: false,
            guarded: false,
            site: 0,
            target: None,
            rest: None,
            mark: Mark::None,
        }
    }

    /// An op whose handler is the body `E` at the level of `cx`.
    #[must_use]
    pub fn of<E: Exec>(cx: &Emit) -> Self {
        let op = Self::new(pick::<E>(cx.level));
        VOp { name: std::any::type_name::<E>(), pure: E::PURE, ..op }
    }

    /// The op is pure ([`Exec::PURE`]), and is called so in listings.
    #[must_use]
    pub(crate) fn pure(self, name: &'static str) -> Self {
        VOp { name, pure: true, ..self }
    }

    /// What listings call it.
    #[must_use]
    pub(crate) fn named(self, name: &'static str) -> Self {
        VOp { name, ..self }
    }

    /// `d` is a copy of `a`.
    #[must_use]
    pub(crate) fn copy(self) -> Self {
        VOp { kind: Kind::Copy, ..self }
    }

    /// Slot `at` writes `v`.
    #[must_use]
    pub fn def(mut self, at: usize, v: V) -> Self {
        self.slots[at] = Slot::Def(v);
        self
    }

    /// Slot `at` reads `v`.
    #[must_use]
    pub fn src(mut self, at: usize, v: V) -> Self {
        self.slots[at] = Slot::Use(v);
        self
    }

    /// Slot `at` writes the predicate `m`.
    #[must_use]
    pub fn def_mask(mut self, at: usize, m: M) -> Self {
        self.slots[at] = Slot::DefMask(m);
        self
    }

    /// Slot `at` reads the predicate `m`.
    #[must_use]
    pub fn src_mask(mut self, at: usize, m: M) -> Self {
        self.slots[at] = Slot::UseMask(m);
        self
    }

    /// Slot `at` is a number.
    #[must_use]
    pub fn raw(mut self, at: usize, n: u16) -> Self {
        self.slots[at] = Slot::Raw(n);
        self
    }

    /// The immediate.
    #[must_use]
    pub fn imm(mut self, imm: u64) -> Self {
        self.imm = imm;
        self
    }

    /// Destinations must not share registers with sources.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }
}

/// The modifiers of an instruction. What a family does not take is an error ([`Mods::finish`]).
#[derive(Debug)]
pub struct Mods<'a> {
    left: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    /// All modifiers.
    #[must_use]
    pub fn new(module: &'a Module, inst: &Inst) -> Self {
        Mods { left: inst.modifiers.iter().map(|n| module.name(*n)).collect() }
    }

    /// Takes a modifier out, wherever it stands.
    pub fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|m| *m == name) {
            Some(at) => {
                self.left.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes the first of several modifiers that is there.
    pub fn take_any(&mut self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|n| self.take(n))
    }

    /// Takes the first type in order of the text.
    pub fn take_type(&mut self) -> Option<ScalarType> {
        let at = self.left.iter().position(|m| ScalarType::from_name(m).is_some())?;
        ScalarType::from_name(self.left.remove(at))
    }

    /// The last type in order of the text, which stays.
    #[must_use]
    pub fn last_type(&self) -> Option<ScalarType> {
        self.left.iter().rev().find_map(|m| ScalarType::from_name(m))
    }

    /// The first type in order of the text, which stays.
    #[must_use]
    pub fn first_type(&self) -> Option<ScalarType> {
        self.left.iter().find_map(|m| ScalarType::from_name(m))
    }

    /// Whether a modifier is there; it stays.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.left.contains(&name)
    }

    /// Those not taken yet, in order.
    #[must_use]
    pub fn rest(&self) -> &[&'a str] {
        &self.left
    }

    /// Removes modifiers by a condition.
    pub fn drop_if(&mut self, f: impl Fn(&str) -> bool) {
        self.left.retain(|m| !f(m));
    }

    /// An error if a modifier is left.
    ///
    /// # Errors
    /// Names the instruction.
    pub fn finish(&self, cx: &Emit) -> Result<(), LoadError> {
        match self.left.first() {
            None => Ok(()),
            Some(m) => Err(cx.error(&format!("modifier .{m} is not supported here"))),
        }
    }
}

/// State of the lowering of a function.
pub struct Emit<'a> {
    /// The module.
    pub module: &'a Module,
    /// Level of the handlers.
    pub level: Level,
    pub(crate) kernel: String,
    pub(crate) line: u32,
    /// Instructions of the block before this one.
    pub(crate) position: u32,
    /// Bytes of the kernel's parameters.
    pub(crate) params_size: u32,
    /// Inlined bodies; values of their registers.
    pub(crate) frames: Vec<Frame>,
    pub(crate) values: Vec<Vec<u32>>,
    /// The body of the instruction.
    pub(crate) frame: usize,
    pub(crate) addresses: HashMap<VarId, (u8, u64)>,
    pub(crate) carry: Option<M>,
    /// Registers of each value: 1, 2 or 4.
    pub(crate) widths: Vec<u8>,
    pub(crate) mask_count: u32,
    pub(crate) constants: HashMap<(u64, u8), V>,
    pub(crate) out: Vec<VOp>,
}

impl Emit<'_> {
    /// An op of this instruction.
    pub fn push(&mut self, op: VOp) {
        self.out.push(op);
    }

    /// An error that names the instruction.
    #[must_use]
    pub fn error(&self, why: &str) -> LoadError {
        LoadError {
            code: 801,
            function: self.kernel.clone(),
            line: self.line,
            message: format!("{}: {why}", self.module.line_text(self.line)),
        }
    }

    /// A new value of `width` registers.
    pub fn temp(&mut self, width: u8) -> V {
        self.widths.push(width);
        V { id: self.widths.len() as u32 - 1, part: 0 }
    }

    /// A new predicate.
    pub fn temp_mask(&mut self) -> M {
        self.mask_count += 1;
        M(self.mask_count - 1)
    }

    /// A register that holds `bits` in every lane.
    pub fn const32(&mut self, bits: u32) -> V {
        self.constant(u64::from(bits), 1)
    }

    /// A register pair that holds `bits` in every lane.
    pub fn const64(&mut self, bits: u64) -> V {
        self.constant(bits, 2)
    }

    /// The values that are constants, in the order of their numbers.
    pub(crate) fn constant_values(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.constants.values().map(|v| v.id).collect();
        ids.sort_unstable();
        ids
    }

    fn constant(&mut self, bits: u64, width: u8) -> V {
        if let Some(v) = self.constants.get(&(bits, width)) {
            return *v;
        }
        let v = self.temp(width);
        self.constants.insert((bits, width), v);
        v
    }

    /// The class of a register of the text.
    ///
    /// # Errors
    /// For an index that the text does not have.
    pub fn class(&self, reg: RegId) -> Result<RegClass, LoadError> {
        self.frames[self.frame]
            .classes
            .get(reg.0 as usize)
            .copied()
            .ok_or_else(|| self.error("no such register"))
    }

    /// The value of a register that is not a predicate.
    ///
    /// # Errors
    /// For a predicate.
    pub fn value(&self, reg: RegId) -> Result<V, LoadError> {
        if self.class(reg)? == RegClass::Pred {
            return Err(self.error("a predicate where a value is needed"));
        }
        Ok(V { id: self.values[self.frame][reg.0 as usize], part: 0 })
    }

    /// A source of up to 32 bits. Of a wider register it is the low word. Integer immediates keep
    /// their low 32 bits, `0f` literals their bits, f64 literals are rounded to f32.
    ///
    /// # Errors
    /// For an operand that is no value.
    pub fn src32(&mut self, operand: &Operand) -> Result<V, LoadError> {
        match operand {
            Operand::Reg(reg) => self.value(*reg),
            Operand::Int(n) => Ok(self.const32(*n as u32)),
            Operand::F32(bits) => Ok(self.const32(*bits)),
            Operand::F64(bits) => Ok(self.const32((f64::from_bits(*bits) as f32).to_bits())),
            _ => Err(self.error("operand is not supported here")),
        }
    }

    /// A source of 16 bits: as [`Emit::src32`], but immediates keep their low 16 bits. The
    /// register may be wider; its upper bits are then not zero.
    ///
    /// # Errors
    /// For an operand that is no value.
    pub fn src16(&mut self, operand: &Operand) -> Result<V, LoadError> {
        match operand {
            Operand::Int(n) => Ok(self.const32(*n as u32 & 0xffff)),
            _ => self.src32(operand),
        }
    }

    /// A source of 64 bits: two registers.
    ///
    /// # Errors
    /// For an operand that is no value or a narrower register.
    pub fn src64(&mut self, operand: &Operand) -> Result<V, LoadError> {
        match operand {
            Operand::Reg(reg) => match self.class(*reg)? {
                RegClass::B64 | RegClass::B128 => self.value(*reg),
                _ => Err(self.error("the register is narrower than the operation")),
            },
            Operand::Int(n) => Ok(self.const64(*n)),
            Operand::F64(bits) => Ok(self.const64(*bits)),
            Operand::F32(bits) => Ok(self.const64(f64::from(f32::from_bits(*bits)).to_bits())),
            _ => Err(self.error("operand is not supported here")),
        }
    }

    /// A destination of up to 32 bits; `_` gives a value that nobody reads.
    ///
    /// # Errors
    /// For an operand that is no register of 16 or 32 bits.
    pub fn dst32(&mut self, operand: &Operand) -> Result<V, LoadError> {
        match operand {
            Operand::Reg(reg) => match self.class(*reg)? {
                RegClass::B16 | RegClass::B32 => self.value(*reg),
                _ => Err(self.error("the destination register is wider than the operation")),
            },
            Operand::Sink => Ok(self.temp(1)),
            _ => Err(self.error("destination is not supported here")),
        }
    }

    /// A destination of 64 bits: two registers.
    ///
    /// # Errors
    /// For an operand that is no register of 64 bits.
    pub fn dst64(&mut self, operand: &Operand) -> Result<V, LoadError> {
        match operand {
            Operand::Reg(reg) => match self.class(*reg)? {
                RegClass::B64 => self.value(*reg),
                _ => Err(self.error("the destination register is not of 64 bits")),
            },
            Operand::Sink => Ok(self.temp(2)),
            _ => Err(self.error("destination is not supported here")),
        }
    }

    /// A predicate source. For `!p` an op that inverts it is pushed first.
    ///
    /// # Errors
    /// For anything else.
    pub fn src_mask(&mut self, operand: &Operand) -> Result<M, LoadError> {
        match operand {
            Operand::Reg(reg) => self.mask_of(*reg),
            Operand::NotReg(reg) => {
                let source = self.mask_of(*reg)?;
                let dest = self.temp_mask();
                let op = VOp::of::<crate::exec::handlers::special::NotMask>(self);
                self.push(op.def_mask(D, dest).src_mask(A, source));
                Ok(dest)
            }
            _ => Err(self.error("a predicate is needed")),
        }
    }

    /// A predicate destination.
    ///
    /// # Errors
    /// For anything that is not a predicate register or `_`.
    pub fn dst_mask(&mut self, operand: &Operand) -> Result<M, LoadError> {
        match operand {
            Operand::Reg(reg) => self.mask_of(*reg),
            Operand::Sink => Ok(self.temp_mask()),
            _ => Err(self.error("a predicate destination is needed")),
        }
    }

    /// The predicate of a register.
    ///
    /// # Errors
    /// For a register that is no predicate.
    pub fn mask_of(&self, reg: RegId) -> Result<M, LoadError> {
        if self.class(reg)? != RegClass::Pred {
            return Err(self.error("a value where a predicate is needed"));
        }
        Ok(M(self.values[self.frame][reg.0 as usize]))
    }

    /// Operand `at` of an instruction.
    ///
    /// # Errors
    /// If there is none.
    pub fn operand<'i>(&self, inst: &'i Inst, at: usize) -> Result<&'i Operand, LoadError> {
        inst.operands.get(at).ok_or_else(|| self.error("an operand is missing"))
    }

    /// The carry flag of `add.cc` and its relatives.
    pub fn carry_flag(&mut self) -> M {
        if let Some(flag) = self.carry {
            return flag;
        }
        let flag = self.temp_mask();
        self.carry = Some(flag);
        flag
    }

    /// Whether the instruction belongs to the kernel itself, not to an inlined function.
    #[must_use]
    pub fn in_entry(&self) -> bool {
        self.frame == 0
    }

    /// Space (`exec::handlers::access`) and address in it of a variable, parameter or function.
    ///
    /// # Errors
    /// For a variable without an address.
    pub fn symbol(&self, symbol: Symbol) -> Result<(u8, u64), LoadError> {
        let frame = &self.frames[self.frame];
        let found = match symbol {
            Symbol::Var(v) => match frame.locals.get(&v) {
                Some(offset) => Some((LOCAL, *offset)),
                None => self.addresses.get(&v).copied(),
            },
            Symbol::Param(i) if self.frame == 0 => frame
                .func
                .and_then(|f| self.module.function(f))
                .and_then(|f| f.params.get(i as usize))
                .map(|p| (PARAM, p.offset)),
            Symbol::Param(i) => frame.params.get(i as usize).map(|o| (LOCAL, *o)),
            Symbol::Return(i) => frame.returns.get(i as usize).map(|o| (LOCAL, *o)),
            Symbol::Func(f) => Some((GLOBAL, FUNCTION_BASE + u64::from(f.0))),
        };
        found.ok_or_else(|| self.error("the name has no address"))
    }

    /// The elements of a vector operand; any other operand is one element.
    #[must_use]
    pub fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(list) => list,
            one => std::slice::from_ref(one),
        }
    }
}
