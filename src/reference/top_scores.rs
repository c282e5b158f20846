//! Scalar oracle of `kernels/top_scores.cu`, by sorting.

use super::sample::philox;

/// The perturbation of a query: seed, step, choice.
pub type Noise = (u64, u32, u32);

/// The best `n` ids with score plus offset, best first, equals by rising id. With noise they are
/// drawn without replacement from the softmax, in the order of drawing.
pub fn top_scores(
    scores: &[f32],
    n: usize,
    offset: f32,
    noise: Option<Noise>,
) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(f64, usize)> = scores
        .iter()
        .enumerate()
        .map(|(id, score)| (f64::from(score + offset) + gumbel(id, noise), id))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.iter().take(n).map(|(_, id)| (*id, scores[*id] + offset)).collect()
}

/// -log of an exponential variate; 0 without noise.
fn gumbel(id: usize, noise: Option<Noise>) -> f64 {
    let Some((seed, step, choice)) = noise else { return 0.0 };
    let id = u32::try_from(id).expect("ids are below 2^23");
    let [random, ..] = philox(seed, [step, choice, id, 1]);
    let uniform = (f64::from(random) + 0.5) / 4_294_967_296.0;
    -(-(-uniform).ln_1p()).ln()
}

/// log(sum(exp(s))).
pub fn log_sum(scores: &[f32]) -> f64 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|s| (f64::from(*s) - f64::from(max)).exp()).sum();
    f64::from(max) + sum.ln()
}
