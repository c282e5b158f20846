//! Several requests at once: they share every step of the decoder, and each answer has the bits
//! that it has alone.
//!
//! `cargo run --release --example batch`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use qwen2vl::engine::{Engine, EngineError, Request, Sampling};
use qwen2vl::prompt::{Message, Part};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
const FILES: [&str; 4] = ["pair.png", "two_jpg.jpg", "one_wide_webp.webp", "text_png.png"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(format!("{DEMO}/model")).max_batch(FILES.len()).build()?;
    let submit = |file| {
        let image = Part::image_file(format!("{DEMO}/media/{file}"));
        let message = Message::user([image, Part::text("Describe this image.")]);
        engine.submit(Request::chat([message]).sampling(Sampling::greedy()))
    };
    // Submitted before the first is polled: work begins with the first `finish`.
    let generations = FILES.into_iter().map(submit).collect::<Result<Vec<_>, EngineError>>()?;
    for (file, generation) in FILES.into_iter().zip(generations) {
        println!("{file}: {}", generation.finish()?.text);
    }
    Ok(())
}
