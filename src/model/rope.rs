//! Rotary tables, computed on the host: frequencies, cosines and sines (docs/spec.md, sections
//! 7.3 and 8.2).
//!
//! Angles are f32 products, as in the reference. Their cosine and sine are taken in f64 and rounded,
//! since arguments reach 1.3e5 rad, where a reduction in f32 is wrong.

use super::config::{TextConfig, VisionConfig};

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

/// How far each frequency index turns for one step of position, `head_dim / 2` values.
pub fn text_frequencies(config: &TextConfig) -> Vec<f32> {
    if config.rope_theta == 1e6 && config.head_dim == 128 {
        return PUBLISHED_FREQUENCIES.iter().map(|bits| f32::from_bits(*bits)).collect();
    }
    frequencies(config.rope_theta, config.head_dim)
}

/// Frequencies of the vision tower, `head_dim / 4` values, the same for rows and columns.
pub fn vision_frequencies(config: &VisionConfig) -> Vec<f32> {
    frequencies(VISION_THETA, config.head_dim / 2)
}

/// Table of the language model for positions below `positions`: `[positions, head_dim / 2, 2]`,
/// each (cos, sin) rounded to f32; the device holds them rounded once more, to the compute type.
pub fn text_table(config: &TextConfig, positions: usize) -> Vec<f32> {
    table(&text_frequencies(config), positions).collect()
}

/// Table of the vision tower for rows or columns below `sides`: `[sides, head_dim / 4, 2]`, each
/// (cos, sin) in f32.
pub fn vision_table(config: &VisionConfig, sides: usize) -> Vec<f32> {
    table(&vision_frequencies(config), sides).collect()
}

/// `1 / theta^(2j / width)` for j below `width / 2`, each step rounded to f32.
fn frequencies(theta: f64, width: usize) -> Vec<f32> {
    let power = |j: usize| f64::from(to_f32(2 * j) / to_f32(width));
    (0..width / 2).map(|j| 1.0 / round(f64::from(round(theta)).powf(power(j)))).collect()
}

/// (cos, sin) of each position and frequency, the frequency running fastest.
fn table(frequencies: &[f32], positions: usize) -> impl Iterator<Item = f32> {
    (0..positions).flat_map(move |position| {
        frequencies.iter().flat_map(move |frequency| {
            let angle = f64::from(to_f32(position) * frequency);
            [round(angle.cos()), round(angle.sin())]
        })
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
