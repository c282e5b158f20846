//! The engine: requests in, tokens out. It plans every byte, owns the pages and the sequences, and
//! decides who takes part in the next step.

mod batch;
mod beams;
mod compare;
mod deliver;
#[expect(clippy::module_inception, reason = "the module's central type")]
mod engine;
mod error;
mod family;
mod forward;
mod generation;
mod launch;
mod pages;
mod placed;
mod plan;
mod process_logits;
mod processors;
mod request;
mod sampling;
mod scheduler;
mod sequence;
mod step;
mod stopping;
mod timing;
mod visual;

pub use compare::{Compared, Comparison, Distance, ReferenceDump, Tolerance, compare};
pub use engine::{Engine, EngineBuilder};
pub use error::EngineError;
pub use family::TokenLogprobs;
pub use forward::{
    FloatTensor, ForwardInput, ForwardOptions, ForwardOutput, LayerKeyValues, LogitsToKeep,
    PastKeyValues, PositionIds, forward,
};
pub use generation::{Choice, Completion, Event, Generation, Token, Usage};
pub use placed::prompt_positions;
pub use plan::{MemoryLimit, MemoryPlan};
pub use process_logits::{LogitsInput, process_logits};
pub use request::Request;
pub use sampling::{MAX_LOGPROBS, Sampling};
pub use step::Stats;
pub use stopping::FinishReason;
pub use timing::{Clock, Timings};

pub use crate::model::{checkpoint, generation_config, weights};
