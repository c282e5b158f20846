//! Work on the host: pictures to pixels, conversations to ids. No device.
//!
//! `cargo bench --bench media [-- TEXT]`
#![expect(clippy::unwrap_used, reason = "a bench that fails panics")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use qwen2vl::media::{Limits, Preprocessor, Resizer, Rgb8, Size, decode};
use qwen2vl::prompt::{
    ControlText, Conversation, Message, Part, ProcessOptions, Processor, RenderOptions,
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/model");
/// With the budget of the published models it becomes 1316 x 728.
const PICTURE: Size = Size { height: 1080, width: 1920 };
const LEAST_PIXELS: u64 = 4 * 28 * 28;
const MOST_PIXELS: u64 = 1280 * 28 * 28;
const OPTIONS: ProcessOptions = ProcessOptions {
    render: RenderOptions {
        add_generation_prompt: true,
        add_vision_id: false,
        continue_final_message: false,
    },
    control_text: ControlText::Literal,
};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let criterion = &mut criterion;
    let picture = picture();
    let jpeg = jpeg(&picture);
    decoding(criterion, &jpeg);
    resizing(criterion, &picture);
    whole(criterion, &jpeg);
    prompts(criterion);
    criterion.final_summary();
}

/// Smooth waves with a little noise: compresses like a photograph.
fn picture() -> Rgb8 {
    let mut noise = 1u32;
    let mut data = Vec::with_capacity(PICTURE.height * PICTURE.width * 3);
    for y in 0..PICTURE.height {
        for x in 0..PICTURE.width {
            for period in [61.0, 97.0, 151.0] {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (x, y) = (x as f64 / period, y as f64 / (period + 20.0));
                let wave = 120.0 + 100.0 * (x.sin() * y.cos());
                let [.., high] = noise.to_le_bytes();
                data.push(level(wave + f64::from(high) / 16.0));
            }
        }
    }
    Rgb8::new(PICTURE, data).unwrap()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn level(value: f64) -> u8 {
    value.clamp(0.0, 255.0) as u8
}

fn jpeg(picture: &Rgb8) -> Vec<u8> {
    let Size { height, width } = picture.size();
    compress(picture.data(), width, height, PixelFormat::Rgb, 90, Subsampling::S420).unwrap()
}

fn pixels() -> Throughput {
    Throughput::Elements((PICTURE.height * PICTURE.width) as u64)
}

fn decoding(criterion: &mut Criterion, jpeg: &[u8]) {
    let mut group = criterion.benchmark_group("media");
    let limits = Limits::default();
    group.throughput(pixels());
    group.bench_function("jpeg_decode/1920x1080", |bencher| {
        bencher.iter(|| decode(black_box(jpeg), &limits).unwrap());
    });
    group.finish();
}

/// Resize and packing into planes for the device.
fn resizing(criterion: &mut Criterion, picture: &Rgb8) {
    let settings = std::fs::read(Path::new(MODEL).join("preprocessor_config.json")).unwrap();
    let mut group = criterion.benchmark_group("media");
    group.throughput(pixels());
    for (name, resizer) in [("torchvision", Resizer::Torchvision), ("pillow", Resizer::Pillow)] {
        let preprocessor = Preprocessor::from_json(&settings).unwrap();
        let preprocessor = preprocessor.with_budget(Some(LEAST_PIXELS), Some(MOST_PIXELS)).unwrap();
        let preprocessor = preprocessor.with_resizer(resizer);
        let resized = preprocessor.resized(picture.size()).unwrap();
        assert_eq!(resized, Size { height: 728, width: 1316 });
        group.bench_function(format!("resize/{name}/1920x1080-1316x728"), |bencher| {
            bencher.iter(|| preprocessor.image(black_box(picture)).unwrap());
        });
    }
    group.finish();
}

/// From the bytes of a JPEG and a question to everything that the engine takes.
fn whole(criterion: &mut Criterion, jpeg: &[u8]) {
    let processor = Processor::from_dir(Path::new(MODEL)).unwrap();
    let processor = processor.with_pixels(Some(LEAST_PIXELS), Some(MOST_PIXELS)).unwrap();
    let parts = [Part::image_bytes(jpeg), Part::text("Describe this image.")];
    let conversation = Conversation::new([Message::user(parts)]);
    let mut group = criterion.benchmark_group("media");
    group.throughput(pixels());
    group.bench_function("process/1920x1080", |bencher| {
        bencher.iter(|| processor.process(0, black_box(&conversation), OPTIONS).unwrap());
    });
    let processed = processor.process(0, &conversation, OPTIONS).unwrap();
    let prepared = processed.media[0].prepared.as_ref().unwrap();
    group.bench_function("pixel_values/1316x728", |bencher| {
        bencher.iter(|| processor.preprocessor().pixel_values(black_box(prepared)));
    });
    group.finish();
}

/// Template and tokenizer.
fn prompts(criterion: &mut Criterion) {
    let processor = Processor::from_dir(Path::new(MODEL)).unwrap();
    let question = "What color is the shape in Picture 1? ";
    let turn = |i: usize| {
        let role = if i.is_multiple_of(2) { "user" } else { "assistant" };
        Message::text(role, question.repeat(8))
    };
    let mut group = criterion.benchmark_group("prompt");
    for turns in [1, 31] {
        let conversation = Conversation::new((0..turns).map(turn));
        let pieces = processor.render(0, &conversation, OPTIONS).unwrap();
        let tokens = processor.encode(&pieces, OPTIONS.control_text).unwrap().ids.len();
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(format!("render_encode/{turns}_turns"), |bencher| {
            bencher.iter(|| {
                let pieces = processor.render(0, black_box(&conversation), OPTIONS).unwrap();
                processor.encode(&pieces, OPTIONS.control_text).unwrap()
            });
        });
    }
    group.finish();
}
