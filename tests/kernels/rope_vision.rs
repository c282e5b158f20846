//! `kernels/rope_vision.cu` against its oracle, on whatever device there is.

use half::bf16;
use qwen2vl::ops::{OpError, rope_vision::RopeVision};
use qwen2vl::reference::rope_vision::rope_vision as oracle;
use qwen2vl::units::PatchRows;

use crate::guarded::Guarded;
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};
use crate::tolerance::{assert_within, bf16_ulp};

/// (R, H, D, why this shape)
const SHAPES: &[(usize, usize, usize, &str)] = &[
    (1, 1, 16, "one thread for each of two heads"),
    (3, 2, 32, "the demo's heads"),
    (7, 16, 80, "the published tower: a piece holds row and column frequencies"),
    (65, 3, 64, "more than a block"),
];
const POSITIONS: usize = 50;

fn table(head_dim: usize) -> Vec<f32> {
    let frequencies = head_dim / 4;
    let angle = |at: usize, j: usize| at as f64 / 1e4f64.powf(j as f64 / frequencies as f64);
    (0..POSITIONS)
        .flat_map(|at| (0..frequencies).map(move |j| angle(at, j)))
        .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect()
}

struct Input {
    qkv: Vec<bf16>,
    table: Vec<f32>,
    positions: Vec<[usize; 2]>,
    heads: usize,
    head_dim: usize,
}

impl Input {
    fn random(rows: usize, heads: usize, head_dim: usize, label: &str) -> Self {
        let mut rng = Rng::new(label);
        let qkv = rng.bf16(rows * 3 * heads * head_dim, 4.0);
        let positions = (0..rows).map(|_| [rng.below(POSITIONS), rng.below(POSITIONS)]).collect();
        Self { qkv, table: table(head_dim), positions, heads, head_dim }
    }

    fn run(&self, label: &str) -> Result<Vec<bf16>, OpError> {
        let mut qkv = Guarded::holding(device(), &self.qkv);
        let table = device().upload(&self.table)?;
        let positions: Vec<i32> = self.positions.iter().flatten().map(|&p| p as i32).collect();
        let positions = device().upload(&positions)?;
        RopeVision {
            qkv: qkv.view_mut().into(),
            table: table.view(),
            positions: positions.view(),
            rows: PatchRows(self.positions.len()),
            heads: self.heads,
            head_dim: self.head_dim,
        }
        .launch(device())?;
        Ok(qkv.read(device(), label))
    }

    fn check(&self, label: &str) {
        let got = self.run(label).expect(label);
        let want = oracle(&self.qkv, &self.table, &self.positions, self.heads, self.head_dim);
        // Class B with one rounding; the two products are f32's.
        let limit = |y: f64, magnitude: f64| bf16_ulp(y) + 2f64.powi(-22) * magnitude;
        let want = want.into_iter().map(|r| (r.y, limit(r.y, r.magnitude)));
        assert_within(&got, want, label);
        let width = self.heads * self.head_dim;
        let rows = got.chunks(3 * width).zip(self.qkv.chunks(3 * width));
        for (got, input) in rows {
            assert_same_bits(&got[2 * width..], &input[2 * width..], "values");
        }
    }
}

#[test]
fn matches_the_oracle() {
    for &(rows, heads, head_dim, why) in SHAPES {
        let label = format!("rope_vision R={rows} H={heads} D={head_dim}: {why}");
        Input::random(rows, heads, head_dim, &label).check(&label);
    }
}

#[test]
fn matches_the_oracle_gpu_small() {
    Input::random(5, 2, 80, "rope_vision small").check("rope_vision small");
}

#[test]
fn position_zero_turns_nothing() {
    let mut input = Input::random(4, 2, 80, "rope_vision zero");
    input.positions.fill([0, 0]);
    assert_same_bits(&input.run("position 0").unwrap(), &input.qkv, "position 0");
}

#[test]
fn a_head_width_that_is_no_multiple_of_16_is_refused() {
    let mut input = Input::random(1, 1, 16, "rope_vision refused");
    input.head_dim = 8;
    let want = "rope_vision: D = 8, but D must be a positive multiple of 16";
    assert_eq!(input.run("D 8").unwrap_err().to_string(), want);
}

#[test]
fn rows_without_positions_are_refused() {
    let mut input = Input::random(2, 1, 16, "rope_vision refused");
    input.positions.pop();
    let want = "rope_vision: qkv has 96 elements, expected 48";
    assert_eq!(input.run("positions").unwrap_err().to_string(), want);
}
