//! The checker of lists.

use salient::kernels::select::Shape;
use salient::kernels::validate::{Pages, ValidatePlan};
use salient::{Fault, Result, Status};
use salient_oracle::generate::Random;

use crate::device;
use crate::device::{Device, Upload};
use crate::place::{in_any_order, on_device};
use crate::runs::select::ValidateRun;

const CAPACITY: usize = 5000;
const LENS: [i32; 4] = [7000, 0, 33, 4999];
const PAGES: Pages = Pages { page_size: 16, max_pages: 440, pages: 900 };

/// Lists of two heads that are as they should be.
fn good(device: &Device) -> Result<ValidateRun> {
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
    Ok(ValidateRun {
        plan: ValidatePlan::new(shape, CAPACITY)?.with_pages(PAGES)?,
        cu_seqlens: device.upload(&cu_seqlens)?,
        kept: device.upload(&kept)?,
        kept_lens: device.upload(&kept_lens)?,
        cu_kept: Some(device.upload(&cu_kept)?),
        page_table: Some(device.upload(&table)?),
    })
}

#[test]
fn what_is_right_passes() {
    on_device("what_is_right_passes", || {
        let device = device()?;
        assert_eq!(good(&device)?.launch(&device)?, Status::CLEAR);
        Ok(())
    });
}

#[test]
fn empty_batches_and_lists_without_room_pass() {
    on_device("empty_batches_and_lists_without_room_pass", || {
        let device = device()?;
        for batch in [0, 3] {
            let shape = Shape { batch, heads: 1, total: 5, max_len: 5 };
            let run = ValidateRun {
                plan: ValidatePlan::new(shape, 0)?,
                cu_seqlens: device.upload(&vec![0; batch + 1])?,
                kept: device.upload(&[])?,
                kept_lens: device.upload(&vec![0; batch])?,
                cu_kept: None,
                page_table: None,
            };
            assert_eq!(run.launch(&device)?, Status::CLEAR, "{batch} sequences");
        }
        Ok(())
    });
}

#[test]
fn every_fault_is_found_with_its_row() {
    type Field = fn(&mut ValidateRun) -> &mut Upload<i32>;
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
    on_device("every_fault_is_found_with_its_row", || {
        let device = device()?;
        for (field, at, value, fault, row) in cases {
            let mut run = good(&device)?;
            field(&mut run).put(at, value)?;
            let status = run.launch(&device)?;
            assert!(status.has(fault), "[{at}] = {value}: {status}");
            assert_eq!(status.row(), Some(row), "[{at}] = {value}: {status}");
        }
        let mut run = good(&device)?;
        run.page_table = None;
        assert!(run.launch(&device).is_err(), "pages that are planned and missing");
        Ok(())
    });
}

#[test]
fn the_lowest_row_at_fault_is_reported() {
    in_any_order("the_lowest_row_at_fault_is_reported", 10, |_| {
        let device = device()?;
        let mut run = good(&device)?;
        for row in [7, 4, 6] {
            run.kept.put(row * CAPACITY, 6998)?;
        }
        let status = run.launch(&device)?;
        assert_eq!((status.row(), status.has(Fault::Index)), (Some(4), true));
        Ok(())
    });
}
