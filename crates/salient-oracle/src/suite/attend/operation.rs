//! Prefill and decode, as the cases of the suite run them.

use salient::attend::Keys;
use salient::{Element, Layout, Result, View, ViewMut};

use super::case::{Built, Case, Sees, Store};
use crate::attend::{Weights, decode, prefill};
use crate::implementation::{AttendDecode, AttendPrefill, Sample};
use crate::real::Real;
use crate::tensor::Sums;

/// One of the two operations of an implementation.
pub trait Operation {
    /// What its queries may see.
    fn sees(&self) -> &'static [Sees];

    /// [`Case::plain`] for this operation, of sequences of these numbers of queries and keys.
    fn case(&self, seed: u64, lens: &[(usize, usize)], sees: Sees) -> Case;

    /// Rows that are cut into parts, in several stores.
    fn long_rows(&self) -> &'static [(Sees, Store)];

    /// Their queries and keys.
    fn long_lens(&self) -> &'static [(usize, usize)];

    /// Whether the implementation takes keys that lie like this, and an output.
    fn takes<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool;

    /// The cases that the suite runs on it.
    fn sample(&self) -> Sample;

    /// What the plain computation does to softmax weights.
    fn weights(&self) -> Weights;

    /// How it adds up products.
    fn sums(&self) -> Sums;

    /// Runs a case.
    ///
    /// # Errors
    /// Those of the implementation.
    fn run<T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()>;

    /// The output and LSE that it should have.
    fn reference<R: Real, T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        weights: Weights,
    ) -> (Vec<R>, Vec<R>);
}

/// The prefill of an implementation.
#[derive(Debug)]
pub struct Prefill<'a, I>(pub &'a I);

/// The decode of an implementation.
#[derive(Debug)]
pub struct Decode<'a, I>(pub &'a I);

impl<I: AttendPrefill> Operation for Prefill<'_, I> {
    fn sees(&self) -> &'static [Sees] {
        &[Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing]
    }

    fn case(&self, seed: u64, lens: &[(usize, usize)], sees: Sees) -> Case {
        Case::plain(seed, lens, sees)
    }

    fn long_rows(&self) -> &'static [(Sees, Store)] {
        &[(Sees::Causal, Store::TokenMajor), (Sees::Between, Store::TokenMajor)]
    }

    fn long_lens(&self) -> &'static [(usize, usize)] {
        &[(5, 4097), (300, 1025), (513, 513)]
    }

    fn takes<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        self.0.takes_prefill(keys, out)
    }

    fn sample(&self) -> Sample {
        self.0.prefill_sample()
    }

    fn weights(&self) -> Weights {
        if I::ROUNDS_WEIGHTS { Weights::Rounded } else { Weights::Exact }
    }

    fn sums(&self) -> Sums {
        self.0.prefill_sums()
    }

    fn run<T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let limit = case.limit(built);
        let attention = case.attention(built);
        self.0.prefill(q, &case.queries(), keys, limit, &attention, out, lse)
    }

    fn reference<R: Real, T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        weights: Weights,
    ) -> (Vec<R>, Vec<R>) {
        let attention = case.attention(built);
        prefill(q, &case.queries(), keys, case.limit(built), &attention, weights)
    }
}

impl<I: AttendDecode> Operation for Decode<'_, I> {
    fn sees(&self) -> &'static [Sees] {
        &[
            Sees::Dense,
            Sees::Shared(0.35),
            Sees::PerHead(0.35),
            Sees::Shared(0.0),
            Sees::PerHead(0.02),
        ]
    }

    fn case(&self, seed: u64, lens: &[(usize, usize)], sees: Sees) -> Case {
        let keys: Vec<usize> = lens.iter().map(|&(_, keys)| keys).collect();
        Case::decode(seed, &keys, sees)
    }

    fn long_rows(&self) -> &'static [(Sees, Store)] {
        &[
            (Sees::Dense, Store::TokenMajor),
            (Sees::Dense, Store::HeadMajor),
            (Sees::Dense, Store::Paged(16)),
            (Sees::Shared(0.35), Store::TokenMajor),
            (Sees::Shared(0.35), Store::HeadMajor),
            (Sees::Shared(0.35), Store::Paged(16)),
            (Sees::PerHead(0.125), Store::TokenMajor),
            (Sees::PerHead(0.125), Store::HeadMajor),
            (Sees::PerHead(0.125), Store::Paged(16)),
        ]
    }

    fn long_lens(&self) -> &'static [(usize, usize)] {
        &[(1, 16_384), (1, 1), (1, 4097), (1, 0), (1, 2048)]
    }

    fn takes<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        self.0.takes_decode(keys, out)
    }

    fn sample(&self) -> Sample {
        self.0.decode_sample()
    }

    fn weights(&self) -> Weights {
        if I::ROUNDS_WEIGHTS { Weights::Rounded } else { Weights::Exact }
    }

    fn sums(&self) -> Sums {
        self.0.decode_sums()
    }

    fn run<T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let attention = case.attention(built);
        case.with_lists(built, |lists| self.0.decode(q, keys, lists, &attention, out, lse))
    }

    fn reference<R: Real, T: Element>(
        &self,
        case: &Case,
        built: &Built<T>,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        weights: Weights,
    ) -> (Vec<R>, Vec<R>) {
        let attention = case.attention(built);
        case.with_lists(built, |lists| decode(q, keys, lists, &attention, weights))
    }
}
