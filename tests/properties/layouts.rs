//! Random mixed layouts (texts, pictures, videos) against a model of the rules of docs/spec.md that
//! is written here, from the document: sections 3.4, 4.4, 5.1, 5.2 and 7.1.

use std::{path::Path, sync::LazyLock};

use qwen2vl::{
    engine::prompt_positions,
    media::Source,
    model::{
        config::ModelConfig,
        positions::{self, Grids},
    },
    prompt::{ControlText, Conversation, Message, Part, ProcessOptions, Processor, RenderOptions},
    units::{GridThw, TokenId},
};
use serde_json::{Value, json};

use crate::support::Rng;

/// Ids of the layouts that no tokenizer makes.
#[derive(Clone, Copy)]
struct Tokens {
    start: u32,
    end: u32,
    image: u32,
    video: u32,
}

/// Section 7.1, case B, row by row as it is written there.
struct Model<'a> {
    tokens: Tokens,
    merge: usize,
    images: &'a [[usize; 3]],
    videos: &'a [[usize; 3]],
}

impl Model<'_> {
    /// Positions of the ids of a row whose mask is 1, and what follows them; grids are taken from
    /// the front.
    fn row(&mut self, ids: &[u32]) -> ([Vec<i64>; 3], i64) {
        let pairs = |pad: u32| {
            ids.windows(2).filter(|two| two[0] == self.tokens.start && two[1] == pad).count()
        };
        let (mut images, mut videos) = (pairs(self.tokens.image), pairs(self.tokens.video));
        let (mut axes, mut st, mut next) = ([const { Vec::new() }; 3], 0, 0_i64);
        for _ in 0..images + videos {
            let from = |pad: u32, left: usize| match left {
                0 => ids.len() + 1,
                _ => (st..ids.len()).find(|at| ids[*at] == pad).unwrap_or(ids.len() + 1),
            };
            let ends = [from(self.tokens.image, images), from(self.tokens.video, videos)];
            let (list, left) = match ends[0] < ends[1] {
                true => (&mut self.images, &mut images),
                false => (&mut self.videos, &mut videos),
            };
            let (grid, rest) = list.split_first().unwrap();
            *list = rest;
            *left -= 1;
            let ed = ends[0].min(ends[1]);
            for _ in st..ed {
                axes.iter_mut().for_each(|axis| axis.push(next));
                next += 1;
            }
            let sides = [grid[0], grid[1] / self.merge, grid[2] / self.merge];
            let [t, h, w] = sides.map(|side| i64::try_from(side).unwrap());
            for place in 0..t * h * w {
                axes[0].push(next + place / (h * w));
                axes[1].push(next + place / w % h);
                axes[2].push(next + place % w);
            }
            st = ed + sides.iter().product::<usize>();
            next = axes.iter().flat_map(|axis| &axis[ed..]).max().unwrap() + 1;
        }
        for _ in st..ids.len() {
            axes.iter_mut().for_each(|axis| axis.push(next));
            next += 1;
        }
        (axes, next)
    }
}

/// Ids and grids of one random row.
fn row(
    rng: &mut Rng,
    tokens: Tokens,
    merge: usize,
    images: &mut Vec<[usize; 3]>,
    videos: &mut Vec<[usize; 3]>,
) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..rng.below(4)).map(|_| 1).collect();
    for _ in 0..rng.below(5) {
        let is_image = rng.below(2) == 0;
        let sides =
            [if is_image { 1 } else { 1 + rng.below(4) }, 1 + rng.below(5), 1 + rng.below(5)];
        ids.push(tokens.start);
        let pad = if is_image { tokens.image } else { tokens.video };
        ids.extend(std::iter::repeat_n(pad, sides.iter().product()));
        // A prompt may end within its last medium's turn.
        if rng.below(20) > 0 {
            ids.push(tokens.end);
        }
        ids.extend((0..rng.below(5)).map(|_| 1));
        let grid = [sides[0], sides[1] * merge, sides[2] * merge];
        if is_image { images.push(grid) } else { videos.push(grid) }
    }
    if ids.is_empty() { vec![1] } else { ids }
}

fn grid([t, h, w]: [usize; 3]) -> GridThw {
    GridThw { t, h, w }
}

fn config(merge: usize) -> ModelConfig {
    let json = json!({
        "model_type": "qwen2_vl", "hidden_size": 64, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {"hidden_size": 64, "spatial_merge_size": merge},
    });
    ModelConfig::parse(json.to_string().as_bytes(), Path::new("c.json")).unwrap()
}

#[test]
fn positions_of_100_000_layouts_are_those_of_the_rules() {
    let configs = [1, 2, 3].map(config);
    let mut rng = Rng::new("layouts");
    let (mut rows, mut tokens_seen) = (0, 0);
    while rows < 100_000 {
        let merge = 1 + rng.below(3);
        let config = &configs[merge - 1];
        let tokens = Tokens {
            start: config.tokens.start.0,
            end: config.tokens.end.0,
            image: config.tokens.image.0,
            video: config.tokens.video.0,
        };
        let (mut images, mut videos) = (Vec::new(), Vec::new());
        let batch: Vec<Vec<u32>> = (0..1 + rng.below(4))
            .map(|_| row(&mut rng, tokens, merge, &mut images, &mut videos))
            .collect();
        let length = batch.iter().map(Vec::len).max().unwrap() + rng.below(3);
        // Padding on the left, on the right, or anywhere.
        let mask: Vec<bool> =
            batch.iter().flat_map(|ids| mask(&mut rng, ids.len(), length)).collect();
        let mut model = Model { tokens, merge, images: &images, videos: &videos };
        let mut expected: [Vec<i64>; 3] = [const { Vec::new() }; 3];
        let mut deltas = Vec::new();
        for (ids, mask) in batch.iter().zip(mask.chunks(length)) {
            let (axes, next) = match (images.is_empty(), videos.is_empty()) {
                // Case A: positions are those of text.
                (true, true) => {
                    let count = i64::try_from(ids.len()).unwrap();
                    (std::array::from_fn(|_| (0..count).collect()), count)
                }
                _ => model.row(ids),
            };
            for (to, axis) in expected.iter_mut().zip(&axes) {
                let mut held = axis.iter();
                to.extend(mask.iter().map(|real| if *real { *held.next().unwrap() } else { 1 }));
            }
            deltas.push(next - i64::try_from(length).unwrap());
        }
        let lists: Vec<Vec<TokenId>> =
            batch.iter().map(|ids| ids.iter().copied().map(TokenId).collect()).collect();
        let (images, videos): (Vec<_>, Vec<_>) =
            (images.into_iter().map(grid).collect(), videos.into_iter().map(grid).collect());
        let grids = Grids { images: &images, videos: &videos, seconds: None };
        let given = (!images.is_empty() || !videos.is_empty()).then_some(grids);
        let placed = positions::batch(config, &lists, given).unwrap();
        let (found, found_deltas) = positions::padded(&placed, &mask);
        assert_eq!(found, expected.concat(), "{batch:?} {images:?} {videos:?} {mask:?}");
        assert_eq!(found_deltas, deltas, "{batch:?} {images:?} {videos:?} {mask:?}");
        rows += batch.len();
        tokens_seen += batch.iter().map(Vec::len).sum::<usize>();
    }
    println!("layouts: {rows} rows of {tokens_seen} tokens");
    assert!(tokens_seen > 2_000_000, "{tokens_seen}");
}

fn mask(rng: &mut Rng, held: usize, length: usize) -> Vec<bool> {
    let missing = length - held;
    match rng.below(3) {
        0 => [vec![false; missing], vec![true; held]].concat(),
        1 => [vec![true; held], vec![false; missing]].concat(),
        _ => {
            let mut mask = vec![true; held];
            for _ in 0..missing {
                mask.insert(rng.below(mask.len() + 1), false);
            }
            mask
        }
    }
}

static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| Processor::from_dir(&demo()).unwrap());

fn demo() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model")
}

/// The budget that a settings file of the demo gives.
fn budget(file: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(demo().join(file)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let number =
        |key: &str, edge: &str| json[key].as_f64().or_else(|| json["size"][edge].as_f64()).unwrap();
    (number("min_pixels", "shortest_edge"), number("max_pixels", "longest_edge"))
}

/// Section 3.4, in merged patches of 28 pixels.
fn smart_resize((h, w): (f64, f64), (min, max): (f64, f64)) -> (usize, usize) {
    let round = |side: f64| (side / 28.0).round_ties_even() * 28.0;
    let (mut height, mut width) = (round(h), round(w));
    if height * width > max {
        let beta = (h * w / max).sqrt();
        let down = |side: f64| 28_f64.max((side / beta / 28.0).floor() * 28.0);
        (height, width) = (down(h), down(w));
    } else if height * width < min {
        let beta = (min / (h * w)).sqrt();
        let up = |side: f64| (side * beta / 28.0).ceil() * 28.0;
        (height, width) = (up(h), up(w));
    }
    let whole = |side: f64| (0..).find(|n| f64::from(*n) * 28.0 == side).unwrap();
    let (height, width): (u32, u32) = (whole(height), whole(width));
    (usize::try_from(height).unwrap(), usize::try_from(width).unwrap())
}

/// The header of a bitmap: all that counting reads.
fn bitmap(height: u32, width: u32) -> Vec<u8> {
    let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    bytes
}

/// Random conversations through template, tokenizer, placeholders and positions.
fn conversations(label: &str, count: usize) {
    let (image_budget, video_budget) =
        (budget("preprocessor_config.json"), budget("video_preprocessor_config.json"));
    let config = ModelConfig::load(&demo()).unwrap();
    let id = |token: &str| PROCESSOR.tokenizer().added_id(token).unwrap().0;
    let tokens = Tokens {
        start: id("<|vision_start|>"),
        end: id("<|vision_end|>"),
        image: id("<|image_pad|>"),
        video: id("<|video_pad|>"),
    };
    let words = ["What", " is", "\n", " this?", "A red", " circle", "  ", "é", "1", " left of "];
    let mut rng = Rng::new(label);
    let mut media = 0;
    for _ in 0..count {
        let vision_id = rng.below(2) == 0;
        // Section 5.2: what the template shows, with each placeholder repeated.
        let mut text = String::new();
        let (mut images, mut videos) = (Vec::new(), Vec::new());
        let mut messages = Vec::new();
        for turn in 0..1 + rng.below(3) {
            let role = ["user", "assistant", "system", "tool"]
                [if turn == 0 { rng.below(3) } else { rng.below(4) }];
            if turn == 0 && role != "system" {
                text.push_str("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n");
            }
            text.push_str(&format!("<|im_start|>{role}\n"));
            let mut parts = Vec::new();
            for _ in 0..rng.below(4) {
                let size = (1 + rng.below(300), 1 + rng.below(300));
                // Section 3.4 refuses a ratio over 200.
                let size = (size.0.max(2), size.1.max(2));
                let (height, width) =
                    (u32::try_from(size.0).unwrap(), u32::try_from(size.1).unwrap());
                let sides = (f64::from(height), f64::from(width));
                match rng.below(3) {
                    0 => {
                        let (h, w) = smart_resize(sides, image_budget);
                        images.push([1, 2 * h, 2 * w]);
                        if vision_id {
                            text.push_str(&format!("Picture {}: ", images.len()));
                        }
                        let pads = "<|image_pad|>".repeat(h * w);
                        text.push_str(&format!("<|vision_start|>{pads}<|vision_end|>"));
                        parts.push(Part::image_bytes(bitmap(height, width)));
                    }
                    1 => {
                        let frames = 1 + rng.below(5);
                        let (h, w) = smart_resize(sides, video_budget);
                        let t = frames.div_ceil(2);
                        videos.push([t, 2 * h, 2 * w]);
                        if vision_id {
                            text.push_str(&format!("Video {}: ", videos.len()));
                        }
                        let pads = "<|video_pad|>".repeat(t * h * w);
                        text.push_str(&format!("<|vision_start|>{pads}<|vision_end|>"));
                        let frame = || Source::Bytes(bitmap(height, width));
                        parts.push(Part::video_frames((0..frames).map(|_| frame())));
                    }
                    _ => {
                        let words: String =
                            (0..rng.below(4)).map(|_| words[rng.below(words.len())]).collect();
                        text.push_str(&words);
                        parts.push(Part::text(words));
                    }
                }
            }
            text.push_str("<|im_end|>\n");
            messages.push(Message::new(role, parts));
        }
        text.push_str("<|im_start|>assistant\n");
        let render = RenderOptions { add_vision_id: vision_id, ..RenderOptions::default() };
        let options = ProcessOptions { render, control_text: ControlText::Literal };
        let done = PROCESSOR.count(0, &Conversation::new(messages), options).unwrap();
        assert_eq!(done.input_ids, PROCESSOR.tokenizer().encode(&text).unwrap(), "{text}");
        let found = |grid: GridThw| [grid.t, grid.h, grid.w];
        let found_images: Vec<_> = done.images().map(|medium| found(medium.used.grid)).collect();
        let found_videos: Vec<_> = done.videos().map(|medium| found(medium.used.grid)).collect();
        assert_eq!((&found_images, &found_videos), (&images, &videos), "{text}");
        let ids: Vec<u32> = done.input_ids.iter().map(|id| id.0).collect();
        let (axes, next) = Model { tokens, merge: 2, images: &images, videos: &videos }.row(&ids);
        let placed = prompt_positions(&config, &done).unwrap();
        let found = placed.axes.map(|axis| axis.into_iter().map(i64::from).collect::<Vec<_>>());
        assert_eq!((found, i64::from(placed.next)), (axes, next), "{text}");
        media += images.len() + videos.len();
    }
    assert!(media > count, "{count} conversations with {media} media");
}

#[test]
fn conversations_have_the_ids_grids_and_positions_of_the_rules() {
    conversations("short", 4_000);
}

#[test]
#[ignore = "long: a minute"]
fn a_hundred_thousand_conversations_have_them_too() {
    conversations("long", 100_000);
}
