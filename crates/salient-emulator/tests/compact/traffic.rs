//! What a compaction reads and writes, beside the least that it could.

use salient::Ragged;
use salient::kernels::compact::{KvMode, RowShape};
use salient_emulator::{BufferTraffic, Emulated, Launched, Requests, RowsRun};
use salient_oracle::compact::Kept;
use salient_oracle::generate::Random;

use crate::bytes;
use crate::caches::{Caches, Form};

fn counting() -> Emulated {
    Emulated { counting: true, ..Emulated::default() }
}

/// Bytes of everything over the least.
fn ratio(launched: &[Launched], least: u64) -> f64 {
    let [launched] = launched else { panic!("one launch") };
    let (read, written) = launched.traffic.bytes();
    (read + written) as f64 / least as f64
}

fn assert_full_sectors(name: &str, BufferTraffic { read, written, .. }: BufferTraffic) {
    for Requests { sectors, least_sectors, requests, .. } in [read, written] {
        assert!(requests == 0 || sectors == least_sectors, "{name}: {sectors} of {least_sectors}");
    }
}

#[test]
fn rows_move_little_more_than_themselves() {
    let source = Ragged::from_lens(&[700, 300]).unwrap();
    let mut random = Random::new(1);
    let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.35)).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let rows = kept.rows();
    // Hidden states, residuals and positions.
    let shapes = [8192, 8192, 4].map(RowShape::packed);
    let tensors = shapes.map(|shape| bytes(source.total() * shape.row_bytes, 2));
    let sources: Vec<_> = tensors.iter().map(|tensor| (&tensor[..], 0)).collect();
    let device = counting().device();
    let run = RowsRun::new(&device, &kept, 0, &shapes).unwrap();
    let sizes = shapes.map(|shape| rows.len() * shape.row_bytes);
    let gathered = run.gather(&device, false, &sources, &sizes).unwrap();
    let token: usize = shapes.iter().map(|shape| shape.row_bytes).sum();
    let least = 2 * (token * rows.len()) as u64;
    let over = ratio(&gathered.launched, least);
    println!("two tensors of 8 KiB a row, and positions: {over:.4} of the least bytes");
    assert!(over <= 1.02, "{over}");
    let traffic = &gathered.launched[0].traffic;
    let hidden = traffic.buffer("src0");
    assert_eq!(hidden.read.bytes, 8192 * rows.len() as u64);
    assert_full_sectors("source", hidden);
    assert_full_sectors("destination", traffic.buffer("dst0"));

    let in_place = run.in_place(&device, false, &sources).unwrap();
    let moving = rows.iter().enumerate().filter(|&(to, &from)| to != from).count();
    let over = ratio(&in_place.launched, 2 * (token * moving) as u64);
    println!("the same in place: {over:.4}");
    assert!(over <= 1.02, "{over}");
    // One tensor alone makes fewer streams, each of which reads the list.
    let alone = RowsRun::new(&device, &kept, 0, &shapes[..1]).unwrap();
    let alone = alone.in_place(&device, false, &sources[..1]).unwrap();
    let over = ratio(&alone.launched, 2 * (shapes[0].row_bytes * moving) as u64);
    println!("one tensor in place: {over:.4}");
    assert!(over <= 1.03, "{over}");
    let hidden = in_place.launched[0].traffic.buffer("src0");
    let expected = (8192 * moving) as u64;
    assert_eq!((hidden.read.bytes, hidden.written.bytes), (expected, expected));
    assert_full_sectors("tensor", hidden);
}

#[test]
fn caches_move_little_more_than_themselves() {
    for form in [Form::TokenMajor, Form::HeadMajor, Form::Nhd, Form::Hnd] {
        for (mode, list_heads) in
            [(KvMode::Stable, 1), (KvMode::Stable, 8), (KvMode::HoleFill, 1), (KvMode::HoleFill, 8)]
        {
            // Lanes of 256 bytes.
            let case = Caches {
                form,
                mode,
                list_heads,
                heads: 8,
                dim: if form == Form::HeadMajor { 256 } else { 128 },
                lens: vec![250],
                share: 0.5,
                layers: 16,
                tail: 0,
                ..Caches::default()
            };
            let outputs = case.run(&counting());
            let over = ratio(&outputs.launched, case.least_bytes());
            println!("{form:?} {mode:?}, {list_heads} lists: {over:.4} of the least bytes");
            assert!(over <= 1.02, "{form:?} {mode:?}, {list_heads} lists: {over}");
            let traffic = &outputs.launched[0].traffic;
            let cache = traffic.buffer("cache");
            assert_eq!(cache.read.bytes + cache.written.bytes, case.least_bytes());
            assert_full_sectors(&format!("{form:?} {mode:?}"), cache);
            assert!(traffic.shared.ways() <= 1.1, "{:?}", traffic.shared_sites);
        }
    }
}

#[test]
fn what_is_in_its_place_is_not_touched() {
    for form in [Form::TokenMajor, Form::Vllm] {
        for mode in [KvMode::Stable, KvMode::HoleFill] {
            let case = Caches { form, mode, share: 1.0, ..Caches::default() };
            let outputs = case.run(&counting());
            let cache = outputs.launched[0].traffic.buffer("cache");
            assert_eq!(cache, BufferTraffic::default(), "{form:?} {mode:?}");
        }
    }
    let source = Ragged::from_lens(&[40, 0, 9]).unwrap();
    let lists: Vec<Vec<i32>> = source.lens().map(|len| (0..len as i32).collect()).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let device = counting().device();
    let run = RowsRun::new(&device, &kept, 0, &[RowShape::packed(64)]).unwrap();
    let data = bytes(64 * source.total(), 0);
    let outputs = run.in_place(&device, false, &[(&data, 0)]).unwrap();
    assert_eq!(outputs.launched[0].traffic.buffer("src0"), BufferTraffic::default());
}
