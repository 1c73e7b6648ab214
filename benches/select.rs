//! **select** against sorting and against the standard library's selection.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use half::bf16;
use salient::Ragged;
use salient::host::select::select;
use salient::select::{Budget, Protect, Request};

fn bench(criterion: &mut Criterion) {
    for (name, len) in [("1k", 1 << 10), ("16k", 1 << 14), ("128k", 1 << 17), ("1m", 1 << 20)] {
        let normal = normal(len);
        let ties = normal.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        for (distribution, scores) in
            [("normal", normal), ("ties", ties), ("equal", vec![0.5; len])]
        {
            for keep in [0.12, 0.35] {
                let k = (keep * len as f64).ceil() as usize;
                one(criterion, &format!("{name}/{distribution}/{keep}"), &scores, k);
            }
        }
    }
    let scores = normal(64 * 4096);
    let rows = Ragged::from_lens(&[4096; 64]).expect("a small batch");
    let request = request(&rows, 1434);
    let mut group = criterion.benchmark_group("select/64 rows of 4k/normal/0.35");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(scores.len() as u64));
    group.bench_function("salient", |bencher| bencher.iter(|| select(&scores, &request)));
    group.bench_function("nth and sort", |bencher| {
        bencher.iter(|| scores.chunks(4096).map(|row| nth_and_sort(row, 1434)).collect::<Vec<_>>());
    });
}

fn one(criterion: &mut Criterion, name: &str, scores: &[f32], k: usize) {
    let rows = Ragged::from_lens(&[scores.len()]).expect("a small batch");
    let request = request(&rows, k);
    let expected = full_sort(scores, k);
    assert_eq!(select(scores, &request).expect("a good request").kept(), expected);
    assert_eq!(nth_and_sort(scores, k), expected);

    let mut group = criterion.benchmark_group(format!("select/{name}"));
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(scores.len() as u64));
    group.bench_function("salient", |bencher| {
        bencher.iter(|| select(black_box(scores), &request));
    });
    group.bench_with_input(BenchmarkId::from_parameter("nth and sort"), &k, |bencher, &k| {
        bencher.iter(|| nth_and_sort(black_box(scores), k));
    });
    group.bench_with_input(BenchmarkId::from_parameter("full sort"), &k, |bencher, &k| {
        bencher.iter(|| full_sort(black_box(scores), k));
    });
}

fn request(rows: &Ragged, k: usize) -> Request<'_> {
    let budget = Budget::Count(k);
    Request { rows, heads: 1, budget, protect: Protect::default() }
}

/// Indices sorted by score, the best `k` of them sorted again.
fn full_sort(scores: &[f32], k: usize) -> Vec<i32> {
    let mut order: Vec<i32> = (0..scores.len() as i32).collect();
    order.sort_unstable_by(|&a, &b| {
        scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
    });
    order.truncate(k);
    order.sort_unstable();
    order
}

/// Keys with their indices in one integer, selected by the standard library; the best `k` sorted.
fn nth_and_sort(scores: &[f32], k: usize) -> Vec<i32> {
    let mut keys: Vec<u64> = (0..)
        .zip(scores)
        .map(|(index, score)| {
            let bits = score.to_bits();
            let descending = !(bits ^ ((bits as i32 >> 31) as u32 | 1 << 31));
            u64::from(descending) << 32 | index
        })
        .collect();
    keys.select_nth_unstable(k - 1);
    let mut kept: Vec<i32> = keys[..k].iter().map(|&key| key as i32).collect();
    kept.sort_unstable();
    kept
}

/// Close to a normal distribution: the sum of twelve uniform numbers.
fn normal(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(60)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = bench
}
criterion_main!(benches);
