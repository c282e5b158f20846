//! Forward passes: each input against another way to say the same, bit for bit.

use qwen2vl::{
    engine::{ForwardInput, ForwardOptions, ForwardOutput, LogitsToKeep, PositionIds, forward},
    units::{GridThw, TokenId},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    choice,
    support::checkpoint::{golden_cases, model_folder},
};

const IMAGE: u32 = 622;
const GRID: GridThw = GridThw { t: 1, h: 4, w: 6 };

/// A small model of the goldens with some settings changed.
fn model(edit: impl FnOnce(&mut Value)) -> TempDir {
    let mut spec = golden_cases("forward")["models"]["heads-32"].clone();
    edit(&mut spec["config"]);
    model_folder(&spec)
}

fn run(folder: &TempDir, input: &ForwardInput) -> ForwardOutput {
    run_with(folder, input, ForwardOptions::default())
}

fn run_with(folder: &TempDir, input: &ForwardInput, options: ForwardOptions) -> ForwardOutput {
    let options = ForwardOptions { device: choice(), ..options };
    forward(folder.path(), input, &options).unwrap_or_else(|error| panic!("{error}"))
}

fn values<'a>(output: &'a ForwardOutput, name: &str) -> &'a [f32] {
    &output.tensor(name).unwrap_or_else(|| panic!("{name} is missing")).values
}

/// Rows `range` of a tensor with rows of the vocabulary.
fn logits(output: &ForwardOutput, rows: std::ops::Range<usize>) -> &[f32] {
    &values(output, "logits")[rows.start * 640..rows.end * 640]
}

fn ids(seed: u32, count: usize) -> Vec<TokenId> {
    (0..u32::try_from(count).unwrap()).map(|i| TokenId((seed * 37 + i * 101) % 600)).collect()
}

fn text(ids: Vec<TokenId>) -> ForwardInput {
    ForwardInput { batch: 1, length: ids.len(), input_ids: ids, ..Default::default() }
}

fn pixels(count: usize) -> Vec<f32> {
    (0..count * 1176).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect()
}

/// Three tokens, a picture of six rows, two tokens.
fn picture() -> ForwardInput {
    let mut all = ids(1, 3);
    all.push(TokenId(619));
    all.extend([TokenId(IMAGE); 6]);
    all.push(TokenId(620));
    all.extend(ids(2, 2));
    let pixel_values = Some(pixels(24));
    ForwardInput { pixel_values, image_grid_thw: Some(vec![GRID]), ..text(all) }
}

#[test]
fn ready_vision_embeddings_are_the_towers_rows() {
    let folder = model(|_| {});
    let options = ForwardOptions { vision_features: true, ..Default::default() };
    let whole = run_with(&folder, &picture(), options);
    let features = values(&whole, "image_features/0").to_vec();
    assert_eq!(features, values(&whole, "vision/image/merger"));
    let ready = ForwardInput { pixel_values: None, image_embeds: Some(features), ..picture() };
    assert_eq!(values(&run(&folder, &ready), "logits"), values(&whole, "logits"));
}

#[test]
fn embeddings_go_the_way_of_ids() {
    let folder = model(|_| {});
    let options = || ForwardOptions { hidden_states: true, ..Default::default() };
    let whole = run_with(&folder, &picture(), options());
    let embedded = |rows: &[f32]| ForwardInput {
        input_ids: Vec::new(),
        inputs_embeds: Some(rows.to_vec()),
        position_ids: Some(PositionIds { axes: 3, values: whole.position_ids.clone() }),
        ..picture()
    };
    // With the picture's rows in place already.
    let mut ready = embedded(values(&whole, "hidden_states/0"));
    (ready.pixel_values, ready.image_grid_thw) = (None, None);
    assert_eq!(values(&run(&folder, &ready), "logits"), values(&whole, "logits"));
    // With the placeholders' own embeddings, which are found by their value.
    let blind = ForwardInput { pixel_values: None, image_grid_thw: None, ..picture() };
    let blind = run_with(&folder, &blind, options());
    let found = embedded(values(&blind, "hidden_states/0"));
    assert_eq!(values(&run(&folder, &found), "logits"), values(&whole, "logits"));
    // Without positions they are text's, as in the reference.
    let plain = ForwardInput { position_ids: None, ..found };
    let positions = run(&folder, &plain).position_ids;
    assert_eq!(positions[..13], (0..13).collect::<Vec<i64>>());
}

#[test]
fn rows_have_the_bits_that_they_have_alone() {
    let folder = model(|_| {});
    let (first, second) = (picture(), text(ids(5, 9)));
    let alone = [run(&folder, &first), run(&folder, &second)];
    let pad = TokenId(610);
    for left in [true, false] {
        let (mut padded, mut mask) = (vec![pad; 4], vec![false; 4]);
        let place = if left { 4 } else { 0 };
        padded.splice(place..place, second.input_ids.clone());
        mask.splice(place..place, [true; 9]);
        let both = ForwardInput {
            batch: 2,
            input_ids: [first.input_ids.clone(), padded].concat(),
            attention_mask: Some([vec![true; 13], mask].concat()),
            ..picture()
        };
        let both = run(&folder, &both);
        assert_eq!(logits(&both, 0..13), values(&alone[0], "logits"), "left {left}");
        let place = 13 + place;
        assert_eq!(logits(&both, place..place + 9), values(&alone[1], "logits"), "left {left}");
        assert_eq!(both.rope_deltas, [alone[0].rope_deltas[0], -4]);
    }
}

#[test]
fn text_positions_part_a_row() {
    let folder = model(|_| {});
    let (first, second) = (ids(3, 5), ids(4, 7));
    let axis: Vec<i64> = (0..5).chain(0..7).collect();
    let packed = ForwardInput {
        position_ids: Some(PositionIds { axes: 4, values: axis.repeat(4) }),
        ..text([first.clone(), second.clone()].concat())
    };
    let parted = run(&folder, &packed);
    assert_eq!(logits(&parted, 0..5), values(&run(&folder, &text(first)), "logits"));
    assert_eq!(logits(&parted, 5..12), values(&run(&folder, &text(second)), "logits"));
    // A mask says that the row is one sequence.
    let whole = ForwardInput { attention_mask: Some(vec![true; 12]), ..packed };
    assert_ne!(logits(&run(&folder, &whole), 5..12), logits(&parted, 5..12));
}

#[test]
fn kept_logits_are_rows_of_all() {
    let folder = model(|_| {});
    let all = run(&folder, &picture());
    for (keep, rows) in [
        (LogitsToKeep::Last(3), vec![10, 11, 12]),
        (LogitsToKeep::Last(99), (0..13).collect()),
        (LogitsToKeep::Last(0), (0..13).collect()),
        (LogitsToKeep::Slots(vec![12, 2]), vec![12, 2]),
    ] {
        let kept = run(&folder, &ForwardInput { logits_to_keep: keep, ..picture() });
        let tensor = kept.tensor("logits").unwrap();
        assert_eq!(tensor.shape, [1, rows.len(), 640]);
        let want: Vec<f32> =
            rows.iter().flat_map(|row| logits(&all, *row..row + 1).to_vec()).collect();
        assert_eq!(tensor.values, want, "{rows:?}");
    }
}

#[test]
fn the_loss_is_the_mean_of_what_counts() {
    let folder = model(|_| {});
    let plain = run(&folder, &picture());
    let surprise = |slot: usize, label: usize| {
        let row = logits(&plain, slot..slot + 1);
        let sum: f64 = row.iter().map(|value| f64::from(*value).exp()).sum();
        sum.ln() - f64::from(row[label])
    };
    let mut labels = vec![-100; 13];
    (labels[0], labels[4], labels[12]) = (5, 17, 639);
    // The first label has no slot before it.
    let sum = surprise(3, 17) + surprise(11, 639);
    let with = |labels: &[i64], items| ForwardInput {
        labels: Some(labels.to_vec()),
        num_items_in_batch: items,
        ..picture()
    };
    for (items, want) in [(None, sum / 2.0), (Some(8), sum / 8.0)] {
        let output = run(&folder, &with(&labels, items));
        let loss = output.tensor("loss").unwrap();
        assert!((f64::from(loss.values[0]) - want).abs() < 1e-5 * want, "{loss:?}, not {want}");
        assert_eq!(loss.shape, [0; 0]);
        assert_eq!(values(&output, "logits"), values(&plain, "logits"));
    }
    assert!(values(&run(&folder, &with(&[-100; 13], None)), "loss")[0].is_nan());
}

#[test]
fn a_padded_batch_goes_on_from_its_cache_with_pictures_too() {
    let folder = model(|_| {});
    let options = || ForwardOptions { key_values: true, ..Default::default() };
    // Row 0: a text of 6, then the picture; row 1: a text of 4 behind two pads, then a text.
    let (before, other) = (ids(6, 6), ids(7, 4));
    let after = picture();
    let tail = ids(8, 13);
    let past = ForwardInput {
        batch: 2,
        attention_mask: Some([vec![true; 6], vec![false; 2], vec![true; 4]].concat()),
        ..text([before.clone(), vec![TokenId(610); 2], other.clone()].concat())
    };
    let past = run_with(&folder, &ForwardInput { length: 6, ..past }, options());
    let rest = ForwardInput {
        batch: 2,
        input_ids: [after.input_ids.clone(), tail.clone()].concat(),
        past: past.past(),
        rope_deltas: Some(past.rope_deltas.clone()),
        ..picture()
    };
    let rest = run_with(&folder, &rest, options());
    let whole = |before: &[TokenId], input: ForwardInput| {
        let input_ids = [before, &input.input_ids].concat();
        run(&folder, &ForwardInput { length: input_ids.len(), input_ids, ..input })
    };
    let first = whole(&before, picture());
    assert_eq!(logits(&rest, 0..13), logits(&first, 6..19));
    assert_eq!(rest.rope_deltas[0], first.rope_deltas[0]);
    let second = whole(&other, text(tail));
    assert_eq!(logits(&rest, 13..26), logits(&second, 4..17));
    assert_eq!(rest.tensor("past/1/values").unwrap().shape, [2, 4, 19, 32]);
    assert_eq!(rest.held[19..25], [false, false, true, true, true, true]);
}

#[test]
fn a_stateful_rotation_follows_the_rows_own_length() {
    let list = |step: f64| (0..16).map(|j| 1.0 + step * f64::from(j)).collect::<Vec<_>>();
    let long = json!({"rope_type": "longrope", "factor": 2.0, "short_factor": list(0.1),
        "long_factor": list(0.5), "mrope_section": [4, 6, 6]});
    let dynamic = json!({"rope_type": "dynamic", "factor": 4.0, "mrope_section": [4, 6, 6]});
    for scaling in [long, dynamic] {
        let folder = model(|config| {
            config["rope_scaling"] = scaling.clone();
            config["max_position_embeddings"] = json!(12);
        });
        let (short, long) = (ids(3, 8), ids(4, 20));
        let alone = [run(&folder, &text(short.clone())), run(&folder, &text(long.clone()))];
        let both = ForwardInput {
            batch: 2,
            attention_mask: Some([vec![false; 12], vec![true; 28]].concat()),
            ..text([vec![TokenId(610); 12], short, long].concat())
        };
        let both = ForwardInput { length: 20, ..both };
        let own = run(&folder, &both);
        assert_eq!(logits(&own, 12..20), values(&alone[0], "logits"), "{scaling}");
        assert_eq!(logits(&own, 20..40), values(&alone[1], "logits"), "{scaling}");
        // The reference lets the longest row decide.
        let options = ForwardOptions { batch_rope_length: true, ..Default::default() };
        let longest = run_with(&folder, &both, options);
        assert_ne!(logits(&longest, 12..20), values(&alone[0], "logits"), "{scaling}");
        assert_eq!(logits(&longest, 20..40), values(&alone[1], "logits"), "{scaling}");
    }
}

#[test]
fn other_settings_lie_over_those_of_the_checkpoint() {
    let folder = model(|_| {});
    let sliding = |config: &mut Value| {
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(3);
        config["max_window_layers"] = json!(1);
    };
    let input = text(ids(9, 20));
    let plain = run(&folder, &input);
    let want = run(&model(sliding), &input);
    assert_ne!(values(&plain, "logits"), values(&want, "logits"));
    let mut part = json!({});
    sliding(&mut part);
    let mut all: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    sliding(&mut all);
    for over in [part, all] {
        let file = folder.path().join("over.json");
        std::fs::write(&file, over.to_string()).unwrap();
        let options = ForwardOptions { config: Some(file), ..Default::default() };
        assert_eq!(values(&run_with(&folder, &input, options), "logits"), values(&want, "logits"));
    }
}

/// Towers with other activations than the published one.
#[test]
fn the_tower_takes_the_activation_of_the_file() {
    let merged = |name: &str| {
        let folder = model(|config| config["vision_config"]["hidden_act"] = json!(name));
        values(&run(&folder, &picture()), "vision/image/merger").to_vec()
    };
    let near = |a: &[f32], b: &[f32]| {
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
        let difference = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
        (difference / square(&mut b.iter().copied())).sqrt()
    };
    let gelu = merged("gelu");
    // Two forms of one function, one in an epilogue, one in a kernel of its own.
    assert!(near(&merged("gelu_pytorch_tanh"), &gelu) < 0.02);
    assert!(near(&merged("quick_gelu"), &gelu) < 0.2);
    let others = ["relu", "silu", "tanh", "linear"].map(merged);
    for (index, other) in others.iter().enumerate() {
        assert!(other.iter().all(|value| value.is_finite()));
        assert!(near(other, &gelu) > 0.03, "{index}: {}", near(other, &gelu));
        assert!(others[..index].iter().all(|before| near(other, before) > 0.03), "{index}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let folder = model(|_| {});
    let past = run_with(
        &folder,
        &text(ids(1, 3)),
        ForwardOptions { key_values: true, ..Default::default() },
    );
    let plain = || text(ids(1, 4));
    let positions =
        |axes: usize, value: i64| Some(PositionIds { axes, values: vec![value; axes * 4] });
    let behind = || ForwardInput {
        past: past.past(),
        rope_deltas: Some(past.rope_deltas.clone()),
        ..plain()
    };
    let short = |mut input: ForwardInput| {
        input.past.as_mut().unwrap().layers.pop();
        input
    };
    let turned = |mut input: ForwardInput| {
        input.past.as_mut().unwrap().shape = [1, 8, 3, 16];
        input
    };
    let cases = [
        ("input_ids", ForwardInput { length: 5, ..plain() }),
        ("input_ids", ForwardInput { batch: 0, ..plain() }),
        ("input_ids", text(vec![TokenId(640)])),
        (
            "input_ids",
            ForwardInput { pixel_values: None, image_embeds: Some(vec![0.0; 128]), ..plain() },
        ),
        ("attention_mask", ForwardInput { attention_mask: Some(vec![false; 4]), ..plain() }),
        ("attention_mask", ForwardInput { attention_mask: Some(vec![true; 5]), ..plain() }),
        ("inputs_embeds", ForwardInput { inputs_embeds: Some(vec![0.0; 512]), ..plain() }),
        (
            "inputs_embeds",
            ForwardInput { input_ids: vec![], inputs_embeds: Some(vec![0.0; 511]), ..plain() },
        ),
        ("position_ids", ForwardInput { position_ids: positions(2, 0), ..plain() }),
        ("position_ids", ForwardInput { position_ids: positions(3, -1), ..plain() }),
        ("position_ids", ForwardInput { position_ids: positions(3, 1 << 31), ..plain() }),
        ("labels", ForwardInput { labels: Some(vec![640; 4]), ..plain() }),
        ("labels", ForwardInput { labels: Some(vec![-1; 4]), ..plain() }),
        ("labels", ForwardInput { labels: Some(vec![0; 3]), ..plain() }),
        (
            "labels",
            ForwardInput {
                labels: Some(vec![-100, 3, -100, -100]),
                attention_mask: Some(vec![false, true, true, true]),
                ..plain()
            },
        ),
        (
            "logits_to_keep",
            ForwardInput { logits_to_keep: LogitsToKeep::Slots(vec![4]), ..plain() },
        ),
        ("cache_position", ForwardInput { cache_position: Some(vec![1, 2, 3, 4]), ..plain() }),
        ("rope_deltas", ForwardInput { rope_deltas: None, ..behind() }),
        ("rope_deltas", ForwardInput { rope_deltas: Some(vec![0, 0]), ..behind() }),
        ("rope_deltas", ForwardInput { rope_deltas: Some(vec![-4]), ..behind() }),
        ("past_key_values", short(behind())),
        ("past_key_values", turned(behind())),
        ("pixel_values", ForwardInput { pixel_values: Some(pixels(23)), ..picture() }),
        ("image_embeds", ForwardInput { image_embeds: Some(vec![0.0; 6 * 128]), ..picture() }),
        (
            "image_embeds",
            ForwardInput { pixel_values: None, image_embeds: Some(vec![0.0; 128]), ..picture() },
        ),
    ];
    for (field, input) in cases {
        let options = ForwardOptions { device: choice(), ..Default::default() };
        let error = forward(folder.path(), &input, &options).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{field} = ")), "{field}: {error}");
        assert_eq!(error.code(), "invalid_request", "{field}: {error}");
    }
}

#[test]
fn outputs_that_no_memory_holds_are_refused_before_anything_runs() {
    let folder = model(|config| config["num_attention_heads"] = json!(4));
    let input = text(vec![TokenId(1); 40_000]);
    let options = ForwardOptions { device: choice(), attentions: true, ..Default::default() };
    let error = forward(folder.path(), &input, &options).unwrap_err().to_string();
    assert!(error.starts_with("attentions = 51200000000 bytes"), "{error}");
}
