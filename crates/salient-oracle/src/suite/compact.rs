//! The suite of **compact**: every byte that moves, and every byte that must not.

use half::{bf16, f16};
use proptest::prelude::*;
use salient::{Element, Layout, PagedLayout, Ragged, Span};

use super::{assert_same_bits, bits, run_all};
use crate::compact::{self, Kept};
use crate::generate::{Random, lengths};
use crate::implementation::Compact;
use crate::select;

/// Which tokens a case keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keeping {
    /// All.
    All,
    /// None.
    Nothing,
    /// Each with this probability.
    Share(f64),
    /// The last ones: the longest moves, onto themselves where more than half stay.
    Last(usize),
}

/// Where a contiguous cache keeps its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// `[token, head, dim]`.
    TokenMajor,
    /// `[head, token, dim]`.
    HeadMajor,
    /// `[token, head, dim]` inside wider rows, with room after each sequence.
    Padded,
}

/// Everything a compaction depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What all numbers are drawn from.
    pub seed: u64,
    /// Lengths of the sequences.
    pub lens: Vec<usize>,
    /// KV heads of the cache.
    pub kv_heads: usize,
    /// Channels per head, and width of hidden rows.
    pub dim: usize,
    /// Whether each KV head keeps its own tokens.
    pub per_head: bool,
    /// Which tokens stay.
    pub keeping: Keeping,
}

impl Case {
    /// The sequences.
    pub fn source(&self) -> Ragged {
        Ragged::from_lens(&self.lens).expect("lengths of a case")
    }

    /// Rows per sequence.
    pub fn heads(&self) -> usize {
        if self.per_head { self.kv_heads } else { 1 }
    }

    /// The kept lists.
    pub fn lists(&self) -> Vec<Vec<i32>> {
        let mut random = Random::new(self.seed);
        let mut list = |len: usize| match self.keeping {
            Keeping::All => random.subset(len, 1.0),
            Keeping::Nothing => vec![],
            Keeping::Share(share) => random.subset(len, share),
            Keeping::Last(count) => (len.saturating_sub(count) as i32..len as i32).collect(),
        };
        let lens = self.lens.iter().flat_map(|&len| std::iter::repeat_n(len, self.heads()));
        lens.map(&mut list).collect()
    }

    fn values<T: Element>(&self, len: usize, stream: u64) -> Vec<T> {
        let mut random = Random::new(self.seed ^ (stream << 32));
        let value = |_| match random.below(64) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 => -0.0,
            _ => random.unit() as f32 - 0.5,
        };
        (0..len).map(value).map(T::from_f32).collect()
    }
}

/// Any case of sequences up to `longest` tokens.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let keeping = prop_oneof![
        Just(Keeping::All),
        Just(Keeping::Nothing),
        (0..=1000u32).prop_map(|share| Keeping::Share(f64::from(share) / 1000.0)),
        (0..=longest).prop_map(Keeping::Last),
    ];
    (any::<u64>(), lengths(longest), 1..=4usize, 1..=24usize, any::<bool>(), keeping).prop_map(
        |(seed, lens, kv_heads, dim, per_head, keeping)| Case {
            seed,
            lens,
            kv_heads,
            dim,
            per_head,
            keeping,
        },
    )
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl Compact) {
    run_all(&[
        ("every_batch_shape_and_choice", &|| every_batch_shape_and_choice(on)),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Ragged batches, head sizes and choices of tokens, in every type and store.
pub fn every_batch_shape_and_choice(on: &impl Compact) {
    let batches: [&[usize]; 6] =
        [&[], &[0, 0], &[1], &[5, 0, 33, 1], &[257, 64, 100], &[0, 500, 3]];
    let keeps = [
        Keeping::All,
        Keeping::Nothing,
        Keeping::Share(0.35),
        Keeping::Share(0.9),
        Keeping::Last(20),
        Keeping::Last(1),
    ];
    let shapes = [(1, 1), (2, 3), (3, 64), (8, 16)];
    for (seed, lens) in batches.into_iter().enumerate() {
        for keeping in keeps {
            for (kv_heads, dim) in shapes {
                for per_head in [false, true] {
                    let (seed, lens) = (seed as u64, lens.to_vec());
                    check(on, &Case { seed, lens, kv_heads, dim, per_head, keeping });
                }
            }
        }
    }
    let long = Case {
        seed: 7,
        lens: vec![16_384, 4097],
        kv_heads: 2,
        dim: 8,
        per_head: true,
        keeping: Keeping::Share(0.35),
    };
    check(on, &long);
}

/// Every property of one case, in every element type.
pub fn check(on: &impl Compact, case: &Case) {
    check_type::<f32>(on, case);
    check_type::<f16>(on, case);
    check_type::<bf16>(on, case);
}

fn check_type<T: Element>(on: &impl Compact, case: &Case) {
    if !case.per_head {
        rows::<T>(on, case);
    }
    for store in [Store::TokenMajor, Store::HeadMajor, Store::Padded] {
        contiguous::<T>(on, case, store);
    }
    for page_size in [1, 7, 16] {
        for heads_first in [false, true] {
            paged::<T>(on, case, page_size, heads_first);
        }
    }
}

/// Rows: several tensors at once equal the oracle, in place equals out of place, and scattering
/// back by the inverse map restores the kept rows and no others.
fn rows<T: Element>(on: &impl Compact, case: &Case) {
    let (source, lists) = (case.source(), case.lists());
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let widths = [case.dim, 1, 2 * case.dim + 1];
    let tensors: Vec<Vec<T>> = (0..)
        .zip(widths)
        .map(|(stream, width)| case.values(source.total() * width, stream))
        .collect();
    let given: Vec<(&[T], usize)> = tensors.iter().map(Vec::as_slice).zip(widths).collect();
    let context = format!("compact rows: {:?} {case:?}", T::DTYPE);
    let gathered = on.rows(&kept, &given).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut in_place: Vec<(Vec<T>, usize)> = tensors.iter().cloned().zip(widths).collect();
    on.rows_in_place(&kept, &mut in_place).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(gathered.len(), tensors.len(), "{context}: number of tensors");
    let inverse = select::inverse(&source, 1, &lists);
    for (t, (&(before, width), after)) in given.iter().zip(&gathered).enumerate() {
        let context = format!("{context}: tensor {t} of width {width}");
        assert_same_bits(after, &compact::rows(&kept, before, width), &context);
        assert_same_bits(&in_place[t].0, after, &format!("{context}: in place"));
        if case.keeping == Keeping::All {
            assert_same_bits(after, before, &format!("{context}: all kept is the identity"));
        }
        let mut first = 0;
        for (span, list) in source.spans().zip(&lists) {
            for old in span.range() {
                if let Ok(place) = usize::try_from(inverse[old]) {
                    let (old, new) = (row(before, old, width), row(after, first + place, width));
                    assert_eq!(bits(old), bits(new), "{context}: scattered back");
                }
            }
            first += list.len();
        }
    }
}

fn row<T>(tensor: &[T], row: usize, width: usize) -> &[T] {
    &tensor[row * width..(row + 1) * width]
}

/// Contiguous caches in place: the kept tokens come to the front of their span, and nothing outside
/// the spans changes.
fn contiguous<T: Element>(on: &impl Compact, case: &Case, store: Store) {
    let (source, lists) = (case.source(), case.lists());
    let kept = Kept { source: &source, heads: case.heads(), lists: &lists };
    let gap = if store == Store::Padded { 3 } else { 0 };
    let spans: Vec<Span> = (0..)
        .zip(source.spans())
        .map(|(i, span)| Span { start: span.start + i * gap, len: span.len })
        .collect();
    let tokens = source.total() + source.batch() * gap;
    let layout = match store {
        Store::TokenMajor => Layout::token_major(case.kv_heads, case.dim),
        Store::HeadMajor => Layout::head_major(case.kv_heads, case.dim, tokens),
        Store::Padded => Layout {
            token_stride: case.kv_heads * (case.dim + 2) + 5,
            head_stride: case.dim + 2,
            ..Layout::token_major(case.kv_heads, case.dim)
        },
    };
    let len = tokens * layout.token_stride.max(case.kv_heads * case.dim);
    let context = format!("compact kv: {:?} {store:?} {case:?}", T::DTYPE);
    let before: [Vec<T>; 2] = [case.values(len, 1), case.values(len, 2)];
    let mut after = before.clone();
    let [k, v] = &mut after;
    on.kv(&kept, &spans, layout, &mut [[&mut k[..], &mut v[..]]])
        .unwrap_or_else(|e| panic!("{context}: {e}"));
    for (before, after) in before.iter().zip(&after) {
        let mut expected = before.clone();
        compact::kv(&kept, &spans, &mut expected, layout);
        let mut free = vec![true; len];
        for (sequence, span) in spans.iter().enumerate() {
            for head in 0..case.kv_heads {
                let moved = kept.list(sequence, head).len();
                for token in moved..span.len {
                    let start = layout.offset(span.start + token, head);
                    free[start..start + case.dim].fill(false);
                }
            }
        }
        compare_where(after, &expected, &free, &context);
        if case.keeping == Keeping::All {
            assert_same_bits(after, before, &format!("{context}: all kept is the identity"));
        }
    }
}

/// Paged caches in place, on pages in random order with strangers between them.
fn paged<T: Element>(on: &impl Compact, case: &Case, page_size: usize, heads_first: bool) {
    let (source, lists) = (case.source(), case.lists());
    let kept = Kept { source: &source, heads: case.heads(), lists: &lists };
    let needed: usize = case.lens.iter().map(|len| len.div_ceil(page_size)).sum();
    let most = case.lens.iter().map(|len| len.div_ceil(page_size)).max().unwrap_or(0) + 1;
    let mut unused = Random::new(!case.seed).permutation(needed + 3).into_iter();
    let mut page_table = vec![i32::MAX; source.batch() * most];
    for (row, len) in page_table.chunks_exact_mut(most).zip(&case.lens) {
        row[..len.div_ceil(page_size)].fill_with(|| unused.next().expect("pages enough") as i32);
    }
    let pages = compact::pages_of(&source, &page_table, page_size).expect("pages enough");
    let make = if heads_first { PagedLayout::hnd } else { PagedLayout::nhd };
    let layout = make(page_size, case.kv_heads, case.dim);
    let len = layout.required_len(needed + 3).expect("a small pool");
    let context = format!(
        "compact paged kv: {:?} page size {page_size}, heads first {heads_first} {case:?}",
        T::DTYPE
    );
    let before: [Vec<T>; 2] = [case.values(len, 3), case.values(len, 4)];
    let mut after = before.clone();
    let [k, v] = &mut after;
    let freed = on
        .kv_paged(&kept, &page_table, layout, &mut [[&mut k[..], &mut v[..]]])
        .unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(freed, compact::freed(&kept, &pages, page_size), "{context}: freed pages");
    for (before, after) in before.iter().zip(&after) {
        let mut expected = before.clone();
        compact::kv_paged(&kept, &pages, &mut expected, layout);
        let mut specified = vec![true; len];
        for (sequence, &tokens) in case.lens.iter().enumerate() {
            for head in 0..case.kv_heads {
                for token in kept.list(sequence, head).len()..tokens {
                    let page = pages[sequence][token / page_size] as usize;
                    let start = layout.offset(page, token % page_size, head);
                    specified[start..start + case.dim].fill(false);
                }
            }
        }
        compare_where(after, &expected, &specified, &context);
    }
}

fn compare_where<T: Element>(actual: &[T], expected: &[T], specified: &[bool], context: &str) {
    let (actual, expected) = (bits(actual), bits(expected));
    for (i, &specified) in specified.iter().enumerate() {
        if specified && actual[i] != expected[i] {
            panic!("{context}: element {i} is {:#x}, expected {:#x}", actual[i], expected[i]);
        }
    }
}

/// What cannot be right is an error, and leaves every tensor as it was.
pub fn bad_input(on: &impl Compact) {
    let source = Ragged::from_lens(&[4, 3]).expect("short rows");
    let lists = [vec![1, 3], vec![2]];
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let painted = |len: usize| (0..len).map(|i| i as f32).collect::<Vec<f32>>();

    let short = painted(2 * 7 - 1);
    assert!(on.rows(&kept, &[(&short, 2)]).is_err(), "compact rows: a short tensor accepted");
    let mut tensors = [(painted(14), 2), (painted(13), 2)];
    assert!(on.rows_in_place(&kept, &mut tensors).is_err(), "compact rows in place: short tensor");
    assert_same_bits(&tensors[0].0, &painted(14), "compact rows in place: written despite an Err");

    let spans: Vec<Span> = source.spans().collect();
    let layout = Layout::token_major(2, 3);
    let reject = |what: &str, kept: &Kept<'_>, spans: &[Span], lens: [usize; 2], layout| {
        let [mut k, mut v] = lens.map(painted);
        let result = on.kv(kept, spans, layout, &mut [[&mut k[..], &mut v[..]]]);
        assert!(result.is_err(), "compact kv: bad input accepted: {what}");
        assert_same_bits(&k, &painted(lens[0]), &format!("compact kv: written on {what}"));
        assert_same_bits(&v, &painted(lens[1]), &format!("compact kv: written on {what}"));
    };
    reject("a short V", &kept, &spans, [42, 41], layout);
    reject("a span missing", &kept, &spans[..1], [42, 42], layout);
    let wrong_len = [spans[0], Span { start: 4, len: 2 }];
    reject("a span shorter than its sequence", &kept, &wrong_len, [42, 42], layout);
    let outside = [spans[0], Span { start: 5, len: 3 }];
    reject("a span past the end", &kept, &outside, [42, 42], layout);
    let overlapping = [spans[0], Span { start: 3, len: 3 }];
    reject("spans that overlap", &kept, &overlapping, [42, 42], layout);
    let three = [vec![0], vec![0], vec![0], vec![1], vec![1], vec![1]];
    let per_head = Kept { source: &source, heads: 3, lists: &three };
    reject("lists of 3 heads for 2", &per_head, &spans, [42, 42], layout);
    let huge = Layout { token_stride: usize::MAX / 2, ..layout };
    reject("strides that overflow", &kept, &spans, [42, 42], huge);

    let layout = PagedLayout::nhd(2, 2, 3);
    let reject = |what: &str, kept: &Kept<'_>, page_table: &[i32], layout: PagedLayout| {
        let len = 4 * 12;
        let [mut k, mut v] = [painted(len), painted(len)];
        let result = on.kv_paged(kept, page_table, layout, &mut [[&mut k[..], &mut v[..]]]);
        assert!(result.is_err(), "compact paged kv: bad input accepted: {what}");
        assert_same_bits(&k, &painted(len), &format!("compact paged kv: written on {what}"));
        assert_same_bits(&v, &painted(len), &format!("compact paged kv: written on {what}"));
    };
    reject("a page past the pool", &kept, &[0, 1, 2, 4], layout);
    reject("a negative page", &kept, &[0, 1, 2, -1], layout);
    reject("one page twice", &kept, &[0, 1, 2, 1], layout);
    reject("too few pages", &kept, &[0, 2], layout);
    reject("an odd table", &kept, &[0, 1, 2, 3, 3], layout);
    reject("lists of 3 heads for 2", &per_head, &[0, 1, 2, 3], layout);
    reject("pages of no tokens", &kept, &[0, 1, 2, 3], PagedLayout { page_size: 0, ..layout });
}
