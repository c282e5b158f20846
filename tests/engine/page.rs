//! The four conversations of the reference's page as one batch: one picture, two pictures, text
//! alone, pictures and a video.

use qwen2vl::{
    engine::{Completion, ForwardInput, ForwardOutput, Generation, Request, forward},
    media::{Source, VideoSource},
    model::checkpoint::Checkpoint,
    model::config::ModelConfig,
    prompt::{Conversation, Message, Part, ProcessOptions, Processed, Processor, RenderOptions},
};

use super::{builder, demo};
