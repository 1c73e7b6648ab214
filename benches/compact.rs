//! **compact** against plain copies of as many bytes.

use std::hint::black_box;
use std::time::Duration;

use bytemuck::Pod;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use half::bf16;
use rayon::prelude::*;
use salient::host::compact::{self, KvMut, PagedKvMut, RowTensor, RowTensorMut};
use salient::select::Selection;
use salient::{Layout, PagedLayout, Ragged, Span};

const TOKENS: usize = 16384;

fn bench(criterion: &mut Criterion) {
    rows::<f32>(criterion, "576 f32", 576);
    rows::<bf16>(criterion, "4096 bf16", 4096);
    rows::<f32>(criterion, "4096 f32", 4096);
    kv(criterion);
}

fn rows<T: Pod + Send + Sync>(criterion: &mut Criterion, name: &str, width: usize) {
    let mut src: Vec<T> = (0..TOKENS * width)
        .map(|i| bytemuck::pod_read_unaligned(&bytes_of(i)[..size_of::<T>()]))
        .collect();
    for keep in [0.12, 0.35] {
        for (survivors, selection) in [("random", random(keep)), ("clustered", clustered(keep))] {
            let kept = selection.kept_rows().total();
            let mut dst = vec![T::zeroed(); kept * width];
            let run = |src: &[T], dst: &mut [T]| {
                let tensor = RowTensor::new(src, width, dst).expect("rows have bytes");
                compact::rows(&selection, &mut [tensor]).expect("the tensor has the rows");
            };
            run(&src, &mut dst);
            for (row, &token) in dst.chunks(width).zip(selection.kept()) {
                let expected = &src[token as usize * width..][..width];
                assert!(
                    bytemuck::cast_slice::<T, u8>(row) == bytemuck::cast_slice::<T, u8>(expected)
                );
            }

            let mut group = criterion.benchmark_group(format!("compact/{name}/{keep}/{survivors}"));
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::Bytes(size_of_val(&dst[..]) as u64));
            group.bench_function("rows", |bencher| {
                bencher.iter(|| run(black_box(&src), &mut dst));
            });
            group.bench_function("copy, one thread", |bencher| {
                bencher.iter(|| dst.copy_from_slice(black_box(&src[..kept * width])));
            });
            group.bench_function("copy, all threads", |bencher| {
                let piece = dst.len().div_ceil(rayon::current_num_threads());
                bencher.iter(|| {
                    let pieces = dst.par_chunks_mut(piece).zip(black_box(&src).par_chunks(piece));
                    pieces.for_each(|(dst, src)| dst.copy_from_slice(&src[..dst.len()]));
                });
            });
            group.bench_function("rows in place", |bencher| {
                bencher.iter(|| {
                    let tensor = RowTensorMut::new(&mut src, width).expect("rows have bytes");
                    compact::rows_in_place(&selection, &mut [tensor])
                });
            });
        }
    }
}

fn kv(criterion: &mut Criterion) {
    const LAYERS: usize = 4;
    const HEADS: usize = 4;
    const DIM: usize = 64;
    const PAGE: usize = 16;
    let len = TOKENS * HEADS * DIM;
    let mut caches = vec![(vec![bf16::ONE; len], vec![bf16::ONE; len]); LAYERS];
    let spans = [Span { start: 0, len: TOKENS }];
    let shared = random(0.35);
    let kept = shared.row(0, 0).to_vec();
    let per_head = Selection::from_lists(shared.rows().clone(), HEADS, &vec![kept.clone(); HEADS])
        .expect("lists ascend");
    let table: Vec<i32> = (0..(TOKENS / PAGE) as i32).rev().collect();

    let bytes = LAYERS * 2 * kept.len() * HEADS * DIM * size_of::<bf16>();
    let mut group = criterion.benchmark_group("compact/kv of 4 layers/0.35/random");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(bytes as u64));
    for (lists, selection) in [("shared", &shared), ("per head", &per_head)] {
        for (order, layout) in [
            ("token-major", Layout::token_major(HEADS, DIM)),
            ("head-major", Layout::head_major(HEADS, DIM, TOKENS)),
        ] {
            group.bench_function(format!("{order}, {lists}"), |bencher| {
                bencher.iter(|| {
                    let mut layers: Vec<_> = caches
                        .iter_mut()
                        .map(|(k, v)| KvMut::new(k, v, layout, &spans).expect("a good layout"))
                        .collect();
                    compact::kv(selection, &mut layers)
                });
            });
        }
        group.bench_function(format!("paged, {lists}"), |bencher| {
            let layout = PagedLayout::nhd(PAGE, HEADS, DIM);
            bencher.iter(|| {
                let mut layers: Vec<_> = caches
                    .iter_mut()
                    .map(|(k, v)| PagedKvMut::new(k, v, layout).expect("a good layout"))
                    .collect();
                compact::kv_paged(selection, &table, &mut layers)
            });
        });
    }
    let len = bytes / size_of::<bf16>() / LAYERS / 2;
    let mut dst = vec![bf16::ZERO; len];
    group.bench_function("copy, one thread", |bencher| {
        bencher.iter(|| {
            for (k, v) in &caches {
                dst.copy_from_slice(black_box(&k[..len]));
                dst.copy_from_slice(black_box(&v[..len]));
            }
        });
    });
}

/// Survivors drawn one by one.
fn random(keep: f64) -> Selection {
    let mut state = 7u64;
    survivors(|_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64) < keep * (1u64 << 24) as f64
    })
}

/// Survivors in runs of 32.
fn clustered(keep: f64) -> Selection {
    let mut state = 7u64;
    let mut inside = false;
    survivors(|token| {
        if token % 32 == 0 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            inside = ((state >> 40) as f64) < keep * (1u64 << 24) as f64;
        }
        inside
    })
}

fn survivors(mut stays: impl FnMut(i32) -> bool) -> Selection {
    let rows = Ragged::from_lens(&[TOKENS]).expect("a small batch");
    let list: Vec<i32> = (0..TOKENS as i32).filter(|&token| stays(token)).collect();
    Selection::from_lists(rows, 1, &[list]).expect("the list ascends")
}

fn bytes_of(i: usize) -> [u8; 8] {
    (i as u64).to_le_bytes()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(60)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = bench
}
criterion_main!(benches);
