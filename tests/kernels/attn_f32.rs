//! `kernels/attn_f32.cu`: the contract of exact mode. The cases against the oracles are those of
//! `attn_vision.rs`, `attn_prefill.rs` and `attn_decode.rs`, which run in f32 too.

use qwen2vl::reference::attn::Heads;

use crate::paged::{Sequence, Step, assert_same_bits};
use crate::support::{Rng, device};

const SHAPE: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 128 };

fn prefill(sequences: &[Sequence<f32>], window: Option<usize>, label: &str) -> Vec<f32> {
    Step::new(device(), SHAPE, sequences, window).prefill(device(), label).expect(label)
}

#[test]
fn chunks_change_no_bit() {
    let row = SHAPE.heads * SHAPE.head_dim;
    for window in [None, Some(65)] {
        let label = format!("f32 chunks, window {window:?}");
        let all = Sequence::random(&mut Rng::new(&label), SHAPE, 270, 300, 2.0);
        let whole = prefill(std::slice::from_ref(&all), window, &label);
        for size in [1, 17, 64, 100] {
            let mut start = 0;
            while start < 270 {
                let end = (start + size).min(270);
                let part = all.part(SHAPE, start, end);
                let got = prefill(&[part], window, &label);
                let label = format!("{label}: rows {start}..{end}");
                assert_same_bits(&got, &whole[start * row..end * row], &label);
                // Of the small chunks every seventh: all of them would take a minute.
                start = if size == 1 { end + 6 } else { end };
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let mut rng = Rng::new("f32 neighbours");
    let sizes = [(1, 300), (5, 69), (64, 64), (17, 270), (2, 2)];
    let mut sequences: Vec<Sequence<f32>> = sizes
        .iter()
        .map(|&(rows, keys)| Sequence::random(&mut rng, SHAPE, rows, keys, 2.0))
        .collect();
    sequences[2].keys[7] = f32::NAN;
    let together = prefill(&sequences, None, "together");
    let alone: Vec<f32> = sequences
        .iter()
        .flat_map(|sequence| prefill(std::slice::from_ref(sequence), None, "alone"))
        .collect();
    assert_same_bits(&together, &alone, "together and alone");
}

#[test]
fn a_head_wider_than_128_is_refused() {
    let shape = Heads { heads: 2, kv_heads: 1, head_dim: 144 };
    let one = Sequence::<f32>::random(&mut Rng::new("refused"), shape, 1, 2, 1.0);
    let error = Step::new(device(), shape, &[one], None).decode(device(), "D 144").unwrap_err();
    let want = "attn_decode: D = 144, but in f32 it must be a multiple of 16 up to 128";
    assert_eq!(error.to_string(), want);
}
