//! Exact top-k by radix selection.
//!
//! Scores become unsigned keys in the same order, made anew on every pass in blocks that stay in
//! the first-level cache, so a row is only ever read. The cut between winners and losers is found
//! digit by digit from the top: a histogram of the digit names the bin in which the cut lies,
//! everything above that bin wins, and the search goes on inside it. As soon as the bin is small
//! its keys are gathered and the rest of the work is on those. A last pass in index order writes
//! the winners.
//!
//! Passes over long rows are cut into fixed chunks that run in parallel. Only counts are combined,
//! so the outcome does not depend on who ran what.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::host::simd;

/// A row of scores as keys: a larger score has a larger key, NaN has 0, protected tokens have
/// `u32::MAX`; no number has either of these.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    scores: &'a [f32],
    mask: Option<&'a [bool]>,
}

/// Keys from `key` up win, but of those equal to it only the first `ties`.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    key: u32,
    ties: usize,
    /// How many keys are equal, where that is known to exceed `ties`.
    equal: usize,
}

/// What a selection needs besides its output.
#[derive(Default)]
pub(super) struct Scratch {
    gathered: Vec<u32>,
    next: Vec<u32>,
}

impl<'a> Keys<'a> {
    /// `mask` is as long as `scores`, true for protected.
    pub(super) fn new(scores: &'a [f32], mask: Option<&'a [bool]>) -> Self {
        Self { scores, mask }
    }

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    fn chunk(&self, index: usize) -> Self {
        let start = index * CHUNK;
        let end = (start + CHUNK).min(self.len());
        Self { scores: &self.scores[start..end], mask: self.mask.map(|mask| &mask[start..end]) }
    }

    /// The first key in `range`, or if there is none the least.
    fn first_in(&self, range: KeyRange) -> u32 {
        let key = |i: usize| match self.mask {
            Some(mask) if mask[i] => u32::MAX,
            _ => key_of(self.scores[i]),
        };
        (0..self.len()).map(key).find(|&key| range.contains(key)).unwrap_or(range.low)
    }

    /// Runs `work` on every chunk, in parallel where there are several.
    fn chunks<R: Send>(&self, work: impl Fn(Self) -> R + Sync) -> Vec<R> {
        match self.len().div_ceil(CHUNK) {
            0 | 1 => vec![work(*self)],
            chunks => (0..chunks).into_par_iter().map(|index| work(self.chunk(index))).collect(),
        }
    }
}

impl Cut {
    /// Every score from `at_least` up.
    pub(super) fn at_least(at_least: f32) -> Self {
        Self::from_key(key_of(at_least))
    }

    fn from_key(key: u32) -> Self {
        Self { key, ties: usize::MAX, equal: usize::MAX }
    }
}

/// Whether any score is NaN.
pub(super) fn any_nan(scores: &[f32]) -> bool {
    Keys::new(scores, None)
        .chunks(|chunk| simd::arch().dispatch(AnyNan(chunk.scores)))
        .contains(&true)
}

/// How many keys a cut that keeps all ties lets through.
pub(super) fn count(keys: Keys<'_>, cut: Cut) -> usize {
    let (above, equal) = count_around(keys, cut.key);
    above + equal
}

/// Finds the cut that lets exactly `k` keys through, where `0 < k < keys.len()`.
pub(super) fn cut(keys: Keys<'_>, k: usize, scratch: &mut Scratch) -> Cut {
    let Scratch { gathered, next } = scratch;
    let mut range = KeyRange::ALL;
    let mut missing = k;
    let mut in_row = true;
    for (digit, shift) in SHIFTS.into_iter().enumerate() {
        let histogram = |source| simd::arch().dispatch(CountDigits { source, range, shift });
        let counts = if in_row {
            keys.chunks(|chunk| histogram(Source::Row(chunk)))
        } else {
            vec![histogram(Source::Gathered(gathered))]
        };
        let (bin, above) = find_bin(&counts, missing);
        missing -= above;
        range = range.bin(bin, shift);
        let held: Vec<usize> = counts.iter().map(|counts| counts[bin] as usize).collect();
        let count = held.iter().sum();
        if count == missing {
            return Cut::from_key(range.low);
        }
        if digit + 1 == SHIFTS.len() {
            return Cut { key: range.low, ties: missing, equal: count };
        }
        if count > FEW && !in_row {
            continue;
        }
        if count > FEW && count > keys.len() / 4 {
            // One value may be behind so full a bin; to try one that is in it costs little.
            let guess = keys.first_in(range);
            let (above, equal) = count_around(keys, guess);
            if above < k && k <= above + equal {
                return Cut { key: guess, ties: k - above, equal };
            }
            continue;
        }
        next.clear();
        next.resize(count, 0);
        if in_row {
            gather(keys, range, &held, next);
        } else {
            compress::<false>(Source::Gathered(gathered), range, 0, next);
        }
        std::mem::swap(gathered, next);
        in_row = false;
        if count <= FEW {
            return cut_few(gathered, missing);
        }
    }
    unreachable!("the last digit returns")
}

/// Writes the indices of the keys that `cut` lets through, counted from `first`, ascending. `out`
/// is as long as there are.
pub(super) fn emit(keys: Keys<'_>, cut: Cut, first: i32, out: &mut [i32]) {
    let out: &mut [u32] = bytemuck::cast_slice_mut(out);
    if keys.len() <= CHUNK {
        return emit_chunk(keys, cut, first as u32, out);
    }
    let counts = keys.chunks(|keys| simd::arch().dispatch(Count { keys, key: cut.key }));
    let mut jobs = Vec::with_capacity(counts.len());
    let mut rest = out;
    let mut ties = cut.ties;
    for (index, (above, equal)) in counts.into_iter().enumerate() {
        let taken = equal.min(ties);
        ties -= taken;
        let (out, after) = rest.split_at_mut(above + taken);
        rest = after;
        jobs.push((index, Cut { key: cut.key, ties: taken, equal }, out));
    }
    jobs.into_par_iter().for_each(|(index, cut, out)| {
        emit_chunk(keys.chunk(index), cut, first as u32 + (index * CHUNK) as u32, out);
    });
}

/// Keys made at a time.
const BLOCK: usize = 256;
/// Keys in a parallel piece of work.
const CHUNK: usize = 1 << 16;
/// Keys that are ranked by comparing.
const FEW: usize = 512;
/// Digits of 11, 11 and 10 bits.
const SHIFTS: [u32; 3] = [21, 10, 0];
const BINS: usize = 1 << 11;
/// Lanes of a 512-bit vector.
const LANES: usize = 16;

#[inline(always)]
fn key_of(score: f32) -> u32 {
    // The sum turns -0.0 into +0.0 and changes nothing else.
    let bits = (score + 0.0).to_bits();
    let ordered = bits ^ ((bits as i32 >> 31) as u32 | 1 << 31);
    if score.is_nan() { 0 } else { ordered }
}

/// Keys from `low` to `low + extent`, both included.
#[derive(Clone, Copy)]
struct KeyRange {
    low: u32,
    extent: u32,
}

impl KeyRange {
    const ALL: Self = Self { low: 0, extent: u32::MAX };

    fn bin(self, bin: usize, shift: u32) -> Self {
        Self { low: self.low | (bin as u32) << shift, extent: (1 << shift) - 1 }
    }

    #[inline(always)]
    fn contains(self, key: u32) -> bool {
        key.wrapping_sub(self.low) <= self.extent
    }
}

/// Keys to look at.
#[derive(Clone, Copy)]
enum Source<'a> {
    Row(Keys<'a>),
    Gathered(&'a [u32]),
}

impl Source<'_> {
    #[inline(always)]
    fn blocks(&self) -> usize {
        match self {
            Self::Row(keys) => keys.len().div_ceil(BLOCK),
            Self::Gathered(keys) => keys.len().div_ceil(BLOCK),
        }
    }

    /// The keys from `index * BLOCK` on, as many as fit a block.
    #[inline(always)]
    fn block<'b>(&'b self, index: usize, buffer: &'b mut [u32; BLOCK]) -> &'b [u32] {
        let keys = match self {
            Self::Row(keys) => keys,
            Self::Gathered(keys) => {
                return &keys[index * BLOCK..keys.len().min((index + 1) * BLOCK)];
            }
        };
        let range = index * BLOCK..keys.len().min((index + 1) * BLOCK);
        let scores = &keys.scores[range.clone()];
        let block = &mut buffer[..scores.len()];
        match keys.mask {
            None => {
                for (key, &score) in block.iter_mut().zip(scores) {
                    *key = key_of(score);
                }
            }
            Some(mask) => {
                for ((key, &score), &masked) in block.iter_mut().zip(scores).zip(&mask[range]) {
                    *key = if masked { u32::MAX } else { key_of(score) };
                }
            }
        }
        block
    }
}

/// The bin that holds the `missing`-th largest key, and how many keys lie in the bins above it.
fn find_bin(counts: &[Box<[u32; BINS]>], missing: usize) -> (usize, usize) {
    const GROUP: usize = 32;
    let in_group = |group: usize| -> usize {
        let bins = group * GROUP..(group + 1) * GROUP;
        counts.iter().map(|counts| counts[bins.clone()].iter().sum::<u32>() as usize).sum()
    };
    let mut above = 0;
    let mut group = BINS / GROUP - 1;
    loop {
        let count = in_group(group);
        if above + count >= missing || group == 0 {
            break;
        }
        above += count;
        group -= 1;
    }
    for bin in (group * GROUP..(group + 1) * GROUP).rev() {
        let count: usize = counts.iter().map(|counts| counts[bin] as usize).sum();
        if above + count >= missing {
            return (bin, above);
        }
        above += count;
    }
    unreachable!("more keys are missing than there are")
}

/// How many keys lie above `key`, and how many equal it.
fn count_around(keys: Keys<'_>, key: u32) -> (usize, usize) {
    keys.chunks(|keys| simd::arch().dispatch(Count { keys, key }))
        .into_iter()
        .fold((0, 0), |sum, chunk| (sum.0 + chunk.0, sum.1 + chunk.1))
}

/// Collects the keys in `range`, of which chunk `i` holds `held[i]`.
fn gather(keys: Keys<'_>, range: KeyRange, held: &[usize], out: &mut [u32]) {
    let mut rest = out;
    let mut jobs = Vec::with_capacity(held.len());
    for (index, &held) in held.iter().enumerate() {
        let (out, after) = rest.split_at_mut(held);
        rest = after;
        jobs.push((keys.chunk(index), out));
    }
    let work = |(keys, out)| compress::<false>(Source::Row(keys), range, 0, out);
    match jobs.len() {
        1 => jobs.into_iter().for_each(work),
        _ => jobs.into_par_iter().for_each(work),
    }
}

fn cut_few(keys: &mut [u32], missing: usize) -> Cut {
    let (_, &mut key, larger) = keys.select_nth_unstable(keys.len() - missing);
    let ties = missing - larger.iter().filter(|&&other| other > key).count();
    let equal = keys.iter().filter(|&&other| other == key).count();
    Cut { key, ties, equal }
}

fn emit_chunk(keys: Keys<'_>, cut: Cut, first: u32, out: &mut [u32]) {
    let from = |low: u32| KeyRange { low, extent: u32::MAX - low };
    if cut.ties == cut.equal {
        return compress::<true>(Source::Row(keys), from(cut.key), first, out);
    }
    // Ties win up to some index and lose after it.
    let split = simd::arch().dispatch(AfterEqual { keys, key: cut.key, nth: cut.ties });
    let (scores, scores_after) = keys.scores.split_at(split);
    let (mask, mask_after) = keys.mask.map(|mask| mask.split_at(split)).unzip();
    let (before, after) = (Keys::new(scores, mask), Keys::new(scores_after, mask_after));
    let (above, equal) = simd::arch().dispatch(Count { keys: before, key: cut.key });
    let (out, out_after) = out.split_at_mut(above + equal);
    compress::<true>(Source::Row(before), from(cut.key), first, out);
    compress::<true>(Source::Row(after), from(cut.key + 1), first + split as u32, out_after);
}

/// Writes what lies in `range`: the keys themselves, or with `INDICES` where they are, counted from
/// `first`. `out` is as long as there are.
fn compress<const INDICES: bool>(source: Source<'_>, range: KeyRange, first: u32, out: &mut [u32]) {
    let work = Compress::<INDICES> { source, range, first, out };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new() {
        return simd.vectorize(CompressV4 { work, simd });
    }
    simd::arch().dispatch(work);
}

struct AnyNan<'a>(&'a [f32]);

impl WithSimd for AnyNan<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        self.0.chunks(BLOCK).any(|block| block.iter().fold(false, |nan, s| nan | s.is_nan()))
    }
}

/// Counts keys above and equal to a key.
struct Count<'a> {
    keys: Keys<'a>,
    key: u32,
}

impl WithSimd for Count<'_> {
    type Output = (usize, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
        let (mut above, mut equal) = (0, 0);
        let (source, mut buffer) = (Source::Row(self.keys), [0; BLOCK]);
        for index in 0..source.blocks() {
            let block = source.block(index, &mut buffer);
            above += block.iter().map(|&key| u32::from(key > self.key)).sum::<u32>() as usize;
            equal += block.iter().map(|&key| u32::from(key == self.key)).sum::<u32>() as usize;
        }
        (above, equal)
    }
}

/// Finds the index after the `nth` key that equals `key`, where there are as many.
struct AfterEqual<'a> {
    keys: Keys<'a>,
    key: u32,
    nth: usize,
}

impl WithSimd for AfterEqual<'_> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        if self.nth == 0 {
            return 0;
        }
        let (source, mut buffer) = (Source::Row(self.keys), [0; BLOCK]);
        let mut missing = self.nth;
        for index in 0..source.blocks() {
            let block = source.block(index, &mut buffer);
            let equal = block.iter().map(|&key| u32::from(key == self.key)).sum::<u32>() as usize;
            if equal < missing {
                missing -= equal;
                continue;
            }
            for (i, &key) in block.iter().enumerate() {
                missing -= usize::from(key == self.key);
                if missing == 0 {
                    return index * BLOCK + i + 1;
                }
            }
        }
        self.keys.len()
    }
}

/// Counts the keys in `range` by the digit at `shift`.
struct CountDigits<'a> {
    source: Source<'a>,
    range: KeyRange,
    shift: u32,
}

impl WithSimd for CountDigits<'_> {
    type Output = Box<[u32; BINS]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Box<[u32; BINS]> {
        // Equal keys hit one counter again and again; four sets of counters take turns, so that an
        // increment need not wait for the one before. The bin after the last takes what lies
        // outside.
        let mut counts = [[0u32; BINS + 1]; 4];
        let mut bins = [0u32; BLOCK];
        let mut buffer = [0; BLOCK];
        for index in 0..self.source.blocks() {
            let block = self.source.block(index, &mut buffer);
            for (bin, &key) in bins.iter_mut().zip(block) {
                let digit = (key >> self.shift) & (BINS as u32 - 1);
                *bin = if self.range.contains(key) { digit } else { BINS as u32 };
            }
            let (quads, rest) = bins[..block.len()].as_chunks::<4>();
            for quad in quads {
                for (counts, &bin) in counts.iter_mut().zip(quad) {
                    counts[bin as usize] += 1;
                }
            }
            for &bin in rest {
                counts[0][bin as usize] += 1;
            }
        }
        let mut sums = Box::new([0; BINS]);
        let [a, b, c, d] = &counts;
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = a[i] + b[i] + c[i] + d[i];
        }
        sums
    }
}

struct Compress<'a, const INDICES: bool> {
    source: Source<'a>,
    range: KeyRange,
    first: u32,
    out: &'a mut [u32],
}

impl<const INDICES: bool> WithSimd for Compress<'_, INDICES> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { source, range, mut first, out } = self;
        // Every value is written where the next winner goes and only winners move that place on, so
        // nothing branches on the data. One past the end, losers have nowhere to go.
        let (mut at, mut buffer) = (0, [0; BLOCK]);
        for index in 0..source.blocks() {
            let block = source.block(index, &mut buffer);
            for (i, &key) in (first..).zip(block) {
                if let Some(out) = out.get_mut(at) {
                    *out = if INDICES { i } else { key };
                }
                at += usize::from(range.contains(key));
            }
            first += block.len() as u32;
        }
    }
}

/// [`Compress`] with the instruction of that name.
#[cfg(target_arch = "x86_64")]
struct CompressV4<'a, const INDICES: bool> {
    work: Compress<'a, INDICES>,
    simd: pulp::x86::V4,
}

#[cfg(target_arch = "x86_64")]
impl<const INDICES: bool> pulp::NullaryFnOnce for CompressV4<'_, INDICES> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { work: Compress { source, range, mut first, out }, simd } = self;
        let lane: [u32; LANES] = std::array::from_fn(|i| i as u32);
        let splat = |value: u32| pulp::cast([value; LANES]);
        let (low, extent) = (splat(range.low), splat(range.extent));
        let (mut at, mut buffer) = (0, [0; BLOCK]);
        for index in 0..source.blocks() {
            let block = source.block(index, &mut buffer);
            let (vectors, rest) = block.as_chunks::<LANES>();
            for vector in vectors {
                let keys = pulp::cast(*vector);
                let distance = simd.avx512f._mm512_sub_epi32(keys, low);
                let mask = simd.avx512f._mm512_cmple_epu32_mask(distance, extent);
                let values = match INDICES {
                    true => simd.avx512f._mm512_add_epi32(pulp::cast(lane), splat(first)),
                    false => keys,
                };
                let packed = simd.avx512f._mm512_maskz_compress_epi32(mask, values);
                let packed: [u32; LANES] = pulp::cast(packed);
                let end = at + mask.count_ones() as usize;
                match out.get_mut(at..at + LANES) {
                    Some(out) => out.copy_from_slice(&packed),
                    None => out[at..end].copy_from_slice(&packed[..end - at]),
                }
                at = end;
                first += LANES as u32;
            }
            for &key in rest {
                if range.contains(key) {
                    out[at] = if INDICES { first } else { key };
                    at += 1;
                }
                first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores_do() {
        let ascending = [
            f32::NAN,
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(ascending.map(key_of).is_sorted_by(|a, b| a < b));
        assert_eq!(key_of(-0.0), key_of(0.0));
        assert_eq!(key_of(-f32::NAN), 0);
        assert!(key_of(f32::INFINITY) < u32::MAX);
    }

    #[test]
    fn both_ways_to_compress_agree() {
        for len in [1, 15, 16, 17, 255, 256, 257, 1000] {
            let keys: Vec<u32> = (0..len).map(|i: u32| i.wrapping_mul(2654435769)).collect();
            for (low, extent) in [(0, u32::MAX), (1 << 30, 1 << 31), (u32::MAX, 0)] {
                let range = KeyRange { low, extent };
                let kept: Vec<u32> =
                    keys.iter().copied().filter(|&key| range.contains(key)).collect();
                let source = Source::Gathered(&keys);
                let mut best = vec![0; kept.len()];
                compress::<false>(source, range, 0, &mut best);
                assert_eq!(best, kept);
                let mut scalar = vec![0; kept.len()];
                let out = &mut scalar;
                pulp::Scalar.vectorize(Compress::<false> { source, range, first: 0, out });
                assert_eq!(scalar, kept);
            }
        }
    }
}
