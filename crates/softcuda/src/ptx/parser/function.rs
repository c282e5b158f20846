//! Kernels and device functions: parameters, directives, bodies.

use std::collections::HashMap;

use super::super::ast::{
    AddressBase, CallTarget, FuncId, Function, FunctionKind, Linkage, Module, Operand, Param, Perf,
    Symbol, Table,
};
use super::super::lexer::Tok;
use super::super::types::{ScalarType, Space};
use super::{Parser, Result};

/// A parameter and its name in the text.
pub(super) type NamedParam<'a> = (&'a str, Param);

impl<'a> Parser<'a> {
    /// `.entry` or `.func`, a declaration or a definition.
    pub(super) fn function(&mut self, linkage: Linkage) -> Result<()> {
        let line = self.current.line;
        let kind = if self.current.tok == Tok::Dot("entry") {
            FunctionKind::Entry
        } else {
            FunctionKind::Func
        };
        self.advance();
        while self.current.tok == Tok::Dot("attribute") {
            self.attribute()?;
        }
        let returns = if self.at(b'(') { self.params()? } else { Vec::new() };
        let name_at = self.current;
        let text = self.ident("a function's name")?;
        let params = if self.at(b'(') { self.params()? } else { Vec::new() };
        let mut function = Function {
            name: self.names.intern(text),
            kind,
            linkage,
            returns: returns.iter().map(|p| p.1.clone()).collect(),
            params: params.iter().map(|p| p.1.clone()).collect(),
            perf: Perf::default(),
            noreturn: false,
            line,
            body: None,
        };
        self.perf(&mut function)?;
        let twice = || format!("`{text}` is declared twice");
        let id = match self.globals.get(text).copied() {
            None => {
                let id = FuncId(u32::try_from(self.functions.len()).unwrap_or(u32::MAX));
                self.globals.insert(text, Symbol::Func(id));
                self.functions.push(function.clone());
                id
            }
            Some(Symbol::Func(id)) => {
                let old = self.functions.get(id.0 as usize);
                if old.is_none_or(|f| f.kind != kind || f.params.len() != params.len()) {
                    return Err(self.error_at(name_at.line, name_at.at, twice()));
                }
                id
            }
            Some(_) => return Err(self.error_at(name_at.line, name_at.at, twice())),
        };
        if self.eat(b';') {
            return Ok(());
        }
        if !self.at(b'{') {
            return Err(self.error("expected `{` or `;`"));
        }
        if self.functions.get(id.0 as usize).is_some_and(|f| f.body.is_some()) {
            return Err(self.error_at(name_at.line, name_at.at, twice()));
        }
        let outside = self.braces;
        let depth = self.depth;
        self.loc = 0;
        let result = self.body(id, &mut function, &returns, &params);
        if result.is_err() {
            self.depth = depth;
            while self.braces > outside {
                if self.current.tok == Tok::Eof {
                    return Err(self.error("function without end"));
                }
                self.advance();
            }
        }
        function.body = Some(result);
        if let Some(place) = self.functions.get_mut(id.0 as usize) {
            *place = function;
        }
        Ok(())
    }

    /// `( … )` with parameters.
    pub(super) fn params(&mut self) -> Result<Vec<NamedParam<'a>>> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        let mut end = 0u64;
        while !self.at(b')') {
            let kind = self.kind()?;
            if !matches!(kind.space, Space::Param | Space::Reg) {
                return Err(self.error("a parameter is .param or .reg"));
            }
            if kind.ty == ScalarType::Pred && kind.space == Space::Param {
                return Err(self.error("a parameter cannot be a predicate"));
            }
            let text = self.ident("a parameter's name")?;
            let dims = self.dims()?;
            let size = self.size(kind.element(), &dims)?;
            let align = kind.alignment();
            let offset = end.checked_next_multiple_of(u64::from(align)).unwrap_or(u64::MAX);
            end = offset.saturating_add(size);
            let param = Param {
                name: self.names.intern(text),
                space: kind.space,
                ty: kind.ty,
                align,
                size,
                offset,
                pointer_space: kind.pointer_space,
                reg: None,
            };
            params.push((text, param));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(params)
    }

    /// Performance directives, in any order.
    fn perf(&mut self, function: &mut Function) -> Result<()> {
        while let Tok::Dot(word) = self.current.tok {
            if word == "pragma" {
                self.pragma()?;
                continue;
            }
            self.advance();
            let perf = &mut function.perf;
            match word {
                "maxntid" => perf.max_threads = Some(self.triple()?),
                "reqntid" => perf.required_threads = Some(self.triple()?),
                "minnctapersm" => perf.min_blocks_per_sm = Some(self.small("a number")?),
                "maxnctapersm" => {
                    self.small("a number")?;
                }
                "maxnreg" => perf.max_registers = Some(self.small("a number")?),
                "reqnctapercluster" => perf.required_cluster = Some(self.triple()?),
                "maxclusterrank" => perf.max_cluster_rank = Some(self.small("a number")?),
                "explicitcluster" => perf.explicit_cluster = true,
                "noreturn" => function.noreturn = true,
                "abi_preserve" | "abi_preserve_control" => {
                    self.small("a number")?;
                }
                "blocksareclusters" => {
                    return Err(self.error(".blocksareclusters is not supported"));
                }
                _ => return Err(self.error(&format!("unknown directive `.{word}`"))),
            }
        }
        Ok(())
    }

    /// One to three numbers; the missing ones are 1.
    fn triple(&mut self) -> Result<[u32; 3]> {
        let mut values = [1; 3];
        for (i, value) in values.iter_mut().enumerate() {
            if i > 0 && !self.eat(b',') {
                break;
            }
            *value = self.small("a number")?;
        }
        Ok(values)
    }
}

/// Replaces every use of an aliased function by the function itself.
pub(super) fn apply_aliases(module: &mut Module, aliases: &HashMap<FuncId, FuncId>) {
    if aliases.is_empty() {
        return;
    }
    let resolve = |id: &mut FuncId| {
        // An alias of an alias; a cycle ends where it began.
        for _ in 0..4 {
            match aliases.get(id) {
                Some(target) => *id = *target,
                None => break,
            }
        }
    };
    let symbol = |symbol: &mut Symbol| {
        if let Symbol::Func(id) = symbol {
            resolve(id);
        }
    };
    let operand = |operand: &mut Operand| match operand {
        Operand::Symbol(s, _) | Operand::Address(AddressBase::Symbol(s), _) => symbol(s),
        _ => {}
    };
    for function in &mut module.functions {
        let Some(Ok(body)) = &mut function.body else { continue };
        for inst in &mut body.insts {
            inst.operands.iter_mut().for_each(operand);
            if let Some(call) = &mut inst.call {
                call.args.iter_mut().for_each(operand);
                if let CallTarget::Func(id) = &mut call.target {
                    resolve(id);
                }
            }
        }
        for table in &mut body.tables {
            if let Table::Call(ids) = table {
                ids.iter_mut().for_each(resolve);
            }
        }
    }
    for variable in &mut module.variables {
        for relocation in variable.init.iter_mut().flat_map(|i| &mut i.relocations) {
            symbol(&mut relocation.target);
        }
    }
}
