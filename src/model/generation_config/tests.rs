use super::*;

fn parse(json: &str) -> Result<GenerationConfig, ConfigError> {
    GenerationConfig::parse(json.as_bytes(), Path::new("g.json"))
}

#[test]
fn an_empty_file_has_the_class_defaults() {
    assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
}

#[test]
fn the_published_file_is_read() {
    let config = parse(
        r#"{"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true,
            "eos_token_id": [151645, 151643], "repetition_penalty": 1.0, "temperature": 0.01,
            "top_p": 0.001, "top_k": 1, "transformers_version": "4.37.0"}"#,
    )
    .unwrap();
    let expected = GenerationConfig {
        do_sample: true,
        temperature: 0.01,
        top_k: Some(1),
        top_p: 0.001,
        eos: vec![TokenId(151_645), TokenId(151_643)],
        bos: Some(TokenId(151_643)),
        pad: Some(TokenId(151_643)),
        ..GenerationConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn null_switches_a_filter_off() {
    let off = r#"{"top_k": null, "top_p": null, "temperature": null, "stop_strings": null}"#;
    for json in [off, r#"{"top_k": 0, "eos_token_id": null, "num_beams": 1.0}"#] {
        let expected = GenerationConfig { top_k: None, ..GenerationConfig::default() };
        assert_eq!(parse(json).unwrap(), expected, "{json}");
    }
}

#[test]
fn every_key_that_is_not_built_is_refused_by_name() {
    for (key, _) in read::NOT_BUILT {
        let error = parse(&format!(r#"{{"{key}": [7]}}"#)).unwrap_err();
        assert_eq!(error.code(), "unsupported", "{key}");
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let cases = [
        (r#"{"top_p": 1.5}"#, "g.json: top_p = 1.5, but it must lie between 0 and 1"),
        (r#"{"top_k": -1}"#, "g.json: top_k = -1, but must be an integer from 0 to 2147483647"),
        (
            r#"{"temperature": 0, "do_sample": true}"#,
            "g.json: temperature = 0, but it must be a positive number",
        ),
        (
            r#"{"repetition_penalty": 0.0}"#,
            "g.json: repetition_penalty = 0.0, but it must be a positive number",
        ),
        (r#"{"max_new_tokens": 0}"#, "g.json: max_new_tokens = 0, but it must be greater than 0"),
        (
            r#"{"eos_token_id": [1, "a"]}"#,
            "g.json: eos_token_id = [1,\"a\"], but must be a token id or a list of token ids",
        ),
        (r#"{"do_sample": 1}"#, "g.json: do_sample = 1, but must be true or false"),
    ];
    for (json, message) in cases {
        assert_eq!(parse(json).unwrap_err().to_string(), message);
    }
}

#[test]
fn every_option_of_the_reference_is_read() {
    let config = parse(
        r#"{"min_p": 0.1, "typical_p": 0.5, "epsilon_cutoff": 0.02, "eta_cutoff": 1.0,
            "encoder_repetition_penalty": 1.8, "presence_penalty": -0.5, "frequency_penalty": 0.25,
            "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 2,
            "bad_words_ids": [[3], [7, 8]], "sequence_bias": [[[3], 5], [[7, 8], -4.0], [[3], 1.5]],
            "logit_bias": {"12": -100}, "min_length": 40, "min_new_tokens": 2, "max_length": 90,
            "forced_bos_token_id": 4, "forced_eos_token_id": [5, 6], "remove_invalid_values": true,
            "exponential_decay_length_penalty": [2, 1.3], "suppress_tokens": [0, 5],
            "begin_suppress_tokens": [1], "renormalize_logits": true, "stop_strings": "stop",
            "max_time": 2.5, "num_beams": 4, "num_return_sequences": 2, "length_penalty": -0.5,
            "early_stopping": "never"}"#,
    )
    .unwrap();
    let id = TokenId;
    let expected = GenerationConfig {
        min_p: 0.1,
        typical_p: 0.5,
        epsilon_cutoff: 0.02,
        encoder_repetition_penalty: 1.8,
        presence_penalty: -0.5,
        frequency_penalty: 0.25,
        no_repeat_ngram_size: 3,
        encoder_no_repeat_ngram_size: 2,
        bad_words_ids: vec![vec![id(3)], vec![id(7), id(8)]],
        // Of equal sequences the last counts, where the first stood.
        sequence_bias: vec![(vec![id(3)], 1.5), (vec![id(7), id(8)], -4.0)],
        logit_bias: vec![(id(12), -100.0)],
        min_length: 40,
        min_new_tokens: 2,
        max_length: Some(Tokens(90)),
        forced_bos: Some(id(4)),
        forced_eos: vec![id(5), id(6)],
        remove_invalid_values: true,
        exponential_decay_length_penalty: Some((2, 1.3)),
        suppress_tokens: vec![id(0), id(5)],
        begin_suppress_tokens: vec![id(1)],
        renormalize_logits: true,
        stop_strings: vec!["stop".to_owned()],
        max_time: Some(Duration::from_millis(2500)),
        num_beams: 4,
        num_return_sequences: 2,
        length_penalty: -0.5,
        early_stopping: EarlyStopping::Never,
        ..GenerationConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!(config.outside(13), None);
    assert_eq!(config.outside(12), Some(("logit_bias", id(12))));
    assert_eq!(config.outside(8), Some(("sequence_bias", id(8))));
}

#[test]
fn the_class_default_of_max_length_is_no_limit() {
    assert_eq!(parse(r#"{"max_length": 20}"#).unwrap().max_length, None);
    assert_eq!(parse(r#"{"max_length": 21}"#).unwrap().max_length, Some(Tokens(21)));
}

#[test]
fn lists_of_another_form_are_refused_by_name() {
    for (key, value) in [
        ("bad_words_ids", "[[]]"),
        ("bad_words_ids", "[3]"),
        ("sequence_bias", "[[[1], null]]"),
        ("sequence_bias", "[[[1], 1e300]]"),
        ("sequence_bias", "{\"1\": 2.0}"),
        ("logit_bias", "{\"x\": 2.0}"),
        ("stop_strings", "[\"\"]"),
        ("stop_strings", "7"),
        ("exponential_decay_length_penalty", "[1, 0.0]"),
        ("exponential_decay_length_penalty", "[1]"),
        ("early_stopping", "1"),
        ("max_time", "-1"),
        ("num_beams", "0"),
        ("num_return_sequences", "0"),
        ("typical_p", "0.0"),
        ("min_p", "1.5"),
        ("length_penalty", "1e60"),
        ("presence_penalty", "true"),
    ] {
        let error = parse(&format!("{{\"{key}\": {value}}}")).unwrap_err();
        assert_eq!(error.code(), "checkpoint_invalid", "{key}");
        assert!(error.to_string().contains(key), "{error}");
    }
}
