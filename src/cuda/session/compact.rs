//! **compact**.

use bytemuck::Pod;
use cudarc::driver::{CudaView, CudaViewMut, DeviceRepr};

use super::{DeviceSelection, Session};
use crate::compact::RowShape;
use crate::cuda::compact::{
    KvLists, KvOutputs, KvTable, RowLists, RowTensor, kv, rows, rows_in_place,
};
use crate::cuda::{Array, Place, bytes, bytes_mut};
use crate::error::{Error, Result};
use crate::kernels::compact::RowsPlan;

/// The pages of which no kept token needs any.
#[derive(Debug)]
pub struct FreedPages {
    /// `[batch * max_pages]`, in the order of the page table; as many as `count` says.
    pub pages: Array<i32>,
    /// `[1]`.
    pub count: Array<i32>,
}

impl DeviceSelection {
    fn lists(&self) -> RowLists<'_> {
        RowLists {
            kept: self.kept.view(),
            kept_lens: self.kept_lens.view(),
            cu_kept: self.cu_kept.view(),
            cu_seqlens: self.cu_seqlens.view(),
        }
    }

    fn rows_plan(&self, shapes: &[RowShape]) -> Result<RowsPlan> {
        if self.heads != 1 {
            let (what, value) = ("heads of a selection of whole rows", self.heads as f64);
            return Err(Error::OutOfRange { what, value, expected: "1" });
        }
        let (batch, total) = (self.rows.batch(), self.rows.total());
        RowsPlan::new(batch, total, self.kept_total, self.capacity, shapes)
    }
}

impl Session {
    /// The kept rows of a tensor `[total, width]`, packed: `[kept_total, width]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a selection with several heads or rows without bytes,
    /// [`Error::LengthMismatch`], those of the device.
    pub fn compact_rows<T: Pod + DeviceRepr>(
        &mut self,
        selection: &DeviceSelection,
        tensor: &CudaView<'_, T>,
        width: usize,
    ) -> Result<Array<T>> {
        // Under a threshold fewer rows may be kept than there is room for.
        let mut kept = self.cleared(selection.kept_total * width)?;
        {
            let mut to = kept.view_mut();
            let tensor = RowTensor { src: bytes(tensor), dst: bytes_mut(&mut to) };
            self.compact_rows_to(selection, &mut [tensor], &[width * size_of::<T>()])?;
        }
        Ok(kept)
    }

    /// The kept rows of several tensors, in bytes, in one launch: `row_bytes` has the bytes of a
    /// row of each. Destinations have room for `kept_total` rows.
    ///
    /// # Errors
    /// As [`Session::compact_rows`].
    pub fn compact_rows_to(
        &mut self,
        selection: &DeviceSelection,
        tensors: &mut [RowTensor<'_>],
        row_bytes: &[usize],
    ) -> Result<()> {
        let plan = selection.rows_plan(&packed(row_bytes))?;
        rows(&self.stream, &plan, tensors, &selection.lists(), &mut self.status)
    }

    /// Moves the kept rows of several tensors, in bytes, to their own fronts in one launch. What
    /// lies behind them afterwards is unspecified.
    ///
    /// # Errors
    /// As [`Session::compact_rows`].
    pub fn compact_rows_in_place(
        &mut self,
        selection: &DeviceSelection,
        tensors: &mut [CudaViewMut<'_, u8>],
        row_bytes: &[usize],
    ) -> Result<()> {
        let plan = selection.rows_plan(&packed(row_bytes))?;
        rows_in_place(&self.stream, &plan, tensors, &selection.lists(), &mut self.status)
    }

    /// Moves the kept keys and values of all layers to the front of each sequence's span, or of its
    /// pages, in one launch and with no second buffer. `layers` are those that the table was made
    /// from. The new lengths are the selection's `kept_lens`. For paged caches the pages that are
    /// free now come back.
    ///
    /// # Errors
    /// Those of [`kv`], and those of the device.
    pub fn compact_kv<T: Pod>(
        &mut self,
        selection: &DeviceSelection,
        table: &KvTable,
        layers: &mut [[CudaViewMut<'_, T>; 2]],
        place: &Place<'_>,
    ) -> Result<Option<FreedPages>> {
        let lens: Vec<usize> = selection.rows.lens().collect();
        let lens = self.upload_counts("lengths of the sequences", &lens)?;
        let (span_starts, page_table) = place.views();
        let mut freed = match &page_table {
            Some(table) => {
                Some(FreedPages { pages: self.cleared(table.len())?, count: self.output(1)? })
            }
            None => None,
        };
        let lists = KvLists {
            kept: selection.kept.view(),
            kept_lens: selection.kept_lens.view(),
            lens: lens.view(),
            span_starts,
            page_table,
        };
        let mut outputs = KvOutputs::default();
        if let Some(FreedPages { pages, count }) = &mut freed {
            outputs.freed = Some(pages.view_mut());
            outputs.freed_count = Some(count.view_mut());
        }
        kv(&self.stream, table, layers, &lists, &mut outputs, &mut self.status)?;
        Ok(freed)
    }
}

fn packed(row_bytes: &[usize]) -> Vec<RowShape> {
    row_bytes.iter().map(|&bytes| RowShape::packed(bytes)).collect()
}
