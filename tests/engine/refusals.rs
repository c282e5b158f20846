//! What an engine refuses, and how it says so.

use qwen2vl::{
    engine::{EngineError, MemoryLimit, Request, Sampling},
    prompt::{Message, Part},
    units::{Bytes, Tokens},
};

use super::{ask, builder, demo};

#[test]
fn a_prompt_that_passes_the_limit_names_the_numbers() {
    let engine = builder().max_model_len(64).build().unwrap();
    let error = engine.submit(ask(&["pair.png"], "Describe this image.")).unwrap_err();
    assert_eq!(error.code(), "context_length_exceeded");
    let EngineError::ContextLength { prompt, image, max_new, limit } = error else {
        panic!("{error}");
    };
    assert_eq!((prompt, image, max_new, limit), (Tokens(49), Tokens(24), Tokens(24), Tokens(64)));
    let shorter = ask(&["pair.png"], "Describe this image.").max_new_tokens(15);
    assert!(engine.submit(shorter).is_ok());
}

#[test]
fn a_plan_that_does_not_fit_names_its_largest_part() {
    let error = builder().memory(MemoryLimit::Bytes(Bytes(1 << 20))).build().unwrap_err();
    assert_eq!(error.code(), "out_of_memory");
    let EngineError::Memory { need, budget, bytes, .. } = error else { panic!("{error}") };
    assert!(need > budget && bytes <= need);
}

#[test]
fn a_plan_is_what_is_allocated() {
    let engine = builder().build().unwrap();
    let plan = engine.plan();
    assert_eq!(plan.max_model_len(), Tokens(512));
    assert!(plan.total() <= plan.budget());
    assert_eq!(plan.kv_tokens().0 / 64, engine.stats().total_pages.0);
    assert!(plan.parts().iter().any(|(name, bytes)| *name == "weights" && bytes.0 > 9_000_000));
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (wrong, name) in [
        (builder().max_batch(0), "max_batch"),
        (builder().max_model_len(0), "max_model_len"),
        (builder().prefill_chunk(0), "prefill_chunk"),
        (builder().memory(MemoryLimit::Fraction(0.0)), "memory"),
        (builder().memory(MemoryLimit::Fraction(f64::NAN)), "memory"),
    ] {
        let error = wrong.build().unwrap_err();
        assert!(
            matches!(&error, EngineError::InvalidRequest { field, .. } if *field == name),
            "{name}: {error}"
        );
    }
    let engine = builder().build().unwrap();
    let none = engine.submit(ask(&[], "Hello!").max_new_tokens(0)).unwrap_err();
    assert!(matches!(none, EngineError::InvalidRequest { field: "max_new_tokens", .. }), "{none}");
    let cold = Sampling { temperature: Some(-1.0), ..Sampling::default() };
    let cold = engine.submit(ask(&[], "Hello!").sampling(cold)).unwrap_err();
    assert!(matches!(cold, EngineError::InvalidRequest { field: "temperature", .. }), "{cold}");
}

#[test]
fn a_missing_picture_is_refused_before_anything_runs() {
    let engine = builder().build().unwrap();
    let error = engine.submit(ask(&["no-such-file.png"], "What is this?")).unwrap_err();
    assert_eq!(error.code(), "io");
    assert_eq!(engine.stats().running + engine.stats().waiting, 0);
}

#[test]
fn a_picture_above_the_planned_budget_is_refused_and_the_engine_lives() {
    let engine = builder().max_model_len(2048).build().unwrap();
    let picture = Part::image_file(demo().join("media/large_png.png"));
    let part = |pixels| picture.clone().min_pixels(pixels).max_pixels(pixels + 100_000);
    let request = |pixels| {
        Request::chat([Message::user([part(pixels), Part::text("What is this?")])])
            .max_new_tokens(2)
    };
    let error = engine.submit(request(1_200_000)).unwrap_err();
    assert_eq!(error.code(), "limit_exceeded");
    assert!(matches!(error, EngineError::PictureTooLarge { .. }), "{error}");
    assert!(engine.submit(request(20_000)).unwrap().finish().is_ok());
}
