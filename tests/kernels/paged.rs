//! A step of sequences over scattered, poisoned pages: what the tests of the paged kernels share.

use half::bf16;
use qwen2vl::device::{Buffer, Device, View, ViewMut};
use qwen2vl::ops::attn_decode::{self, AttnDecode, AttnPartLens, AttnParts};
use qwen2vl::ops::attn_prefill::{self, AttnPrefill};
use qwen2vl::ops::attn_probs::{self, AttnProbs};
use qwen2vl::ops::kv::{KvCache, KvLayout};
use qwen2vl::ops::{Cost, OpError};
use qwen2vl::reference::attn::{Attended, Heads};
use qwen2vl::reference::attn_prefill::attn_prefill as oracle;
use qwen2vl::units::{PAGE_TOKENS, Tokens};

use crate::guarded::{Guarded, Number};
use crate::support::Rng;

/// Fills a work list up: the block leaves at once.
pub const NO_WORK: [i32; 4] = [-1, 0, 0, 0];
const LAYERS: usize = 2;
const LAYER: usize = 1;

/// One sequence: its new rows `[rows, H, D]`, its keys and values `[S, G, D]`.
#[derive(Clone)]
pub struct Sequence<T = bf16> {
    pub queries: Vec<T>,
    pub keys: Vec<T>,
    pub values: Vec<T>,
}

impl<T: Number> Sequence<T> {
    pub fn random(rng: &mut Rng, shape: Heads, rows: usize, tokens: usize, scale: f32) -> Self {
        let width = shape.kv_heads * shape.head_dim;
        Self {
            queries: rng.floats(rows * shape.heads * shape.head_dim, scale),
            keys: rng.floats(tokens * width, scale),
            values: rng.floats(tokens * width, 1.0),
        }
    }

    pub fn rows(&self, shape: Heads) -> usize {
        self.queries.len() / (shape.heads * shape.head_dim)
    }

    pub fn tokens(&self, shape: Heads) -> usize {
        self.keys.len() / (shape.kv_heads * shape.head_dim)
    }

    /// The sequence as it was when rows `start..end` of its new rows were the newest.
    pub fn part(&self, shape: Heads, start: usize, end: usize) -> Self {
        let (row, token) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let tokens = self.tokens(shape) - self.rows(shape) + end;
        Self {
            queries: self.queries[start * row..end * row].to_vec(),
            keys: self.keys[..tokens * token].to_vec(),
            values: self.values[..tokens * token].to_vec(),
        }
    }

    /// What the oracle makes of it.
    pub fn attended(&self, shape: Heads, window: Option<usize>) -> Vec<Attended> {
        oracle(&self.queries, &self.keys, &self.values, shape, window)
    }
}

/// Sequences in device memory, pages handed out in turn from the end of the pool. Page tails,
/// other layers, unused pages and columns that no kernel reads are signalling NaNs.
pub struct Step<T = bf16> {
    shape: Heads,
    layout: KvLayout,
    window: Option<Tokens>,
    rows: usize,
    pages_per_sequence: usize,
    cu_rows: Vec<i32>,
    kv_len: Vec<i32>,
    qkv: Buffer<T>,
    pool: Buffer<T>,
    rows_buffer: Buffer<i32>,
    table: Buffer<i32>,
}

impl<T: Number> Step<T> {
    pub fn new(
        device: &Device,
        shape: Heads,
        sequences: &[Sequence<T>],
        window: Option<usize>,
    ) -> Self {
        let Heads { heads, kv_heads, head_dim } = shape;
        let tokens: Vec<usize> = sequences.iter().map(|s| s.tokens(shape)).collect();
        let pages = tokens.iter().map(|t| t.div_ceil(PAGE_TOKENS)).sum::<usize>() + 1;
        let layout = KvLayout { pages, layers: LAYERS, kv_heads, head_dim };
        // One place more than the longest sequence needs, as a table of a larger step has.
        let pages_per_sequence = tokens.iter().max().unwrap().div_ceil(PAGE_TOKENS) + 1;

        let mut pool = vec![T::UNREADABLE; layout.elements().unwrap()];
        let mut table = vec![-1i32; sequences.len() * pages_per_sequence];
        let mut free = (1..pages).rev();
        for place in 0..pages_per_sequence {
            for (i, sequence) in sequences.iter().enumerate() {
                if place * PAGE_TOKENS >= tokens[i] {
                    continue;
                }
                let page = free.next().unwrap();
                table[i * pages_per_sequence + place] = page as i32;
                for head in 0..kv_heads {
                    let end = tokens[i].min((place + 1) * PAGE_TOKENS);
                    for token in place * PAGE_TOKENS..end {
                        let from = (token * kv_heads + head) * head_dim;
                        for (value, data) in [&sequence.keys, &sequence.values].iter().enumerate() {
                            let block = ((page * LAYERS + LAYER) * 2 + value) * kv_heads + head;
                            let to = (block * PAGE_TOKENS + token % PAGE_TOKENS) * head_dim;
                            pool[to..to + head_dim].copy_from_slice(&data[from..from + head_dim]);
                        }
                    }
                }
            }
        }

        let mut qkv = Vec::new();
        for row in sequences.iter().flat_map(|s| s.queries.chunks(heads * head_dim)) {
            qkv.extend_from_slice(row);
            qkv.extend(std::iter::repeat_n(T::UNREADABLE, 2 * kv_heads * head_dim));
        }
        let mut cu_rows = vec![0i32];
        for sequence in sequences {
            cu_rows.push(cu_rows.last().unwrap() + sequence.rows(shape) as i32);
        }
        Self {
            shape,
            layout,
            window: window.map(Tokens),
            rows: *cu_rows.last().unwrap() as usize,
            pages_per_sequence,
            kv_len: tokens.iter().map(|&t| t as i32).collect(),
            qkv: device.upload(&qkv).unwrap(),
            pool: device.upload(&pool).unwrap(),
            rows_buffer: device.upload(&cu_rows).unwrap(),
            table: device.upload(&table).unwrap(),
            cu_rows,
        }
    }

    fn cache(&self) -> KvCache<'_> {
        KvCache {
            pool: self.pool.view().into(),
            layout: self.layout,
            layer: LAYER,
            cu_rows: self.rows_buffer.view(),
            page_table: self.table.view(),
            pages_per_sequence: self.pages_per_sequence,
        }
    }

    fn prefill_op<'a>(&'a self, work: View<'a, i32>, o: ViewMut<'a, T>) -> AttnPrefill<'a> {
        AttnPrefill {
            qkv: self.qkv.view().into(),
            cache: self.cache(),
            work,
            o: o.into(),
            rows: Tokens(self.rows),
            heads: self.shape.heads,
            window: self.window,
        }
    }

    fn decode_op<'a>(
        &'a self,
        work: View<'a, i32>,
        parts: &'a mut Parts,
        o: ViewMut<'a, T>,
    ) -> AttnDecode<'a> {
        AttnDecode {
            qkv: self.qkv.view().into(),
            cache: self.cache(),
            work,
            parts: AttnParts {
                outputs: parts.outputs.view_mut(),
                states: parts.states.view_mut(),
                counters: parts.counters.view_mut(),
                max_segments: parts.max_segments,
            },
            o: o.into(),
            rows: Tokens(self.rows),
            heads: self.shape.heads,
            window: self.window,
        }
    }

    /// `[T, H, longest + 3]`: what each row gives to each key.
    pub fn probs(&self, device: &Device, label: &str) -> Result<Vec<f32>, OpError> {
        let columns = *self.kv_len.iter().max().unwrap() as usize + 3;
        let items: Vec<[i32; 4]> = (0..)
            .zip(self.cu_rows.windows(2).zip(&self.kv_len))
            .flat_map(|(i, (b, keys))| attn_probs::items(i, b[0], b[1] - b[0], *keys))
            .collect();
        let work = device.upload(items.as_flattened())?;
        let mut probs = Guarded::new(device, items.len() * self.shape.heads * columns);
        AttnProbs {
            qkv: self.qkv.view().into(),
            cache: self.cache(),
            work: work.view(),
            probs: probs.view_mut(),
            columns,
            rows: Tokens(self.rows),
            heads: self.shape.heads,
            window: self.window,
        }
        .launch(device)?;
        Ok(probs.read(device, label))
    }

    /// What attn_prefill says that the step costs.
    pub fn prefill_cost(&self, device: &Device) -> Cost {
        let (work, mut o) = (device.zeros(0).unwrap(), device.zeros(0).unwrap());
        self.prefill_op(work.view(), o.view_mut()).cost(&self.cu_rows, &self.kv_len)
    }

    /// What attn_decode says that the step costs.
    pub fn decode_cost(&self, device: &Device) -> Cost {
        let none = AttnPartLens { outputs: 0, states: 0, counters: 0 };
        let mut parts = Parts::new(device, none, 0);
        let (work, mut o) = (device.zeros(0).unwrap(), device.zeros(0).unwrap());
        self.decode_op(work.view(), &mut parts, o.view_mut()).cost(&self.kv_len)
    }

    /// `[rows, H, D]` of all sequences, also those of one row.
    pub fn prefill(&self, device: &Device, label: &str) -> Result<Vec<T>, OpError> {
        let mut work: Vec<i32> = Vec::new();
        for (i, bounds) in self.cu_rows.windows(2).enumerate() {
            let items = attn_prefill::items(i as i32, bounds[1] - bounds[0], self.kv_len[i]);
            work.extend(items.flatten());
        }
        work.extend(NO_WORK);
        let work = device.upload(&work)?;
        let mut o = Guarded::new(device, self.rows * self.shape.heads * self.shape.head_dim);
        self.prefill_op(work.view(), o.view_mut()).launch(device)?;
        Ok(o.read(device, label))
    }

    /// `[B, H, D]`: every sequence has one row. Runs twice over the same counters.
    pub fn decode(&self, device: &Device, label: &str) -> Result<Vec<T>, OpError> {
        let longest = *self.kv_len.iter().max().unwrap() as usize;
        let max_segments = attn_decode::segments(Tokens(longest)) + 1;
        let sequences = self.kv_len.len();
        let lens = AttnPartLens::new(sequences, self.shape.heads, &self.layout, max_segments);
        let mut parts = Parts::new(device, lens.expect(label), max_segments);
        let first = self.decode_once(device, &mut parts, label)?;
        let second = self.decode_once(device, &mut parts, label)?;
        assert_same_bits(&second, &first, label);
        Ok(first)
    }

    /// A launch with parts for one sequence of `max_segments` segments.
    pub fn decode_with_parts_of(
        &self,
        device: &Device,
        max_segments: usize,
    ) -> Result<Vec<T>, OpError> {
        let lens = AttnPartLens::new(1, self.shape.heads, &self.layout, max_segments);
        let mut parts = Parts::new(device, lens.unwrap(), max_segments);
        self.decode_once(device, &mut parts, "short parts")
    }

    fn decode_once(
        &self,
        device: &Device,
        parts: &mut Parts,
        label: &str,
    ) -> Result<Vec<T>, OpError> {
        let mut work = attn_decode::work_list(&self.cu_rows, &self.kv_len);
        work.extend(NO_WORK);
        let work = device.upload(&work)?;
        let mut o = Guarded::new(device, self.rows * self.shape.heads * self.shape.head_dim);
        self.decode_op(work.view(), parts, o.view_mut()).launch(device)?;
        let got = o.read(device, label);
        parts.outputs.read(device, label);
        parts.states.read(device, label);
        let left = device.download(&parts.counters)?;
        assert!(left.iter().all(|&count| count == 0), "{label}: counters are left {left:?}");
        Ok(got)
    }
}

/// The memory of split sequences.
struct Parts {
    outputs: Guarded<f32>,
    states: Guarded<f32>,
    counters: Buffer<u32>,
    max_segments: usize,
}

impl Parts {
    fn new(device: &Device, lens: AttnPartLens, max_segments: usize) -> Self {
        Self {
            outputs: Guarded::new(device, lens.outputs),
            states: Guarded::new(device, lens.states),
            counters: device.zeros(lens.counters).unwrap(),
            max_segments,
        }
    }
}

/// Equal in every bit, NaN included.
#[track_caller]
pub fn assert_same_bits<T: Number>(got: &[T], want: &[T], label: &str) {
    assert_eq!(got.len(), want.len(), "{label}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (a, b) = (got.pattern(), want.pattern());
        assert_eq!(a, b, "{label}: element {i}: {got} ({a:04x}) and {want} ({b:04x})");
    }
}
