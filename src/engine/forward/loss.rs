//! The loss of labels: cross entropy of each slot's logits against the next slot's label
//! (docs/spec.md, section 12).

use super::{input::ForwardInput, invalid, layout::Layout};
use crate::engine::EngineError;

/// The label that does not count.
const IGNORED: i64 = -100;

/// Refuses labels that are no token, and those that no slot of the batch predicts.
pub(super) fn check(
    input: &ForwardInput,
    layout: &Layout,
    vocabulary: usize,
) -> Result<(), EngineError> {
    let Some(labels) = &input.labels else { return Ok(()) };
    let (batch, length) = (layout.batch, layout.length);
    if labels.len() != batch * length {
        let got = format!("{} values", labels.len());
        return Err(invalid("labels", &got, "one label for each slot"));
    }
    let is_token = |label: &i64| usize::try_from(*label).is_ok_and(|label| label < vocabulary);
    if let Some(label) = labels.iter().find(|label| **label != IGNORED && !is_token(label)) {
        return Err(invalid("labels", &label.to_string(), "-100 or an id of the vocabulary"));
    }
    for row in 0..batch {
        for slot in 1..length {
            let held = layout.held[row * (layout.past + length) + layout.past + slot - 1];
            if !held && labels[row * length + slot] != IGNORED {
                let got = format!("a label behind padding (row {row}, slot {slot})");
                return Err(invalid("labels", &got, "-100 where no token stands before"));
            }
        }
    }
    Ok(())
}

/// The mean over the labels that count, or their sum over `num_items_in_batch`; NaN without any.
/// `logits` has a row for each packed token.
#[expect(clippy::cast_precision_loss, reason = "counts of labels are far below 2^53")]
pub(super) fn loss(input: &ForwardInput, layout: &Layout, logits: &[f32], columns: usize) -> f32 {
    let labels = input.labels.as_deref().unwrap_or_default();
    let (mut sum, mut counted) = (0.0, 0u64);
    for (slot, row) in layout.packed_slots().zip(logits.chunks_exact(columns)) {
        if (slot + 1).is_multiple_of(layout.length) {
            continue;
        }
        let label = labels.get(slot + 1).copied().unwrap_or(IGNORED);
        let Some(score) = usize::try_from(label).ok().and_then(|label| row.get(label)) else {
            continue;
        };
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|value| f64::from(value - top).exp()).sum();
        sum += total.ln() - f64::from(score - top);
        counted += 1;
    }
    let divisor = input.num_items_in_batch.unwrap_or(counted);
    #[expect(clippy::cast_possible_truncation, reason = "the reference's loss is f32")]
    let loss = (sum / divisor as f64) as f32;
    loss
}
