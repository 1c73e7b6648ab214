//! Paged caches.

use bytemuck::Pod;

use super::kv::{Lanes, check_heads, check_shape, for_tensors};
use super::moves::{Place, move_down};
use crate::checks::check_len;
use crate::compact::used_pages;
use crate::error::{Error, Result};
use crate::layout::{PagedLayout, is_disjoint, shared_places};
use crate::select::Selection;

/// The pools of keys and values of one layer, both in one layout.
#[derive(Debug)]
pub struct PagedKvMut<'a> {
    keys: &'a mut [u8],
    values: &'a mut [u8],
    element: usize,
    layout: PagedLayout,
    /// How many pages both pools hold.
    pages: usize,
}

impl<'a> PagedKvMut<'a> {
    /// Pools of as many pages as the shorter slice holds.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a page is empty or strides give two elements one place,
    /// [`Error::Overflow`] if sizes do.
    pub fn new<T: Pod>(
        keys: &'a mut [T],
        values: &'a mut [T],
        layout: PagedLayout,
    ) -> Result<Self> {
        check_shape::<T>(layout.heads, layout.dim)?;
        let PagedLayout { page_size, heads, dim, page_stride, token_stride, head_stride } = layout;
        if page_size == 0 {
            return Err(Error::OutOfRange {
                what: "page size",
                value: 0.0,
                expected: "at least 1",
            });
        }
        let pages = layout.pages(keys.len().min(values.len()));
        let pages = pages.ok_or(Error::Overflow { what: "a page" })?;
        let axes = [(pages, page_stride), (page_size, token_stride), (heads, head_stride)];
        if !is_disjoint(dim, axes) {
            return Err(shared_places(token_stride));
        }
        let (keys, values) = (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
        Ok(Self { keys, values, element: size_of::<T>(), layout, pages })
    }
}

/// Moves the kept keys and values of all layers to the front pages of each sequence, with no second
/// buffer, and returns the pages that hold no token any more, in the order of the table. All layers
/// share one page table, `[batch, max_pages]`, and one page size; entries behind a sequence's last
/// page are not looked at.
///
/// One list per sequence serves all heads; with a list per KV head each head's survivors move on
/// their own, and a page is free when no head needs it. Without layers nothing is freed. The new
/// lengths are [`Selection::kept_rows`]; what lies behind them is unspecified.
///
/// # Errors
/// [`Error::LengthMismatch`] if the table does not divide into the selection's sequences, a
/// sequence is longer than its pages, the layers' page sizes differ, or a layer's heads are neither
/// one nor as many as the selection's; [`Error::IndexOutOfBounds`] for a page outside a pool,
/// [`Error::OutOfRange`] for one that is used twice.
pub fn kv_paged(
    selection: &Selection,
    page_table: &[i32],
    layers: &mut [PagedKvMut<'_>],
) -> Result<Vec<i32>> {
    let Some(first) = layers.first() else {
        return Ok(Vec::new());
    };
    let page_size = first.layout.page_size;
    for layer in layers.iter() {
        check_heads(selection, layer.layout.heads)?;
        check_len("page size", page_size, layer.layout.page_size)?;
    }
    let pool = layers.iter().map(|layer| layer.pages).min().unwrap_or(0);
    let sequences = used_pages(selection.rows(), page_table, page_size, pool)?;

    for_tensors(
        layers.iter_mut().flat_map(|PagedKvMut { keys, values, element, layout, .. }| {
            [(&mut **keys, (*element, *layout)), (&mut **values, (*element, *layout))]
        }),
        |data, (element, layout)| {
            let PagedLayout { heads, dim, token_stride, head_stride, .. } = layout;
            let lanes = Lanes::new(selection, heads, dim, token_stride, head_stride);
            for (sequence, pages) in sequences.iter().enumerate() {
                for lane in 0..lanes.count {
                    let list =
                        selection.row(sequence, if selection.heads() == 1 { 0 } else { lane });
                    let place = |token| {
                        let (page, slot) = (pages[token / page_size] as usize, token % page_size);
                        Place {
                            offset: layout.offset(page, slot, lane) * element,
                            ahead: if lanes.end_to_end { page_size - slot } else { 1 },
                        }
                    };
                    move_down(data, list, lanes.unit * element, place, place);
                }
            }
        },
    );

    let mut freed = Vec::new();
    for (sequence, pages) in sequences.iter().enumerate() {
        let longest = (0..selection.heads()).map(|head| selection.row(sequence, head).len()).max();
        let needed = longest.unwrap_or(0).div_ceil(page_size);
        freed.extend_from_slice(&pages[needed..]);
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ragged::Ragged;

    const POOL: usize = 9;
    const TABLE: [i32; 12] = [4, 1, 7, -1, -1, -1, -1, -1, 8, 0, 2, 3];

    fn selection(heads: usize) -> Selection {
        let rows = Ragged::from_lens(&[8, 0, 10]).unwrap();
        let all: [&[i32]; 6] = [&[0, 1, 4, 5, 6, 7], &[7], &[], &[], &[2, 9], &[3, 4, 5, 6]];
        let lists: Vec<&[i32]> = all.into_iter().step_by(3 - heads).collect();
        Selection::from_lists(rows, heads, &lists).unwrap()
    }

    fn layouts() -> [PagedLayout; 4] {
        [
            PagedLayout::nhd(3, 2, 5),
            PagedLayout::hnd(3, 2, 5),
            PagedLayout::hnd(3, 2, 8),
            // Pages of several layers side by side.
            PagedLayout { page_stride: 70, ..PagedLayout::nhd(3, 2, 5) },
        ]
    }

    #[test]
    fn survivors_move_to_the_front_pages_and_the_rest_is_freed() {
        for layout in layouts() {
            for (heads, freed) in [(1, [7, 0, 2, 3].as_slice()), (2, &[7, 2, 3])] {
                let selection = selection(heads);
                let (dim, len) = (layout.dim, layout.required_len(POOL).unwrap());
                let before: Vec<f64> = (0..len).map(|i| i as f64).collect();
                let negative: Vec<f64> = before.iter().map(|x| -x).collect();
                let (mut keys, mut values) = (before.clone(), negative.clone());
                let mut layers = [PagedKvMut::new(&mut keys, &mut values, layout).unwrap()];
                assert_eq!(kv_paged(&selection, &TABLE, &mut layers).unwrap(), freed);
                for sequence in 0..3 {
                    for head in 0..2 {
                        let offset = |token: usize| {
                            let page = TABLE[sequence * 4 + token / 3] as usize;
                            layout.offset(page, token % 3, head)
                        };
                        let list = selection.row(sequence, head * (heads - 1));
                        for (new, &old) in list.iter().enumerate() {
                            let (to, from) = (offset(new), offset(old as usize));
                            assert_eq!(keys[to..to + dim], before[from..from + dim]);
                            assert_eq!(values[to..to + dim], negative[from..from + dim]);
                        }
                    }
                }
                for page in [5, 6] {
                    for slot in 0..3 {
                        let at = layout.offset(page, slot, 0);
                        assert_eq!(keys[at..at + dim], before[at..at + dim]);
                    }
                }
            }
        }
    }

    #[test]
    fn bad_tables_and_pools_are_refused_before_anything_moves() {
        let layout = PagedLayout::nhd(3, 2, 5);
        let before: Vec<u32> = (0..270).collect();
        let (mut keys, mut values) = (before.clone(), before.clone());
        let mut layers = [PagedKvMut::new(&mut keys, &mut values, layout).unwrap()];
        let with = |at: usize, page: i32| {
            let mut table = TABLE;
            table[at] = page;
            table
        };
        for table in [with(1, 9), with(1, -1), with(1, 4), with(8, 7)] {
            assert!(kv_paged(&selection(1), &table, &mut layers).is_err(), "{table:?}");
        }
        assert!(kv_paged(&selection(1), &TABLE[..11], &mut layers).is_err());
        assert!(kv_paged(&selection(1), &TABLE[..9], &mut layers).is_err());
        let three = Selection::all(Ragged::from_lens(&[8, 0, 10]).unwrap(), 3).unwrap();
        assert!(kv_paged(&three, &TABLE, &mut layers).is_err());
        let (mut small, mut small_1) = (vec![0u32; 240], vec![0u32; 270]);
        let [layer] = layers;
        let mut layers = [layer, PagedKvMut::new(&mut small, &mut small_1, layout).unwrap()];
        assert!(kv_paged(&selection(1), &TABLE, &mut layers).is_err());
        assert_eq!((&keys, &values), (&before, &before));

        let new = |layout| PagedKvMut::new(&mut [0u8; 270], &mut [0u8; 270], layout).map(|_| ());
        assert!(new(layout).is_ok());
        assert!(new(PagedLayout { page_size: 0, ..layout }).is_err());
        assert!(new(PagedLayout { page_stride: 29, ..layout }).is_err());
        assert!(new(PagedLayout { head_stride: 0, ..layout }).is_err());
        assert!(new(PagedLayout { token_stride: usize::MAX, ..layout }).is_err());
    }
}
