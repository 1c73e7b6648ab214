use super::*;
use crate::kernels::Buffer;
use crate::select::Protect;

const SHAPE: Shape = Shape { batch: 3, heads: 2, total: 100, max_len: 60 };

fn at(len: usize) -> Buffer {
    Buffer::new(0x1000, len)
}

/// Every buffer of a plan of [`SHAPE`]'s batch.
fn buffers(plan: &SelectPlan) -> SelectBuffers {
    let lists = plan.rows() * plan.capacity();
    SelectBuffers {
        scores: at(200),
        cu_seqlens: at(4),
        counts: None,
        sinks: Some(at(3)),
        recent: Some(at(3)),
        mask: Some(at(100)),
        positions: Some(at(100)),
        kept: at(lists),
        kept_lens: at(6),
        kept_positions: Some(at(lists)),
        inverse: Some(at(200)),
        cu_kept: Some(at(7)),
        status: at(1),
        workspace: None,
    }
}

fn plan(budget: Budget) -> SelectPlan {
    SelectPlan::new(SHAPE, budget).unwrap()
}

#[test]
fn good_buffers_become_parameters() {
    let plan = plan(Budget::Ratio(0.5)).with_edges(Edges { sinks: 4, recent: usize::MAX });
    let raw = params(&plan, &buffers(&plan)).unwrap();
    assert_eq!((raw.batch, raw.heads, raw.total, raw.max_len), (3, 2, 100, 60));
    assert_eq!((raw.capacity, raw.sinks_all, raw.recent_all), (30, 4, 60));
    assert_eq!((raw.ratio, raw.score_stride, raw.workspace_bytes), (0.5, 100, 0));
    assert_eq!(raw.scores.addr(), 0x1000);
    assert!(raw.counts.is_null() && raw.workspace.is_null() && !raw.mask.is_null());
    let lean = SelectBuffers {
        sinks: None,
        recent: None,
        mask: None,
        positions: None,
        kept_positions: None,
        inverse: None,
        cu_kept: None,
        ..buffers(&plan)
    };
    let raw = params(&plan, &lean).unwrap();
    assert!(raw.sinks.is_null() && raw.inverse.is_null() && raw.cu_kept.is_null());
}

#[test]
fn every_buffer_of_a_wrong_length_or_place_is_named() {
    let plan = plan(Budget::Count(10));
    let good = buffers(&plan);
    assert!(params(&plan, &good).is_ok());
    type Field = fn(&mut SelectBuffers) -> &mut Buffer;
    let fields: [(&str, Field); 12] = [
        ("scores", |b| &mut b.scores),
        ("cu_seqlens", |b| &mut b.cu_seqlens),
        ("sinks", |b| b.sinks.as_mut().unwrap()),
        ("recent", |b| b.recent.as_mut().unwrap()),
        ("mask", |b| b.mask.as_mut().unwrap()),
        ("positions", |b| b.positions.as_mut().unwrap()),
        ("kept", |b| &mut b.kept),
        ("kept_lens", |b| &mut b.kept_lens),
        ("kept positions", |b| b.kept_positions.as_mut().unwrap()),
        ("inverse map", |b| b.inverse.as_mut().unwrap()),
        ("cu_kept", |b| b.cu_kept.as_mut().unwrap()),
        ("status", |b| &mut b.status),
    ];
    for (name, field) in fields {
        for (longer, shift) in [(1, 0), (-1, 0), (0, 1)] {
            let mut bad = good;
            let buffer = field(&mut bad);
            let expected = buffer.len;
            buffer.len = expected.wrapping_add_signed(longer);
            buffer.address += shift;
            let error = match shift {
                0 => Error::LengthMismatch { what: name, expected, actual: buffer.len },
                // Bytes lie anywhere.
                _ if name == "mask" => continue,
                _ => Error::Misaligned { what: name, address: 0x1001, align: 4 },
            };
            assert_eq!(params(&plan, &bad).unwrap_err(), error);
        }
    }
}

#[test]
fn counts_and_positions_come_with_what_needs_them() {
    let counted = plan(Budget::Counts(()));
    let good = SelectBuffers { counts: Some(at(3)), ..buffers(&counted) };
    assert!(params(&counted, &good).is_ok());
    assert!(params(&counted, &buffers(&counted)).is_err());
    assert!(params(&counted, &SelectBuffers { counts: Some(at(4)), ..good }).is_err());
    let ratio = plan(Budget::Ratio(1.0));
    let counts = Some(at(3));
    assert!(params(&ratio, &SelectBuffers { counts, ..buffers(&ratio) }).is_err());
    for bad in [
        SelectBuffers { positions: None, ..buffers(&ratio) },
        SelectBuffers { kept_positions: None, ..buffers(&ratio) },
    ] {
        assert!(matches!(params(&ratio, &bad), Err(Error::Unfit { .. })));
    }
}

#[test]
fn capacity_follows_the_budget() {
    for (budget, capacity) in [
        (Budget::Count(7), 7),
        (Budget::Count(usize::MAX), 60),
        (Budget::Counts(()), 60),
        (Budget::Ratio(0.07), 5),
        (Budget::Threshold(0.0), 60),
    ] {
        let plan = plan(budget);
        assert_eq!(plan.capacity(), capacity);
        assert_eq!(plan.with_capacity(capacity + 3).unwrap().capacity(), capacity + 3);
        let known = matches!(budget, Budget::Count(_) | Budget::Ratio(_));
        assert_eq!(plan.with_capacity(capacity - 1).is_err(), known, "{budget:?}");
        assert!(plan.with_capacity(usize::MAX).is_err());
        assert!(plan.with_capacity(1 << 31).is_err());
    }
}

#[test]
fn only_long_rows_need_a_workspace() {
    let long = |batch, max_len| {
        let shape = Shape { batch, heads: 1, total: 1 << 20, max_len };
        SelectPlan::new(shape, Budget::Ratio(0.1)).unwrap()
    };
    assert_eq!(long(1, 16_384).workspace_bytes(), 0);
    assert_eq!(long(1, 16_385).workspace_bytes(), 32_768);
    assert_eq!(long(1000, 16_385).workspace_bytes(), 64 * 32_768);
    assert_eq!(long(1, 9).with_variant(Variant::Grid).unwrap().workspace_bytes(), 32_768);
    let cluster = long(4, 131_072).with_variant(Variant::Cluster).unwrap();
    assert_eq!(cluster.workspace_bytes(), 0);
    assert!(long(4, 131_073).with_variant(Variant::Cluster).is_err());
    assert!(long(4, 16_385).with_variant(Variant::Block).is_err());

    let grid = plan(Budget::Count(1)).with_variant(Variant::Grid).unwrap();
    let with = |workspace| params(&grid, &SelectBuffers { workspace, ..buffers(&grid) });
    let bytes = grid.workspace_bytes();
    assert_eq!(with(Some(at(bytes + 1))).unwrap().workspace_bytes, bytes as i64);
    let mismatch = |actual| Error::LengthMismatch { what: "workspace", expected: bytes, actual };
    assert_eq!(with(Some(at(bytes - 1))).unwrap_err(), mismatch(bytes - 1));
    assert_eq!(with(None).unwrap_err(), mismatch(0));
    assert!(with(Some(Buffer::new(0x1008, bytes))).is_err());
}

#[test]
fn heads_may_lie_apart() {
    let plan = plan(Budget::Count(1)).with_score_stride(128).unwrap();
    let with = |len| params(&plan, &SelectBuffers { scores: at(len), ..buffers(&plan) });
    assert_eq!(with(228).unwrap().score_stride, 128);
    assert!(with(256).is_ok());
    assert!(with(227).is_err());
    assert!(plan.with_score_stride(99).is_err());
    assert!(plan.with_score_stride(usize::MAX).is_err());
}

#[test]
fn bad_shapes_and_budgets_are_refused() {
    for shape in [
        Shape { heads: 0, ..SHAPE },
        Shape { heads: usize::MAX, ..SHAPE },
        Shape { batch: 1 << 31, ..SHAPE },
        Shape { total: 1 << 31, ..SHAPE },
        Shape { max_len: 101, ..SHAPE },
    ] {
        assert!(SelectPlan::new(shape, Budget::Count(1)).is_err(), "{shape:?}");
    }
    for budget in [
        Budget::Ratio(0.0),
        Budget::Ratio(1.5),
        Budget::Ratio(f64::NAN),
        Budget::Threshold(f32::NAN),
    ] {
        assert!(SelectPlan::new(SHAPE, budget).is_err(), "{budget:?}");
    }
    let shape = Shape { batch: 1 << 15, heads: 1 << 10, total: 1 << 30, max_len: 1 << 12 };
    let many = SelectPlan::new(shape, Budget::Counts(())).unwrap();
    let lists = at(many.rows() * many.capacity());
    let buffers = SelectBuffers {
        scores: at(1 << 40),
        cu_seqlens: at((1 << 15) + 1),
        counts: Some(at(1 << 15)),
        kept: lists,
        kept_lens: at(many.rows()),
        status: at(1),
        ..SelectBuffers::default()
    };
    assert!(params(&many, &buffers).is_ok());
    let cu_kept = Some(at(many.rows() + 1));
    let error = params(&many, &SelectBuffers { cu_kept, ..buffers }).unwrap_err();
    assert_eq!(error, Error::Overflow { what: "kept tokens of all rows" });
}

#[test]
fn a_request_is_checked_as_the_host_checks_it() {
    let rows = Ragged::from_lens(&[10, 0, 4]).unwrap();
    let edges = PerSequence::All(Edges { sinks: 1, recent: 2 });
    let budget = Budget::Ratio(0.8);
    let good = Request { rows: &rows, heads: 2, budget, protect: Protect { edges, mask: None } };
    let plan = SelectPlan::of(&good).unwrap();
    assert_eq!((plan.capacity(), plan.rows(), plan.shape().max_len), (8, 6, 10));
    let counts = Budget::Counts(&[3, 0, 9][..]);
    assert_eq!(SelectPlan::of(&Request { budget: counts, ..good }).unwrap().capacity(), 4);
    let few = Budget::Counts(&[5, 0, 2][..]);
    assert_eq!(
        SelectPlan::of(&Request { budget: few, ..good }),
        Err(Error::BudgetBelowProtected { row: 4, budget: 2, protected: 3 })
    );
    for budget in [Budget::Ratio(0.0), Budget::Counts(&[1][..])] {
        assert!(SelectPlan::of(&Request { budget, ..good }).is_err());
    }
    assert!(SelectPlan::of(&Request { heads: 0, ..good }).is_err());
}
