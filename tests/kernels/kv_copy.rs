//! `kernels/kv_copy.cu` against its oracles: copies, bit for bit.

use half::bf16;
use qwen2vl::ops::OpError;
use qwen2vl::ops::kv::KvLayout;
use qwen2vl::ops::kv_copy::{KvCopyPages, KvGather};
use qwen2vl::reference::{attn::Heads, kv_copy};
use qwen2vl::units::Tokens;

use crate::guarded::Guarded;
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};

const SMALL: KvLayout = KvLayout { pages: 5, layers: 2, kv_heads: 2, head_dim: 32 };

fn pool(layout: &KvLayout, label: &str) -> Vec<bf16> {
    Rng::new(label).bf16(layout.elements().unwrap(), 1.0)
}

fn copy_pages(
    layout: KvLayout,
    content: &[bf16],
    src: &[usize],
    dst: &[usize],
) -> Result<Vec<bf16>, OpError> {
    let upload = |pages: &[usize]| {
        device().upload(&pages.iter().map(|&page| page as i32).collect::<Vec<_>>())
    };
    let mut pool = Guarded::holding(device(), content);
    let (src, dst) = (upload(src)?, upload(dst)?);
    KvCopyPages { pool: pool.view_mut().into(), layout, src: src.view(), dst: dst.view() }
        .launch(device())?;
    Ok(pool.read(device(), "kv_copy_pages"))
}

fn check_copy(layout: KvLayout, src: &[usize], dst: &[usize], label: &str) {
    let mut want = pool(&layout, label);
    let got = copy_pages(layout, &want, src, dst).expect(label);
    kv_copy::kv_copy_pages(&mut want, layout.page_stride(), src, dst);
    assert_same_bits(&got, &want, label);
}

fn gather(
    layout: KvLayout,
    layer: usize,
    tokens: usize,
    pages: &[usize],
    content: &[bf16],
) -> Result<[Vec<bf16>; 2], OpError> {
    let elements = tokens * layout.kv_heads * layout.head_dim;
    let mut keys = Guarded::new(device(), elements);
    let mut values = Guarded::new(device(), elements);
    let pool = device().upload(content)?;
    let pages = device().upload(&pages.iter().map(|&page| page as i32).collect::<Vec<_>>())?;
    KvGather {
        pool: pool.view().into(),
        layout,
        layer,
        pages: pages.view(),
        keys: keys.view_mut().into(),
        values: values.view_mut().into(),
        tokens: Tokens(tokens),
    }
    .launch(device())?;
    Ok([keys.read(device(), "keys"), values.read(device(), "values")])
}

fn check_gather(layout: KvLayout, layer: usize, tokens: usize, pages: &[usize]) {
    let label = format!("kv_gather {layout:?} layer {layer} S={tokens}");
    let content = pool(&layout, &label);
    let got = gather(layout, layer, tokens, pages, &content).expect(&label);
    let shape =
        Heads { heads: layout.kv_heads, kv_heads: layout.kv_heads, head_dim: layout.head_dim };
    let want = kv_copy::kv_gather(&content, pages, tokens, shape, (layout.layers, layer));
    for (got, want) in got.iter().zip(&want) {
        assert_same_bits(got, want, &label);
    }
}

#[test]
fn pages_match_the_oracle() {
    check_copy(SMALL, &[0, 3], &[4, 1], "two pages of 32 KiB");
    check_copy(SMALL, &[2], &[0], "one page");
    check_copy(SMALL, &[2, 2], &[0, 1], "one page twice");
    let larger = KvLayout { pages: 2, layers: 3, kv_heads: 2, head_dim: 72 };
    check_copy(larger, &[1], &[0], "a page of more than two blocks, the last part full");
}

#[test]
fn pages_match_the_oracle_gpu_small() {
    check_copy(SMALL, &[1], &[3], "one page, small");
}

#[test]
fn dense_rows_match_the_oracle() {
    for (tokens, pages) in [(1, &[4][..]), (64, &[2]), (65, &[3, 1]), (200, &[4, 0, 2, 1])] {
        for layer in 0..SMALL.layers {
            check_gather(SMALL, layer, tokens, pages);
        }
    }
    check_gather(KvLayout { pages: 2, layers: 1, kv_heads: 1, head_dim: 128 }, 0, 70, &[1, 0]);
}

#[test]
fn dense_rows_match_the_oracle_gpu_small() {
    check_gather(SMALL, 1, 70, &[3, 0]);
}

#[test]
fn pages_without_a_target_are_refused() {
    let error = copy_pages(SMALL, &pool(&SMALL, "refused"), &[0, 1], &[2]).unwrap_err();
    assert_eq!(error.to_string(), "kv_copy_pages: dst has 1 elements, expected 2");
}

#[test]
fn a_pool_of_another_size_is_refused() {
    let content = pool(&SMALL, "refused");
    let error = copy_pages(SMALL, &content[8..], &[0], &[2]).unwrap_err();
    let expected = content.len();
    let want = format!("kv_copy_pages: pool has {} elements, expected {expected}", expected - 8);
    assert_eq!(error.to_string(), want);
}

#[test]
fn too_few_pages_are_refused() {
    let error = gather(SMALL, 0, 65, &[1], &pool(&SMALL, "refused")).unwrap_err();
    assert_eq!(error.to_string(), "kv_gather: pages has 1 elements, expected 2");
}
