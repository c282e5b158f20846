//! Recursive-descent parser of PTX modules.
//!
//! A line inside a function that does not parse poisons that function only; what is outside of
//! functions must parse. Names are resolved here, so that a use before its declaration, a name
//! used twice in a scope and an unknown special register are errors with a line.

mod body;
mod constant;
mod function;
mod operand;
mod variable;

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{
    FuncId, Function, Linkage, Module, Name, Names, ParseError, Symbol, VarId, Variable, line_text,
};
use super::lexer::{Lexer, Tok, Token};
use super::linetable::{LineTable, Loc};

/// The newest PTX ISA version that is known; newer text is tried all the same.
pub const HIGHEST_VERSION: (u32, u32) = (9, 5);

/// How deep parentheses, braces of scopes and of initial values may nest.
const MAX_DEPTH: usize = 64;

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a module. Trailing NUL bytes are white space.
///
/// # Errors
/// The first place outside of a function body that does not parse. Errors in bodies are in
/// [`Function::body`].
pub fn parse(source: &[u8]) -> Result<Module> {
    let mut parser = Parser::new(source);
    match parser.module() {
        Ok(()) => Ok(parser.finish()),
        Err(error) => Err(ParseError { newer_version: parser.is_newer(), ..error }),
    }
}

/// Names and bytes of `.section .debug_str`.
#[derive(Default)]
struct DebugStrings<'a> {
    bytes: Vec<u8>,
    labels: HashMap<&'a str, usize>,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    current: Token<'a>,
    /// Braces open before the current token.
    braces: usize,
    /// Depth of the recursion, at most [`MAX_DEPTH`].
    depth: usize,
    source: &'a [u8],
    line_starts: Vec<u32>,
    version: (u32, u32),
    targets: Vec<Name>,
    functions: Vec<Function>,
    variables: Vec<Variable>,
    names: Names,
    globals: HashMap<&'a str, Symbol>,
    aliases: HashMap<FuncId, FuncId>,
    /// Bytes of initial values that may still be stored.
    init_budget: u64,
    lines: LineTable,
    /// Newest index of each position, for `inlined_at`.
    positions: HashMap<(u32, u32, u32), u32>,
    /// Position of the statements that follow; 0 when there is none.
    loc: u32,
    debug_strings: DebugStrings<'a>,
    /// Positions whose function is named by a label of `.debug_str`.
    inlined: Vec<(u32, &'a str, u64)>,
}

impl<'a> Parser<'a> {
    fn new(source: &'a [u8]) -> Self {
        let newlines = source.iter().enumerate().filter(|(_, b)| **b == b'\n');
        let starts = newlines.map(|(at, _)| at.saturating_add(1));
        let starts = std::iter::once(0).chain(starts);
        let line_starts = starts.map(|at| u32::try_from(at).unwrap_or(u32::MAX)).collect();
        let mut lexer = Lexer::new(source);
        let current = lexer.next_token();
        Self {
            lexer,
            current,
            braces: 0,
            depth: 0,
            source,
            line_starts,
            version: (0, 0),
            targets: Vec::new(),
            functions: Vec::new(),
            variables: Vec::new(),
            names: Names::default(),
            globals: HashMap::new(),
            aliases: HashMap::new(),
            init_budget: (source.len() as u64).saturating_mul(64).saturating_add(1 << 26),
            lines: LineTable::default(),
            positions: HashMap::new(),
            loc: 0,
            debug_strings: DebugStrings::default(),
            inlined: Vec::new(),
        }
    }

    fn is_newer(&self) -> bool {
        self.version > HIGHEST_VERSION
    }

    fn finish(mut self) -> Module {
        self.name_inlined();
        let mut module = Module {
            version: self.version,
            targets: self.targets,
            functions: self.functions,
            variables: self.variables,
            names: self.names,
            lines: self.lines,
            source: Arc::from(self.source),
            line_starts: self.line_starts,
        };
        function::apply_aliases(&mut module, &self.aliases);
        module
    }

    // Tokens.

    fn advance(&mut self) -> Token<'a> {
        match self.current.tok {
            Tok::Punct(b'{') => self.braces = self.braces.saturating_add(1),
            Tok::Punct(b'}') => self.braces = self.braces.saturating_sub(1),
            _ => {}
        }
        let next = self.lexer.next_token();
        std::mem::replace(&mut self.current, next)
    }

    fn at(&self, punct: u8) -> bool {
        self.current.tok == Tok::Punct(punct)
    }

    fn eat(&mut self, punct: u8) -> bool {
        let found = self.at(punct);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) {
            return Ok(());
        }
        Err(self.error(&format!("expected `{}`", char::from(punct))))
    }

    fn ident(&mut self, what: &str) -> Result<&'a str> {
        if let Tok::Ident(name) = self.current.tok {
            self.advance();
            return Ok(name);
        }
        Err(self.error(&format!("expected {what}")))
    }

    /// An error at the current token.
    fn error(&self, message: &str) -> ParseError {
        let message = match self.current.tok {
            Tok::Bad(why) => format!("{message}, found {why}"),
            Tok::Eof => format!("{message}, found the end of the text"),
            _ => message.to_owned(),
        };
        self.error_at(self.current.line, self.current.at, message)
    }

    fn error_at(&self, line: u32, at: usize, message: String) -> ParseError {
        let start = (line as usize).checked_sub(1).and_then(|l| self.line_starts.get(l));
        let column = at.saturating_sub(start.map_or(0, |s| *s as usize)).saturating_add(1);
        ParseError {
            line,
            column: u32::try_from(column).unwrap_or(u32::MAX),
            message,
            text: line_text(self.source, &self.line_starts, line),
            newer_version: self.is_newer(),
        }
    }

    // Module level.

    fn module(&mut self) -> Result<()> {
        if u32::try_from(self.source.len()).is_err() {
            return Err(self.error("the text is larger than 4 GiB"));
        }
        let mut seen_version = false;
        loop {
            match self.current.tok {
                Tok::Eof if seen_version => return Ok(()),
                Tok::Dot("version") if !seen_version => {
                    self.advance();
                    self.version = self.version_number()?;
                    seen_version = true;
                }
                _ if !seen_version => return Err(self.error("expected `.version`")),
                Tok::Dot(_) => self.directive()?,
                Tok::Punct(b';') => {
                    self.advance();
                }
                _ => return Err(self.error("expected a directive")),
            }
        }
    }

    fn version_number(&mut self) -> Result<(u32, u32)> {
        let Tok::Number(text) = self.current.tok else {
            return Err(self.error("expected a version such as 8.0"));
        };
        let parts = text.split_once('.').and_then(|(a, b)| a.parse().ok().zip(b.parse().ok()));
        let Some(version) = parts else {
            return Err(self.error("expected a version such as 8.0"));
        };
        self.advance();
        Ok(version)
    }

    fn directive(&mut self) -> Result<()> {
        let Tok::Dot(word) = self.current.tok else {
            return Err(self.error("expected a directive"));
        };
        match word {
            "target" => self.target(),
            "address_size" => self.address_size(),
            "file" => self.file(),
            "loc" => self.location(),
            "section" => self.section(),
            "pragma" => self.pragma(),
            "alias" => self.alias(),
            "entry" | "func" => self.function(Linkage::Internal),
            "visible" | "extern" | "weak" | "common" => {
                let linkage = self.linkage();
                match self.current.tok {
                    Tok::Dot("entry" | "func") => self.function(linkage),
                    _ => self.module_variables(linkage),
                }
            }
            "global" | "const" | "shared" => self.module_variables(Linkage::Internal),
            "tex" | "texref" | "samplerref" | "surfref" => {
                Err(self.error("textures and surfaces are not supported"))
            }
            _ => Err(self.error(&format!("unknown directive `.{word}`"))),
        }
    }

    /// `.visible` and the like, if there is one.
    fn linkage(&mut self) -> Linkage {
        let linkage = match self.current.tok {
            Tok::Dot("visible") => Linkage::Visible,
            Tok::Dot("extern") => Linkage::Extern,
            Tok::Dot("weak") => Linkage::Weak,
            Tok::Dot("common") => Linkage::Common,
            _ => return Linkage::Internal,
        };
        self.advance();
        linkage
    }

    fn target(&mut self) -> Result<()> {
        self.advance();
        loop {
            let word = self.ident("a target such as sm_80")?;
            self.targets.push(self.names.intern(word));
            if !self.eat(b',') {
                return Ok(());
            }
        }
    }

    fn address_size(&mut self) -> Result<()> {
        self.advance();
        if self.current.tok != Tok::Number("64") {
            return Err(self.error("only .address_size 64 is supported"));
        }
        self.advance();
        Ok(())
    }

    fn alias(&mut self) -> Result<()> {
        self.advance();
        let at = self.current;
        let alias = self.ident("a function")?;
        self.expect(b',')?;
        let target = self.ident("a function")?;
        self.expect(b';')?;
        let ids = (self.globals.get(alias).copied(), self.globals.get(target).copied());
        let (Some(Symbol::Func(alias)), Some(Symbol::Func(target))) = ids else {
            return Err(self.error_at(at.line, at.at, "alias of an undeclared function".into()));
        };
        self.aliases.insert(alias, target);
        Ok(())
    }

    fn pragma(&mut self) -> Result<()> {
        self.advance();
        while let Tok::Str(_) = self.current.tok {
            self.advance();
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    // Source positions.

    /// `.file number "path"`, optionally time stamp and size.
    fn file(&mut self) -> Result<()> {
        self.advance();
        let number = self.small("a file number")?;
        let Tok::Str(path) = self.current.tok else {
            return Err(self.error("expected a path in quotes"));
        };
        self.advance();
        while self.eat(b',') {
            self.integer("a number")?;
        }
        self.lines.add_file(number, String::from_utf8_lossy(path).into_owned());
        Ok(())
    }

    /// `.loc file line column`, optionally `, function_name label[+n], inlined_at file line column`.
    fn location(&mut self) -> Result<()> {
        self.advance();
        let (file, line, column) = self.position()?;
        let mut loc = Loc { file, line, column, function: None, inlined_at: 0 };
        let mut label = None;
        if self.eat(b',') {
            if self.ident("`function_name`")? != "function_name" {
                return Err(self.error("expected `function_name`"));
            }
            let name = self.ident("a label of .debug_str")?;
            let offset = if self.eat(b'+') { self.integer("an offset")? } else { 0 };
            label = Some((name, offset));
            self.expect(b',')?;
            if self.ident("`inlined_at`")? != "inlined_at" {
                return Err(self.error("expected `inlined_at`"));
            }
            let parent = self.position()?;
            loc.inlined_at = match self.positions.get(&parent) {
                Some(index) => *index,
                None => self.add_position(Loc {
                    file: parent.0,
                    line: parent.1,
                    column: parent.2,
                    function: None,
                    inlined_at: 0,
                }),
            };
        }
        self.loc = self.add_position(loc);
        if let Some((name, offset)) = label {
            self.inlined.push((self.loc, name, offset));
        }
        Ok(())
    }

    fn add_position(&mut self, loc: Loc) -> u32 {
        let index = self.lines.add(loc);
        self.positions.insert((loc.file, loc.line, loc.column), index);
        index
    }

    fn position(&mut self) -> Result<(u32, u32, u32)> {
        Ok((self.small("a file number")?, self.small("a line")?, self.small("a column")?))
    }

    /// A section: skipped, but the strings of `.debug_str` are kept.
    fn section(&mut self) -> Result<()> {
        self.advance();
        let keep = self.current.tok == Tok::Dot("debug_str");
        let (Tok::Dot(_) | Tok::Ident(_)) = self.current.tok else {
            return Err(self.error("expected the name of a section"));
        };
        self.advance();
        let outside = self.braces;
        self.expect(b'{')?;
        while self.braces > outside {
            let token = self.advance();
            match token.tok {
                Tok::Eof => return Err(self.error("section without end")),
                Tok::Ident(label) if keep && self.at(b':') => {
                    let at = self.debug_strings.bytes.len();
                    self.debug_strings.labels.entry(label).or_insert(at);
                }
                Tok::Number(number) if keep => {
                    let byte = constant::integer(number).and_then(|n| u8::try_from(n.bits).ok());
                    self.debug_strings.bytes.push(byte.unwrap_or(b'?'));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the positions of inlined code the names of their functions.
    fn name_inlined(&mut self) {
        let mut known: HashMap<(&str, u64), Name> = HashMap::new();
        for (index, label, offset) in std::mem::take(&mut self.inlined) {
            let Some(start) = self.debug_strings.labels.get(label) else { continue };
            let name = *known.entry((label, offset)).or_insert_with(|| {
                let start = start.saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
                let bytes = self.debug_strings.bytes.get(start..).unwrap_or_default();
                let text: Vec<u8> =
                    bytes.iter().copied().take(1024).take_while(|b| *b != 0).collect();
                self.names.intern(&String::from_utf8_lossy(&text))
            });
            self.lines.set_function(index, name);
        }
    }

    // Ids.

    fn add_variable(&mut self, variable: Variable) -> VarId {
        let id = u32::try_from(self.variables.len()).unwrap_or(u32::MAX);
        self.variables.push(variable);
        VarId(id)
    }
}
