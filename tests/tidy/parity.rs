//! docs/parity.md: each row of the specification's section 18, once, with tests that exist.

use std::collections::BTreeMap;

use crate::source::text;

/// Cells of each row of a table whose first cell is an id of section 18.
fn rows(document: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
        let cells = inner.unwrap_or_default().split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    document.lines().map(cells).filter(|cells| cells[0].starts_with("D-")).collect()
}

/// What is wrong with a row beside its specification.
fn problems(
    row: &[String],
    documented: Option<&String>,
    source: impl Fn(&str) -> String,
) -> Vec<String> {
    let [id, what, here, tests, state] = row else {
        return vec![format!("{row:?} has not five cells")];
    };
    let mut found = Vec::new();
    match documented {
        None => found.push(format!("{id} is no row of the specification")),
        Some(documented) if documented != what => {
            found.push(format!("{id} is {documented:?} in the specification, not {what:?}"));
        }
        Some(_) => {}
    }
    if here.is_empty() {
        found.push(format!("{id} does not say what it is here"));
    }
    let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    match (state.as_str(), tests.is_empty()) {
        ("done", true) => found.push(format!("{id} is done and has no test")),
        ("not yet", false) => found.push(format!("{id} is not done and names a test")),
        ("done" | "not yet" | "n/a", _) => {}
        _ => found.push(format!("{id} is in no known state: {state:?}")),
    }
    for test in tests {
        let exists = test.split_once("::").is_some_and(|(file, name)| {
            let source = source(file);
            let start = source.find(&format!("fn {name}("));
            // The attribute stands above, or the property stands in a block of them.
            start.is_some_and(|start| source[..start].contains("#[test]"))
        });
        if !exists {
            found.push(format!("{id}: no test {test}"));
        }
    }
    found
}

#[test]
fn each_documented_row_has_tests_that_exist() {
    let spec = text("docs/spec.md");
    let section = &spec[spec.find("## 18 ").unwrap()..];
    let documented: BTreeMap<String, String> =
        rows(section).into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert!(documented.len() >= 130, "{}", documented.len());
    let table = rows(&text("docs/parity.md"));
    let mut found: Vec<String> =
        table.iter().flat_map(|row| problems(row, documented.get(&row[0]), text)).collect();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    table.iter().for_each(|row| *listed.entry(row[0].as_str()).or_default() += 1);
    for id in documented.keys() {
        match listed.get(id.as_str()) {
            None => found.push(format!("{id} is missing")),
            Some(1) => {}
            Some(times) => found.push(format!("{id} stands there {times} times")),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    let count = |state: &str| table.iter().filter(|row| row[4] == state).count();
    println!("parity: {} done, {} not yet, {} n/a", count("done"), count("not yet"), count("n/a"));
}

#[test]
fn a_wrong_row_is_found() {
    let source = |file: &str| match file {
        "tests/a.rs" => "#[test]\nfn good() {}\nfn other() {}".to_owned(),
        _ => String::new(),
    };
    let documented = "what".to_owned();
    for (row, problem) in [
        ("| D-1 | what | here | `tests/a.rs::good` | done |", ""),
        ("| D-1 | what | here |  | not yet |", ""),
        ("| D-1 | what | here |  | n/a |", ""),
        ("| D-1 | other | here |  | n/a |", "in the specification"),
        ("| D-1 | what | here |  | done |", "has no test"),
        ("| D-1 | what | here | `tests/a.rs::good` | not yet |", "names a test"),
        ("| D-1 | what | here | `tests/a.rs::gone` | done |", "no test tests/a.rs::gone"),
        ("| D-1 | what | here | `tests/b.rs::good` | done |", "no test tests/b.rs::good"),
        ("| D-1 | what | here |  | perhaps |", "no known state"),
    ] {
        let row = rows(row).remove(0);
        let found = problems(&row, Some(&documented), source).join("\n");
        assert!(
            found.contains(problem) && found.is_empty() == problem.is_empty(),
            "{row:?}: {found}"
        );
    }
}
