//! candle tensors in host memory seen as slices, and element-wise steps on them in place.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout as TensorLayout, Storage, Tensor};
use salient::host::elementwise;
use salient::{Layout, View};

use crate::error::Result;
use crate::operand::head_range;

/// Runs `read` on the elements of a contiguous f32 tensor in host memory.
pub(crate) fn f32_slice<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(contiguous(storage.as_slice()?, layout, "f32_slice")?)),
        _ => Err(candle_core::Error::Msg("the tensor is not in host memory".into()).into()),
    }
}

/// Runs `read` on an f32 tensor `[tokens, heads, dim]` in host memory, which may be a part of a
/// wider one. `what` names it in errors.
pub(crate) fn heads_view<R>(
    what: &'static str,
    tensor: &Tensor,
    read: impl FnOnce(View<'_, f32>) -> R,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (range, heads) = head_range(what, layout)?;
    match &*storage {
        Storage::Cpu(storage) => {
            // With no tokens there is no row to start from.
            let data = storage.as_slice::<f32>()?.get(range).unwrap_or_default();
            Ok(read(View::new(data, heads)))
        }
        _ => Err(candle_core::Error::Msg("the tensor is not in host memory".into()).into()),
    }
}

/// Changes heads `[tokens, heads, dim]` in place.
pub(crate) fn on_heads(
    name: &'static str,
    heads: &Tensor,
    change: impl Fn(&mut [f32], Layout) -> salient::Result<()>,
) -> Result<()> {
    Ok(heads.inplace_op1(&OnHeads(name, change))?)
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
        let Some((start, end)) = x_layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: self.name() }.bt());
        };
        let x = &mut f32_mut(x, self.name())?[start..end];
        elementwise::add_assign(x, y).map_err(candle_core::Error::wrap)
    }
}

struct OnHeads<F>(&'static str, F);

impl<F: Fn(&mut [f32], Layout) -> salient::Result<()>> InplaceOp1 for OnHeads<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &TensorLayout) -> candle_core::Result<()> {
        let (range, heads) = head_range(self.0, layout).map_err(candle_core::Error::wrap)?;
        let data = f32_mut(storage, self.0)?.get_mut(range).unwrap_or_default();
        (self.1)(data, heads).map_err(candle_core::Error::wrap)
    }
}

fn f32_mut<'a>(
    storage: &'a mut CpuStorage,
    op: &'static str,
) -> candle_core::Result<&'a mut [f32]> {
    match storage {
        CpuStorage::F32(data) => Ok(data),
        other => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), op).bt()),
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
