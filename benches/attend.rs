//! Attention on the CPU, against three plain loops that run in parallel over heads.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::host::attend::{decode, prefill};
use salient::{Ragged, Span, View, ViewMut};

/// Heads of a small and of a large model: query heads, KV heads, channels.
const MODELS: [(usize, usize, usize); 2] = [(9, 3, 64), (32, 8, 128)];

const PREFILL: [usize; 5] = [128, 512, 1024, 2048, 4096];

const DECODE: [usize; 5] = [1024, 2048, 4096, 8192, 16384];

/// The plain loops are not waited for beyond this length.
const LONGEST_PLAIN: usize = 1024;

struct Input {
    heads: (usize, usize, usize),
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    spans: [Span; 1],
}

impl Input {
    fn new(heads: (usize, usize, usize), queries: usize, keys: usize) -> Self {
        let (q_heads, kv_heads, dim) = heads;
        Self {
            heads,
            q: numbers(queries * q_heads * dim, 1),
            k: numbers(keys * kv_heads * dim, 2),
            v: numbers(keys * kv_heads * dim, 3),
            out: vec![0.0; queries * q_heads * dim],
            spans: [Span { start: 0, len: keys }],
        }
    }

    fn attention(&self) -> Attention<'static> {
        Attention::new((self.heads.2 as f32).sqrt().recip())
    }

    fn prefill(&mut self, queries: &Ragged) {
        let attention = self.attention();
        let (q_heads, kv_heads, dim) = self.heads;
        let keys = Keys::Contiguous {
            k: View::token_major(&self.k, kv_heads, dim),
            v: View::token_major(&self.v, kv_heads, dim),
            spans: &self.spans,
        };
        let q = View::token_major(&self.q, q_heads, dim);
        let out = ViewMut::token_major(&mut self.out, q_heads, dim);
        prefill(q, queries, &keys, RowLimit::Causal, &attention, out, None)
            .expect("the shapes agree");
    }

    fn decode(&mut self, lists: KeyLists<PackedLists<'_>>) {
        let attention = self.attention();
        let (q_heads, kv_heads, dim) = self.heads;
        let keys = Keys::Contiguous {
            k: View::token_major(&self.k, kv_heads, dim),
            v: View::token_major(&self.v, kv_heads, dim),
            spans: &self.spans,
        };
        let q = View::token_major(&self.q, q_heads, dim);
        let out = ViewMut::token_major(&mut self.out, q_heads, dim);
        decode(q, &keys, lists, &attention, out, None).expect("the shapes agree");
    }

    /// Causal attention in three loops per row.
    fn plain(&self) -> Vec<f32> {
        let (q_heads, kv_heads, dim) = self.heads;
        let scale = self.attention().scale;
        let tokens = self.spans[0].len;
        let heads: Vec<Vec<f32>> = (0..q_heads)
            .into_par_iter()
            .map(|head| {
                let kv_head = head / (q_heads / kv_heads);
                let row = |data: &'_ [f32], token: usize| -> Vec<f32> {
                    data[(token * kv_heads + kv_head) * dim..][..dim].to_vec()
                };
                let k: Vec<Vec<f32>> = (0..tokens).map(|token| row(&self.k, token)).collect();
                let v: Vec<Vec<f32>> = (0..tokens).map(|token| row(&self.v, token)).collect();
                let mut out = vec![0f32; tokens * dim];
                for (token, out) in out.chunks_exact_mut(dim).enumerate() {
                    let q = &self.q[(token * q_heads + head) * dim..][..dim];
                    let mut weights: Vec<f32> = k[..=token]
                        .iter()
                        .map(|k| scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>())
                        .collect();
                    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    weights.iter_mut().for_each(|x| *x = (*x - max).exp());
                    let sum: f32 = weights.iter().sum();
                    for (weight, v) in weights.iter().zip(&v) {
                        for (out, v) in out.iter_mut().zip(v) {
                            *out += weight / sum * v;
                        }
                    }
                }
                out
            })
            .collect();
        (0..tokens)
            .flat_map(|token| heads.iter().flat_map(move |head| &head[token * dim..][..dim]))
            .copied()
            .collect()
    }
}

/// Numbers in [-1, 1), the same every time.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Elements are floating-point operations on visible pairs.
fn bench_prefill(c: &mut Criterion) {
    for heads in MODELS {
        let (q_heads, kv_heads, dim) = heads;
        let mut group = c.benchmark_group(format!("attend/prefill/{q_heads}x{kv_heads}x{dim}"));
        group.sample_size(10);
        for tokens in PREFILL {
            let pairs = tokens * (tokens + 1) / 2;
            group.throughput(Throughput::Elements((4 * dim * q_heads * pairs) as u64));
            let mut input = Input::new(heads, tokens, tokens);
            let queries = Ragged::from_lens(&[tokens]).expect("one short sequence");
            input.prefill(&queries);
            if tokens <= LONGEST_PLAIN {
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                assert!(input.out.iter().zip(&input.plain()).all(close), "results differ");
                group.bench_function(BenchmarkId::new("plain", tokens), |b| {
                    b.iter(|| black_box(input.plain()));
                });
            }
            group.bench_function(BenchmarkId::new("salient", tokens), |b| {
                b.iter(|| input.prefill(&queries));
            });
        }
        group.finish();
    }
}

/// Bytes are those of the keys and values that are read.
fn bench_decode(c: &mut Criterion) {
    for heads in MODELS {
        let (q_heads, kv_heads, dim) = heads;
        let mut group = c.benchmark_group(format!("attend/decode/{q_heads}x{kv_heads}x{dim}"));
        for tokens in DECODE {
            let mut input = Input::new(heads, 1, tokens);
            let bytes = |rows: usize| Throughput::Bytes((rows * 2 * kv_heads * dim * 4) as u64);
            group.throughput(bytes(tokens));
            group.bench_function(BenchmarkId::new("dense", tokens), |b| {
                b.iter(|| input.decode(KeyLists::Dense));
            });
            let kept: Vec<i32> = (0..tokens as i32).filter(|row| row * 12 % 100 < 12).collect();
            let lists = Ragged::from_lens(&[kept.len()]).expect("one short list");
            group.throughput(bytes(kept.len()));
            group.bench_function(BenchmarkId::new("keep 0.12", tokens), |b| {
                b.iter(|| {
                    input.decode(KeyLists::Shared(PackedLists { keys: &kept, lists: &lists }))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench_prefill, bench_decode);
criterion_main!(benches);
