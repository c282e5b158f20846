//! Two pictures in one conversation, numbered, and a second turn that refers to the first answer.
//!
//! `cargo run --release --example several_images`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use qwen2vl::engine::{Engine, Request, Sampling};
use qwen2vl::prompt::{Message, Part};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(format!("{DEMO}/model")).build()?;
    let pictures = ["media/pair_ids_1.png", "media/pair_ids_2.jpg"];
    let mut parts = pictures.map(|file| Part::image_file(format!("{DEMO}/{file}"))).to_vec();
    parts.push(Part::text("What shape is in Picture 2?"));

    let mut conversation = vec![Message::user(parts)];
    for next in [Some("What color is the shape in Picture 1?"), None] {
        // `add_vision_id` writes "Picture 1: " and "Picture 2: " before the pictures.
        let request = Request::chat(conversation.clone()).add_vision_id(true);
        let answer = engine.submit(request.sampling(Sampling::greedy()))?.finish()?;
        println!("{}", answer.text);
        if let Some(question) = next {
            conversation.push(Message::assistant(answer.text));
            conversation.push(Message::user([Part::text(question)]));
        }
    }
    Ok(())
}
