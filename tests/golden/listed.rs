//! Kinds of goldens of which no case is built yet: each case stands in the list, with its reason.

use crate::support::checkpoint::{golden_cases, not_yet};

/// (kind, cases)
const KINDS: &[(&str, usize)] = &[("qwen25", 24)];

#[test]
fn every_case_of_a_kind_that_waits_is_listed() {
    for (kind, count) in KINDS {
        let document = golden_cases(kind);
        let cases = document["cases"].as_array().unwrap();
        let mut names: Vec<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        let listed = not_yet(kind);
        assert_eq!(names, listed.keys().collect::<Vec<_>>(), "{kind}");
        assert!(listed.values().all(|reason| !reason.is_empty()), "{kind}");
        assert_eq!(names.len(), *count, "{kind}");
        println!("{kind}: 0 cases run, {count} not yet");
    }
}
