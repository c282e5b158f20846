//! A request's answer depends on the request alone.

use std::time::{Duration, Instant};

use qwen2vl::{
    engine::{Completion, Engine, EngineError, Event, FinishReason, Generation, Request, Sampling},
    units::TokenId,
};

use super::{ask, builder};

/// Different lengths, one and several pictures, text alone.
fn requests() -> Vec<Request> {
    vec![
        ask(&["pair.png"], "Describe this image."),
        ask(&[], "Hello!"),
        ask(&["pair.png", "one_png.png"], "What color is the shape in the second picture?"),
        ask(&["one_png.png"], "What is this?"),
        ask(&["large_png.png"], "Describe this image."),
    ]
}

fn together(engine: &Engine, requests: Vec<Request>) -> Vec<Completion> {
    let running: Vec<Generation> =
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    running.into_iter().map(|generation| generation.finish().unwrap()).collect()
}

fn ids(answers: &[Completion]) -> Vec<Vec<TokenId>> {
    answers.iter().map(|answer| answer.token_ids.clone()).collect()
}

#[test]
fn an_answer_is_the_same_alone_and_in_a_batch() {
    let engine = builder().build().unwrap();
    let batch = together(&engine, requests());
    let alone: Vec<Completion> =
        requests().into_iter().map(|request| together(&engine, vec![request]).remove(0)).collect();
    assert_eq!(ids(&batch), ids(&alone));
    assert!(batch.iter().all(|answer| !answer.text.is_empty()));
    assert_eq!(engine.stats().free_pages, engine.stats().total_pages);
}

#[test]
fn drawn_answers_are_the_same_alone_and_in_a_batch() {
    let engine = builder().build().unwrap();
    let drawn = |seed| Sampling {
        do_sample: Some(true),
        temperature: Some(3.0),
        top_k: Some(0),
        top_p: Some(1.0),
        seed: Some(seed),
        ..Sampling::default()
    };
    let numbered = |requests: Vec<Request>, first: u64| -> Vec<Request> {
        (first..).zip(requests).map(|(seed, request)| request.sampling(drawn(seed))).collect()
    };
    let batch = together(&engine, numbered(requests(), 1));
    let alone: Vec<Completion> = numbered(requests(), 1)
        .into_iter()
        .map(|request| together(&engine, vec![request]).remove(0))
        .collect();
    assert_eq!(ids(&batch), ids(&alone));
    let others = together(&engine, numbered(requests(), 100));
    assert_ne!(ids(&batch), ids(&others), "other seeds, other answers");
}

#[test]
fn a_prompt_in_chunks_gives_the_same_answer() {
    let whole = together(&builder().build().unwrap(), requests());
    for chunk in [1, 17, 64] {
        let engine = builder().prefill_chunk(chunk).build().unwrap();
        assert_eq!(ids(&whole), ids(&together(&engine, requests())), "chunks of {chunk}");
    }
}

#[test]
fn more_requests_than_places_wait_their_turn() {
    let engine = builder().max_batch(2).build().unwrap();
    let together = together(&engine, requests());
    let wide = builder().build().unwrap();
    assert_eq!(ids(&together), ids(&super::answers::together(&wide, requests())));
}

#[test]
fn a_penalty_reads_the_prompt_and_the_answer() {
    let engine = builder().build().unwrap();
    let penalty = |penalty| Sampling { repetition_penalty: Some(penalty), ..Sampling::greedy() };
    let plain = together(&engine, vec![ask(&["pair.png"], "Describe this image.")]);
    let requests: Vec<Request> =
        requests().into_iter().map(|request| request.sampling(penalty(5.0))).collect();
    let punished = together(&engine, requests);
    assert_ne!(ids(&plain)[0], ids(&punished)[0]);
    for answer in &punished {
        // A penalty of 5 outweighs every margin of this model: no token comes twice.
        let mut seen = answer.token_ids.clone();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() + 2 >= answer.token_ids.len(), "{}", answer.text);
    }
}

#[test]
fn events_come_in_order_and_their_texts_are_the_answer() {
    let engine = builder().build().unwrap();
    let generation = engine.submit(ask(&["pair.png"], "Describe this image.")).unwrap();
    let events: Vec<Event> = generation.map(Result::unwrap).collect();
    let [Event::Started(usage), tokens @ .., Event::Done(done)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((usage.image_tokens, usage.media.len(), usage.completion_tokens), (24, 1, 0));
    let mut text = String::new();
    for (index, event) in tokens.iter().enumerate() {
        let Event::Token(token) = event else { panic!("{event:?}") };
        assert_eq!(token.index, index);
        text += &token.text;
    }
    assert_eq!(text, done.text);
    assert_eq!(tokens.len(), done.usage.completion_tokens);
    assert_eq!(done.finish_reason, FinishReason::Stop);
}

#[test]
fn dropping_an_answer_frees_its_pages_at_once() {
    let engine = builder().build().unwrap();
    let mut first = engine.submit(ask(&["pair.png"], "Describe this image.")).unwrap();
    let second = engine.submit(ask(&["one_png.png"], "What is this?")).unwrap();
    assert!(matches!(first.next(), Some(Ok(Event::Started(_)))));
    assert!(matches!(first.next(), Some(Ok(Event::Token(_)))));
    let held = engine.stats();
    assert_eq!(held.running, 2);
    drop(first);
    assert_eq!(engine.stats().running, 1);
    assert!(engine.stats().free_pages > held.free_pages);
    let answer = second.finish().unwrap();
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    assert_eq!(engine.stats().free_pages, engine.stats().total_pages);
}

#[test]
fn a_deadline_that_has_come_runs_nothing() {
    let engine = builder().build().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a time that is past whatever the clock says")]
    let past = Instant::now() - Duration::from_secs(1);
    let request = ask(&[], "Hello!").deadline(past);
    assert!(matches!(engine.submit(request), Err(EngineError::Deadline)));
}

#[test]
fn a_step_allocates_nothing_and_reads_back_once() {
    let engine = builder().build().unwrap();
    let before = engine.stats().device;
    let answer = together(&engine, vec![ask(&["pair.png"], "Describe this image.")]).remove(0);
    let after = engine.stats().device;
    assert_eq!(after.allocations, before.allocations);
    assert_eq!(after.reads - before.reads, answer.token_ids.len() as u64);
}
