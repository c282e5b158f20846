//! The launches of the demo answer: every kernel that the model needs, as often as layers and new
//! tokens say.

use std::collections::BTreeMap;

use super::{ask, builder};

/// Layers of assets/demo/model.
const BLOCKS: usize = 3;
const LAYERS: usize = 4;

#[test]
fn the_demo_answer_launches_every_kernel_as_often_as_its_layers_say() {
    let engine = builder().build().unwrap();
    if engine.device() != "software" {
        println!("skipped: {} keeps no record of launches", engine.device());
        return;
    }
    let request = ask(&["pair.png"], "Describe this image.");
    let (answer, launches) =
        softcuda::launches(|| engine.submit(request).unwrap().finish().unwrap());
    let tokens = answer.token_ids.len();
    assert_eq!(tokens, 17);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for launch in &launches {
        let kernel = launch.kernel.split("_bf16").next().unwrap().trim_end_matches("_f32");
        *counts.entry(kernel).or_default() += 1;
    }
    // One prompt step, then one step for each token but the first.
    let steps = tokens;
    // patch_embed; qkv, proj, fc1, fc2 of each block; two of the merger: 96 and 24 rows.
    let vision_linear = 1 + 4 * BLOCKS + 2;
    // qkv, o, gate and up, down of each layer over the prompt's 49 rows, or over one row.
    let linear = 4 * LAYERS;
    let few_rows_of_prompt = counts["gemm"] + counts["gemv"] - vision_linear - linear * steps;
    assert_eq!(few_rows_of_prompt, steps, "one head for each step");
    let expected = [
        ("patchify", 1),
        ("layer_norm", 2 * BLOCKS + 1),
        ("rope_vision", BLOCKS),
        ("attn_vision", BLOCKS),
        // The token and image rows of a step, and the rows whose logits are wanted.
        ("embed", 2 * steps),
        ("rms_norm", (2 * LAYERS + 1) * steps),
        ("mrope", LAYERS * steps),
        ("kv_append", LAYERS * steps),
        ("attn_prefill", LAYERS),
        ("attn_decode", LAYERS * (steps - 1)),
        ("silu_mul", LAYERS * steps),
        ("sample", steps),
    ];
    for (kernel, count) in expected {
        assert_eq!(counts.remove(kernel), Some(count), "{kernel}");
    }
    counts.remove("gemm");
    assert!(counts.remove("gemv").is_some_and(|count| count >= (linear + 1) * (steps - 1)));
    assert!(counts.is_empty(), "launches that nothing asks for: {counts:?}");
}
