//! Literals and constant expressions.

use super::super::lexer::Tok;
use super::{MAX_DEPTH, Parser, Result};

/// The value of a constant expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constant {
    Int(Integer),
    /// Bits of an f32.
    F32(u32),
    /// Bits of an f64.
    F64(u64),
}

/// A 64-bit integer; `unsigned` after a `U` suffix or for values above the signed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) bits: u64,
    pub(super) unsigned: bool,
}

impl Integer {
    fn signed(self) -> i64 {
        self.bits.cast_signed()
    }
}

/// The value of an integer literal.
pub(super) fn integer(text: &str) -> Option<Integer> {
    let (text, suffix) = match text.strip_suffix(['U', 'u']) {
        Some(text) => (text, true),
        None => (text, false),
    };
    let digits = |prefix: [char; 2]| text.strip_prefix('0').and_then(|t| t.strip_prefix(prefix));
    let bits = if let Some(hex) = digits(['x', 'X']) {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits(['b', 'B']) {
        u64::from_str_radix(binary, 2)
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(text, 8)
    } else {
        text.parse()
    };
    // from_str_radix takes a sign; a literal has none.
    let bits = bits.ok().filter(|_| !text.contains(['+', '-']))?;
    Some(Integer { bits, unsigned: suffix || i64::try_from(bits).is_err() })
}

/// The value of a literal.
fn literal(text: &str) -> Option<Constant> {
    let after = |prefix: [char; 2]| text.strip_prefix('0').and_then(|t| t.strip_prefix(prefix));
    let hex = |digits: &str, count: usize| {
        let plain = digits.len() == count && digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    if let Some(digits) = after(['f', 'F']) {
        return u32::try_from(hex(digits, 8)?).ok().map(Constant::F32);
    }
    if let Some(digits) = after(['d', 'D']) {
        return hex(digits, 16).map(Constant::F64);
    }
    let hexadecimal = after(['x', 'X']).is_some();
    if !hexadecimal && text.contains(['.', 'e', 'E']) {
        return text.parse::<f64>().ok().map(|v| Constant::F64(v.to_bits()));
    }
    integer(text).map(Constant::Int)
}

/// Binding strength of a binary operator; 0 is none.
fn strength(tok: Tok<'_>) -> u8 {
    match tok {
        Tok::Punct(b'|') => 1,
        Tok::Punct(b'^') => 2,
        Tok::Punct(b'&') => 3,
        Tok::Shl | Tok::Shr => 4,
        Tok::Punct(b'+' | b'-') => 5,
        Tok::Punct(b'*' | b'/' | b'%') => 6,
        _ => 0,
    }
}

fn apply(tok: Tok<'_>, left: Integer, right: Integer) -> Option<Integer> {
    let unsigned = left.unsigned || right.unsigned;
    let (a, b) = (left.bits, right.bits);
    let bits = match tok {
        Tok::Punct(b'|') => a | b,
        Tok::Punct(b'^') => a ^ b,
        Tok::Punct(b'&') => a & b,
        Tok::Punct(b'+') => a.wrapping_add(b),
        Tok::Punct(b'-') => a.wrapping_sub(b),
        Tok::Punct(b'*') => a.wrapping_mul(b),
        Tok::Punct(b'/') if unsigned => a.checked_div(b)?,
        Tok::Punct(b'%') if unsigned => a.checked_rem(b)?,
        Tok::Punct(b'/') => left.signed().checked_div(right.signed())?.cast_unsigned(),
        Tok::Punct(b'%') => left.signed().checked_rem(right.signed())?.cast_unsigned(),
        Tok::Shl => u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0),
        Tok::Shr if left.unsigned => {
            u32::try_from(b).ok().and_then(|b| a.checked_shr(b)).unwrap_or(0)
        }
        Tok::Shr => {
            let amount = u32::try_from(b).unwrap_or(63).min(63);
            left.signed().wrapping_shr(amount).cast_unsigned()
        }
        _ => return None,
    };
    Some(Integer { bits, unsigned })
}

impl<'a> Parser<'a> {
    /// True if the current token can begin a constant expression.
    pub(super) fn at_constant(&self) -> bool {
        matches!(
            self.current.tok,
            Tok::Number(_) | Tok::Punct(b'-' | b'+' | b'~' | b'!' | b'(') | Tok::Ident("WARP_SZ")
        )
    }

    /// A constant expression.
    pub(super) fn constant(&mut self) -> Result<Constant> {
        self.binary(1)
    }

    /// A constant expression that is an integer.
    pub(super) fn integer(&mut self, what: &str) -> Result<u64> {
        let start = self.current;
        if !self.at_constant() {
            return Err(self.error(&format!("expected {what}")));
        }
        match self.constant()? {
            Constant::Int(value) => Ok(value.bits),
            _ => {
                Err(self.error_at(start.line, start.at, format!("expected {what}, found a float")))
            }
        }
    }

    /// One integer literal of 32 bits, no expression.
    pub(super) fn small(&mut self, what: &str) -> Result<u32> {
        if let Tok::Number(text) = self.current.tok
            && let Some(value) = integer(text).and_then(|n| u32::try_from(n.bits).ok())
        {
            self.advance();
            return Ok(value);
        }
        Err(self.error(&format!("expected {what}")))
    }

    /// Runs `parse` one level deeper.
    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.depth = self.depth.saturating_add(1);
        let result = parse(self);
        self.depth = self.depth.saturating_sub(1);
        result
    }

    fn binary(&mut self, weakest: u8) -> Result<Constant> {
        let mut left = self.unary()?;
        loop {
            let operator = self.current;
            let strength = strength(operator.tok);
            if strength < weakest || strength == 0 {
                return Ok(left);
            }
            self.advance();
            let right = self.binary(strength.saturating_add(1))?;
            let value = match (left, right) {
                (Constant::Int(left), Constant::Int(right)) => apply(operator.tok, left, right),
                _ => None,
            };
            let Some(value) = value else {
                let message = "this constant expression has no value".to_owned();
                return Err(self.error_at(operator.line, operator.at, message));
            };
            left = Constant::Int(value);
        }
    }

    fn unary(&mut self) -> Result<Constant> {
        let token = self.current;
        let value = match token.tok {
            Tok::Number(text) => match literal(text) {
                Some(value) => value,
                None => return Err(self.error(&format!("`{text}` is not a number"))),
            },
            Tok::Ident("WARP_SZ") => Constant::Int(Integer { bits: 32, unsigned: false }),
            Tok::Punct(b'(') => {
                self.advance();
                let value = self.deeper(Self::constant)?;
                self.expect(b')')?;
                return Ok(value);
            }
            Tok::Punct(sign @ (b'-' | b'+' | b'~' | b'!')) => {
                self.advance();
                let value = self.deeper(Self::unary)?;
                return match (sign, value) {
                    (b'+', value) => Ok(value),
                    (b'-', Constant::F32(bits)) => Ok(Constant::F32(bits ^ (1 << 31))),
                    (b'-', Constant::F64(bits)) => Ok(Constant::F64(bits ^ (1 << 63))),
                    (b'-', Constant::Int(n)) => {
                        Ok(Constant::Int(Integer { bits: n.bits.wrapping_neg(), ..n }))
                    }
                    (b'~', Constant::Int(n)) => Ok(Constant::Int(Integer { bits: !n.bits, ..n })),
                    (b'!', Constant::Int(n)) => {
                        Ok(Constant::Int(Integer { bits: u64::from(n.bits == 0), unsigned: false }))
                    }
                    _ => {
                        let message = "this operator takes an integer".to_owned();
                        Err(self.error_at(token.line, token.at, message))
                    }
                };
            }
            _ => return Err(self.error("expected a constant")),
        };
        self.advance();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<Constant> {
        Parser::new(text.as_bytes()).constant()
    }

    fn int(text: &str) -> i64 {
        match value(text) {
            Ok(Constant::Int(n)) => n.bits.cast_signed(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn operators_bind_as_in_c() {
        assert_eq!(int("1+2*3"), 7);
        assert_eq!(int("(1+2)*3"), 9);
        assert_eq!(int("1<<4|3&~1"), 0x12);
        assert_eq!(int("-7/2"), -3);
        assert_eq!(int("-7 % 3"), -1);
        assert_eq!(int("10-3-2"), 5);
        assert_eq!(int("-1>>1"), -1);
        assert_eq!(int("0xFFFFFFFFFFFFFFFF>>1"), i64::MAX);
        assert_eq!(int("!0 + !5"), 1);
        assert_eq!(int("WARP_SZ*2"), 64);
        assert_eq!(int("010"), 8);
        assert_eq!(int("0b101"), 5);
        assert_eq!(int("-9223372036854775808"), i64::MIN);
    }

    #[test]
    fn floats_are_bits() {
        assert_eq!(value("0f3F800000"), Ok(Constant::F32(0x3f80_0000)));
        assert_eq!(value("-0f3F800000"), Ok(Constant::F32(0xbf80_0000)));
        assert_eq!(value("0dBFF0000000000000"), Ok(Constant::F64(0xbff0_0000_0000_0000)));
        assert_eq!(value("1.5e1"), Ok(Constant::F64(15f64.to_bits())));
    }

    #[test]
    fn what_has_no_value_is_an_error() {
        for text in
            ["1/0", "1 % 0", "0f3F80", "0x", "08", "1+", "~0f3F800000", "0f3F800000+1", "1e999x"]
        {
            assert!(value(text).is_err(), "{text}");
        }
        let deep = "(".repeat(100_000);
        assert!(value(&deep).is_err());
        let deep = "-".repeat(100_000);
        assert!(value(&deep).is_err());
    }
}
