//! An answer as it comes, with a deadline; what was counted and where the time went at the end.
//!
//! `cargo run --release --example stream`
#![expect(clippy::print_stdout, reason = "an example shows its result")]
#![expect(clippy::disallowed_methods, reason = "a deadline is a time from now")]

use std::io::{self, Write};
use std::time::{Duration, Instant};

use qwen2vl::engine::{Engine, Event, Request, Sampling};
use qwen2vl::prompt::{Message, Part};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(format!("{DEMO}/model")).build()?;
    let image = Part::image_file(format!("{DEMO}/media/many_png.png"));
    let message = Message::user([image, Part::text("How many shapes are there?")]);
    let request = Request::chat([message])
        .sampling(Sampling::greedy())
        .deadline(Instant::now() + Duration::from_secs(60));
    // Dropping the generation would cancel it.
    for event in engine.submit(request)? {
        match event? {
            Event::Started(usage) => println!("{} prompt tokens", usage.prompt_tokens),
            Event::Token(token) => {
                print!("{}", token.text);
                io::stdout().flush()?;
            }
            Event::Done(completion) => {
                println!("\n{:?}: {:?}", completion.finish_reason, completion.timings);
            }
            // More kinds of events may come with later versions.
            _ => {}
        }
    }
    Ok(())
}
