//! Inputs of a forward pass at random: a result or a typed error, never a panic.

use qwen2vl::{
    engine::{
        ForwardInput, ForwardOptions, LayerKeyValues, LogitsToKeep, PastKeyValues, PositionIds,
        forward,
    },
    units::{GridThw, TokenId},
};

use crate::support::{
    Rng,
    checkpoint::{golden_cases, model_folder},
};

/// Often right, sometimes not: one of four cases is another length.
fn near(rng: &mut Rng, length: usize) -> usize {
    match rng.below(12) {
        0 => length + 1,
        1 => length.saturating_sub(1),
        2 => 0,
        _ => length,
    }
}

fn maybe<T>(rng: &mut Rng, of: usize, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    (rng.below(of) == 0).then(|| make(rng))
}

fn grid(rng: &mut Rng) -> GridThw {
    let side = |rng: &mut Rng| match rng.below(20) {
        0 => usize::MAX / 2,
        1 => 1 << 30,
        2 => 0,
        _ => 2 * (1 + rng.below(2)),
    };
    GridThw { t: 1 + rng.below(2), h: side(rng), w: side(rng) }
}

fn past(rng: &mut Rng, batch: usize) -> PastKeyValues {
    let length = 1 + rng.below(3);
    let mut shape = [batch, 4, length, 32];
    if rng.below(6) == 0 {
        shape[rng.below(4)] = [0, 1, 8, usize::MAX][rng.below(4)];
    }
    let elements = near(rng, batch * 4 * length * 32);
    let layer = || LayerKeyValues { keys: vec![0.5; elements], values: vec![0.25; elements] };
    let layers = near(rng, 2);
    let mask = maybe(rng, 3, |rng| (0..batch * length).map(|_| rng.below(3) > 0).collect());
    PastKeyValues { shape, mask, layers: (0..layers).map(|_| layer()).collect() }
}

fn input(rng: &mut Rng) -> ForwardInput {
    let (batch, length) = (1 + rng.below(2), 1 + rng.below(9));
    let slots = batch * length;
    let ids = |rng: &mut Rng, count: usize| -> Vec<TokenId> {
        let id = |rng: &mut Rng| match rng.below(8) {
            0 => 619,
            1 => 620,
            2 | 3 => 622,
            4 => 623,
            5 => rng.below(645),
            _ => rng.below(600),
        };
        (0..count).map(|_| TokenId(u32::try_from(id(rng)).unwrap())).collect()
    };
    let floats = |count: usize| vec![0.125f32; count];
    let long = |rng: &mut Rng, count: usize, most: usize| -> Vec<i64> {
        let value = |rng: &mut Rng| match rng.below(40) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => -100,
            _ => i64::try_from(rng.below(most)).unwrap(),
        };
        (0..count).map(|_| value(rng)).collect()
    };
    let count = near(rng, slots);
    let mut input = ForwardInput {
        batch,
        length,
        input_ids: ids(rng, count),
        attention_mask: maybe(rng, 2, |rng| {
            let count = near(rng, slots);
            (0..count).map(|_| rng.below(4) > 0).collect()
        }),
        position_ids: maybe(rng, 3, |rng| {
            let axes = [1, 3, 4, 2][rng.below(4)];
            let count = near(rng, axes * slots);
            PositionIds { axes, values: long(rng, count, 40) }
        }),
        past: maybe(rng, 3, |rng| past(rng, batch)),
        rope_deltas: maybe(rng, 2, |rng| long(rng, batch, 3)),
        labels: maybe(rng, 4, |rng| long(rng, slots, 640)),
        logits_to_keep: match rng.below(4) {
            0 => LogitsToKeep::Last(rng.below(12)),
            1 => LogitsToKeep::Slots(vec![rng.below(10); 2]),
            _ => LogitsToKeep::All,
        },
        image_grid_thw: maybe(rng, 2, |rng| (0..1 + rng.below(2)).map(|_| grid(rng)).collect()),
        video_grid_thw: maybe(rng, 4, |rng| vec![grid(rng)]),
        ..Default::default()
    };
    if rng.below(4) == 0 {
        input.inputs_embeds = Some(floats(near(rng, slots * 128)));
        input.input_ids.clear();
    }
    if rng.below(2) == 0 {
        let patches: usize =
            input.image_grid_thw.iter().flatten().map(|g| g.t * (g.h % 8) * (g.w % 8)).sum();
        input.pixel_values = Some(floats(near(rng, patches * 1176)));
    } else if rng.below(4) == 0 {
        input.image_embeds = Some(floats(128 * rng.below(4)));
    }
    input
}

#[test]
fn random_inputs_give_a_result_or_a_typed_error() {
    let folder = model_folder(&golden_cases("forward")["models"]["heads-32"]);
    let (mut done, mut refused) = (0, 0);
    for case in 0..400 {
        let input = input(&mut Rng::new(&format!("forward inputs {case}")));
        let options = ForwardOptions {
            attentions: case % 3 == 0,
            key_values: case % 4 == 0,
            hidden_states: case % 5 == 0,
            ..Default::default()
        };
        match forward(folder.path(), &input, &options) {
            Ok(output) => {
                let finite = |tensor: &qwen2vl::engine::FloatTensor| {
                    tensor.name == "loss" || tensor.values.iter().all(|value| value.is_finite())
                };
                assert!(output.tensors.iter().all(finite), "case {case}");
                done += 1;
            }
            Err(error) => {
                let code = error.code();
                assert!(code != "internal" && code != "device_error", "case {case}: {error}");
                refused += 1;
            }
        }
    }
    assert!(done > 20 && refused > 100, "{done} done, {refused} refused");
}
