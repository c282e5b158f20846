//! Every kernel at the shapes of the published models: `cargo bench --bench kernels [-- TEXT]`.
//!
//! On a GPU the times are those between two events of the stream; rows under about 3 microseconds
//! show the rate of launches. Where the device is the software device the rows are fewer and small,
//! their names begin with `software/`, and they measure that device and nothing else.
#![expect(clippy::unwrap_used, reason = "a bench that fails panics")]

/// A row for an op that borrows its output, so is built anew for each launch: the bench, the row's
/// name, the op by the number of the launch, and what its `cost` is told.
macro_rules! row {
    ($bench:ident, $id:expr, |$i:pat_param| $op:expr $(, $told:expr)*) => {{
        let cost = {
            let $i = 0usize;
            $op.cost($($told),*)
        };
        $bench.kernel($id, cost, |$i, device| $op.launch(device));
    }};
}

mod exact;
mod harness;
mod paged;
mod sampling;
mod shapes;

use half::bf16;
use qwen2vl::device::Buffer;
use qwen2vl::ops::activate::Activate;
use qwen2vl::ops::attn_vision::{self, AttnVision};
use qwen2vl::ops::embed::Embed;
use qwen2vl::ops::gemm::{Gemm, Output, TILES, Variant};
use qwen2vl::ops::gemv;
use qwen2vl::ops::layer_norm::LayerNorm;
use qwen2vl::ops::mrope::Mrope;
use qwen2vl::ops::patch_embed::{Normalisation, Patchify};
use qwen2vl::ops::rms_norm::{RmsNorm, RmsNormResidual};
use qwen2vl::ops::rope_vision::RopeVision;
use qwen2vl::ops::silu_mul::SiluMul;
use qwen2vl::units::{Activation, GridThw, PatchRows, Tokens};

use harness::{Bench, int};
use shapes::{
    DECODERS, Decoder, EPS, HEAD_DIM, Linear, PATCH_ROW, SECTIONS, VISION, VISION_HEAD_DIM,
    VISION_HEADS, VISION_LINEARS,
};

fn main() {
    let mut bench = Bench::new();
    let bench = &mut bench;
    gemm(bench);
    variants(bench);
    paged::attn_prefill(bench);
    paged::attn_probs(bench);
    paged::attn_decode(bench);
    attn_vision(bench);
    rms_norm(bench);
    layer_norm(bench);
    silu_mul(bench);
    activate(bench);
    mrope(bench);
    rope_vision(bench);
    embed(bench);
    patch_embed(bench);
    paged::kv_append(bench);
    paged::kv_copy(bench);
    sampling::sample(bench);
    sampling::score_edits(bench);
    sampling::top_scores(bench);
    exact::gemm_f32(bench);
    exact::attn_f32(bench);
    bench.criterion.final_summary();
}

/// The models for the device at hand: the software device takes the smaller one.
fn decoders(bench: &Bench) -> &'static [Decoder] {
    bench.sizes(&DECODERS[..1], &DECODERS)
}

/// `gemm` and, for few rows, `gemv`: whatever `gemm::choose` names.
fn gemm(bench: &mut Bench) {
    for model in decoders(bench) {
        for linear in model.linears() {
            let rows: &[usize] = match linear.0 {
                "qkv" | "gate_up" => bench.sizes(&[1, 8, 128], &[1, 8, 32, 1024, 4096]),
                "lm_head" => bench.sizes(&[], &[1, 8, 32]),
                _ => bench.sizes(&[], &[1, 8, 32, 1024, 4096]),
            };
            linear_rows(bench, model.name, linear, rows);
        }
    }
    for linear in VISION_LINEARS {
        let rows: &[usize] = match linear.0 {
            "fc1" => bench.sizes(&[256], &[4096, 16_384]),
            _ => bench.sizes(&[], &[4096, 16_384]),
        };
        linear_rows(bench, "vit", linear, rows);
    }
}

fn linear_rows(bench: &mut Bench, model: &str, (op, outputs, inputs): Linear, rows: &[usize]) {
    if rows.is_empty() {
        return;
    }
    let weights = bench.rotated(outputs * inputs);
    for &rows in rows {
        let id = format!("gemm/{model}/{op}/M{rows}");
        linear(bench, &id, &weights, [rows, outputs, inputs], None);
    }
}

/// One row; `variant`: a form of the kernel instead of the one that the shape would get.
fn linear(
    bench: &mut Bench,
    id: &str,
    weights: &[Buffer<bf16>],
    [rows, outputs, inputs]: [usize; 3],
    variant: Option<&Variant>,
) {
    let (x, mut y) = (bench.random(rows * inputs), bench.alloc(rows * outputs));
    let shape = [rows, outputs, inputs];
    let cost = product(&x, &weights[0], &mut y, shape).cost();
    bench.kernel(id, cost, |i, device| {
        let gemm = product(&x, &weights[i % weights.len()], &mut y, shape);
        match variant {
            Some(variant) => gemm.launch_as(variant, device),
            None => gemm.launch(device),
        }
    });
}

fn product<'a>(
    x: &'a Buffer<bf16>,
    weight: &'a Buffer<bf16>,
    y: &'a mut Buffer<bf16>,
    [rows, outputs, inputs]: [usize; 3],
) -> Gemm<'a> {
    let (x, weight, y) = (x.view(), weight.view(), Output::Store(y.view_mut().into()));
    Gemm { x: x.into(), weight: weight.into(), bias: None, y, rows, outputs, inputs }
}

/// Each tile of `gemm` and each form of `gemv` at one shape, to hold `gemm::choose` against.
fn variants(bench: &mut Bench) {
    let [_, o, _, down, _] = DECODERS[0].linears();
    let rows = bench.sizes(&[128], &[1024])[0];
    for (variants, (op, outputs, inputs)) in [(&TILES[..], o), (&gemv::FORMS[..], down)] {
        let weights = bench.rotated(outputs * inputs);
        for variant in variants {
            let rows = if variant.any_rows { rows } else { variant.rows };
            let id = format!("gemm/2b/{op}/M{rows}/{}", variant.name());
            linear(bench, &id, &weights, [rows, outputs, inputs], Some(variant));
        }
    }
}

fn attn_vision(bench: &mut Bench) {
    const MIXED: &[usize] = &[4096, 1024, 2304, 576, 3136, 1600];
    let sets: &[(&str, &[usize])] = bench.sizes(
        &[("1x256", &[256])],
        &[
            ("1x1024", &[1024]),
            ("1x4096", &[4096]),
            ("1x16384", &[16_384]),
            ("8x1024", &[1024; 8]),
            ("mixed", MIXED),
        ],
    );
    for (heads, head_dim) in [(VISION_HEADS, VISION_HEAD_DIM), (20, 64)] {
        for (name, lengths) in sets {
            let mut cu_rows = vec![0];
            cu_rows.extend(lengths.iter().scan(0, |end, &length| {
                *end += int(length);
                Some(*end)
            }));
            let rows: usize = lengths.iter().sum();
            let qkv = bench.random(rows * 3 * heads * head_dim);
            let work = bench.upload(&attn_vision::work_list(&cu_rows));
            let starts = bench.upload(&cu_rows);
            let mut o = bench.alloc::<bf16>(rows * heads * head_dim);
            let id = format!("attn_vision/D{head_dim}/{name}");
            row!(
                bench,
                &id,
                |_| AttnVision {
                    qkv: qkv.view().into(),
                    cu_rows: starts.view(),
                    work: work.view(),
                    o: o.view_mut().into(),
                    rows: PatchRows(rows),
                    heads,
                    head_dim,
                },
                &cu_rows
            );
        }
    }
}

/// `norm/…` is the peers' plain norm; `norm_residual/…` adds to the residual stream first.
fn rms_norm(bench: &mut Bench) {
    for model in decoders(bench) {
        let channels = model.hidden;
        let weight = bench.random(channels);
        for &rows in bench.sizes(&[1, 64], &[1, 32, 1024, 4096, 16_384]) {
            let x = bench.rotated(rows * channels);
            let mut y = bench.alloc::<bf16>(rows * channels);
            let id = format!("norm/{}/T{rows}", model.name);
            row!(bench, &id, |i| RmsNorm {
                x: x[i % x.len()].view().into(),
                weight: weight.view().into(),
                y: y.view_mut().into(),
                rows: Tokens(rows),
                channels,
                eps: EPS,
            });

            let mut stream = bench.random(rows * channels);
            let id = format!("norm_residual/{}/T{rows}", model.name);
            row!(bench, &id, |i| RmsNormResidual {
                x: x[i % x.len()].view().into(),
                residual: stream.view_mut().into(),
                weight: weight.view().into(),
                y: y.view_mut().into(),
                rows: Tokens(rows),
                channels,
                eps: EPS,
            });
        }
    }
}

fn layer_norm(bench: &mut Bench) {
    let (weight, bias) = (bench.random(VISION), bench.random(VISION));
    for &rows in bench.sizes(&[64], &[1, 32, 1024, 4096, 16_384]) {
        let x = bench.rotated(rows * VISION);
        let mut y = bench.alloc::<bf16>(rows * VISION);
        let id = format!("norm/vit/T{rows}");
        row!(bench, &id, |i| LayerNorm {
            x: x[i % x.len()].view().into(),
            weight: weight.view().into(),
            bias: bias.view().into(),
            y: y.view_mut().into(),
            rows: PatchRows(rows),
            channels: VISION,
            eps: EPS,
        });
    }
}

fn silu_mul(bench: &mut Bench) {
    for model in decoders(bench) {
        let width = model.feed_forward;
        for &rows in bench.sizes(&[1, 64], &[1, 4096]) {
            let gate_up = bench.rotated(2 * rows * width);
            let mut y = bench.alloc::<bf16>(rows * width);
            let id = format!("swiglu/{}/T{rows}", model.name);
            row!(bench, &id, |i| SiluMul {
                gate_up: gate_up[i % gate_up.len()].view().into(),
                y: y.view_mut().into(),
                rows: Tokens(rows),
                width,
            });
        }
    }
}

/// ReLU, which no value drifts under in place; what a tower with another activation adds to a block.
fn activate(bench: &mut Bench) {
    for &rows in bench.sizes(&[64], &[1024, 4096]) {
        let mut y = bench.random(rows * 4 * VISION);
        row!(bench, &format!("activate/R{rows}"), |_| Activate {
            y: y.view_mut().into(),
            function: Activation::Relu,
        });
    }
}

/// Every angle is a quarter turn: exact, so that no value drifts over a million launches in place.
fn mrope(bench: &mut Bench) {
    for model in decoders(bench) {
        for &rows in bench.sizes(&[64], &[1, 32, 1024, 4096]) {
            let turn = [bf16::ZERO, bf16::ONE];
            let table = bench.upload(&turn.repeat(rows * HEAD_DIM / 2));
            let ids: Vec<i32> = (0..3 * rows).map(|i| int(i % rows)).collect();
            let ids = bench.upload(&ids);
            let mut qkv = bench.random(rows * model.fused());
            let id = format!("mrope/{}/T{rows}", model.name);
            row!(bench, &id, |_| Mrope {
                qkv: qkv.view_mut().into(),
                table: table.view().into(),
                ids: ids.view(),
                rows: Tokens(rows),
                heads: model.heads,
                kv_heads: model.kv_heads,
                head_dim: HEAD_DIM,
                sections: SECTIONS,
            });
        }
    }
}

fn rope_vision(bench: &mut Bench) {
    for &side in bench.sizes(&[16], &[32, 64, 128]) {
        let rows = side * side;
        let table = bench.upload(&[0.0f32, 1.0].repeat(side * VISION_HEAD_DIM / 4));
        let places: Vec<i32> = (0..rows).flat_map(|i| [int(i / side), int(i % side)]).collect();
        let places = bench.upload(&places);
        let mut qkv = bench.random(rows * 3 * VISION);
        let id = format!("rope_vision/vit/R{rows}");
        row!(bench, &id, |_| RopeVision {
            qkv: qkv.view_mut().into(),
            table: table.view(),
            positions: places.view(),
            rows: PatchRows(rows),
            heads: VISION_HEADS,
            head_dim: VISION_HEAD_DIM,
        });
    }
}

fn embed(bench: &mut Bench) {
    for model in decoders(bench) {
        let (channels, vocabulary) = (model.hidden, bench.sizes(&[4096], &[model.vocabulary])[0]);
        let table = bench.random(vocabulary * channels);
        for &rows in bench.sizes(&[64], &[1, 1024, 4096]) {
            let ids: Vec<i32> =
                (0..rows).map(|_| int(bench.next() as usize % vocabulary)).collect();
            let (ids, source) = (bench.upload(&ids), bench.upload(&vec![-1; rows]));
            let sequence = bench.upload(&vec![0; rows]);
            let (mut y, mut status) = (bench.alloc::<bf16>(rows * channels), bench.upload(&[0u32]));
            let id = format!("embed/{}/T{rows}", model.name);
            row!(bench, &id, |_| Embed {
                table: table.view().into(),
                image_rows: None,
                ids: ids.view(),
                source: source.view(),
                sequence: sequence.view(),
                y: y.view_mut().into(),
                status: status.view_mut(),
                rows: Tokens(rows),
                channels,
                vocabulary,
            });
        }
    }
}

fn patch_embed(bench: &mut Bench) {
    const PATCH: usize = 14;
    for &side in bench.sizes(&[16], &[32, 64, 128]) {
        let pitch = (side * PATCH).next_multiple_of(16);
        let pixels: Vec<u8> =
            (0..3 * side * PATCH * pitch).map(|_| bench.next().to_le_bytes()[3]).collect();
        let pixels = bench.upload(&pixels);
        let mut y = bench.alloc::<bf16>(side * side * PATCH_ROW);
        let id = format!("patch_embed/vit/R{}", side * side);
        row!(bench, &id, |_| Patchify {
            pixels: pixels.view(),
            normalisation: Normalisation::Affine { scale: [0.015; 3], shift: [-1.7; 3] },
            y: y.view_mut().into(),
            grid: GridThw { t: 1, h: side, w: side },
            frames: 1,
            pitch,
            patch: PATCH,
            temporal: 2,
            merge: 2,
        });
    }
}
