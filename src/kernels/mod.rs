//! The pure half of the kernels' interface: what is checked before a launch, how much workspace a
//! launch takes, and the parameters that a launcher is given.
//!
//! Nothing here touches a device. A plan ([`select::SelectPlan`], [`score::MlpPlan`], ...) holds
//! what the host knows ahead of the launch and says how long every buffer must be; a `params`
//! function takes a plan and where the buffers lie ([`Buffer`]), checks lengths, alignment and
//! overlap, and returns the parameters of the C ABI ([`raw`]). It is tested without a device.
//!
//! ```
//! use salient::kernels::Buffer;
//! use salient::kernels::select::{SelectBuffers, SelectPlan, Shape, params};
//! use salient::select::Budget;
//! # fn main() -> salient::Result<()> {
//! let shape = Shape { batch: 2, heads: 1, total: 9, max_len: 6 };
//! let plan = SelectPlan::new(shape, Budget::Ratio(0.5))?;
//! assert_eq!((plan.capacity(), plan.workspace_bytes()), (3, 0));
//! let buffers = SelectBuffers {
//!     scores: Buffer::new(0x1000, 9),
//!     cu_seqlens: Buffer::new(0x2000, 3),
//!     kept: Buffer::new(0x3000, 2 * plan.capacity()),
//!     kept_lens: Buffer::new(0x4000, 2),
//!     status: Buffer::new(0x5000, 1),
//!     ..SelectBuffers::default()
//! };
//! assert_eq!(params(&plan, &buffers)?.capacity, 3);
//! # Ok(())
//! # }
//! ```

pub mod attend;
mod buffer;
pub mod compact;
/// The C ABI of the kernels, as in `kernels/include/salient.h`. The launchers are there to link
/// with under feature `cuda`, unless `SALIENT_SKIP_KERNELS` left the kernels out of the build.
#[rustfmt::skip]
#[allow(
    missing_docs,
    unsafe_code,
    reason = "made by bindgen: fields that need no comment, and the declarations of the launchers"
)]
pub mod raw;
pub mod score;
pub mod select;
pub mod validate;

pub use buffer::Buffer;

use crate::attend::RowLimit;
use crate::checks::{at_least_one, product, to_i32, to_i64};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::status::Status;

/// The alignment, in bytes, of a workspace and of operands that are read 16 bytes at a time.
pub const ALIGNMENT: usize = 16;

/// Tokens that a kernel can count: an index a tile beyond the last must not overflow.
const MAX_TOKENS: usize = i32::MAX as usize - (1 << 16);

fn check_tokens(what: &'static str, tokens: usize) -> Result<()> {
    if tokens > MAX_TOKENS { Err(Error::Overflow { what }) } else { Ok(()) }
}

fn dtype_code(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => raw::SALIENT_F32,
        DType::F16 => raw::SALIENT_F16,
        DType::Bf16 => raw::SALIENT_BF16,
        DType::F8E4M3 => raw::SALIENT_F8E4M3,
    }
}

/// The launcher's code of a row limit. Row numbers are given if, and only if, it asks for them.
fn limit_code(limit: RowLimit, firsts: Option<Buffer>, limits: Option<Buffer>) -> Result<i32> {
    let expected = "given if, and only if, the row limit asks for them";
    for (what, wanted, given) in [
        ("first rows", limit.firsts().is_some(), firsts.is_some()),
        ("row limits", limit.limits().is_some(), limits.is_some()),
    ] {
        if wanted != given {
            return Err(Error::Unfit { what, expected });
        }
    }
    Ok(match limit {
        RowLimit::Full => raw::SALIENT_SEES_ALL,
        RowLimit::Causal => raw::SALIENT_SEES_CAUSAL,
        RowLimit::PerRow(()) | RowLimit::Between { .. } => raw::SALIENT_SEES_ROWS,
    })
}

/// Checks that elements are f16 or bf16, for kernels that take no other.
fn check_16_bits(what: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F16 | DType::Bf16 => Ok(()),
        DType::F32 | DType::F8E4M3 => Err(Error::OutOfRange {
            what,
            value: (8 * dtype.size()) as f64,
            expected: "16: f16 or bf16",
        }),
    }
}

/// The strides of a layout that a plan has checked: both fit.
fn strides(layout: Layout) -> raw::SalientStrides {
    raw::SalientStrides { token: layout.token_stride as i64, head: layout.head_stride as i64 }
}

/// The lists of kept tokens side by side: `[lists, capacity]`.
fn lists_len(lists: usize, capacity: usize) -> Result<usize> {
    product("lists of kept tokens", &[lists, capacity])
}

impl From<raw::SalientStatus> for Status {
    fn from(status: raw::SalientStatus) -> Self {
        Self::from_words([status.flags, status.row])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Fault;

    #[test]
    fn faults_have_the_bits_of_the_c_abi() {
        for (fault, bit) in [
            (Fault::Nan, raw::SALIENT_STATUS_NAN),
            (Fault::Protected, raw::SALIENT_STATUS_PROTECTED),
            (Fault::Capacity, raw::SALIENT_STATUS_CAPACITY),
            (Fault::Lengths, raw::SALIENT_STATUS_LENGTHS),
            (Fault::Index, raw::SALIENT_STATUS_INDEX),
            (Fault::Order, raw::SALIENT_STATUS_ORDER),
            (Fault::Page, raw::SALIENT_STATUS_PAGE),
        ] {
            let status = Status::from(raw::SalientStatus { flags: bit, row: 3 });
            assert_eq!((status.faults().collect(), status.row()), (vec![fault], Some(3)));
        }
    }
}
