//! How tokens are chosen: settings of a request, over those of the checkpoint.

use super::EngineError;
use crate::model::generation_config::GenerationConfig;

/// Settings for choosing tokens; what is `None` comes from `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Draw at random, or take the best token.
    pub do_sample: Option<bool>,
    /// Divides the scores before drawing; above 0.
    pub temperature: Option<f32>,
    /// Draws from so many best tokens; 0 is off.
    pub top_k: Option<usize>,
    /// Draws from the smallest set of best tokens with this probability; 0 to 1.
    pub top_p: Option<f32>,
    /// Divides positive and multiplies negative scores of tokens that occurred; above 0.
    pub repetition_penalty: Option<f32>,
    /// Key of the random numbers; without one, 0.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The best token at each step; penalties of the checkpoint stay active, as in the reference.
    pub fn greedy() -> Self {
        Self { do_sample: Some(false), ..Self::default() }
    }

    /// The settings in force over a checkpoint's defaults.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for a value out of its range.
    pub(crate) fn over(&self, defaults: &GenerationConfig) -> Result<Chosen, EngineError> {
        check_built(defaults)?;
        let temperature = self.temperature.unwrap_or(defaults.temperature);
        let top_p = self.top_p.unwrap_or(defaults.top_p);
        let repetition_penalty = self.repetition_penalty.unwrap_or(defaults.repetition_penalty);
        check("temperature", temperature, temperature > 0.0, "a finite number above 0")?;
        check("top_p", top_p, (0.0..=1.0).contains(&top_p), "0 to 1")?;
        check(
            "repetition_penalty",
            repetition_penalty,
            repetition_penalty > 0.0,
            "a finite number above 0",
        )?;
        Ok(Chosen {
            do_sample: self.do_sample.unwrap_or(defaults.do_sample),
            temperature,
            top_k: self.top_k.or(defaults.top_k).unwrap_or(0),
            top_p,
            repetition_penalty,
            seed: self.seed.unwrap_or(0),
        })
    }
}

/// Settings that `process-logits` knows and answers do not yet.
fn check_built(config: &GenerationConfig) -> Result<(), EngineError> {
    let off = GenerationConfig::default();
    let built = GenerationConfig {
        do_sample: config.do_sample,
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        repetition_penalty: config.repetition_penalty,
        max_new_tokens: config.max_new_tokens,
        eos: config.eos.clone(),
        bos: config.bos,
        pad: config.pad,
        ..off
    };
    if built == *config {
        return Ok(());
    }
    let allowed = "settings that answers are built for";
    Err(EngineError::InvalidRequest { field: "generation_config", got: "others".into(), allowed })
}

fn check(
    field: &'static str,
    got: f32,
    holds: bool,
    allowed: &'static str,
) -> Result<(), EngineError> {
    if holds && got.is_finite() {
        return Ok(());
    }
    Err(EngineError::InvalidRequest { field, got: got.to_string(), allowed })
}

/// Settings in force, every value in its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) do_sample: bool,
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wins_over_the_checkpoint() {
        let defaults = GenerationConfig { temperature: 0.5, do_sample: true, ..Default::default() };
        let chosen = Sampling::greedy().over(&defaults).unwrap();
        assert!(!chosen.do_sample);
        assert_eq!((chosen.temperature, chosen.top_k), (0.5, 50));
        let request = Sampling { top_k: Some(0), ..Sampling::default() };
        assert_eq!(request.over(&defaults).unwrap().top_k, 0);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let defaults = GenerationConfig::default();
        for (sampling, name) in [
            (Sampling { temperature: Some(0.0), ..Sampling::default() }, "temperature"),
            (Sampling { temperature: Some(f32::NAN), ..Sampling::default() }, "temperature"),
            (Sampling { top_p: Some(1.5), ..Sampling::default() }, "top_p"),
            (
                Sampling { repetition_penalty: Some(-1.0), ..Sampling::default() },
                "repetition_penalty",
            ),
            (
                Sampling { repetition_penalty: Some(f32::INFINITY), ..Sampling::default() },
                "repetition_penalty",
            ),
        ] {
            let error = sampling.over(&defaults).unwrap_err();
            assert!(matches!(error, EngineError::InvalidRequest { field, .. } if field == name));
        }
    }
}
