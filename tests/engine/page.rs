//! The four conversations of the reference's page as one batch: one picture, two pictures, text
//! alone, pictures and a video. Each row has the bits that it has alone.

use qwen2vl::{
    engine::{
        Completion, ForwardInput, ForwardOptions, ForwardOutput, Generation, Request, forward,
    },
    media::Source,
    prompt::{
        Conversation, MediaInput, Message, Part, ProcessOptions, Processed, Processor,
        RenderOptions,
    },
    units::GridThw,
};

use super::{builder, choice, demo};

fn conversations() -> Vec<Conversation> {
    let image = |name: &str| Part::image_file(demo().join("media").join(name));
    let frame = |i: usize| Source::Path(demo().join(format!("media/mixed_frames/00{i}.png")));
    let ask = |parts: Vec<Part>| Conversation::new([Message::user(parts)]);
    vec![
        ask(vec![image("pair.png"), Part::text("Describe this image.")]),
        ask(vec![
            image("pair_plain_1.png"),
            image("pair_plain_2.jpg"),
            Part::text("What do the two pictures have in common?"),
        ]),
        Conversation::new([Message::text("user", "who are you?")]),
        ask(vec![
            image("mixed_1.png"),
            image("mixed_2.jpg"),
            Part::video_frames((0..4).map(frame)),
            Part::text("What are the common elements in these medias?"),
        ]),
    ]
}

fn answers(together: bool) -> Vec<Completion> {
    let engine = builder().build().unwrap();
    let requests = conversations().into_iter().map(|conversation| {
        engine.submit(Request::conversation(conversation).max_new_tokens(24)).unwrap()
    });
    if together {
        let running: Vec<Generation> = requests.collect();
        return running.into_iter().map(|generation| generation.finish().unwrap()).collect();
    }
    requests.map(|generation| generation.finish().unwrap()).collect()
}

#[test]
fn the_pages_batch_is_answered_as_each_of_its_conversations() {
    let (batch, alone) = (answers(true), answers(false));
    assert_eq!(batch.len(), 4);
    for (batch, alone) in batch.iter().zip(&alone) {
        assert_eq!((&batch.token_ids, &batch.text), (&alone.token_ids, &alone.text));
        assert!(!batch.text.is_empty());
    }
    let usage = &batch[3].usage;
    assert_eq!((usage.image_tokens, usage.video_tokens, usage.media.len()), (32, 32, 3));
}

/// Rows padded on the left, their media one after another.
fn input(processor: &Processor, rows: &[Processed]) -> ForwardInput {
    let batch = processor.pad(rows).unwrap();
    let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
    let videos: Vec<&MediaInput> = rows.iter().flat_map(Processed::videos).collect();
    let grids = |media: &[&MediaInput]| -> Option<Vec<GridThw>> {
        (!media.is_empty()).then(|| media.iter().map(|medium| medium.used.grid).collect())
    };
    let pixels = |media: &[&MediaInput]| -> Option<Vec<f32>> {
        let values = || media.iter().flat_map(|medium| processor.pixel_values(medium).unwrap());
        (!media.is_empty()).then(|| values().collect())
    };
    ForwardInput {
        batch: batch.rows,
        length: batch.columns,
        attention_mask: Some(batch.attention_mask.iter().map(|mask| *mask == 1).collect()),
        pixel_values: pixels(&images),
        image_grid_thw: grids(&images),
        pixel_values_videos: pixels(&videos),
        video_grid_thw: grids(&videos),
        input_ids: batch.input_ids,
        ..ForwardInput::default()
    }
}

fn tensor<'a>(output: &'a ForwardOutput, name: &str) -> &'a [f32] {
    &output.tensor(name).unwrap().values
}

#[test]
fn logits_and_image_rows_of_the_pages_batch_have_the_bits_of_each_alone() {
    let processor = Processor::from_dir(&demo().join("model")).unwrap();
    let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let options = ProcessOptions { render, ..ProcessOptions::default() };
    let rows: Vec<Processed> = conversations()
        .iter()
        .enumerate()
        .map(|(index, conversation)| processor.process(index, conversation, options).unwrap())
        .collect();
    let run = |input: &ForwardInput| {
        let options = ForwardOptions { device: choice(), ..ForwardOptions::default() };
        forward(&demo().join("model"), input, &options).unwrap()
    };
    let all = input(&processor, &rows);
    let together = run(&all);
    let width = tensor(&together, "logits").len() / (all.batch * all.length);
    let merger = "vision/image/merger";
    let mut image_row = 0;
    for (index, row) in rows.iter().enumerate() {
        let alone = run(&input(&processor, std::slice::from_ref(row)));
        let count = row.input_ids.len();
        let end = (index + 1) * all.length * width;
        let found = &tensor(&together, "logits")[end - count * width..end];
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(found), bits(tensor(&alone, "logits")), "conversation {index}");
        if row.images().next().is_some() {
            let want = bits(tensor(&alone, merger));
            let found = &bits(tensor(&together, merger))[image_row..][..want.len()];
            assert_eq!(found, want, "pictures of conversation {index}");
            image_row += want.len();
        }
    }
    assert_eq!(image_row, tensor(&together, merger).len());
}
