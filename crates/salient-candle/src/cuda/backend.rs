//! What a block and a stage of a model need, on tensors of a CUDA device.

use std::marker::PhantomData;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{
    CudaDevice, CudaStorage, D, DType, DeviceLocation, Shape, Storage, Tensor, WithDType,
};
use half::{bf16, f16};
use salient::cuda::compact::RowTensor;
use salient::cuda::cudarc::driver::CudaViewMut;
use salient::cuda::cudarc::driver::sys::CUevent_flags_enum as EventFlags;
use salient::cuda::score::Predictor;
use salient::cuda::{self as on_device, DeviceElement, DeviceSelection, Session, bytes_mut};
use salient::kernels::attend::MAX_PREFILL_DIM;
use salient::kernels::score::MlpWeights;
use salient::schedule::StagePlan;
use salient::score::{AttentionScore, Per, Pool, PredictorWeights};
use salient::{Error as SalientError, Fault, Ragged};

use super::tensor::{TensorView, no_bytes, tensor};
use crate::backend::masked::{Masked, WEIGHTS, attend};
use crate::backend::{
    Backend, Predictor as AnyPredictor, Queries, Reach, Timestamp, Verbs, check_rows, check_stage,
    request,
};
use crate::cache::{CachedKeys, LayerCache};
use crate::error::{Error, Result};
use crate::rope::RopeTable;

/// Rows that go through the feed-forward network at once, so that its wide activations do not grow
/// with the prompt.
const FFN_ROWS: usize = 8192;

/// A predictor's weights on a CUDA device, for hidden states of one type.
#[derive(Debug)]
pub struct CudaPredictor {
    weights: Weights,
    location: DeviceLocation,
}

#[derive(Debug)]
enum Weights {
    F16(Predictor<f16>),
    Bf16(Predictor<bf16>),
}

/// salient's kernels on one CUDA device, on its stream, and candle's where salient has none: norms,
/// rotation, activation, and attention in f32 and in layers with a sliding window, which after a
/// stage counts positions and not rows.
#[derive(Debug)]
pub struct CudaBackend {
    pub(super) device: CudaDevice,
    pub(super) session: Session,
    /// The stream is another one on another thread, where the workspace may still be in use here.
    of_this_thread: PhantomData<*const ()>,
}

impl CudaPredictor {
    /// Copies a predictor for hidden states of `hidden` channels and type `dtype` to a device. Its
    /// weights are f16 for f16, else bf16: the kernel has no other, and bf16 holds what f32 does.
    ///
    /// # Errors
    /// Those of [`MlpWeights::new`], those of the device.
    pub fn new(
        hidden: usize,
        weights: PredictorWeights,
        dtype: DType,
        device: &CudaDevice,
    ) -> Result<Self> {
        let stream = device.cuda_stream();
        let weights = match dtype {
            DType::F16 => {
                Weights::F16(Predictor::upload(&stream, &MlpWeights::new(hidden, weights)?)?)
            }
            _ => Weights::Bf16(Predictor::upload(&stream, &MlpWeights::new(hidden, weights)?)?),
        };
        // For whatever thread scores with it.
        device.synchronize()?;
        Ok(Self { weights, location: device.location() })
    }

    /// The device that it is on.
    pub fn location(&self) -> DeviceLocation {
        self.location
    }
}

impl CudaBackend {
    /// The verbs on a device, for the thread that asks.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let session = Session::new(&device.cuda_stream())?;
        Ok(Self { device: device.clone(), session, of_this_thread: PhantomData })
    }

    fn mlp_of<T>(&mut self, predictor: &Predictor<T>, hidden: &Tensor) -> Result<Tensor>
    where
        T: DeviceElement + CudaDType + WithDType,
    {
        let (tokens, channels) = hidden.dims2()?;
        if channels != predictor.shape().hidden() {
            let (what, expected) = ("channels of the hidden states", predictor.shape().hidden());
            return Err(salient::Error::LengthMismatch { what, expected, actual: channels }.into());
        }
        let hidden = TensorView::packed("hidden states", hidden)?;
        let scores = self.session.mlp(predictor, &hidden.elements::<T>()?)?;
        tensor(scores.into_slice(), tokens, &self.device)
    }

    fn keynorm_of<T>(&mut self, keys: &Tensor) -> Result<Tensor>
    where
        T: DeviceElement + CudaDType + WithDType,
    {
        let tokens = keys.dim(0)?;
        let (keys, layout) = TensorView::heads("keys", keys)?;
        let keys = on_device::TensorView::new(keys.elements::<T>()?, layout);
        let scores = self.session.keynorm(&keys, tokens, Per::Token)?;
        tensor(scores.into_slice(), tokens, &self.device)
    }
}

impl Verbs for CudaBackend {
    fn rms_norm(&mut self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        Ok(candle_nn::ops::rms_norm(x, weight, eps)?)
    }

    fn rms_norm_heads(&mut self, heads: Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.rms_norm(&heads, weight, eps)
    }

    fn rotate(&mut self, heads: Tensor, positions: &Tensor, rope: &RopeTable) -> Result<Tensor> {
        let [cos, sin] = rope.tables();
        let (cos, sin) = (cos.index_select(positions, 0)?, sin.index_select(positions, 0)?);
        let rotated = candle_nn::rotary_emb::rope_thd(&heads.unsqueeze(0)?, &cos, &sin)?;
        Ok(rotated.squeeze(0)?)
    }

    fn mlp(&mut self, predictor: &AnyPredictor, hidden: &Tensor) -> Result<Tensor> {
        let here = self.device.location();
        match predictor {
            AnyPredictor::Cuda(predictor) if predictor.location == here => {
                match &predictor.weights {
                    Weights::F16(predictor) => {
                        self.mlp_of(predictor, &hidden.to_dtype(DType::F16)?)
                    }
                    Weights::Bf16(predictor) => {
                        self.mlp_of(predictor, &hidden.to_dtype(DType::BF16)?)
                    }
                }
            }
            elsewhere => Err(elsewhere.misplaced(here)),
        }
    }

    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor> {
        match keys.dtype() {
            DType::F16 => self.keynorm_of::<f16>(keys),
            DType::BF16 => self.keynorm_of::<bf16>(keys),
            DType::F32 => self.keynorm_of::<f32>(keys),
            other => Err(Error::Unsupported {
                what: "type of keys",
                name: other.as_str().into(),
                supported: "f32, f16, bf16",
            }),
        }
    }

    /// In f16 what is in f32.
    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor> {
        match q.dtype() {
            DType::F32 => {
                let (q, keys) = (q.to_dtype(DType::F16)?, keys.to_dtype(DType::F16)?);
                self.scores_of::<f16>(&q, asking, &keys, rows, score)
            }
            DType::F16 => self.scores_of::<f16>(q, asking, keys, rows, score),
            DType::BF16 => self.scores_of::<bf16>(q, asking, keys, rows, score),
            other => Err(no_attention(other)),
        }
    }

    fn pool(&mut self, scores: &Tensor, rows: &Ragged, pool: &Pool) -> Result<Tensor> {
        let scores = TensorView::packed("scores", scores)?;
        let pooled = self.session.pool(&scores.elements::<f32>()?, rows, 1, *pool)?;
        tensor(pooled.into_slice(), rows.total(), &self.device)
    }

    fn rank(&mut self, scores: &Tensor, rows: &Ragged) -> Result<Tensor> {
        let scores = TensorView::packed("scores", scores)?;
        let ranks = self.session.rank(&scores.elements::<f32>()?, rows, 1)?;
        tensor(ranks.into_slice(), rows.total(), &self.device)
    }

    fn timestamp(&mut self) -> Result<Timestamp> {
        let flags = Some(EventFlags::CU_EVENT_DEFAULT);
        let event = self.session.stream().record_event(flags).map_err(SalientError::from)?;
        Ok(Timestamp::Cuda(event))
    }
}

impl Backend for CudaBackend {
    type Kept = DeviceSelection;

    /// Parts of one product would have to be copied apart.
    const FUSED_QKV: bool = false;

    fn select(
        &mut self,
        scores: &Tensor,
        rows: &Ragged,
        stage: &StagePlan,
    ) -> Result<DeviceSelection> {
        check_stage(rows, stage)?;
        let scores = TensorView::packed("scores", scores)?;
        Ok(self.session.select(&scores.elements::<f32>()?, &request(rows, stage))?)
    }

    fn rows(&mut self, kept: &DeviceSelection, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let mut row_bytes = Vec::with_capacity(tensors.len());
        let mut sources = Vec::with_capacity(tensors.len());
        let mut outs = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            check_rows(tensor, kept.rows().total())?;
            let row: usize = tensor.dims()[1..].iter().product();
            row_bytes.push(row * tensor.dtype().size_in_bytes());
            sources.push(TensorView::packed("rows to move", tensor)?);
            let shape = [&[kept.kept_total()], &tensor.dims()[1..]].concat();
            let out = self.device.zeros_impl(&Shape::from(shape.as_slice()), tensor.dtype())?;
            outs.push((out, shape));
        }
        {
            let views = outs.iter_mut().zip(tensors);
            let views = views.map(|((out, _), tensor)| OutView::of(out, tensor.dtype()));
            let mut views = views.collect::<Result<Vec<_>>>()?;
            let mut moves = Vec::with_capacity(tensors.len());
            for (source, view) in sources.iter().zip(&mut views) {
                moves.push(RowTensor { src: source.bytes()?, dst: view.bytes() });
            }
            self.session.compact_rows_to(kept, &mut moves, &row_bytes)?;
        }
        let tensor = |(out, shape)| Tensor::from((Storage::Cuda(out), Shape::from(shape)));
        Ok(outs.into_iter().map(tensor).collect())
    }

    fn attend(
        &mut self,
        q: &Tensor,
        queries: &Queries<'_>,
        cache: &LayerCache,
        reach: &Reach,
    ) -> Result<Tensor> {
        let (_, heads, dim) = q.dims3()?;
        let (keys, _) = cache.tensors()?;
        if reach.window.is_some() || !self.decodes(q.dtype(), heads, keys.dim(1)?, dim) {
            let Queries { rows, positions, limits } = *queries;
            let masked = Masked { among: limits.is_some(), reach: *reach, weights: WEIGHTS };
            return attend(q, rows, positions, cache, masked);
        }
        let cached = cache.cached()?;
        if queries.limits.is_none() && queries.rows.lens().all(|len| len == 1) {
            return self.decode(q, &cached, reach.scale);
        }
        match q.dtype() {
            DType::F16 => self.prefill_of::<f16>(q, queries, &cached, reach.scale),
            _ => self.prefill_of::<bf16>(q, queries, &cached, reach.scale),
        }
    }

    fn decodes(&self, dtype: DType, heads: usize, kv_heads: usize, dim: usize) -> bool {
        let group =
            if kv_heads > 0 && heads.is_multiple_of(kv_heads) { heads / kv_heads } else { 0 };
        matches!(dtype, DType::F16 | DType::BF16)
            && (1..=16).contains(&group)
            && dim > 0
            && dim <= MAX_PREFILL_DIM
            && dim.is_multiple_of(8)
    }

    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor> {
        match q.dtype() {
            DType::F16 => self.decode_of::<f16>(q, cached, scale),
            DType::BF16 => self.decode_of::<bf16>(q, cached, scale),
            other => Err(no_attention(other)),
        }
    }

    fn swiglu(&mut self, gate_up: &Tensor) -> Result<Tensor> {
        let width = gate_up.dim(D::Minus1)? / 2;
        let gate = gate_up.narrow(D::Minus1, 0, width)?.silu()?;
        Ok((gate * gate_up.narrow(D::Minus1, width, width)?)?)
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        Ok((x + y)?)
    }

    fn by_rows(
        &mut self,
        hidden: Tensor,
        mut step: impl FnMut(&mut Self, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let total = hidden.dim(0)?;
        if total <= FFN_ROWS {
            return step(self, hidden);
        }
        let mut parts = Vec::with_capacity(total.div_ceil(FFN_ROWS));
        for start in (0..total).step_by(FFN_ROWS) {
            parts.push(step(self, hidden.narrow(0, start, FFN_ROWS.min(total - start))?)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn finish(&mut self) -> Result<()> {
        let status = self.session.finish()?;
        status.check()?;
        if status.has(Fault::Nan) { Err(Error::NanScore { layer: None }) } else { Ok(()) }
    }
}

/// A tensor's storage to be written, of the types that rows may have.
enum OutView<'a> {
    U8(CudaViewMut<'a, u8>),
    U32(CudaViewMut<'a, u32>),
    I32(CudaViewMut<'a, i32>),
    I64(CudaViewMut<'a, i64>),
    F16(CudaViewMut<'a, f16>),
    Bf16(CudaViewMut<'a, bf16>),
    F32(CudaViewMut<'a, f32>),
}

impl<'a> OutView<'a> {
    fn of(storage: &'a mut CudaStorage, dtype: DType) -> Result<Self> {
        Ok(match &mut storage.slice {
            CudaStorageSlice::U8(slice) => Self::U8(slice.as_view_mut()),
            CudaStorageSlice::U32(slice) => Self::U32(slice.as_view_mut()),
            CudaStorageSlice::I32(slice) => Self::I32(slice.as_view_mut()),
            CudaStorageSlice::I64(slice) => Self::I64(slice.as_view_mut()),
            CudaStorageSlice::F16(slice) => Self::F16(slice.as_view_mut()),
            CudaStorageSlice::BF16(slice) => Self::Bf16(slice.as_view_mut()),
            CudaStorageSlice::F32(slice) => Self::F32(slice.as_view_mut()),
            _ => return Err(no_bytes(dtype)),
        })
    }

    fn bytes(&mut self) -> CudaViewMut<'_, u8> {
        match self {
            Self::U8(view) => bytes_mut(view),
            Self::U32(view) => bytes_mut(view),
            Self::I32(view) => bytes_mut(view),
            Self::I64(view) => bytes_mut(view),
            Self::F16(view) => bytes_mut(view),
            Self::Bf16(view) => bytes_mut(view),
            Self::F32(view) => bytes_mut(view),
        }
    }
}

fn no_attention(dtype: DType) -> Error {
    Error::Unsupported {
        what: "type of queries on a CUDA device",
        name: dtype.as_str().into(),
        supported: "f16, bf16",
    }
}
