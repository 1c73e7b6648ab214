//! The suite of **attend**: the relative rule against the oracle, and what must hold bit for bit.

mod bad_input;
mod case;
mod fp8;
mod operation;

use half::{bf16, f16};
use salient::attend::{Attention, Keys, RowLimit};
use salient::{Element, Layout, Span, View, ViewMut};

pub use bad_input::{bad_decodes, bad_prefills};
pub use case::{Built, Case, Outcome, Sees, Store, Values, cases, judge, judge_lse};
pub use fp8::fp8;
pub use operation::{Decode, Operation, Prefill};

use super::{assert_same_bits, run_all};
use crate::attend::{Weights, row};
use crate::generate::Random;
use crate::implementation::{AttendDecode, AttendPrefill};
use crate::real::Real;
use crate::tensor::{exact, plain};

/// Runs a property in every element type.
macro_rules! in_every_type {
    ($property:ident($on:expr)) => {{
        $property::<f32>($on);
        $property::<f16>($on);
        $property::<bf16>($on);
    }};
}

/// Runs every table and property of prefill.
///
/// # Panics
/// With the case at fault.
pub fn prefill(on: &impl AttendPrefill) {
    let prefill = &Prefill(on);
    run_all(&[
        ("shapes", &|| shapes(prefill)),
        ("wide_heads", &|| wide_heads(prefill)),
        ("long_rows", &|| long_rows(prefill)),
        ("options", &|| options(prefill)),
        ("sinks", &|| sinks(prefill)),
        ("a_sink_of_nothing_is_none", &|| in_every_type!(a_sink_of_nothing_is_none(prefill))),
        ("a_store_changes_no_bit", &|| in_every_type!(a_store_changes_no_bit(prefill))),
        ("one_limit_in_several_words", &|| in_every_type!(one_limit_in_several_words(prefill))),
        ("neighbours_change_nothing", &|| in_every_type!(neighbours_change_nothing(prefill))),
        ("pruned_is_masked", &|| in_every_type!(pruned_is_masked(on))),
        ("nan_stays_where_it_is_seen", &|| nan_stays_where_it_is_seen(prefill)),
        ("infinite_values_arrive", &|| in_every_type!(infinite_values_arrive(prefill))),
        ("the_output_has_any_layout", &|| in_every_type!(the_output_has_any_layout(on))),
        ("bad_prefills", &|| in_every_type!(bad_prefills(on))),
    ]);
}

/// Runs every table and property of decode.
///
/// # Panics
/// With the case at fault.
pub fn decode(on: &impl AttendDecode) {
    let decode = &Decode(on);
    run_all(&[
        ("shapes", &|| shapes(decode)),
        ("wide_heads", &|| wide_heads(decode)),
        ("long_rows", &|| long_rows(decode)),
        ("options", &|| options(decode)),
        ("sinks", &|| sinks(decode)),
        ("a_sink_of_nothing_is_none", &|| in_every_type!(a_sink_of_nothing_is_none(decode))),
        ("a_store_changes_no_bit", &|| in_every_type!(a_store_changes_no_bit(decode))),
        ("one_list_in_several_words", &|| in_every_type!(one_list_in_several_words(decode))),
        ("neighbours_change_nothing", &|| in_every_type!(neighbours_change_nothing(decode))),
        ("nan_stays_where_it_is_seen", &|| nan_stays_where_it_is_seen(decode)),
        ("infinite_values_arrive", &|| in_every_type!(infinite_values_arrive(decode))),
        ("bad_decodes", &|| in_every_type!(bad_decodes(on))),
    ]);
}

/// Odd head sizes, groups of 1 to 8, queries longer and shorter than keys, empty sequences.
pub fn shapes(on: &impl Operation) {
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
    let values = [Values::Normal, Values::Large, Values::Flat].into_iter().cycle();
    for lens in batches {
        for (kv_heads, group, dim) in heads {
            let stored = Store::ALL.into_iter().zip(values.clone());
            for (&sees, (store, values)) in on.sees().iter().zip(stored) {
                let plain = on.case(dim as u64, lens, sees);
                let attention = Attention::new((dim as f32).powf(-0.5));
                Case { kv_heads, group, dim, store, values, attention, ..plain }.check(on);
            }
        }
    }
}

/// Head sizes above 128 and groups above 8, for which kernels have tiles and warps of their own.
pub fn wide_heads(on: &impl Operation) {
    let lens = [(37, 70), (5, 0), (0, 3), (70, 20), (3, 310)];
    let shapes = [(136, 1), (192, 12), (256, 3), (256, 16), (64, 9), (96, 16), (128, 11)];
    let mut sees = on.sees().iter().cycle();
    for (i, (dim, group)) in shapes.into_iter().enumerate() {
        // Few rows of many heads are as much work.
        let lens = &lens[if group > 8 { 3 } else { 0 }..];
        let attention = Attention::new((dim as f32).powf(-0.5));
        let store = Store::ALL[[0, 1, 3, 4, 5][i % 5]];
        for &sees in sees.by_ref().take(2) {
            let case = Case { kv_heads: 1, group, dim, attention, ..on.case(14, lens, sees) };
            case.check_built(on, &case.build::<f16>(), "");
            let case = Case { store, values: Values::Large, ..case };
            case.check_built(on, &case.build::<bf16>(), "");
        }
    }
}

/// Rows that are cut among blocks, chunks and threads.
pub fn long_rows(on: &impl Operation) {
    for &(sees, store) in on.long_rows() {
        let case = on.case(1, on.long_lens(), sees);
        Case { store, ..case }.check(on);
    }
}

/// Softcaps, sliding windows, scales.
pub fn options(on: &impl Operation) {
    for &sees in on.sees() {
        for softcap in [None, Some(0.5), Some(30.0)] {
            for sliding_window in [None, Some(1), Some(7), Some(100_000)] {
                for scale in [0.25, 0.0, -1.0] {
                    let case = on.case(3, &[(20, 40), (40, 20), (33, 150), (1, 0)], sees);
                    let attention = Attention { softcap, sliding_window, ..Attention::new(scale) };
                    let case = Case { attention, ..case };
                    case.check_built(on, &case.build::<f32>(), "");
                    case.check_built(on, &case.build::<bf16>(), "");
                }
            }
        }
    }
}

/// Sinks above, among and below logits of any size, and of rows that see nothing.
pub fn sinks(on: &impl Operation) {
    for &sees in on.sees() {
        for values in [Values::Normal, Values::Large, Values::Flat] {
            for softcap in [None, Some(2.0)] {
                let lens = [(20, 40), (40, 20), (33, 600), (2, 0)];
                let case = Case { group: 3, values, sinks: true, ..on.case(12, &lens, sees) };
                let attention = Attention { softcap, ..case.attention };
                Case { attention, ..case }.check(on);
            }
        }
    }
}

/// Sinks of -inf change no bit; those of rows that see nothing are their LSE.
pub fn a_sink_of_nothing_is_none<T: Element>(on: &impl Operation) {
    for &sees in on.sees() {
        let case = on.case(13, &[(30, 70), (3, 0), (5, 600)], sees);
        let built = case.build::<T>();
        let Some(expected) = case.run(on, &built) else { continue };
        let context = format!("attend: sinks of -inf: {:?} {case:?}", T::DTYPE);
        let nothing = Some(vec![f32::NEG_INFINITY; case.q_heads()]);
        let with = Built { sinks: nothing, ..built.clone() };
        same_outcome(&case.run(on, &with).expect("taken before"), &expected, &context);

        let sinks = vec![-3.5, 0.0, 100.25, -1000.0];
        let with = Built { sinks: Some(sinks.clone()), ..built };
        let (out, lse) = case.run(on, &with).expect("taken before");
        for (row, &without) in expected.1.iter().enumerate() {
            if without == f32::NEG_INFINITY {
                let sink = sinks[row % sinks.len()];
                assert_eq!(lse[row], sink, "{context}: LSE of row {row}");
                let out = &out[row * case.dim..][..case.dim];
                assert!(out.iter().all(|&x| x == 0.0), "{context}: row {row}: {out:?}");
            }
        }
    }
}

/// The same keys in other places: the same bits; again: the same bits; with no LSE: the same bits.
pub fn a_store_changes_no_bit<T: Element>(on: &impl Operation) {
    for &sees in on.sees() {
        let case = on.case(4, &[(30, 70), (0, 9), (64, 257)], sees);
        let built = case.build::<T>();
        let Some(expected) = case.run(on, &built) else { continue };
        let context = format!("attend: {:?} {case:?}", T::DTYPE);
        let again = case.run(on, &built).expect("taken before");
        same_outcome(&again, &expected, &format!("{context}: again"));
        let without = case.run_without_lse(on, &built).expect("taken before");
        assert_same_bits(&without, &expected.0, &format!("{context}: without LSE"));
        for store in Store::ALL {
            let stored = Case { store, ..case.clone() };
            let Some(outcome) = stored.run(on, &built) else { continue };
            same_outcome(&outcome, &expected, &format!("{context}: in {store:?}"));
        }
    }
}

/// Causal and full are row limits, and row limits begin at 0.
pub fn one_limit_in_several_words<T: Element>(on: &impl Operation) {
    let lens = [(30, 70), (70, 30), (129, 257)];
    for sees in [Sees::Causal, Sees::Full, Sees::PerRow] {
        let case = Case::plain(5, &lens, sees);
        let built = case.build::<T>();
        let Some(expected) = case.run(on, &built) else { continue };
        for sees in [Sees::PerRow, Sees::Between] {
            let context = format!("attend: {case:?} as {sees:?}");
            let other = Case { sees, ..case.clone() }.run(on, &built).expect("taken before");
            same_outcome(&other, &expected, &context);
        }
    }
}

/// All keys listed is dense; a list for each head that is the same for all is shared.
pub fn one_list_in_several_words<T: Element>(on: &impl Operation) {
    for share in [0.0, 0.35, 1.0] {
        for sliding_window in [None, Some(40)] {
            let case = Case::decode(6, &[70, 0, 1500], Sees::Shared(share));
            let attention = Attention { sliding_window, ..case.attention };
            let case = Case { attention, ..case };
            let built = case.build::<T>();
            let Some(expected) = case.run(on, &built) else { continue };
            let mut words = vec![Sees::PerHead(share)];
            words.extend((share == 1.0).then_some(Sees::Dense));
            for sees in words {
                let context = format!("attend: {case:?} as {sees:?}");
                let other = Case { sees, ..case.clone() }.run(on, &built).expect("taken before");
                same_outcome(&other, &expected, &context);
            }
        }
    }
}

/// A sequence reads the same bits alone and in its batch.
pub fn neighbours_change_nothing<T: Element>(on: &impl Operation) {
    for &sees in on.sees() {
        let alone_too = matches!(sees, Sees::Causal | Sees::Full | Sees::Dense);
        let case = on.case(7, &[(33, 65), (0, 4), (129, 129), (2, 0), (1, 513)], sees);
        let built = case.build::<T>();
        let Some(together) = case.run(on, &built).filter(|_| alone_too) else { continue };
        let (queries, keys) = (case.queries(), case.keys());
        for sequence in 0..case.lens.len() {
            let (queries, keys) = (queries.span(sequence), keys.span(sequence));
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
            same_outcome(&alone.run(on, &cut_out).expect("taken before"), &expected, &context);
        }
    }
}

fn cut<T: Copy>(tensor: &[T], span: Span, width: usize) -> Vec<T> {
    tensor[span.start * width..span.end() * width].to_vec()
}

/// Causal attention over compacted rows is dense attention with the dropped keys masked.
pub fn pruned_is_masked<T: Element>(on: &impl AttendPrefill) {
    let weights = Prefill(on).weights();
    for (len, share) in [(1, 1.0), (40, 0.5), (257, 0.35), (257, 1.0), (600, 0.1)] {
        let dense = Case::plain(8, &[(len, len)], Sees::Full);
        let built = dense.build::<T>();
        let kept = Random::new(len as u64).subset(len, share);
        let gather = |tensor: &[T], heads: usize| -> Vec<T> {
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
        let Some((out, lse)) = pruned.run(&Prefill(on), &compacted) else { continue };
        let right = masked::<f64, T>(&dense, &built, &kept, Weights::Exact);
        let sums = on.prefill_sums();
        let plain = plain!(sums, R => {
            let (out, lse) = masked::<R, T>(&dense, &built, &kept, weights);
            (exact(&out), exact(&lse))
        });
        let context =
            |what| format!("attend: pruned {what}, {len} rows, share {share}, seed {len}");
        judge(&out, &plain.0, &right, (weights, sums), &|| context("output"));
        judge_lse(&lse, &plain.1, &right.1, sums, &|| context("LSE"));
        if share == 1.0 {
            let causal = Case { sees: Sees::Causal, ..dense };
            let causal = causal.run(&Prefill(on), &built).expect("taken before");
            same_outcome(&(out, lse), &causal, &context("nothing"));
        }
    }
}

/// Each kept row over the kept rows up to it, in the uncompacted tensors.
fn masked<R: Real, T: Element>(
    case: &Case,
    built: &Built<T>,
    kept: &[i32],
    weights: Weights,
) -> (Vec<R>, Vec<R>) {
    let view = |tensor, heads| View::token_major(tensor, heads, case.dim);
    let q: View<'_, T> = view(&built.q, case.q_heads());
    let (k, v) = (view(&built.k, case.kv_heads), view(&built.v, case.kv_heads));
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for &query in kept {
        for head in 0..case.q_heads() {
            let seen = kept.iter().filter(|&&key| key <= query).map(|&key| key as usize);
            let kv_head = head / case.group;
            let seen: Vec<_> = seen.map(|t| (k.row(t, kv_head), v.row(t, kv_head))).collect();
            let query = q.row(query as usize, head);
            let (attention, heads) = (case.attention(built), [head, kv_head]);
            let (row, log_sum) = row::<R, T, T>(query, &seen, case.dim, &attention, heads, weights);
            out.extend(row);
            lse.push(log_sum);
        }
    }
    (out, lse)
}

/// NaN in a key, a value or a query reaches the rows that see it and no others.
pub fn nan_stays_where_it_is_seen(on: &impl Operation) {
    for &sees in on.sees() {
        let case = on.case(9, &[(40, 70), (70, 40), (130, 130)], sees);
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
pub fn infinite_values_arrive<T: Element>(on: &impl Operation) {
    for &sees in on.sees() {
        let case = on.case(10, &[(65, 130), (2, 3)], sees);
        let mut built = case.build::<T>();
        built.v[2 * case.kv_heads * case.dim + 1] = T::from_f32(f32::INFINITY);
        built.v[2 * case.kv_heads * case.dim + 2] = T::from_f32(f32::NEG_INFINITY);
        case.check_built(on, &built, "with infinities in value 2");
    }
}

/// The output goes where its layout says and nowhere else.
pub fn the_output_has_any_layout<T: Element>(on: &impl AttendPrefill) {
    let case = Case::plain(11, &[(30, 40), (9, 3)], Sees::Causal);
    let built = case.build::<T>();
    let Some((expected, _)) = case.run(&Prefill(on), &built) else { return };
    let (heads, dim, tokens) = (case.q_heads(), case.dim, case.queries().total());
    let padded = |by| Layout {
        token_stride: heads * (dim + by) + 2 * by,
        head_stride: dim + by,
        ..Layout::token_major(heads, dim)
    };
    let spans: Vec<Span> = case.keys().spans().collect();
    let view = |tensor, heads| View::token_major(tensor, heads, dim);
    let (k, v) = (view(&built.k[..], case.kv_heads), view(&built.v[..], case.kv_heads));
    let keys = Keys::Contiguous { k, v, spans: &spans };
    for layout in [padded(3), padded(8), Layout::head_major(heads, dim, tokens + 2)] {
        if !on.takes_prefill(&keys, layout) {
            continue;
        }
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
