//! Every documented error, with nothing written.

use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::{Element, Layout, PagedLayout, Ragged, Result, Span, View, ViewMut};

use super::super::assert_same_bits;
use crate::implementation::{AttendDecode, AttendPrefill};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;
const PAGED: PagedLayout = PagedLayout {
    page_size: 4,
    heads: KV_HEADS,
    dim: DIM,
    page_stride: 4 * KV_HEADS * DIM,
    token_stride: KV_HEADS * DIM,
    head_stride: DIM,
};

/// Sequences of 2 and 3 queries over 4 and 3 keys; anything may be made wrong.
#[derive(Debug, Clone, Copy)]
struct Problem<'a, T> {
    q: View<'a, T>,
    queries: &'a Ragged,
    keys: Keys<'a, T>,
    limit: RowLimit<&'a [i32]>,
    lists: KeyLists<PackedLists<'a>>,
    attention: Attention<'a>,
    out: Layout,
    out_len: usize,
    lse_len: usize,
}

impl<T: Element> Problem<'_, T> {
    /// Runs into painted buffers, which an error must leave as they were.
    fn run(self, what: &str, call: impl FnOnce(Self, ViewMut<'_, f32>, &mut [f32]) -> Result<()>) {
        let (mut out, mut lse) = (vec![7.0; self.out_len], vec![7.0; self.lse_len]);
        let result = call(self, ViewMut::new(&mut out, self.out), &mut lse);
        assert!(result.is_err(), "attend: bad input accepted: {what}");
        let untouched = |len| vec![7f32; len];
        assert_same_bits(&out, &untouched(self.out_len), &format!("attend: written on {what}"));
        assert_same_bits(&lse, &untouched(self.lse_len), &format!("attend: written on {what}"));
    }
}

/// What both operations are made wrong from.
struct Good<T> {
    data: Vec<T>,
    queries: Ragged,
    spans: [Span; 2],
}

impl<T: Element> Good<T> {
    fn new() -> Self {
        Self {
            data: vec![T::from_f32(0.5); 1024],
            queries: Ragged::from_lens(&[2, 3]).expect("short rows"),
            spans: [Span { start: 0, len: 4 }, Span { start: 4, len: 3 }],
        }
    }

    fn kv(&self) -> View<'_, T> {
        View::token_major(&self.data[..7 * KV_HEADS * DIM], KV_HEADS, DIM)
    }

    fn paged<'a>(&'a self, page_table: &'a [i32], lens: &'a [usize]) -> Keys<'a, T> {
        let pool = &self.data[..3 * PAGED.page_stride];
        Keys::Paged { k: pool, v: pool, layout: PAGED, page_table, lens }
    }

    fn problem(&self, queries: usize) -> Problem<'_, T> {
        Problem {
            q: View::token_major(&self.data[..queries * HEADS * DIM], HEADS, DIM),
            queries: &self.queries,
            keys: Keys::Contiguous { k: self.kv(), v: self.kv(), spans: &self.spans },
            limit: RowLimit::Causal,
            lists: KeyLists::Dense,
            attention: Attention::new(0.3),
            out: Layout::token_major(HEADS, DIM),
            out_len: queries * HEADS * DIM,
            lse_len: queries * HEADS,
        }
    }
}

/// Every documented error of prefill, with nothing written.
pub fn bad_prefills<T: Element>(on: &impl AttendPrefill) {
    let source = Good::<T>::new();
    let good = source.problem(5);
    let prefill = |what: &str, problem: Problem<'_, T>| {
        problem.run(what, |p, out, lse| {
            on.prefill(p.q, p.queries, &p.keys, p.limit, &p.attention, out, Some(lse))
        });
    };

    for keys in [good.keys, source.paged(&[0, 2], &[4, 3])] {
        if on.takes_prefill(&keys, good.out) {
            let (mut out, mut lse) = (vec![0.0; good.out_len], vec![0.0; good.lse_len]);
            let (out, lse) = (ViewMut::new(&mut out, good.out), Some(&mut lse[..]));
            let accepted =
                on.prefill(good.q, good.queries, &keys, good.limit, &good.attention, out, lse);
            assert_eq!(accepted, Ok(()), "attend: good input rejected");
        }
    }

    let q = View::token_major(&source.data[..5 * HEADS * DIM - 1], HEADS, DIM);
    prefill("short q", Problem { q, ..good });
    prefill("short out", Problem { out_len: 5 * HEADS * DIM - 1, ..good });
    prefill("short LSE", Problem { lse_len: 5 * HEADS - 1, ..good });
    prefill("long LSE", Problem { lse_len: 5 * HEADS + 1, ..good });
    let three = Layout::token_major(3, DIM);
    let q = View::new(good.q.data, three);
    prefill("3 query heads over 2", Problem { q, out: three, lse_len: 15, ..good });
    let narrow = View::token_major(good.q.data, HEADS, DIM / 2);
    prefill("queries narrower than keys", Problem { q: narrow, ..good });
    prefill("narrow out", Problem { out: Layout::token_major(HEADS, DIM / 2), ..good });
    prefill("out of other heads", Problem { out: Layout::token_major(2 * HEADS, DIM / 2), ..good });
    let huge = Layout { token_stride: usize::MAX / 2, ..good.out };
    prefill("an out that overflows", Problem { out: huge, ..good });
    let one = Ragged::from_lens(&[5]).expect("short rows");
    prefill("one sequence of queries over two of keys", Problem { queries: &one, ..good });

    bad_keys(&source, good, &prefill);

    for (what, limits) in [
        ("a row limit past the keys", &[1, 5, 1, 1, 1][..]),
        ("a negative row limit", &[1, 1, 1, -1, 1]),
        ("too few row limits", &[1, 1, 1, 1]),
        ("too many row limits", &[1; 6]),
    ] {
        prefill(what, Problem { limit: RowLimit::PerRow(limits), ..good });
        let limit = RowLimit::Between { first: &[0; 5][..], limit: limits };
        prefill(what, Problem { limit, ..good });
    }
    let limit = RowLimit::Between { first: &[0, -1, 0, 0, 0][..], limit: &[1; 5] };
    prefill("a negative first row", Problem { limit, ..good });
}

/// Every documented error of decode, with nothing written.
pub fn bad_decodes<T: Element>(on: &impl AttendDecode) {
    let source = Good::<T>::new();
    let good = source.problem(2);
    let decode = |what: &str, problem: Problem<'_, T>| {
        problem.run(what, |p, out, lse| {
            on.decode(p.q, &p.keys, p.lists, &p.attention, out, Some(lse))
        });
    };
    for keys in [good.keys, source.paged(&[0, 2], &[4, 3])] {
        if on.takes_decode(&keys, good.out) {
            let (mut out, mut lse) = (vec![0.0; good.out_len], vec![0.0; good.lse_len]);
            let (out, lse) = (ViewMut::new(&mut out, good.out), Some(&mut lse[..]));
            let accepted = on.decode(good.q, &keys, good.lists, &good.attention, out, lse);
            assert_eq!(accepted, Ok(()), "attend: good input rejected");
        }
    }
    bad_keys(&source, good, &decode);

    let lists = Ragged::from_lens(&[2, 1]).expect("short lists");
    let shared = |keys| KeyLists::Shared(PackedLists { keys, lists: &lists });
    decode("a list that descends", Problem { lists: shared(&[1, 0, 0]), ..good });
    decode("a key listed twice", Problem { lists: shared(&[1, 1, 0]), ..good });
    decode("a listed key past the keys", Problem { lists: shared(&[1, 2, 3]), ..good });
    decode("a negative key", Problem { lists: shared(&[-1, 2, 0]), ..good });
    decode("fewer keys than the lists hold", Problem { lists: shared(&[0, 1]), ..good });
    decode("more keys than the lists hold", Problem { lists: shared(&[0, 1, 0, 1]), ..good });
    let per_head = KeyLists::PerHead(PackedLists { keys: &[0, 1, 0], lists: &lists });
    decode("a list per sequence for a list per head", Problem { lists: per_head, ..good });
}

/// Keys and options that neither operation takes.
fn bad_keys<T: Element>(
    source: &Good<T>,
    good: Problem<'_, T>,
    both: &dyn Fn(&str, Problem<'_, T>),
) {
    let (data, spans, kv) = (&source.data, source.spans, source.kv());
    let pool = &data[..3 * PAGED.page_stride];
    let paged = |page_table, lens| source.paged(page_table, lens);
    let short = View::token_major(&data[..7 * KV_HEADS * DIM - 1], KV_HEADS, DIM);
    both("short k", Problem { keys: Keys::Contiguous { k: short, v: kv, spans: &spans }, ..good });
    both("short v", Problem { keys: Keys::Contiguous { k: kv, v: short, spans: &spans }, ..good });
    let other = View::token_major(&data[..7 * DIM], 1, DIM);
    both(
        "V of one head",
        Problem { keys: Keys::Contiguous { k: kv, v: other, spans: &spans }, ..good },
    );
    for far in [Span { start: 5, len: 3 }, Span { start: usize::MAX, len: 3 }] {
        let spans = [spans[0], far];
        let keys = Keys::Contiguous { k: kv, v: kv, spans: &spans };
        both(&format!("span {far:?}"), Problem { keys, ..good });
    }
    both("a page past the pool", Problem { keys: paged(&[0, 3], &[4, 3]), ..good });
    both("a negative page", Problem { keys: paged(&[0, -1], &[4, 3]), ..good });
    both("more keys than pages", Problem { keys: paged(&[0, 1], &[4, 5]), ..good });
    both("an odd page table", Problem { keys: paged(&[0, 1, 2], &[4, 3]), ..good });
    let layout = PagedLayout { page_size: 0, ..PAGED };
    let keys = Keys::Paged { k: pool, v: pool, layout, page_table: &[0, 1], lens: &[4, 3] };
    both("pages of no rows", Problem { keys, ..good });

    for scale in [f32::NAN, f32::INFINITY] {
        let attention = Attention::new(scale);
        both(&format!("scale {scale}"), Problem { attention, ..good });
    }
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let attention = Attention { softcap: Some(cap), ..good.attention };
        both(&format!("softcap {cap}"), Problem { attention, ..good });
    }
    let attention = Attention { sliding_window: Some(0), ..good.attention };
    both("a sliding window of 0", Problem { attention, ..good });
    for sinks in [
        &[0.0; HEADS - 1][..],
        &[0.0; HEADS + 1],
        &[f32::NAN; HEADS],
        &[0.0, 0.0, f32::INFINITY, 0.0],
    ] {
        let attention = Attention { attention_sink: Some(sinks), ..good.attention };
        both(&format!("sinks {sinks:?}"), Problem { attention, ..good });
    }
}
