//! Bytes to tokens.

use std::str;

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tok<'a> {
    /// `.word`, without the dot, with `::word` parts: `global`, `L2::128B`.
    Dot(&'a str),
    /// A name; may start with `%` or `$`.
    Ident(&'a str),
    /// A numeric literal as written.
    Number(&'a str),
    /// The bytes between quotes.
    Str(&'a [u8]),
    /// One character of punctuation.
    Punct(u8),
    /// `<<`
    Shl,
    /// `>>`
    Shr,
    /// Bytes that are no token, and why.
    Bad(&'static str),
    /// The end of the text.
    Eof,
}

/// A token and where it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) tok: Tok<'a>,
    /// Byte offset.
    pub(super) at: usize,
    /// Line, from 1.
    pub(super) line: u32,
}

/// Gives the tokens of a text one by one. White space, NUL and comments separate them.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self { source, at: 0, line: 1 }
    }

    /// The next token; [`Tok::Eof`] again and again at the end.
    pub(super) fn next_token(&mut self) -> Token<'a> {
        let skipped = self.skip_blank();
        let (at, line) = (self.at, self.line);
        let tok = if let Err(message) = skipped { Tok::Bad(message) } else { self.token() };
        Token { tok, at, line }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at.saturating_add(ahead)).copied()
    }

    fn bump(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.source.len());
    }

    /// Moves to the first byte that does not satisfy `inside`, returns the bytes from `start`.
    fn take_while(&mut self, start: usize, inside: impl Fn(u8) -> bool) -> &'a [u8] {
        while self.peek(0).is_some_and(&inside) {
            self.bump(1);
        }
        self.source.get(start..self.at).unwrap_or_default()
    }

    fn skip_blank(&mut self) -> Result<(), &'static str> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\n'), _) => {
                    self.line = self.line.saturating_add(1);
                    self.bump(1);
                }
                (Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0), _) => self.bump(1),
                (Some(b'/'), Some(b'/')) => {
                    self.take_while(self.at, |b| b != b'\n');
                }
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), &'static str> {
        self.bump(2);
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'*'), Some(b'/')) => {
                    self.bump(2);
                    return Ok(());
                }
                (Some(b'\n'), _) => {
                    self.line = self.line.saturating_add(1);
                    self.bump(1);
                }
                (Some(_), _) => self.bump(1),
                (None, _) => return Err("comment without end"),
            }
        }
    }

    fn token(&mut self) -> Tok<'a> {
        let start = self.at;
        let Some(first) = self.peek(0) else { return Tok::Eof };
        self.bump(1);
        match first {
            b'.' if self.peek(0).is_some_and(is_word) => self.dot_word(),
            b'"' => self.string(),
            b'0'..=b'9' => self.number(start),
            b'%' if !self.peek(0).is_some_and(is_word) => Tok::Punct(b'%'),
            b'%' => text(self.take_while(start, is_word)).map_or(Tok::Bad("name"), Tok::Ident),
            _ if is_word(first) => {
                text(self.take_while(start, is_word)).map_or(Tok::Bad("name"), Tok::Ident)
            }
            b'<' if self.peek(0) == Some(b'<') => {
                self.bump(1);
                Tok::Shl
            }
            b'>' if self.peek(0) == Some(b'>') => {
                self.bump(1);
                Tok::Shr
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':' | b'@'
            | b'!' | b'|' | b'+' | b'-' | b'*' | b'/' | b'&' | b'^' | b'~' | b'=' => {
                Tok::Punct(first)
            }
            _ => Tok::Bad("unexpected character"),
        }
    }

    fn dot_word(&mut self) -> Tok<'a> {
        let start = self.at;
        self.take_while(start, is_word);
        while self.peek(0) == Some(b':')
            && self.peek(1) == Some(b':')
            && self.peek(2).is_some_and(is_word)
        {
            self.bump(2);
            self.take_while(start, is_word);
        }
        let bytes = self.source.get(start..self.at).unwrap_or_default();
        text(bytes).map_or(Tok::Bad("name"), Tok::Dot)
    }

    fn string(&mut self) -> Tok<'a> {
        let start = self.at;
        let bytes = self.take_while(start, |b| b != b'"' && b != b'\n');
        if self.peek(0) != Some(b'"') {
            return Tok::Bad("string without end");
        }
        self.bump(1);
        Tok::Str(bytes)
    }

    fn number(&mut self, start: usize) -> Tok<'a> {
        let prefixed = self.source.get(start) == Some(&b'0')
            && matches!(self.peek(0), Some(b'x' | b'X' | b'b' | b'B' | b'f' | b'F' | b'd' | b'D'));
        if !prefixed {
            self.take_while(start, |b| b.is_ascii_digit());
            if self.peek(0) == Some(b'.') && self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
                self.bump(1);
                self.take_while(start, |b| b.is_ascii_digit());
            }
            if matches!(self.peek(0), Some(b'e' | b'E')) {
                let sign = matches!(self.peek(1), Some(b'+' | b'-'));
                if self.peek(if sign { 2 } else { 1 }).is_some_and(|b| b.is_ascii_digit()) {
                    self.bump(if sign { 2 } else { 1 });
                }
            }
        }
        text(self.take_while(start, is_word)).map_or(Tok::Bad("number"), Tok::Number)
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &str) -> Vec<Tok<'_>> {
        let mut lexer = Lexer::new(source.as_bytes());
        let mut tokens = Vec::new();
        loop {
            match lexer.next_token().tok {
                Tok::Eof => return tokens,
                tok => tokens.push(tok),
            }
        }
    }

    #[test]
    fn modifiers_keep_their_double_colons() {
        assert_eq!(
            all("cp.async.cg.shared.global.L2::128B [%r1+-16], 0f3F800000;"),
            [
                Tok::Ident("cp"),
                Tok::Dot("async"),
                Tok::Dot("cg"),
                Tok::Dot("shared"),
                Tok::Dot("global"),
                Tok::Dot("L2::128B"),
                Tok::Punct(b'['),
                Tok::Ident("%r1"),
                Tok::Punct(b'+'),
                Tok::Punct(b'-'),
                Tok::Number("16"),
                Tok::Punct(b']'),
                Tok::Punct(b','),
                Tok::Number("0f3F800000"),
                Tok::Punct(b';'),
            ]
        );
    }

    #[test]
    fn numbers_and_shifts() {
        assert_eq!(
            all("9.0 1.5e-3 0x1eU 1<<2 %r<5>; a%b % 3"),
            [
                Tok::Number("9.0"),
                Tok::Number("1.5e-3"),
                Tok::Number("0x1eU"),
                Tok::Number("1"),
                Tok::Shl,
                Tok::Number("2"),
                Tok::Ident("%r"),
                Tok::Punct(b'<'),
                Tok::Number("5"),
                Tok::Punct(b'>'),
                Tok::Punct(b';'),
                Tok::Ident("a"),
                Tok::Ident("%b"),
                Tok::Punct(b'%'),
                Tok::Number("3"),
            ]
        );
    }

    #[test]
    fn lines_count_through_comments() {
        let mut lexer = Lexer::new(b"// one\n/* two\n three */ x\n\"open");
        let token = lexer.next_token();
        assert_eq!((token.tok, token.line), (Tok::Ident("x"), 3));
        let token = lexer.next_token();
        assert_eq!((token.tok, token.line), (Tok::Bad("string without end"), 4));
        assert_eq!(Lexer::new(b"/* x").next_token().tok, Tok::Bad("comment without end"));
    }
}
