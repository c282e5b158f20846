//! Prompts: conversations and their media to token ids (docs/spec.md, sections 5 and 6).
//!
//! A [`Conversation`] goes through the checkpoint's chat template, whose output remembers which of
//! its pieces came from the template and which from a user; the [`Tokenizer`] turns pieces into
//! ids so that a user's text never becomes a control token unless the caller asks for the
//! reference's behaviour; placeholders are expanded by the grids of the pictures that they stand
//! for, bound by position. [`Processor`] is all of that together. Nothing here knows of devices.

mod continued;
mod decoding;
mod detokenize;
mod error;
mod media_inputs;
mod message;
mod methods;
mod padding;
mod parts;
mod placeholders;
mod processor;
mod raw;
mod template;
mod templates;
mod tokenizer;

pub use decoding::DecodeOptions;
pub use detokenize::Detokenizer;
pub use error::{PromptError, Spot};
pub use media_inputs::{MediaInput, MediaKind, MediaUse, SampledFrames};
pub use message::{Conversation, Conversations, Message, Part};
pub use padding::{Batch, Padding, PaddingSide};
pub use processor::{ProcessOptions, Processed, Processor, PromptLimits};
pub use raw::raw_prompts;
pub use template::{ChatTemplate, Origin, Piece, RenderOptions};
pub use tokenizer::{ControlText, Encoded, Grounding, Tokenizer};
