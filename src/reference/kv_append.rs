//! Scalar oracle of `kernels/kv_append.cu`.

use crate::units::Float;

use super::attn::Heads;

/// Where in the pool `[page][layers][2][G][64][D]` a token's head starts; `value` 0 is its key,
/// 1 its value.
pub fn pool_index(
    shape: Heads,
    layers: usize,
    layer: usize,
    (slot, value, head): (usize, usize, usize),
) -> usize {
    let (page, place) = (slot / 64, slot % 64);
    let row = ((page * layers + layer) * 2 + value) * shape.kv_heads + head;
    (row * 64 + place) * shape.head_dim
}

/// Copies keys and values of `qkv` `[T, H + 2G, D]` to their slots of one layer; -1 skips a row.
pub fn kv_append<T: Float>(
    pool: &mut [T],
    qkv: &[T],
    slots: &[i32],
    shape: Heads,
    (layers, layer): (usize, usize),
) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let fused = (heads + 2 * kv_heads) * head_dim;
    for (row, slot) in qkv.chunks_exact(fused).zip(slots) {
        let Ok(slot) = usize::try_from(*slot) else { continue };
        for (i, head) in row[heads * head_dim..].chunks_exact(head_dim).enumerate() {
            let place = (slot, i / kv_heads, i % kv_heads);
            let at = pool_index(shape, layers, layer, place);
            pool[at..at + head_dim].copy_from_slice(head);
        }
    }
}
