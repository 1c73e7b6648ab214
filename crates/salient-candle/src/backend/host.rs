//! The host: f32 in host memory, steps in place.

use std::time::Instant;

use candle_core::{DType, Device, Storage, Tensor};
use salient::attend::{Attention, KeyLists, Keys, RowLimit};
use salient::host::compact::{self, RowTensor};
use salient::host::{attend, elementwise, score, select};
use salient::schedule::StagePlan;
use salient::score::{AttentionScore, Per, Pool};
use salient::select::Selection;
use salient::{Ragged, Span, View, ViewMut};

use super::{
    Backend, Predictor, Queries, Reach, Timestamp, Verbs, check_rows, check_stage, request,
};
use crate::cache::{CachedKeys, LayerCache};
use crate::error::{Error, Result};
use crate::ops::{self, f32_slice, heads_view};
use crate::rope::RopeTable;

/// Rows that go through the feed-forward network at once: enough for the matrix products to run at
/// full speed, few enough that the wide activations stay in cache.
const FFN_ROWS: usize = 1024;

/// The host backend of salient on tensors in host memory.
#[derive(Debug, Clone, Copy)]
pub struct HostBackend;

impl Verbs for HostBackend {
    fn rms_norm(&mut self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let mut out = vec![0.0; x.elem_count()];
        f32_slice(x, |x| {
            f32_slice(weight, |weight| elementwise::rms_norm(x, weight, eps, &mut out))
        })???;
        Ok(Tensor::from_vec(out, x.shape(), x.device())?)
    }

    fn rms_norm_heads(&mut self, heads: Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        f32_slice(weight, |weight| {
            ops::on_heads("rms_norm_heads", &heads, |data, layout| {
                elementwise::rms_norm_heads(data, layout, weight, eps)
            })
        })??;
        Ok(heads)
    }

    fn rotate(&mut self, heads: Tensor, positions: &Tensor, rope: &RopeTable) -> Result<Tensor> {
        let positions = signed(positions)?;
        let [cos, sin] = rope.tables();
        f32_slice(&cos, |cos| {
            f32_slice(&sin, |sin| {
                ops::on_heads("rotate", &heads, |data, layout| {
                    elementwise::rotate(data, layout, &positions, cos, sin)
                })
            })
        })???;
        Ok(heads)
    }

    fn mlp(&mut self, predictor: &Predictor, hidden: &Tensor) -> Result<Tensor> {
        let mut scores = vec![0.0; hidden.dim(0)?];
        match predictor {
            Predictor::Host(predictor) => {
                f32_slice(hidden, |hidden| score::mlp(hidden, predictor, &mut scores))??;
            }
            #[cfg(feature = "cuda")]
            Predictor::Cuda(_) => return Err(predictor.misplaced(hidden.device().location())),
        }
        packed(scores)
    }

    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor> {
        let mut scores = vec![0.0; keys.dim(0)?];
        heads_view("keys", keys, |keys| score::keynorm(keys, Per::Token, &mut scores))??;
        packed(scores)
    }

    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor> {
        let mut scores = vec![0.0; keys.dim(0)?];
        heads_view("queries", q, |q| {
            heads_view("keys", keys, |keys| {
                score::window(q, asking, keys, rows, score, &mut scores)
            })
        })???;
        packed(scores)
    }

    fn pool(&mut self, scores: &Tensor, rows: &Ragged, pool: &Pool) -> Result<Tensor> {
        let mut out = vec![0.0; scores.elem_count()];
        f32_slice(scores, |scores| score::pool(scores, rows, pool, &mut out))??;
        packed(out)
    }

    fn rank(&mut self, scores: &Tensor, rows: &Ragged) -> Result<Tensor> {
        let mut out = vec![0.0; scores.elem_count()];
        f32_slice(scores, |scores| score::rank(scores, rows, &mut out))??;
        packed(out)
    }

    fn timestamp(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::Host(Instant::now()))
    }
}

impl Backend for HostBackend {
    type Kept = Selection;

    const FUSED_QKV: bool = true;

    fn select(&mut self, scores: &Tensor, rows: &Ragged, stage: &StagePlan) -> Result<Selection> {
        check_stage(rows, stage)?;
        let request = request(rows, stage);
        let selection = f32_slice(scores, |scores| select::select(scores, &request))??;
        if selection.saw_nan() {
            return Err(Error::NanScore { layer: Some(stage.layer) });
        }
        Ok(selection)
    }

    /// f32 and u32 in one pass.
    fn rows(&mut self, kept: &Selection, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let locked: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
        let count = kept.kept_rows().total();
        let mut outs = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            check_rows(tensor, kept.rows().total())?;
            let width: usize = tensor.dims()[1..].iter().product();
            outs.push((Rows::new(tensor.dtype(), count * width)?, width));
        }
        let mut moves = Vec::with_capacity(tensors.len());
        for ((storage, layout), (out, width)) in locked.iter().zip(&mut outs) {
            let Storage::Cpu(storage) = &**storage else { return Err(elsewhere()) };
            let range = crate::operand::packed_range("rows to move", layout)?;
            moves.push(match out {
                Rows::F32(out) => RowTensor::new(&storage.as_slice::<f32>()?[range], *width, out)?,
                Rows::U32(out) => RowTensor::new(&storage.as_slice::<u32>()?[range], *width, out)?,
            });
        }
        compact::rows(kept, &mut moves)?;
        drop(moves);
        let made = outs.into_iter().zip(tensors).map(|((out, _), tensor)| {
            let shape = [&[count], &tensor.dims()[1..]].concat();
            match out {
                Rows::F32(out) => Tensor::from_vec(out, shape, &Device::Cpu),
                Rows::U32(out) => Tensor::from_vec(out, shape, &Device::Cpu),
            }
        });
        Ok(made.collect::<candle_core::Result<_>>()?)
    }

    fn attend(
        &mut self,
        q: &Tensor,
        queries: &Queries<'_>,
        cache: &LayerCache,
        reach: &Reach,
    ) -> Result<Tensor> {
        let attention = Attention::new(reach.scale);
        let limits = Limits::new(queries, cache, reach.window)?;
        let one_each = queries.rows.lens().all(|len| len == 1);
        let (k, v) = cache.tensors()?;
        attended(q, k, v, cache.spans(), |q, keys, out| match &limits {
            Limits::Causal if one_each => {
                attend::decode(q, keys, KeyLists::Dense, &attention, out, None)
            }
            limits => {
                attend::prefill(q, queries.rows, keys, limits.of_rows(), &attention, out, None)
            }
        })
    }

    fn decodes(&self, dtype: DType, _: usize, _: usize, _: usize) -> bool {
        dtype == DType::F32
    }

    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor> {
        let (starts, lens) = (cached.starts.to_vec1::<u32>()?, cached.lens.to_vec1::<u32>()?);
        let span = |(start, len)| Span { start: start as usize, len: len as usize };
        let spans: Vec<Span> = starts.into_iter().zip(lens).map(span).collect();
        attended(q, &cached.keys, &cached.values, &spans, |q, keys, out| {
            attend::decode(q, keys, KeyLists::Dense, &Attention::new(scale), out, None)
        })
    }

    fn swiglu(&mut self, gate_up: &Tensor) -> Result<Tensor> {
        let (rows, width) = gate_up.dims2()?;
        let mut out = vec![0.0; rows * width / 2];
        f32_slice(gate_up, |gate_up| elementwise::swiglu(gate_up, width / 2, &mut out))??;
        Ok(Tensor::from_vec(out, (rows, width / 2), gate_up.device())?)
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        ops::add_assign(&x, y)?;
        Ok(x)
    }

    fn by_rows(
        &mut self,
        hidden: Tensor,
        mut step: impl FnMut(&mut Self, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let total = hidden.dim(0)?;
        for start in (0..total).step_by(FFN_ROWS) {
            // In place: what comes back is the part that went in.
            step(self, hidden.narrow(0, start, FFN_ROWS.min(total - start))?)?;
        }
        Ok(hidden)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Room for rows of the types that a stage moves.
enum Rows {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

impl Rows {
    fn new(dtype: DType, len: usize) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32(vec![0.0; len])),
            DType::U32 => Ok(Self::U32(vec![0; len])),
            other => Err(Error::Unsupported {
                what: "type of rows to move in host memory",
                name: other.as_str().into(),
                supported: "f32, u32",
            }),
        }
    }
}

/// Which cached rows every query sees.
enum Limits {
    /// Its own and all before it; the queries are the last rows of their sequences.
    Causal,
    /// This many from the first on.
    PerRow(Vec<i32>),
    /// First row and limit, by position.
    Between { first: Vec<i32>, limit: Vec<i32> },
}

impl Limits {
    fn new(queries: &Queries<'_>, cache: &LayerCache, window: Option<usize>) -> Result<Self> {
        let positions = match window {
            Some(_) => queries.positions.to_vec1::<u32>()?,
            None => Vec::new(),
        };
        // A window as wide as all positions hides nothing.
        let reach = positions.iter().max().map_or(0, |&position| position as usize + 1);
        let window = match (window.filter(|&window| window < reach), queries.limits) {
            (None, None) => return Ok(Self::Causal),
            (None, Some(limits)) => return Ok(Self::PerRow(signed(limits)?)),
            (Some(window), _) => window as i64,
        };
        let mut first = Vec::with_capacity(positions.len());
        let mut limit = Vec::with_capacity(positions.len());
        for (sequence, span) in queries.rows.spans().enumerate() {
            let keys = cache.positions(sequence)?;
            for &position in &positions[span.range()] {
                let hidden = |&key: &u32| i64::from(key) <= i64::from(position) - window;
                first.push(keys.partition_point(hidden) as i32);
                limit.push(keys.partition_point(|&key| key <= position) as i32);
            }
        }
        Ok(Self::Between { first, limit })
    }

    fn of_rows(&self) -> RowLimit<&[i32]> {
        match self {
            Self::Causal => RowLimit::Causal,
            Self::PerRow(limits) => RowLimit::PerRow(limits),
            Self::Between { first, limit } => RowLimit::Between { first, limit },
        }
    }
}

/// Runs attention of `[rows, heads, dim]` over cached keys and values.
fn attended(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    spans: &[Span],
    run: impl FnOnce(View<'_, f32>, &Keys<'_, f32>, ViewMut<'_, f32>) -> salient::Result<()>,
) -> Result<Tensor> {
    let (rows, heads, dim) = q.dims3()?;
    let mut out = vec![0.0; rows * heads * dim];
    heads_view("queries", q, |q| {
        heads_view("keys", keys, |k| {
            heads_view("values", values, |v| {
                let keys = Keys::Contiguous { k, v, spans };
                run(q, &keys, ViewMut::token_major(&mut out, heads, dim))
            })
        })
    })????;
    Ok(Tensor::from_vec(out, (rows, heads, dim), &Device::Cpu)?)
}

fn packed(scores: Vec<f32>) -> Result<Tensor> {
    let tokens = scores.len();
    Ok(Tensor::from_vec(scores, tokens, &Device::Cpu)?)
}

/// As the verbs take positions and limits.
fn signed(numbers: &Tensor) -> Result<Vec<i32>> {
    Ok(numbers.to_vec1::<u32>()?.into_iter().map(|number| number as i32).collect())
}

fn elsewhere() -> Error {
    candle_core::Error::Msg("the tensor is not in host memory".into()).into()
}
