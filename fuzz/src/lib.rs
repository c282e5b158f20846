//! The parsers of outside bytes, from the root crate's own sources.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unfulfilled_lint_expectations,
    reason = "a part of the root crate"
)]

#[path = "../../src/media/mod.rs"]
pub mod media;
pub mod model;
#[path = "../../src/prompt/mod.rs"]
pub mod prompt;
#[path = "../../src/settings.rs"]
pub mod settings;
#[path = "../../src/units.rs"]
pub mod units;

pub mod targets;
