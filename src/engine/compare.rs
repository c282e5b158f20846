//! A forward pass against a dump of the reference: which tensor is the first that leaves tolerance.
//!
//! The pass runs twice. End to end it goes as always; errors of one layer reach all behind it. Then
//! each layer reads the dump's own hidden states, so that a tensor's error is its layer's alone.

use std::{collections::BTreeMap, path::Path};

use super::{
    EngineError,
    forward::{FloatTensor, ForwardInput, ForwardOptions, ForwardOutput, forward},
};
use crate::units::FloatType;

/// What a dump of the reference holds beside the inputs: tensors with the names of
/// [`ForwardOutput`].
#[derive(Clone, Debug, Default)]
pub struct ReferenceDump {
    /// The inputs of the pass.
    pub input: ForwardInput,
    /// Outputs of floats, whole.
    pub tensors: Vec<FloatTensor>,
    /// `[3, B, S]`, if it has them.
    pub position_ids: Option<Vec<i64>>,
    /// `[B]`, if it has them.
    pub rope_deltas: Option<Vec<i64>>,
}

/// How far a tensor may be from the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Root mean square of the differences over that of the reference's values.
    pub rms: f64,
    /// Largest difference over the reference's largest value.
    pub max: f64,
}

impl Tolerance {
    /// What a pass in a type may be from the reference's f32 run: for f32 the goldens' rule, for
    /// the others twice the errors that the reference's own runs in them have on small models
    /// (docs/spec.md, section 15.3). A deep model needs more end to end.
    pub fn of_type(dtype: FloatType) -> Self {
        match dtype {
            FloatType::F32 => Self { rms: 2e-5, max: 1e-4 },
            FloatType::F16 => Self { rms: 5e-3, max: 1.5e-2 },
            FloatType::Bf16 => Self { rms: 4e-2, max: 0.12 },
        }
    }
}

/// How far one tensor is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// As [`Tolerance::rms`].
    pub rms: f64,
    /// As [`Tolerance::max`].
    pub max: f64,
    /// Flat index of the largest difference.
    pub worst: usize,
    /// What we have there.
    pub got: f64,
    /// What the reference has there.
    pub want: f64,
}

/// One tensor of the dump.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Its dimensions in the dump.
    pub shape: Vec<usize>,
    /// Of the pass as it goes; `None` where its shape is another.
    pub end_to_end: Option<Distance>,
    /// Of the pass whose layers read the dump's hidden states, where that means something.
    pub alone: Option<Distance>,
    /// Whether both are within tolerance.
    pub within: bool,
}

/// The whole comparison, tensors in the order in which a pass makes them.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Every tensor of the dump that a pass makes.
    pub tensors: Vec<Compared>,
    /// How far they may be.
    pub tolerance: Tolerance,
    /// What the pass was computed in.
    pub dtype: FloatType,
    /// The device that ran it.
    pub device: String,
    /// What was odd about the checkpoint and did not stop it.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// The first tensor that leaves tolerance.
    pub fn first(&self) -> Option<&Compared> {
        self.tensors.iter().find(|tensor| !tensor.within)
    }
}

/// Runs a dump's inputs and compares every tensor that it holds. Padding does not count.
/// `tolerance` may change that of the type in which the pass is computed.
///
/// # Errors
/// [`EngineError`]: as [`forward`]; [`EngineError::InvalidRequest`] for a dump without a tensor
/// that a pass makes, or with one of a shape that no pass has.
pub fn compare(
    folder: &Path,
    dump: &ReferenceDump,
    options: &ForwardOptions,
    tolerance: impl FnOnce(Tolerance) -> Tolerance,
) -> Result<Comparison, EngineError> {
    let has = |prefix: &str| dump.tensors.iter().any(|tensor| tensor.name.starts_with(prefix));
    let options = ForwardOptions {
        hidden_states: has("hidden_states/"),
        attentions: has("attentions/"),
        key_values: has("past/"),
        vision_features: has("image_features/") || has("video_features/"),
        ..options.clone()
    };
    let whole = forward(folder, &dump.input, &options)?;
    let alone = match hidden_states(dump) {
        states if states.is_empty() => None,
        states => {
            let input = ForwardInput { hidden_states: states, ..dump.input.clone() };
            Some(forward(folder, &input, &options)?)
        }
    };
    let tolerance = tolerance(Tolerance::of_type(whole.dtype));
    let mut tensors = positions(dump, &whole);
    let mut floats: Vec<&FloatTensor> = dump.tensors.iter().collect();
    floats.sort_by_key(|tensor| order(&tensor.name));
    for reference in floats {
        let held = Held { dump, whole: &whole };
        // What comes before the first layer does not depend on its input.
        let layered =
            !reference.name.starts_with("vision/") && !reference.name.contains("_features/");
        let alone = alone.as_ref().filter(|_| layered && reference.name != "hidden_states/0");
        let of = |output: &ForwardOutput| distance(reference, output, &held);
        let (end_to_end, alone) = (of(&whole), alone.and_then(of));
        let good =
            |distance: Distance| distance.rms <= tolerance.rms && distance.max <= tolerance.max;
        tensors.push(Compared {
            name: reference.name.clone(),
            shape: reference.shape.clone(),
            end_to_end,
            alone,
            within: end_to_end.is_some_and(good) && alone.is_none_or(good),
        });
    }
    if tensors.is_empty() {
        return Err(EngineError::InvalidRequest {
            field: "dump",
            got: "no tensor that a pass makes".to_owned(),
            allowed: "logits, hidden_states/i, vision/image/block_i and the like",
        });
    }
    let ForwardOutput { dtype, device, warnings, .. } = whole;
    Ok(Comparison { tensors, tolerance, dtype, device, warnings })
}

/// The inputs of the layers, as the dump has them.
fn hidden_states(dump: &ReferenceDump) -> BTreeMap<usize, Vec<f32>> {
    let layer = |tensor: &FloatTensor| {
        let layer = tensor.name.strip_prefix("hidden_states/")?.parse().ok()?;
        Some((layer, tensor.values.clone()))
    };
    let mut states: BTreeMap<usize, Vec<f32>> = dump.tensors.iter().filter_map(layer).collect();
    // The last one is behind the final norm: no layer reads it.
    states.pop_last();
    states
}

/// Where a pass makes a tensor: before the tower, its parts, the layers, the head.
fn order(name: &str) -> (usize, usize, usize, String) {
    let parts: Vec<&str> = name.split('/').collect();
    let number = |text: &str| text.trim_start_matches("block_").parse().unwrap_or(usize::MAX);
    let place = match parts[..] {
        ["vision", kind, "patch_embed"] => (1, usize::from(kind == "video"), 0),
        ["vision", kind, "merger"] => (1, usize::from(kind == "video"), usize::MAX),
        ["vision", kind, block] => {
            (1, usize::from(kind == "video"), number(block).saturating_add(1))
        }
        ["image_features", item] => (2, 0, number(item)),
        ["video_features", item] => (2, 1, number(item)),
        ["hidden_states", layer] => (3, number(layer), 0),
        ["past", layer, "keys"] => (3, number(layer), 1),
        ["past", layer, _] => (3, number(layer), 2),
        ["attentions", layer] => (3, number(layer), 3),
        ["logits"] => (4, 0, 0),
        _ => (5, 0, 0),
    };
    (place.0, place.1, place.2, name.to_owned())
}

/// Positions and deltas, which are equal or wrong.
fn positions(dump: &ReferenceDump, output: &ForwardOutput) -> Vec<Compared> {
    let (batch, length) = (dump.input.batch, dump.input.length);
    let slots = (batch * length).max(1);
    let row = output.held.len() / batch.max(1);
    let held = |index: usize| {
        let slot = index % slots;
        output
            .held
            .get(slot / length * row + (row - length) + slot % length)
            .is_none_or(|held| *held)
    };
    let compared = |name: &str,
                    shape: Vec<usize>,
                    want: &[i64],
                    got: &[i64],
                    counts: &dyn Fn(usize) -> bool| {
        let mut pairs = got.iter().zip(want).enumerate();
        let differing = pairs.find(|(index, (got, want))| counts(*index) && got != want);
        let equal = got.len() == want.len() && differing.is_none();
        let (worst, got, want) = differing.map_or((0, 0, 0), |(i, (got, want))| (i, *got, *want));
        #[expect(clippy::cast_precision_loss, reason = "positions are shown, not computed with")]
        let (got, want) = (got as f64, want as f64);
        let error = if equal { 0.0 } else { f64::INFINITY };
        let distance = Distance { rms: error, max: error, worst, got, want };
        let (name, alone) = (name.to_owned(), None);
        Compared { name, shape, end_to_end: Some(distance), alone, within: equal }
    };
    let mut found = Vec::new();
    if let Some(want) = &dump.position_ids {
        let shape = vec![3, batch, length];
        found.push(compared("position_ids", shape, want, &output.position_ids, &held));
    }
    if let Some(want) = &dump.rope_deltas {
        let shape = vec![batch];
        found.push(compared("rope_deltas", shape, want, &output.rope_deltas, &|_| true));
    }
    found
}

/// Which elements of a tensor count.
struct Held<'a> {
    dump: &'a ReferenceDump,
    whole: &'a ForwardOutput,
}

impl Held<'_> {
    /// Whether the element at a flat index belongs to a token, and if it is a weight or a cached
    /// value, to a token's.
    fn counts(&self, tensor: &FloatTensor, index: usize) -> bool {
        let (batch, length) = (self.dump.input.batch, self.dump.input.length);
        let slots = self.whole.held.len() / batch.max(1);
        let held = |row: usize, slot: usize| {
            self.whole.held.get(row * slots + slot).is_none_or(|held| *held)
        };
        let (kind, shape) = (tensor.name.split('/').next(), &tensor.shape);
        match (kind, shape[..].len()) {
            (Some("logits" | "hidden_states"), 3) if shape[1] == length => {
                let row = index / shape[2];
                held(row / length, slots - length + row % length)
            }
            (Some("attentions"), 4) => {
                let (row, column) = (index / shape[3], index % shape[3]);
                let (batch_row, slot) = (row / (shape[1] * shape[2]), row % shape[2]);
                held(batch_row, slots - length + slot) && held(batch_row, column)
            }
            (Some("past"), 4) => {
                let row = index / shape[3];
                held(row / (shape[1] * shape[2]), row % shape[2])
            }
            _ => true,
        }
    }
}

/// `None` where the output has no such tensor, or one of another shape.
fn distance(reference: &FloatTensor, output: &ForwardOutput, held: &Held<'_>) -> Option<Distance> {
    let found = output.tensor(&reference.name)?;
    let scalar = |shape: &[usize]| shape.iter().product::<usize>() == 1;
    let same = found.shape == reference.shape || scalar(&found.shape) && scalar(&reference.shape);
    if !same || found.values.len() != reference.values.len() {
        return None;
    }
    let (mut squares, mut size, mut largest, mut top, mut worst) = (0.0, 0.0, 0.0, 0.0f64, 0);
    let mut broken = false;
    for (index, (got, want)) in found.values.iter().zip(&reference.values).enumerate() {
        if !held.counts(reference, index) {
            continue;
        }
        let (want, difference) = (f64::from(*want), (f64::from(*got) - f64::from(*want)).abs());
        squares += difference * difference;
        size += want * want;
        top = top.max(want.abs());
        // Neither NaN nor infinity is within any tolerance.
        if !broken && (difference > largest || !difference.is_finite()) {
            (largest, worst, broken) = (difference, index, !difference.is_finite());
        }
    }
    let (rms, max) = ((squares / f64::max(size, 1e-24)).sqrt(), largest / top.max(1e-12));
    let finite = |value: f64| if value.is_finite() { value } else { f64::INFINITY };
    let value = |tensor: &FloatTensor| tensor.values.get(worst).copied().map_or(0.0, f64::from);
    let (got, want) = (value(found), value(reference));
    Some(Distance { rms: finite(rms), max: finite(max), worst, got, want })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_stand_in_the_order_of_a_pass() {
        let mut names = [
            "logits",
            "hidden_states/10",
            "attentions/2",
            "hidden_states/2",
            "past/2/values",
            "past/2/keys",
            "loss",
            "vision/video/patch_embed",
            "vision/image/merger",
            "vision/image/block_10",
            "vision/image/block_9",
            "image_features/0",
        ];
        names.sort_by_key(|name| order(name));
        assert_eq!(
            names,
            [
                "vision/image/block_9",
                "vision/image/block_10",
                "vision/image/merger",
                "vision/video/patch_embed",
                "image_features/0",
                "hidden_states/2",
                "past/2/keys",
                "past/2/values",
                "attentions/2",
                "hidden_states/10",
                "logits",
                "loss",
            ]
        );
    }

    #[test]
    fn padding_does_not_count_and_nan_does() {
        let tensor = |values: Vec<f32>| FloatTensor {
            name: "hidden_states/0".to_owned(),
            shape: vec![1, 2, 2],
            values,
        };
        let input = ForwardInput { batch: 1, length: 2, ..Default::default() };
        let dump = ReferenceDump { input, ..Default::default() };
        let measure = |got: Vec<f32>, held: Vec<bool>| {
            let whole = ForwardOutput { tensors: vec![tensor(got)], held, ..Default::default() };
            let reference = tensor(vec![3.0, 4.0, 0.0, 0.0]);
            distance(&reference, &whole, &Held { dump: &dump, whole: &whole }).unwrap()
        };
        let padded = measure(vec![3.0, 4.5, 9.0, f32::NAN], vec![true, false]);
        assert_eq!((padded.rms, padded.max, padded.worst), (0.1, 0.125, 1));
        let broken = measure(vec![3.0, 9.0, f32::NAN, 0.0], vec![true, true]);
        assert_eq!((broken.max, broken.worst), (f64::INFINITY, 2));
    }
}
