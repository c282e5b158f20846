//! Function bodies: scopes, declarations, labels, instructions.

use std::collections::HashMap;

use super::super::ast::{
    Body, Call, CallTarget, FuncId, Function, Guard, Inst, Label, LabelId, Operand, Param,
    Prototype, RegId, Register, Symbol, Table, TableId,
};
use super::super::lexer::{Tok, Token};
use super::super::types::{RegClass, ScalarType, Space};
use super::function::NamedParam;
use super::{MAX_DEPTH, Parser, Result};

/// A register range with this many registers or more is refused.
const MAX_RANGE: u64 = 1 << 24;

/// What a name means inside a function.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entity {
    /// The first of `vector` registers.
    Reg {
        first: RegId,
        vector: u8,
    },
    Symbol(Symbol),
}

/// `.reg .b32 %r<570>`: registers are made when the text uses them.
struct Range {
    count: u64,
    ty: ScalarType,
    vector: u8,
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Entity>,
    ranges: HashMap<&'a str, Range>,
    labels: usize,
}

#[derive(Clone, Copy)]
enum LabelTarget {
    Label(LabelId),
    Table(TableId),
}

/// Labels may be used before they are defined, so their scopes live until the function ends.
#[derive(Default)]
struct LabelScope<'a> {
    parent: Option<usize>,
    names: HashMap<&'a str, LabelTarget>,
}

/// A place that waits for a label.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Operand of an instruction.
    Operand(usize, usize),
    /// The table of an indirect call.
    Call(usize),
    /// An entry of a `.branchtargets`.
    Entry(usize, usize),
}

struct Pending<'a> {
    name: &'a str,
    scope: usize,
    place: Place,
    at: Token<'a>,
}

/// The function that is being parsed.
pub(super) struct Build<'a> {
    id: FuncId,
    pub(super) body: Body,
    scopes: Vec<Scope<'a>>,
    label_scopes: Vec<LabelScope<'a>>,
    pending: Vec<Pending<'a>>,
}

impl<'a> Build<'a> {
    fn add_register(&mut self, register: Register) -> RegId {
        let id = u32::try_from(self.body.regs.len()).unwrap_or(u32::MAX);
        self.body.regs.push(register);
        RegId(id)
    }

    fn label_scope(&self) -> usize {
        self.scopes.last().map_or(0, |s| s.labels)
    }

    /// Notes that `place` waits for a label or table.
    pub(super) fn wait_for(&mut self, name: &'a str, place: Place, at: Token<'a>) {
        let scope = self.label_scope();
        self.pending.push(Pending { name, scope, place, at });
    }

    fn find_label(&self, name: &str, scope: usize) -> Option<LabelTarget> {
        let mut at = Some(scope);
        while let Some(scope) = at.and_then(|at| self.label_scopes.get(at)) {
            if let Some(target) = scope.names.get(name) {
                return Some(*target);
            }
            at = scope.parent;
        }
        None
    }
}

impl<'a> Parser<'a> {
    /// A body with its braces.
    pub(super) fn body(
        &mut self,
        id: FuncId,
        function: &mut Function,
        returns: &[NamedParam<'a>],
        params: &[NamedParam<'a>],
    ) -> Result<Body> {
        let mut build = Build {
            id,
            body: Body::default(),
            scopes: vec![Scope::default()],
            label_scopes: vec![LabelScope::default()],
            pending: Vec::new(),
        };
        self.declare_params(&mut build, returns, &mut function.returns, Symbol::Return)?;
        self.declare_params(&mut build, params, &mut function.params, Symbol::Param)?;
        self.open_scope(&mut build)?;
        while build.scopes.len() > 1 {
            self.statement(&mut build)?;
        }
        self.resolve_labels(&mut build)?;
        Ok(build.body)
    }

    fn declare_params(
        &mut self,
        build: &mut Build<'a>,
        named: &[NamedParam<'a>],
        params: &mut [Param],
        symbol: fn(u32) -> Symbol,
    ) -> Result<()> {
        for (index, ((text, _), param)) in named.iter().zip(params).enumerate() {
            let entity = if param.space == Space::Reg {
                let reg = build.add_register(Register { name: param.name, ty: param.ty });
                param.reg = Some(reg);
                Entity::Reg { first: reg, vector: 1 }
            } else {
                Entity::Symbol(symbol(u32::try_from(index).unwrap_or(u32::MAX)))
            };
            self.declare(build, text, entity)?;
        }
        Ok(())
    }

    fn declare(&mut self, build: &mut Build<'a>, name: &'a str, entity: Entity) -> Result<()> {
        let Some(scope) = build.scopes.last_mut() else { return Ok(()) };
        if name != "_" && scope.names.insert(name, entity).is_some() {
            return Err(self.error(&format!("`{name}` is declared twice in this scope")));
        }
        Ok(())
    }

    fn open_scope(&mut self, build: &mut Build<'a>) -> Result<()> {
        self.expect(b'{')?;
        if build.scopes.len() > MAX_DEPTH {
            return Err(self.error("scopes are nested too deeply"));
        }
        let labels = build.label_scopes.len();
        let parent = Some(build.label_scope());
        build.label_scopes.push(LabelScope { parent, names: HashMap::new() });
        build.scopes.push(Scope { labels, ..Scope::default() });
        Ok(())
    }

    fn statement(&mut self, build: &mut Build<'a>) -> Result<()> {
        match self.current.tok {
            Tok::Punct(b'{') => self.open_scope(build),
            Tok::Punct(b'}') => {
                build.body.end_line = self.current.line;
                build.scopes.pop();
                self.advance();
                Ok(())
            }
            Tok::Punct(b';') => {
                self.advance();
                Ok(())
            }
            Tok::Punct(b'@') => {
                let line = self.current.line;
                self.advance();
                let negated = self.eat(b'!');
                let reg = self.predicate(build)?;
                let opcode = self.ident("an instruction")?;
                self.instruction(build, Some(Guard { reg, negated }), opcode, line)
            }
            Tok::Ident(word) => {
                let start = self.advance();
                if self.eat(b':') {
                    self.label(build, word, start)
                } else {
                    self.instruction(build, None, word, start.line)
                }
            }
            Tok::Dot(word) => self.body_directive(build, word),
            _ => Err(self.error("expected a statement")),
        }
    }

    fn body_directive(&mut self, build: &mut Build<'a>, word: &str) -> Result<()> {
        match word {
            "reg" => self.registers(build),
            "loc" => self.location(),
            "file" => self.file(),
            "pragma" => self.pragma(),
            "section" => self.section(),
            _ => {
                let linkage = self.linkage();
                for (name, variable) in self.variables(linkage, Some(build.id))? {
                    let id = self.add_variable(variable);
                    build.body.variables.push(id);
                    self.declare(build, name, Entity::Symbol(Symbol::Var(id)))?;
                }
                Ok(())
            }
        }
    }

    /// `.reg .b32 %r<570>, a;`
    fn registers(&mut self, build: &mut Build<'a>) -> Result<()> {
        let kind = self.kind()?;
        loop {
            let text = self.ident("a register's name")?;
            if self.eat(b'<') {
                let count = self.integer("a number of registers")?;
                self.expect(b'>')?;
                if count >= MAX_RANGE {
                    return Err(self.error("too many registers"));
                }
                let range = Range { count, ty: kind.ty, vector: kind.vector };
                let Some(scope) = build.scopes.last_mut() else { return Ok(()) };
                if scope.ranges.insert(text, range).is_some() {
                    return Err(self.error(&format!("`{text}` is declared twice in this scope")));
                }
            } else {
                let entity = self.add_registers(build, text, kind.ty, kind.vector);
                self.declare(build, text, entity)?;
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn add_registers(
        &mut self,
        build: &mut Build<'a>,
        text: &str,
        ty: ScalarType,
        vector: u8,
    ) -> Entity {
        let name = self.names.intern(text);
        let first = build.add_register(Register { name, ty });
        for _ in 1..vector {
            build.add_register(Register { name, ty });
        }
        Entity::Reg { first, vector }
    }

    /// What a name means here; `None` if nothing but a label.
    pub(super) fn lookup(&mut self, build: &mut Build<'a>, text: &'a str) -> Option<Entity> {
        for at in (0..build.scopes.len()).rev() {
            let scope = build.scopes.get(at)?;
            if let Some(entity) = scope.names.get(text) {
                return Some(*entity);
            }
            if let Some((ty, vector)) = find_in_ranges(&scope.ranges, text) {
                let entity = self.add_registers(build, text, ty, vector);
                build.scopes.get_mut(at)?.names.insert(text, entity);
                return Some(entity);
            }
        }
        self.globals.get(text).copied().map(Entity::Symbol)
    }

    /// The register that a name means.
    pub(super) fn register(&mut self, build: &mut Build<'a>) -> Result<RegId> {
        let at = self.current;
        let text = self.ident("a register")?;
        match self.lookup(build, text) {
            Some(Entity::Reg { first, vector: 1 }) => Ok(first),
            _ => Err(self.error_at(at.line, at.at, format!("`{text}` is not a register"))),
        }
    }

    fn predicate(&mut self, build: &mut Build<'a>) -> Result<RegId> {
        let at = self.current;
        let reg = self.register(build)?;
        if build.body.reg_class(reg) != Some(RegClass::Pred) {
            return Err(self.error_at(at.line, at.at, "a guard is a predicate register".into()));
        }
        Ok(reg)
    }

    /// After `name:`: a label or a table.
    fn label(&mut self, build: &mut Build<'a>, text: &'a str, start: Token<'a>) -> Result<()> {
        let target = match self.current.tok {
            Tok::Dot("branchtargets") => self.branch_targets(build)?,
            Tok::Dot("calltargets") => self.call_targets(build)?,
            Tok::Dot("callprototype") => self.prototype(build)?,
            _ => {
                let inst = u32::try_from(build.body.insts.len()).unwrap_or(u32::MAX);
                let id = u32::try_from(build.body.labels.len()).unwrap_or(u32::MAX);
                let name = self.names.intern(text);
                build.body.labels.push(Label { name, inst, line: start.line });
                LabelTarget::Label(LabelId(id))
            }
        };
        let scope = build.label_scope();
        let Some(scope) = build.label_scopes.get_mut(scope) else { return Ok(()) };
        if scope.names.insert(text, target).is_some() {
            let message = format!("label `{text}` is defined twice in this scope");
            return Err(self.error_at(start.line, start.at, message));
        }
        Ok(())
    }

    fn branch_targets(&mut self, build: &mut Build<'a>) -> Result<LabelTarget> {
        self.advance();
        let table = build.body.tables.len();
        let mut labels = Vec::new();
        loop {
            let at = self.current;
            let name = self.ident("a label")?;
            build.wait_for(name, Place::Entry(table, labels.len()), at);
            labels.push(LabelId(u32::MAX));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(add_table(build, Table::Branch(labels)))
    }

    fn call_targets(&mut self, build: &mut Build<'a>) -> Result<LabelTarget> {
        self.advance();
        let mut functions = Vec::new();
        loop {
            let at = self.current;
            let name = self.ident("a function")?;
            let Some(Symbol::Func(id)) = self.globals.get(name).copied() else {
                return Err(self.error_at(at.line, at.at, format!("`{name}` is not a function")));
            };
            functions.push(id);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(add_table(build, Table::Call(functions)))
    }

    fn prototype(&mut self, build: &mut Build<'a>) -> Result<LabelTarget> {
        self.advance();
        let mut prototype = Prototype::default();
        let plain = |params: Vec<NamedParam<'a>>| params.into_iter().map(|p| p.1).collect();
        if self.at(b'(') {
            prototype.returns = plain(self.params()?);
        }
        self.ident("`_`")?;
        if self.at(b'(') {
            prototype.params = plain(self.params()?);
        }
        while let Tok::Dot("noreturn" | "abi_preserve" | "abi_preserve_control") = self.current.tok
        {
            self.advance();
            if let Tok::Number(_) = self.current.tok {
                self.advance();
            }
        }
        self.expect(b';')?;
        Ok(add_table(build, Table::Prototype(prototype)))
    }

    /// After the opcode's first word.
    fn instruction(
        &mut self,
        build: &mut Build<'a>,
        guard: Option<Guard>,
        opcode: &'a str,
        line: u32,
    ) -> Result<()> {
        let loc = self.loc;
        let mut modifiers = Vec::new();
        while let Tok::Dot(word) = self.current.tok {
            modifiers.push(self.names.intern(word));
            self.advance();
        }
        let index = build.body.insts.len();
        let mut operands = Vec::new();
        let mut call = None;
        if opcode == "call" {
            call = Some(Box::new(self.call(build, index)?));
        } else if !self.at(b';') {
            loop {
                let place = Place::Operand(index, operands.len());
                operands.push(self.operand(build, Some(place))?);
                if !self.eat(b',') {
                    break;
                }
            }
        }
        self.expect(b';')?;
        build.body.insts.push(Inst {
            guard,
            opcode: self.names.intern(opcode),
            modifiers: modifiers.into(),
            operands: operands.into(),
            call,
            line,
            loc,
        });
        Ok(())
    }

    /// `(returns), callee, (arguments), table`; all but the callee may be missing.
    fn call(&mut self, build: &mut Build<'a>, index: usize) -> Result<Call> {
        let mut returns = Vec::new();
        if self.at(b'(') {
            returns = self.arguments(build)?;
            self.expect(b',')?;
        }
        let at = self.current;
        let text = self.ident("a function")?;
        let target = match self.lookup(build, text) {
            Some(Entity::Symbol(Symbol::Func(id))) => CallTarget::Func(id),
            Some(Entity::Reg { first, vector: 1 }) => CallTarget::Reg(first),
            _ => {
                let message = format!("`{text}` is not a function");
                return Err(self.error_at(at.line, at.at, message));
            }
        };
        let mut call = Call { returns: returns.into(), target, args: Box::default(), table: None };
        if !self.eat(b',') {
            return Ok(call);
        }
        if self.at(b'(') {
            call.args = self.arguments(build)?.into();
            if !self.eat(b',') {
                return Ok(call);
            }
        }
        let at = self.current;
        let name = self.ident("a prototype or list of targets")?;
        build.wait_for(name, Place::Call(index), at);
        Ok(call)
    }

    fn arguments(&mut self, build: &mut Build<'a>) -> Result<Vec<Operand>> {
        self.expect(b'(')?;
        let mut operands = Vec::new();
        while !self.at(b')') {
            operands.push(self.operand(build, None)?);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(operands)
    }

    fn resolve_labels(&mut self, build: &mut Build<'a>) -> Result<()> {
        for pending in std::mem::take(&mut build.pending) {
            let Pending { name, scope, place, at } = pending;
            let target = build.find_label(name, scope);
            if !fill(&mut build.body, place, target) {
                return Err(self.error_at(at.line, at.at, format!("`{name}` is not declared")));
            }
        }
        Ok(())
    }
}

/// Puts the target where it was waited for; false if there is none or it is of the wrong kind.
fn fill(body: &mut Body, place: Place, target: Option<LabelTarget>) -> bool {
    match (place, target) {
        (Place::Operand(inst, operand), Some(target)) => {
            let inst = body.insts.get_mut(inst);
            let Some(slot) = inst.and_then(|i| i.operands.get_mut(operand)) else { return false };
            *slot = match target {
                LabelTarget::Label(id) => Operand::Label(id),
                LabelTarget::Table(id) => Operand::Table(id),
            };
            true
        }
        (Place::Call(inst), Some(LabelTarget::Table(id))) => {
            let call = body.insts.get_mut(inst).and_then(|i| i.call.as_mut());
            call.map(|call| call.table = Some(id)).is_some()
        }
        (Place::Entry(table, entry), Some(LabelTarget::Label(id))) => {
            let Some(Table::Branch(labels)) = body.tables.get_mut(table) else { return false };
            labels.get_mut(entry).map(|slot| *slot = id).is_some()
        }
        _ => false,
    }
}

fn add_table(build: &mut Build<'_>, table: Table) -> LabelTarget {
    let id = u32::try_from(build.body.tables.len()).unwrap_or(u32::MAX);
    build.body.tables.push(table);
    LabelTarget::Table(TableId(id))
}

/// The range that holds a register such as `%r12`.
fn find_in_ranges(ranges: &HashMap<&str, Range>, text: &str) -> Option<(ScalarType, u8)> {
    if ranges.is_empty() {
        return None;
    }
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).take(8).count();
    for count in 1..=digits {
        let (prefix, number) = text.split_at_checked(text.len().checked_sub(count)?)?;
        if count > 1 && number.starts_with('0') {
            continue;
        }
        if let Some(range) = ranges.get(prefix)
            && number.parse::<u64>().is_ok_and(|n| n < range.count)
        {
            return Some((range.ty, range.vector));
        }
    }
    None
}
