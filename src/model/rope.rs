//! Rotary tables, computed on the host: frequencies, cosines and sines (docs/spec.md, sections
//! 7.3, 8.2 and 10).
//!
//! Two types are stateful: what a token is turned by depends on the length of the pass that
//! computes it. The length of a sequence's own pass counts here, never its neighbours' (the
//! reference takes the longest of the batch). A device's table therefore has several blocks,
//! [`RopeBlocks`]: one whose row p is for a pass that ends at position p, which decoding uses, and
//! one for each other state that the prompts of a step are in.
//!
//! Angles are f32 products, as in the reference. Their cosine and sine are taken in f64 and rounded,
//! since arguments reach 1.3e5 rad, where a reduction in f32 is wrong.

use super::config::{RopeScaling, TextConfig, VisionConfig};

/// Base of the vision tower's frequencies.
const VISION_THETA: f64 = 10_000.0;

/// Bits of the frequencies for base 1e6 and head width 128, which all published models have. The
/// reference's power function differs from a correctly rounded one in index 37 by one step.
const PUBLISHED_FREQUENCIES: [u32; 64] = [
    0x3f80_0000,
    0x3f4e_4bad,
    0x3f26_3de0,
    0x3f05_f6ef,
    0x3ed7_e89b,
    0x3ead_fcff,
    0x3e8c_3504,
    0x3e61_f835,
    0x3e36_1887,
    0x3e12_bd91,
    0x3dec_7fd6,
    0x3dbe_94c6,
    0x3d99_940d,
    0x3d77_8513,
    0x3d47_763f,
    0x3d20_bc1d,
    0x3d01_86e3,
    0x3cd0_c1a8,
    0x3ca8_398b,
    0x3c87_9008,
    0x3c5a_7bf2,
    0x3c30_1052,
    0x3c0d_e12d,
    0x3be4_aa46,
    0x3bb8_449c,
    0x3b94_7dae,
    0x3b6f_520e,
    0x3b40_dac5,
    0x3b1b_690d,
    0x3afa_78f0,
    0x3ac9_d75c,
    0x3aa2_a6f7,
    0x3a83_126f,
    0x3a53_3f28,
    0x3a2a_3b44,
    0x3a09_2e02,
    0x39dd_1725,
    0x39b2_29fb,
    0x398f_9272,
    0x3967_6492,
    0x393a_7753,
    0x3916_4324,
    0x38f2_2ce2,
    0x38c3_27b5,
    0x389d_43a4,
    0x387d_75d4,
    0x384c_3fbe,
    0x3824_97ab,
    0x3804_a2b2,
    0x37d5_c441,
    0x37ac_431d,
    0x378a_d0ed,
    0x375f_ba4f,
    0x3734_4a0e,
    0x3711_48e3,
    0x36ea_2732,
    0x36bc_b0c1,
    0x3698_0e02,
    0x3675_1070,
    0x3645_7bab,
    0x361f_23e4,
    0x3600_3dec,
    0x35ce_af79,
    0x35a6_8e4c,
];

/// The rotation of the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    theta: f64,
    /// D.
    width: usize,
    max_positions: usize,
    scaling: RopeScaling,
}

/// What the frequencies of a pass depend on beside the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RopeState {
    /// Passes within the length that the model was trained for, and all of the stateless types.
    Base,
    /// Type longrope: passes above its threshold.
    Long,
    /// Type dynamic: passes of so many positions, above `max_position_embeddings`.
    Length(usize),
}

impl Rope {
    /// The rotation of a configuration.
    pub fn new(config: &TextConfig) -> Self {
        Self {
            theta: config.rope_theta,
            width: config.head_dim,
            max_positions: config.max_position_embeddings,
            scaling: config.rope_scaling.clone(),
        }
    }

    /// The state of a pass whose largest position is `length - 1`.
    pub fn state(&self, length: usize) -> RopeState {
        match &self.scaling {
            RopeScaling::Dynamic { .. } if length > self.max_positions => RopeState::Length(length),
            RopeScaling::Longrope { threshold, .. } if length > *threshold => RopeState::Long,
            _ => RopeState::Base,
        }
    }

    /// Factor of all cosines and sines.
    pub fn attention_scaling(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention, .. } | RopeScaling::Longrope { attention, .. } => {
                round(attention)
            }
            _ => 1.0,
        }
    }

    /// How far each frequency index turns for one step of position, `D / 2` values. Each step is
    /// rounded to f32 where the reference rounds.
    pub fn frequencies(&self, state: RopeState) -> Vec<f32> {
        match &self.scaling {
            RopeScaling::Default => self.unscaled(),
            RopeScaling::Linear { factor } => {
                self.unscaled().into_iter().map(|inv| inv / round(*factor)).collect()
            }
            RopeScaling::Dynamic { factor } => frequencies(self.grown(*factor, state), self.width),
            RopeScaling::Yarn { factor, ramp, .. } => self.yarn(*factor, *ramp),
            RopeScaling::Longrope { short, long, .. } => {
                let divisors = if state == RopeState::Long { long } else { short };
                let powers = powers(self.theta, self.width);
                divisors
                    .iter()
                    .zip(powers)
                    .map(|(divisor, power)| 1.0 / (divisor * power))
                    .collect()
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                self.llama3(*factor, *low, *high, *original)
            }
        }
    }

    /// (cos, sin) of each position below `positions`, all in one state: `[positions, D / 2, 2]`.
    pub fn table(&self, state: RopeState, positions: usize) -> Vec<f32> {
        let scale = self.attention_scaling();
        table(&self.frequencies(state), positions).map(|value| value * scale).collect()
    }

    /// The same with row p in the state of a pass that ends at position p.
    pub fn steps(&self, positions: usize) -> Vec<f32> {
        let scale = self.attention_scaling();
        let mut rows = Vec::with_capacity(positions.saturating_mul(self.width));
        let (mut state, mut turns) = (RopeState::Base, self.frequencies(RopeState::Base));
        for position in 0..positions {
            let next = self.state(position + 1);
            if next != state {
                (state, turns) = (next, self.frequencies(next));
            }
            rows.extend(row(&turns, position).map(|value| value * scale));
        }
        rows
    }

    /// (cos, sin) of single positions, each in a state of its own: `[places, D / 2, 2]`.
    pub fn rows(&self, places: impl IntoIterator<Item = (RopeState, i32)>) -> Vec<f32> {
        let scale = self.attention_scaling();
        let mut rows = Vec::new();
        let (mut state, mut turns) = (RopeState::Base, self.frequencies(RopeState::Base));
        for (next, position) in places {
            if next != state {
                (state, turns) = (next, self.frequencies(next));
            }
            let position = usize::try_from(position).unwrap_or(0);
            rows.extend(row(&turns, position).map(|value| value * scale));
        }
        rows
    }

    fn unscaled(&self) -> Vec<f32> {
        if self.theta == 1e6 && self.width == 128 {
            return PUBLISHED_FREQUENCIES.iter().map(|bits| f32::from_bits(*bits)).collect();
        }
        frequencies(self.theta, self.width)
    }

    /// The base of type dynamic: the reference computes it in f64 when it is built, and in f32
    /// from a length.
    fn grown(&self, factor: f64, state: RopeState) -> f64 {
        let width = f64::from(to_f32(self.width));
        let exponent = width / (width - 2.0);
        let RopeState::Length(length) = state else {
            let max = f64::from(to_f32(self.max_positions));
            return self.theta * (factor * max / max - (factor - 1.0)).powf(exponent);
        };
        let max = to_f32(self.max_positions);
        let stretch = round(factor) * to_f32(length) / max - round(factor - 1.0);
        f64::from(round(self.theta) * round(f64::from(stretch).powf(exponent)))
    }

    fn yarn(&self, factor: f64, [low, high]: [f64; 2]) -> Vec<f32> {
        let span = if low == high { high + 0.001 - low } else { high - low };
        let powers = powers(self.theta, self.width).enumerate();
        let mixed = powers.map(|(j, power)| {
            let ramp = ((to_f32(j) - round(low)) / round(span)).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            (1.0 / (round(factor) * power)) * (1.0 - kept) + (1.0 / power) * kept
        });
        mixed.collect()
    }

    fn llama3(&self, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
        let (longest, shortest) = (round(original / low), round(original / high));
        let turn = |inv: f32| {
            let wavelength = round(2.0 * std::f64::consts::PI) / inv;
            if wavelength < shortest {
                inv
            } else if wavelength > longest {
                inv / round(factor)
            } else {
                let smooth = (round(original) / wavelength - round(low)) / round(high - low);
                (1.0 - smooth) * inv / round(factor) + smooth * inv
            }
        };
        self.unscaled().into_iter().map(turn).collect()
    }
}

/// The blocks of an engine's rotary table, `rows` rows each: the first for passes that end at the
/// row's own position, the others each in one state.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeBlocks {
    rope: Rope,
    rows: usize,
    /// States of the blocks behind the first; none where nothing has been written.
    states: Vec<Option<RopeState>>,
}

/// Where a pass finds its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RopePlace {
    /// Row of position 0.
    pub first_row: usize,
    /// What must be written from there on before the pass, `[rows, D / 2, 2]`.
    pub missing: Option<Vec<f32>>,
}

impl RopeBlocks {
    /// Blocks for positions below `rows`. Type longrope has one block more for long passes; type
    /// dynamic one for each of `sequences` at once, since each length is a state of its own.
    pub fn new(rope: Rope, rows: usize, sequences: usize) -> Self {
        let states = match rope.state(rows) {
            RopeState::Base => Vec::new(),
            RopeState::Long => vec![Some(RopeState::Long)],
            RopeState::Length(_) => vec![None; sequences],
        };
        Self { rope, rows, states }
    }

    /// Rows of all blocks.
    pub fn total_rows(&self) -> usize {
        self.rows.saturating_mul(self.states.len() + 1)
    }

    /// All blocks as they are before any pass, `[total_rows, D / 2, 2]`.
    pub fn values(&self) -> Vec<f32> {
        let mut values = self.rope.steps(self.rows);
        for state in &self.states {
            match state {
                Some(state) => values.extend(self.rope.table(*state, self.rows)),
                None => values.resize(values.len() + self.rows * self.rope.width, 0.0),
            }
        }
        values
    }

    /// The place of a pass of `span` positions by sequence `sequence` of those at once; `None` if
    /// the table has not so many rows.
    pub fn place(&mut self, sequence: usize, span: usize) -> Option<RopePlace> {
        if span > self.rows {
            return None;
        }
        let state = self.rope.state(span);
        let block = match state {
            RopeState::Base => return Some(RopePlace { first_row: 0, missing: None }),
            RopeState::Long => 0,
            RopeState::Length(_) => sequence,
        };
        let held = self.states.get_mut(block)?;
        let missing = (*held != Some(state)).then(|| self.rope.table(state, span));
        *held = Some(state);
        Some(RopePlace { first_row: (block + 1) * self.rows, missing })
    }
}

/// Frequencies of the vision tower, `head_dim / 4` values, the same for rows and columns.
pub fn vision_frequencies(config: &VisionConfig) -> Vec<f32> {
    frequencies(VISION_THETA, config.head_dim / 2)
}

/// Table of the vision tower for rows or columns below `sides`: `[sides, head_dim / 4, 2]`, each
/// (cos, sin) in f32.
pub fn vision_table(config: &VisionConfig, sides: usize) -> Vec<f32> {
    table(&vision_frequencies(config), sides).collect()
}

/// `1 / theta^(2j / width)` for j below `width / 2`, each step rounded to f32.
fn frequencies(theta: f64, width: usize) -> Vec<f32> {
    powers(theta, width).map(|power| 1.0 / power).collect()
}

/// `theta^(2j / width)` for j below `width / 2`.
fn powers(theta: f64, width: usize) -> impl Iterator<Item = f32> {
    let exponent = move |j: usize| f64::from(to_f32(2 * j) / to_f32(width));
    (0..width / 2).map(move |j| round(f64::from(round(theta)).powf(exponent(j))))
}

/// (cos, sin) of each position and frequency, the frequency running fastest.
fn table(frequencies: &[f32], positions: usize) -> impl Iterator<Item = f32> {
    (0..positions).flat_map(move |position| row(frequencies, position))
}

/// (cos, sin) of one position and each frequency.
fn row(frequencies: &[f32], position: usize) -> impl Iterator<Item = f32> {
    frequencies.iter().flat_map(move |frequency| {
        let angle = f64::from(to_f32(position) * frequency);
        [round(angle.cos()), round(angle.sin())]
    })
}

#[expect(clippy::cast_precision_loss, reason = "positions and widths are far below 2^24")]
fn to_f32(count: usize) -> f32 {
    count as f32
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest even, which is meant")]
fn round(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/spec.md, section 8.2.
    const VISION_WORDS: &str = "3f800000 3f21866b 3ecbd4b4 3e809bcc 3e224b06 3dcccccd 3d813855 \
        3d231091 3ccdc613 3c81d5a0 3c23d70a 3bcec089 3b8273a4 3b249e78 3acfbc32 3a83126f 3a2566d4 \
        39d0b907 3983b1fa 39263028";

    #[test]
    fn vision_frequencies_are_the_references() {
        let words = VISION_WORDS.split(' ').map(|word| u32::from_str_radix(word, 16).unwrap());
        let found = frequencies(VISION_THETA, 40).into_iter().map(f32::to_bits);
        assert_eq!(found.collect::<Vec<_>>(), words.collect::<Vec<_>>());
    }

    #[test]
    fn the_general_formula_gives_the_published_frequencies_but_one() {
        let general = frequencies(1e6, 128);
        let differing: Vec<_> = general
            .iter()
            .zip(PUBLISHED_FREQUENCIES)
            .map(|(general, published)| general.to_bits().cast_signed() - published.cast_signed())
            .enumerate()
            .filter(|(_, steps)| *steps != 0)
            .collect();
        assert!(matches!(differing[..], [(37, -1 | 1)]), "{differing:?}");
    }

    #[test]
    fn a_table_holds_cosine_and_sine_of_each_angle() {
        let table: Vec<f32> = table(&[1.0, 0.5], 3).collect();
        let angles = [0.0, 0.0, 1.0, 0.5, 2.0, 1.0f64];
        let expected: Vec<f32> =
            angles.iter().flat_map(|a| [round(a.cos()), round(a.sin())]).collect();
        assert_eq!(table, expected);
    }
}
