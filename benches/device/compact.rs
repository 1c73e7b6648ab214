//! **compact**: hidden rows, and keys and values of all layers in place.

use salient::compact::{KvLayout, KvMode, RowShape};
use salient::cuda::compact::{
    KvLists, KvOutputs, KvTable, RowLists, RowTensor, kv, rows, rows_in_place,
};
use salient::cuda::{StatusWord, bytes, bytes_mut};
use salient::kernels::compact::{KvPlan, KvShape, RowsPlan};
use salient::kernels::validate::Pages;
use salient::{Layout, PagedLayout, Result};
use salient_oracle::generate::Random;
use serde_json::json;

use super::{Bench, pattern};

const PAGE: usize = 16;

pub(super) fn run(bench: &mut Bench) {
    let (tokens, keep, width) = if bench.small { (304, 107, 72) } else { (16384, 5734, 4096) };
    let (layers, heads, dim) = if bench.small { (3, 2, 64) } else { (32, 8, 128) };
    let mut kept: Vec<i32> =
        Random::new(3).permutation(tokens)[..keep].iter().map(|&i| i as i32).collect();
    kept.sort_unstable();
    let case = format!("compact/rows [{tokens} to {keep}, {width}] bf16");
    bench.attempt(&case, "salient", |bench| hidden_rows(bench, &case, tokens, &kept, width));
    for (store, paged) in [("contiguous", false), ("paged", true)] {
        for (order, mode) in [("stable", KvMode::Stable), ("hole-fill", KvMode::HoleFill)] {
            let shape = format!("{layers} x {heads} x {dim} bf16 {tokens} to {keep}");
            let case = format!("compact/kv {shape}, {store}, {order}");
            bench.attempt(&case, "salient", |bench| {
                caches(bench, &case, tokens, &kept, [layers, heads, dim], paged, mode)
            });
        }
    }
}

fn hidden_rows(
    bench: &mut Bench,
    case: &str,
    tokens: usize,
    list: &[i32],
    width: usize,
) -> Result<()> {
    let keep = list.len();
    let before = pattern(tokens * width);
    let stream = &bench.stream;
    let src = stream.clone_htod(&before)?;
    let mut dst = stream.clone_htod(&vec![0xdeadu16; keep * width])?;
    let (kept, kept_lens) = (stream.clone_htod(list)?, stream.clone_htod(&[keep as i32])?);
    let cu_kept = stream.clone_htod(&[0, keep as i32])?;
    let cu_seqlens = stream.clone_htod(&[0, tokens as i32])?;
    let plan = RowsPlan::new(1, tokens, keep, keep, &[RowShape::packed(2 * width)])?;
    let mut status = StatusWord::new(stream)?;
    let lists = RowLists {
        kept: kept.as_view(),
        kept_lens: kept_lens.as_view(),
        cu_kept: cu_kept.as_view(),
        cu_seqlens: cu_seqlens.as_view(),
    };
    let graph = bench.capture(|stream| {
        let mut dst = dst.as_view_mut();
        let mut tensors = [RowTensor { src: bytes(&src.as_view()), dst: bytes_mut(&mut dst) }];
        rows(stream, &plan, &mut tensors, &lists, &mut status)
    })?;
    let mut own = stream.clone_htod(&before)?;
    let in_place = bench.capture(|stream| {
        let mut own = own.as_view_mut();
        rows_in_place(stream, &plan, &mut [bytes_mut(&mut own)], &lists, &mut status)
    })?;
    graph.launch()?;
    in_place.launch()?;
    status.read(&bench.stream)?.check()?;
    for (moved, name) in [(&dst, "copied"), (&own, "in place")] {
        let after = bench.stream.clone_dtoh(moved)?;
        for (row, &token) in after.chunks(width).zip(list) {
            assert!(row == &before[token as usize * width..][..width], "token {token}, {name}");
        }
    }
    let work = json!({"bytes": 4 * keep * width});
    bench.time(case, "salient", work.clone(), || Ok(graph.launch()?))?;
    bench.time(case, "salient, in place", work.clone(), || Ok(in_place.launch()?))?;
    let copy =
        bench.capture(|stream| Ok(stream.memcpy_dtod(&src.slice(..keep * width), &mut dst)?))?;
    bench.time(case, "copy of as many bytes", work, || Ok(copy.launch()?))
}

fn caches(
    bench: &mut Bench,
    case: &str,
    tokens: usize,
    list: &[i32],
    [layers, heads, dim]: [usize; 3],
    paged: bool,
    mode: KvMode,
) -> Result<()> {
    let (width, keep, pages) = (heads * dim, list.len(), tokens / PAGE);
    let table: Vec<i32> = Random::new(4).permutation(pages).iter().map(|&i| i as i32).collect();
    let before = pattern(tokens * width);
    let stream = bench.stream.clone();
    let upload = || Ok([stream.clone_htod(&before)?, stream.clone_htod(&before)?]);
    let mut buffers = (0..layers).map(|_| upload()).collect::<Result<Vec<_>>>()?;

    let layout = if paged {
        KvLayout::paged(PagedLayout::nhd(PAGE, heads, dim), 2)?
    } else {
        KvLayout::contiguous(Layout::token_major(heads, dim), 2)?
    };
    let (keys, values) = (layout, layout);
    let shape = KvShape { batch: 1, layers, list_heads: 1, capacity: keep, keys, values, mode };
    let plan = if paged {
        KvPlan::paged(shape, Pages { page_size: PAGE, max_pages: pages, pages })?
    } else {
        KvPlan::contiguous(shape, tokens)?
    };
    let (kept, kept_lens) = (stream.clone_htod(list)?, stream.clone_htod(&[keep as i32])?);
    let (lens, starts) = (stream.clone_htod(&[tokens as i32])?, stream.clone_htod(&[0])?);
    let table_there = stream.clone_htod(&table)?;
    let mut order = stream.clone_htod(&vec![i32::MIN; keep])?;
    let mut status = StatusWord::new(&stream)?;
    let mut views: Vec<_> =
        buffers.iter_mut().map(|pair| pair.each_mut().map(|cache| cache.as_view_mut())).collect();
    let caches = KvTable::new(&stream, plan, &mut views)?;
    let graph = bench.capture(|stream| {
        let lists = KvLists {
            kept: kept.as_view(),
            kept_lens: kept_lens.as_view(),
            lens: lens.as_view(),
            span_starts: (!paged).then(|| starts.as_view()),
            page_table: paged.then(|| table_there.as_view()),
        };
        let mut outputs = KvOutputs { order: Some(order.as_view_mut()), ..KvOutputs::default() };
        kv(stream, &caches, &mut views, &lists, &mut outputs, &mut status)
    })?;
    graph.launch()?;
    status.read(&stream)?.check()?;

    let order = stream.clone_dtoh(&order)?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted == list && (mode == KvMode::HoleFill || order == list), "the order of tokens");
    let row = |token: usize| match paged {
        true => table[token / PAGE] as usize * PAGE + token % PAGE,
        false => token,
    };
    for cache in [&buffers[0][0], &buffers[layers - 1][1]] {
        let after = stream.clone_dtoh(cache)?;
        for (place, &token) in order.iter().enumerate() {
            let (to, from) = (row(place) * width, row(token as usize) * width);
            assert!(after[to..][..width] == before[from..][..width], "token {token} at {place}");
        }
    }

    // Read once and written once: only tokens that change their place.
    let moved = order.iter().enumerate().filter(|&(place, &token)| place != token as usize).count();
    let work = json!({"bytes": 2 * moved * layers * 2 * width * 2});
    bench.time(case, "salient", work, || Ok(graph.launch()?))
}
