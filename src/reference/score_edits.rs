//! Scalar oracle of `kernels/score_edits.cu`.

use super::sample;

/// One edit of a row of scores; see `ops::score_edits::Edit`.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Adds to each listed id.
    Add(Vec<(usize, f32)>),
    /// s < 0 ? s * v : s / v of each listed id.
    Penalty(Vec<usize>, f32),
    /// Sets each listed id.
    Set(Vec<usize>, f32),
    /// s + |s| * v of each listed id.
    Decay(Vec<usize>, f32),
    /// Sets every id.
    Fill(f32),
    /// The penalties of the sampler over the history.
    History,
    /// No NaN, no infinities.
    Clean,
    /// Less the log-sum-exp.
    LogSoftmax,
}

/// The scores of one sequence after its edits. Ids outside of the row are passed over.
pub fn score_edits(
    logits: &[f32],
    edits: &[Edit],
    seen: &[bool],
    counts: &[u16],
    settings: &sample::Settings,
) -> Vec<f32> {
    let mut s = logits.to_vec();
    for edit in edits {
        match edit {
            Edit::Add(entries) => {
                for (id, value) in entries.iter().filter(|(id, _)| *id < logits.len()) {
                    s[*id] += value;
                }
            }
            Edit::Penalty(ids, v) => {
                listed(&mut s, ids, |s| if s < 0.0 { s * v } else { s / v });
            }
            Edit::Set(ids, v) => listed(&mut s, ids, |_| *v),
            Edit::Decay(ids, v) => listed(&mut s, ids, |s| s + s.abs() * v),
            Edit::Fill(v) => s.fill(*v),
            Edit::History => s = sample::edited(&s, seen, counts, settings),
            Edit::Clean => s.iter_mut().for_each(|s| {
                *s = if s.is_nan() { 0.0 } else { s.clamp(f32::MIN, f32::MAX) };
            }),
            Edit::LogSoftmax => {
                let max = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = s.iter().map(|s| f64::from(*s - max).exp()).sum();
                s.iter_mut().for_each(|s| *s = sample::narrow(f64::from(*s - max) - sum.ln()));
            }
        }
    }
    s
}

fn listed(s: &mut [f32], ids: &[usize], f: impl Fn(f32) -> f32) {
    for id in ids {
        if let Some(s) = s.get_mut(*id) {
            *s = f(*s);
        }
    }
}
