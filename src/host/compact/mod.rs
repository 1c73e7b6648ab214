//! **compact** on the host. The contract is that of [`crate::compact`].
//!
//! | function | moves |
//! |---|---|
//! | [`rows()`] | rows of several tensors into other buffers |
//! | [`rows_in_place`] | rows of several tensors to the front of their own |
//! | [`kv`] | keys and values of all layers to the front of each sequence's span |
//! | [`kv_paged`] | keys and values of all layers to the front pages of each sequence |
//!
//! Survivors keep their order. Everything is checked before the first byte moves: after an `Err`
//! nothing has changed.
//!
//! ```
//! use salient::Ragged;
//! use salient::host::compact::{self, RowTensor};
//! use salient::select::Selection;
//! # fn main() -> salient::Result<()> {
//! let rows = Ragged::from_lens(&[3, 2])?;
//! let selection = Selection::from_lists(rows, 1, &[vec![0, 2], vec![1]])?;
//! let hidden = [0.0f32, 0.1, 1.0, 1.1, 2.0, 2.1, /* second sequence */ 3.0, 3.1, 4.0, 4.1];
//! let positions = [0i32, 1, 2, 0, 1];
//! let (mut kept_hidden, mut kept_positions) = ([0.0; 6], [0; 3]);
//! compact::rows(
//!     &selection,
//!     &mut [
//!         RowTensor::new(&hidden, 2, &mut kept_hidden)?,
//!         RowTensor::new(&positions, 1, &mut kept_positions)?,
//!     ],
//! )?;
//! assert_eq!(kept_hidden, [0.0, 0.1, 2.0, 2.1, 4.0, 4.1]);
//! assert_eq!(kept_positions, [0, 2, 1]);
//! # Ok(())
//! # }
//! ```

mod kv;
mod moves;
mod paged;

use bytemuck::Pod;
use rayon::prelude::*;

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::select::Selection;
use moves::{PARALLEL_BYTES, Place, gather, move_down};

pub use kv::{KvMut, kv};
pub use paged::{PagedKvMut, kv_paged};

/// A `[total, width]` tensor, and where its kept rows go.
#[derive(Debug)]
pub struct RowTensor<'a> {
    src: &'a [u8],
    dst: &'a mut [u8],
    row_bytes: usize,
}

impl<'a> RowTensor<'a> {
    /// Rows of `width` elements: `src` is `[total, width]`, `dst` `[kept, width]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a row has no bytes, [`Error::Overflow`] if it has too many.
    pub fn new<T: Pod>(src: &'a [T], width: usize, dst: &'a mut [T]) -> Result<Self> {
        let row_bytes = row_bytes::<T>(width)?;
        Ok(Self { src: bytemuck::cast_slice(src), dst: bytemuck::cast_slice_mut(dst), row_bytes })
    }
}

/// A `[total, width]` tensor whose kept rows move to its front.
#[derive(Debug)]
pub struct RowTensorMut<'a> {
    data: &'a mut [u8],
    row_bytes: usize,
}

impl<'a> RowTensorMut<'a> {
    /// Rows of `width` elements: `data` is `[total, width]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a row has no bytes, [`Error::Overflow`] if it has too many.
    pub fn new<T: Pod>(data: &'a mut [T], width: usize) -> Result<Self> {
        let row_bytes = row_bytes::<T>(width)?;
        Ok(Self { data: bytemuck::cast_slice_mut(data), row_bytes })
    }
}

/// Copies the kept rows of several tensors, each with its own element type and width, to their
/// destinations, packed by [`Selection::kept_rows`].
///
/// # Errors
/// [`Error::OutOfRange`] for a selection with several heads, [`Error::LengthMismatch`] (in bytes)
/// if a tensor does not have the selection's rows.
pub fn rows(selection: &Selection, tensors: &mut [RowTensor<'_>]) -> Result<()> {
    check_one_head(selection)?;
    let (total, kept) = (selection.rows().total(), selection.kept_rows().total());
    for tensor in tensors.iter() {
        check_bytes("bytes of a source", total, tensor.row_bytes, tensor.src)?;
        check_bytes("bytes of a destination", kept, tensor.row_bytes, tensor.dst)?;
    }
    let bytes: usize = tensors.iter().map(|tensor| tensor.dst.len()).sum();
    if bytes < PARALLEL_BYTES {
        for RowTensor { src, dst, row_bytes } in tensors {
            gather(selection, 0, *row_bytes, src, dst);
        }
        return Ok(());
    }
    tensors.par_iter_mut().for_each(|RowTensor { src, dst, row_bytes }| {
        let rows_per_piece = (PARALLEL_BYTES / *row_bytes).max(1);
        dst.par_chunks_mut(rows_per_piece * *row_bytes).enumerate().for_each(|(piece, dst)| {
            gather(selection, piece * rows_per_piece, *row_bytes, src, dst);
        });
    });
    Ok(())
}

/// Moves the kept rows of several tensors to their fronts, packed by [`Selection::kept_rows`], with
/// no second buffer. What lies behind the kept rows afterwards is unspecified.
///
/// # Errors
/// [`Error::OutOfRange`] for a selection with several heads, [`Error::LengthMismatch`] (in bytes)
/// if a tensor does not have the selection's rows.
pub fn rows_in_place(selection: &Selection, tensors: &mut [RowTensorMut<'_>]) -> Result<()> {
    check_one_head(selection)?;
    let total = selection.rows().total();
    for tensor in tensors.iter() {
        check_bytes("bytes of a tensor", total, tensor.row_bytes, tensor.data)?;
    }
    let compact = |RowTensorMut { data, row_bytes }: &mut RowTensorMut<'_>| {
        let place = |row: usize| Place { offset: row * *row_bytes, ahead: usize::MAX };
        for (sequence, span) in selection.rows().spans().enumerate() {
            let front = selection.kept_rows().span(sequence).start;
            let list = selection.row(sequence, 0);
            move_down(data, list, *row_bytes, |i| place(span.start + i), |i| place(front + i));
        }
    };
    let bytes: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    if bytes < PARALLEL_BYTES {
        tensors.iter_mut().for_each(compact);
    } else {
        tensors.par_iter_mut().for_each(compact);
    }
    Ok(())
}

fn row_bytes<T>(width: usize) -> Result<usize> {
    match size_of::<T>().checked_mul(width) {
        None => Err(Error::Overflow { what: "bytes of a row" }),
        Some(0) => {
            Err(Error::OutOfRange { what: "bytes of a row", value: 0.0, expected: "at least 1" })
        }
        Some(bytes) => Ok(bytes),
    }
}

fn check_one_head(selection: &Selection) -> Result<()> {
    match selection.heads() {
        1 => Ok(()),
        heads => Err(Error::OutOfRange {
            what: "heads of a selection of whole rows",
            value: heads as f64,
            expected: "1",
        }),
    }
}

fn check_bytes(what: &'static str, rows: usize, row_bytes: usize, data: &[u8]) -> Result<()> {
    check_len(what, rows.checked_mul(row_bytes).ok_or(Error::Overflow { what })?, data.len())
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::ragged::Ragged;

    fn selection() -> Selection {
        let rows = Ragged::from_lens(&[5, 0, 3, 1]).unwrap();
        let lists: [&[i32]; 4] = [&[0, 1, 3, 4], &[], &[1, 2], &[]];
        Selection::from_lists(rows, 1, &lists).unwrap()
    }

    const KEPT: [usize; 6] = [0, 1, 3, 4, 6, 7];

    fn wanted<T: Copy>(src: &[T], width: usize) -> Vec<T> {
        KEPT.iter().flat_map(|&row| &src[row * width..][..width]).copied().collect()
    }

    #[test]
    fn rows_of_every_width_are_gathered_and_moved() {
        let selection = selection();
        for width in [1, 2, 3, 4, 5, 8, 16, 33] {
            let floats: Vec<f32> = (0..9 * width).map(|i| i as f32).collect();
            let halves: Vec<bf16> = floats.iter().map(|&x| bf16::from_f32(x)).collect();
            let mut kept_floats = vec![0.0; 6 * width];
            let mut kept_halves = vec![bf16::ZERO; 6 * width];
            let mut tensors = [
                RowTensor::new(&floats, width, &mut kept_floats).unwrap(),
                RowTensor::new(&halves, width, &mut kept_halves).unwrap(),
            ];
            rows(&selection, &mut tensors).unwrap();
            assert_eq!(kept_floats, wanted(&floats, width));
            assert_eq!(kept_halves, wanted(&halves, width));

            let (mut floats, mut halves) = (floats, halves);
            let mut tensors = [
                RowTensorMut::new(&mut floats, width).unwrap(),
                RowTensorMut::new(&mut halves, width).unwrap(),
            ];
            rows_in_place(&selection, &mut tensors).unwrap();
            assert_eq!(floats[..6 * width], kept_floats);
            assert_eq!(halves[..6 * width], kept_halves);
        }
    }

    #[test]
    fn large_tensors_are_cut_where_rows_end() {
        let lens = [4000, 1, 3000];
        let rows_of = Ragged::from_lens(&lens).unwrap();
        let lists: Vec<Vec<i32>> =
            lens.iter().map(|&len| (0..len as i32).filter(|i| i % 7 < 3).collect()).collect();
        let selection = Selection::from_lists(rows_of.clone(), 1, &lists).unwrap();
        let width = 129;
        let src: Vec<u32> = (0..rows_of.total() * width).map(|i| i as u32).collect();
        let ids: Vec<u64> = (0..rows_of.total() as u64).collect();
        let kept = selection.kept_rows().total();
        let (mut dst, mut kept_ids) = (vec![0; kept * width], vec![0; kept]);
        let mut tensors = [
            RowTensor::new(&src, width, &mut dst).unwrap(),
            RowTensor::new(&ids, 1, &mut kept_ids).unwrap(),
        ];
        rows(&selection, &mut tensors).unwrap();
        let wanted: Vec<u64> = rows_of
            .spans()
            .zip(&lists)
            .flat_map(|(span, list)| list.iter().map(move |&i| span.start as u64 + i as u64))
            .collect();
        assert_eq!(kept_ids, wanted);
        for (row, &id) in dst.chunks(width).zip(&wanted) {
            assert!(row.iter().copied().eq((0..width as u32).map(|i| id as u32 * 129 + i)));
        }
        let mut data = src;
        rows_in_place(&selection, &mut [RowTensorMut::new(&mut data, width).unwrap()]).unwrap();
        assert_eq!(data[..dst.len()], dst);
    }

    #[test]
    fn nothing_moves_when_one_tensor_is_wrong() {
        let selection = selection();
        let src: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let (mut good, mut short) = (vec![-1.0; 6], vec![-1.0; 5]);
        let mut tensors = [
            RowTensor::new(&src, 1, &mut good).unwrap(),
            RowTensor::new(&src, 1, &mut short).unwrap(),
        ];
        assert!(rows(&selection, &mut tensors).is_err());
        assert_eq!(good, [-1.0; 6]);

        let (mut data, mut long) = (src.clone(), vec![0.0; 10]);
        let mut tensors =
            [RowTensorMut::new(&mut data, 1).unwrap(), RowTensorMut::new(&mut long, 1).unwrap()];
        assert!(rows_in_place(&selection, &mut tensors).is_err());
        assert_eq!(data, src);
        assert!(RowTensor::new(&src, 0, &mut good).is_err());
        assert!(RowTensorMut::new(&mut data, usize::MAX).is_err());

        let heads = Selection::all(Ragged::from_lens(&[3]).unwrap(), 2).unwrap();
        assert!(rows(&heads, &mut []).is_err());
        assert!(rows_in_place(&heads, &mut []).is_err());
    }
}
