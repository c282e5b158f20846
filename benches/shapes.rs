//! Shapes of the published models; the rows "2B", "7B" and "tower" of the kernel tests have them too.

/// Channels of a decoder's head.
pub(crate) const HEAD_DIM: usize = 128;
/// Frequencies that turn by time, height, width.
pub(crate) const SECTIONS: [usize; 3] = [16, 24, 24];
/// Added in norms.
pub(crate) const EPS: f32 = 1e-6;

/// One published decoder.
#[derive(Clone, Copy)]
pub(crate) struct Decoder {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) feed_forward: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocabulary: usize,
}

pub(crate) const DECODERS: [Decoder; 2] = [
    Decoder {
        name: "2b",
        hidden: 1536,
        feed_forward: 8960,
        layers: 28,
        heads: 12,
        kv_heads: 2,
        vocabulary: 151_936,
    },
    Decoder {
        name: "7b",
        hidden: 3584,
        feed_forward: 18_944,
        layers: 28,
        heads: 28,
        kv_heads: 4,
        vocabulary: 152_064,
    },
];

/// The vision tower of all of them: channels, heads, columns of a patch row padded to 16.
pub(crate) const VISION: usize = 1280;
pub(crate) const VISION_HEADS: usize = 16;
pub(crate) const VISION_HEAD_DIM: usize = 80;
pub(crate) const PATCH_ROW: usize = 1184;

/// A linear layer: name, outputs, inputs.
pub(crate) type Linear = (&'static str, usize, usize);

impl Decoder {
    /// Columns of queries, keys and values.
    pub(crate) fn fused(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * HEAD_DIM
    }

    pub(crate) fn linears(&self) -> [Linear; 5] {
        let (hidden, inner) = (self.hidden, self.feed_forward);
        [
            ("qkv", self.fused(), hidden),
            ("o", hidden, self.heads * HEAD_DIM),
            ("gate_up", 2 * inner, hidden),
            ("down", hidden, inner),
            ("lm_head", self.vocabulary, hidden),
        ]
    }
}

/// Linear layers of the tower; the first merger layer takes four patches.
pub(crate) const VISION_LINEARS: [Linear; 6] = [
    ("patch_embed", VISION, PATCH_ROW),
    ("qkv", 3 * VISION, VISION),
    ("proj", VISION, VISION),
    ("fc1", 4 * VISION, VISION),
    ("fc2", VISION, 4 * VISION),
    ("merger1", 4 * VISION, 4 * VISION),
];
