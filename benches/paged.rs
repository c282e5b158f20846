//! The kernels that work on pages of keys and values.

use half::bf16;
use qwen2vl::device::Buffer;
use qwen2vl::ops::attn_decode::{self, AttnDecode, AttnPartLens, AttnParts};
use qwen2vl::ops::attn_prefill::{self, AttnPrefill};
use qwen2vl::ops::attn_probs::{self, AttnProbs};
use qwen2vl::ops::kv::{KvCache, KvLayout};
use qwen2vl::ops::kv_append::KvAppend;
use qwen2vl::ops::kv_copy::{KvCopyPages, KvGather};
use qwen2vl::units::{PAGE_TOKENS, Tokens};

use crate::decoders;
use crate::harness::{Bench, int};
use crate::shapes::{Decoder, HEAD_DIM};

/// Equal sequences over pages in falling order, in a pool of layers that launches rotate through.
struct Step {
    rows: usize,
    layout: KvLayout,
    cu_rows: Vec<i32>,
    kv_len: Vec<i32>,
    qkv: Buffer<bf16>,
    pool: Buffer<bf16>,
    starts: Buffer<i32>,
    table: Buffer<i32>,
}

impl Step {
    /// `sequences` of `keys` tokens each, of which the last `new` are this step's rows.
    fn new(bench: &Bench, model: &Decoder, sequences: usize, new: usize, keys: usize) -> Self {
        let pages = sequences * keys.div_ceil(PAGE_TOKENS);
        let layer = 4 * pages * PAGE_TOKENS * model.kv_heads * HEAD_DIM;
        let layers = bench.copies(layer, 160);
        let layout = KvLayout { pages, layers, kv_heads: model.kv_heads, head_dim: HEAD_DIM };
        let cu_rows: Vec<i32> = (0..=sequences).map(|i| int(i * new)).collect();
        let table: Vec<i32> = (0..pages).rev().map(int).collect();
        Self {
            rows: sequences * new,
            layout,
            kv_len: vec![int(keys); sequences],
            qkv: bench.random(sequences * new * model.fused()),
            pool: bench.random(layout.elements().unwrap()),
            starts: bench.upload(&cu_rows),
            table: bench.upload(&table),
            cu_rows,
        }
    }

    fn cache(&self, layer: usize) -> KvCache<'_> {
        KvCache {
            pool: self.pool.view().into(),
            layout: self.layout,
            layer: layer % self.layout.layers,
            cu_rows: self.starts.view(),
            page_table: self.table.view(),
            pages_per_sequence: self.layout.pages / self.kv_len.len(),
        }
    }
}

/// The weights alone: what a pass with attentions adds to a layer.
pub(crate) fn attn_probs(bench: &mut Bench) {
    let model = &decoders(bench)[0];
    for &tokens in bench.sizes(&[128], &[1024]) {
        let step = Step::new(bench, model, 1, tokens, tokens);
        let items: Vec<_> = attn_probs::items(0, 0, int(tokens), int(tokens)).collect();
        let work = bench.upload(items.as_flattened());
        let mut probs = bench.alloc::<f32>(tokens * model.heads * tokens);
        row!(
            bench,
            &format!("attn_probs/{}/S{tokens}", model.name),
            |i| AttnProbs {
                qkv: step.qkv.view().into(),
                cache: step.cache(i),
                work: work.view(),
                probs: probs.view_mut(),
                columns: tokens,
                rows: Tokens(step.rows),
                heads: model.heads,
                window: None,
            },
            &items
        );
    }
}

pub(crate) fn attn_prefill(bench: &mut Bench) {
    for model in decoders(bench) {
        for &tokens in bench.sizes(&[256], &[1024, 4096, 16_384]) {
            let step = Step::new(bench, model, 1, tokens, tokens);
            let work = bench.upload(&attn_prefill::work_list(&step.cu_rows, &step.kv_len));
            let mut o = bench.alloc::<bf16>(tokens * model.heads * HEAD_DIM);
            let id = format!("attn_prefill/{}/S{tokens}", model.name);
            row!(
                bench,
                &id,
                |i| AttnPrefill {
                    qkv: step.qkv.view().into(),
                    cache: step.cache(i),
                    work: work.view(),
                    o: o.view_mut().into(),
                    rows: Tokens(step.rows),
                    heads: model.heads,
                    window: None,
                },
                &step.cu_rows,
                &step.kv_len
            );
        }
    }
}

pub(crate) fn attn_decode(bench: &mut Bench) {
    for model in decoders(bench) {
        for &sequences in bench.sizes(&[1], &[1, 8, 32]) {
            for &context in bench.sizes(&[1024], &[1024, 8192]) {
                let step = Step::new(bench, model, sequences, 1, context);
                let work = bench.upload(&attn_decode::work_list(&step.cu_rows, &step.kv_len));
                let max_segments = attn_decode::segments(Tokens(context));
                let lens = AttnPartLens::new(sequences, model.heads, &step.layout, max_segments);
                let lens = lens.unwrap();
                let mut outputs = bench.alloc(lens.outputs);
                let mut states = bench.alloc(lens.states);
                let mut counters = bench.device.zeros(lens.counters).unwrap();
                let mut o = bench.alloc::<bf16>(sequences * model.heads * HEAD_DIM);
                let id = format!("attn_decode/{}/B{sequences}/ctx{context}", model.name);
                row!(
                    bench,
                    &id,
                    |i| AttnDecode {
                        qkv: step.qkv.view().into(),
                        cache: step.cache(i),
                        work: work.view(),
                        parts: AttnParts {
                            outputs: outputs.view_mut(),
                            states: states.view_mut(),
                            counters: counters.view_mut(),
                            max_segments,
                        },
                        o: o.view_mut().into(),
                        rows: Tokens(step.rows),
                        heads: model.heads,
                        window: None,
                    },
                    &step.kv_len
                );
            }
        }
    }
}

pub(crate) fn kv_append(bench: &mut Bench) {
    for model in decoders(bench) {
        for &rows in bench.sizes(&[64], &[1, 32, 1024, 4096]) {
            let Step { layout, qkv, mut pool, .. } = Step::new(bench, model, 1, rows, rows);
            let slots: Vec<i32> = (0..rows).map(int).collect();
            let slots = bench.upload(&slots);
            let id = format!("kv_append/{}/T{rows}", model.name);
            row!(bench, &id, |i| KvAppend {
                qkv: qkv.view().into(),
                slots: slots.view(),
                pool: pool.view_mut().into(),
                layout,
                layer: i % layout.layers,
                rows: Tokens(rows),
                heads: model.heads,
            });
        }
    }
}

/// Both kernels of `kv_copy`: whole pages of all layers, and dense rows of one.
pub(crate) fn kv_copy(bench: &mut Bench) {
    for model in decoders(bench) {
        let (kv_heads, layers) = (model.kv_heads, model.layers);
        for &copied in bench.sizes(&[2], &[1, 64]) {
            let layout = KvLayout { pages: 2 * copied, layers, kv_heads, head_dim: HEAD_DIM };
            let mut pool = bench.random(layout.elements().unwrap());
            let pages: Vec<i32> = (0..2 * copied).map(int).collect();
            let (src, dst) = (bench.upload(&pages[..copied]), bench.upload(&pages[copied..]));
            let id = format!("kv_copy/{}/pages{copied}", model.name);
            row!(bench, &id, |_| KvCopyPages {
                pool: pool.view_mut().into(),
                layout,
                src: src.view(),
                dst: dst.view(),
            });
        }
        for &tokens in bench.sizes(&[256], &[1024, 8192]) {
            let step = Step::new(bench, model, 1, 1, tokens);
            let row = model.kv_heads * HEAD_DIM;
            let (mut keys, mut values) =
                (bench.alloc::<bf16>(tokens * row), bench.alloc::<bf16>(tokens * row));
            let id = format!("kv_gather/{}/S{tokens}", model.name);
            row!(bench, &id, |i| KvGather {
                pool: step.pool.view().into(),
                layout: step.layout,
                layer: i % step.layout.layers,
                pages: step.table.view(),
                keys: keys.view_mut().into(),
                values: values.view_mut().into(),
                tokens: Tokens(tokens),
            });
        }
    }
}
