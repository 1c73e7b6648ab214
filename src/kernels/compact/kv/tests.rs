use super::*;
use crate::layout::{Layout, PagedLayout};

fn at(len: usize) -> Buffer {
    Buffer::new(0x1000, len)
}

const PAGES: Pages = Pages { page_size: 4, max_pages: 3, pages: 9 };

fn shape(layout: KvLayout) -> KvShape {
    let (keys, values, mode) = (layout, layout, KvMode::Stable);
    KvShape { batch: 2, layers: 3, list_heads: 2, capacity: 5, keys, values, mode }
}

fn flat() -> KvPlan {
    let layout = KvLayout::contiguous(Layout::token_major(2, 8), 2).unwrap();
    KvPlan::contiguous(shape(layout), 20).unwrap()
}

fn paged() -> KvPlan {
    let layout = KvLayout::paged(PagedLayout::hnd(4, 2, 8), 2).unwrap();
    let mode = KvMode::HoleFill;
    KvPlan::paged(KvShape { mode, ..shape(layout) }, PAGES).unwrap()
}

fn buffers(plan: &KvPlan) -> KvBuffers {
    let paged = matches!(plan.store, Store::Paged(_));
    KvBuffers {
        tensors: at(6),
        kept: at(20),
        kept_lens: at(4),
        lens: at(2),
        span_starts: (!paged).then_some(at(2)),
        page_table: paged.then_some(at(6)),
        order: Some(at(20)),
        freed: paged.then_some(at(6)),
        freed_count: paged.then_some(at(1)),
        status: at(1),
    }
}

#[test]
fn good_buffers_become_parameters() {
    let plan = flat();
    let raw = kv_params(&plan, &buffers(&plan)).unwrap();
    assert_eq!((raw.tensor_count, raw.batch, raw.list_heads, raw.capacity), (6, 2, 2, 5));
    assert_eq!((raw.tokens, raw.page_size, raw.mode), (20, 0, 0));
    assert_eq!((raw.layouts[1].lanes, raw.layouts[1].lane_bytes), (2, 16));
    assert!(raw.page_table.is_null() && raw.freed.is_null() && !raw.span_starts.is_null());
    let plan = paged();
    let raw = kv_params(&plan, &buffers(&plan)).unwrap();
    assert_eq!((raw.tokens, raw.page_size, raw.max_pages, raw.pages), (0, 4, 3, 9));
    assert_eq!((raw.mode, raw.layouts[0].page_stride), (1, 128));
    let lean = KvBuffers { order: None, freed: None, freed_count: None, ..buffers(&plan) };
    let raw = kv_params(&plan, &lean).unwrap();
    assert!(raw.order.is_null() && raw.freed.is_null() && raw.freed_count.is_null());
}

#[test]
fn bad_buffers_are_refused() {
    type Field = fn(&mut KvBuffers) -> Option<&mut Buffer>;
    let fields: [Field; 10] = [
        |b| Some(&mut b.tensors),
        |b| Some(&mut b.kept),
        |b| Some(&mut b.kept_lens),
        |b| Some(&mut b.lens),
        |b| b.span_starts.as_mut(),
        |b| b.page_table.as_mut(),
        |b| b.order.as_mut(),
        |b| b.freed.as_mut(),
        |b| b.freed_count.as_mut(),
        |b| Some(&mut b.status),
    ];
    for plan in [flat(), paged()] {
        for field in fields {
            let (mut long, mut askew) = (buffers(&plan), buffers(&plan));
            let (Some(a), Some(b)) = (field(&mut long), field(&mut askew)) else { continue };
            a.len += 1;
            b.address += 2;
            let error = kv_params(&plan, &long);
            assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
            let error = kv_params(&plan, &askew);
            assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
        }
    }
    let (flat, paged) = (flat(), paged());
    for (plan, bad) in [
        (flat, KvBuffers { span_starts: None, ..buffers(&flat) }),
        (flat, KvBuffers { page_table: Some(at(6)), ..buffers(&flat) }),
        (flat, KvBuffers { freed: Some(at(0)), freed_count: Some(at(1)), ..buffers(&flat) }),
        (paged, KvBuffers { page_table: None, ..buffers(&paged) }),
        (paged, KvBuffers { span_starts: Some(at(2)), ..buffers(&paged) }),
        (paged, KvBuffers { freed_count: None, ..buffers(&paged) }),
        (paged, KvBuffers { freed: None, ..buffers(&paged) }),
    ] {
        assert!(matches!(kv_params(&plan, &bad), Err(Error::Unfit { .. })));
    }
}

#[test]
fn tensors_are_checked_when_the_table_is_made() {
    let plan = flat();
    let tensors: Vec<Buffer> = (1..7).map(|i| Buffer::new(i << 12, 640)).collect();
    assert_eq!(plan.table(&tensors).unwrap(), [1, 2, 3, 4, 5, 6].map(|i| i << 12));
    assert!(plan.table(&tensors[1..]).is_err());
    let table = plan.table(&tensors).unwrap();
    assert!(plan.holds(&tensors, &table));
    assert!(!plan.holds(&tensors[1..], &table));
    let mut moved = tensors.clone();
    moved[5].address += 16;
    assert!(!plan.holds(&moved, &table));
    let mut short = tensors;
    short[3].len = 639;
    let (what, expected) = ("bytes of values", 640);
    let error = plan.table(&short).unwrap_err();
    assert_eq!(error, Error::LengthMismatch { what, expected, actual: 639 });
    assert!(!plan.holds(&short, &table));
}

#[test]
fn bad_shapes_are_refused() {
    let good = KvLayout::contiguous(Layout::token_major(4, 8), 2).unwrap();
    let with = |keys| KvPlan::contiguous(KvShape { keys, ..shape(good) }, 20).map(|_| ());
    assert!(with(good).is_ok());
    for keys in [
        KvLayout { token_stride: 63, ..good },
        KvLayout { lane_stride: 15, ..good },
        KvLayout { token_stride: usize::MAX / 2, ..good },
        KvLayout { lanes: 0, ..good },
        KvLayout { lane_bytes: 0, ..good },
        KvLayout { lanes: 3, ..good },
        KvLayout { lanes: 1 << 16, lane_bytes: 1 << 15, ..good },
    ] {
        assert!(with(keys).is_err(), "{keys:?}");
    }
    for bad in [
        KvShape { list_heads: 0, ..shape(good) },
        KvShape { list_heads: 3, ..shape(good) },
        KvShape { list_heads: usize::MAX, ..shape(good) },
        KvShape { batch: 1 << 31, ..shape(good) },
        KvShape { capacity: 1 << 31, ..shape(good) },
        KvShape { layers: usize::MAX, ..shape(good) },
    ] {
        assert!(KvPlan::contiguous(bad, 20).is_err(), "{bad:?}");
    }
    assert!(KvPlan::contiguous(shape(good), 1 << 31).is_err());
    let layout = KvLayout::paged(PagedLayout::nhd(4, 2, 8), 2).unwrap();
    let pages = |layout, pages| KvPlan::paged(shape(layout), pages).map(|_| ());
    assert!(pages(layout, PAGES).is_ok());
    assert!(pages(layout, Pages { page_size: 0, ..PAGES }).is_err());
    assert!(pages(KvLayout { page_stride: 127, ..layout }, PAGES).is_err());
    assert!(KvLayout::contiguous(Layout::token_major(4, usize::MAX / 8), 2).is_err());
}

#[test]
fn spans_and_pages_that_the_host_knows_are_checked() {
    let rows = Ragged::from_lens(&[8, 3]).unwrap();
    let span = |start, len| Span { start, len };
    let spans = |spans: &[Span]| flat().check_spans(&rows, spans);
    assert_eq!(spans(&[span(12, 8), span(0, 3)]), Ok(()));
    assert!(spans(&[span(12, 8)]).is_err());
    assert!(spans(&[span(12, 8), span(0, 4)]).is_err());
    assert!(spans(&[span(13, 8), span(0, 3)]).is_err());
    assert!(spans(&[span(2, 8), span(0, 3)]).is_err());
    assert!(paged().check_spans(&rows, &[span(0, 8), span(8, 3)]).is_err());

    let pages = |table: &[i32]| paged().check_pages(&rows, table);
    assert_eq!(pages(&[8, 0, -1, 3, -1, -1]), Ok(()));
    for table in [[8, 9, -1, 3, -1, -1], [8, -1, -1, 3, -1, -1], [8, 0, -1, 8, -1, -1]] {
        assert!(pages(&table).is_err());
    }
    assert!(pages(&[8, 0, 3, 4]).is_err());
    assert!(flat().check_pages(&rows, &[0; 6]).is_err());
}
