//! The parsers of a checkpoint's files.

#[path = "../../src/model/checkpoint/mod.rs"]
pub mod checkpoint;
#[path = "../../src/model/config/mod.rs"]
pub mod config;
#[path = "../../src/model/generation_config/mod.rs"]
pub mod generation_config;
#[path = "../../src/model/rope.rs"]
pub mod rope;
#[path = "../../src/model/names.rs"]
pub mod names;
