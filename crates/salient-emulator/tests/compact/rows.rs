//! Rows.

use salient::Ragged;
use salient::kernels::compact::RowShape;
use salient::kernels::{Fault, Status};
use salient_emulator::{Emulated, RowsRun, UNWRITTEN};
use salient_oracle::compact::Kept;
use salient_oracle::generate::Random;

use crate::bytes;

fn tensor(shape: RowShape, rows: usize, seed: u64) -> Vec<u8> {
    bytes(if rows == 0 { 0 } else { (rows - 1) * shape.src_stride + shape.row_bytes }, seed)
}

/// Rows of every width, stride and alignment, sixteen tensors in one launch.
#[test]
fn sixteen_tensors_of_any_shape_in_one_launch() {
    let widths = [1, 2, 3, 4, 8, 12, 16, 24, 33, 64, 100, 256, 520, 2048, 4112, 8192];
    let source = Ragged::from_lens(&[30, 0, 1, 47, 12]).unwrap();
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
        let sources: Vec<_> =
            tensors.iter().map(|tensor| (&tensor[..], [0, 0, 1, 4, 8][random.below(5)])).collect();
        let sizes = shapes.map(|shape| match rows.len() {
            0 => 0,
            kept => (kept - 1) * shape.dst_stride + shape.row_bytes,
        });
        for capability in [80, 90] {
            let on = Emulated { seed, capability, ..Emulated::default() };
            let device = on.device();
            let run = RowsRun::new(&device, &kept, 2, &shapes).unwrap();
            let gathered = run.gather(&device, false, &sources, &sizes).unwrap();
            let in_place = run.in_place(&device, false, &sources).unwrap();
            for outputs in [&gathered, &in_place] {
                assert_eq!((outputs.status, outputs.launched.len()), (Status::CLEAR, 1));
            }
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
    }
}

#[test]
fn the_same_every_time() {
    let source = Ragged::from_lens(&[200, 3]).unwrap();
    let mut random = Random::new(5);
    let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.6)).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let shape = RowShape::packed(96);
    let data = tensor(shape, source.total(), 1);
    let run = |seed| {
        let device = Emulated { seed, ..Emulated::default() }.device();
        let run = RowsRun::new(&device, &kept, 0, &[shape]).unwrap();
        let moved = run.in_place(&device, false, &[(&data, 0)]).unwrap();
        (run.gather(&device, false, &[(&data, 0)], &[96 * kept.rows().len()]).unwrap(), moved)
    };
    let first = run(0);
    for seed in 1..=20 {
        assert!(run(seed) == first, "seed {seed}: not the same");
    }
}

/// Many short sequences, more than a block has threads.
#[test]
fn many_sequences() {
    let source = Ragged::from_lens(&(0..700).map(|i| i % 4).collect::<Vec<_>>()).unwrap();
    let mut random = Random::new(9);
    let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.6)).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let shape = RowShape::packed(20);
    let data = tensor(shape, source.total(), 2);
    let device = Emulated::default().device();
    let run = RowsRun::new(&device, &kept, 0, &[shape]).unwrap();
    let expected: Vec<u8> =
        kept.rows().iter().flat_map(|&row| data[row * 20..][..20].to_vec()).collect();
    let outputs = run.gather(&device, false, &[(&data, 0)], &[expected.len()]).unwrap();
    assert!(outputs.tensors[0] == expected && outputs.status == Status::CLEAR);
    let outputs = run.in_place(&device, false, &[(&data, 0)]).unwrap();
    assert!(outputs.tensors[0][..expected.len()] == expected && outputs.status == Status::CLEAR);
}

/// Entries that are no token of their sequence: reported, their row is not written, and every other
/// moves as the list says.
#[test]
fn garbage_is_reported_and_contained() {
    for seed in 0..40 {
        garbage_moves_nothing_astray(&Emulated { seed, ..Emulated::default() }, seed);
    }
}

pub(crate) fn garbage_moves_nothing_astray(on: &Emulated, seed: u64) {
    let mut random = Random::new(seed);
    let source = Ragged::from_lens(&[60, 0, 9, 40]).unwrap();
    let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.5)).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let shape = RowShape::packed(48);
    let data = tensor(shape, source.total(), seed);
    let device = on.device();
    let mut run = RowsRun::new(&device, &kept, 1, &[shape]).unwrap();
    let mut entries = run.kept.read();
    for entry in &mut entries {
        let any = [-1, i32::MIN, i32::MAX, 8, 9, 40, 59, 60, random.below(70) as i32];
        if random.once_in(6) {
            *entry = any[random.below(any.len())];
        }
    }
    run.kept.write(&entries);
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
    let mutated = on.mutant.is_some();
    let gathered = run.gather(&device, mutated, &[(&data, 0)], &[apart.len()]).unwrap();
    assert!(gathered.tensors[0] == apart, "seed {seed}");
    flags(gathered.status, false);
    let in_place = run.in_place(&device, mutated, &[(&data, 0)]).unwrap();
    assert!(in_place.tensors[0] == front, "seed {seed}: in place");
    flags(in_place.status, up);
}

/// Lengths and offsets that cannot be: reported, and nothing outside the destination is written.
#[test]
fn lengths_that_cannot_be_are_reported() {
    let source = Ragged::from_lens(&[20, 7, 40]).unwrap();
    let lists: Vec<Vec<i32>> = [20, 7, 40].map(|len| (0..len).step_by(2).collect()).to_vec();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let shape = RowShape::packed(16);
    let data = tensor(shape, source.total(), 3);
    let bad = [-1, i32::MIN, i32::MAX, 100];
    type Field = fn(&mut RowsRun) -> &mut salient_emulator::Buffer<i32>;
    let fields: [(Field, usize); 3] = [
        (|run| &mut run.kept_lens, 1),
        (|run| &mut run.cu_kept, 2),
        (|run| &mut run.cu_seqlens, 2),
    ];
    for (field, last) in fields {
        for at in 0..=last {
            for value in bad {
                let outputs = [0, 1].map(|seed| {
                    let device = Emulated { seed, ..Emulated::default() }.device();
                    let mut run = RowsRun::new(&device, &kept, 0, &[shape]).unwrap();
                    let mut values = field(&mut run).read();
                    values[at] = value;
                    field(&mut run).write(&values);
                    let size = 16 * kept.rows().len();
                    let gathered = run.gather(&device, false, &[(&data, 0)], &[size]).unwrap();
                    let in_place = run.in_place(&device, false, &[(&data, 0)]).unwrap();
                    // An offset lies between two sequences.
                    let row = at.saturating_sub(last - 1);
                    for status in [gathered.status, in_place.status] {
                        assert!(status.has(Fault::Lengths), "{at} = {value}: {status}");
                        assert_eq!(status.row(), Some(row), "{at} = {value}: {status}");
                    }
                    (gathered, in_place)
                });
                assert!(outputs[0] == outputs[1], "{at} = {value}: not the same");
            }
        }
    }
}
