//! candle tensors seen as slices, and the host backend's element-wise steps as candle operations.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout as TensorLayout, Storage, Tensor};
use salient::host::elementwise;
use salient::{Layout, View};

use crate::error::Result;

/// Runs `read` on the elements of a contiguous f32 tensor in host memory.
pub(crate) fn f32_slice<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(contiguous(storage.as_slice()?, layout, "f32_slice")?)),
        _ => Err(candle_core::Error::Msg("the tensor is not in host memory".into()).into()),
    }
}

/// Q, K or V: a `[tokens, heads, dim]` part of a wider contiguous `[tokens, width]` tensor.
#[derive(Debug, Clone)]
pub(crate) struct Heads {
    tensor: Tensor,
    offset: usize,
    layout: Layout,
}

impl Heads {
    /// The `heads` heads that start at column `offset` of `tensor`.
    pub(crate) fn new(tensor: Tensor, offset: usize, heads: usize, dim: usize) -> Result<Self> {
        let (_, width) = tensor.dims2()?;
        let layout = Layout { heads, dim, token_stride: width, head_stride: dim };
        Ok(Self { tensor, offset, layout })
    }

    /// Runs `read` on the heads as a view.
    pub(crate) fn view<R>(&self, read: impl FnOnce(View<'_, f32>) -> R) -> Result<R> {
        f32_slice(&self.tensor, |data| {
            // With no tokens there is no row to start from.
            let data = data.get(self.offset..).unwrap_or_default();
            read(View::new(data, self.layout))
        })
    }

    /// The tensor that holds the heads.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Rotates the heads to their positions, in place.
    pub(crate) fn rotate(&self, positions: &[i32], cos: &[f32], sin: &[f32]) -> Result<()> {
        self.tensor.inplace_op1(&OnHeads("rotate", self, |data: &mut [f32]| {
            elementwise::rotate(data, self.layout, positions, cos, sin)
        }))?;
        Ok(())
    }

    /// RMSNorm of every head, in place.
    pub(crate) fn normalise(&self, weight: &Tensor, eps: f32) -> Result<()> {
        f32_slice(weight, |weight| {
            self.tensor.inplace_op1(&OnHeads("normalise", self, |data: &mut [f32]| {
                elementwise::rms_norm_heads(data, self.layout, weight, eps)
            }))
        })??;
        Ok(())
    }
}

/// RMSNorm of the rows of `[n, width]`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mut out = vec![0.0; x.elem_count()];
    f32_slice(x, |x| {
        f32_slice(weight, |weight| elementwise::rms_norm(x, weight, eps, &mut out))
    })???;
    Ok(Tensor::from_vec(out, x.shape(), x.device())?)
}

/// `silu(gate) * up` of the rows of `[n, 2 * width]`, gate first.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (rows, width) = gate_up.dims2()?;
    let mut out = vec![0.0; rows * width / 2];
    f32_slice(gate_up, |gate_up| elementwise::swiglu(gate_up, width / 2, &mut out))??;
    Ok(Tensor::from_vec(out, (rows, width / 2), gate_up.device())?)
}

/// `x += y`.
pub(crate) fn add_assign(x: &Tensor, y: &Tensor) -> Result<()> {
    Ok(x.inplace_op2(y, &AddAssign)?)
}

struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add_assign"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &TensorLayout,
        y: &CpuStorage,
        y_layout: &TensorLayout,
    ) -> candle_core::Result<()> {
        let y = contiguous(y.as_slice()?, y_layout, self.name())?;
        let x = contiguous_mut(x, x_layout, self.name())?;
        elementwise::add_assign(x, y).map_err(candle_core::Error::wrap)
    }
}

struct OnHeads<'a, F>(&'static str, &'a Heads, F);

impl<F: Fn(&mut [f32]) -> salient::Result<()>> InplaceOp1 for OnHeads<'_, F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &TensorLayout) -> candle_core::Result<()> {
        let data = contiguous_mut(storage, layout, self.name())?;
        let data = data.get_mut(self.1.offset..).unwrap_or_default();
        (self.2)(data).map_err(candle_core::Error::wrap)
    }
}

fn contiguous<'a>(
    data: &'a [f32],
    layout: &TensorLayout,
    op: &'static str,
) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }.bt()),
    }
}

fn contiguous_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &TensorLayout,
    op: &'static str,
) -> candle_core::Result<&'a mut [f32]> {
    let CpuStorage::F32(data) = storage else {
        return Err(candle_core::Error::UnsupportedDTypeForOp(storage.dtype(), op).bt());
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut data[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }.bt()),
    }
}
