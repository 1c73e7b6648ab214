//! Many queries per sequence.
//!
//! Work is cut into blocks of query rows of one KV head; the queries of all heads that share it are
//! rows of one block, so a key is read once for all of them. A block walks over the keys in tiles
//! and keeps, per row, a running maximum and sum (online softmax: Milakov and Gimelshein,
//! arXiv 1805.02867; the tiling is that of FlashAttention, arXiv 2205.14135).
//!
//! The arithmetic of a tile is in [`tile`](super::tile).

use std::f32::consts::LN_2;
use std::ops::Range;

use rayon::prelude::*;

use super::check;
use super::pack::{self, PackKeys, PackQueries, Unpack};
use super::tile::{KEY_TILE, Logits, PANEL, STATS, Step, Tile};
use crate::attend::{Attention, Keys, RowLimit};
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::simd::{self, Aligned};
use crate::layout::{View, ViewMut};
use crate::ragged::Ragged;

/// Row tiles per block at most: every key tile is widened and packed once for all of them.
const MAX_ROW_TILES: usize = 8;

/// Below this many floating-point operations another thread takes longer to wake than to do it.
const SERIAL_WORK: usize = 2_000_000;

/// Attention of packed queries over the keys of their sequences.
///
/// `q` is `[total, q heads, dim]`, `queries` says which rows belong to which sequence, `out` is
/// `[total, q heads, value dim]`, `lse` `[total, q heads]`: the natural log of the sum of
/// exponentials of a row's logits. Query heads `h * group..(h + 1) * group` read KV head h. A row
/// that sees no key becomes 0, its `lse` -inf, or the sink. Keys that a row does not see have no
/// influence on it, even if they are NaN. The result depends neither on the number of threads nor
/// on the other sequences.
///
/// # Errors
/// If shapes disagree, the number of query heads is no multiple of the number of KV heads, a page,
/// span or row limit points beyond the keys, or a parameter is out of range.
pub fn prefill<T: Element>(
    q: View<'_, T>,
    queries: &Ragged,
    keys: &Keys<'_, T>,
    limit: RowLimit<&[i32]>,
    attention: &Attention,
    out: ViewMut<'_, f32>,
    lse: Option<&mut [f32]>,
) -> Result<()> {
    check_len("sequences of keys", queries.batch(), keys.batch())?;
    check(queries.total(), &q, keys, attention, &out, lse.as_deref())?;
    let mut visible = limit.visible(queries, |sequence| keys.len(sequence))?;
    for rows in &mut visible {
        rows.start = rows.start.max(attention.first(rows.end as usize) as u32).min(rows.end);
    }
    let logits = Logits::new(attention);
    let problem = Problem { q, queries, keys, visible: &visible, attention, logits };
    let outs = out.into_rows("out", queries.total())?;
    let (work, mut blocks) = problem.plan(outs, lse);
    if work < SERIAL_WORK || blocks.len() < 2 {
        let mut scratch = Scratch::default();
        blocks.into_iter().for_each(|block| problem.run(block, &mut scratch));
    } else {
        // Longest first, drawn from one queue, so that the threads finish together.
        blocks.sort_by_key(|block| std::cmp::Reverse(block.work));
        blocks
            .into_iter()
            .par_bridge()
            .for_each_init(Scratch::default, |scratch, block| problem.run(block, scratch));
    }
    Ok(())
}

struct Problem<'a, T> {
    q: View<'a, T>,
    queries: &'a Ragged,
    keys: &'a Keys<'a, T>,
    visible: &'a [Range<u32>],
    attention: &'a Attention<'a>,
    logits: Logits,
}

/// Consecutive query rows of one KV head of one sequence: query by query, and in each the heads of
/// the group.
struct Block<'o> {
    sequence: usize,
    head: usize,
    /// In rows, from the first of the sequence.
    start: usize,
    rows: Vec<&'o mut [f32]>,
    /// As long as `rows`, or empty if nobody asks.
    lses: Vec<&'o mut f32>,
    work: usize,
}

/// What a thread reuses from block to block.
#[derive(Default)]
struct Scratch {
    /// `[tile][channel][lane]`.
    q: Aligned,
    /// `[tile][value channel][lane]`.
    out: Aligned,
    /// `[key][lane]`.
    weights: Aligned,
    /// `[key][channel]`.
    k: Aligned,
    /// `[panel][key][rows of a register block]`.
    v: Aligned,
    wide: Vec<f32>,
    tiles: Vec<Tile>,
    /// `[tile][`[`STATS`]`][lane]`.
    stats: Aligned,
    visible: Vec<u32>,
}

impl<T: Element> Problem<'_, T> {
    fn group(&self) -> usize {
        self.q.layout.heads / self.keys.heads()
    }

    /// Cuts the work into blocks; also its floating-point operations.
    fn plan<'o>(
        &self,
        mut outs: Vec<&'o mut [f32]>,
        lse: Option<&'o mut [f32]>,
    ) -> (usize, Vec<Block<'o>>) {
        let (heads, group) = (self.keys.heads(), self.group());
        let width = simd::panel_width();
        let tiles: usize =
            self.queries.lens().map(|len| (len * group).div_ceil(width) * heads).sum();
        // How rows fall into blocks changes no result, so it may depend on the number of threads.
        let per_thread = tiles / (4 * rayon::current_num_threads());
        let block_rows = per_thread.clamp(1, MAX_ROW_TILES) * width;
        let mut lses: Vec<Option<&mut f32>> =
            lse.map_or_else(Vec::new, |lse| lse.iter_mut().map(Some).collect());
        let per_key = 2 * (self.q.layout.dim + self.keys.value_dim());
        let mut blocks = Vec::new();
        for (sequence, span) in self.queries.spans().enumerate() {
            for head in 0..heads {
                for start in (0..span.len * group).step_by(block_rows) {
                    let end = (start + block_rows).min(span.len * group);
                    let mut block = Block {
                        sequence,
                        head,
                        start,
                        rows: Vec::with_capacity(end - start),
                        lses: Vec::new(),
                        work: 0,
                    };
                    for row in start..end {
                        let token = span.start + row / group;
                        let slot = (token * heads + head) * group + row % group;
                        block.rows.push(std::mem::take(&mut outs[slot]));
                        block.lses.extend(lses.get_mut(slot).and_then(Option::take));
                        block.work += self.visible[token].len() * per_key;
                    }
                    blocks.push(block);
                }
            }
        }
        (blocks.iter().map(|block| block.work).sum(), blocks)
    }

    fn run(&self, mut block: Block<'_>, scratch: &mut Scratch) {
        let width = simd::panel_width();
        let (dim, value_dim) = (self.q.layout.dim, self.keys.value_dim());
        let padded_dim = value_dim.next_multiple_of(simd::block_rows());
        self.begin(&block, scratch);
        let tiles = scratch.tiles.len();
        let arch = simd::arch();
        let seen = scratch.tiles.iter().filter(|tile| !tile.seen.is_empty());
        let first = seen.clone().map(|tile| tile.seen.start).min().unwrap_or(0);
        let end = seen.map(|tile| tile.seen.end).max().unwrap_or(0);
        // Tiles begin at multiples of their size, whatever rows are seen: a row's sums are the same
        // in every block.
        for start in (first / KEY_TILE * KEY_TILE..end).step_by(KEY_TILE) {
            let keys = start..end.min(start + KEY_TILE);
            arch.dispatch(PackKeys {
                keys: self.keys,
                sequence: block.sequence,
                head: block.head,
                range: keys.clone(),
                dim,
                wide: &mut scratch.wide,
                k: scratch.k.slice(KEY_TILE * dim),
                v: scratch.v.slice(PANEL * padded_dim),
            });
            arch.dispatch(Step {
                keys,
                dim,
                padded_dim,
                logits: self.logits,
                tiles: &scratch.tiles,
                visible: &scratch.visible,
                q: scratch.q.slice(tiles * dim * width),
                k: scratch.k.slice(KEY_TILE * dim),
                v: scratch.v.slice(PANEL * padded_dim),
                weights: scratch.weights.slice(KEY_TILE * width),
                out: scratch.out.slice(tiles * padded_dim * width),
                stats: scratch.stats.slice(tiles * STATS * width),
            });
        }
        self.finish(&mut block, scratch);
    }

    /// Packs queries and what they see, and clears sums.
    fn begin(&self, block: &Block<'_>, scratch: &mut Scratch) {
        let (lanes, width) = (simd::lanes(), simd::panel_width());
        let (dim, value_dim, group) = (self.q.layout.dim, self.keys.value_dim(), self.group());
        let padded_dim = value_dim.next_multiple_of(simd::block_rows());
        let span = self.queries.span(block.sequence);
        let tiles = block.rows.len().div_ceil(width);
        scratch.wide.resize(pack::wide_len(dim).max(value_dim), 0.0);
        scratch.out.slice(tiles * padded_dim * width).fill(0.0);
        let q = scratch.q.slice(tiles * dim * width);
        let stats = scratch.stats.slice(tiles * STATS * width);
        stats.fill(0.0);
        scratch.visible.clear();
        scratch.visible.resize(tiles * 2 * width, 0);
        scratch.tiles.clear();
        let mut rows = Vec::with_capacity(width);
        for index in 0..tiles {
            let count = width.min(block.rows.len() - index * width);
            let vectors = count.div_ceil(lanes);
            let lanes = vectors * lanes;
            stats[index * STATS * width..][..lanes].fill(f32::NEG_INFINITY);
            let (firsts, limits) =
                scratch.visible[index * 2 * width..][..2 * lanes].split_at_mut(lanes);
            let mut tile = Tile { vectors, seen: 0..0, body: 0..usize::MAX };
            rows.clear();
            for lane in 0..count {
                let row = block.start + index * width + lane;
                let token = span.start + row / group;
                rows.push(self.q.row(token, block.head * group + row % group));
                let Range { start, end } = self.visible[token];
                (firsts[lane], limits[lane]) = (start, end);
                let (start, end) = (start as usize, end as usize);
                if tile.seen.is_empty() {
                    tile.seen = start..end;
                } else if start < end {
                    tile.seen = tile.seen.start.min(start)..tile.seen.end.max(end);
                }
                tile.body = tile.body.start.max(start)..tile.body.end.min(end);
            }
            simd::arch().dispatch(PackQueries {
                rows: &rows,
                dim,
                factor: self.logits.query_factor * self.attention.k_scale(block.head),
                wide: &mut scratch.wide,
                packed: &mut q[index * dim * width..][..dim * lanes],
            });
            scratch.tiles.push(tile);
        }
    }

    /// Writes the rows of a block.
    fn finish(&self, block: &mut Block<'_>, scratch: &mut Scratch) {
        let (lanes, width) = (simd::lanes(), simd::panel_width());
        let padded_dim = self.keys.value_dim().next_multiple_of(simd::block_rows());
        let tiles = scratch.tiles.len();
        let out = scratch.out.slice(tiles * padded_dim * width);
        let stats = scratch.stats.slice(tiles * STATS * width);
        let mut lses = block.lses.iter_mut();
        let group = self.group();
        for (index, rows) in block.rows.chunks_mut(width).enumerate() {
            let lanes = scratch.tiles[index].vectors * lanes;
            let stats = &mut stats[index * STATS * width..][..STATS * lanes];
            let (shifts, sums) = stats[lanes..].split_at_mut(lanes);
            let visible = &scratch.visible[index * 2 * width..][..2 * lanes];
            let blind = |lane: usize| visible[lane] == visible[lanes + lane];
            for lane in 0..rows.len() {
                let row = block.start + index * width + lane;
                let sink = self.attention.sink(block.head * group + row % group);
                let (weight, lse) = whole(shifts[lane] * LN_2, sums[lane], sink, blind(lane));
                sums[lane] = weight;
                if let Some(to) = lses.next() {
                    **to = lse;
                }
            }
            simd::arch().dispatch(Unpack {
                sums: &out[index * padded_dim * width..][..padded_dim * lanes],
                weights: sums,
                rows,
            });
            let scale = self.attention.v_scale(block.head);
            for (lane, row) in rows.iter_mut().enumerate() {
                if blind(lane) {
                    row.fill(0.0);
                } else if scale != 1.0 {
                    row.iter_mut().for_each(|out| *out *= scale);
                }
            }
        }
    }
}

/// The sum of a row's weights, relative to e to the power of `largest`, once its sink has joined
/// it, and its log-sum-exp. A blind row sees no key.
fn whole(largest: f32, sum: f32, sink: f32, blind: bool) -> (f32, f32) {
    if sink > f32::NEG_INFINITY && sum == 0.0 {
        return (1.0, sink);
    }
    if sink > f32::NEG_INFINITY {
        let top = largest.max(sink);
        let log = (sum * (largest - top).exp() + (sink - top).exp()).ln();
        return (sum + (sink - largest).exp(), top + log);
    }
    let lse = match (sum == 0.0, blind) {
        (false, _) => largest + sum.ln(),
        (true, true) => f32::NEG_INFINITY,
        // Every logit is -inf.
        (true, false) => f32::NAN,
    };
    (sum, lse)
}
