//! `kernels/mrope.cu` against its oracle, bit for bit: every step is one rounded operation.

use half::bf16;
use qwen2vl::ops::{OpError, mrope::Mrope};
use qwen2vl::reference::mrope::mrope as oracle;
use qwen2vl::units::Tokens;

use crate::guarded::Guarded;
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};

/// (T, H, G, D, sections, why this shape)
type Case = (usize, usize, usize, usize, [usize; 3], &'static str);

const CASES: &[Case] = &[
    (1, 1, 1, 16, [2, 3, 3], "sections that share a thread"),
    (5, 4, 2, 32, [4, 6, 6], "the demo's heads"),
    (3, 12, 2, 128, [16, 24, 24], "2B"),
    (33, 3, 1, 64, [8, 12, 12], "more than a block"),
    (2, 2, 2, 32, [16, 0, 0], "time alone"),
    (2, 2, 2, 32, [0, 0, 16], "width alone"),
];
const TABLE_ROWS: usize = 40;

struct Input {
    qkv: Vec<bf16>,
    table: Vec<bf16>,
    ids: [Vec<usize>; 3],
    case: Case,
}

impl Input {
    fn random(case: Case, label: &str) -> Self {
        let (rows, heads, kv_heads, head_dim, ..) = case;
        let mut rng = Rng::new(label);
        let angles = (0..TABLE_ROWS * head_dim / 2).map(|_| rng.f32(3.2));
        let table = angles.flat_map(|a| [a.cos(), a.sin()].map(bf16::from_f32)).collect();
        let ids = [0, 1, 2].map(|_| (0..rows).map(|_| rng.below(TABLE_ROWS)).collect());
        Self { qkv: rng.bf16(rows * (heads + 2 * kv_heads) * head_dim, 4.0), table, ids, case }
    }

    fn run(&self, label: &str) -> Result<Vec<bf16>, OpError> {
        let (rows, heads, kv_heads, head_dim, sections, _) = self.case;
        let mut qkv = Guarded::holding(device(), &self.qkv);
        let table = device().upload(&self.table)?;
        let ids: Vec<i32> = self.ids.iter().flatten().map(|&id| id as i32).collect();
        let ids = device().upload(&ids)?;
        Mrope {
            qkv: qkv.view_mut().into(),
            table: table.view().into(),
            ids: ids.view(),
            rows: Tokens(rows),
            heads,
            kv_heads,
            head_dim,
            sections,
        }
        .launch(device())?;
        Ok(qkv.read(device(), label))
    }

    fn check(&self, label: &str) {
        let (_, heads, kv_heads, _, sections, _) = self.case;
        let mut want = self.qkv.clone();
        oracle(&mut want, &self.table, &self.ids, sections, heads + kv_heads);
        assert_same_bits(&self.run(label).expect(label), &want, label);
    }
}

#[test]
fn matches_the_oracle() {
    for case in CASES {
        let label = format!("mrope {case:?}");
        Input::random(*case, &label).check(&label);
    }
}

#[test]
fn matches_the_oracle_gpu_small() {
    let case = (3, 2, 1, 128, [16, 24, 24], "three rows");
    Input::random(case, "mrope small").check("mrope small");
}

#[test]
fn three_roundings_are_kept() {
    // x cos = (1 + 2^-7)^2 rounds to 1 + 2^-6, which is partner * sin; with one rounding, at the
    // end, their difference would be 2^-14.
    let one_step = bf16::from_f32(1.0078125);
    let mut input = Input::random((1, 1, 1, 16, [8, 0, 0], "one pair"), "three roundings");
    input.qkv.fill(one_step);
    input.table = [one_step, bf16::from_f32(1.015625)].repeat(TABLE_ROWS * 8);
    input.qkv[8..16].fill(bf16::ONE);
    let got = input.run("three roundings").unwrap();
    assert_eq!(got[0].to_f32(), 0.0);
    input.check("three roundings");
}

#[test]
fn sections_that_do_not_fill_the_head_are_refused() {
    let case = (1, 1, 1, 16, [2, 2, 2], "six of eight");
    let error = Input::random(case, "refused").run("sections").unwrap_err();
    assert_eq!(error.to_string(), "mrope: sections = 6, but their sum must be D / 2");
}

#[test]
fn ids_of_other_rows_are_refused() {
    let mut input = Input::random((2, 1, 1, 16, [8, 0, 0], "two rows"), "refused");
    input.ids[2].pop();
    let error = input.run("ids").unwrap_err();
    assert_eq!(error.to_string(), "mrope: ids has 5 elements, expected 6");
}
