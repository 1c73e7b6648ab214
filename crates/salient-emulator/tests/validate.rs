//! The checker of lists, on the emulated device.

use salient::kernels::select::Shape;
use salient::kernels::validate::{Pages, ValidatePlan};
use salient::kernels::{Fault, Status};
use salient_emulator::{Device, Emulated, ValidateRun};
use salient_oracle::generate::Random;

const CAPACITY: usize = 5000;
const LENS: [i32; 4] = [7000, 0, 33, 4999];
const PAGES: Pages = Pages { page_size: 16, max_pages: 440, pages: 900 };

/// Lists of two heads that are as they should be.
fn good(device: &Device) -> ValidateRun {
    let mut random = Random::new(4);
    let (mut cu_seqlens, mut cu_kept) = (vec![0], vec![0]);
    let (mut kept, mut kept_lens) = (Vec::new(), Vec::new());
    for len in LENS {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len);
        for _ in 0..2 {
            let list = random.subset(len as usize, 0.6);
            kept_lens.push(list.len() as i32);
            cu_kept.push(cu_kept[cu_kept.len() - 1] + list.len() as i32);
            kept.extend(list.iter().copied().chain(std::iter::repeat_n(-1, CAPACITY - list.len())));
        }
    }
    let mut table = vec![-7; LENS.len() * PAGES.max_pages];
    for (row, len) in table.chunks_exact_mut(PAGES.max_pages).zip(LENS) {
        row[..(len as usize).div_ceil(16)].fill_with(|| random.below(900) as i32);
    }
    let total = LENS.iter().sum::<i32>() as usize;
    let shape = Shape { batch: LENS.len(), heads: 2, total, max_len: 7000 };
    let plan = ValidatePlan::new(shape, CAPACITY).and_then(|plan| plan.with_pages(PAGES)).unwrap();
    ValidateRun {
        plan,
        cu_seqlens: device.upload("cu_seqlens", &cu_seqlens),
        kept: device.upload("kept", &kept),
        kept_lens: device.upload("kept_lens", &kept_lens),
        cu_kept: Some(device.upload("cu_kept", &cu_kept)),
        page_table: Some(device.upload("page_table", &table)),
    }
}

#[test]
fn what_is_right_passes_and_is_read_once() {
    for capability in [80, 90] {
        let device = Emulated { counting: true, capability, ..Emulated::default() }.device();
        let run = good(&device);
        let (status, launched) = run.launch(&device, false).unwrap();
        assert_eq!(status, Status::CLEAR);
        let traffic = &launched[0].traffic;
        // Each entry, and the last of the warp before.
        let entries = (8 * CAPACITY * size_of::<i32>()) as u64;
        assert!((entries..=entries + entries / 16).contains(&traffic.buffer("kept").read.bytes));
        assert_eq!((traffic.bytes().1, traffic.buffer("status").atomics), (0, 0));
    }
}

#[test]
fn empty_batches_and_lists_without_room_pass() {
    let device = Device::new(0);
    for batch in [0, 3] {
        let shape = Shape { batch, heads: 1, total: 5, max_len: 5 };
        let run = ValidateRun {
            plan: ValidatePlan::new(shape, 0).unwrap(),
            cu_seqlens: device.upload("cu_seqlens", &vec![0; batch + 1]),
            kept: device.upload("kept", &[]),
            kept_lens: device.upload("kept_lens", &vec![0; batch]),
            cu_kept: None,
            page_table: None,
        };
        assert_eq!(run.launch(&device, false).unwrap().0, Status::CLEAR);
    }
}

#[test]
fn every_fault_is_found_with_its_row() {
    type Field = fn(&mut ValidateRun) -> &mut salient_emulator::Buffer<i32>;
    let kept: Field = |run| &mut run.kept;
    let kept_lens: Field = |run| &mut run.kept_lens;
    let cu_seqlens: Field = |run| &mut run.cu_seqlens;
    let cu_kept: Field = |run| run.cu_kept.as_mut().expect("offsets");
    let page_table: Field = |run| run.page_table.as_mut().expect("pages");
    let row = |row: usize| row * CAPACITY;
    let mut cases = vec![
        // The first of a warp and of a block are compared with what another has read.
        (kept, row(1), -1, Fault::Index, 1),
        (kept, row(1), 7000, Fault::Index, 1),
        (kept, row(7) + 300, i32::MIN, Fault::Index, 7),
        (kept, row(7) + 2048, i32::MAX, Fault::Index, 7),
        (kept, row(0) + CAPACITY - 1, 6999, Fault::Lengths, 0),
        (kept, row(2), 0, Fault::Lengths, 2),
        (kept_lens, 3, 1, Fault::Lengths, 3),
        (kept_lens, 5, -1, Fault::Lengths, 5),
        (kept_lens, 5, i32::MAX, Fault::Lengths, 5),
        (cu_seqlens, 0, 1, Fault::Lengths, 0),
        (cu_seqlens, 1, -1, Fault::Lengths, 0),
        (cu_seqlens, 1, 7001, Fault::Lengths, 2),
        (cu_seqlens, 4, i32::MAX, Fault::Lengths, 6),
        (cu_kept, 0, 1, Fault::Lengths, 0),
        (cu_kept, 6, 0, Fault::Lengths, 5),
        (page_table, 3, 900, Fault::Page, 0),
        (page_table, 3 * 440 + 312, -1, Fault::Page, 6),
    ];
    // Equal to the one before, or below it.
    for at in [1, 31, 32, 255, 256, 2047, 2048, 2500] {
        cases.push((kept, row(6) + at, 0, Fault::Order, 6));
    }
    for (field, at, value, fault, row) in cases {
        for seed in 0..2 {
            let device = Device::new(seed);
            let mut run = good(&device);
            let mut values = field(&mut run).read();
            values[at] = value;
            field(&mut run).write(&values);
            let (status, _) = run.launch(&device, false).unwrap();
            assert!(status.has(fault), "[{at}] = {value}: {status}");
            assert_eq!(status.row(), Some(row), "[{at}] = {value}: {status}");
        }
    }
    // What lies behind the last page of a sequence is not looked at, nor what nobody asked for.
    let device = Device::new(0);
    let mut run = good(&device);
    run.page_table = None;
    assert!(run.launch(&device, false).is_err(), "pages that are planned and missing");
}

#[test]
fn the_lowest_row_at_fault_is_reported() {
    for seed in 0..20 {
        let device = Device::new(seed);
        let mut run = good(&device);
        let mut kept = run.kept.read();
        for row in [7, 4, 6] {
            kept[row * CAPACITY] = 6998;
        }
        run.kept.write(&kept);
        let (status, _) = run.launch(&device, false).unwrap();
        assert_eq!((status.row(), status.has(Fault::Index)), (Some(4), true));
    }
}
