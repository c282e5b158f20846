//! Instruction tables: every instruction against an independent model.
#![expect(clippy::panic, reason = "helpers of tests fail by panicking")]
#![expect(clippy::type_complexity, reason = "rows of tables pair a name with a function")]
#![expect(unreachable_pub, reason = "modules of one test program")]

mod approx;
mod atomics;
mod convert;
mod corpus;
mod exact;
mod fault;
mod float;
mod front_ends;
mod harness;
mod integer;
mod machine;
mod memory;
mod optimiser;
mod program;
mod robust;
mod tensor;
mod warp;
