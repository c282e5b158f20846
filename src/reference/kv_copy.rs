//! Scalar oracle of `kernels/kv_copy.cu`.

use crate::units::Float;

use super::{attn::Heads, kv_append::pool_index};

/// Pages `src` over pages `dst`, `page` elements each.
pub fn kv_copy_pages<T: Float>(pool: &mut [T], page: usize, src: &[usize], dst: &[usize]) {
    for (src, dst) in src.iter().zip(dst) {
        pool.copy_within(src * page..(src + 1) * page, dst * page);
    }
}

/// The first `tokens` tokens of a sequence's `pages`, of one layer: `[tokens, G, D]` keys, values.
pub fn kv_gather<T: Float>(
    pool: &[T],
    pages: &[usize],
    tokens: usize,
    shape: Heads,
    (layers, layer): (usize, usize),
) -> [Vec<T>; 2] {
    [0, 1].map(|value| {
        let mut rows = Vec::with_capacity(tokens * shape.kv_heads * shape.head_dim);
        for token in 0..tokens {
            let slot = pages[token / 64] * 64 + token % 64;
            for head in 0..shape.kv_heads {
                let at = pool_index(shape, layers, layer, (slot, value, head));
                rows.extend_from_slice(&pool[at..at + shape.head_dim]);
            }
        }
        rows
    })
}
