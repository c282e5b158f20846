//! What the parser makes of a PTX module.
//!
//! Every name is resolved: registers, variables, parameters, functions and labels are indices. What
//! stays text is interned ([`Name`]): opcodes and modifiers, which the lowering matches as `&str`
//! once for each instruction, and the names that reports print.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::linetable::LineTable;
use super::types::{RegClass, ScalarType, Space, Special};

/// An interned string of the module; see [`Names::get`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub u32);

/// Index into [`Module::functions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FuncId(pub u32);

/// Index into [`Module::variables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VarId(pub u32);

/// Index into [`Body::regs`]; dense, only registers that the text uses have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// Index into [`Body::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

/// Index into [`Body::tables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// The interned strings of a module.
#[derive(Debug, Clone, Default)]
pub struct Names {
    strings: Vec<Arc<str>>,
    index: HashMap<Arc<str>, Name>,
}

impl Names {
    /// The text of a name; empty for a name of another module.
    #[must_use]
    pub fn get(&self, name: Name) -> &str {
        self.strings.get(name.0 as usize).map_or("", |s| s)
    }

    /// The name of a text that occurs in the module.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Name> {
        self.index.get(text).copied()
    }

    /// Interns a text.
    pub fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.index.get(text) {
            return *name;
        }
        let name = Name(u32::try_from(self.strings.len()).unwrap_or(u32::MAX));
        let text: Arc<str> = Arc::from(text);
        self.strings.push(Arc::clone(&text));
        self.index.insert(text, name);
        name
    }
}

/// A parsed module.
#[derive(Debug, Clone)]
pub struct Module {
    /// `.version`: major, minor.
    pub version: (u32, u32),
    /// `.target` words, such as `sm_80`, `debug`.
    pub targets: Vec<Name>,
    /// Functions, in order of first appearance. A declaration and its definition are one.
    pub functions: Vec<Function>,
    /// All variables: of the module (`owner` is `None`) and of function bodies.
    pub variables: Vec<Variable>,
    /// Interned strings.
    pub names: Names,
    /// Source positions; [`Inst::loc`] points into it.
    pub lines: LineTable,
    /// The PTX text.
    pub source: Arc<[u8]>,
    /// Byte offset of the start of each line of `source`.
    pub line_starts: Vec<u32>,
}

impl Module {
    /// The text of an interned string.
    #[must_use]
    pub fn name(&self, name: Name) -> &str {
        self.names.get(name)
    }

    /// The function called `name`.
    #[must_use]
    pub fn find_function(&self, name: &str) -> Option<FuncId> {
        let name = self.names.find(name)?;
        let at = self.functions.iter().position(|f| f.name == name)?;
        u32::try_from(at).ok().map(FuncId)
    }

    /// The module variable called `name` (not one of a function body).
    #[must_use]
    pub fn find_variable(&self, name: &str) -> Option<VarId> {
        let name = self.names.find(name)?;
        let at = self.variables.iter().position(|v| v.name == name && v.owner.is_none())?;
        u32::try_from(at).ok().map(VarId)
    }

    /// A function of this module.
    #[must_use]
    pub fn function(&self, id: FuncId) -> Option<&Function> {
        self.functions.get(id.0 as usize)
    }

    /// A variable of this module.
    #[must_use]
    pub fn variable(&self, id: VarId) -> Option<&Variable> {
        self.variables.get(id.0 as usize)
    }

    /// The text of a PTX line (1 is the first), without surrounding white space.
    #[must_use]
    pub fn line_text(&self, line: u32) -> String {
        line_text(&self.source, &self.line_starts, line)
    }
}

/// The text of line `line` (from 1) of `source`, trimmed, at most 200 characters.
pub(crate) fn line_text(source: &[u8], line_starts: &[u32], line: u32) -> String {
    let index = (line as usize).saturating_sub(1);
    let Some(start) = line_starts.get(index) else { return String::new() };
    let end = line_starts.get(index.saturating_add(1)).map_or(source.len(), |e| *e as usize);
    let bytes = source.get(*start as usize..end).unwrap_or_default();
    String::from_utf8_lossy(bytes)
        .trim_matches(['\0', ' ', '\t', '\r', '\n'])
        .chars()
        .take(200)
        .collect()
}

/// `.visible`, `.extern`, `.weak`, `.common` or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    /// None given: local to the module.
    #[default]
    Internal,
    /// `.visible`
    Visible,
    /// `.extern`
    Extern,
    /// `.weak`
    Weak,
    /// `.common`
    Common,
}

/// `.entry` or `.func`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// A kernel.
    Entry,
    /// A device function.
    Func,
}

/// A kernel or device function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its symbol.
    pub name: Name,
    /// Kernel or device function.
    pub kind: FunctionKind,
    /// Linkage.
    pub linkage: Linkage,
    /// Return parameters.
    pub returns: Vec<Param>,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Performance directives.
    pub perf: Perf,
    /// `.noreturn`
    pub noreturn: bool,
    /// Line of the definition (or declaration).
    pub line: u32,
    /// `None`: declared only. `Err`: the first line of the body that does not parse.
    pub body: Option<Result<Body, ParseError>>,
}

impl Function {
    /// Bytes of the parameter buffer, without padding after the last parameter.
    #[must_use]
    pub fn param_bytes(&self) -> u64 {
        self.params.last().map_or(0, |p| p.offset.saturating_add(p.size))
    }
}

/// A parameter of a function.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// `Param`, or `Reg` for a register parameter of a device function.
    pub space: Space,
    /// Element type.
    pub ty: ScalarType,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Size in bytes, all elements. 0 for an unsized array (variadic calls).
    pub size: u64,
    /// Offset in the parameter buffer by natural layout.
    pub offset: u64,
    /// `.ptr`: the space that the pointer points into, if one was named.
    pub pointer_space: Option<Space>,
    /// The register of a `.reg` parameter, when the function has a body.
    pub reg: Option<RegId>,
}

/// Performance directives of a kernel.
#[derive(Debug, Clone, Default)]
pub struct Perf {
    /// `.maxntid`, missing components are 1.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, missing components are 1.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub min_blocks_per_sm: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`, missing components are 1.
    pub required_cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`
    pub max_cluster_rank: Option<u32>,
    /// `.explicitcluster`
    pub explicit_cluster: bool,
}

/// A variable of the module or of a function body.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its symbol.
    pub name: Name,
    /// `Global`, `Const`, `Shared`, `Local`, or `Param` for a slot of a call sequence.
    pub space: Space,
    /// Linkage.
    pub linkage: Linkage,
    /// Element type.
    pub ty: ScalarType,
    /// `.v2`, `.v4`: 2, 4; otherwise 1.
    pub vector: u8,
    /// Alignment in bytes, a power of two: the one given, or the element's own size.
    pub align: u32,
    /// Array dimensions; `None` for `[]`.
    pub dims: Vec<Option<u64>>,
    /// Size in bytes. 0 for an unsized array such as dynamic shared memory.
    pub size: u64,
    /// Initial value.
    pub init: Option<Init>,
    /// The function in whose body it is declared.
    pub owner: Option<FuncId>,
    /// Line of the declaration.
    pub line: u32,
}

impl Variable {
    /// True for `name[]` without an initialiser: dynamic shared memory, extern arrays.
    #[must_use]
    pub fn is_unsized(&self) -> bool {
        self.size == 0
    }
}

/// Initial value of a variable: bytes, then addresses to be added where they belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// The first bytes of the variable; the rest is zero.
    pub bytes: Vec<u8>,
    /// Places of `bytes` that hold an address.
    pub relocations: Vec<Relocation>,
}

/// An address in an initial value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// Offset in the variable.
    pub at: u64,
    /// Bytes to write: 1, 2, 4 or 8.
    pub width: u8,
    /// Variable or function whose address it is.
    pub target: Symbol,
    /// Added to the address.
    pub addend: i64,
    /// `generic(name)`: the generic address, not the one in the variable's space.
    pub generic: bool,
    /// `mask(name)`, such as `0xFF00(name)`: bits to keep, moved down to bit 0. All ones without one.
    pub mask: u64,
}

/// What a name in an operand means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// A variable, also a parameter slot of a call sequence.
    Var(VarId),
    /// A parameter of the enclosing function: index into [`Function::params`].
    Param(u32),
    /// A return parameter of the enclosing function: index into [`Function::returns`].
    Return(u32),
    /// A function.
    Func(FuncId),
}

/// The body of a function.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// Registers that the body uses.
    pub regs: Vec<Register>,
    /// Instructions in text order; nested scopes are flattened.
    pub insts: Vec<Inst>,
    /// Labels.
    pub labels: Vec<Label>,
    /// `.branchtargets`, `.calltargets`, `.callprototype`.
    pub tables: Vec<Table>,
    /// Variables declared in the body, in text order.
    pub variables: Vec<VarId>,
    /// Line of the closing brace, for the implicit `ret`.
    pub end_line: u32,
}

impl Body {
    /// The instruction index that a label stands before; `insts.len()` at the end of the body.
    #[must_use]
    pub fn target(&self, label: LabelId) -> Option<usize> {
        self.labels.get(label.0 as usize).map(|l| l.inst as usize)
    }

    /// The class of a register.
    #[must_use]
    pub fn reg_class(&self, reg: RegId) -> Option<RegClass> {
        self.regs.get(reg.0 as usize).map(|r| r.ty.reg_class())
    }
}

/// A register. Two registers of one name in different scopes are different registers.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// Its name in the text, for reports.
    pub name: Name,
    /// Declared type; only its width matters ([`ScalarType::reg_class`]).
    pub ty: ScalarType,
}

/// A label.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: Name,
    /// The instruction that follows it.
    pub inst: u32,
    /// Its line.
    pub line: u32,
}

/// A table that `brx.idx` or an indirect `call` names.
#[derive(Debug, Clone)]
pub enum Table {
    /// `.branchtargets`
    Branch(Vec<LabelId>),
    /// `.calltargets`
    Call(Vec<FuncId>),
    /// `.callprototype`
    Prototype(Prototype),
}

/// `.callprototype`: parameters of an indirect call.
#[derive(Debug, Clone, Default)]
pub struct Prototype {
    /// Return parameters.
    pub returns: Vec<Param>,
    /// Parameters.
    pub params: Vec<Param>,
}

/// `@p` or `@!p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub reg: RegId,
    /// `!`
    pub negated: bool,
}

/// An instruction.
#[derive(Debug, Clone)]
pub struct Inst {
    /// Guard predicate.
    pub guard: Option<Guard>,
    /// First word, such as `ld`.
    pub opcode: Name,
    /// Words after it, without dots, such as `global`, `L2::128B`, `u32`.
    pub modifiers: Box<[Name]>,
    /// Operands in order. Empty for `call`, which has [`Inst::call`].
    pub operands: Box<[Operand]>,
    /// What a `call` calls.
    pub call: Option<Box<Call>>,
    /// PTX line, from 1.
    pub line: u32,
    /// Source position: index for [`LineTable::get`], 0 when there is none.
    pub loc: u32,
}

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Slots or registers that take the results.
    pub returns: Box<[Operand]>,
    /// Callee.
    pub target: CallTarget,
    /// Slots, registers or immediates passed.
    pub args: Box<[Operand]>,
    /// Prototype or target list of an indirect call.
    pub table: Option<TableId>,
}

/// The callee of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallTarget {
    /// A function of the module.
    Func(FuncId),
    /// The function whose token is in a 64-bit register.
    Reg(RegId),
}

/// An operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(RegId),
    /// `!p`
    NotReg(RegId),
    /// `d|p`: two destinations; `None` for `_`.
    Pair(Option<RegId>, Option<RegId>),
    /// A special register.
    Special(Special),
    /// An integer immediate, two's complement in 64 bits.
    Int(u64),
    /// `0f…`: the bits of an f32.
    F32(u32),
    /// `0d…` or a decimal float literal: the bits of an f64.
    F64(u64),
    /// The address of a variable, parameter or function, plus an offset: `mov.u64 %rd1, name+4`.
    Symbol(Symbol, i64),
    /// A label.
    Label(LabelId),
    /// A `.branchtargets`, `.calltargets` or `.callprototype` table.
    Table(TableId),
    /// `{a, b, …}`; also a vector register named as a whole.
    Vector(Box<[Operand]>),
    /// `_`
    Sink,
    /// `[base+offset]`
    Address(AddressBase, i64),
    /// `[base, {coordinates}]` of tensor copies and textures, also `[a, b]`.
    Tensor(AddressBase, Box<[Operand]>),
}

/// What an address starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressBase {
    /// A register.
    Reg(RegId),
    /// A variable, parameter or function.
    Symbol(Symbol),
    /// Nothing: an absolute address.
    Absolute,
}

/// A PTX text that does not parse, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// The text of the line.
    pub text: String,
    /// The module's `.version` is above [`super::HIGHEST_VERSION`], which may be why.
    pub newer_version: bool,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}:{}: {}: {}", self.line, self.column, self.message, self.text)
    }
}

impl std::error::Error for ParseError {}
