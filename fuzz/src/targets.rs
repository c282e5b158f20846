//! What each parser must withstand: any bytes, without a panic, and with what it gives back being
//! whole. `tests/hostile/corpus.rs` runs the kept inputs through the same functions.

use std::path::Path;
use std::sync::LazyLock;
use std::{env, fs, process};

use super::media::{
    self, Ffmpeg, Limits, MediaError, Preprocessor, Source, Video, VideoPreprocessor, VideoReader,
    VideoSource,
};
use super::model::{
    checkpoint::TensorFile, config::ModelConfig, generation_config::GenerationConfig,
};
use super::prompt::{
    ChatTemplate, ControlText, Conversation, Conversations, Message, Part, ProcessOptions,
    Processor, RenderOptions, Tokenizer,
};
use super::units::TokenId;

/// A target by its name.
pub type Target = fn(&[u8]);

/// Name, and what is run.
pub const TARGETS: &[(&str, Target)] = &[
    ("messages", messages),
    ("source", source),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
    ("tokenizer_config", tokenizer_config),
    ("template", template),
    ("config", config),
    ("generation_config", generation_config),
    ("preprocessor_config", preprocessor_config),
    ("image", image),
    ("animation", animation),
];

/// Longest text that goes through the tokenizer: its time, not its parser, is what more would try.
const SHORT: usize = 4096;

static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(|folder| {
        let demo = folder.join("assets/demo/model");
        demo.is_dir().then_some(demo)
    });
    Processor::from_dir(&demo.expect("the demo's checkpoint")).expect("the demo's files")
});

/// Conversations as JSON, rendered and tokenized; media are not read.
fn messages(bytes: &[u8]) {
    let Ok(conversations) = Conversations::from_json(bytes, Path::new("/nonexistent")) else {
        return;
    };
    if bytes.len() > SHORT {
        return;
    }
    for (index, conversation) in conversations.list.iter().enumerate() {
        let mut ids = Vec::new();
        for control_text in [ControlText::Literal, ControlText::Trusted] {
            let options = ProcessOptions { control_text, ..ProcessOptions::default() };
            let Ok(pieces) = PROCESSOR.render(index, conversation, options) else { continue };
            ids.push(PROCESSOR.encode(&pieces, control_text).expect("ids of text"));
        }
        let [literal, trusted] = ids.as_slice() else { continue };
        let has_grounding = String::from_utf8_lossy(bytes).contains("_start|>");
        if literal.escaped == 0 && !has_grounding {
            assert_eq!(literal.ids, trusted.ids, "benign text has the reference's ids");
        }
    }
}

/// Text that says where a picture is.
fn source(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let limits = Limits::default();
    match Source::from_text(text, Path::new("/nonexistent"), &limits) {
        Ok(Source::Bytes(bytes)) => drop(media::probe(&bytes, &limits)),
        Ok(Source::Path(_)) | Err(_) => {}
    }
}

/// A weight file: its header, offsets and shapes.
fn safetensors(bytes: &[u8]) {
    let folder = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { env::temp_dir() };
    let file = folder.join(format!("qwen2vl-fuzz-{}.safetensors", process::id()));
    fs::write(&file, bytes).expect("a file in memory");
    let opened = TensorFile::open(&file);
    // The map keeps the content.
    fs::remove_file(&file).expect("the same file");
    let Ok(opened) = opened else { return };
    for tensor in opened.tensors() {
        assert!(tensor.bytes.len() <= bytes.len());
        if tensor.bytes.len() < SHORT {
            drop(tensor.to_f32());
        }
    }
}

/// tokenizer.json.
fn tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json(bytes, Path::new("tokenizer.json")) else { return };
    let text = "<|im_start|>user\nHello, it's 3 <|im_end|>";
    if let Ok(ids) = tokenizer.encode(text) {
        drop(tokenizer.decode(&ids, true));
    }
    drop(tokenizer.decode(&[0, 1, 7, u32::MAX].map(TokenId), false));
}

/// tokenizer_config.json, with its chat template.
fn tokenizer_config(bytes: &[u8]) {
    static FOLDER: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        let folder = parent.join(format!("qwen2vl-fuzz-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder in memory");
        folder
    });
    fs::write(FOLDER.join("tokenizer_config.json"), bytes).expect("a file in memory");
    drop(ChatTemplate::from_dir(&FOLDER));
    fs::remove_file(FOLDER.join("tokenizer_config.json")).expect("the same file");
}

/// A chat template, compiled and run.
fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = ChatTemplate::new(source.to_owned(), serde_json::Map::new()) else { return };
    let conversation = Conversation::new([
        Message::system("Be brief."),
        Message::user([Part::image_bytes([]), Part::text("What is this?"), Part::text("")]),
        Message::assistant("A \u{f0000}0\u{f0000} <|im_end|>"),
    ]);
    let options = RenderOptions { add_vision_id: true, ..RenderOptions::default() };
    let plain = template.render(&conversation, options);
    if let Ok(pieces) = template.pieces(0, &conversation, options) {
        let joined: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(joined, plain.expect("the same template without markers"));
    }
}

/// config.json.
fn config(bytes: &[u8]) {
    drop(ModelConfig::parse(bytes, Path::new("config.json")));
}

/// generation_config.json.
fn generation_config(bytes: &[u8]) {
    drop(GenerationConfig::parse(bytes, Path::new("generation_config.json")));
}

/// preprocessor_config.json, and the size that it gives to some pictures.
fn preprocessor_config(bytes: &[u8]) {
    if let Ok(video) = VideoPreprocessor::from_json(bytes) {
        drop(video.sampling().choose(100, Some(25.0), video.frame().temporal_patch_size()));
    }
    let Ok(preprocessor) = Preprocessor::from_json(bytes) else { return };
    for (height, width) in [(1, 1), (28, 28), (480, 640), (65_535, 400)] {
        let Ok(resized) = preprocessor.resized(media::Size { height, width }) else { continue };
        let grid = preprocessor.grid(1, resized);
        assert!(grid.merged_tokens(preprocessor.merge_size()).is_some_and(|tokens| tokens.0 > 0));
    }
}

/// Limits that keep an input from costing memory or time.
fn small() -> Limits {
    Limits { pixels: 1 << 16, frames_read: 64, frames_kept: 64, ..Limits::default() }
}

/// A picture of any format: what its header says is what its pixels are.
fn image(bytes: &[u8]) {
    let size = media::probe(bytes, &small());
    if let Ok(picture) = media::decode(bytes, &small()) {
        assert_eq!(size.expect("a picture has a header"), picture.size());
        assert_eq!(Some(picture.data().len()), picture.size().pixels().map(|pixels| pixels * 3));
    }
}

/// Frames of an animated GIF, WebP or PNG: as many as the headers say, or an error.
fn animation(bytes: &[u8]) {
    // Containers are read by another program, which is not the subject.
    let ffmpeg = Ffmpeg { program: "/nonexistent/ffmpeg".into() };
    let reader = VideoReader { ffmpeg, limits: small(), ..VideoReader::default() };
    let source = VideoSource::File(Source::Bytes(bytes.to_vec()));
    let Ok(video) = Video::open(&source, &reader) else { return };
    let indices: Vec<usize> = (0..video.frames()).collect();
    let mut seen = 0;
    let done = video.read(&indices, &mut |frame| {
        assert_eq!(frame.size(), video.size());
        seen += 1;
        Ok::<(), MediaError>(())
    });
    assert!(done.is_err() || seen == video.frames());
}
