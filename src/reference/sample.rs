//! Scalar oracle of `kernels/sample.cu`: the same definition by sorting, with exact integers.

/// What one sequence asks of the sampler; see `ops::sample::SampleSettings`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Key of the draw.
    pub seed: u64,
    /// Number of the token.
    pub step: u32,
    /// Number of the answer.
    pub choice: u32,
    /// 0 is off.
    pub top_k: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub typical_p: f32,
    /// 0 is off.
    pub epsilon: f32,
    /// 0 is off.
    pub eta: f32,
    /// Tokens that the filters leave at least; above 0.
    pub min_keep: usize,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
}

/// Weight of the best token: 2^40.
const ONE: f32 = 1_099_511_627_776.0;

/// The token, or `None` where a logit is NaN or +inf, or none is above -inf. `seen` and `counts`
/// have an entry for each logit.
pub fn sample(logits: &[f32], seen: &[bool], counts: &[u16], settings: &Settings) -> Option<usize> {
    let scores = edited(logits, seen, counts, settings);
    let bad = |values: &[f32]| values.iter().any(|s| s.is_nan() || *s == f32::INFINITY);
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if bad(logits) || bad(&scores) || max == f32::NEG_INFINITY {
        return None;
    }
    if settings.temperature == 0.0 || settings.top_k == 1 {
        return scores.iter().position(|s| *s == max);
    }
    let Field { mut ranked, weights, .. } = filtered(&scores, settings);
    ranked.sort_unstable();
    let total: u64 = ranked.iter().map(|&id| weights[id]).sum();
    let [random, ..] = philox(settings.seed, [settings.step, settings.choice, 0, 0]);
    let target = high(u128::from(total) * (u128::from(random) << 32), 64);
    let mut mass = 0;
    ranked.into_iter().find(|&id| {
        mass += weights[id];
        mass > target
    })
}

/// The scores that [`sample`] draws from, given edited scores: what the filters remove is -inf, the
/// rest is divided by the temperature, and if `renormalize` less its log-sum-exp. Greedy settings
/// remove nothing.
pub fn warp_scores(scores: &[f32], settings: &Settings, renormalize: bool) -> Vec<f32> {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut out = scores.to_vec();
    if settings.temperature > 0.0 && max > f32::NEG_INFINITY {
        let kept = filtered(scores, settings).ranked;
        for (id, score) in out.iter_mut().enumerate() {
            let stays = kept.contains(&id);
            *score = if stays { *score / settings.temperature } else { f32::NEG_INFINITY };
        }
    }
    if renormalize {
        let top = f64::from(out.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = out.iter().map(|s| (f64::from(*s) - top).exp()).sum();
        let shift = top + sum.ln();
        out.iter_mut().for_each(|s| *s = narrow(f64::from(*s) - shift));
    }
    out
}

/// What is left of a row: ids, best first, equal scores by id.
struct Field {
    ranked: Vec<usize>,
    weights: Vec<u64>,
    /// (s - max) / temperature.
    x: Vec<f32>,
}

/// The filters of docs/spec.md 13.2 in their order, over finite scores and -inf.
fn filtered(scores: &[f32], settings: &Settings) -> Field {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = std::f32::consts::LOG2_E / settings.temperature;
    let weights = scores.iter().map(|&s| weight(s, max, scale)).collect();
    let x = scores.iter().map(|&s| if s == max { 0.0 } else { (s - max) / settings.temperature });
    let mut ranked: Vec<usize> = (0..scores.len()).collect();
    ranked.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).expect("no NaN").then(a.cmp(&b)));
    let mut field = Field { ranked, weights, x: x.collect() };
    let least = settings.min_keep;
    if settings.top_k > 0 && settings.top_k < scores.len() {
        let rank = settings.top_k.max(least).min(scores.len());
        let last = scores[field.ranked[rank - 1]];
        field.ranked.retain(|&id| scores[id] >= last);
    }
    if settings.top_p < 1.0 {
        keep_mass(&mut field.ranked, &field.weights, settings.top_p, least);
    }
    let floor = whole((settings.min_p * ONE).ceil());
    let Field { ranked, weights, .. } = &mut field;
    let mut place = 0;
    ranked.retain(|&id| {
        place += 1;
        place <= least || weights[id] >= floor
    });
    if settings.typical_p < 1.0 {
        field.keep_typical(settings.typical_p, least);
    }
    if settings.epsilon > 0.0 {
        field.keep_part(scores, settings.epsilon, least);
    }
    if settings.eta > 0.0 {
        let entropy = field.entropy();
        let part = f64::from(settings.eta).sqrt() * (-entropy).exp();
        field.keep_part(scores, settings.eta.min(narrow(part)), least);
    }
    field
}

impl Field {
    fn total(&self) -> u128 {
        self.ranked.iter().map(|&id| u128::from(self.weights[id])).sum()
    }

    /// Probability of each id that is left.
    fn probabilities(&self) -> Vec<f64> {
        let powers = self.ranked.iter().map(|&id| f64::from(self.x[id]).exp());
        let sum: f64 = powers.clone().sum();
        powers.map(|power| power / sum).collect()
    }

    fn entropy(&self) -> f64 {
        self.probabilities().iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
    }

    /// Ids by rising distance of -log p from the entropy until they have `part` of the mass.
    fn keep_typical(&mut self, part: f32, least: usize) {
        let entropy = self.entropy();
        let mut distances: Vec<(f64, usize)> = self
            .probabilities()
            .iter()
            .zip(&self.ranked)
            .map(|(p, &id)| ((-p.ln() - entropy).abs(), id))
            .collect();
        distances.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (total, mut mass, mut kept) = (self.total(), 0_u128, 0);
        let share = u128::from(whole((part * 4_294_967_296.0).round_ties_even()));
        while kept < distances.len() && (kept == 0 || mass << 32 < share * total) {
            mass += u128::from(self.weights[distances[kept].1]);
            kept += 1;
        }
        let radius = distances[kept.max(least).min(distances.len()) - 1].0;
        // Equal scores have equal distances but for the last bits of a logarithm.
        let stays: Vec<usize> =
            distances.iter().filter(|d| d.0 <= radius + 1e-9).map(|d| d.1).collect();
        self.ranked.retain(|id| stays.contains(id));
    }

    /// Ids with `part` of the mass or more, the `least` best and their equals always.
    fn keep_part(&mut self, scores: &[f32], part: f32, least: usize) {
        let total = self.total();
        let share = u128::from(whole(part * 4_294_967_296.0)) << 32
            | u128::from(whole((part * 4_294_967_296.0).fract() * 4_294_967_296.0));
        let last = scores[self.ranked[least.min(self.ranked.len()) - 1]];
        let weights = &self.weights;
        // weight * 2^64 >= share * total, in halves that fit.
        let (high, low) = (share >> 32, share & 0xffff_ffff);
        let floor = (high * total + (low * total).div_ceil(1 << 32)).div_ceil(1 << 32);
        self.ranked.retain(|&id| u128::from(weights[id]) >= floor || scores[id] >= last);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to the kernels' type")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// Logits after the penalties of docs/spec.md 13.3.
pub(super) fn edited(
    logits: &[f32],
    seen: &[bool],
    counts: &[u16],
    settings: &Settings,
) -> Vec<f32> {
    let mut scores = logits.to_vec();
    for (id, score) in scores.iter_mut().enumerate() {
        if seen[id] {
            let penalty = settings.repetition_penalty;
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
        if counts[id] > 0 {
            let frequency = settings.frequency_penalty * f32::from(counts[id]);
            *score -= settings.presence_penalty + frequency;
        }
    }
    scores
}

fn weight(score: f32, max: f32, scale: f32) -> u64 {
    let power = if score == max { 1.0 } else { exp2_poly((score - max) * scale) };
    whole(power * ONE)
}

/// Keeps the tokens above which less than `top_p` of the mass is ranked, the `least` best always.
fn keep_mass(ranked: &mut Vec<usize>, weights: &[u64], top_p: f32, least: usize) {
    let total: u128 = ranked.iter().map(|&id| u128::from(weights[id])).sum();
    let share = u128::from(whole((top_p * 4_294_967_296.0).round_ties_even()));
    let mut above = 0_u128;
    let mut kept = 0;
    for &id in ranked.iter() {
        if kept >= least && above << 32 >= share * total {
            break;
        }
        above += u128::from(weights[id]);
        kept += 1;
    }
    ranked.truncate(kept);
}

/// 2^x for x <= 0: the polynomial of `kernels/include/numeric.cuh`, the same operations.
pub fn exp2_poly(x: f32) -> f32 {
    // NaN, too, is 0.
    if x.partial_cmp(&-64.0) != Some(std::cmp::Ordering::Greater) {
        return 0.0;
    }
    const COEFFICIENTS: [u32; 6] =
        [0x3922_09c5, 0x3aaf_8448, 0x3c1d_952a, 0x3d63_57b6, 0x3e75_fdf0, 0x3f31_7218];
    let n = x.round_ties_even();
    let f = x - n;
    let mut y = f32::from_bits(COEFFICIENTS[0]);
    for bits in &COEFFICIENTS[1..] {
        y = y.mul_add(f, f32::from_bits(*bits));
    }
    y = y.mul_add(f, 1.0);
    let mut exponent = n;
    while exponent < 0.0 {
        y *= 0.5; // exact: far above the subnormals
        exponent += 1.0;
    }
    y
}

/// Philox4x32-10 (Salmon et al., SC 2011).
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut key = [key & 0xffff_ffff, key >> 32].map(|half| u32::try_from(half).expect("32 bits"));
    let [mut a, mut b, mut c, mut d] = counter;
    for _round in 0..10 {
        let (high0, low0) = wide(0xd251_1f53, a);
        let (high1, low1) = wide(0xcd9e_8d57, c);
        [a, b, c, d] = [high1 ^ b ^ key[0], low1, high0 ^ d ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    [a, b, c, d]
}

/// Both halves of a 32-bit product.
fn wide(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    let low = u32::try_from(product & 0xffff_ffff).expect("masked to 32 bits");
    (u32::try_from(product >> 32).expect("shifted to 32 bits"), low)
}

fn high(value: u128, shift: u32) -> u64 {
    u64::try_from(value >> shift).expect("a product of 64 and 64 bits")
}

/// A float that is not negative and below 2^63, without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "dropping the fraction is what it does"
)]
fn whole(value: f32) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_has_the_vectors_of_its_authors() {
        // Random123, kat_vectors: philox4x32 10.
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox(u64::MAX, [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(0x299f_31d0_a409_3822, [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn the_power_of_two_is_within_one_step() {
        assert_eq!(exp2_poly(0.0), 1.0);
        assert_eq!(exp2_poly(-3.0), 0.125);
        assert_eq!(exp2_poly(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2_poly(f32::NAN), 0.0);
        for i in 0..40_000_u16 {
            let x = -f32::from(i) / 1000.0;
            let want = f64::from(x).exp2();
            let error = (f64::from(exp2_poly(x)) - want).abs() / want;
            assert!(error <= 2f64.powi(-23), "2^{x}: {error:e}");
        }
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        let plain = Settings {
            seed: 0,
            step: 0,
            choice: 0,
            top_k: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon: 0.0,
            eta: 0.0,
            min_keep: 1,
            repetition_penalty: 2.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        };
        let logits = [1.0, 3.0, -1.0, -2.0];
        let seen = [false, true, false, true];
        assert_eq!(edited(&logits, &seen, &[0; 4], &plain), [1.0, 1.5, -1.0, -4.0]);
        for (top_p, want) in [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3)] {
            let mut ranked = vec![0, 1, 2, 3];
            keep_mass(&mut ranked, &[7; 4], top_p, 1);
            assert_eq!(ranked.len(), want, "top_p {top_p}");
        }
    }
}
