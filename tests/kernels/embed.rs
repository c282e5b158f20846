//! `kernels/embed.cu` against its oracle, on whatever device the machine has.

use half::bf16;
use qwen2vl::{
    device::Device,
    ops::OpError,
    ops::embed::{Embed, RowGather, STATUS_RANGE},
    reference::embed::embed,
    units::Tokens,
};

use crate::check::bits;
use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::support::{self, POISON, Rng};

/// A status before the launch: its bits must stay.
const BEFORE: u32 = 0x40;

struct Case {
    table: Vec<bf16>,
    image_rows: Vec<bf16>,
    ids: Vec<i32>,
    source: Vec<i32>,
    sequence: Vec<i32>,
    channels: usize,
}

impl Case {
    fn random(label: &str, rows: usize, channels: usize) -> Self {
        let mut rng = Rng::new(label);
        let (vocabulary, images) = (50, 11);
        let number = |rng: &mut Rng, end: usize| i32::try_from(rng.below(end)).unwrap();
        let ids = (0..rows).map(|_| number(&mut rng, vocabulary)).collect();
        let source = (0..rows).map(|_| number(&mut rng, 2 * images) - 11).map(|s| s.max(-1));
        let source = source.collect();
        let sequence = (0..rows).map(|row| i32::from(row % 3 == 2)).collect();
        let (table, image_rows) =
            (rng.bf16(vocabulary * channels, 2.0), rng.bf16(images * channels, 2.0));
        Self { table, image_rows, ids, source, sequence, channels }
    }

    fn run(&self, device: &Device) -> Result<(Vec<bf16>, Vec<u32>), OpError> {
        let (table, image_rows) = (device.upload(&self.table)?, device.upload(&self.image_rows)?);
        let (ids, source) = (device.upload(&self.ids)?, device.upload(&self.source)?);
        let sequence = device.upload(&self.sequence)?;
        let mut y = Guarded::new(device, self.ids.len() * self.channels);
        let mut status = Guarded::holding(device, &[BEFORE; 2]);
        Embed {
            table: table.view().into(),
            image_rows: (!self.image_rows.is_empty()).then(|| image_rows.view().into()),
            ids: ids.view(),
            source: source.view(),
            sequence: sequence.view(),
            y: y.view_mut().into(),
            status: status.view_mut(),
            rows: Tokens(self.ids.len()),
            channels: self.channels,
            vocabulary: self.table.len() / self.channels,
        }
        .launch(device)?;
        Ok((y.read(device, "embed"), status.read(device, "embed")))
    }

    fn check(&self, label: &str) {
        let run = || {
            let (y, status) = self.run(support::device()).expect(label);
            (bits(&y), status)
        };
        let (got, status) = in_every_order(label, run);
        let rows = embed(&self.table, &self.image_rows, &self.ids, &self.source, self.channels);
        let zeros = vec![bf16::ZERO; self.channels];
        let want: Vec<bf16> = rows.iter().flat_map(|row| row.unwrap_or(&zeros)).copied().collect();
        assert_eq!(got, bits(&want), "{label}");
        let mut faults = [BEFORE; 2];
        for (row, sequence) in rows.iter().zip(&self.sequence) {
            if row.is_none() {
                faults[usize::try_from(*sequence).unwrap()] |= STATUS_RANGE;
            }
        }
        assert_eq!(status, faults, "{label}");
    }
}

/// (T, C, why this shape)
const SHAPES: &[(usize, usize, &str)] = &[
    (1, 8, "one lane has work"),
    (5, 24, "part of a warp, one row past a block"),
    (4, 256, "one step of a warp"),
    (7, 264, "one access past a step"),
    (9, 1536, "2B"),
];

#[test]
fn rows_come_from_the_table_and_from_pictures() {
    for &(rows, channels, shape) in SHAPES {
        let label = format!("embed T={rows} C={channels} ({shape})");
        Case::random(&label, rows, channels).check(&label);
    }
}

#[test]
fn gpu_small_rows_come_from_the_table_and_from_pictures() {
    Case::random("embed small", 5, 24).check("embed small");
}

#[test]
fn a_number_out_of_range_is_a_zero_row_and_a_status_bit() {
    // (ids of sequence 0, source, why)
    let cases = [
        (50, -1, "an id one past the vocabulary"),
        (-1, -1, "a negative id"),
        (i32::MAX, -1, "the largest id"),
        (3, 11, "a picture row one past the last"),
        (3, i32::MAX, "the largest picture row"),
    ];
    for (id, source, why) in cases {
        let mut case = Case::random(why, 6, 24);
        (case.ids[0], case.source[0]) = (id, source);
        case.check(why);
    }
}

#[test]
fn a_picture_row_without_pictures_is_out_of_range() {
    let mut case = Case::random("no pictures", 6, 24);
    case.image_rows.clear();
    case.source[2] = 0;
    case.check("no pictures");
}

#[test]
fn no_rows_is_no_launch() {
    let mut case = Case::random("no rows", 1, 24);
    (case.ids, case.source, case.sequence) = (vec![], vec![], vec![]);
    case.check("no rows");
}

#[test]
fn views_of_other_lengths_are_refused() {
    let mut case = Case::random("refused", 4, 24);
    case.source.pop();
    let error = case.run(support::device()).unwrap_err();
    assert_eq!(error.to_string(), "embed: source has 3 elements, expected 4");
    let mut case = Case::random("refused", 4, 24);
    case.image_rows.pop();
    let error = case.run(support::device()).unwrap_err();
    assert_eq!(error.to_string(), "embed: image_rows has 263 elements, expected 240");
    let case = Case { channels: 12, ..Case::random("refused", 4, 24) };
    let error = case.run(support::device()).unwrap_err();
    assert_eq!(error.to_string(), "embed: C = 12, but C must be a positive multiple of 8");
}

fn gather(x: &[bf16], index: &[i32], channels: usize) -> Result<(Vec<bf16>, Vec<u32>), OpError> {
    let device = support::device();
    let (x, index_device) = (device.upload(x)?, device.upload(index)?);
    let mut y = Guarded::new(device, index.len() * channels);
    let mut status = Guarded::holding(device, &vec![BEFORE; index.len()]);
    RowGather {
        x: x.view().into(),
        index: index_device.view(),
        y: y.view_mut().into(),
        status: status.view_mut(),
        rows: index.len(),
        channels,
    }
    .launch(device)?;
    Ok((y.read(device, "embed"), status.read(device, "embed")))
}

#[test]
fn gpu_small_chosen_rows_are_gathered() {
    let x = Rng::new("gather").bf16(7 * 40, 1.0);
    let (y, status) = gather(&x, &[6, -1, 0, 7, 3], 40).unwrap();
    let zeros = [bf16::ZERO; 40];
    let want = [&x[240..280], &zeros, &x[..40], &zeros, &x[120..160]].concat();
    assert_eq!(bits(&y), bits(&want));
    assert_eq!(status, [BEFORE, BEFORE, BEFORE, BEFORE | STATUS_RANGE, BEFORE]);
}

#[test]
fn part_of_a_row_is_refused() {
    let error = gather(&[POISON; 44], &[0], 40).unwrap_err();
    assert_eq!(error.to_string(), "row_gather: x has 44 elements, expected 40");
}
