//! Attention problems: made from a description, stored in any way, run and judged.

use half::{bf16, f16};
use proptest::prelude::*;
use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::{Element, Layout, PagedLayout, Ragged, Span, View, ViewMut};

use super::super::{assert_accurate, magnitude, wide};
use super::operation::Operation;
use crate::attend::Weights;
use crate::generate::Random;
use crate::tensor::{Sums, exact, plain};

/// Where the keys and values lie. What belongs to no token is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// `[token, head, dim]`.
    TokenMajor,
    /// `[head, token, dim]`.
    HeadMajor,
    /// `[token, head, dim]` inside wider rows, with room between sequences.
    Padded,
    /// Pages of this many tokens in random order, `[page, slot, head, dim]`.
    Paged(usize),
    /// Pages of this many tokens in random order, `[page, head, slot, dim]`.
    PagedHeadsFirst(usize),
}

impl Store {
    /// One of each kind.
    pub const ALL: [Self; 6] = [
        Self::TokenMajor,
        Self::HeadMajor,
        Self::Padded,
        Self::Paged(1),
        Self::Paged(16),
        Self::PagedHeadsFirst(5),
    ];
}

/// Which keys a query sees. The last three are for decode, where there is one query per sequence;
/// prefill takes the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sees {
    /// Bottom-right causal.
    Causal,
    /// All.
    Full,
    /// A random number of first keys.
    PerRow,
    /// Between two random bounds.
    Between,
    /// None, row by row.
    Nothing,
    /// All, with no list.
    Dense,
    /// This share of the keys, the same for all heads.
    Shared(f64),
    /// This share of the keys, other ones for each KV head.
    PerHead(f64),
}

/// How large queries and keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Logits about 1.
    Normal,
    /// Logits up to about 100: the largest must be subtracted.
    Large,
    /// Queries 0: every key weighs the same.
    Flat,
}

/// Everything that attention depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What all numbers are drawn from.
    pub seed: u64,
    /// Queries and keys of each sequence.
    pub lens: Vec<(usize, usize)>,
    /// KV heads.
    pub kv_heads: usize,
    /// Query heads per KV head.
    pub group: usize,
    /// Channels of queries, keys and values.
    pub dim: usize,
    /// Where keys and values lie.
    pub store: Store,
    /// Which keys a query sees.
    pub sees: Sees,
    /// How large queries and keys are.
    pub values: Values,
    /// Scale, softcap, sliding window.
    pub attention: Attention<'static>,
    /// Whether a sink joins every row: above, among and below the logits, and -inf for some heads.
    pub sinks: bool,
}

/// A case's tensors: `[token, head, dim]`, contiguous.
#[derive(Debug, Clone)]
pub struct Built<T> {
    /// `[queries, q heads, dim]`.
    pub q: Vec<T>,
    /// `[keys, kv heads, dim]`.
    pub k: Vec<T>,
    /// `[keys, kv heads, dim]`.
    pub v: Vec<T>,
    /// For prefill, the first key row that each query sees.
    pub first: Vec<i32>,
    /// For prefill, its row limit.
    pub limit: Vec<i32>,
    /// For decode, a list per sequence and KV head.
    pub lists: Vec<Vec<i32>>,
    /// `[q heads]`, if there are sinks.
    pub sinks: Option<Vec<f32>>,
}

/// Output and LSE.
pub type Outcome = (Vec<f32>, Vec<f32>);

impl Case {
    /// Two KV heads of two query heads each, 16 channels, token major, normal.
    pub fn plain(seed: u64, lens: &[(usize, usize)], sees: Sees) -> Self {
        let (lens, attention) = (lens.to_vec(), Attention::new(0.25));
        let (store, values) = (Store::TokenMajor, Values::Normal);
        let (kv_heads, group, dim, sinks) = (2, 2, 16, false);
        Self { seed, lens, kv_heads, group, dim, store, sees, values, attention, sinks }
    }

    /// The same with one query per sequence, for decode.
    pub fn decode(seed: u64, lens: &[usize], sees: Sees) -> Self {
        let lens: Vec<(usize, usize)> = lens.iter().map(|&keys| (1, keys)).collect();
        Self::plain(seed, &lens, sees)
    }

    /// The packed queries.
    pub fn queries(&self) -> Ragged {
        ragged(self.lens.iter().map(|&(queries, _)| queries))
    }

    /// The keys, packed.
    pub fn keys(&self) -> Ragged {
        ragged(self.lens.iter().map(|&(_, keys)| keys))
    }

    /// Query heads.
    pub fn q_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn is_decode(&self) -> bool {
        matches!(self.sees, Sees::Dense | Sees::Shared(_) | Sees::PerHead(_))
    }

    /// The case's tensors. Keys and values that no query sees are NaN.
    pub fn build<T: Element>(&self) -> Built<T> {
        let mut random = Random::new(self.seed);
        let (q_size, k_size) = match self.values {
            Values::Normal => (1.0, 1.0),
            Values::Large => (5.0, 5.0),
            Values::Flat => (0.0, 1.0),
        };
        let mut normals = |len, size| -> Vec<T> {
            random.normals(len, size).into_iter().map(T::from_f32).collect()
        };
        let q = normals(self.queries().total() * self.q_heads() * self.dim, q_size);
        let len = self.keys().total() * self.kv_heads * self.dim;
        let (k, v) = (normals(len, k_size), normals(len, 1.0));
        let (first, limit) = self.bounds();
        let (lists, sinks) = (self.lists(), self.sinks());
        let mut built = Built { q, k, v, first, limit, lists, sinks };
        for (sequence, keys) in self.keys().spans().enumerate() {
            for head in 0..self.kv_heads {
                for (token, seen) in self.seen(&built, sequence, head).into_iter().enumerate() {
                    if !seen {
                        let start = ((keys.start + token) * self.kv_heads + head) * self.dim;
                        let nan = T::from_f32(f32::NAN);
                        built.k[start..start + self.dim].fill(nan);
                        built.v[start..start + self.dim].fill(nan);
                    }
                }
            }
        }
        built
    }

    /// Bounds of the keys that each query sees, before the sliding window.
    fn bounds(&self) -> (Vec<i32>, Vec<i32>) {
        let mut random = Random::new(self.seed ^ 0x5eed);
        let mut bounds = Vec::new();
        for &(queries, keys) in &self.lens {
            bounds.extend((0..queries).map(|row| match self.sees {
                Sees::Causal => (0, (keys + row + 1).saturating_sub(queries) as i32),
                Sees::PerRow => (0, random.below(keys + 1) as i32),
                Sees::Between => {
                    let (a, b) = (random.below(keys + 1), random.below(keys + 1));
                    (a.min(b) as i32, a.max(b) as i32)
                }
                Sees::Nothing => (0, 0),
                _ => (0, keys as i32),
            }));
        }
        bounds.into_iter().unzip()
    }

    /// The lists of each sequence and KV head.
    fn lists(&self) -> Vec<Vec<i32>> {
        let mut random = Random::new(self.seed ^ 0x11575);
        let mut lists = Vec::new();
        for &(_, keys) in &self.lens {
            let share = match self.sees {
                Sees::Shared(share) | Sees::PerHead(share) => share,
                _ => 1.0,
            };
            let shared = random.subset(keys, share);
            lists.extend((0..self.kv_heads).map(|_| match self.sees {
                Sees::PerHead(share) => random.subset(keys, share),
                _ => shared.clone(),
            }));
        }
        lists
    }

    fn sinks(&self) -> Option<Vec<f32>> {
        let near = Random::new(self.seed ^ 0x51c5).normals(self.q_heads(), 1.0);
        let sinks = near.into_iter().enumerate().map(|(head, sink)| match head % 5 {
            1 => 5.0 + sink,
            2 => f32::NEG_INFINITY,
            3 => sink - 20.0,
            _ => sink,
        });
        self.sinks.then(|| sinks.collect())
    }

    /// What is done to logits, with what joins them.
    pub(super) fn attention<'a, T>(&self, built: &'a Built<T>) -> Attention<'a> {
        Attention { attention_sink: built.sinks.as_deref(), ..self.attention }
    }

    /// For each key of a KV head, whether any query sees it.
    fn seen<T>(&self, built: &Built<T>, sequence: usize, head: usize) -> Vec<bool> {
        let (queries, keys) = (self.queries().span(sequence), self.lens[sequence].1);
        let narrowed = |limit: usize| match self.attention.sliding_window {
            Some(window) => limit.saturating_sub(window),
            None => 0,
        };
        let mut seen = vec![false; keys];
        if self.is_decode() {
            for &key in &built.lists[sequence * self.kv_heads + head] {
                seen[key as usize] = key as usize >= narrowed(keys);
            }
        } else {
            for row in queries.range() {
                let limit = built.limit[row] as usize;
                let first = narrowed(limit).max(built.first[row] as usize);
                seen[first.min(limit)..limit].fill(true);
            }
        }
        seen
    }

    /// Runs the case with given tensors; nothing if the implementation does not take them.
    ///
    /// # Panics
    /// With the case, if it is refused.
    pub fn run<T: Element>(&self, on: &impl Operation, built: &Built<T>) -> Option<Outcome> {
        self.run_into(on, built, true)
    }

    /// The same without asking for the LSE.
    pub fn run_without_lse<T: Element>(
        &self,
        on: &impl Operation,
        built: &Built<T>,
    ) -> Option<Vec<f32>> {
        self.run_into(on, built, false).map(|(out, _)| out)
    }

    fn run_into<T: Element>(
        &self,
        on: &impl Operation,
        built: &Built<T>,
        with_lse: bool,
    ) -> Option<Outcome> {
        let mut out = vec![f32::NAN; built.q.len()];
        let mut lse = vec![f32::NAN; self.queries().total() * self.q_heads()];
        let stored = Stored::new(self, &built.k, &built.v);
        let keys = stored.keys();
        let q = View::token_major(&built.q[..], self.q_heads(), self.dim);
        let out_view = ViewMut::token_major(&mut out[..], self.q_heads(), self.dim);
        if !on.takes(&keys, out_view.layout) {
            return None;
        }
        let lse_asked = with_lse.then_some(&mut lse[..]);
        on.run(self, built, q, &keys, out_view, lse_asked)
            .unwrap_or_else(|e| panic!("attend: {:?} {self:?}: {e}", T::DTYPE));
        Some((out, lse))
    }

    pub(super) fn limit<'a, T>(&self, built: &'a Built<T>) -> RowLimit<&'a [i32]> {
        match self.sees {
            Sees::Causal => RowLimit::Causal,
            Sees::Full => RowLimit::Full,
            Sees::Between => RowLimit::Between { first: &built.first, limit: &built.limit },
            _ => RowLimit::PerRow(&built.limit),
        }
    }

    pub(super) fn with_lists<T, R>(
        &self,
        built: &Built<T>,
        run: impl FnOnce(KeyLists<PackedLists<'_>>) -> R,
    ) -> R {
        let every = if let Sees::Shared(_) = self.sees { self.kv_heads } else { 1 };
        let given: Vec<&Vec<i32>> = built.lists.iter().step_by(every).collect();
        let lists = ragged(given.iter().map(|list| list.len()));
        let keys: Vec<i32> = given.into_iter().flatten().copied().collect();
        run(match self.sees {
            Sees::Shared(_) => KeyLists::Shared(PackedLists { keys: &keys, lists: &lists }),
            Sees::PerHead(_) => KeyLists::PerHead(PackedLists { keys: &keys, lists: &lists }),
            _ => KeyLists::Dense,
        })
    }

    /// Compares with the oracle in every element type.
    ///
    /// # Panics
    /// With the case, if it errs by more than the relative rule allows.
    pub fn check(&self, on: &impl Operation) {
        self.check_built(on, &self.build::<f32>(), "");
        self.check_built(on, &self.build::<f16>(), "");
        self.check_built(on, &self.build::<bf16>(), "");
    }

    /// Compares with the oracle on given tensors, if the implementation takes them and they are in
    /// its sample; `changed` says in what they differ from the case's.
    ///
    /// # Panics
    /// As [`Case::check`].
    pub fn check_built<T: Element>(&self, on: &impl Operation, built: &Built<T>, changed: &str) {
        if !on.sample().takes(&(self, changed, T::DTYPE)) {
            return;
        }
        let Some((out, lse)) = self.run(on, built) else { return };
        let flat = Self { store: Store::TokenMajor, ..self.clone() };
        let stored = Stored::new(&flat, &built.k, &built.v);
        let keys = stored.keys();
        let q = View::token_major(&built.q[..], self.q_heads(), self.dim);
        let right = on.reference::<f64, T>(self, built, q, &keys, Weights::Exact);
        let plain = plain!(on.sums(), R => {
            let (out, lse) = on.reference::<R, T>(self, built, q, &keys, on.weights());
            (exact(&out), exact(&lse))
        });
        let context = |what| format!("attend: {what} of {:?} {self:?} {changed}", T::DTYPE);
        let how = (on.weights(), on.sums());
        judge(&out, &plain.0, &right, how, &|| context("output"));
        judge_lse(&lse, &plain.1, &right.1, on.sums(), &|| context("LSE"));
    }
}

/// The relative rule for outputs, with room for the luck of few numbers. One of them is a row of
/// one key, whose weight the plain computation finds to be 1 exactly; where weights are rounded by
/// themselves, an error of the logit's last bit is not in both the weight and the sum.
pub fn judge(
    actual: &[f32],
    plain: &[f64],
    (exact, lse): &(Vec<f64>, Vec<f64>),
    (weights, sums): (Weights, Sums),
    context: &dyn Fn() -> String,
) {
    let logits = if weights == Weights::Rounded { magnitude(lse) } else { 0.0 };
    let luck = (8.0 + logits) * f64::from(f32::EPSILON) * sums.luck();
    assert_accurate(&wide(actual), plain, exact, luck * magnitude(exact), context);
}

/// The same for LSE.
pub fn judge_lse(
    actual: &[f32],
    plain: &[f64],
    exact: &[f64],
    sums: Sums,
    context: &dyn Fn() -> String,
) {
    let luck = 8.0 * f64::from(f32::EPSILON) * sums.luck();
    assert_accurate(&wide(actual), plain, exact, luck * magnitude(exact), context);
}

/// Any case of prefill, or of decode, with sequences of up to `longest` rows.
pub fn cases(longest: usize, decode: bool) -> impl Strategy<Value = Case> {
    let share = 0..=100u32;
    let lens = prop::collection::vec((0..=longest, 0..=longest), 0..4);
    let shape = (1..=3usize, 1..=4usize, 1..=40usize);
    let options = (0..5usize, 0..6usize, any::<bool>(), 0..=longest + 1);
    (any::<u64>(), lens, shape, options, share).prop_map(
        move |(seed, lens, shape, options, share)| {
            let (kv_heads, group, dim) = shape;
            let (sees, store, softcap, window) = options;
            let share = f64::from(share) / 100.0;
            let prefills = [Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing];
            let decodes = [Sees::Dense, Sees::Shared(share), Sees::PerHead(share)];
            let attention = Attention {
                softcap: softcap.then_some(1.5),
                sliding_window: (window > 0).then_some(window),
                ..Attention::new((dim as f32).powf(-0.5))
            };
            Case {
                seed,
                lens: lens.into_iter().map(|(q, k)| (if decode { 1 } else { q }, k)).collect(),
                kv_heads,
                group,
                dim,
                store: Store::ALL[store],
                sees: if decode { decodes[sees % 3] } else { prefills[sees] },
                values: Values::Normal,
                attention,
                sinks: seed % 3 == 0,
            }
        },
    )
}

/// Keys and values where a [`Store`] puts them.
pub(super) struct Stored<T> {
    k: Vec<T>,
    v: Vec<T>,
    place: Place,
}

enum Place {
    Contiguous { layout: Layout, spans: Vec<Span> },
    Paged { layout: PagedLayout, page_table: Vec<i32>, lens: Vec<usize> },
}

impl<T: Element> Stored<T> {
    /// Contiguous `[keys, kv heads, dim]` keys and values, put where the case wants them.
    pub(super) fn new(case: &Case, keys_of: &[T], values_of: &[T]) -> Self {
        let (heads, dim, keys) = (case.kv_heads, case.dim, case.keys());
        let lens: Vec<usize> = keys.lens().collect();
        let gap = if case.store == Store::Padded { 3 } else { 0 };
        let tokens = keys.total() + keys.batch() * gap;
        let flat = Layout::token_major(heads, dim);
        let (place, len) = match case.store {
            Store::Paged(page_size) => paged(PagedLayout::nhd(page_size, heads, dim), lens),
            Store::PagedHeadsFirst(size) => paged(PagedLayout::hnd(size, heads, dim), lens),
            Store::TokenMajor | Store::HeadMajor | Store::Padded => {
                let layout = match case.store {
                    Store::HeadMajor => Layout::head_major(heads, dim, tokens),
                    Store::Padded => {
                        let token_stride = heads * (dim + 1) + 3;
                        Layout { token_stride, head_stride: dim + 1, ..flat }
                    }
                    _ => flat,
                };
                let spans = keys.spans().enumerate();
                let spans = spans.map(|(i, s)| Span { start: s.start + i * gap, len: s.len });
                let len = layout.required_len(tokens).expect("a small cache");
                (Place::Contiguous { layout, spans: spans.collect() }, len)
            }
        };
        let nan = T::from_f32(f32::NAN);
        let (mut k, mut v) = (vec![nan; len], vec![nan; len]);
        for (sequence, span) in keys.spans().enumerate() {
            for token in 0..span.len {
                for head in 0..heads {
                    let from = flat.offset(span.start + token, head);
                    let to = place.offset(sequence, token, head);
                    k[to..to + dim].copy_from_slice(&keys_of[from..from + dim]);
                    v[to..to + dim].copy_from_slice(&values_of[from..from + dim]);
                }
            }
        }
        Self { k, v, place }
    }

    pub(super) fn keys(&self) -> Keys<'_, T> {
        match &self.place {
            Place::Contiguous { layout, spans } => Keys::Contiguous {
                k: View::new(&self.k, *layout),
                v: View::new(&self.v, *layout),
                spans,
            },
            Place::Paged { layout, page_table, lens } => {
                Keys::Paged { k: &self.k, v: &self.v, layout: *layout, page_table, lens }
            }
        }
    }
}

impl Place {
    fn offset(&self, sequence: usize, token: usize, head: usize) -> usize {
        match self {
            Self::Contiguous { layout, spans } => {
                layout.offset(spans[sequence].start + token, head)
            }
            Self::Paged { layout, page_table, lens } => {
                let max_pages = page_table.len() / lens.len();
                let page = page_table[sequence * max_pages + token / layout.page_size];
                layout.offset(page as usize, token % layout.page_size, head)
            }
        }
    }
}

/// Pages in random order with strangers among them, and the length of the pool. Table entries
/// behind a sequence's last page are no pages.
fn paged(layout: PagedLayout, lens: Vec<usize>) -> (Place, usize) {
    let used = |len: &usize| len.div_ceil(layout.page_size);
    let pages = lens.iter().map(used).sum::<usize>() + 2;
    let max_pages = lens.iter().map(used).max().unwrap_or(0) + 1;
    let mut order = Random::new(pages as u64).permutation(pages).into_iter();
    let mut page_table = vec![i32::MIN; lens.len() * max_pages];
    for (row, len) in page_table.chunks_exact_mut(max_pages).zip(&lens) {
        row[..used(len)].fill_with(|| order.next().expect("pages enough") as i32);
    }
    let len = layout.required_len(pages).expect("a small pool");
    (Place::Paged { layout, page_table, lens }, len)
}

fn ragged(lens: impl Iterator<Item = usize>) -> Ragged {
    Ragged::from_lens(&lens.collect::<Vec<_>>()).expect("lengths of a case")
}
