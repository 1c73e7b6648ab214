//! Compaction on the host: every byte where the oracle has it, whatever the storage, the lists'
//! form and the number of threads.

#[path = "common/host.rs"]
mod host;
#[path = "common/pools.rs"]
mod pools;

use proptest::prelude::*;
use salient::host::compact::{self, KvMut, PagedKvMut, RowTensor, RowTensorMut};
use salient::select::Selection;
use salient::{Layout, PagedLayout, Ragged, Span};
use salient_oracle::generate::Random;
use salient_oracle::suite::compact::{Case, Keeping, cases, check};

use host::Host;
use pools::in_pools;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn equals_the_oracle(case in cases(200)) {
        check(&Host, &case);
    }

    /// One list for all heads, or as many copies of it, in one piece or in pages.
    #[test]
    fn one_list_moves_alike_in_every_form(case in cases(200), page_size in 1..20usize) {
        let case = Case { per_head: false, ..case };
        let shared = selection(&case);
        let copies: Vec<Vec<i32>> = case
            .lists()
            .into_iter()
            .flat_map(|list| std::iter::repeat_n(list, case.kv_heads))
            .collect();
        let per_head = Selection::from_lists(case.source(), case.kv_heads, &copies).unwrap();
        let expected = contiguous(&case, &shared);
        prop_assert_eq!(&contiguous(&case, &per_head), &expected);
        prop_assert_eq!(&paged(&case, &shared, page_size), &expected);
        prop_assert_eq!(&paged(&case, &per_head, page_size), &expected);
    }
}

/// Large enough to be shared between threads.
#[test]
fn the_number_of_threads_changes_nothing() {
    let keeping = Keeping::Share(0.35);
    let lens = vec![9000, 0, 4000];
    let case = Case { seed: 1, lens, kv_heads: 4, dim: 16, per_head: true, keeping };
    let rows = Case { per_head: false, ..case.clone() };
    in_pools(|| {
        let selection = selection(&rows);
        let hidden = numbers(13_000 * 64);
        let mut gathered = vec![0; selection.kept().len() * 64];
        let tensor = RowTensor::new(&hidden, 64, &mut gathered).unwrap();
        compact::rows(&selection, &mut [tensor]).unwrap();
        let mut moved = hidden;
        let tensor = RowTensorMut::new(&mut moved, 64).unwrap();
        compact::rows_in_place(&selection, &mut [tensor]).unwrap();
        moved.truncate(gathered.len());
        assert!(moved == gathered, "in place differs from out of place");
        (gathered, contiguous(&case, &self::selection(&case)), paged(&rows, &selection, 16))
    });
}

fn selection(case: &Case) -> Selection {
    Selection::from_lists(case.source(), case.heads(), &case.lists()).unwrap()
}

/// A different number in every place.
fn numbers(len: usize) -> Vec<u32> {
    (0..len as u32).collect()
}

/// The kept tokens of every sequence and head after compaction in one piece.
fn contiguous(case: &Case, selection: &Selection) -> Vec<u32> {
    let rows = case.source();
    let layout = Layout::token_major(case.kv_heads, case.dim);
    let spans: Vec<Span> = rows.spans().collect();
    let [mut k, mut v] = [(); 2].map(|()| numbers(rows.total() * case.kv_heads * case.dim));
    let layer = KvMut::new(&mut k, &mut v, layout, &spans).unwrap();
    compact::kv(selection, &mut [layer]).unwrap();
    assert_eq!(k, v);
    read(case, selection, &k, |sequence, token, head| {
        layout.offset(spans[sequence].start + token, head)
    })
}

/// The same by way of a paged cache.
fn paged(case: &Case, selection: &Selection, page_size: usize) -> Vec<u32> {
    let rows = case.source();
    let (flat, paged) = (
        Layout::token_major(case.kv_heads, case.dim),
        PagedLayout::nhd(page_size, case.kv_heads, case.dim),
    );
    let max_pages = rows.lens().map(|len| len.div_ceil(page_size)).max().unwrap_or(0).max(1);
    let pages = rows.batch() * max_pages;
    let order = Random::new(case.seed).permutation(pages);
    let table: Vec<i32> = order.into_iter().map(|page| page as i32).collect();
    let offset = |sequence: usize, token: usize, head: usize| {
        let page = table[sequence * max_pages + token / page_size] as usize;
        paged.offset(page, token % page_size, head)
    };
    let mut k = vec![u32::MAX; paged.required_len(pages).unwrap()];
    let filled = numbers(rows.total() * case.kv_heads * case.dim);
    for (sequence, span) in rows.spans().enumerate() {
        for token in 0..span.len {
            for head in 0..case.kv_heads {
                let from = flat.offset(span.start + token, head);
                let to = offset(sequence, token, head);
                k[to..to + case.dim].copy_from_slice(&filled[from..from + case.dim]);
            }
        }
    }
    let mut v = k.clone();
    let layer = PagedKvMut::new(&mut k, &mut v, paged).unwrap();
    compact::kv_paged(selection, &table, &mut [layer]).unwrap();
    assert_eq!(k, v);
    read(case, selection, &k, offset)
}

/// Kept tokens, sequence by sequence, head by head.
fn read(
    case: &Case,
    selection: &Selection,
    cache: &[u32],
    offset: impl Fn(usize, usize, usize) -> usize,
) -> Vec<u32> {
    let mut out = Vec::new();
    let source: Ragged = case.source();
    for sequence in 0..source.batch() {
        for head in 0..case.kv_heads {
            let kept = selection.row(sequence, head.min(selection.heads() - 1)).len();
            for token in 0..kept {
                let start = offset(sequence, token, head);
                out.extend_from_slice(&cache[start..start + case.dim]);
            }
        }
    }
    out
}
