//! Caches in one piece.

use bytemuck::Pod;
use rayon::prelude::*;

use super::moves::{PARALLEL_BYTES, Place, move_down};
use crate::checks::check_len;
use crate::compact::check_spans;
use crate::error::{Error, Result};
use crate::layout::{Layout, is_disjoint, shared_places};
use crate::ragged::Span;
use crate::select::Selection;

/// Keys and values of one layer, both `[token, head, dim]` in one layout.
#[derive(Debug)]
pub struct KvMut<'a> {
    keys: &'a mut [u8],
    values: &'a mut [u8],
    element: usize,
    layout: Layout,
    spans: &'a [Span],
}

impl<'a> KvMut<'a> {
    /// Sequence `i` lies at tokens `spans[i]`. Spans may be in any order, with room between them.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if keys or values do not reach the end of the last span,
    /// [`Error::OutOfRange`] if spans overlap or strides give two elements one place,
    /// [`Error::Overflow`] if sizes do.
    pub fn new<T: Pod>(
        keys: &'a mut [T],
        values: &'a mut [T],
        layout: Layout,
        spans: &'a [Span],
    ) -> Result<Self> {
        check_shape::<T>(layout.heads, layout.dim)?;
        let tokens = check_spans(spans)?;
        layout.check("keys", tokens, keys.len())?;
        layout.check("values", tokens, values.len())?;
        let axes = [(tokens, layout.token_stride), (layout.heads, layout.head_stride)];
        // A buffer without tokens has no elements, whatever its strides.
        if tokens > 0 && !is_disjoint(layout.dim, axes) {
            return Err(shared_places(layout.token_stride));
        }
        let (keys, values) = (bytemuck::cast_slice_mut(keys), bytemuck::cast_slice_mut(values));
        Ok(Self { keys, values, element: size_of::<T>(), layout, spans })
    }
}

/// Moves the kept keys and values of all layers to the front of each sequence's span, with no
/// second buffer. One list per sequence serves all heads; with a list per KV head, each head's
/// survivors move on their own. The new lengths are [`Selection::kept_rows`]; what lies behind them
/// in a span is unspecified, and nothing outside the spans is touched.
///
/// # Errors
/// [`Error::LengthMismatch`] if a layer's spans are not as many and as long as the selection's
/// sequences, or its heads neither one nor as many as the selection's.
pub fn kv(selection: &Selection, layers: &mut [KvMut<'_>]) -> Result<()> {
    for layer in layers.iter() {
        check_heads(selection, layer.layout.heads)?;
        check_len("spans", selection.rows().batch(), layer.spans.len())?;
        for (span, len) in layer.spans.iter().zip(selection.rows().lens()) {
            check_len("tokens of a span", len, span.len)?;
        }
    }
    for_tensors(
        layers.iter_mut().flat_map(|KvMut { keys, values, element, layout, spans }| {
            [
                (&mut **keys, (*element, *layout, *spans)),
                (&mut **values, (*element, *layout, *spans)),
            ]
        }),
        |data, (element, layout, spans)| {
            let Layout { heads, dim, token_stride, head_stride } = layout;
            let lanes = Lanes::new(selection, heads, dim, token_stride, head_stride);
            let place = |token, lane| Place {
                offset: layout.offset(token, lane) * element,
                ahead: if lanes.end_to_end { usize::MAX } else { 1 },
            };
            for (sequence, span) in spans.iter().enumerate() {
                for lane in 0..lanes.count {
                    let list =
                        selection.row(sequence, if selection.heads() == 1 { 0 } else { lane });
                    let place = |token| place(span.start + token, lane);
                    move_down(data, list, lanes.unit * element, place, place);
                }
            }
        },
    );
    Ok(())
}

/// What moves as one: all heads of a token where they lie end to end and share a list, else each.
pub(super) struct Lanes {
    pub(super) count: usize,
    /// Elements of a token in a lane.
    pub(super) unit: usize,
    /// Whether a lane's tokens lie end to end.
    pub(super) end_to_end: bool,
}

impl Lanes {
    pub(super) fn new(
        selection: &Selection,
        heads: usize,
        dim: usize,
        token_stride: usize,
        head_stride: usize,
    ) -> Self {
        let together = selection.heads() == 1 && (heads == 1 || head_stride == dim);
        let (count, unit) = if together { (1, heads * dim) } else { (heads, dim) };
        Self { count, unit, end_to_end: token_stride == unit }
    }
}

/// Runs `work` on every tensor, in parallel where there are bytes enough.
pub(super) fn for_tensors<'a, P: Send>(
    tensors: impl Iterator<Item = (&'a mut [u8], P)>,
    work: impl Fn(&mut [u8], P) + Sync,
) {
    let tensors: Vec<_> = tensors.collect();
    let bytes: usize = tensors.iter().map(|(data, _)| data.len()).sum();
    let work = |(data, params)| work(data, params);
    if bytes < PARALLEL_BYTES {
        tensors.into_iter().for_each(work);
    } else {
        tensors.into_par_iter().for_each(work);
    }
}

pub(super) fn check_heads(selection: &Selection, heads: usize) -> Result<()> {
    match selection.heads() {
        1 => Ok(()),
        actual => check_len("heads of the selection", heads, actual),
    }
}

pub(super) fn check_shape<T>(heads: usize, dim: usize) -> Result<()> {
    for (what, value) in [("heads", heads), ("dim", dim), ("bytes of an element", size_of::<T>())] {
        if value == 0 {
            return Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ragged::Ragged;

    const SPANS: [Span; 3] =
        [Span { start: 7, len: 4 }, Span { start: 2, len: 0 }, Span { start: 1, len: 3 }];
    const TOKENS: usize = 12;

    fn layouts() -> [Layout; 4] {
        [
            Layout::token_major(2, 3),
            Layout::token_major(2, 32),
            Layout::head_major(2, 3, TOKENS),
            // Keys within a wider row.
            Layout { token_stride: 69, ..Layout::token_major(2, 32) },
        ]
    }

    fn lists(heads: usize) -> Selection {
        let rows = Ragged::from_lens(&[4, 0, 3]).unwrap();
        let all: [&[i32]; 6] = [&[0, 2, 3], &[1], &[], &[], &[1, 2], &[0, 2]];
        let lists: Vec<&[i32]> = all.into_iter().step_by(3 - heads).collect();
        Selection::from_lists(rows, heads, &lists).unwrap()
    }

    #[test]
    fn survivors_move_to_the_front_of_their_span_and_nothing_else_moves() {
        for layout in layouts() {
            for heads in [1, 2] {
                let selection = lists(heads);
                let (dim, len) = (layout.dim, layout.required_len(TOKENS).unwrap());
                let before: Vec<u16> = (0..len as u16).collect();
                let negative: Vec<u16> = before.iter().map(|x| u16::MAX - x).collect();
                let (mut keys, mut values) = (before.clone(), negative.clone());
                let (mut keys_1, mut values_1) = (before.clone(), negative.clone());
                let mut layers = [
                    KvMut::new(&mut keys, &mut values, layout, &SPANS).unwrap(),
                    KvMut::new(&mut keys_1, &mut values_1, layout, &SPANS).unwrap(),
                ];
                kv(&selection, &mut layers).unwrap();
                assert_eq!((&keys, &values), (&keys_1, &values_1));
                let mut free = vec![true; len];
                for (sequence, span) in SPANS.iter().enumerate() {
                    for head in 0..2 {
                        let list = selection.row(sequence, head * (heads - 1));
                        for (new, &old) in list.iter().enumerate() {
                            let to = layout.offset(span.start + new, head);
                            let from = layout.offset(span.start + old as usize, head);
                            assert_eq!(keys[to..to + dim], before[from..from + dim]);
                            assert_eq!(values[to..to + dim], negative[from..from + dim]);
                        }
                        for token in span.range() {
                            let offset = layout.offset(token, head);
                            free[offset..offset + dim].fill(false);
                        }
                    }
                }
                for i in (0..len).filter(|&i| free[i]) {
                    assert_eq!((keys[i], values[i]), (before[i], negative[i]));
                }
            }
        }
    }

    #[test]
    fn bad_layers_are_refused_before_anything_moves() {
        let layout = Layout::token_major(2, 3);
        let new = |layout, len: usize, spans| {
            KvMut::new(&mut [0u8; 72], &mut [0u8; 72][..len], layout, spans).map(|_| ())
        };
        assert!(new(layout, 72, &SPANS).is_ok());
        assert!(new(layout, 65, &SPANS).is_err());
        assert!(new(layout, 72, &[Span { start: 0, len: 4 }, Span { start: 3, len: 1 }]).is_err());
        assert!(new(layout, 72, &[Span { start: usize::MAX, len: 2 }]).is_err());
        assert!(new(Layout { token_stride: 5, ..layout }, 72, &SPANS).is_err());
        assert!(new(Layout { token_stride: usize::MAX, ..layout }, 72, &SPANS).is_err());
        assert!(new(Layout { dim: 0, ..layout }, 72, &SPANS).is_err());

        let before: Vec<u8> = (0..72).collect();
        let (mut keys, mut values) = (before.clone(), before.clone());
        let (mut keys_1, mut values_1) = (before.clone(), before.clone());
        let other =
            [Span { start: 7, len: 4 }, Span { start: 2, len: 0 }, Span { start: 1, len: 2 }];
        let mut layers = [
            KvMut::new(&mut keys, &mut values, layout, &SPANS).unwrap(),
            KvMut::new(&mut keys_1, &mut values_1, layout, &other).unwrap(),
        ];
        assert!(kv(&lists(1), &mut layers).is_err());
        let three = Selection::all(Ragged::from_lens(&[4, 0, 3]).unwrap(), 3).unwrap();
        assert!(kv(&three, &mut layers[..1]).is_err());
        assert_eq!((&keys, &values), (&before, &before));
    }
}
