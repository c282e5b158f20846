//! The engine on the demo checkpoint: results free of neighbours and chunks, requests that end
//! early, refusals, and the launches of an answer.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod choosing;
mod forward;
mod launches;
mod lengths;
mod page;
mod refusals;

use std::path::{Path, PathBuf};

use qwen2vl::{
    device::DeviceChoice,
    engine::{Engine, EngineBuilder, Request},
    prompt::{Message, Part},
    settings,
};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

/// The device that the environment asks for.
fn choice() -> DeviceChoice {
    settings::text(settings::DEVICE).map_or(DeviceChoice::Auto, |text| text.parse().unwrap())
}

fn builder() -> EngineBuilder {
    Engine::builder(demo().join("model")).device(choice()).max_model_len(512)
}

/// A question about pictures of the demo.
fn ask(pictures: &[&str], question: &str) -> Request {
    let pictures = pictures.iter().map(|name| Part::image_file(demo().join("media").join(name)));
    let parts: Vec<Part> = pictures.chain([Part::text(question)]).collect();
    Request::chat([Message::user(parts)]).max_new_tokens(24)
}
