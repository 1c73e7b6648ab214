//! **compact**: keys and values.

use salient::compact::KvMode;
use salient::{Fault, Result, Status};
use salient_oracle::generate::Random;

use crate::device::Device;
use crate::place::on_device;
use crate::runs::caches::{Caches, FORMS, Form};
use crate::{device, same_in_any_order};

/// Tensors, order and freed pages are to the byte what they should be.
fn check(case: &Caches, device: &Device) -> Result<()> {
    let outputs = case.run(device)?;
    let orders = case.orders();
    assert_eq!(outputs.status, Status::CLEAR, "{case:?}");
    let capacity = outputs.order.len() / orders.len();
    for (row, (order, expected)) in outputs.order.chunks(capacity).zip(&orders).enumerate() {
        let (written, behind) = order.split_at(expected.len());
        assert_eq!(written, expected, "{case:?}: order of row {row}");
        assert!(behind.iter().all(|&token| token == -1), "{case:?}: order behind row {row}");
    }
    assert!(outputs.tensors == case.after(&orders), "{case:?}: a tensor differs");
    if case.is_paged() {
        let freed = freed(case);
        assert_eq!(outputs.freed_count as usize, freed.len(), "{case:?}: freed pages");
        assert_eq!(outputs.freed[..freed.len()], freed, "{case:?}: freed pages");
    }
    Ok(())
}

fn freed(case: &Caches) -> Vec<i32> {
    let (table, lists, max_pages) = (case.page_table(), case.lists(), case.pages().max_pages);
    let of = |(sequence, &len): (usize, &usize)| {
        let lists = lists[sequence * case.list_heads..].iter().take(case.list_heads);
        let longest = lists.map(Vec::len).max().unwrap_or(0);
        let pages = &table[sequence * max_pages..][..len.div_ceil(case.page_size)];
        pages[longest.div_ceil(case.page_size)..].to_vec()
    };
    case.lens.iter().enumerate().flat_map(of).collect()
}

#[test]
fn every_layout_keeps_its_tokens_in_both_modes() {
    on_device("every_layout_keeps_its_tokens_in_both_modes", || {
        let device = device()?;
        let mut seed = 0;
        for form in FORMS {
            for mode in [KvMode::Stable, KvMode::HoleFill] {
                for list_heads in [1, 2, 4] {
                    for share in [0.0, 0.35, 0.8, 1.0] {
                        seed += 1;
                        let case = Caches {
                            seed,
                            form,
                            heads: 4,
                            list_heads,
                            share,
                            mode,
                            ..Caches::default()
                        };
                        check(&case, &device)?;
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn elements_pages_and_addresses_of_any_alignment() {
    on_device("elements_pages_and_addresses_of_any_alignment", || {
        let device = device()?;
        let mut seed = 100;
        for form in FORMS {
            for mode in [KvMode::Stable, KvMode::HoleFill] {
                for (element, skip, page_size) in
                    [(1, 0, 16), (4, 4, 3), (2, 1, 1), (2, 2, 16), (4, 8, 7)]
                {
                    seed += 1;
                    let case =
                        Caches { seed, form, element, skip, page_size, mode, ..Caches::default() };
                    check(&case, &device)?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn many_layers_wide_tokens_and_long_sequences() {
    on_device("many_layers_wide_tokens_and_long_sequences", || {
        let device = device()?;
        for mode in [KvMode::Stable, KvMode::HoleFill] {
            for form in [Form::TokenMajor, Form::Vllm] {
                let many =
                    Caches { form, layers: 17, lens: vec![40, 50], mode, ..Caches::default() };
                check(&many, &device)?;
                let wide = Caches {
                    form,
                    heads: 8,
                    dim: 128,
                    lens: vec![90],
                    layers: 1,
                    mode,
                    ..Caches::default()
                };
                check(&wide, &device)?;
            }
            let long =
                Caches { lens: vec![3000], layers: 1, list_heads: 2, mode, ..Caches::default() };
            check(&long, &device)?;
        }
        Ok(())
    });
}

#[test]
fn no_sequences_and_no_layers() {
    on_device("no_sequences_and_no_layers", || {
        let device = device()?;
        for mode in [KvMode::Stable, KvMode::HoleFill] {
            for form in [Form::HeadMajor, Form::Hnd] {
                let none = Caches { form, lens: vec![], mode, ..Caches::default() };
                let outputs = none.run(&device)?;
                assert_eq!(outputs.status, Status::CLEAR);
                assert!(outputs.tensors == none.before());
                if none.is_paged() {
                    assert_eq!(outputs.freed_count, 0);
                }
                let no_layers = Caches { form, layers: 0, mode, ..Caches::default() };
                assert_eq!(no_layers.run(&device)?.status, Status::CLEAR);
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    for mode in [KvMode::Stable, KvMode::HoleFill] {
        let case = Caches { form: Form::Nhd, lens: vec![200, 33], mode, ..Caches::default() };
        same_in_any_order(&format!("caches, {mode:?}"), || {
            let moved = case.run(&device()?)?;
            Ok((moved.tensors, moved.order, moved.freed, moved.freed_count, moved.status))
        });
    }
}

/// Invalid lists, lengths, spans and pages: every place holds what `order` says, nothing
/// else has changed, and the status tells what is wrong and where first.
#[test]
fn garbage_is_reported_and_contained() {
    on_device("garbage_is_reported_and_contained", || {
        let device = device()?;
        (0..60).try_for_each(|seed| garbage_moves_nothing_astray(&device, seed))
    });
}

fn garbage_moves_nothing_astray(device: &Device, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let form = FORMS[seed as usize % 6];
    let mode = [KvMode::Stable, KvMode::HoleFill][random.below(2)];
    let list_heads = 1 + random.below(2);
    let case =
        Caches { seed, form, mode, list_heads, lens: vec![40, 0, 60, 9], ..Caches::default() };
    let mut run = case.upload(device)?;
    let rows = case.lens.len() * list_heads;
    let mut kept = run.kept.read()?;
    let capacity = kept.len() / rows;
    for entry in &mut kept {
        let any = [-1, i32::MIN, i32::MAX, 8, 9, 40, 60, 59, random.below(70) as i32];
        if random.once_in(6) {
            *entry = any[random.below(any.len())];
        }
    }
    run.kept.write(&kept)?;
    let mut kept_lens = run.kept_lens.read()?;
    let mut lens = run.lens.read()?;
    if random.once_in(2) {
        let any = [-1, i32::MIN, i32::MAX, capacity as i32, capacity as i32 + 1];
        kept_lens[random.below(rows)] = any[random.below(any.len())];
    }
    if random.once_in(3) {
        lens[random.below(4)] = [-1, i32::MIN, i32::MAX, 1000][random.below(4)];
    }
    run.kept_lens.write(&kept_lens)?;
    run.lens.write(&lens)?;
    let mut bad_span = None;
    if let (Some(starts), true) = (&mut run.span_starts, random.once_in(3)) {
        let (mut values, at) = (starts.read()?, random.below(4));
        values[at] = [-1, i32::MIN, i32::MAX, case.tokens() as i32 + 1][random.below(4)];
        starts.write(&values)?;
        bad_span = Some(at);
    }
    let mut bad_page = None;
    if let (Some(table), true) = (&mut run.page_table, random.once_in(2)) {
        let (mut values, max_pages) = (table.read()?, case.pages().max_pages);
        let at = 2 * max_pages + random.below(3);
        values[at] = [-1, i32::MIN, i32::MAX, case.pages().pages as i32][random.below(4)];
        table.write(&values)?;
        bad_page = Some((2, at - 2 * max_pages));
    }
    let outputs = case.launch(device, &run)?;

    let (mut flags, mut lowest) = (0, None);
    let mut orders = Vec::new();
    for row in 0..rows {
        let sequence = row / list_heads;
        let (count, len) = (kept_lens[row], lens[sequence]);
        let room = match case.is_paged() {
            true => case.pages().max_pages * case.page_size,
            false => case.tokens() - case.spans()[sequence].start,
        };
        let fits = (0..=len.min(capacity as i32)).contains(&count) && len as usize <= room;
        let mut faults = Vec::new();
        if !fits || bad_span == Some(sequence) {
            faults.push(Fault::Lengths);
        }
        let list = if faults.is_empty() { &kept[row * capacity..][..count as usize] } else { &[] };
        let outside = |token: i32| !(0..len).contains(&token);
        let lost = |token: i32| bad_page == Some((sequence, token as usize / case.page_size));
        for (i, &token) in list.iter().enumerate() {
            if outside(token) {
                faults.push(Fault::Index);
                continue;
            }
            if i > 0 && token <= list[i - 1] {
                faults.push(Fault::Order);
            }
            if lost(token) || lost(i as i32) {
                faults.push(Fault::Page);
            }
        }
        let order = &outputs.order[row * capacity..][..capacity];
        assert!(order[list.len()..].iter().all(|&token| token == -1), "{case:?}: row {row}");
        if mode == KvMode::Stable {
            let comes = |(i, &token): (i32, &i32)| {
                let moves = i < token && !outside(token) && !lost(token) && !lost(i);
                if moves { token } else { i }
            };
            let expected: Vec<i32> = (0..).zip(list).map(comes).collect();
            assert_eq!(order[..list.len()], expected, "{case:?}: row {row}");
        }
        orders.push(order[..list.len()].to_vec());
        if !faults.is_empty() {
            lowest = lowest.or(Some(row));
        }
        flags |= faults.iter().fold(0, |flags, fault| flags | *fault as u32);
    }
    // A freed page outside the pool is a fault, too.
    let pages = |tokens: usize| tokens.div_ceil(case.page_size);
    if let Some((sequence, page)) = bad_page {
        let rows = sequence * list_heads..(sequence + 1) * list_heads;
        let longest = rows.clone().map(|row| orders[row].len()).max().unwrap_or(0);
        let freed = (pages(longest)..pages(lens[sequence].max(0) as usize)).contains(&page);
        let fits = rows.clone().all(|row| orders[row].len() as i32 == kept_lens[row]);
        if freed && fits {
            flags |= Fault::Page as u32;
            lowest = Some(lowest.unwrap_or(usize::MAX).min(rows.start));
        }
    }
    let found = outputs.status.faults().fold(0, |flags, fault| flags | fault as u32);
    assert_eq!((found, outputs.status.row()), (flags, lowest), "{case:?}: {}", outputs.status);
    assert!(outputs.tensors == case.after(&orders), "{case:?}: a tensor differs");
    Ok(())
}
