//! The suite of **attend**: the relative rule against the oracle, and what must hold bit for bit.

mod bad_input;
mod case;

use half::bf16;
use salient::host::attend::{Attention, Keys, RowLimit};
use salient::{Layout, Span, View, ViewMut};

pub use bad_input::bad_input;
pub use case::{Built, Case, Outcome, Sees, Store, Values, cases, judge};

use super::{assert_same_bits, run_all};
use crate::attend::row;
use crate::generate::Random;
use crate::implementation::Attend;
use crate::real::Real;

const PREFILLS: [Sees; 5] = [Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing];
const DECODES: [Sees; 5] =
    [Sees::Dense, Sees::Shared(0.35), Sees::PerHead(0.35), Sees::Shared(0.0), Sees::PerHead(0.02)];

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl Attend) {
    run_all(&[
        ("shapes", &|| shapes(on)),
        ("long_rows", &|| long_rows(on)),
        ("options", &|| options(on)),
        ("a_store_changes_no_bit", &|| a_store_changes_no_bit(on)),
        ("one_limit_in_several_words", &|| one_limit_in_several_words(on)),
        ("one_list_in_several_words", &|| one_list_in_several_words(on)),
        ("neighbours_change_nothing", &|| neighbours_change_nothing(on)),
        ("pruned_is_masked", &|| pruned_is_masked(on)),
        ("nan_stays_where_it_is_seen", &|| nan_stays_where_it_is_seen(on)),
        ("infinite_values_arrive", &|| infinite_values_arrive(on)),
        ("the_output_has_any_layout", &|| the_output_has_any_layout(on)),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Odd head sizes, groups of 1 to 8, queries longer and shorter than keys, empty sequences.
pub fn shapes(on: &impl Attend) {
    let batches: [&[(usize, usize)]; 8] = [
        &[],
        &[(0, 0)],
        &[(1, 1)],
        &[(33, 33)],
        &[(0, 5), (5, 0), (3, 3), (0, 0)],
        &[(17, 65), (65, 17), (1, 130)],
        &[(150, 150)],
        &[(1, 700), (40, 300)],
    ];
    let heads = [(1, 1, 1), (1, 2, 3), (2, 4, 64), (1, 8, 80), (2, 1, 128), (1, 7, 20)];
    let mut stores = Store::ALL.into_iter().cycle();
    let mut values = [Values::Normal, Values::Large, Values::Flat].into_iter().cycle();
    for lens in batches {
        for (kv_heads, group, dim) in heads {
            let attention = Attention::new((dim as f32).powf(-0.5));
            let any = |case: Case, store, values| Case {
                kv_heads,
                group,
                dim,
                store,
                values,
                attention,
                ..case
            };
            for (store, (values, sees)) in stores.by_ref().zip(values.by_ref().zip(PREFILLS)) {
                any(Case::plain(dim as u64, lens, sees), store, values).check(on);
            }
            let keys: Vec<usize> = lens.iter().map(|&(_, keys)| keys).collect();
            for (store, (values, sees)) in stores.by_ref().zip(values.by_ref().zip(DECODES)) {
                any(Case::decode(dim as u64, &keys, sees), store, values).check(on);
            }
        }
    }
}

/// Rows that are cut among blocks, chunks and threads.
pub fn long_rows(on: &impl Attend) {
    for sees in [Sees::Causal, Sees::Between] {
        Case::plain(1, &[(5, 4097), (300, 1025), (513, 513)], sees).check(on);
    }
    for sees in [Sees::Dense, Sees::Shared(0.35), Sees::PerHead(0.125)] {
        for store in [Store::TokenMajor, Store::HeadMajor, Store::Paged(16)] {
            let case = Case::decode(2, &[16_384, 1, 4097, 0, 2048], sees);
            Case { store, ..case }.check(on);
        }
    }
}

/// Softcaps, sliding windows, scales.
pub fn options(on: &impl Attend) {
    for sees in PREFILLS.into_iter().chain(DECODES) {
        for softcap in [None, Some(0.5), Some(30.0)] {
            for sliding_window in [None, Some(1), Some(7), Some(100_000)] {
                for scale in [0.25, 0.0, -1.0] {
                    let lens: &[(usize, usize)] = match sees {
                        Sees::Dense | Sees::Shared(_) | Sees::PerHead(_) => &[(1, 150), (1, 0)],
                        _ => &[(20, 40), (40, 20), (33, 150)],
                    };
                    let case = Case::plain(3, lens, sees);
                    let attention = Attention { scale, softcap, sliding_window };
                    let case = Case { attention, ..case };
                    case.check_built(on, &case.build::<f32>(), "");
                }
            }
        }
    }
}

/// The same keys in other places: the same bits; again: the same bits; with no LSE: the same bits.
pub fn a_store_changes_no_bit(on: &impl Attend) {
    let lens = [(30, 70), (0, 9), (64, 257)];
    let prefills = PREFILLS.map(|sees| Case::plain(4, &lens, sees));
    let decodes = DECODES.map(|sees| Case::decode(4, &[70, 0, 1500], sees));
    for case in prefills.into_iter().chain(decodes) {
        let built = case.build::<f32>();
        let expected = case.run(on, &built);
        let context = format!("attend: {case:?}");
        same_outcome(&case.run(on, &built), &expected, &format!("{context}: again"));
        let without = case.run_without_lse(on, &built);
        assert_same_bits(&without, &expected.0, &format!("{context}: without LSE"));
        for store in Store::ALL {
            let stored = Case { store, ..case.clone() };
            same_outcome(&stored.run(on, &built), &expected, &format!("{context}: in {store:?}"));
        }
    }
}

/// Causal and full are row limits, and row limits begin at 0.
pub fn one_limit_in_several_words(on: &impl Attend) {
    let lens = [(30, 70), (70, 30), (129, 257)];
    for sees in [Sees::Causal, Sees::Full, Sees::PerRow] {
        let case = Case::plain(5, &lens, sees);
        let built = case.build::<f32>();
        let expected = case.run(on, &built);
        for sees in [Sees::PerRow, Sees::Between] {
            let context = format!("attend: {case:?} as {sees:?}");
            same_outcome(&Case { sees, ..case.clone() }.run(on, &built), &expected, &context);
        }
    }
}

/// All keys listed is dense; a list for each head that is the same for all is shared.
pub fn one_list_in_several_words(on: &impl Attend) {
    for share in [0.0, 0.35, 1.0] {
        for sliding_window in [None, Some(40)] {
            let case = Case::decode(6, &[70, 0, 1500], Sees::Shared(share));
            let attention = Attention { sliding_window, ..case.attention };
            let case = Case { attention, ..case };
            let built = case.build::<f32>();
            let expected = case.run(on, &built);
            let mut words = vec![Sees::PerHead(share)];
            words.extend((share == 1.0).then_some(Sees::Dense));
            for sees in words {
                let context = format!("attend: {case:?} as {sees:?}");
                same_outcome(&Case { sees, ..case.clone() }.run(on, &built), &expected, &context);
            }
        }
    }
}

/// A sequence reads the same bits alone and in its batch.
pub fn neighbours_change_nothing(on: &impl Attend) {
    let prefills = [Sees::Causal, Sees::Full]
        .map(|sees| Case::plain(7, &[(33, 65), (0, 4), (129, 129), (2, 0), (1, 513)], sees));
    let dense = Case::decode(7, &[700, 0, 33, 4097], Sees::Dense);
    for case in prefills.into_iter().chain([dense]) {
        let built = case.build::<f32>();
        let together = case.run(on, &built);
        let (queries, keys) = (case.queries(), case.keys());
        for sequence in 0..case.lens.len() {
            let (queries, keys) = (queries.span(sequence), keys.span(sequence));
            let cut = |tensor: &[f32], span: Span, width: usize| {
                tensor[span.start * width..span.end() * width].to_vec()
            };
            let (q_width, width) = (case.q_heads() * case.dim, case.kv_heads * case.dim);
            let alone = Case { lens: vec![case.lens[sequence]], ..case.clone() };
            let cut_out = Built {
                q: cut(&built.q, queries, q_width),
                k: cut(&built.k, keys, width),
                v: cut(&built.v, keys, width),
                ..alone.build()
            };
            let expected =
                (cut(&together.0, queries, q_width), cut(&together.1, queries, case.q_heads()));
            let context = format!("attend: sequence {sequence} alone: {case:?}");
            same_outcome(&alone.run(on, &cut_out), &expected, &context);
        }
    }
}

/// Causal attention over compacted rows is dense attention with the dropped keys masked.
pub fn pruned_is_masked(on: &impl Attend) {
    for (len, share) in [(1, 1.0), (40, 0.5), (257, 0.35), (257, 1.0), (600, 0.1)] {
        let dense = Case::plain(8, &[(len, len)], Sees::Full);
        let built = dense.build::<f32>();
        let kept = Random::new(len as u64).subset(len, share);
        let gather = |tensor: &[f32], heads: usize| -> Vec<f32> {
            let rows = kept.iter().map(|&i| i as usize * heads * dense.dim);
            rows.flat_map(|start| &tensor[start..start + heads * dense.dim]).copied().collect()
        };
        let pruned = Case::plain(8, &[(kept.len(), kept.len())], Sees::Causal);
        let compacted = Built {
            q: gather(&built.q, dense.q_heads()),
            k: gather(&built.k, dense.kv_heads),
            v: gather(&built.v, dense.kv_heads),
            ..pruned.build()
        };
        let (out, lse) = pruned.run(on, &compacted);
        let (exact, plain) = (masked::<f64>(&dense, &built, &kept), masked(&dense, &built, &kept));
        let context =
            |what| format!("attend: pruned {what}, {len} rows, share {share}, seed {len}");
        judge(&out, &plain.0, &exact.0, &|| context("output"));
        judge(&lse, &plain.1, &exact.1, &|| context("LSE"));
        if share == 1.0 {
            let causal = Case { sees: Sees::Causal, ..dense };
            same_outcome(&(out, lse), &causal.run(on, &built), &context("nothing"));
        }
    }
}

/// Each kept row over the kept rows up to it, in the uncompacted tensors.
fn masked<R: Real>(case: &Case, built: &Built<f32>, kept: &[i32]) -> (Vec<R>, Vec<R>) {
    let view = |tensor, heads| View::token_major(tensor, heads, case.dim);
    let q: View<'_, f32> = view(&built.q, case.q_heads());
    let (k, v) = (view(&built.k, case.kv_heads), view(&built.v, case.kv_heads));
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for &query in kept {
        for head in 0..case.q_heads() {
            let seen = kept.iter().filter(|&&key| key <= query).map(|&key| key as usize);
            let kv_head = head / case.group;
            let seen: Vec<_> = seen.map(|t| (k.row(t, kv_head), v.row(t, kv_head))).collect();
            let scale = case.attention.scale;
            let (row, log_sum) =
                row::<R, f32>(q.row(query as usize, head), &seen, case.dim, scale, None);
            out.extend(row);
            lse.push(log_sum);
        }
    }
    (out, lse)
}

/// NaN in a key, a value or a query reaches the rows that see it and no others.
pub fn nan_stays_where_it_is_seen(on: &impl Attend) {
    let prefills = [Sees::Causal, Sees::PerRow, Sees::Between]
        .map(|sees| Case::plain(9, &[(40, 70), (70, 40), (130, 130)], sees));
    let decodes = [Sees::Dense, Sees::PerHead(0.5)].map(|s| Case::decode(9, &[70, 40, 600], s));
    for case in prefills.into_iter().chain(decodes) {
        let clean = case.build::<bf16>();
        let key = |sequence: usize, token: usize, head: usize| {
            ((case.keys().span(sequence).start + token) * case.kv_heads + head) * case.dim
        };
        for (sequence, token) in [(0, 0), (0, 65), (1, 20), (2, 129), (2, 64)] {
            let mut k = clean.clone();
            k.k[key(sequence, token, 1) + 5] = bf16::NAN;
            case.check_built(on, &k, &format!("with NaN in key {token} of sequence {sequence}"));
            let mut v = clean.clone();
            v.v[key(sequence, token, 0) + 15] = bf16::NAN;
            case.check_built(on, &v, &format!("with NaN in value {token} of sequence {sequence}"));
        }
        let mut q = clean.clone();
        let rows = q.q.len() / case.dim;
        q.q[rows / 2 * case.dim] = bf16::NAN;
        case.check_built(on, &q, &format!("with NaN in row {} of the queries", rows / 2));
    }
}

/// An infinite value makes its channel infinite in the rows that see it.
pub fn infinite_values_arrive(on: &impl Attend) {
    for case in
        [Case::plain(10, &[(65, 130)], Sees::Causal), Case::decode(10, &[600, 3], Sees::Dense)]
    {
        let mut built = case.build::<f32>();
        built.v[2 * case.kv_heads * case.dim + 1] = f32::INFINITY;
        built.v[2 * case.kv_heads * case.dim + 2] = f32::NEG_INFINITY;
        case.check_built(on, &built, "with infinities in value 2");
    }
}

/// The output goes where its layout says and nowhere else.
pub fn the_output_has_any_layout(on: &impl Attend) {
    let case = Case::plain(11, &[(30, 40), (9, 3)], Sees::Causal);
    let built = case.build::<f32>();
    let (expected, _) = case.run(on, &built);
    let (heads, dim, tokens) = (case.q_heads(), case.dim, case.queries().total());
    let padded = Layout {
        token_stride: heads * (dim + 3) + 2,
        head_stride: dim + 3,
        ..Layout::token_major(heads, dim)
    };
    let spans: Vec<Span> = case.keys().spans().collect();
    let view = |tensor, heads| View::token_major(tensor, heads, dim);
    let (k, v) = (view(&built.k[..], case.kv_heads), view(&built.v[..], case.kv_heads));
    let keys = Keys::Contiguous { k, v, spans: &spans };
    for layout in [padded, Layout::head_major(heads, dim, tokens + 2)] {
        let mut out = vec![7.0; layout.required_len(tokens + 2).expect("small")];
        let out_view = ViewMut::new(&mut out, layout);
        let q = view(&built.q[..], heads);
        on.prefill(q, &case.queries(), &keys, RowLimit::Causal, &case.attention, out_view, None)
            .unwrap_or_else(|e| panic!("attend: {case:?} into {layout:?}: {e}"));
        let mut right = vec![7.0; out.len()];
        for token in 0..tokens {
            for head in 0..heads {
                let (to, from) = (layout.offset(token, head), (token * heads + head) * dim);
                right[to..to + dim].copy_from_slice(&expected[from..from + dim]);
            }
        }
        assert_same_bits(&out, &right, &format!("attend: {case:?} into {layout:?}"));
    }
}

fn same_outcome(actual: &Outcome, expected: &Outcome, context: &str) {
    assert_same_bits(&actual.0, &expected.0, &format!("{context}: output"));
    assert_same_bits(&actual.1, &expected.1, &format!("{context}: LSE"));
}
