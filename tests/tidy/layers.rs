//! Which module may name which: the layers of ARCHITECTURE.md.

use crate::source::{files_ending, is_name, line_of, text, without_comments, words};

/// Each module of `src` with the modules, or parts of modules, that it may name.
const LAYERS: [(&str, &[&str]); 10] = [
    ("units", &[]),
    ("settings", &[]),
    ("device", &["units", "settings"]),
    ("ops", &["device", "units"]),
    ("reference", &["units"]),
    ("model", &["ops", "device", "units"]),
    ("media", &["units"]),
    ("prompt", &["media", "model::config", "units"]),
    ("engine", &["prompt", "media", "model", "ops", "device", "units"]),
    ("cli", &["engine", "media", "prompt", "model::config", "device", "settings", "units"]),
];
/// The files that name the software device: where it is looked for.
const SOFTCUDA: [&str; 1] = ["src/device/locate.rs"];

/// Files beside a `mod.rs` that export names again: structs of `params.h` that are data of a launch.
const EXPORTS: [&str; 4] =
    ["src/ops/params.rs", "src/ops/sample.rs", "src/ops/score_edits.rs", "src/ops/top_scores.rs"];

/// The module of `src` that a file belongs to; `None` for the roots of the crate.
fn module_of(file: &str) -> Option<&str> {
    let inner = file.strip_prefix("src/")?;
    let name = inner.split(['/', '.']).next()?;
    (!matches!(name, "lib" | "main")).then_some(name)
}

/// The first two names of every path in a `use` tree or a plain path.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    let Some(inner) = tree.strip_prefix('{') else {
        let end = tree.find(|c| !is_name(c)).unwrap_or(tree.len());
        let (name, rest) = tree.split_at(end);
        return match rest.strip_prefix("::") {
            Some(rest) => {
                paths(rest).iter().map(|next| format!("{name}::{next}")).collect::<Vec<_>>()
            }
            None => vec![name.to_owned()],
        };
    };
    let (mut depth, mut start, mut found) = (1, 0, Vec::new());
    for (place, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            let item = &inner[start..place];
            start = place + 1;
            if !item.trim().is_empty() {
                found.extend(paths(item));
            }
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Breaches of the table in one file's text.
fn breaches(file: &str, text: &str) -> Vec<String> {
    let code = without_comments(text);
    let module = module_of(file).unwrap();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{file}: module {module} has no layer")];
    };
    let mut found = Vec::new();
    for place in words(&code, "crate") {
        let Some(tree) = code[place..].strip_prefix("crate::") else { continue };
        for path in paths(tree) {
            let named = path.split("::").next().unwrap();
            let covered = |allowed: &&str| {
                path == *allowed || path.starts_with(&format!("{allowed}::")) || named == *allowed
            };
            if named != module && !allowed.iter().any(covered) {
                let line = line_of(&code, place);
                found.push(format!("{file}:{line}: {module} may not use {path}"));
            }
        }
    }
    found.extend(leaving(file, &code));
    found
}

/// `super` that leaves the module of the file.
fn leaving(file: &str, code: &str) -> Vec<String> {
    let inner = file.strip_prefix("src/").unwrap();
    let folders = inner.matches('/').count();
    let depth = if inner.ends_with("/mod.rs") || folders == 0 { folders } else { folders + 1 };
    let mut found = Vec::new();
    for place in words(code, "super") {
        let path = &code[place..];
        let length = path.find(|c| !is_name(c) && c != ':').unwrap_or(path.len());
        let steps = path[..length].split("::").take_while(|step| *step == "super").count();
        // An item inside `mod tests { … }` is one step deeper.
        let nested = code[..place].contains("mod tests {");
        if !code[..place].ends_with("::") && steps > depth.saturating_sub(1) + usize::from(nested) {
            found.push(format!("{file}:{}: super leaves the module", line_of(code, place)));
        }
    }
    found
}

#[test]
fn modules_name_only_the_layers_below() {
    let files = files_ending("src", &[".rs"]);
    let inner = files.iter().filter(|file| module_of(file).is_some());
    let found: Vec<_> = inner.flat_map(|file| breaches(file, &text(file))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_breach_is_found() {
    let cases = [
        ("src/media/a.rs", "use crate::units::Bytes;", ""),
        ("src/media/a.rs", "use crate::{units::Bytes, device::Device};", "device::Device"),
        ("src/media/a.rs", "use crate::{\n    units::{Bytes, Tokens},\n    model,\n};", "model"),
        ("src/prompt/a.rs", "use crate::model::config::ModelConfig;", ""),
        ("src/prompt/a.rs", "use crate::model::weights::Weights;", "model::weights::Weights"),
        ("src/prompt/a.rs", "use crate::model::{config::A, weights::B};", "model::weights::B"),
        ("src/model/a.rs", "/// See [`crate::engine`].", ""),
        ("src/model/a.rs", "fn f(_: crate::engine::Engine) {}", "engine::Engine"),
        ("src/model/a.rs", "use super::config;", ""),
        ("src/model/a.rs", "use super::super::engine;", "super leaves the module"),
        ("src/model/mod.rs", "use super::engine;", "super leaves the module"),
        ("src/model/a/mod.rs", "use super::config;", ""),
        ("src/model/a/b.rs", "use super::super::config;", ""),
        ("src/model/a.rs", "mod tests {\n    use super::super::config;\n}", ""),
        ("src/other/a.rs", "", "module other has no layer"),
    ];
    for (file, code, breach) in cases {
        let found = breaches(file, code).join("\n");
        assert!(found.contains(breach) && found.is_empty() == breach.is_empty(), "{code}: {found}");
    }
}

#[test]
fn the_driver_and_the_software_device_have_one_door() {
    let mut found = Vec::new();
    for file in files_ending("src", &[".rs"]) {
        let code = without_comments(&text(&file));
        let doors = [
            ("cudarc", file.starts_with("src/device/")),
            ("softcuda", SOFTCUDA.contains(&file.as_str())),
        ];
        for (word, open) in doors {
            let named =
                words(&code, word).filter(|place| code[place + word.len()..].starts_with(':'));
            let lines = named.filter(|_| !open).map(|place| line_of(&code, place));
            found.extend(lines.map(|line| format!("{file}:{line}: {word} has its own module")));
        }
    }
    for file in files_ending("crates/softcuda", &[".rs"]) {
        if words(&without_comments(&text(&file)), "qwen2vl").next().is_some() {
            found.push(format!("{file}: softcuda knows nothing of qwen2vl"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn names_are_exported_again_only_where_a_reader_looks() {
    let mut found = Vec::new();
    for file in files_ending("src", &[".rs"]) {
        let open = file.ends_with("/mod.rs")
            || file == "src/lib.rs"
            || file.starts_with("src/engine/")
            || EXPORTS.contains(&file.as_str());
        let code = without_comments(&text(&file));
        let lines = code.match_indices("pub use ").map(|(place, _)| line_of(&code, place));
        found.extend(lines.filter(|_| !open).map(|line| format!("{file}:{line}: pub use")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
