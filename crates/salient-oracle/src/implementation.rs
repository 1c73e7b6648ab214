//! What the suite runs on: one trait per verb, over plain slices and the vocabulary of `salient`.

use std::fmt::Debug;
use std::str::FromStr;

use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::dtype::F8E4M3;
use salient::score::{
    AttentionScore, ExpectedAttention, IndexerKeys, IndexerQueries, Logits, Per, Pool,
    PredictorWeights, QueryStatistics,
};
use salient::select::Request;
use salient::{Element, Layout, PagedLayout, Ragged, Result, Span, View, ViewMut};

use crate::compact::Kept;
use crate::generate::Random;
use crate::select::Selected;
use crate::tensor::Sums;

/// An implementation of **score**, as far as hidden states and keys alone give one. Every error
/// leaves `out` as it was.
pub trait Score {
    /// The SDTP predictor: `x` is `[tokens, hidden]`, `out` `[tokens]`.
    ///
    /// # Errors
    /// On lengths that disagree, weights that are not finite, and what [`Score::takes_mlp`] denies.
    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()>;

    /// Whether [`Score::mlp`] takes predictors of this size over hidden states of this type;
    /// without a word, all.
    fn takes_mlp<T: Element>(&self, hidden: usize, width: usize) -> bool {
        let _ = (hidden, width);
        true
    }

    /// The weights that [`Score::mlp`] computes with: those given, or, where it stores them in a
    /// narrower type, what they have been rounded to. The suite judges by these, so that the rule
    /// measures the computation and not the storage.
    ///
    /// # Errors
    /// As [`Score::mlp`].
    fn mlp_weights<T: Element>(
        &self,
        hidden: usize,
        weights: &PredictorWeights,
    ) -> Result<PredictorWeights> {
        let _ = hidden;
        Ok(weights.clone())
    }

    /// How [`Score::mlp`] adds up products; without a word, rounded.
    fn mlp_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// Minus the norms of keys, `[kv_heads, tokens]`, or their mean over heads, `[tokens]`.
    ///
    /// # Errors
    /// On lengths that disagree.
    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()>;
}

/// An implementation of **score** from attention. Every error leaves `out` as it was.
pub trait ScoreAttention {
    /// Attention of the last query of every sequence; `q` holds one row for each, which is not read
    /// where the sequence is empty. `out` is `[total]` or `[kv_heads, total]`.
    ///
    /// # Errors
    /// On shapes that disagree and options out of range.
    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()>;

    /// Attention of the last queries of every sequence, packed as `queries` says.
    ///
    /// # Errors
    /// As [`ScoreAttention::last_query`], and if a sequence has more queries than keys.
    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()>;

    /// Attention of all queries: a window as long as the sequence.
    ///
    /// # Errors
    /// As [`ScoreAttention::last_query`].
    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()>;

    /// Pools `[heads, total]` scores along tokens.
    ///
    /// # Errors
    /// On a width that is even or above 33, and lengths that disagree.
    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()>;

    /// Whether it takes queries and keys of this type that lie like this; without a word, all.
    fn takes_attention<T: Element>(&self, q: Layout, k: Layout) -> bool {
        let _ = (q, k);
        true
    }

    /// How it adds up products; without a word, rounded.
    fn attention_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// The cases of attention that the suite runs on it.
    fn attention_sample(&self) -> Sample {
        Sample::ALL
    }
}

/// An implementation of percentile ranks. Every error leaves `out` as it was.
pub trait ScoreRanks {
    /// Of each of `[heads, total]` scores, the share of those of its sequence and head that are
    /// strictly lower. The rank of NaN is [`f32::NAN`], and it is lower than nothing.
    ///
    /// # Errors
    /// On lengths that disagree.
    fn rank(&self, scores: &[f32], rows: &Ragged, out: &mut [f32]) -> Result<()>;
}

/// An implementation of **score** that looks at no data. Every error leaves `out` as it was.
pub trait ScorePositions {
    /// Uniform in [0, 1), from seed and position alone.
    ///
    /// # Errors
    /// On lengths that disagree.
    fn random(&self, seed: u64, positions: &[i32], out: &mut [f32]) -> Result<()>;

    /// The index in the sequence.
    ///
    /// # Errors
    /// On lengths that disagree.
    fn position(&self, rows: &Ragged, out: &mut [f32]) -> Result<()>;
}

/// An implementation of **score** from query statistics. Every error leaves `out` as it was.
pub trait ScoreExpected {
    /// Expected attention to the keys, weighed by the norms of the values: `out` is `[total]` or
    /// `[kv_heads, total]`.
    ///
    /// # Errors
    /// On shapes that disagree and options out of range.
    fn expected<T: Element>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()>;

    /// Whether [`ScoreExpected::expected`] takes keys and values that lie like this; without a
    /// word, all.
    fn takes_expected<T: Element>(&self, k: Layout, v: Option<Layout>) -> bool {
        let _ = (k, v);
        true
    }

    /// How it adds up products; without a word, rounded.
    fn expected_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// The cases that the suite runs on it.
    fn expected_sample(&self) -> Sample {
        Sample::ALL
    }
}

/// An implementation of **score** by an indexer. Every error leaves `out` as it was.
pub trait ScoreIndexer {
    /// The logits of queries and keys, where `logits` says.
    ///
    /// # Errors
    /// On shapes that disagree and row limits beyond the keys.
    fn indexer<T: Element>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()>;

    /// Whether [`ScoreIndexer::indexer`] takes queries and keys that lie like this; without a word,
    /// all.
    fn takes_indexer<T: Element>(&self, q: Layout, k: Layout) -> bool {
        let _ = (q, k);
        true
    }

    /// How it adds up products; without a word, rounded.
    fn indexer_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// The cases that the suite runs on it.
    fn indexer_sample(&self) -> Sample {
        Sample::ALL
    }
}

/// A share of the suite's cases, for implementations that take long over each: other seeds, other
/// cases. As text it is `N`, one case in N, or `N:SEED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    one_in: u64,
    seed: u64,
}

impl Sample {
    /// Every case.
    pub const ALL: Self = Self { one_in: 1, seed: 0 };

    /// About one case in `one_in`, which is not 0.
    pub const fn one_in(one_in: u64, seed: u64) -> Self {
        Self { one_in, seed }
    }

    /// As many cases, but others: for a second implementation of the same suite.
    #[must_use]
    pub const fn varied(self, by: u64) -> Self {
        Self { seed: self.seed.wrapping_add(by << 32), ..self }
    }

    /// Whether a case is among them: its own text says so, so the order of cases does not matter.
    pub fn takes(&self, case: &impl Debug) -> bool {
        let text = format!("{case:?}");
        let hash = text.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        });
        Random::new(hash).bits().is_multiple_of(self.one_in)
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (one_in, seed) = text.split_once(':').unwrap_or((text, "0"));
        match (one_in.parse(), seed.parse()) {
            (Ok(one_in), Ok(seed)) if one_in > 0 => Ok(Self { one_in, seed }),
            _ => Err(format!("`{text}` is no sample: N or N:SEED, N at least 1")),
        }
    }
}

/// An implementation of **select**.
pub trait Select {
    /// Which tokens stay; `scores` is `[heads, total]`.
    ///
    /// # Errors
    /// On every bad input that the contract names.
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected>;

    /// The cases that the suite runs on it.
    fn sample(&self) -> Sample {
        Sample::ALL
    }
}

/// An implementation of **compact**. Every error leaves every tensor as it was.
pub trait Compact {
    /// The kept rows of several `[total, width]` tensors. The lists have one head.
    ///
    /// # Errors
    /// On a tensor that is not `total * width` long.
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>>;

    /// The same without a second buffer; each tensor is cut to its kept rows.
    ///
    /// # Errors
    /// As [`Compact::rows`].
    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()>;

    /// Moves the kept keys and values of every layer to the front of their sequence's span, in
    /// place. The lists have one head for all or one for each.
    ///
    /// # Errors
    /// On spans, caches or heads that do not fit the lists or each other.
    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        layout: Layout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<()>;

    /// The same for paged caches; `page_table` is `[batch, max_pages]`, and not read behind a
    /// sequence's last page. Returns the pages that hold no kept token any more, in table order.
    ///
    /// # Errors
    /// On pages, pools or heads that do not fit the lists or each other.
    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        page_table: &[i32],
        layout: PagedLayout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Vec<i32>>;
}

/// An implementation of **attend** for many queries per sequence. Every error leaves `out` and
/// `lse` as they were.
pub trait AttendPrefill {
    /// Whether softmax weights are rounded to the element type before values are multiplied. The
    /// suite then compares with a plain computation that does the same.
    const ROUNDS_WEIGHTS: bool = false;

    /// Attention of packed queries over the keys of their sequences: `q` is
    /// `[total, q heads, dim]`, `out` `[total, q heads, value dim]`, `lse` `[total, q heads]`.
    ///
    /// # Errors
    /// On shapes that disagree, and row limits, pages or spans beyond the keys.
    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    fn prefill<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<&[i32]>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()>;

    /// Whether [`AttendPrefill::prefill`] takes keys that lie like this, and an output; without a
    /// word, all.
    fn takes_prefill<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        let _ = (keys, out);
        true
    }

    /// How it adds up products; without a word, rounded.
    fn prefill_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// The cases that the suite runs on it.
    fn prefill_sample(&self) -> Sample {
        Sample::ALL
    }
}

/// An implementation of **attend** for one query per sequence. Every error leaves `out` and `lse`
/// as they were.
pub trait AttendDecode {
    /// As [`AttendPrefill::ROUNDS_WEIGHTS`].
    const ROUNDS_WEIGHTS: bool = false;

    /// Attention of one query per sequence over the keys that its lists name: `q` is `[batch, q
    /// heads, dim]`, `out` `[batch, q heads, value dim]`, `lse` `[batch, q heads]`.
    ///
    /// # Errors
    /// As [`AttendPrefill::prefill`], and on lists that do not ascend or point beyond the keys.
    fn decode<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()>;

    /// Whether [`AttendDecode::decode`] takes keys that lie like this, and an output; without a
    /// word, all.
    fn takes_decode<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        let _ = (keys, out);
        true
    }

    /// How it adds up products; without a word, rounded.
    fn decode_sums(&self) -> Sums {
        Sums::Rounded
    }

    /// The cases that the suite runs on it.
    fn decode_sample(&self) -> Sample {
        Sample::ALL
    }
}

/// An implementation of **attend** for one query per sequence over caches in fp8, whose scales are
/// in [`Attention`]. Every error leaves `out` and `lse` as they were.
pub trait AttendFp8: AttendDecode {
    /// As [`AttendDecode::decode`].
    ///
    /// # Errors
    /// As [`AttendDecode::decode`], and on scales that are not finite or not one for each KV head.
    fn decode_fp8<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, F8E4M3>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()>;

    /// As [`AttendDecode::takes_decode`], of queries of this type.
    fn takes_decode_fp8<T: Element>(&self, keys: &Keys<'_, F8E4M3>, out: Layout) -> bool {
        let _ = (keys, out);
        true
    }
}
