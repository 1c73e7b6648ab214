//! The marking pass: what every token is worth to the whole model, which predictors are to foresee.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use candle_core::{D, Device, Tensor};

use salient_candle::reference;
use salient_candle::{Error, Model, Result};

/// Attention counts from this many tokens later on: near ones attend to each other whatever they say,
/// and the local window keeps them anyway.
pub const LATER: usize = 8;

/// What a token's worth on entry to a block may be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The absolute sum over channels of gradient times hidden state (SDTP, equation 3).
    Saliency,
    /// The same with its sign.
    SignedSaliency,
    /// The L2 norm over channels of gradient times hidden state.
    SaliencyNorm,
    /// The L2 norm of the gradient.
    GradientNorm,
    /// The attention that scored tokens, [`LATER`] or more later, pay to it: averaged over them,
    /// heads, this block and those above.
    MeanAttention,
    /// The largest of any of them, in any head of this block and those above (KVzip, arXiv
    /// 2505.23416, looks at its maximum too).
    MaxAttention,
    /// The largest of any of them, averaged over heads, this block and those above.
    HeadAttention,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Saliency,
        Self::SignedSaliency,
        Self::SaliencyNorm,
        Self::GradientNorm,
        Self::MeanAttention,
        Self::MaxAttention,
        Self::HeadAttention,
    ];

    /// Its name in configurations and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Saliency => "saliency",
            Self::SignedSaliency => "saliency-signed",
            Self::SaliencyNorm => "saliency-norm",
            Self::GradientNorm => "gradient-norm",
            Self::MeanAttention => "attention-mean",
            Self::MaxAttention => "attention-max",
            Self::HeadAttention => "attention-heads",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
            Error::Unsupported {
                what: "target",
                name: name.to_owned(),
                supported: "saliency, saliency-signed, saliency-norm, gradient-norm, \
                            attention-mean, attention-max, attention-heads",
            }
        })
    }
}

/// The worth of a text's tokens by every [`Target`], on entry to some blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Marks {
    pub(super) by_layer: BTreeMap<usize, BTreeMap<Target, Vec<f32>>>,
}

impl Marks {
    /// Marks `tokens` on entry to each of `layers`, by the log-likelihood of `tokens[scored]` and
    /// by the attention of these tokens and of the one before, which predicts the first: the whole
    /// text, or a question and its answer at the end.
    ///
    /// One pass forward and one backward through the frozen model, block by block; see
    /// [`reference::gradients`].
    ///
    /// # Errors
    /// Those of [`reference::gradients`], and [`Error::Config`] for a layer that the model lacks.
    ///
    /// # Panics
    /// If `scored` ends beyond the tokens.
    pub fn new(
        model: &Model,
        tokens: &[u32],
        scored: Range<usize>,
        layers: &[usize],
    ) -> Result<Self> {
        let blocks = model.config().layers;
        if let Some(layer) = layers.iter().find(|&&layer| layer >= blocks) {
            let reason = format!("there is no layer {layer}: the model has {blocks}");
            return Err(Error::Config { reason });
        }
        let lowest = layers.iter().copied().min().unwrap_or(blocks);
        let mut received = Received::new(tokens.len(), &scored, model.device())?;
        let mut by_layer = BTreeMap::new();
        reference::gradients(model, tokens, scored, lowest, |block| {
            received.add(&block.attention)?;
            if layers.contains(&block.layer) {
                let product = (&block.gradient * &block.input)?;
                let signed = product.sum(D::Minus1)?;
                let norm = |tensor: &Tensor| -> Result<Vec<f32>> {
                    Ok(tensor.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1()?)
                };
                let marks = BTreeMap::from([
                    (Target::Saliency, signed.abs()?.to_vec1()?),
                    (Target::SignedSaliency, signed.to_vec1()?),
                    (Target::SaliencyNorm, norm(&product)?),
                    (Target::GradientNorm, norm(&block.gradient)?),
                    (Target::MeanAttention, received.mean()),
                    (Target::MaxAttention, received.max.clone()),
                    (Target::HeadAttention, received.heads()),
                ]);
                by_layer.insert(block.layer, marks);
            }
            Ok(())
        })?;
        Ok(Self { by_layer })
    }

    /// The worth of every token on entry to a block; `None` if that was not marked.
    pub fn get(&self, layer: usize, target: Target) -> Option<&[f32]> {
        self.by_layer.get(&layer)?.get(&target).map(Vec::as_slice)
    }
}

/// The attention that tokens receive from later ones, over the blocks seen so far.
struct Received {
    /// Those that attend.
    queries: Range<usize>,
    /// `[queries, keys]`: 1 where the query is late enough.
    later: Tensor,
    /// The sum over blocks of means over heads and queries.
    sum: Vec<f32>,
    /// The sum over blocks of means over heads of maxima over queries.
    head_sum: Vec<f32>,
    max: Vec<f32>,
    blocks: f32,
}

impl Received {
    fn new(tokens: usize, scored: &Range<usize>, device: &Device) -> Result<Self> {
        let first = if scored.is_empty() { scored.end } else { scored.start.saturating_sub(1) };
        let queries = first..scored.end;
        let later: Vec<f32> = queries
            .clone()
            .flat_map(|query| (0..tokens).map(move |key| f32::from(query >= key + LATER)))
            .collect();
        let later = Tensor::from_vec(later, (queries.len(), tokens), device)?;
        let zeros = || vec![0.0; tokens];
        let (sum, head_sum, max) = (zeros(), zeros(), zeros());
        Ok(Self { queries, later, sum, head_sum, max, blocks: 0.0 })
    }

    fn add(&mut self, attention: &Tensor) -> Result<()> {
        self.blocks += 1.0;
        if self.queries.is_empty() {
            return Ok(());
        }
        let heads = attention.dim(0)?;
        let seen = attention.narrow(1, self.queries.start, self.queries.len())?;
        let seen = seen.broadcast_mul(&self.later)?;
        let sums: Vec<f32> = seen.sum(1)?.sum(0)?.to_vec1()?;
        let by_head = seen.max(1)?;
        let maxima: Vec<f32> = by_head.max(0)?.to_vec1()?;
        let head_means: Vec<f32> = by_head.mean(0)?.to_vec1()?;
        for (token, sum) in sums.into_iter().enumerate() {
            let late = self.queries.start.max(token + LATER);
            let queries = self.queries.end.saturating_sub(late).max(1);
            self.sum[token] += sum / (heads * queries) as f32;
            self.head_sum[token] += head_means[token];
            self.max[token] = self.max[token].max(maxima[token]);
        }
        Ok(())
    }

    fn mean(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| sum / self.blocks).collect()
    }

    fn heads(&self) -> Vec<f32> {
        self.head_sum.iter().map(|sum| sum / self.blocks).collect()
    }
}
