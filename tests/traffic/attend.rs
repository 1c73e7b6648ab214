//! **attend**.

use half::bf16;
use salient::attend::{Attention, RowLimit};
use salient::cuda::DeviceElement;
use salient::dtype::F8E4M3;
use salient::kernels::attend::PrefillVariant;
use salient::kernels::select::Variant;
use salient::{DType, Layout, Ragged, Result, Span, Status, View};

use crate::device::Device;
use crate::runs::attend::PrefillRun;
use crate::runs::problem::{Decoding, values};
use crate::{Counting, counting};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// Queries once, keys and values once for every tile of queries that sees them: those up to its
/// last one. Tiles that the copy engine brings are whole, with zeros where the tensor ends.
#[test]
fn keys_and_values_are_read_once_per_tile_of_queries() {
    counting("keys_and_values_are_read_once_per_tile_of_queries", |on| {
        // Channels; queries and keys per tile.
        let sm80 = [(64, 128, 1), (96, 128, 1), (128, 128, 1), (256, 64, 1)];
        let sm90 = [(64, 128, 128), (96, 128, 128), (128, 128, 128), (256, 128, 80)];
        check_prefill(on, PrefillVariant::Sm80, &sm80)?;
        if on.device.generation()? == 9 {
            check_prefill(on, PrefillVariant::Sm90, &sm90)?;
        }
        Ok(())
    });
}

fn check_prefill(
    on: &Counting<'_>,
    prefill: PrefillVariant,
    tiles: &[(usize, usize, usize)],
) -> Result<()> {
    let len = 300;
    for &(dim, rows, keys) in tiles {
        let values: Vec<bf16> = values(len * HEADS * dim, 1);
        let q = View::token_major(&values[..], HEADS, dim);
        let kv = View::token_major(&values[..len * KV_HEADS * dim], KV_HEADS, dim);
        let spans = [Span { start: 0, len }];
        let (queries, attention) = (Ragged::from_lens(&[len])?, Attention::new(0.1));
        let out = (Layout::token_major(HEADS, dim), DType::Bf16);
        let (solved, launched) = on.launches(|_| {
            let device = Device { prefill, ..Device::new(Variant::Auto)? };
            let keys = (kv, kv, &spans[..]);
            let causal = RowLimit::Causal;
            let run = PrefillRun::new(&device, q, &queries, keys, causal, &attention, out)?;
            run.launch(&device, &vec![bf16::ZERO; values.len()])
        })?;
        solved.status.check()?;
        let [launched] = &launched[..] else { panic!("one launch") };
        let context = format!("{prefill:?}, {dim} channels");
        let seen = |first: usize| (first + rows).next_multiple_of(keys).min(len);
        let seen = (0..len).step_by(rows).map(seen).sum::<usize>() * HEADS;
        let row = 2 * dim as u64;
        let of = |name| launched.buffer(&solved.places, name);
        if keys == 1 {
            for (name, tokens) in [("q", len * HEADS), ("k", seen), ("v", seen)] {
                assert_eq!(of(name).read, tokens as u64 * row, "{context}: {name}");
                of(name).assert_whole_sectors(&format!("{context}: {name}"));
            }
        } else {
            // By the copy engine, which tells no buffers apart and counts whole boxes.
            let tiles = (0..len).step_by(rows);
            let boxes = |first: usize| (first + rows).min(len).next_multiple_of(keys);
            let fetched = tiles.map(|first| rows + 2 * boxes(first)).sum::<usize>() * HEADS;
            let least = fetched as u64 * row;
            // Of 96 channels some boxes have 128.
            let most = if dim == 96 { least * 4 / 3 } else { least };
            let read = of("q").read + of("k").read + of("v").read + launched.count("bulk_loaded");
            assert!((least..=most).contains(&read), "{context}: {read} for {least}");
        }
        let written = of("out").written + launched.count("bulk_stored");
        assert_eq!(written, values.len() as u64 * 2, "{context}");
        of("out").assert_whole_sectors(&context);
        launched.assert_few_conflicts(&context);
    }
    Ok(())
}

/// Each listed row once, in whole sectors, and little else.
#[test]
fn listed_rows_are_read_once() {
    counting("listed_rows_are_read_once", |on| {
        for (dim, group, page_size, share) in [
            (64, 4, 0, 0.3),
            (96, 1, 0, 0.5),
            (128, 8, 16, 0.5),
            (128, 16, 1, 1.0),
            (256, 4, 5, 0.5),
            (256, 12, 0, 0.3),
        ] {
            let problem = Decoding::<bf16>::new(&[700, 40], share, group, dim, page_size);
            check_decode(on, &problem, &[700, 40])?;
        }
        Ok(())
    });
}

/// The same of fp8: a byte for each element.
#[test]
fn listed_rows_of_fp8_are_read_once() {
    counting("listed_rows_of_fp8_are_read_once", |on| {
        for (dim, group, page_size, share) in [
            (64, 4, 0, 0.3),
            (96, 1, 0, 0.5),
            (128, 8, 16, 0.5),
            (128, 16, 1, 1.0),
            (256, 12, 5, 0.5),
        ] {
            let problem = Decoding::<bf16, F8E4M3>::new(&[700, 40], share, group, dim, page_size);
            check_decode(on, &problem, &[700, 40])?;
        }
        Ok(())
    });
}

fn check_decode<C: DeviceElement + Default>(
    on: &Counting<'_>,
    problem: &Decoding<bf16, C>,
    lens: &[usize],
) -> Result<()> {
    let (solved, launched) = on.launches(|device| problem.solve(device, 0))?;
    assert_eq!(solved.status, Status::CLEAR);
    let Decoding { dim, group, page_size, .. } = *problem;
    let context = format!("{:?}, dim {dim}, group {group}, pages of {page_size}", C::DTYPE);
    let listed: usize = problem.lists.iter().map(Vec::len).sum();
    let of = |launch: usize, name| launched[launch].buffer(&solved.places, name);
    for name in ["k", "v"] {
        assert_eq!(of(0, name).read, (listed * dim * size_of::<C>()) as u64, "{context}: {name}");
        of(0, name).assert_whole_sectors(&format!("{context}: {name}"));
    }
    // With every step its entries and the one before them.
    let entries = of(0, "kept").read as usize;
    assert!(entries <= listed * 4 * 17 / 16 + 4 * 4 * 40, "{context}: {entries} of {listed}");
    launched[0].assert_few_conflicts(&context);
    let longest = problem.lists.iter().map(Vec::len).max().expect("lists of each head");
    let splits = if longest > 256 { 2 } else { 1 };
    assert_eq!(launched.len(), splits, "{context}");
    let rows = lens.len() * problem.heads();
    assert_eq!(of(splits - 1, "out").written as usize, rows * dim * 4, "{context}");
    if splits == 2 {
        // Only parts that have keys are written and read.
        let parts: usize = problem.lists.iter().map(|list| list.len().div_ceil(256)).sum();
        let written = of(0, "workspace").written as usize;
        assert_eq!(written, parts * group * (dim + 2) * 4, "{context}");
    }
    Ok(())
}
