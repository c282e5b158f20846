//! Source positions: what `.file` and `.loc` say.

use super::ast::{Name, Names};

/// The source positions of a module. Index 0 is "unknown".
#[derive(Debug, Clone, Default)]
pub struct LineTable {
    files: Vec<(u32, String)>,
    locs: Vec<Loc>,
}

/// One `.loc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loc {
    /// Number of the file, as in `.file`.
    pub file: u32,
    /// Line, from 1; 0 is unknown.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// The inlined function that the position is in.
    pub function: Option<Name>,
    /// Where it was inlined: an index of this table, 0 when it was not.
    pub inlined_at: u32,
}

impl LineTable {
    /// Adds a file. A number that was given before keeps its first path.
    pub(crate) fn add_file(&mut self, number: u32, path: String) {
        if let Err(at) = self.files.binary_search_by_key(&number, |f| f.0) {
            self.files.insert(at, (number, path));
        }
    }

    /// Adds a position, returns its index.
    pub(crate) fn add(&mut self, loc: Loc) -> u32 {
        self.locs.push(loc);
        u32::try_from(self.locs.len()).unwrap_or(0)
    }

    /// Names the inlined function of a position.
    pub(crate) fn set_function(&mut self, index: u32, function: Name) {
        let at = (index as usize).checked_sub(1);
        if let Some(loc) = at.and_then(|at| self.locs.get_mut(at)) {
            loc.function = Some(function);
        }
    }

    /// The position of an index.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Loc> {
        self.locs.get((index as usize).checked_sub(1)?)
    }

    /// The path that `.file` gave a number.
    #[must_use]
    pub fn file(&self, number: u32) -> Option<&str> {
        let at = self.files.binary_search_by_key(&number, |f| f.0).ok()?;
        self.files.get(at).map(|f| f.1.as_str())
    }

    /// The position and where it was inlined, innermost first, as `(path, line, function)`; the
    /// paths start at the last `kernels/`, or are the file's name alone. At most 32 entries.
    #[must_use]
    pub fn chain<'a>(
        &'a self,
        names: &'a Names,
        index: u32,
    ) -> Vec<(&'a str, u32, Option<&'a str>)> {
        let mut chain = Vec::new();
        let mut at = index;
        while let Some(loc) = self.get(at) {
            if chain.len() >= 32 {
                break;
            }
            let path = self.file(loc.file).map_or("?", short_path);
            chain.push((path, loc.line, loc.function.map(|n| names.get(n))));
            at = loc.inlined_at;
        }
        chain
    }

    /// The chain as a report shows it: `kernels/gemm.cu:48 (inlined at kernels/gemm.cu:90)`.
    #[must_use]
    pub fn describe(&self, names: &Names, index: u32) -> Option<String> {
        let chain = self.chain(names, index);
        let mut links = chain.iter();
        let (path, line, _) = links.next()?;
        let mut text = format!("{path}:{line}");
        for (path, line, _) in links {
            text.push_str(&format!(" (inlined at {path}:{line})"));
        }
        Some(text)
    }
}

/// The part of a path that reports show.
fn short_path(path: &str) -> &str {
    if path.starts_with("kernels/") {
        return path;
    }
    match path.rfind("/kernels/") {
        Some(at) => path.get(at.saturating_add(1)..).unwrap_or(path),
        None => path.rsplit('/').next().unwrap_or(path),
    }
}
