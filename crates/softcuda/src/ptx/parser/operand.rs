//! Operands of instructions.

use super::super::ast::{AddressBase, LabelId, Operand, RegId};
use super::super::lexer::{Tok, Token};
use super::super::types::Special;
use super::body::{Build, Entity, Place};
use super::constant::Constant;
use super::{Parser, Result};

impl<'a> Parser<'a> {
    /// An operand. `place` is where a label would go; `None` where none can stand.
    pub(super) fn operand(
        &mut self,
        build: &mut Build<'a>,
        place: Option<Place>,
    ) -> Result<Operand> {
        match self.current.tok {
            Tok::Punct(b'{') => self.vector(build),
            Tok::Punct(b'[') => self.address(build),
            Tok::Punct(b'!') => {
                let not = self.current;
                // `!p`, or a constant such as `!0`. The lexer stands behind the current token.
                let next = self.lexer.clone().next_token().tok;
                if !matches!(next, Tok::Ident(name) if name != "WARP_SZ") {
                    return self.immediate();
                }
                self.advance();
                match self.named(build, None)? {
                    Operand::Reg(reg) => Ok(Operand::NotReg(reg)),
                    _ => Err(self.error_at(not.line, not.at, "`!` of no register".into())),
                }
            }
            Tok::Ident("WARP_SZ") => self.immediate(),
            Tok::Ident(_) => self.named(build, place),
            _ if self.at_constant() => self.immediate(),
            _ => Err(self.error("expected an operand")),
        }
    }

    fn immediate(&mut self) -> Result<Operand> {
        Ok(match self.constant()? {
            Constant::Int(value) => Operand::Int(value.bits),
            Constant::F32(bits) => Operand::F32(bits),
            Constant::F64(bits) => Operand::F64(bits),
        })
    }

    /// An operand that begins with a name.
    fn named(&mut self, build: &mut Build<'a>, place: Option<Place>) -> Result<Operand> {
        let start = self.current;
        let text = self.ident("an operand")?;
        if text == "_" {
            if self.eat(b'|') {
                let second = self.destination(build)?;
                return Ok(Operand::Pair(None, second));
            }
            return Ok(Operand::Sink);
        }
        match self.lookup(build, text) {
            Some(Entity::Reg { first, vector }) => self.after_register(build, first, vector),
            Some(Entity::Symbol(symbol)) => {
                let offset = if self.at_sign() { self.constant_offset()? } else { 0 };
                Ok(Operand::Symbol(symbol, offset))
            }
            None if text.starts_with('%') => self.special(text, start),
            None => {
                let Some(place) = place else {
                    let message = format!("`{text}` is not declared");
                    return Err(self.error_at(start.line, start.at, message));
                };
                build.wait_for(text, place, start);
                Ok(Operand::Label(LabelId(u32::MAX)))
            }
        }
    }

    fn special(&mut self, text: &str, start: Token<'a>) -> Result<Operand> {
        let component = match self.current.tok {
            Tok::Dot(word) => Some(word),
            _ => None,
        };
        if let Some(special) = Special::from_name(text, component) {
            if component.is_some() {
                self.advance();
            }
            return Ok(Operand::Special(special));
        }
        let dotted = component.map_or(String::new(), |c| format!(".{c}"));
        let message = format!("`{text}{dotted}` is neither declared nor a special register");
        Err(self.error_at(start.line, start.at, message))
    }

    /// `reg`, `reg.x`, `reg|reg`, a vector register as a whole.
    fn after_register(
        &mut self,
        build: &mut Build<'a>,
        first: RegId,
        vector: u8,
    ) -> Result<Operand> {
        if let Tok::Dot(word) = self.current.tok {
            let index = match word {
                "x" | "r" => 0,
                "y" | "g" => 1,
                "z" | "b" => 2,
                "w" | "a" => 3,
                _ => return Err(self.error(&format!("unknown component `.{word}`"))),
            };
            if index >= u32::from(vector) || vector == 1 {
                return Err(self.error(&format!("the register has no component `.{word}`")));
            }
            self.advance();
            return Ok(Operand::Reg(RegId(first.0.saturating_add(index))));
        }
        if vector > 1 {
            let all = (0..u32::from(vector)).map(|i| RegId(first.0.saturating_add(i)));
            return Ok(Operand::Vector(all.map(Operand::Reg).collect()));
        }
        if self.eat(b'|') {
            let second = self.destination(build)?;
            return Ok(Operand::Pair(Some(first), second));
        }
        Ok(Operand::Reg(first))
    }

    /// The second register of `d|p`; `None` for `_`.
    fn destination(&mut self, build: &mut Build<'a>) -> Result<Option<RegId>> {
        if self.current.tok == Tok::Ident("_") {
            self.advance();
            return Ok(None);
        }
        self.register(build).map(Some)
    }

    /// `{a, b, …}`; its elements are no vectors and no addresses.
    fn vector(&mut self, build: &mut Build<'a>) -> Result<Operand> {
        self.expect(b'{')?;
        let mut elements = Vec::new();
        while !self.at(b'}') {
            if self.at(b'{') || self.at(b'[') {
                return Err(self.error("expected a register or a constant"));
            }
            elements.push(self.operand(build, None)?);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        Ok(Operand::Vector(elements.into()))
    }

    /// `[base+offset]`, `[base, {…}]`.
    fn address(&mut self, build: &mut Build<'a>) -> Result<Operand> {
        self.expect(b'[')?;
        let start = self.current;
        let base = match self.current.tok {
            Tok::Ident(text) if text != "WARP_SZ" => {
                self.advance();
                match self.lookup(build, text) {
                    Some(Entity::Reg { first, vector: 1 }) => AddressBase::Reg(first),
                    Some(Entity::Symbol(symbol)) => AddressBase::Symbol(symbol),
                    _ => {
                        let message = format!("`{text}` is not an address");
                        return Err(self.error_at(start.line, start.at, message));
                    }
                }
            }
            _ => AddressBase::Absolute,
        };
        let offset = if base == AddressBase::Absolute || self.at_sign() {
            self.constant_offset()?
        } else {
            0
        };
        if self.eat(b',') {
            let mut rest = vec![self.coordinate(build)?];
            while self.eat(b',') {
                rest.push(self.coordinate(build)?);
            }
            self.expect(b']')?;
            return Ok(Operand::Tensor(base, rest.into()));
        }
        self.expect(b']')?;
        Ok(Operand::Address(base, offset))
    }

    fn coordinate(&mut self, build: &mut Build<'a>) -> Result<Operand> {
        if self.at(b'{') {
            return self.vector(build);
        }
        self.named(build, None)
    }
}
