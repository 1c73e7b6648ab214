//! **score** on the CPU. Peers: naive loops over the same definition. Elements of throughput are
//! floating-point operations of the products.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use salient::host::score::{Predictor, columns, keynorm, last_query, mlp, random, window};
use salient::score::{
    AttentionScore, HeadReduce, Per, Pool, PoolKind, PredictorWeights, QueryWeights,
};
use salient::{Ragged, View};

const Q_HEADS: usize = 9;
const KV_HEADS: usize = 3;
const DIM: usize = 64;

const PARAMS: AttentionScore = AttentionScore {
    scale: 0.125,
    heads: HeadReduce::Max,
    per: Per::Token,
    pool: Some(Pool { kind: PoolKind::Average, width: 9 }),
    query_weights: QueryWeights::Uniform,
};

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = predictor, attention, key_norms
}
criterion_main!(benches);

fn predictor(c: &mut Criterion) {
    let mut group = c.benchmark_group("score/mlp");
    let tokens = 4096;
    for (hidden, width) in [(576, 144), (4096, 1024)] {
        let x = sample(tokens * hidden, 1);
        let weights = PredictorWeights {
            w1: sample(width * hidden, 2),
            b1: sample(width, 3),
            w2: sample(width, 4),
            b2: vec![0.5],
            norm: Some((vec![1.0; hidden], 1e-5)),
        };
        let mut out = vec![0f32; tokens];
        let predictor = Predictor::new(hidden, weights).unwrap();
        operations(&mut group, 2 * tokens * hidden * width);
        let shape = format!("{hidden}x{width}");
        group.bench_function(BenchmarkId::new("salient", &shape), |b| {
            b.iter(|| mlp(black_box(&x), &predictor, &mut out).unwrap());
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("score/attention");
    for tokens in [1024, 4096, 16384] {
        let rows = Ragged::from_lens(&[tokens]).unwrap();
        let q = sample(tokens * Q_HEADS * DIM, 1);
        let k = sample(tokens * KV_HEADS * DIM, 2);
        let k = View::token_major(&k[..], KV_HEADS, DIM);
        let mut out = vec![0f32; tokens];
        for queries in [1, 32] {
            let q = View::token_major(&q[..queries * Q_HEADS * DIM], Q_HEADS, DIM);
            let windows = Ragged::from_lens(&[queries]).unwrap();
            operations(&mut group, 2 * queries * tokens * Q_HEADS * DIM);
            let name = if queries == 1 { "last query" } else { "window 32" };
            group.bench_function(BenchmarkId::new(name, tokens), |b| {
                b.iter(|| match queries {
                    1 => last_query(black_box(q), k, &rows, &PARAMS, &mut out).unwrap(),
                    _ => window(black_box(q), &windows, k, &rows, &PARAMS, &mut out).unwrap(),
                });
            });
            if tokens == 4096 {
                group.bench_function(BenchmarkId::new(format!("naive {name}"), tokens), |b| {
                    b.iter(|| naive(black_box(q), queries, k, tokens, &mut out));
                });
            }
        }
        if tokens <= 4096 {
            let q = View::token_major(&q[..], Q_HEADS, DIM);
            operations(&mut group, tokens * (tokens + 1) * Q_HEADS * DIM);
            group.bench_function(BenchmarkId::new("columns", tokens), |b| {
                b.iter(|| columns(black_box(q), k, &rows, &PARAMS, &mut out).unwrap());
            });
            if tokens == 1024 {
                group.bench_function(BenchmarkId::new("naive columns", tokens), |b| {
                    b.iter(|| naive(black_box(q), tokens, k, tokens, &mut out));
                });
            }
        }
    }
    group.finish();
}

fn key_norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("score/keynorm");
    for tokens in [4096, 16384] {
        let k = sample(tokens * KV_HEADS * DIM, 2);
        let mut out = vec![0f32; tokens];
        group.throughput(Throughput::Bytes((k.len() * size_of::<f32>()) as u64));
        group.bench_function(BenchmarkId::new("salient", tokens), |b| {
            let k = View::token_major(&k[..], KV_HEADS, DIM);
            b.iter(|| keynorm(black_box(k), Per::Token, &mut out).unwrap());
        });
        group.bench_function(BenchmarkId::new("naive", tokens), |b| {
            b.iter(|| {
                for (k, out) in black_box(&k).chunks_exact(KV_HEADS * DIM).zip(&mut out) {
                    let norm = |k: &[f32]| k.iter().map(|x| x * x).sum::<f32>().sqrt();
                    *out = -k.chunks_exact(DIM).map(norm).sum::<f32>() / KV_HEADS as f32;
                }
            });
        });
    }
    group.finish();
}

fn operations(group: &mut BenchmarkGroup<'_, WallTime>, count: usize) {
    group.throughput(Throughput::Elements(count as u64));
}

fn sample(len: usize, seed: u64) -> Vec<f32> {
    let mut out = vec![0.0; len];
    random(seed, &(0..len as i32).collect::<Vec<_>>(), &mut out).unwrap();
    out.iter().map(|x| 2.0 * x - 1.0).collect()
}

/// Maximum over heads of the mean over queries, query by query, unpooled.
fn naive(q: View<'_, f32>, queries: usize, k: View<'_, f32>, tokens: usize, out: &mut [f32]) {
    out.fill(0.0);
    let mut column = vec![0f32; tokens];
    let mut weights = vec![0f32; tokens];
    for head in 0..Q_HEADS {
        column.fill(0.0);
        for j in 0..queries {
            let seen = tokens - queries + j + 1;
            for (t, weight) in weights[..seen].iter_mut().enumerate() {
                let k = k.row(t, head / (Q_HEADS / KV_HEADS));
                *weight = q.row(j, head).iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * 0.125;
            }
            let max = weights[..seen].iter().copied().fold(f32::MIN, f32::max);
            weights[..seen].iter_mut().for_each(|w| *w = (*w - max).exp());
            let scale = 1.0 / (weights[..seen].iter().sum::<f32>() * queries as f32);
            column.iter_mut().zip(&weights[..seen]).for_each(|(c, w)| *c += w * scale);
        }
        out.iter_mut().zip(&column).for_each(|(out, c)| *out = out.max(*c));
    }
}
