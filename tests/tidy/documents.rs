//! What the documents and comments name exists.

use std::collections::BTreeSet;

use crate::source::{files, files_ending, root, text};

/// Written elsewhere, or about what is to come.
const EXCEPTED: [&str; 2] = ["docs/spec.md", "ROADMAP.md"];
/// Files that a program makes and nobody commits: the start script of a pack for a GPU machine.
const MADE: [&str; 1] = ["run.sh"];
/// Endings of names that mean a file of the repository even without a folder.
const ENDINGS: [&str; 7] = [".rs", ".cu", ".cuh", ".md", ".toml", ".sh", ".py"];

/// Text between backticks, and links' targets, of one line outside code blocks.
fn named(line: &str) -> Vec<&str> {
    let spans = line.split('`').skip(1).step_by(2);
    let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    spans.chain(links).flat_map(|span| span.split([' ', ',', ';', '=', '(', ')'])).collect()
}

/// Whether a word means a file or folder of the repository, so that it must exist.
fn is_path(word: &str, folder: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    // NAME stands for a name.
    if word.is_empty() || !word.chars().all(plain) || word.contains("NAME") || MADE.contains(&word)
    {
        return false;
    }
    if word.starts_with(['/', '-']) || word.contains("...") {
        return false;
    }
    match word.split_once('/') {
        Some((first, _)) => root().join(first).is_dir() || root().join(folder).join(first).is_dir(),
        None => ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending)),
    }
}

fn exists(word: &str, folder: &str, all: &[String]) -> bool {
    let found = root().join(word).exists() || root().join(folder).join(word).exists();
    found || (!word.contains('/') && all.iter().any(|file| file.ends_with(&format!("/{word}"))))
}

/// Targets of the Makefile.
fn targets() -> BTreeSet<String> {
    let named = |line: &str| {
        let (target, _) = line.split_once(':')?;
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        (!target.is_empty() && target.chars().all(plain)).then(|| target.to_owned())
    };
    text("Makefile").lines().filter_map(named).collect()
}

#[test]
fn documents_name_files_and_targets_that_exist() {
    let (all, targets) = (files("."), targets());
    let documents = files_ending(".", &[".md"]);
    let mut missing = Vec::new();
    for document in documents.iter().filter(|name| !EXCEPTED.contains(&name.as_str())) {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut block = false;
        for (number, line) in text(document).lines().enumerate() {
            let place = format!("{document}:{}", number + 1);
            if line.trim_start().starts_with("```") {
                block = !block;
            }
            let code = block || line.starts_with("    ");
            if !code {
                let words = named(line).into_iter().map(|word| word.trim_end_matches(['.', ':']));
                let paths = words.filter(|word| is_path(word, folder));
                let absent = paths.filter(|word| !exists(word, folder, &all));
                missing.extend(absent.map(|word| format!("{place}: no file {word}")));
            }
            let commands =
                if code { vec![line.trim()] } else { line.split('`').skip(1).step_by(2).collect() };
            for command in commands {
                let Some(rest) = command.trim_start_matches("$ ").strip_prefix("make ") else {
                    continue;
                };
                let target = rest.split([' ', '`', ';']).next().unwrap();
                let plain = target.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                if plain && !target.starts_with('-') && !targets.contains(target) {
                    missing.push(format!("{place}: no target {target}"));
                }
            }
        }
    }
    assert!(!targets.is_empty() && missing.is_empty(), "{}", missing.join("\n"));
}

/// Numbers of the headings of docs/spec.md.
fn sections() -> BTreeSet<String> {
    let heading = |line: &str| {
        let number = line.trim_start_matches('#').trim().split(' ').next()?;
        let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        (line.starts_with("##") && plain).then(|| number.to_owned())
    };
    text("docs/spec.md").lines().filter_map(heading).collect()
}

/// Section numbers that stand behind a mention of the specification, in words like
/// `docs/spec.md, sections 7.3 and 8.2`.
fn cited(text: &str) -> Vec<String> {
    let marks =
        |line: &str| line.trim_start().trim_start_matches(['/', '!', '*']).trim().to_owned();
    let joined = text.lines().map(marks).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for rest in joined.split("docs/spec.md").skip(1) {
        for word in rest.split([' ', ',', ')', '(', ':', ';']).filter(|word| !word.is_empty()) {
            let number = word.trim_end_matches('.');
            let is_number = number.starts_with(|c: char| c.is_ascii_digit())
                && number.chars().all(|c| c.is_ascii_digit() || c == '.');
            if is_number {
                found.push(number.to_owned());
            }
            if !(is_number || matches!(word, "section" | "sections" | "and" | "to")) {
                break;
            }
        }
    }
    found
}

#[test]
fn sections_of_the_specification_that_code_cites_exist() {
    let sections = sections();
    let mut count = 0;
    for folder in ["src", "kernels", "tests", "benches"] {
        if !root().join(folder).is_dir() {
            continue;
        }
        for file in files_ending(folder, &[".rs", ".cu", ".cuh", ".h"]) {
            for number in cited(&text(&file)) {
                // Items of a numbered list are cited as 5.1.4.
                let listed = number.rsplit_once('.').is_some_and(|(list, _)| {
                    number.matches('.').count() == 2 && sections.contains(list)
                });
                assert!(sections.contains(&number) || listed, "{file}: no section {number}");
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count} citations found");
}

#[test]
fn citations_are_read_over_line_ends() {
    let text =
        "/// Tables (docs/spec.md, sections\n/// 7.3 and 8.2). Two of 9.\n// docs/spec.md 5.1.4: x";
    assert_eq!(cited(text), ["7.3", "8.2", "5.1.4"]);
}
