//! A picture and a question, one answer.
//!
//! `cargo run --release --example caption [MODEL [IMAGE [QUESTION]]]`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::env;

use qwen2vl::engine::{Engine, Request, Sampling};
use qwen2vl::prompt::{Message, Part};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| format!("{DEMO}/model"));
    let image = arguments.next().unwrap_or_else(|| format!("{DEMO}/media/pair.png"));
    let question = arguments.next().unwrap_or_else(|| "Describe this image.".to_owned());

    let engine = Engine::builder(model).build()?;
    let message = Message::user([Part::image_file(image), Part::text(question)]);
    let answer = engine.submit(Request::chat([message]).sampling(Sampling::greedy()))?.finish()?;
    println!("{}", answer.text);
    Ok(())
}
