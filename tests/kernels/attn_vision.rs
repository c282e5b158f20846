//! `kernels/attn_vision.cu` against its oracle, on whatever device there is.

use half::{bf16, f16};
use qwen2vl::device::View;
use qwen2vl::ops::attn_vision::AttnVision;
use qwen2vl::ops::{OpError, attn_vision};
use qwen2vl::reference::attn_vision::attn_vision as oracle;
use qwen2vl::units::PatchRows;

use crate::guarded::{Guarded, Number};
use crate::orders::in_every_order;
use crate::paged::{NO_WORK, assert_same_bits};
use crate::support::{Rng, device};
use crate::tolerance::assert_attended;

/// ((heads, head width), rows of each frame, scale, why)
type Case = ((usize, usize), &'static [usize], f32, &'static str);

const CASES: &[Case] = &[
    ((1, 80), &[1], 1.0, "one row sees itself"),
    ((2, 80), &[4, 16, 12], 1.0, "small frames, less than a warp and more"),
    ((1, 80), &[63, 64, 65], 1.0, "around a tile"),
    ((2, 80), &[129, 4, 0, 260], 3.0, "unlike and empty frames, large scores"),
    ((16, 80), &[36], 1.0, "the published tower's heads"),
    ((4, 32), &[15, 17, 127, 128], 1.0, "narrowest heads"),
    ((2, 64), &[100, 200], 1.0, "narrow heads"),
];

fn run<T: Number>(
    qkv: &[T],
    lengths: &[usize],
    heads: usize,
    dim: usize,
    label: &str,
) -> Result<Vec<T>, OpError> {
    let mut cu_rows = vec![0i32];
    for &length in lengths {
        cu_rows.push(cu_rows.last().unwrap() + length as i32);
    }
    let rows = lengths.iter().sum();
    let qkv = device().upload(qkv)?;
    let mut work = attn_vision::work_list(&cu_rows);
    work.extend(NO_WORK);
    let work = device().upload(&work)?;
    let cu_rows = device().upload(&cu_rows)?;
    let mut o = Guarded::new(device(), rows * heads * dim);
    let (qkv, work): (View<'_, T>, View<'_, i32>) = (qkv.view(), work.view());
    AttnVision {
        qkv: qkv.into(),
        cu_rows: cu_rows.view(),
        work,
        o: o.view_mut().into(),
        rows: PatchRows(rows),
        heads,
        head_dim: dim,
    }
    .launch(device())?;
    Ok(o.read(device(), label))
}

fn check<T: Number>(&((heads, dim), lengths, scale, why): &Case) {
    let label = format!("{} vision H={heads} D={dim} frames {lengths:?}: {why}", T::TYPE);
    let rows: usize = lengths.iter().sum();
    let qkv: Vec<T> = Rng::new(&label).floats(rows * 3 * heads * dim, scale);
    let got = in_every_order(&label, || run(&qkv, lengths, heads, dim, &label).expect(&label));
    assert_attended(&got, &oracle(&qkv, lengths, heads, dim), &label);
}

#[test]
fn matches_the_oracle() {
    CASES.iter().for_each(check::<bf16>);
}

#[test]
fn matches_the_oracle_in_f16() {
    CASES.iter().for_each(check::<f16>);
}

#[test]
fn matches_the_oracle_in_f32() {
    CASES.iter().for_each(check::<f32>);
    // Any multiple of 16 up to 128.
    check::<f32>(&((2, 112), &[65, 3], 1.0, "a width of no model"));
}

#[test]
fn matches_the_oracle_gpu_small() {
    check::<bf16>(&((1, 80), &[70, 5], 1.0, "two tiles, and a frame behind"));
}

#[test]
fn a_frame_does_not_see_its_neighbours() {
    let (heads, dim, lengths) = (2, 80, [70, 4, 130, 64]);
    let width = 3 * heads * dim;
    let qkv = Rng::new("vision neighbours").bf16(268 * width, 2.0);
    let together = run(&qkv, &lengths, heads, dim, "together").unwrap();
    let (mut alone, mut first) = (Vec::new(), 0);
    for length in lengths {
        let rows = &qkv[first * width..(first + length) * width];
        alone.extend(run(rows, &[length], heads, dim, "alone").unwrap());
        first += length;
    }
    assert_same_bits(&together, &alone, "together and alone");
}

#[test]
fn nan_stays_in_its_frame() {
    let (heads, dim, lengths) = (1, 80, [66, 66, 66]);
    let (width, row) = (3 * heads * dim, heads * dim);
    let mut qkv = Rng::new("vision nan").bf16(198 * width, 1.0);
    let clean = run(&qkv, &lengths, heads, dim, "clean").unwrap();
    for at in [66, 131] {
        qkv[at * width + row] = bf16::NAN; // a key of the middle frame
    }
    let got = run(&qkv, &lengths, heads, dim, "spoiled").unwrap();
    assert_same_bits(&got[..66 * row], &clean[..66 * row], "the frame before");
    assert_same_bits(&got[132 * row..], &clean[132 * row..], "the frame after");
    assert!(got[66 * row..132 * row].iter().all(|v| v.is_nan()), "the frame with the NaN");
}

#[test]
fn no_rows_are_no_launch() {
    assert_eq!(run::<bf16>(&[], &[], 2, 80, "no frames").unwrap(), []);
    assert_eq!(run::<bf16>(&[], &[0, 0], 2, 80, "empty frames").unwrap(), []);
    assert!(attn_vision::work_list(&[0, 0, 0]).is_empty());
}

#[test]
fn a_head_width_without_a_kernel_is_refused() {
    let error = run(&[bf16::ZERO; 3 * 128], &[1], 1, 128, "D 128").unwrap_err();
    let want = "attn_vision: D = 128, but attn_vision is built for D = 32, 64 and 80";
    assert_eq!(error.to_string(), want);
}

#[test]
fn rows_that_do_not_fit_the_heads_are_refused() {
    let error = run(&[bf16::ZERO; 3 * 80], &[1], 2, 80, "short rows").unwrap_err();
    let want = "attn_vision: qkv has 240 elements, expected 480";
    assert_eq!(error.to_string(), want);
}
