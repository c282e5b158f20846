//! Videos: which frames are taken, and what becomes of them.

use std::fs;

use qwen2vl::media::FrameSampling;
use serde_json::Value;

use crate::support::checkpoint::goldens;

#[test]
fn sampled_frames_are_the_references() {
    let table = fs::read(goldens().join("frames/table.json")).unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    let (mut sampled, mut refused) = (0, 0);
    for row in table["rows"].as_array().unwrap() {
        let whole = |column: usize| row[column].as_u64();
        let limits = FrameSampling::default();
        let sampling = FrameSampling {
            fps: row[2].as_f64(),
            num_frames: whole(3),
            min_frames: whole(4).unwrap_or(limits.min_frames),
            max_frames: whole(5).unwrap_or(limits.max_frames),
            ..limits
        };
        let total = usize::try_from(whole(0).unwrap()).unwrap();
        let patch = usize::try_from(whole(6).unwrap_or(2)).unwrap();
        let got = sampling.indices(total, row[1].as_f64(), patch);
        if row[7] == "TypeError" {
            // With neither a rate nor a number the reference fails, and all frames are taken here.
            assert_eq!(got.unwrap(), (0..total).collect::<Vec<_>>(), "{row}");
        } else if row[7].is_string() {
            assert!(got.is_err(), "{row}: {got:?}");
            refused += 1;
        } else {
            let want: Vec<usize> = serde_json::from_value(row[7].clone()).unwrap();
            assert_eq!(got.unwrap_or_else(|error| panic!("{row}: {error}")), want, "{row}");
            sampled += 1;
        }
    }
    println!("frames: {sampled} samplings, {refused} refusals");
    assert_eq!((sampled, refused), (1625, 344));
}
