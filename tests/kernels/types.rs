//! The element-wise kernels in f16 and f32, against the oracles of the same type. What does not
//! depend on the type (shapes, orders, refusals) is in each kernel's own file.

use half::f16;
use qwen2vl::ops::embed::{Embed, RowGather};
use qwen2vl::ops::kv::KvLayout;
use qwen2vl::ops::kv_append::KvAppend;
use qwen2vl::ops::kv_copy::KvGather;
use qwen2vl::ops::layer_norm::LayerNorm;
use qwen2vl::ops::mrope::Mrope;
use qwen2vl::ops::patch_embed::{Normalisation, Patchify};
use qwen2vl::ops::rms_norm::{RmsNorm, RmsNormResidual};
use qwen2vl::ops::rope_vision::RopeVision;
use qwen2vl::ops::silu_mul::SiluMul;
use qwen2vl::reference;
use qwen2vl::units::{GridThw, PatchRows, Tokens};

use crate::guarded::{Guarded, Number};
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};
use crate::tolerance::{assert_within, ulp};

const EPS: f32 = 1e-6;
/// (rows, channels, why)
const SHAPES: &[(usize, usize, &str)] = &[
    (1, 8, "one thread has work"),
    (3, 72, "part of a warp"),
    (2, 2056, "one access past a chunk"),
    (5, 1536, "2B"),
    (65, 24, "many rows"),
];

/// `steps` of the type, and an f32 error.
fn limit<T: Number>(y: f64, steps: f64) -> (f64, f64) {
    (y, steps * ulp::<T>(y) + 2f64.powi(-20) * y.abs())
}

fn norms<T: Number>() {
    for &(rows, channels, why) in SHAPES {
        let label = format!("{} norms [{rows}, {channels}]: {why}", T::TYPE);
        let mut rng = Rng::new(&label);
        let (x, old) =
            (rng.floats::<T>(rows * channels, 2.0), rng.floats::<T>(rows * channels, 1.0));
        let (weight, bias) = (rng.floats::<T>(channels, 2.0), rng.floats::<T>(channels, 1.0));
        let on_device = |values: &[T]| device().upload(values).unwrap();
        let (x_device, weight_device) = (on_device(&x), on_device(&weight));
        let bias_device = on_device(&bias);

        let mut y = Guarded::<T>::new(device(), x.len());
        RmsNorm {
            x: x_device.view().into(),
            weight: weight_device.view().into(),
            y: y.view_mut().into(),
            rows: Tokens(rows),
            channels,
            eps: EPS,
        }
        .launch(device())
        .expect(&label);
        let want = reference::rms_norm::rms_norm(&x, &weight, EPS);
        let want = want.iter().map(|y| limit::<T>(y.to_f64(), 2.0));
        assert_within(&y.read(device(), &label), want, &label);

        let mut stream = Guarded::holding(device(), &old);
        let mut y = Guarded::<T>::new(device(), x.len());
        RmsNormResidual {
            x: x_device.view().into(),
            residual: stream.view_mut().into(),
            weight: weight_device.view().into(),
            y: y.view_mut().into(),
            rows: Tokens(rows),
            channels,
            eps: EPS,
        }
        .launch(device())
        .expect(&label);
        let sum = reference::rms_norm::add_residual(&old, &x);
        assert_same_bits(&stream.read(device(), &label), &sum, &label);
        let want = reference::rms_norm::rms_norm(&sum, &weight, EPS);
        let want = want.iter().map(|y| limit::<T>(y.to_f64(), 2.0));
        assert_within(&y.read(device(), &label), want, &label);

        let mut y = Guarded::<T>::new(device(), x.len());
        LayerNorm {
            x: x_device.view().into(),
            weight: weight_device.view().into(),
            bias: bias_device.view().into(),
            y: y.view_mut().into(),
            rows: PatchRows(rows),
            channels,
            eps: EPS,
        }
        .launch(device())
        .expect(&label);
        let want = reference::layer_norm::layer_norm(&x, &weight, &bias, EPS).into_iter();
        let want = want.map(|n| (n.y, ulp::<T>(n.y) + 2f64.powi(-20) * n.magnitude));
        assert_within(&y.read(device(), &label), want, &label);
    }
}

fn silu<T: Number>() {
    for &(rows, width, why) in SHAPES {
        let label = format!("{} silu_mul [{rows}, {width}]: {why}", T::TYPE);
        let gate_up = Rng::new(&label).floats::<T>(rows * 2 * width, 8.0);
        let on_device = device().upload(&gate_up).unwrap();
        let mut y = Guarded::<T>::new(device(), rows * width);
        let rows = Tokens(rows);
        SiluMul { gate_up: on_device.view().into(), y: y.view_mut().into(), rows, width }
            .launch(device())
            .expect(&label);
        let want = reference::silu_mul::silu_mul(&gate_up, width);
        let want = want.iter().map(|y| limit::<T>(y.to_f64(), 2.0));
        assert_within(&y.read(device(), &label), want, &label);
    }
}

fn rotations<T: Number>() {
    for (rows, heads, kv_heads, head_dim, sections) in
        [(1, 1, 1, 16, [2, 3, 3]), (5, 4, 2, 32, [4, 6, 6]), (33, 12, 2, 128, [16, 24, 24])]
    {
        let label = format!("{} mrope [{rows}, {heads}, {kv_heads}, {head_dim}]", T::TYPE);
        let mut rng = Rng::new(&label);
        let table = (0..40 * head_dim / 2).map(|_| rng.f32(3.2));
        let table: Vec<T> = table.flat_map(|a| [a.cos(), a.sin()].map(T::from_f32)).collect();
        let ids: [Vec<usize>; 3] = [0, 1, 2].map(|_| (0..rows).map(|_| rng.below(40)).collect());
        let mut want: Vec<T> = rng.floats(rows * (heads + 2 * kv_heads) * head_dim, 4.0);
        let mut qkv = Guarded::holding(device(), &want);
        let flat: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let (table_device, ids_device) =
            (device().upload(&table).unwrap(), device().upload(&flat).unwrap());
        let op = Mrope {
            qkv: qkv.view_mut().into(),
            table: table_device.view().into(),
            ids: ids_device.view(),
            rows: Tokens(rows),
            heads,
            kv_heads,
            head_dim,
            sections,
        };
        op.launch(device()).expect(&label);
        let got = qkv.read(device(), &label);
        reference::mrope::mrope(&mut want, &table, &ids, sections, heads + kv_heads);
        // Each product is rounded once, as the oracle rounds it.
        assert_same_bits(&got, &want, &label);
    }
    for (rows, heads, head_dim) in [(1, 1, 16), (7, 16, 80), (65, 3, 64)] {
        let label = format!("{} rope_vision [{rows}, {heads}, {head_dim}]", T::TYPE);
        let mut rng = Rng::new(&label);
        let angles = (0..50 * head_dim / 4).map(|_| rng.f32(3.2));
        let table: Vec<f32> = angles.flat_map(|a| [a.cos(), a.sin()]).collect();
        let positions: Vec<[usize; 2]> =
            (0..rows).map(|_| [rng.below(50), rng.below(50)]).collect();
        let input: Vec<T> = rng.floats(rows * 3 * heads * head_dim, 4.0);
        let flat: Vec<i32> = positions.iter().flatten().map(|&p| p as i32).collect();
        let (table_device, positions_device) =
            (device().upload(&table).unwrap(), device().upload(&flat).unwrap());
        let mut qkv = Guarded::holding(device(), &input);
        RopeVision {
            qkv: qkv.view_mut().into(),
            table: table_device.view(),
            positions: positions_device.view(),
            rows: PatchRows(rows),
            heads,
            head_dim,
        }
        .launch(device())
        .expect(&label);
        let want = reference::rope_vision::rope_vision(&input, &table, &positions, heads, head_dim);
        let want = want.into_iter().map(|r| (r.y, ulp::<T>(r.y) + 2f64.powi(-22) * r.magnitude));
        assert_within(&qkv.read(device(), &label), want, &label);
    }
}

fn copies<T: Number>() {
    let mut rng = Rng::new("copies");
    let (table, images) = (rng.floats::<T>(10 * 72, 1.0), rng.floats::<T>(4 * 72, 1.0));
    let (ids, source) = ([3, 0, 9, 1, 5], [-1, 2, -1, 3, -1]);
    let (table_device, images_device) =
        (device().upload(&table).unwrap(), device().upload(&images).unwrap());
    let (ids_device, source_device) =
        (device().upload(&ids).unwrap(), device().upload(&source).unwrap());
    let sequence = device().zeros::<i32>(5).unwrap();
    let mut status = device().zeros::<u32>(5).unwrap();
    let mut y = Guarded::<T>::new(device(), 5 * 72);
    Embed {
        table: table_device.view().into(),
        image_rows: Some(images_device.view().into()),
        ids: ids_device.view(),
        source: source_device.view(),
        sequence: sequence.view(),
        y: y.view_mut().into(),
        status: status.view_mut(),
        rows: Tokens(5),
        channels: 72,
        vocabulary: 10,
    }
    .launch(device())
    .unwrap();
    let rows = reference::embed::embed(&table, &images, &ids, &source, 72);
    let want: Vec<T> = rows.into_iter().flat_map(|row| row.unwrap().to_vec()).collect();
    assert_same_bits(&y.read(device(), "embed"), &want, "embed");

    let mut y = Guarded::<T>::new(device(), 5 * 72);
    RowGather {
        x: images_device.view().into(),
        index: source_device.view(),
        y: y.view_mut().into(),
        status: status.view_mut(),
        rows: 5,
        channels: 72,
    }
    .launch(device())
    .unwrap();
    let got = y.read(device(), "row_gather");
    assert_same_bits(&got[72..144], &images[2 * 72..3 * 72], "a gathered row");
    assert_same_bits(&got[..72], &[T::default(); 72], "a row without source");
}

/// Rows into pages and back: what is gathered is what was appended.
fn pages<T: Number>() {
    let layout = KvLayout { pages: 3, layers: 2, kv_heads: 2, head_dim: 32 };
    let (rows, heads, width) = (70, 4, (4 + 2 * 2) * 32);
    let qkv: Vec<T> = Rng::new("pages").floats(rows * width, 1.0);
    let order = [2usize, 0];
    let slots: Vec<i32> = (0..rows).map(|i| (order[i / 64] * 64 + i % 64) as i32).collect();
    let (qkv_device, slots_device) =
        (device().upload(&qkv).unwrap(), device().upload(&slots).unwrap());
    let mut pool = Guarded::<T>::new(device(), layout.elements().unwrap());
    KvAppend {
        qkv: qkv_device.view().into(),
        slots: slots_device.view(),
        pool: pool.view_mut().into(),
        layout,
        layer: 1,
        rows: Tokens(rows),
        heads,
    }
    .launch(device())
    .unwrap();
    let held = device().upload(&pool.read(device(), "kv_append")).unwrap();
    let pages = device().upload(&order.map(|page| page as i32)).unwrap();
    let (mut keys, mut values) =
        (Guarded::<T>::new(device(), rows * 64), Guarded::<T>::new(device(), rows * 64));
    KvGather {
        pool: held.view().into(),
        layout,
        layer: 1,
        pages: pages.view(),
        keys: keys.view_mut().into(),
        values: values.view_mut().into(),
        tokens: Tokens(rows),
    }
    .launch(device())
    .unwrap();
    let column = |start: usize| -> Vec<T> {
        qkv.chunks(width).flat_map(|row| row[start..start + 64].to_vec()).collect()
    };
    assert_same_bits(&keys.read(device(), "keys"), &column(128), "keys");
    assert_same_bits(&values.read(device(), "values"), &column(192), "values");
}

fn patches<T: Number>() {
    let grid = GridThw { t: 1, h: 4, w: 6 };
    let (patch, temporal, merge, pitch) = (4, 2, 2, 32);
    let mut rng = Rng::new("patches");
    let pixels: Vec<u8> = (0..3 * 16 * pitch).map(|_| rng.below(256) as u8).collect();
    let table: Vec<T> = rng.floats(3 * 256, 2.0);
    let (pixels_device, table_device) =
        (device().upload(&pixels).unwrap(), device().upload(&table).unwrap());
    let depth = Patchify::depth(patch, temporal).unwrap();
    let mut y = Guarded::<T>::new(device(), 24 * depth);
    Patchify {
        pixels: pixels_device.view(),
        normalisation: Normalisation::Table(table_device.view().into()),
        y: y.view_mut().into(),
        grid,
        frames: 1,
        pitch,
        patch,
        temporal,
        merge,
    }
    .launch(device())
    .unwrap();
    let got = y.read(device(), "patchify");
    // The first patch: colours, frames (the one frame twice), rows, columns; then padding.
    let value = |q: usize| {
        let (column, row, colour) = (q % patch, q / patch % patch, q / (patch * patch * temporal));
        table[colour * 256 + usize::from(pixels[(colour * 16 + row) * pitch + column])]
    };
    let used = 3 * temporal * patch * patch;
    assert_same_bits(&got[..used], &(0..used).map(value).collect::<Vec<T>>(), "first patch");
    assert_same_bits(&got[used..depth], &vec![T::default(); depth - used], "padding");
}

fn all<T: Number>() {
    norms::<T>();
    silu::<T>();
    rotations::<T>();
    copies::<T>();
    pages::<T>();
    patches::<T>();
}

#[test]
fn f16_matches_the_oracles() {
    all::<f16>();
}

#[test]
fn f32_matches_the_oracles() {
    all::<f32>();
}
