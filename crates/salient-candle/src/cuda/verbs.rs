//! Score, select and compact of a stage on tensors, and attention.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CudaDevice, CudaStorage, DType, DeviceLocation, Shape, Storage, Tensor};
use half::{bf16, f16};
use salient::compact::RowShape;
use salient::cuda::compact::{self, RowLists, RowTensor};
use salient::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaViewMut, DeviceRepr};
use salient::cuda::score::{self, Predictor};
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::cuda::{DeviceElement, StatusWord, bytes_mut};
use salient::kernels::attend::MAX_PREFILL_DIM;
use salient::kernels::compact::RowsPlan;
use salient::kernels::score::{KeynormPlan, MlpPlan, MlpWeights};
use salient::kernels::select::SelectPlan;
use salient::schedule::StagePlan;
use salient::score::{AttentionScore, Per, PredictorWeights};
use salient::{Fault, Ragged};

use super::tensor::{TensorView, no_bytes, tensor};
use crate::device::{
    CachedKeys, DevicePredictor, Verbs, check_rows, check_stage, misplaced, request,
};
use crate::error::{Error, Result};

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

/// The verbs of a stage on one CUDA device, on its stream. Results are new tensors, cleared before
/// they are written, which safe code cannot leave out.
#[derive(Debug)]
pub struct CudaVerbs {
    pub(super) device: CudaDevice,
    pub(super) stream: Arc<CudaStream>,
    pub(super) status: StatusWord,
    pub(super) workspace: Option<CudaSlice<u8>>,
    /// The stream is another one on another thread, where the workspace may still be in use here.
    of_this_thread: PhantomData<*const ()>,
}

/// Which tokens a selection kept, on the device.
#[derive(Debug)]
pub struct CudaKept {
    total: usize,
    kept_total: usize,
    batch: usize,
    capacity: usize,
    kept: CudaSlice<i32>,
    kept_lens: CudaSlice<i32>,
    cu_kept: CudaSlice<i32>,
    cu_seqlens: CudaSlice<i32>,
}

impl CudaPredictor {
    /// Copies a predictor for hidden states of `hidden` channels and type `dtype` to a device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `dtype` is f16 or bf16, those of [`MlpWeights::new`], those of
    /// the device.
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
            DType::BF16 => {
                Weights::Bf16(Predictor::upload(&stream, &MlpWeights::new(hidden, weights)?)?)
            }
            other => return Err(no_predictor(other)),
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

impl CudaVerbs {
    /// The verbs on a device, for the thread that asks.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let status = StatusWord::new(&stream)?;
        let device = device.clone();
        Ok(Self { device, stream, status, workspace: None, of_this_thread: PhantomData })
    }

    fn mlp_of<T>(&mut self, predictor: &Predictor<T>, hidden: &Tensor) -> Result<Tensor>
    where
        T: DeviceElement + candle_core::cuda_backend::CudaDType + candle_core::WithDType,
    {
        let (tokens, channels) = hidden.dims2()?;
        if channels != predictor.shape().hidden() {
            let (what, expected) = ("channels of the hidden states", predictor.shape().hidden());
            return Err(salient::Error::LengthMismatch { what, expected, actual: channels }.into());
        }
        let plan = MlpPlan::new(predictor.shape(), tokens)?;
        let mut scores = self.zeros::<f32>(tokens)?;
        let workspace = room(&mut self.workspace, &self.stream, plan.workspace_bytes())?;
        let hidden = TensorView::packed("hidden states", hidden)?;
        score::mlp(
            &self.stream,
            &plan,
            predictor,
            &hidden.elements::<T>()?,
            None,
            &mut scores.as_view_mut(),
            &mut workspace.as_view_mut(),
        )?;
        tensor(scores, tokens, &self.device)
    }

    fn keynorm_of<T>(&mut self, keys: &Tensor, dtype: salient::DType) -> Result<Tensor>
    where
        T: DeviceElement + candle_core::cuda_backend::CudaDType + candle_core::WithDType,
    {
        let tokens = keys.dim(0)?;
        let (keys, layout) = TensorView::heads("keys", keys)?;
        let plan = KeynormPlan::new(tokens, layout, dtype, Per::Token)?;
        let mut scores = self.zeros::<f32>(plan.scores_len())?;
        let stream = &self.stream;
        score::keynorm(stream, &plan, &keys.elements::<T>()?, &mut scores.as_view_mut())?;
        tensor(scores, tokens, &self.device)
    }

    pub(super) fn zeros<T>(&self, len: usize) -> Result<CudaSlice<T>>
    where
        T: DeviceRepr + salient::cuda::cudarc::driver::ValidAsZeroBits,
    {
        Ok(self.stream.alloc_zeros(len).map_err(salient::Error::from)?)
    }

    pub(super) fn upload(&self, values: &[i32]) -> Result<CudaSlice<i32>> {
        Ok(self.stream.clone_htod(values).map_err(salient::Error::from)?)
    }

    fn upload_counts(&self, counts: impl Iterator<Item = usize>) -> Result<CudaSlice<i32>> {
        let overflow = |_| salient::Error::Overflow { what: "counts of a stage" };
        let counts: Vec<i32> =
            counts.map(|count| i32::try_from(count).map_err(overflow)).collect::<Result<_, _>>()?;
        self.upload(&counts)
    }
}

impl Verbs for CudaVerbs {
    type Kept = CudaKept;

    fn mlp(&mut self, predictor: &DevicePredictor, hidden: &Tensor) -> Result<Tensor> {
        let here = self.device.location();
        match predictor {
            DevicePredictor::Cuda(predictor) if predictor.location == here => {
                match &predictor.weights {
                    Weights::F16(predictor) => self.mlp_of(predictor, hidden),
                    Weights::Bf16(predictor) => self.mlp_of(predictor, hidden),
                }
            }
            elsewhere => Err(misplaced(elsewhere, here)),
        }
    }

    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor> {
        match keys.dtype() {
            DType::F16 => self.keynorm_of::<f16>(keys, salient::DType::F16),
            DType::BF16 => self.keynorm_of::<bf16>(keys, salient::DType::Bf16),
            DType::F32 => self.keynorm_of::<f32>(keys, salient::DType::F32),
            other => Err(Error::Unsupported {
                what: "type of keys",
                name: other.as_str().into(),
                supported: "f32, f16, bf16",
            }),
        }
    }

    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor> {
        match q.dtype() {
            DType::F16 => self.scores_of::<f16>(q, asking, keys, rows, score),
            DType::BF16 => self.scores_of::<bf16>(q, asking, keys, rows, score),
            other => Err(no_attention(other)),
        }
    }

    fn select(&mut self, scores: &Tensor, rows: &Ragged, stage: &StagePlan) -> Result<CudaKept> {
        check_stage(rows, stage)?;
        let plan = SelectPlan::of(&request(rows, stage))?;
        let counts = self.upload_counts(stage.counts.iter().copied())?;
        let sinks = self.upload_counts(stage.edges.iter().map(|edges| edges.sinks))?;
        let recent = self.upload_counts(stage.edges.iter().map(|edges| edges.recent))?;
        let mut kept = CudaKept {
            total: rows.total(),
            kept_total: stage.rows.total(),
            batch: rows.batch(),
            capacity: plan.capacity(),
            kept: self.zeros(plan.rows() * plan.capacity())?,
            kept_lens: self.zeros(plan.rows())?,
            cu_kept: self.zeros(plan.rows() + 1)?,
            cu_seqlens: self.upload(rows.cu_seqlens())?,
        };
        let scores = TensorView::packed("scores", scores)?;
        let inputs = SelectInputs {
            counts: Some(counts.as_view()),
            sinks: Some(sinks.as_view()),
            recent: Some(recent.as_view()),
            ..SelectInputs::new(scores.elements::<f32>()?, kept.cu_seqlens.as_view())
        };
        let mut outputs = SelectOutputs {
            cu_kept: Some(kept.cu_kept.as_view_mut()),
            ..SelectOutputs::new(kept.kept.as_view_mut(), kept.kept_lens.as_view_mut())
        };
        let workspace = room(&mut self.workspace, &self.stream, plan.workspace_bytes())?;
        let workspace = Some(&mut workspace.as_view_mut());
        select(&self.stream, &plan, &inputs, &mut outputs, workspace, &mut self.status)?;
        Ok(kept)
    }

    fn rows(&mut self, kept: &CudaKept, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let mut shapes = Vec::with_capacity(tensors.len());
        let mut sources = Vec::with_capacity(tensors.len());
        let mut outs = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            check_rows(tensor, kept.total)?;
            let row: usize = tensor.dims()[1..].iter().product();
            shapes.push(RowShape::packed(row * tensor.dtype().size_in_bytes()));
            sources.push(TensorView::packed("rows to move", tensor)?);
            let shape = [&[kept.kept_total], &tensor.dims()[1..]].concat();
            let out = self.device.zeros_impl(&Shape::from(shape.as_slice()), tensor.dtype())?;
            outs.push((out, shape));
        }
        let CudaKept { batch, total, kept_total, capacity, .. } = *kept;
        let plan = RowsPlan::new(batch, total, kept_total, capacity, &shapes)?;
        let lists = RowLists {
            kept: kept.kept.as_view(),
            kept_lens: kept.kept_lens.as_view(),
            cu_kept: kept.cu_kept.as_view(),
            cu_seqlens: kept.cu_seqlens.as_view(),
        };
        {
            let views = outs.iter_mut().zip(tensors);
            let views = views.map(|((out, _), tensor)| OutView::of(out, tensor.dtype()));
            let mut views = views.collect::<Result<Vec<_>>>()?;
            let mut moves = Vec::with_capacity(tensors.len());
            for (source, view) in sources.iter().zip(&mut views) {
                moves.push(RowTensor { src: source.bytes()?, dst: view.bytes() });
            }
            compact::rows(&self.stream, &plan, &mut moves, &lists, &mut self.status)?;
        }
        let tensor = |(out, shape)| Tensor::from((Storage::Cuda(out), Shape::from(shape)));
        Ok(outs.into_iter().map(tensor).collect())
    }

    fn attends(&self, dtype: DType, heads: usize, kv_heads: usize, dim: usize) -> bool {
        let group =
            if kv_heads > 0 && heads.is_multiple_of(kv_heads) { heads / kv_heads } else { 0 };
        matches!(dtype, DType::F16 | DType::BF16)
            && (1..=16).contains(&group)
            && dim > 0
            && dim <= MAX_PREFILL_DIM
            && dim.is_multiple_of(8)
    }

    fn prefill(
        &mut self,
        q: &Tensor,
        rows: &Ragged,
        cached: &CachedKeys,
        limits: Option<&Tensor>,
        scale: f32,
    ) -> Result<Tensor> {
        match q.dtype() {
            DType::F16 => self.prefill_of::<f16>(q, rows, cached, limits, scale),
            DType::BF16 => self.prefill_of::<bf16>(q, rows, cached, limits, scale),
            other => Err(no_attention(other)),
        }
    }

    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor> {
        match q.dtype() {
            DType::F16 => self.decode_of::<f16>(q, cached, scale),
            DType::BF16 => self.decode_of::<bf16>(q, cached, scale),
            other => Err(no_attention(other)),
        }
    }

    fn finish(&mut self) -> Result<bool> {
        let status = self.status.read(&self.stream)?;
        status.check()?;
        Ok(status.has(Fault::Nan))
    }
}

/// A workspace of at least so many bytes, for the next launch. One that is too small is freed in
/// the stream's order, after the launches that use it.
pub(super) fn room<'a>(
    workspace: &'a mut Option<CudaSlice<u8>>,
    stream: &Arc<CudaStream>,
    bytes: usize,
) -> Result<&'a mut CudaSlice<u8>> {
    let room = match workspace.take().filter(|workspace| workspace.len() >= bytes) {
        Some(room) => room,
        None => stream.alloc_zeros(bytes.max(1)).map_err(salient::Error::from)?,
    };
    Ok(workspace.insert(room))
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

fn no_predictor(dtype: DType) -> Error {
    Error::Unsupported {
        what: "type of hidden states that a predictor scores on a CUDA device",
        name: dtype.as_str().into(),
        supported: "f16, bf16",
    }
}

fn no_attention(dtype: DType) -> Error {
    Error::Unsupported {
        what: "type of queries on a CUDA device",
        name: dtype.as_str().into(),
        supported: "f16, bf16",
    }
}
