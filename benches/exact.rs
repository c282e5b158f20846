//! Rows of exact mode: the f32 kernels, which serve comparisons.

use qwen2vl::ops::attn_vision::{self, AttnVision};
use qwen2vl::ops::gemm::{Gemm, Output};
use qwen2vl::units::PatchRows;

use crate::harness::{Bench, int};
use crate::shapes::{VISION_HEAD_DIM, VISION_HEADS};

pub(crate) fn gemm_f32(bench: &mut Bench) {
    let (outputs, inputs) = (2048, 1536);
    for &rows in bench.sizes(&[1, 128], &[1, 128, 1024]) {
        let (x, weight) = (bench.f32s(rows * inputs, 1.0), bench.f32s(outputs * inputs, 1.0));
        let (x, weight) = (bench.upload(&x), bench.upload(&weight));
        let mut y = bench.alloc::<f32>(rows * outputs);
        row!(bench, &format!("gemm_f32/2b/qkv/M{rows}"), |_| Gemm {
            x: x.view().into(),
            weight: weight.view().into(),
            bias: None,
            y: Output::Store(y.view_mut().into()),
            rows,
            outputs,
            inputs,
        });
    }
}

pub(crate) fn attn_f32(bench: &mut Bench) {
    let (heads, head_dim) = (VISION_HEADS, VISION_HEAD_DIM);
    for &rows in bench.sizes(&[64], &[1024, 4096]) {
        let qkv = bench.f32s(rows * 3 * heads * head_dim, 1.0);
        let starts = [0, int(rows)];
        let (qkv, cu_rows) = (bench.upload(&qkv), bench.upload(&starts));
        let work = bench.upload(&attn_vision::work_list(&starts));
        let mut o = bench.alloc::<f32>(rows * heads * head_dim);
        row!(
            bench,
            &format!("attn_f32/vision/1x{rows}"),
            |_| AttnVision {
                qkv: qkv.view().into(),
                cu_rows: cu_rows.view(),
                work: work.view(),
                o: o.view_mut().into(),
                rows: PatchRows(rows),
                heads,
                head_dim,
            },
            &starts
        );
    }
}
