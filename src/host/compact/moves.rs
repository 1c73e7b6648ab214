//! Bytes from one place to another.

use crate::select::Selection;

/// Bytes below which another thread costs more than it saves, and the size of a thread's piece.
pub(super) const PARALLEL_BYTES: usize = 1 << 18;

/// Where a token lies.
pub(super) struct Place {
    /// Its first byte.
    pub(super) offset: usize,
    /// How many tokens from it on, itself included, lie end to end.
    pub(super) ahead: usize,
}

/// Copies packed kept rows, from `first` until `dst` is full, out of `src`.
pub(super) fn gather(
    selection: &Selection,
    first: usize,
    row_bytes: usize,
    src: &[u8],
    dst: &mut [u8],
) {
    match row_bytes {
        1 => gather_narrow::<1>(selection, first, src, dst),
        2 => gather_narrow::<2>(selection, first, src, dst),
        4 => gather_narrow::<4>(selection, first, src, dst),
        8 => gather_narrow::<8>(selection, first, src, dst),
        16 => gather_narrow::<16>(selection, first, src, dst),
        _ => for_lists(selection, first, dst.len() / row_bytes, |start, list, at| {
            for Run { from, to, len } in Runs::of(list) {
                let src = &src[(start + from) * row_bytes..][..len * row_bytes];
                dst[(at + to) * row_bytes..][..len * row_bytes].copy_from_slice(src);
            }
        }),
    }
}

/// Moves the tokens of an ascending `list` down, the `i`-th from place `from(list[i])` to place
/// `to(i)`, each `unit` bytes. No place `to(i)` may hold a later token of the list.
pub(super) fn move_down(
    data: &mut [u8],
    list: &[i32],
    unit: usize,
    from: impl Fn(usize) -> Place,
    to: impl Fn(usize) -> Place,
) {
    match unit {
        4 => move_lines::<4>(data, list, unit, from, to),
        8 => move_lines::<8>(data, list, unit, from, to),
        64..1024 if unit.is_multiple_of(64) => move_lines::<64>(data, list, unit, from, to),
        _ => move_runs(data, list, unit, from, to),
    }
}

/// For many tokens of few bytes: no calls, and nothing branches on the list.
fn move_lines<const BYTES: usize>(
    data: &mut [u8],
    list: &[i32],
    unit: usize,
    from: impl Fn(usize) -> Place,
    to: impl Fn(usize) -> Place,
) {
    for (i, &token) in list.iter().enumerate() {
        let (src, dst) = (from(token as usize).offset, to(i).offset);
        for at in (0..unit).step_by(BYTES) {
            let mut line = [0; BYTES];
            line.copy_from_slice(&data[src + at..][..BYTES]);
            data[dst + at..][..BYTES].copy_from_slice(&line);
        }
    }
}

/// For tokens of any size: adjacent ones in one call.
fn move_runs(
    data: &mut [u8],
    list: &[i32],
    unit: usize,
    from: impl Fn(usize) -> Place,
    to: impl Fn(usize) -> Place,
) {
    for run in Runs::of(list) {
        let mut moved = 0;
        while moved < run.len {
            let (src, dst) = (from(run.from + moved), to(run.to + moved));
            let len = (run.len - moved).min(src.ahead).min(dst.ahead);
            if src.offset != dst.offset {
                data.copy_within(src.offset..src.offset + len * unit, dst.offset);
            }
            moved += len;
        }
    }
}

/// For a row so narrow that a call to copy it would cost more than the copy.
fn gather_narrow<const BYTES: usize>(
    selection: &Selection,
    first: usize,
    src: &[u8],
    dst: &mut [u8],
) {
    let (src, dst) = (src.as_chunks::<BYTES>().0, dst.as_chunks_mut::<BYTES>().0);
    for_lists(selection, first, dst.len(), |start, list, at| {
        let src = &src[start..];
        for (dst, &token) in dst[at..].iter_mut().zip(list) {
            *dst = src[token as usize];
        }
    });
}

/// Visits `count` packed kept rows from `first` on, sequence by sequence: the sequence's first
/// source row, its list, and how many rows were visited before.
fn for_lists(
    selection: &Selection,
    first: usize,
    count: usize,
    mut visit: impl FnMut(usize, &[i32], usize),
) {
    let (rows, kept_rows) = (selection.rows(), selection.kept_rows());
    let mut at = first;
    let mut sequence = kept_rows.cu_seqlens().partition_point(|&row| row as usize <= first) - 1;
    while at < first + count {
        let end = kept_rows.span(sequence).end().min(first + count);
        if at < end {
            visit(rows.span(sequence).start, &selection.kept()[at..end], at - first);
        }
        at = end;
        sequence += 1;
    }
}

/// Adjacent tokens that move together.
struct Run {
    from: usize,
    to: usize,
    len: usize,
}

struct Runs<'a> {
    list: &'a [i32],
    at: usize,
}

impl<'a> Runs<'a> {
    fn of(list: &'a [i32]) -> Self {
        Self { list, at: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let rest = &self.list[self.at..];
        let &first = rest.first()?;
        let len = 1 + rest.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count();
        let run = Run { from: first as usize, to: self.at, len };
        self.at += len;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_list() {
        let list = [0, 1, 2, 5, 7, 8, i32::MAX];
        let runs: Vec<_> = Runs::of(&list).map(|run| (run.from, run.to, run.len)).collect();
        assert_eq!(runs, [(0, 0, 3), (5, 3, 1), (7, 4, 2), (i32::MAX as usize, 6, 1)]);
        assert!(Runs::of(&[]).next().is_none());
    }
}
