//! Variable declarations and their initial values.

use super::super::ast::{FuncId, Init, Linkage, Relocation, Symbol, VarId, Variable};
use super::super::lexer::Tok;
use super::super::types::{ScalarType, Space};
use super::constant::Constant;
use super::{Parser, Result};

/// Arrays of more dimensions are refused.
const MAX_DIMS: usize = 8;
/// Larger variables are refused.
const MAX_SIZE: u64 = 1 << 46;
/// Larger alignments are refused.
const MAX_ALIGN: u64 = 1 << 16;

/// Space, alignment and type: what stands before the names of a declaration.
pub(super) struct Kind {
    pub(super) space: Space,
    pub(super) ty: ScalarType,
    pub(super) vector: u8,
    pub(super) align: Option<u32>,
    /// `.ptr` was given, with this space.
    pub(super) pointer_space: Option<Space>,
}

impl Kind {
    /// Bytes of one element.
    pub(super) fn element(&self) -> u64 {
        u64::from(self.ty.bytes()).saturating_mul(u64::from(self.vector))
    }

    /// The alignment that holds: the given one or the element's.
    pub(super) fn alignment(&self) -> u32 {
        let natural = self.ty.bytes().saturating_mul(u32::from(self.vector));
        self.align.unwrap_or_else(|| natural.next_power_of_two())
    }
}

/// Where the next element of an initial value goes.
struct Cursor {
    at: u64,
    /// Bytes of an element of each depth: whole array, row, …, scalar.
    strides: Vec<u64>,
    /// Size of the variable if it is known.
    limit: Option<u64>,
    ty: ScalarType,
    init: Init,
}

impl<'a> Parser<'a> {
    /// One or more variables of the module.
    pub(super) fn module_variables(&mut self, linkage: Linkage) -> Result<()> {
        for (name, variable) in self.variables(linkage, None)? {
            let at = self.current;
            match self.globals.get(name).copied() {
                None => {
                    let id = self.add_variable(variable);
                    self.globals.insert(name, Symbol::Var(id));
                }
                Some(Symbol::Var(id)) => {
                    if !self.redeclare(id, variable) {
                        let message = format!("`{name}` is declared twice");
                        return Err(self.error_at(at.line, at.at, message));
                    }
                }
                Some(_) => {
                    let message = format!("`{name}` is declared twice");
                    return Err(self.error_at(at.line, at.at, message));
                }
            }
        }
        Ok(())
    }

    /// An `.extern` declaration and a definition of the same name are one variable.
    fn redeclare(&mut self, id: VarId, new: Variable) -> bool {
        let Some(old) = self.variables.get_mut(id.0 as usize) else { return false };
        if old.space != new.space || old.ty != new.ty {
            return false;
        }
        let mergeable =
            |linkage| matches!(linkage, Linkage::Extern | Linkage::Weak | Linkage::Common);
        if old.linkage == Linkage::Extern {
            *old = new;
            return true;
        }
        mergeable(new.linkage)
    }

    /// A declaration up to and with its semicolon; the current token is its space.
    pub(super) fn variables(
        &mut self,
        linkage: Linkage,
        owner: Option<FuncId>,
    ) -> Result<Vec<(&'a str, Variable)>> {
        let line = self.current.line;
        let kind = self.kind()?;
        if kind.space == Space::Reg || kind.ty == ScalarType::Pred {
            return Err(self.error("a variable cannot have this space or type"));
        }
        let mut found = Vec::new();
        loop {
            let text = self.ident("a variable's name")?;
            let name = self.names.intern(text);
            let mut variable = Variable {
                name,
                space: kind.space,
                linkage,
                ty: kind.ty,
                vector: kind.vector,
                align: kind.alignment(),
                dims: self.dims()?,
                size: 0,
                init: None,
                owner,
                line,
            };
            variable.size = self.size(kind.element(), &variable.dims)?;
            if self.eat(b'=') {
                self.initialise(&mut variable)?;
            }
            found.push((text, variable));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(found)
    }

    /// The dotted words from the space to the type; `.ptr` of parameters too.
    pub(super) fn kind(&mut self) -> Result<Kind> {
        let Tok::Dot(word) = self.current.tok else {
            return Err(self.error("expected a state space"));
        };
        let Some(space) = Space::from_name(word) else {
            return Err(self.error(&format!("unknown state space `.{word}`")));
        };
        self.advance();
        let mut ty = None;
        let mut kind =
            Kind { space, ty: ScalarType::B8, vector: 1, align: None, pointer_space: None };
        let mut pointer = false;
        while let Tok::Dot(word) = self.current.tok {
            match word {
                "align" => {
                    self.advance();
                    let align = self.alignment()?;
                    if !pointer {
                        kind.align = Some(align);
                    }
                    continue;
                }
                "attribute" => {
                    self.attribute()?;
                    continue;
                }
                "ptr" => pointer = true,
                "v2" => kind.vector = 2,
                "v4" => kind.vector = 4,
                "v8" => kind.vector = 8,
                _ if pointer && Space::from_name(word).is_some() => {
                    kind.pointer_space = Space::from_name(word);
                }
                _ => match ScalarType::from_name(word) {
                    Some(found) if ty.is_none() => ty = Some(found),
                    _ => return Err(self.error(&format!("`.{word}` cannot stand here"))),
                },
            }
            self.advance();
        }
        let Some(ty) = ty else { return Err(self.error("expected a type")) };
        Ok(Kind { ty, ..kind })
    }

    fn alignment(&mut self) -> Result<u32> {
        let at = self.current;
        let align = self.integer("an alignment")?;
        match u32::try_from(align) {
            Ok(small) if small.is_power_of_two() && align <= MAX_ALIGN => Ok(small),
            _ => Err(self.error_at(at.line, at.at, format!("{align} is not an alignment"))),
        }
    }

    /// `.attribute(…)`, which changes nothing here.
    pub(super) fn attribute(&mut self) -> Result<()> {
        self.advance();
        self.expect(b'(')?;
        let mut open = 1usize;
        while open > 0 {
            match self.current.tok {
                Tok::Punct(b'(') => open = open.saturating_add(1),
                Tok::Punct(b')') => open = open.saturating_sub(1),
                Tok::Eof | Tok::Punct(b';' | b'{' | b'}') => {
                    return Err(self.error("attribute without end"));
                }
                _ => {}
            }
            self.advance();
        }
        Ok(())
    }

    /// `[n][m]…`; `None` for `[]`, which only the first may be.
    pub(super) fn dims(&mut self) -> Result<Vec<Option<u64>>> {
        let mut dims = Vec::new();
        while self.eat(b'[') {
            if dims.len() >= MAX_DIMS {
                return Err(self.error("too many dimensions"));
            }
            if self.at(b']') && dims.is_empty() {
                dims.push(None);
            } else {
                dims.push(Some(self.integer("a dimension")?));
            }
            self.expect(b']')?;
        }
        Ok(dims)
    }

    /// Bytes of an array; 0 if its first dimension is `[]`.
    pub(super) fn size(&self, element: u64, dims: &[Option<u64>]) -> Result<u64> {
        let mut size = element;
        for dim in dims {
            let next = size.checked_mul(dim.unwrap_or(0)).filter(|s| *s <= MAX_SIZE);
            size = next.ok_or_else(|| self.error("this variable is too large"))?;
        }
        Ok(size)
    }

    fn initialise(&mut self, variable: &mut Variable) -> Result<()> {
        if !matches!(variable.space, Space::Global | Space::Const) {
            return Err(self.error("only global and constant variables have initial values"));
        }
        let scalar = u64::from(variable.ty.bytes());
        // Bytes of the array, of its rows, …, of a scalar, outermost first.
        let mut strides = vec![scalar];
        let vector = u64::from(variable.vector);
        let mut stride = scalar;
        if vector > 1 {
            stride = stride.saturating_mul(vector);
            strides.push(stride);
        }
        for dim in variable.dims.iter().rev() {
            stride = stride.saturating_mul(dim.unwrap_or(1));
            strides.push(stride);
        }
        strides.reverse();
        let unsized_array = variable.dims.first() == Some(&None);
        let mut cursor = Cursor {
            at: 0,
            strides,
            limit: (!unsized_array).then_some(variable.size),
            ty: variable.ty,
            init: Init::default(),
        };
        if self.at(b'{') {
            self.init_list(&mut cursor, 0)?;
        } else {
            self.init_item(&mut cursor)?;
        }
        if unsized_array {
            let row = cursor.strides.get(1).copied().unwrap_or(scalar).max(1);
            let rows = cursor.at.div_ceil(row);
            variable.size = rows.saturating_mul(row);
            if let Some(first) = variable.dims.first_mut() {
                *first = Some(rows);
            }
        }
        variable.init = Some(cursor.init);
        Ok(())
    }

    /// `{ … }` at a depth of the array: its elements start at the row's start, the next row follows.
    fn init_list(&mut self, cursor: &mut Cursor, depth: usize) -> Result<()> {
        let outer = cursor.at;
        self.expect(b'{')?;
        while !self.at(b'}') {
            if self.at(b'{') {
                let deeper = depth.saturating_add(1);
                if deeper >= cursor.strides.len() {
                    return Err(self.error("more braces than dimensions"));
                }
                self.init_list(cursor, deeper)?;
                // The row is over even if not all of its elements were given.
            } else {
                self.init_item(cursor)?;
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        if depth > 0 {
            let stride = cursor.strides.get(depth).copied().unwrap_or(0);
            let end = outer.saturating_add(stride);
            if cursor.at > end {
                return Err(self.error("too many initial values in a row"));
            }
            cursor.at = end;
        }
        Ok(())
    }

    fn init_item(&mut self, cursor: &mut Cursor) -> Result<()> {
        let width = u64::from(cursor.ty.bytes());
        let end = cursor.at.saturating_add(width);
        if cursor.limit.is_some_and(|limit| end > limit) || end > MAX_SIZE {
            return Err(self.error("too many initial values"));
        }
        let bits = match self.current.tok {
            Tok::Ident(name) if name != "WARP_SZ" => {
                self.init_address(cursor, u64::MAX)?;
                0
            }
            _ => {
                let constant = self.constant()?;
                if self.at(b'(') {
                    let Constant::Int(mask) = constant else {
                        return Err(self.error("a mask is an integer"));
                    };
                    self.advance();
                    self.init_address(cursor, mask.bits)?;
                    self.expect(b')')?;
                    0
                } else {
                    self.init_bits(cursor.ty, constant)?
                }
            }
        };
        self.init_store(cursor, end, bits, width)
    }

    fn init_store(&mut self, cursor: &mut Cursor, end: u64, bits: u128, width: u64) -> Result<()> {
        let have = cursor.init.bytes.len() as u64;
        let more = end.saturating_sub(have);
        let Some(left) = self.init_budget.checked_sub(more) else {
            return Err(self.error("initial values are too large"));
        };
        self.init_budget = left;
        let start = usize::try_from(cursor.at).unwrap_or(usize::MAX);
        cursor.init.bytes.resize(usize::try_from(end).unwrap_or(0), 0);
        let width = usize::try_from(width).unwrap_or(0);
        let bytes = bits.to_le_bytes();
        let places = cursor.init.bytes.get_mut(start..).unwrap_or_default();
        for (place, byte) in places.iter_mut().zip(bytes.iter().take(width)) {
            *place = *byte;
        }
        cursor.at = end;
        Ok(())
    }

    fn init_bits(&self, ty: ScalarType, constant: Constant) -> Result<u128> {
        Ok(match (constant, ty) {
            (Constant::Int(n), ScalarType::F32) => {
                u128::from((n.bits.cast_signed() as f32).to_bits())
            }
            (Constant::Int(n), ScalarType::F64) => {
                u128::from((n.bits.cast_signed() as f64).to_bits())
            }
            (Constant::Int(n), _) if n.unsigned => u128::from(n.bits),
            (Constant::Int(n), _) => i128::from(n.bits.cast_signed()).cast_unsigned(),
            (Constant::F32(bits), ScalarType::F64) => {
                u128::from(f64::from(f32::from_bits(bits)).to_bits())
            }
            (Constant::F32(bits), _) => u128::from(bits),
            (Constant::F64(bits), ScalarType::F32) => {
                u128::from((f64::from_bits(bits) as f32).to_bits())
            }
            (Constant::F64(bits), _) if ty.bits() >= 64 => u128::from(bits),
            (Constant::F64(_), _) => return Err(self.error("a float does not fit this type")),
        })
    }

    /// `name`, `name+4`, `generic(name)`, `generic(name)+4`.
    fn init_address(&mut self, cursor: &mut Cursor, mask: u64) -> Result<()> {
        let mut at = self.current;
        let mut name = self.ident("a name")?;
        let generic = name == "generic" && self.eat(b'(');
        if generic {
            at = self.current;
            name = self.ident("a name")?;
        }
        let target = self.globals.get(name).copied();
        let mut addend = 0i64;
        let inside = self.at_sign();
        if inside {
            addend = self.constant_offset()?;
        }
        if generic {
            self.expect(b')')?;
            if !inside && self.at_sign() {
                addend = self.constant_offset()?;
            }
        }
        let Some(target) = target else {
            return Err(self.error_at(at.line, at.at, format!("`{name}` is not declared")));
        };
        let width = u8::try_from(cursor.ty.bytes()).unwrap_or(u8::MAX);
        if width > 8 || cursor.ty.is_float() {
            return Err(self.error_at(at.line, at.at, "an address does not fit this type".into()));
        }
        cursor.init.relocations.push(Relocation {
            at: cursor.at,
            width,
            target,
            addend,
            generic,
            mask,
        });
        Ok(())
    }

    pub(super) fn at_sign(&self) -> bool {
        self.at(b'+') || self.at(b'-')
    }

    /// `+4`, `-4`, `+-4`: the sign is the current token.
    pub(super) fn constant_offset(&mut self) -> Result<i64> {
        Ok(self.integer("an offset")?.cast_signed())
    }
}
