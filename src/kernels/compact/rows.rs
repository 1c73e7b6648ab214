//! Rows of several tensors.

use std::ptr;

use super::super::{Buffer, check_tokens, lists_len, product, raw, to_i32, to_i64};
use crate::checks::check_len;
use crate::compact::RowShape;
use crate::error::{Error, Result};

/// The most tensors of one launch.
pub const MAX_TENSORS: usize = raw::SALIENT_MAX_TENSORS as usize;

/// A move of kept rows: list entry `i` of sequence `b` goes from row `cu_seqlens[b] + kept[b, i]`
/// to row `cu_kept[b] + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsPlan {
    batch: usize,
    total: usize,
    kept_total: usize,
    capacity: usize,
    tensors: [RowShape; MAX_TENSORS],
    tensor_count: usize,
}

impl RowsPlan {
    /// A plan for tensors of `total` rows, of which at most `kept_total` are kept, by lists with
    /// room for `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for more than [`MAX_TENSORS`] tensors, rows without bytes, or strides
    /// that let rows overlap; [`Error::LengthMismatch`] for more kept rows than there are;
    /// [`Error::Overflow`] where sizes do.
    pub fn new(
        batch: usize,
        total: usize,
        kept_total: usize,
        capacity: usize,
        tensors: &[RowShape],
    ) -> Result<Self> {
        if tensors.len() > MAX_TENSORS {
            let (what, value) = ("number of tensors", tensors.len() as f64);
            return Err(Error::OutOfRange { what, value, expected: "at most 16" });
        }
        if kept_total > total {
            let (what, expected) = ("kept rows", total);
            return Err(Error::LengthMismatch { what, expected, actual: kept_total });
        }
        to_i32("sequences", batch)?;
        check_tokens("rows", total)?;
        to_i32("capacity", capacity)?;
        lists_len(batch, capacity)?;
        let mut shapes = [RowShape::packed(0); MAX_TENSORS];
        for (shape, &tensor) in shapes.iter_mut().zip(tensors) {
            tensor.check()?;
            product("bytes of a source", &[total, tensor.src_stride])?;
            product("bytes of a destination", &[kept_total, tensor.dst_stride])?;
            *shape = tensor;
        }
        let tensor_count = tensors.len();
        Ok(Self { batch, total, kept_total, capacity, tensors: shapes, tensor_count })
    }

    /// The tensors.
    pub fn tensors(&self) -> &[RowShape] {
        &self.tensors[..self.tensor_count]
    }
}

/// The lists that say which rows move; lengths in elements, exact. They are those of a selection
/// with one head.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowLists {
    /// i32 `[batch, capacity]`.
    pub kept: Buffer,
    /// i32 `[batch]`.
    pub kept_lens: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_kept: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers of a move into other buffers and makes the launcher's parameters. `tensors`
/// are source and destination of every tensor of the plan, in bytes: exactly the plan's rows where
/// they are packed, no less where they have a stride.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], and [`Error::Overlap`] for a destination that
/// shares bytes with a source or another destination.
pub fn rows_params(
    plan: &RowsPlan,
    tensors: &[(Buffer, Buffer)],
    lists: &RowLists,
) -> Result<raw::SalientRowsParams> {
    let mut raw = with_lists(plan, lists)?;
    check_len("tensors", plan.tensor_count, tensors.len())?;
    for (i, (&(src, dst), &shape)) in tensors.iter().zip(plan.tensors()).enumerate() {
        raw.tensors[i] = raw::SalientRowTensor {
            src: place("bytes of a source", src, plan.total, shape.row_bytes, shape.src_stride)?,
            dst: place(
                "bytes of a destination",
                dst,
                plan.kept_total,
                shape.row_bytes,
                shape.dst_stride,
            )?,
            ..strides(shape)?
        };
        for &(other, _) in tensors {
            dst.apart("a destination", other, "a source")?;
        }
        for &(_, other) in &tensors[..i] {
            dst.apart("a destination", other, "another destination")?;
        }
    }
    Ok(raw)
}

/// Checks the buffers of a move to the front of the tensors themselves, given in bytes, and makes
/// the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], and [`Error::Overlap`] for tensors that share
/// bytes.
pub fn rows_in_place_params(
    plan: &RowsPlan,
    tensors: &[Buffer],
    lists: &RowLists,
) -> Result<raw::SalientRowsParams> {
    let mut raw = with_lists(plan, lists)?;
    check_len("tensors", plan.tensor_count, tensors.len())?;
    for (i, (&tensor, &shape)) in tensors.iter().zip(plan.tensors()).enumerate() {
        let RowShape { row_bytes, src_stride, .. } = shape;
        let address = place("bytes of a tensor", tensor, plan.total, row_bytes, src_stride)?;
        raw.tensors[i] = raw::SalientRowTensor {
            src: address,
            dst: address,
            dst_stride: to_i64("stride of a tensor", src_stride)?,
            ..strides(shape)?
        };
        for &other in &tensors[..i] {
            tensor.apart("a tensor", other, "another tensor")?;
        }
    }
    Ok(raw)
}

/// The parameters but for the tensors' addresses.
fn with_lists(plan: &RowsPlan, lists: &RowLists) -> Result<raw::SalientRowsParams> {
    let RowsPlan { batch, total, kept_total, capacity, tensor_count, .. } = *plan;
    Ok(raw::SalientRowsParams {
        tensors: [strides(RowShape::packed(0))?; MAX_TENSORS],
        kept: lists.kept.exactly("kept", lists_len(batch, capacity)?)?,
        kept_lens: lists.kept_lens.exactly("kept_lens", batch)?,
        cu_kept: lists.cu_kept.exactly("cu_kept", batch + 1)?,
        cu_seqlens: lists.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        status: lists.status.exactly("status", 1)?,
        tensor_count: to_i32("tensors", tensor_count)?,
        batch: to_i32("sequences", batch)?,
        capacity: to_i32("capacity", capacity)?,
        total: to_i32("rows", total)?,
        kept_total: to_i32("kept rows", kept_total)?,
    })
}

fn strides(shape: RowShape) -> Result<raw::SalientRowTensor> {
    Ok(raw::SalientRowTensor {
        src: ptr::null(),
        dst: ptr::null_mut(),
        src_stride: to_i64("stride of a source", shape.src_stride)?,
        dst_stride: to_i64("stride of a destination", shape.dst_stride)?,
        row_bytes: to_i64("bytes of a row", shape.row_bytes)?,
    })
}

fn place<T>(
    what: &'static str,
    buffer: Buffer,
    rows: usize,
    row_bytes: usize,
    stride: usize,
) -> Result<*mut T> {
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + row_bytes };
    if stride == row_bytes {
        check_len(what, needed, buffer.len)?;
    }
    buffer.holds(what, needed)?;
    buffer.placed(what, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> RowLists {
        let at = |len| Buffer::new(0x100, len);
        RowLists { kept: at(8), kept_lens: at(2), cu_kept: at(3), cu_seqlens: at(3), status: at(1) }
    }

    const STRIDED: RowShape = RowShape { row_bytes: 5, src_stride: 7, dst_stride: 6 };

    fn plan() -> RowsPlan {
        RowsPlan::new(2, 10, 6, 4, &[RowShape::packed(16), STRIDED]).unwrap()
    }

    const GOOD: [(Buffer, Buffer); 2] = [
        (Buffer { address: 0x1000, len: 160 }, Buffer { address: 0x2000, len: 96 }),
        (Buffer { address: 0x3001, len: 68 }, Buffer { address: 0x4001, len: 35 }),
    ];

    #[test]
    fn tensors_of_every_width_become_parameters() {
        let raw = rows_params(&plan(), &GOOD, &lists()).unwrap();
        assert_eq!((raw.tensor_count, raw.batch, raw.capacity), (2, 2, 4));
        assert_eq!((raw.total, raw.kept_total), (10, 6));
        let tensor = raw.tensors[1];
        assert_eq!((tensor.src.addr(), tensor.dst.addr()), (0x3001, 0x4001));
        assert_eq!((tensor.row_bytes, tensor.src_stride, tensor.dst_stride), (5, 7, 6));
        assert!(raw.tensors[2..].iter().all(|t| t.src.is_null() && t.row_bytes == 0));
        let raw = rows_in_place_params(&plan(), &GOOD.map(|(src, _)| src), &lists()).unwrap();
        let tensor = raw.tensors[1];
        assert_eq!((tensor.src.addr(), tensor.dst.addr()), (0x3001, 0x3001));
        assert_eq!((tensor.src_stride, tensor.dst_stride), (7, 7));
    }

    #[test]
    fn bad_tensors_are_refused() {
        let with = |at: usize, change: fn(&mut (Buffer, Buffer))| {
            let mut tensors = GOOD;
            change(&mut tensors[at]);
            rows_params(&plan(), &tensors, &lists()).unwrap_err()
        };
        let mismatch = |what, expected, actual| Error::LengthMismatch { what, expected, actual };
        assert_eq!(with(0, |t| t.0.len = 161), mismatch("bytes of a source", 160, 161));
        assert_eq!(with(0, |t| t.1.len = 95), mismatch("bytes of a destination", 96, 95));
        assert_eq!(with(1, |t| t.0.len = 67), mismatch("bytes of a source", 68, 67));
        assert_eq!(with(1, |t| t.1.len = 34), mismatch("bytes of a destination", 35, 34));
        let overlap = |other| Error::Overlap { what: "a destination", other };
        assert_eq!(with(0, |t| t.1.address = 0x1010), overlap("a source"));
        assert_eq!(with(1, |t| t.1.address = 0x1010), overlap("a source"));
        assert_eq!(with(1, |t| t.1.address = 0x2010), overlap("another destination"));
        assert!(rows_params(&plan(), &GOOD[..1], &lists()).is_err());
        let twice = [GOOD[0].0, Buffer::new(0x1010, 68)];
        let error = rows_in_place_params(&plan(), &twice, &lists()).unwrap_err();
        assert_eq!(error, Error::Overlap { what: "a tensor", other: "another tensor" });
        let short = [Buffer::new(0x1000, 159), GOOD[1].0];
        assert!(rows_in_place_params(&plan(), &short, &lists()).is_err());
        assert!(rows_in_place_params(&plan(), &[], &lists()).is_err());
    }

    #[test]
    fn bad_lists_are_refused() {
        type Field = fn(&mut RowLists) -> &mut Buffer;
        let fields: [Field; 5] = [
            |l| &mut l.kept,
            |l| &mut l.kept_lens,
            |l| &mut l.cu_kept,
            |l| &mut l.cu_seqlens,
            |l| &mut l.status,
        ];
        for field in fields {
            let mut bad = lists();
            field(&mut bad).len -= 1;
            assert!(rows_params(&plan(), &GOOD, &bad).is_err());
            let mut bad = lists();
            field(&mut bad).address += 1;
            assert!(rows_params(&plan(), &GOOD, &bad).is_err());
        }
    }

    #[test]
    fn bad_shapes_are_refused() {
        let new = |batch, total, kept, capacity, shape| {
            RowsPlan::new(batch, total, kept, capacity, &[shape]).map(|_| ())
        };
        assert!(new(2, 10, 10, 4, STRIDED).is_ok());
        assert!(new(2, 10, 11, 4, STRIDED).is_err());
        assert!(new(2, 1 << 31, 0, 4, STRIDED).is_err());
        assert!(new(1 << 31, 10, 1, 4, STRIDED).is_err());
        assert!(new(2, 10, 1, 1 << 31, STRIDED).is_err());
        assert!(new(2, 10, 6, 4, RowShape::packed(0)).is_err());
        assert!(new(2, 10, 6, 4, RowShape { src_stride: 4, ..STRIDED }).is_err());
        assert!(new(2, 10, 6, 4, RowShape { dst_stride: 4, ..STRIDED }).is_err());
        assert!(new(2, 10, 6, 4, RowShape { src_stride: usize::MAX, ..STRIDED }).is_err());
        assert!(RowsPlan::new(2, 10, 6, 4, &[STRIDED; 16]).is_ok());
        assert!(RowsPlan::new(2, 10, 6, 4, &[STRIDED; 17]).is_err());
    }
}
