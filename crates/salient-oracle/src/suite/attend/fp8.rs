//! The suite of decode over caches in fp8.

use half::{bf16, f16};
use salient::attend::Attention;
use salient::dtype::F8E4M3;
use salient::{Element, View, ViewMut};

use super::super::{assert_same_bits, run_all};
use super::case::{Built, Case, Outcome, Sees, Store, Stored, Values, judge, judge_lse};
use super::same_outcome;
use crate::attend::{Weights, decode};
use crate::implementation::AttendFp8;
use crate::tensor::{exact, plain};

/// Runs every table and property of decode over fp8.
///
/// # Panics
/// With the case at fault.
pub fn fp8(on: &impl AttendFp8) {
    run_all(&[
        ("fp8_shapes", &|| in_query_types(on, &shapes)),
        ("fp8_options", &|| in_query_types(on, &options)),
        ("fp8_long_rows", &|| in_query_types(on, &long_rows)),
        ("fp8_nan", &|| nan_stays_where_it_is_seen(on)),
        ("fp8_a_store_changes_no_bit", &|| a_store_changes_no_bit(on)),
        ("fp8_scales_of_one", &|| scales_of_one_are_none(on)),
        ("fp8_bad_scales", &|| bad_scales(on)),
    ]);
}

/// The cases of a table, each in three types of queries.
fn in_query_types<I: AttendFp8>(on: &I, cases: &dyn Fn() -> Vec<Case>) {
    for case in cases() {
        Problem::<f32>::new(&case).check(on, "");
        Problem::<f16>::new(&case).check(on, "");
        Problem::<bf16>::new(&case).check(on, "");
    }
}

/// Head sizes that fill 16-byte chunks, groups of 1 to 16, every store.
fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    let stores = &mut Store::ALL.into_iter().filter(|&store| store != Store::Padded).cycle();
    let sees = [Sees::Dense, Sees::Shared(0.4), Sees::PerHead(0.4), Sees::PerHead(0.02)];
    for (i, dim) in [16, 64, 80, 96, 128, 192, 256].into_iter().enumerate() {
        for group in [1, 3, 8, 9, 16] {
            let plain = Case::decode((dim + group) as u64, &[70, 0, 330], sees[(i + group) % 4]);
            let store = stores.next().expect("a cycle");
            let attention = Attention::new((dim as f32).powf(-0.5));
            cases.push(Case { group, dim, store, attention, ..plain });
        }
    }
    cases
}

/// Softcaps, windows, scales, sinks, large and equal logits.
fn options() -> Vec<Case> {
    let mut cases = Vec::new();
    for sees in [Sees::Dense, Sees::PerHead(0.5)] {
        for softcap in [None, Some(2.0)] {
            for sliding_window in [None, Some(30)] {
                for (scale, sinks, values) in [
                    (0.125, true, Values::Large),
                    (-1.0, false, Values::Normal),
                    (0.125, true, Values::Flat),
                ] {
                    let attention = Attention { softcap, sliding_window, ..Attention::new(scale) };
                    let plain = Case::decode(21, &[40, 300, 0], sees);
                    cases.push(Case { dim: 64, attention, sinks, values, ..plain });
                }
            }
        }
    }
    cases
}

/// Rows that are cut into splits.
fn long_rows() -> Vec<Case> {
    [(Sees::Dense, Store::Paged(16)), (Sees::PerHead(0.2), Store::TokenMajor)]
        .into_iter()
        .map(|(sees, store)| Case { dim: 64, store, ..Case::decode(22, &[5000, 1, 0, 900], sees) })
        .collect()
}

/// NaN is all that an fp8 can hold besides numbers.
fn nan_stays_where_it_is_seen(on: &impl AttendFp8) {
    for sees in [Sees::Dense, Sees::PerHead(0.5)] {
        let case = Case { dim: 64, ..Case::decode(23, &[70, 300], sees) };
        for token in [0, 65, 71, 369] {
            for bits in [0x7f, 0xff] {
                let nan = F8E4M3::from_bits(bits);
                let mut key = Problem::<bf16>::new(&case);
                key.k[(token * case.kv_heads + 1) * case.dim + 5] = nan;
                key.check(on, &format!("with NaN in key {token}"));
                let mut value = Problem::<bf16>::new(&case);
                value.v[token * case.kv_heads * case.dim + 15] = nan;
                value.check(on, &format!("with NaN in value {token}"));
            }
        }
    }
}

fn a_store_changes_no_bit(on: &impl AttendFp8) {
    let case = Case { dim: 64, ..Case::decode(24, &[70, 9, 600], Sees::PerHead(0.5)) };
    let problem = Problem::<f16>::new(&case);
    let Some(expected) = problem.run(on) else { return };
    for store in Store::ALL {
        let stored = Problem { case: Case { store, ..case.clone() }, ..problem.clone() };
        let Some(outcome) = stored.run(on) else { continue };
        same_outcome(&outcome, &expected, &format!("attend: fp8 in {store:?}"));
    }
}

fn scales_of_one_are_none(on: &impl AttendFp8) {
    let case = Case { dim: 64, ..Case::decode(25, &[70, 9, 600], Sees::Dense) };
    let none = Problem { scales: [None, None], ..Problem::<bf16>::new(&case) };
    let Some(expected) = none.run(on) else { return };
    let ones = Some(vec![1.0; case.kv_heads]);
    let ones = Problem { scales: [ones.clone(), ones], ..none };
    same_outcome(&ones.run(on).expect("taken before"), &expected, "attend: fp8 scales of 1");
}

/// Scales that are not finite, or too many or too few, with nothing written.
fn bad_scales(on: &impl AttendFp8) {
    let case = Case { dim: 64, ..Case::decode(26, &[20], Sees::Dense) };
    let good = Problem::<bf16>::new(&case);
    if good.run(on).is_none() {
        return;
    }
    for bad in [&[1.0][..], &[1.0; 3], &[1.0, f32::NAN], &[f32::INFINITY, 1.0]] {
        for at in 0..2 {
            let mut problem = good.clone();
            problem.scales[at] = Some(bad.to_vec());
            let untouched = (vec![7.0; problem.q.len()], vec![7.0; case.q_heads()]);
            let mut outcome = untouched.clone();
            let result = problem.run_into(on, &mut outcome);
            assert!(matches!(result, Some(Err(_))), "attend: scales {bad:?} accepted");
            assert_same_bits(&outcome.0, &untouched.0, "attend: written on bad scales");
            assert_same_bits(&outcome.1, &untouched.1, "attend: written on bad scales");
        }
    }
}

/// A case with its cache in fp8.
#[derive(Debug, Clone)]
struct Problem<T> {
    case: Case,
    built: Built<f32>,
    q: Vec<T>,
    k: Vec<F8E4M3>,
    v: Vec<F8E4M3>,
    scales: [Option<Vec<f32>>; 2],
}

impl<T: Element> Problem<T> {
    fn new(case: &Case) -> Self {
        let built = case.build::<f32>();
        let width = case.kv_heads * case.dim;
        let scaled = |tensor: &[f32], scales: &[f32]| {
            let scale = |i: usize| scales[i % width / case.dim];
            let stored = tensor.iter().enumerate().map(|(i, x)| F8E4M3::from_f32(x / scale(i)));
            stored.collect()
        };
        // So that both large and subnormal numbers are stored.
        let scales = |base: f32| (0..case.kv_heads).map(|h| base * 37f32.powi(h as i32)).collect();
        let scales: [Vec<f32>; 2] = [scales(0.011), scales(0.37)];
        Self {
            q: built.q.iter().map(|&x| T::from_f32(x)).collect(),
            k: scaled(&built.k, &scales[0]),
            v: scaled(&built.v, &scales[1]),
            case: case.clone(),
            scales: scales.map(Some),
            built,
        }
    }

    fn attention(&self) -> Attention<'_> {
        let [k_scales, v_scales] = self.scales.each_ref().map(Option::as_deref);
        Attention { k_scales, v_scales, ..self.case.attention(&self.built) }
    }

    fn run_into(
        &self,
        on: &impl AttendFp8,
        (out, lse): &mut Outcome,
    ) -> Option<salient::Result<()>> {
        let (heads, dim) = (self.case.q_heads(), self.case.dim);
        let stored = Stored::new(&self.case, &self.k, &self.v);
        let (keys, q) = (stored.keys(), View::token_major(&self.q[..], heads, dim));
        let out = ViewMut::token_major(&mut out[..], heads, dim);
        if !on.takes_decode_fp8::<T>(&keys, out.layout) {
            return None;
        }
        let attention = self.attention();
        Some(self.case.with_lists(&self.built, |lists| {
            on.decode_fp8(q, &keys, lists, &attention, out, Some(lse))
        }))
    }

    fn run(&self, on: &impl AttendFp8) -> Option<Outcome> {
        let rows = self.case.lens.len() * self.case.q_heads();
        let mut outcome = (vec![f32::NAN; self.q.len()], vec![f32::NAN; rows]);
        self.run_into(on, &mut outcome)?
            .unwrap_or_else(|e| panic!("attend: fp8 for {:?} {:?}: {e}", T::DTYPE, self.case));
        Some(outcome)
    }

    /// Compares with the oracle, if it is in the sample.
    fn check<I: AttendFp8>(&self, on: &I, changed: &str) {
        if !on.decode_sample().takes(&("fp8", &self.case, changed, T::DTYPE)) {
            return;
        }
        let Some((out, lse)) = self.run(on) else { return };
        let stored = Stored::new(&self.case, &self.k, &self.v);
        let (keys, attention) = (stored.keys(), self.attention());
        let q = View::token_major(&self.q[..], self.case.q_heads(), self.case.dim);
        let weights = if I::ROUNDS_WEIGHTS { Weights::Rounded } else { Weights::Exact };
        let sums = on.decode_sums();
        let (right, plain) = self.case.with_lists(&self.built, |lists| {
            let right = decode::<f64, T, F8E4M3>(q, &keys, lists, &attention, Weights::Exact);
            let plain = plain!(sums, R => {
                let (out, lse) = decode::<R, T, F8E4M3>(q, &keys, lists, &attention, weights);
                (exact(&out), exact(&lse))
            });
            (right, plain)
        });
        let context =
            |what| format!("attend: fp8: {what} for {:?} {:?} {changed}", T::DTYPE, self.case);
        judge(&out, &plain.0, &right, (weights, sums), &|| context("output"));
        judge_lse(&lse, &plain.1, &right.1, sums, &|| context("LSE"));
    }
}
