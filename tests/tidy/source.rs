//! Files of the repository and their text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders that hold build output or foreign files.
const FOREIGN: [&str; 4] = ["target", ".git", ".toolchain", "gpu-pack"];

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository, by paths from its root, in order.
pub(crate) fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort_unstable();
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_symlink() || FOREIGN.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// Files below `folder` with one of these endings.
pub(crate) fn files_ending(folder: &str, endings: &[&str]) -> Vec<String> {
    let ends = |file: &String| endings.iter().any(|ending| file.ends_with(ending));
    files(folder).into_iter().filter(ends).collect()
}

/// A file's text; empty if it does not exist.
pub(crate) fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_default()
}

/// The same text with comments blanked out: no byte changes its place or line. Strings that hold
/// two slashes lose their rest, which is no code either.
pub(crate) fn without_comments(text: &str) -> String {
    let blank = |line: &str| match line.find("//") {
        Some(start) => line[..start].to_owned() + &" ".repeat(line.len() - start),
        None => line.to_owned(),
    };
    text.lines().map(|line| blank(line) + "\n").collect()
}

/// Line number of a place in a text.
pub(crate) fn line_of(text: &str, place: usize) -> usize {
    text[..place].matches('\n').count() + 1
}

/// Whether `character` can stand in a name of Rust.
pub(crate) fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Places where `word` stands as a whole word.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(place, _)| place).filter(move |place| {
        !text[..*place].ends_with(is_name) && !text[place + word.len()..].starts_with(is_name)
    })
}
