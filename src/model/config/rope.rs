//! `rope_scaling`, or the `rope_parameters` of later library versions (docs/spec.md, sections 1.4
//! and 10).

use serde_json::Value;

use super::{
    ConfigError, ConfigWarning, TextConfig,
    fields::{Fields, count_of},
};
use crate::model::rope::Rope;

/// What becomes of the rotary frequencies `1 / theta^(2j / D)`; numbers are those of the file,
/// with the reference's defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They stay.
    Default,
    /// All are divided.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of a pass beyond `max_position_embeddings`.
    Dynamic {
        /// How fast.
        factor: f64,
    },
    /// Low frequencies are divided, high ones stay, those between are mixed.
    Yarn {
        /// The divisor.
        factor: f64,
        /// First and last index of the mixed frequencies.
        ramp: [f64; 2],
        /// Factor of cosines and sines.
        attention: f64,
    },
    /// Each is divided by a factor of its own, one list for short passes and one for long ones.
    Longrope {
        /// Divisors of passes of at most `threshold` positions, `D / 2` of them.
        short: Vec<f32>,
        /// Divisors of longer passes.
        long: Vec<f32>,
        /// Longest short pass.
        threshold: usize,
        /// Factor of cosines and sines.
        attention: f64,
    },
    /// Low frequencies are divided, high ones stay, those between are interpolated by wavelength.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` stay.
        high: f64,
        /// Positions that the model was trained for at first.
        original: f64,
    },
}

impl RopeScaling {
    /// Its `rope_type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Linear { .. } => "linear",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::Longrope { .. } => "longrope",
            Self::Llama3 { .. } => "llama3",
        }
    }
}

/// The types that a file may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Default,
    Linear,
    Dynamic,
    Yarn,
    Longrope,
    Llama3,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "mrope" | "default" => Self::Default,
            "linear" => Self::Linear,
            "dynamic" => Self::Dynamic,
            "yarn" => Self::Yarn,
            "longrope" => Self::Longrope,
            "llama3" => Self::Llama3,
            _ => return None,
        })
    }

    /// (required keys, other keys that the reference reads)
    fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Default => (&[], &[]),
            Self::Linear => (&["factor"], &[]),
            Self::Dynamic => (&["factor"], &["original_max_position_embeddings"]),
            Self::Yarn => (
                &["factor"],
                &[
                    "attention_factor",
                    "beta_fast",
                    "beta_slow",
                    "original_max_position_embeddings",
                    "mscale",
                    "mscale_all_dim",
                    "truncate",
                ],
            ),
            Self::Longrope => (
                &["short_factor", "long_factor"],
                &["factor", "attention_factor", "original_max_position_embeddings"],
            ),
            Self::Llama3 => (
                &[
                    "factor",
                    "original_max_position_embeddings",
                    "low_freq_factor",
                    "high_freq_factor",
                ],
                &[],
            ),
        }
    }
}

/// The object, wherever the file has it.
pub(super) struct RopeFields<'a> {
    fields: Fields<'a>,
    later_layout: bool,
}

impl<'a> RopeFields<'a> {
    pub(super) fn read(text: &Fields<'a>) -> Result<Self, ConfigError> {
        if let Some(object) = text.object("rope_scaling")? {
            let fields = text.inner("rope_scaling.", object);
            return Ok(Self { fields, later_layout: false });
        }
        match text.object("rope_parameters")? {
            Some(object) => {
                let fields = text.inner("rope_parameters.", object);
                Ok(Self { fields, later_layout: true })
            }
            None => Err(text.missing("rope_scaling")),
        }
    }

    pub(super) fn theta(&self, text: &Fields<'_>) -> Result<f64, ConfigError> {
        let inner = self.later_layout && self.fields.set("rope_theta").is_some();
        let fields = if inner { &self.fields } else { text };
        match fields.number("rope_theta")? {
            None => Ok(1e6),
            // f32 is what the reference raises to a power.
            Some(theta) if theta > 0.0 && theta <= f64::from(f32::MAX) => Ok(theta),
            Some(_) => Err(fields.invalid("rope_theta", "it must be a positive number")),
        }
    }

    /// The type, checked with its required keys, and the sections.
    pub(super) fn check(
        &self,
        text: &Fields<'_>,
        head_dim: usize,
        warnings: &mut Vec<ConfigWarning>,
    ) -> Result<(Kind, [usize; 3]), ConfigError> {
        let fields = &self.fields;
        let key = if fields.raw("type").is_some() { "type" } else { "rope_type" };
        let given = match fields.raw(key) {
            Some(_) => fields.text(key)?.ok_or_else(|| fields.wrong_type(key, "a text"))?,
            None => return Err(fields.missing("rope_type")),
        };
        let kind =
            Kind::of(given).ok_or_else(|| fields.invalid(key, "it is an unsupported rope_type"))?;
        let (required, optional) = kind.keys();
        let absent = required.iter().copied().find(|key| fields.set(key).is_none());
        if let Some(absent) = absent {
            return Err(fields.missing(absent));
        }
        for unknown in fields.keys() {
            let common = matches!(unknown, "type" | "rope_type" | "mrope_section");
            let theta = self.later_layout && unknown == "rope_theta";
            if !common && !theta && !required.contains(&unknown) && !optional.contains(&unknown) {
                let (file, key) = (text.file().to_owned(), fields.path(unknown));
                warnings.push(ConfigWarning::UnknownKey { file, key });
            }
        }
        Ok((kind, self.sections(head_dim)?))
    }

    fn sections(&self, head_dim: usize) -> Result<[usize; 3], ConfigError> {
        let fields = &self.fields;
        let entries = match fields.set("mrope_section") {
            None => return Err(fields.missing("mrope_section")),
            Some(Value::Array(entries)) => entries.iter().map(count_of).collect(),
            Some(_) => None,
        };
        let Some(sections) = entries.and_then(|list: Vec<_>| <[usize; 3]>::try_from(list).ok())
        else {
            return Err(fields.wrong_type("mrope_section", "a list of three counts"));
        };
        // Three counts below 2^31 cannot overflow.
        if sections.iter().sum::<usize>() != head_dim / 2 {
            let rule = "mrope_section must sum to head_dim/2";
            return Err(fields.conflict("mrope_section", ("head_dim", head_dim), rule));
        }
        Ok(sections)
    }

    /// The numbers of a type, with the reference's defaults.
    pub(super) fn scaling(
        &self,
        text: &Fields<'_>,
        kind: Kind,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<RopeScaling, ConfigError> {
        Ok(match kind {
            Kind::Default => RopeScaling::Default,
            Kind::Linear => RopeScaling::Linear { factor: self.positive("factor")? },
            Kind::Dynamic => RopeScaling::Dynamic { factor: self.positive("factor")? },
            Kind::Yarn => self.yarn(text, head_dim, max_positions)?,
            Kind::Longrope => self.longrope(text, head_dim, max_positions)?,
            Kind::Llama3 => RopeScaling::Llama3 {
                factor: self.positive("factor")?,
                low: self.positive("low_freq_factor")?,
                high: self.positive("high_freq_factor")?,
                original: float(self.positive_count("original_max_position_embeddings")?),
            },
        })
    }

    fn yarn(
        &self,
        text: &Fields<'_>,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let fields = &self.fields;
        let factor = self.positive("factor")?;
        // Zero means "not given" in the reference.
        let number = |key: &str| Ok(fields.number(key)?.filter(|number| *number != 0.0));
        let original = fields.count("original_max_position_embeddings")?.filter(|n| *n > 0);
        let original = float(original.unwrap_or(max_positions));
        let of_factor =
            |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention = match fields.number("attention_factor")? {
            Some(given) => given,
            None => match (number("mscale")?, number("mscale_all_dim")?) {
                (Some(scale), Some(all)) => of_factor(scale) / of_factor(all),
                _ => of_factor(1.0),
            },
        };
        let theta = self.theta(text)?;
        let width = float(head_dim);
        // Index of the frequency that turns so often over the original positions.
        let index = |turns: f64| {
            width * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
        };
        let mut low = index(number("beta_fast")?.unwrap_or(32.0));
        let mut high = index(number("beta_slow")?.unwrap_or(1.0));
        if fields.flag("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        if !(low.is_finite() && high.is_finite() && attention.is_finite()) {
            return Err(fields.invalid("factor", "these numbers give no finite frequencies"));
        }
        let ramp = [low.max(0.0), high.min(width - 1.0)];
        Ok(RopeScaling::Yarn { factor, ramp, attention })
    }

    fn longrope(
        &self,
        text: &Fields<'_>,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let fields = &self.fields;
        let (short, long) =
            (self.divisors("short_factor", head_dim)?, self.divisors("long_factor", head_dim)?);
        // Only the key outside of the object counts in the reference.
        let original = text.count("original_max_position_embeddings")?;
        let (threshold, factor) = match original {
            Some(0) => {
                let rule = "original_max_position_embeddings must be positive";
                return Err(text.invalid("original_max_position_embeddings", rule));
            }
            Some(original) => (original, Some(float(max_positions) / float(original))),
            None if fields.set("factor").is_some() => {
                (max_positions, Some(self.positive("factor")?))
            }
            None => (max_positions, None),
        };
        let attention = match (fields.number("attention_factor")?, factor) {
            (Some(given), _) => given,
            (None, Some(factor)) if factor <= 1.0 => 1.0,
            (None, Some(factor)) => (1.0 + factor.ln() / float(threshold).ln()).sqrt(),
            (None, None) => return Err(fields.missing("factor")),
        };
        if !attention.is_finite() {
            return Err(fields.invalid("factor", "these numbers give no finite attention factor"));
        }
        Ok(RopeScaling::Longrope { short, long, threshold, attention })
    }

    /// Refuses numbers that give a frequency which is not finite.
    pub(super) fn check_frequencies(&self, config: &TextConfig) -> Result<(), ConfigError> {
        let rope = Rope::new(config);
        let lengths = [1, config.max_position_embeddings.saturating_add(1)];
        let mut frequencies =
            lengths.iter().flat_map(|length| rope.frequencies(rope.state(*length)));
        if frequencies.all(f32::is_finite) && rope.attention_scaling().is_finite() {
            return Ok(());
        }
        let key = if self.fields.raw("type").is_some() { "type" } else { "rope_type" };
        Err(self.fields.invalid(key, "its numbers give frequencies that are not finite"))
    }

    fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        match self.fields.number(key)? {
            Some(number) if number > 0.0 => Ok(number),
            Some(_) => Err(self.fields.invalid(key, "it must be positive")),
            None => Err(self.fields.missing(key)),
        }
    }

    fn positive_count(&self, key: &str) -> Result<usize, ConfigError> {
        match self.fields.count(key)? {
            Some(count) if count > 0 => Ok(count),
            Some(_) => Err(self.fields.invalid(key, "it must be positive")),
            None => Err(self.fields.missing(key)),
        }
    }

    /// A list of `D / 2` positive numbers.
    fn divisors(&self, key: &str, head_dim: usize) -> Result<Vec<f32>, ConfigError> {
        let Some(Value::Array(entries)) = self.fields.set(key) else {
            return Err(self.fields.wrong_type(key, "a list of positive numbers"));
        };
        if entries.len() != head_dim / 2 {
            let rule = "it must have head_dim/2 entries";
            return Err(self.fields.conflict(key, ("head_dim", head_dim), rule));
        }
        let number = |entry: &Value| {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to the reference's type")]
            let number = entry.as_f64()? as f32;
            (number > 0.0 && number.is_finite()).then_some(number)
        };
        let numbers: Option<Vec<f32>> = entries.iter().map(number).collect();
        numbers.ok_or_else(|| self.fields.wrong_type(key, "a list of positive numbers"))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^31")]
fn float(count: usize) -> f64 {
    count as f64
}
