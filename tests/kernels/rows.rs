//! **compact**: rows.

use salient::compact::RowShape;
use salient::{Fault, Ragged, Status};
use salient_oracle::compact::Kept;
use salient_oracle::generate::Random;

use crate::device::Upload;
use crate::place::on_device;
use crate::runs::compact::{RowsRun, UNWRITTEN};
use crate::runs::random_bytes;
use crate::{device, same_in_any_order};

fn tensor(shape: RowShape, rows: usize, seed: u64) -> Vec<u8> {
    random_bytes(if rows == 0 { 0 } else { (rows - 1) * shape.src_stride + shape.row_bytes }, seed)
}

/// Rows of every width, stride and alignment, sixteen tensors in one launch.
#[test]
fn sixteen_tensors_of_any_shape_in_one_launch() {
    on_device("sixteen_tensors_of_any_shape_in_one_launch", || {
        let device = device()?;
        let widths = [1, 2, 3, 4, 8, 12, 16, 24, 33, 64, 100, 256, 520, 2048, 4112, 8192];
        let source = Ragged::from_lens(&[30, 0, 1, 47, 12])?;
        for (seed, share) in [(0, 0.0), (1, 0.3), (2, 0.7), (3, 1.0)] {
            let mut random = Random::new(seed);
            let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, share)).collect();
            let kept = Kept { source: &source, heads: 1, lists: &lists };
            let rows = kept.rows();
            let shapes = widths.map(|row_bytes| RowShape {
                row_bytes,
                src_stride: row_bytes + [0, 0, 1, 16][random.below(4)],
                dst_stride: row_bytes + [0, 0, 2, 32][random.below(4)],
            });
            let tensors = shapes.map(|shape| tensor(shape, source.total(), seed));
            let skips = tensors.each_ref().map(|_| [0, 0, 1, 4, 8][random.below(5)]);
            let sources: Vec<_> = tensors.iter().map(Vec::as_slice).zip(skips).collect();
            let sizes = shapes.map(|shape| match rows.len() {
                0 => 0,
                kept => (kept - 1) * shape.dst_stride + shape.row_bytes,
            });
            let run = RowsRun::new(&device, &kept, 2, &shapes)?;
            let gathered = run.gather(&device, &sources, &sizes)?;
            let in_place = run.in_place(&device, &sources)?;
            assert_eq!([gathered.status, in_place.status], [Status::CLEAR; 2]);
            for (t, shape) in shapes.iter().enumerate() {
                let mut apart = vec![UNWRITTEN; sizes[t]];
                let mut front = tensors[t].clone();
                for (to, &from) in rows.iter().enumerate() {
                    let row = &tensors[t][from * shape.src_stride..][..shape.row_bytes];
                    apart[to * shape.dst_stride..][..row.len()].copy_from_slice(row);
                    front[to * shape.src_stride..][..row.len()].copy_from_slice(row);
                }
                assert!(gathered.tensors[t] == apart, "seed {seed}: {shape:?}");
                assert!(in_place.tensors[t] == front, "seed {seed}: in place: {shape:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    same_in_any_order("rows", || {
        let device = device()?;
        let source = Ragged::from_lens(&[200, 3])?;
        let mut random = Random::new(5);
        let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.6)).collect();
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let shape = RowShape::packed(96);
        let data = tensor(shape, source.total(), 1);
        let run = RowsRun::new(&device, &kept, 0, &[shape])?;
        let moved = run.in_place(&device, &[(&data, 0)])?;
        let gathered = run.gather(&device, &[(&data, 0)], &[96 * kept.rows().len()])?;
        Ok([(moved.tensors, moved.status), (gathered.tensors, gathered.status)])
    });
}

/// Many short sequences, more than a block has threads.
#[test]
fn many_sequences() {
    on_device("many_sequences", || {
        let device = device()?;
        let source = Ragged::from_lens(&(0..700).map(|i| i % 4).collect::<Vec<_>>())?;
        let mut random = Random::new(9);
        let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.6)).collect();
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let shape = RowShape::packed(20);
        let data = tensor(shape, source.total(), 2);
        let run = RowsRun::new(&device, &kept, 0, &[shape])?;
        let expected: Vec<u8> =
            kept.rows().iter().flat_map(|&row| data[row * 20..][..20].to_vec()).collect();
        let moved = run.gather(&device, &[(&data, 0)], &[expected.len()])?;
        assert!(moved.tensors[0] == expected && moved.status == Status::CLEAR);
        let moved = run.in_place(&device, &[(&data, 0)])?;
        assert!(moved.tensors[0][..expected.len()] == expected && moved.status == Status::CLEAR);
        Ok(())
    });
}

/// Entries that are no token of their sequence: reported, their row is not written, and every other
/// moves as the list says.
#[test]
fn garbage_is_reported_and_contained() {
    on_device("garbage_is_reported_and_contained", || {
        let device = device()?;
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let source = Ragged::from_lens(&[60, 0, 9, 40])?;
            let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.5)).collect();
            let kept = Kept { source: &source, heads: 1, lists: &lists };
            let shape = RowShape::packed(48);
            let data = tensor(shape, source.total(), seed);
            let mut run = RowsRun::new(&device, &kept, 1, &[shape])?;
            let mut entries = run.kept.read()?;
            for entry in &mut entries {
                let any = [-1, i32::MIN, i32::MAX, 8, 9, 40, 59, 60, random.below(70) as i32];
                if random.once_in(6) {
                    *entry = any[random.below(any.len())];
                }
            }
            run.kept.write(&entries)?;
            let capacity = entries.len() / 4;
            let (mut index, mut order, mut up, mut lowest) = (false, false, false, None);
            let row = |at: usize| data[at * 48..][..48].to_vec();
            let (mut apart, mut front) = (Vec::new(), data.clone());
            for (b, span) in source.spans().enumerate() {
                let list = &entries[b * capacity..][..lists[b].len()];
                for (i, &token) in list.iter().enumerate() {
                    let inside = (0..span.len as i32).contains(&token);
                    let behind = inside && i > 0 && token <= list[i - 1];
                    index |= !inside;
                    order |= behind;
                    if !inside || behind {
                        lowest = lowest.or(Some(b));
                    }
                    let to = apart.len() / 48;
                    let from = span.start + token.max(0) as usize;
                    apart.extend(if inside { row(from) } else { vec![UNWRITTEN; 48] });
                    if inside && from >= to {
                        front[to * 48..][..48].copy_from_slice(&row(from));
                    }
                    up |= inside && from < to;
                }
            }
            let flags = |status: Status, up: bool| {
                let expected = [(Fault::Index, index), (Fault::Order, order), (Fault::Lengths, up)];
                for (fault, expected) in expected {
                    assert_eq!(status.has(fault), expected, "seed {seed}: {status}");
                }
                assert_eq!(status.row(), lowest, "seed {seed}: {status}");
            };
            let gathered = run.gather(&device, &[(&data, 0)], &[apart.len()])?;
            assert!(gathered.tensors[0] == apart, "seed {seed}");
            flags(gathered.status, false);
            let in_place = run.in_place(&device, &[(&data, 0)])?;
            assert!(in_place.tensors[0] == front, "seed {seed}: in place");
            flags(in_place.status, up);
        }
        Ok(())
    });
}

/// Invalid lengths and offsets: reported, always the same is moved, and nothing outside the
/// destination is written.
#[test]
fn lengths_that_cannot_be_are_reported() {
    type Field = fn(&mut RowsRun) -> &mut Upload<i32>;
    let fields: [(Field, usize); 3] = [
        (|run| &mut run.kept_lens, 1),
        (|run| &mut run.cu_kept, 2),
        (|run| &mut run.cu_seqlens, 2),
    ];
    on_device("lengths_that_cannot_be_are_reported", || {
        let device = device()?;
        let source = Ragged::from_lens(&[20, 7, 40])?;
        let lists: Vec<Vec<i32>> = [20, 7, 40].map(|len| (0..len).step_by(2).collect()).to_vec();
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let shape = RowShape::packed(16);
        let data = tensor(shape, source.total(), 3);
        for (field, last) in fields {
            for at in 0..=last {
                for value in [-1, i32::MIN, i32::MAX, 100] {
                    let mut moved = Vec::new();
                    for _ in 0..2 {
                        let mut run = RowsRun::new(&device, &kept, 0, &[shape])?;
                        field(&mut run).put(at, value)?;
                        let size = 16 * kept.rows().len();
                        let gathered = run.gather(&device, &[(&data, 0)], &[size])?;
                        let in_place = run.in_place(&device, &[(&data, 0)])?;
                        // An offset lies between two sequences.
                        let row = at.saturating_sub(last - 1);
                        for status in [gathered.status, in_place.status] {
                            assert!(status.has(Fault::Lengths), "{at} = {value}: {status}");
                            assert_eq!(status.row(), Some(row), "{at} = {value}: {status}");
                        }
                        moved.push([gathered.tensors, in_place.tensors]);
                    }
                    assert!(moved[0] == moved[1], "{at} = {value}: not the same");
                }
            }
        }
        Ok(())
    });
}
