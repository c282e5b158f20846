//! `kernels/gemv.cu` against its oracle, and against the tiles of `kernels/gemm.cu` bit for bit.

use half::bf16;
use qwen2vl::ops::{gemm::TILES, gemv::FORMS};

use crate::check::bits;
use crate::gemm::{Case, Kind};
use crate::orders::in_every_order;
use crate::support::{self, Rng};

/// (N, K, why this shape): four warps take a group of 256 each in a round.
const SHAPES: &[(usize, usize, &str)] = &[
    (8, 16, "half a row tile, one step of one warp"),
    (24, 240, "one group, not whole"),
    (72, 272, "two warps have work, the second one step"),
    (40, 1024, "exactly a round"),
    (136, 1040, "a second round of one step"),
    (16, 1296, "a second round of two groups"),
    (104, 2304, "three rounds, the last of one group"),
];

#[test]
fn every_form_has_the_bits_of_the_tiles() {
    let device = support::device();
    for &(outputs, inputs, why) in SHAPES {
        for form in &FORMS {
            if u64::from(form.shared_bytes) > device.shared_limit().0 {
                continue;
            }
            for rows in [1, form.rows / 2 + 1, form.rows] {
                let label = format!("{} M={rows} N={outputs} K={inputs} ({why})", form.name());
                let case = Case::random(&label, rows, outputs, inputs);
                let got = case.run(device, Some(form), Kind::Store).expect(&label);
                let tile = case.run(device, Some(&TILES[3]), Kind::Store).expect(&label);
                assert_eq!(bits(&got), bits(&tile), "{label}");
                case.check(&got, &label);
            }
        }
    }
}

#[test]
fn gpu_small_the_direct_form_matches_the_oracle() {
    let case = Case::random("gemv small", 2, 24, 272);
    let got = case.run(support::device(), Some(&FORMS[0]), Kind::Store).unwrap();
    case.check(&got, "gemv small");
}

#[test]
fn the_order_of_blocks_and_warps_changes_no_bit() {
    for form in &FORMS {
        let case = Case::random(form.name(), form.rows, 136, 1360);
        let run = || bits(&case.run(support::device(), Some(form), Kind::Store).unwrap());
        in_every_order(form.name(), run);
    }
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let device = support::device();
    for form in &FORMS {
        let mut case = Case::random(form.name(), form.rows, 40, 528);
        case.x[0] = bf16::NAN;
        let together = case.run(device, Some(form), Kind::Store).unwrap();
        let last = form.rows - 1;
        let x = case.x[last * case.inputs..].to_vec();
        let alone = Case { x, rows: 1, ..case.clone() };
        let alone = alone.run(device, Some(form), Kind::Store).unwrap();
        assert_eq!(bits(&together[last * case.outputs..]), bits(&alone), "{}", form.name());
    }
}

#[test]
fn the_residual_is_read_only_where_it_is_written() {
    // One row of eight that the tile has: the guards behind it are not read as rows.
    let device = support::device();
    let case = Case::random("residual", 1, 24, 48);
    let old = Rng::new("old").bf16(24, 1.0);
    for form in &FORMS {
        let got = case.run(device, Some(form), Kind::Residual(&old)).unwrap();
        assert!(got.iter().all(|value| value.is_finite()), "{}", form.name());
    }
}

#[test]
fn more_rows_than_a_form_takes_are_refused() {
    let case = Case::random("too many rows", 9, 24, 48);
    let error = case.run(support::device(), Some(&FORMS[0]), Kind::Store).unwrap_err();
    let want = "gemm: M = 9, but M must be within the rows of a few-row form";
    assert_eq!(error.to_string(), want);
}
