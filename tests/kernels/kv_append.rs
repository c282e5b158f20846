//! `kernels/kv_append.cu` against its oracle: a copy, bit for bit.

use half::bf16;
use qwen2vl::ops::kv::KvLayout;
use qwen2vl::ops::{OpError, kv_append::KvAppend};
use qwen2vl::reference::attn::Heads;
use qwen2vl::reference::kv_append::kv_append as oracle;
use qwen2vl::units::Tokens;

use crate::guarded::{Guarded, Number};
use crate::paged::assert_same_bits;
use crate::support::{POISON, Rng, device};

const LAYERS: usize = 3;

struct Input {
    shape: Heads,
    layout: KvLayout,
    qkv: Vec<bf16>,
    slots: Vec<i32>,
}

impl Input {
    /// Rows in slots of four pages, scattered and all different, every fifth row skipped.
    fn random(rows: usize, shape: Heads, label: &str) -> Self {
        let mut rng = Rng::new(label);
        let fused = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let qkv = rng.bf16(rows * fused, 1.0);
        // 37 is coprime to 256, so slots are different.
        let slot = |row: usize| if row % 5 == 4 { -1 } else { (row * 37 % 256) as i32 };
        let layout = KvLayout {
            pages: 4,
            layers: LAYERS,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        };
        Self { shape, layout, qkv, slots: (0..rows).map(slot).collect() }
    }

    fn run(&self, layer: usize, label: &str) -> Result<Vec<bf16>, OpError> {
        let pool = vec![POISON; self.layout.elements().unwrap()];
        let mut pool = Guarded::holding(device(), &pool);
        let (qkv, slots) = (device().upload(&self.qkv)?, device().upload(&self.slots)?);
        KvAppend {
            qkv: qkv.view().into(),
            slots: slots.view(),
            pool: pool.view_mut().into(),
            layout: self.layout,
            layer,
            rows: Tokens(self.slots.len()),
            heads: self.shape.heads,
        }
        .launch(device())?;
        Ok(pool.read(device(), label))
    }

    fn check(&self, layer: usize, label: &str) {
        let mut want = vec![POISON; self.layout.elements().unwrap()];
        oracle(&mut want, &self.qkv, &self.slots, self.shape, (LAYERS, layer));
        assert_same_bits(&self.run(layer, label).expect(label), &want, label);
    }
}

/// (T, H, G, D, why this shape)
const SHAPES: &[(usize, usize, usize, usize, &str)] = &[
    (1, 1, 1, 8, "one thread for a key, one for a value"),
    (7, 4, 2, 32, "the demo's heads"),
    (65, 12, 2, 128, "2B, more than a page"),
];

#[test]
fn matches_the_oracle() {
    for &(rows, heads, kv_heads, head_dim, why) in SHAPES {
        for layer in 0..LAYERS {
            let label = format!("kv_append T={rows} H={heads} G={kv_heads} layer {layer}: {why}");
            Input::random(rows, Heads { heads, kv_heads, head_dim }, &label).check(layer, &label);
        }
    }
}

#[test]
fn matches_the_oracle_gpu_small() {
    let shape = Heads { heads: 2, kv_heads: 1, head_dim: 64 };
    Input::random(6, shape, "kv_append small").check(1, "kv_append small");
}

#[test]
fn bits_of_a_signalling_nan_are_kept() {
    let shape = Heads { heads: 1, kv_heads: 1, head_dim: 8 };
    let mut input = Input::random(1, shape, "nan");
    input.qkv.fill(bf16::UNREADABLE);
    let got = input.run(0, "nan").unwrap();
    assert_eq!(got.iter().filter(|v| v.to_bits() == bf16::UNREADABLE.to_bits()).count(), 16);
}

#[test]
fn a_layer_past_the_pool_is_refused() {
    let shape = Heads { heads: 1, kv_heads: 1, head_dim: 8 };
    let error = Input::random(1, shape, "layer").run(LAYERS, "layer").unwrap_err();
    assert_eq!(error.to_string(), "kv_append: layer = 3, but the pool has fewer layers");
}

#[test]
fn slots_of_other_rows_are_refused() {
    let shape = Heads { heads: 1, kv_heads: 1, head_dim: 8 };
    let mut input = Input::random(2, shape, "slots");
    input.slots.pop();
    let error = input.run(0, "slots").unwrap_err();
    assert_eq!(error.to_string(), "kv_append: qkv has 48 elements, expected 24");
}
