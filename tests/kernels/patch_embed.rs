//! `kernels/patch_embed.cu` against its oracle, on whatever device the machine has.

use half::bf16;
use qwen2vl::{
    device::Device,
    ops::OpError,
    ops::patch_embed::{Normalisation, Patchify},
    reference::patch_embed::{Frames, patch_rows},
    units::GridThw,
};

use crate::check::bits;
use crate::guarded::Guarded;
use crate::support::{self, Rng};

/// The published mean and deviation, as scale and shift of a byte.
const SCALE: [f32; 3] = [0.014_598_42, 0.015_007_69, 0.014_220_11];
const SHIFT: [f32; 3] = [-1.792_262_6, -1.752_097_5, -1.480_209_5];

/// (grid t h w, frames, patch, temporal, merge, bytes past a row, why this shape)
type Shape = ([usize; 3], usize, usize, usize, usize, usize, &'static str);
const SHAPES: &[Shape] = &[
    ([1, 2, 2], 1, 14, 2, 2, 4, "one merged patch of a picture"),
    ([1, 4, 6], 1, 14, 2, 2, 12, "2B: a picture"),
    ([2, 4, 4], 4, 14, 2, 2, 24, "a video"),
    ([2, 2, 4], 3, 14, 2, 2, 24, "the last frame is repeated"),
    ([1, 2, 2], 1, 16, 2, 2, 0, "patches of 16: no padded column, no pitch"),
    ([1, 3, 3], 2, 2, 1, 1, 10, "the smallest patch, no merging, one frame of two is unused"),
    ([1, 6, 3], 1, 7, 3, 3, 11, "odd patches, groups of three frames"),
];

fn run(device: &Device, frames: Frames<'_>, table: Option<&[bf16]>) -> Result<Vec<bf16>, OpError> {
    let pixels = device.upload(frames.pixels)?;
    let table = table.map(|table| device.upload(table)).transpose()?;
    let normalisation = match &table {
        Some(table) => Normalisation::Table(table.view().into()),
        None => Normalisation::Affine { scale: SCALE, shift: SHIFT },
    };
    let Frames { frames: count, pitch, grid, patch, temporal, merge, .. } = frames;
    let depth = Patchify::depth(patch, temporal).unwrap();
    let mut y = Guarded::new(device, grid.patch_rows().unwrap().0 * depth);
    Patchify {
        pixels: pixels.view(),
        normalisation,
        y: y.view_mut().into(),
        grid,
        frames: count,
        pitch,
        patch,
        temporal,
        merge,
    }
    .launch(device)?;
    Ok(y.read(device, "patch_embed"))
}

fn with_frames<R>(shape: &Shape, body: impl FnOnce(Frames<'_>, &str) -> R) -> R {
    let &([t, h, w], frames, patch, temporal, merge, past, why) = shape;
    let label = format!("{t}x{h}x{w} patch {patch} ({why})");
    let pitch = w * patch + past;
    let mut rng = Rng::new(&label);
    let pixels = (0..frames * 3 * h * patch * pitch).map(|_| rng.next().to_le_bytes()[0]);
    let pixels: Vec<u8> = pixels.collect();
    let grid = GridThw { t, h, w };
    body(Frames { pixels: &pixels, frames, pitch, grid, patch, temporal, merge }, &label)
}

fn affine(colour: usize, pixel: u8) -> bf16 {
    bf16::from_f32(f32::from(pixel).mul_add(SCALE[colour], SHIFT[colour]))
}

fn check(shapes: &[Shape]) {
    for shape in shapes {
        with_frames(shape, |frames, label| {
            let depth = Patchify::depth(frames.patch, frames.temporal).unwrap();
            let got = run(support::device(), frames, None).expect(label);
            assert_eq!(bits(&got), bits(&patch_rows(frames, depth, affine)), "{label}");

            let table = Rng::new(label).bf16(3 * 256, 2.0);
            let value = |colour: usize, pixel: u8| table[colour * 256 + usize::from(pixel)];
            let got = run(support::device(), frames, Some(&table)).expect(label);
            assert_eq!(bits(&got), bits(&patch_rows(frames, depth, value)), "table, {label}");
        });
    }
}

#[test]
fn patches_lie_in_the_reference_order() {
    check(SHAPES);
}

#[test]
fn gpu_small_patches_lie_in_the_reference_order() {
    check(&SHAPES[5..6]);
}

#[test]
fn the_depth_is_a_multiple_of_16() {
    assert_eq!(Patchify::depth(14, 2), Some(1184));
    assert_eq!(Patchify::depth(16, 2), Some(1536));
    assert_eq!(Patchify::depth(usize::MAX, 2), None);
}

#[test]
fn an_empty_grid_is_no_launch() {
    let shape = ([0, 2, 2], 1, 14, 2, 2, 4, "no group of frames");
    let got = with_frames(&shape, |frames, _label| run(support::device(), frames, None));
    assert_eq!(got.unwrap(), []);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refused = |shape: Shape| {
        let run = |frames: Frames<'_>, _label: &str| run(support::device(), frames, None);
        with_frames(&shape, run).unwrap_err().to_string()
    };
    assert_eq!(
        refused(([1, 3, 2], 1, 14, 2, 2, 4, "an odd grid")),
        "patch_embed: gh = 3, but the merged patch must divide the grid"
    );
    assert_eq!(
        refused(([1, 2, 2], 1, 14, 2, 2, 5, "an odd pitch")),
        "patch_embed: pitch = 33, but the pitch must be a multiple of 16"
    );
    assert_eq!(
        refused(([1, 2, 2], 0, 14, 2, 2, 4, "no frame")),
        "patch_embed: frames = 0, but there must be a frame"
    );
    let short = with_frames(&SHAPES[0], |frames, _label| {
        let pixels = &frames.pixels[16..];
        run(support::device(), Frames { pixels, ..frames }, None).unwrap_err().to_string()
    });
    assert_eq!(short, "patch_embed: pixels has 2672 elements, expected 2688");
}
