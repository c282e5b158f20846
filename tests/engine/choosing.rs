//! Processors, several answers, stop strings, log probabilities and beams in the engine.

use qwen2vl::{
    engine::{
        Completion, Engine, EngineError, Event, FinishReason, Generation, Request, Sampling,
        generation_config::GenerationConfig,
    },
    units::TokenId,
};

use super::{ask, builder};

/// A random draw, wide enough that every setting matters.
fn drawn(seed: u64) -> Sampling {
    Sampling {
        do_sample: Some(true),
        temperature: Some(8.0),
        top_k: Some(0),
        top_p: Some(1.0),
        seed: Some(seed),
        ..Sampling::default()
    }
}

fn config(json: &str) -> GenerationConfig {
    GenerationConfig::parse(json.as_bytes(), std::path::Path::new("test")).unwrap()
}

/// One request for each setting, all different.
fn requests() -> Vec<Request> {
    let question = || ask(&["pair.png"], "Describe this image.");
    let eos = r#""eos_token_id": [683, 681]"#;
    let settings = |json: &str| question().generation_config(config(json)).sampling(drawn(7));
    vec![
        question().sampling(Sampling::greedy()),
        question().sampling(drawn(7)),
        question().sampling(Sampling { top_k: Some(5), ..drawn(7) }),
        question().sampling(Sampling { min_p: Some(0.6), top_p: Some(0.5), ..drawn(7) }),
        question().sampling(Sampling { typical_p: Some(0.2), ..drawn(7) }),
        question().sampling(Sampling { epsilon_cutoff: Some(0.02), ..drawn(7) }),
        question().sampling(Sampling { eta_cutoff: Some(0.95), ..drawn(7) }),
        question().sampling(Sampling { repetition_penalty: Some(3.0), ..drawn(7) }),
        question().sampling(Sampling { presence_penalty: Some(-60.0), ..Sampling::greedy() }),
        question().sampling(Sampling { frequency_penalty: Some(2.0), ..drawn(7) }),
        question().sampling(Sampling { no_repeat_ngram_size: Some(1), ..Sampling::greedy() }),
        settings(r#"{"encoder_repetition_penalty": 0.2}"#),
        settings(r#"{"encoder_no_repeat_ngram_size": 1}"#),
        settings(r#"{"suppress_tokens": [1, 2, 3, 4], "begin_suppress_tokens": [5, 6]}"#),
        settings(r#"{"sequence_bias": [[[40], 9.0], [[40, 41], 9.0]], "logit_bias": {"42": 3}}"#),
        settings(&format!("{{\"min_length\": 80, {eos}}}")),
        settings(&format!("{{\"exponential_decay_length_penalty\": [2, 1.5], {eos}}}")),
        settings(r#"{"forced_eos_token_id": 7, "remove_invalid_values": true}"#),
        question().sampling(Sampling { num_return_sequences: Some(3), ..drawn(7) }),
        question().sampling(Sampling { num_beams: Some(3), ..Sampling::greedy() }).n(2),
        question().sampling(Sampling { num_beams: Some(2), top_k: Some(20), ..drawn(7) }),
        question().sampling(Sampling {
            num_beams: Some(2),
            repetition_penalty: Some(3.0),
            presence_penalty: Some(-200.0),
            ..Sampling::greedy()
        }),
    ]
    .into_iter()
    .map(|request| request.max_new_tokens(10))
    .collect()
}

fn together(engine: &Engine, requests: Vec<Request>) -> Vec<Completion> {
    let running: Vec<Generation> =
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    running.into_iter().map(|generation| generation.finish().unwrap()).collect()
}

fn alone(engine: &Engine, request: Request) -> Completion {
    together(engine, vec![request]).remove(0)
}

fn ids(answer: &Completion) -> Vec<Vec<TokenId>> {
    answer.choices().into_iter().map(|choice| choice.token_ids).collect()
}

#[test]
fn every_setting_gives_the_same_answer_alone_and_in_a_batch() {
    let wide = builder().max_batch(32).build().unwrap();
    let batch: Vec<_> = together(&wide, requests()).iter().map(ids).collect();
    let narrow = builder().max_batch(3).prefill_chunk(17).build().unwrap();
    for (index, request) in requests().into_iter().enumerate() {
        assert_eq!(ids(&alone(&narrow, request)), batch[index], "request {index}");
    }
    // Each setting does something: no answer is the plain one, drawn by the same seed or greedy.
    let plain = |index: usize| usize::from(![8, 10, 19, 21].contains(&index));
    let idle = (2..batch.len()).filter(|index| batch[*index] == batch[plain(*index)]);
    assert_eq!(idle.collect::<Vec<_>>(), [0; 0], "requests that give a plain answer");
    for engine in [wide, narrow] {
        assert_eq!(engine.stats().free_pages, engine.stats().total_pages);
    }
}

#[test]
fn several_answers_are_drawn_apart_and_the_first_is_that_of_one() {
    let engine = builder().build().unwrap();
    let request =
        || ask(&["pair.png"], "Describe this image.").sampling(drawn(5)).max_new_tokens(12);
    let one = alone(&engine, request());
    let four = alone(&engine, request().n(4));
    assert_eq!(four.others.len(), 3);
    assert_eq!(ids(&four)[0], one.token_ids);
    let mut all = ids(&four);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "the counter of the random numbers has the answer's number");
    assert_eq!(four.usage.completion_tokens, ids(&four).iter().map(Vec::len).sum::<usize>());
    assert_eq!(engine.stats().free_pages, engine.stats().total_pages);
}

#[test]
fn events_of_several_answers_name_theirs() {
    let engine = builder().build().unwrap();
    let request = ask(&[], "Hello!").sampling(drawn(3)).max_new_tokens(6).n(3);
    let mut texts = vec![String::new(); 3];
    let mut done = None;
    for event in engine.submit(request).unwrap() {
        match event.unwrap() {
            Event::Token(token) => texts[token.choice] += &token.text,
            Event::Done(completion) => done = Some(completion),
            _ => {}
        }
    }
    let done = done.expect("a last event");
    let choices: Vec<String> = done.choices().into_iter().map(|choice| choice.text).collect();
    assert_eq!(choices, texts);
}

#[test]
fn a_seed_that_nobody_names_is_drawn_and_repeats_the_answer() {
    let engine = builder().build().unwrap();
    let free = || Sampling { seed: None, ..drawn(0) };
    let request = |sampling| ask(&["pair.png"], "Describe this image.").sampling(sampling);
    let first = alone(&engine, request(free()));
    let second = alone(&engine, request(free()));
    assert_ne!(first.seed, second.seed);
    let again = Sampling { seed: first.seed, ..drawn(0) };
    assert_eq!(ids(&alone(&engine, request(again))), ids(&first));
    assert_eq!(alone(&engine, request(Sampling::greedy())).seed, None, "nothing is drawn");
}

#[test]
fn a_stop_string_ends_the_answer_also_across_tokens() {
    let engine = builder().build().unwrap();
    let request = || ask(&["pair.png"], "Describe this image.").sampling(Sampling::greedy());
    let whole = alone(&engine, request());
    let tokenizer = engine.processor().tokenizer();
    let bytes: Vec<usize> =
        whole.token_ids.iter().map(|id| tokenizer.token_bytes(*id).len()).collect();
    // Two bytes on each side of the end of the fifth token.
    let border: usize = bytes[..5].iter().sum();
    let string = &whole.text[border - 2..border + 2];
    let stopped = alone(&engine, request().stop(["never", string]));
    assert_eq!(stopped.finish_reason, FinishReason::StopString(1));
    let first = whole.text.find(string).unwrap() + string.len();
    let tokens = bytes
        .iter()
        .scan(0, |end, length| {
            *end += length;
            Some(*end)
        })
        .position(|end| end >= first)
        .unwrap();
    assert_eq!(stopped.token_ids, whole.token_ids[..=tokens]);
    assert!(stopped.text.contains(string), "the string stays: {}", stopped.text);
    let beams = Sampling { num_beams: Some(2), ..Sampling::greedy() };
    let searched = alone(&engine, request().sampling(beams).stop([string]));
    let ends = [FinishReason::StopString(0), FinishReason::Stop, FinishReason::Length];
    assert!(ends.contains(&searched.finish_reason));
}

#[test]
fn lengths_follow_the_references_rules() {
    let engine = builder().build().unwrap();
    let base = || Request::chat(ask_messages()).sampling(Sampling::greedy());
    let prompt = alone(&engine, base().max_new_tokens(1)).usage.prompt_tokens;
    let total = alone(&engine, base().max_length(prompt + 5));
    assert_eq!(total.token_ids.len(), 5);
    let both = alone(&engine, base().max_length(prompt + 5).max_new_tokens(3));
    assert_eq!(both.token_ids.len(), 3, "max_new_tokens wins");
    let error = engine.submit(base().max_length(prompt)).unwrap_err();
    assert!(matches!(&error, EngineError::InvalidRequest { field: "max_length", .. }), "{error}");
    let file = config(&format!("{{\"max_length\": {}}}", prompt + 4));
    let read = alone(&engine, base().generation_config(file));
    assert_eq!((read.token_ids.len(), read.finish_reason), (4, FinishReason::Length));

    let natural = alone(&engine, base());
    assert_eq!(natural.finish_reason, FinishReason::Stop);
    let least = natural.token_ids.len() + 5;
    let longer = alone(&engine, base().min_new_tokens(least).max_new_tokens(least + 20));
    assert!(longer.token_ids.len() > least, "{} tokens", longer.token_ids.len());
    let timed = config(r#"{"max_time": 0.0, "eos_token_id": [683, 681]}"#);
    let timed = alone(&engine, base().generation_config(timed));
    assert_eq!((timed.token_ids.len(), timed.finish_reason), (1, FinishReason::Deadline));
}

fn ask_messages() -> Vec<qwen2vl::prompt::Message> {
    vec![qwen2vl::prompt::Message::user([qwen2vl::prompt::Part::text("What is this?")])]
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    let engine = builder().build().unwrap();
    let request = || ask(&["pair.png"], "Describe this image.").sampling(Sampling::greedy());
    let plain = alone(&engine, request());
    let asked = alone(&engine, request().logprobs(3).prompt_logprobs(2));
    assert_eq!(asked.token_ids, plain.token_ids);
    assert_eq!(asked.logprobs.len(), plain.token_ids.len());
    for (token, id) in asked.logprobs.iter().zip(&plain.token_ids) {
        // Greedy: the token is the best one.
        assert_eq!((token.id, token.top[0].0, token.top.len()), (*id, *id, 3));
        assert!((token.logprob - token.top[0].1).abs() < 1e-4, "{token:?}");
        assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1) && token.top[0].1 <= 0.0);
    }
    assert_eq!(asked.prompt_logprobs.len(), asked.usage.prompt_tokens - 1);
    let chunked = builder().prefill_chunk(13).build().unwrap();
    let chunked = alone(&chunked, request().logprobs(3).prompt_logprobs(2));
    assert_eq!(chunked.prompt_logprobs, asked.prompt_logprobs);
    // Drawn tokens have the log probability of the unedited logits, whatever processors do.
    let drawn = alone(&engine, request().sampling(drawn(4)).logprobs(20));
    for token in &drawn.logprobs {
        if let Some((_, logprob)) = token.top.iter().find(|(id, _)| *id == token.id) {
            assert!((token.logprob - logprob).abs() < 1e-4, "{token:?}");
        }
    }
}

#[test]
fn the_best_of_two_beams_is_at_least_as_probable_as_the_greedy_answer() {
    let engine = builder().build().unwrap();
    let request = || ask(&["pair.png"], "Describe this image.").max_new_tokens(8);
    let sum = |answer: &Completion| -> f32 { answer.logprobs.iter().map(|t| t.logprob).sum() };
    let greedy = alone(&engine, request().sampling(Sampling::greedy()).logprobs(0));
    let sampling = Sampling {
        num_beams: Some(4),
        length_penalty: Some(0.0),
        num_return_sequences: Some(4),
        ..Sampling::greedy()
    };
    let beams = alone(&engine, request().sampling(sampling));
    let scores: Vec<f32> = beams.choices().iter().map(|choice| choice.score.unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(scores[0] >= sum(&greedy) - 1e-3, "{} {}", scores[0], sum(&greedy));
    let unique: std::collections::BTreeSet<_> = ids(&beams).into_iter().collect();
    assert_eq!(unique.len(), 4);
}

#[test]
fn requests_that_could_never_run_are_refused_by_name() {
    let engine = builder().max_batch(2).build().unwrap();
    let ask = || ask(&[], "Hello!");
    for (request, name) in [
        (ask().sampling(Sampling { num_beams: Some(3), ..Sampling::greedy() }), "num_beams"),
        (ask().sampling(drawn(1)).n(3), "num_return_sequences"),
        (ask().sampling(Sampling::greedy()).n(2), "num_return_sequences"),
        (ask().logprobs(21), "logprobs"),
        (ask().prompt_logprobs(21), "prompt_logprobs"),
        (ask().stop([""]), "stop"),
        (
            ask().sampling(Sampling { num_beams: Some(2), ..Sampling::greedy() }).logprobs(1),
            "logprobs",
        ),
        (
            ask().sampling(Sampling {
                logit_bias: vec![(TokenId(1 << 20), 1.0)],
                ..Sampling::greedy()
            }),
            "logit_bias",
        ),
    ] {
        let error = engine.submit(request).unwrap_err();
        assert!(
            matches!(&error, EngineError::InvalidRequest { field, .. } if *field == name),
            "{name}: {error}"
        );
    }
    let list: Vec<String> = (0..40_000).map(|_| "1".to_owned()).collect();
    let many = config(&format!("{{\"suppress_tokens\": [{}]}}", list.join(",")));
    let error = engine.submit(ask().generation_config(many)).unwrap_err();
    assert_eq!(error.code(), "invalid_request");
}
