use super::*;

fn shape() -> AttentionShape {
    AttentionShape {
        batch: 2,
        queries: 10,
        total: 300,
        max_len: 200,
        dtype: DType::Bf16,
        q: Layout::token_major(4, 32),
        k: Layout::head_major(2, 32, 300),
    }
}

fn score(heads: HeadReduce) -> AttentionScore {
    let query_weights = QueryWeights::Ramp { first: 2.0, last: 8.0 };
    let pool = Some(Pool { kind: PoolKind::Average, width: 5 });
    AttentionScore { scale: 0.5, heads, per: Per::KvHead, pool, query_weights }
}

fn buffers(plan: &AttentionPlan) -> AttentionBuffers {
    AttentionBuffers {
        q: Buffer::new(0x10000, 1280),
        k: Buffer::new(0x20000, 19200),
        lse: plan.takes_lse().then_some(Buffer::new(0x30000, 40)),
        scores: Buffer::new(0x40000, 600),
        cu_queries: Buffer::new(0x50000, 3),
        cu_seqlens: Buffer::new(0x60000, 3),
        status: Buffer::new(0x70000, 1),
        workspace: Buffer::new(0x80000, plan.workspace_bytes()),
    }
}

#[test]
fn parts_of_the_workspace_follow_one_another() {
    let tiles = 300 / 128 + 2;
    let floats = |raw: &raw::SalientAttentionScoreParams, plan: &AttentionPlan| {
        let parts = [raw.stats, raw.sums, raw.logits, raw.raw, raw.maxima];
        let mut ends: Vec<usize> =
            parts.iter().filter(|part| !part.is_null()).map(|part| part.addr()).collect();
        ends.push(0x80000 + plan.workspace_bytes());
        let lens: Vec<usize> = ends.windows(2).map(|pair| (pair[1] - pair[0]) / 4).collect();
        (parts.map(|part| !part.is_null()), lens)
    };
    let make = |plan: Result<AttentionPlan>| {
        let plan = plan.unwrap();
        let raw = attention_params(&plan, &buffers(&plan)).unwrap();
        floats(&raw, &plan)
    };
    let (mean, max) = (score(HeadReduce::Mean), score(HeadReduce::MaxNormalised));
    let few = make(AttentionPlan::window(shape(), mean, 2));
    let sums = [tiles * 4 * 2 * 2, 2 * 4 * 2 * 2];
    assert_eq!(few, ([true, true, true, false, false], vec![sums[0], sums[1], 4 * 2 * 300]));
    let many = make(AttentionPlan::window(shape(), mean, 5));
    let sums = [tiles * 4 * 5 * 2, 2 * 4 * 5 * 2];
    assert_eq!(many, ([true, true, false, true, false], vec![sums[0], sums[1], 600]));
    let columns = make(AttentionPlan::columns(shape(), mean));
    assert_eq!(columns, ([false, false, false, true, false], vec![600]));
    let normalised = make(AttentionPlan::window_of_lse(shape(), max, 1));
    let (raw, maxima) = (4 * 300, tiles * 4 * 8);
    assert_eq!(normalised, ([false, false, false, true, true], vec![raw, maxima]));
    // No queries: scores are 0.
    let none = make(AttentionPlan::window(shape(), mean, 0));
    assert_eq!(none, ([false, false, false, true, false], vec![600]));
}

#[test]
fn good_buffers_become_parameters() {
    let plan = AttentionPlan::columns(shape(), score(HeadReduce::Max)).unwrap();
    let raw = attention_params(&plan, &buffers(&plan)).unwrap();
    assert_eq!((raw.q_heads, raw.kv_heads, raw.dim, raw.window), (4, 2, 32, 200));
    assert_eq!((raw.first_weight, raw.last_weight), (0.25, 1.0));
    assert_eq!((raw.pool, raw.pool_width, raw.heads, raw.per_kv_head), (0, 5, 1, 1));
    assert_eq!((raw.k_strides.head, raw.dtype), (9600, 2));
}

#[test]
fn bad_buffers_are_refused() {
    let plan = AttentionPlan::columns(shape(), score(HeadReduce::Max)).unwrap();
    type Field = fn(&mut AttentionBuffers) -> &mut Buffer;
    let fields: [(Field, usize); 8] = [
        (|b| &mut b.q, 16),
        (|b| &mut b.k, 16),
        (|b| b.lse.as_mut().unwrap(), 4),
        (|b| &mut b.scores, 4),
        (|b| &mut b.cu_queries, 4),
        (|b| &mut b.cu_seqlens, 4),
        (|b| &mut b.status, 4),
        (|b| &mut b.workspace, 16),
    ];
    for (field, align) in fields {
        let mut short = buffers(&plan);
        field(&mut short).len -= 1;
        let error = attention_params(&plan, &short);
        assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
        let mut askew = buffers(&plan);
        field(&mut askew).address += align / 2;
        let error = attention_params(&plan, &askew);
        assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
    }
    let without = AttentionBuffers { lse: None, ..buffers(&plan) };
    assert!(matches!(attention_params(&plan, &without), Err(Error::Unfit { .. })));
    let window = AttentionPlan::window(shape(), score(HeadReduce::Max), 5).unwrap();
    let with = AttentionBuffers { lse: Some(Buffer::new(0x30000, 40)), ..buffers(&window) };
    assert!(matches!(attention_params(&window, &with), Err(Error::Unfit { .. })));
}

#[test]
fn what_the_kernels_cannot_take_is_refused() {
    let new = |change: &dyn Fn(&mut AttentionShape, &mut AttentionScore)| {
        let (mut shape, mut score) = (shape(), score(HeadReduce::Mean));
        change(&mut shape, &mut score);
        AttentionPlan::columns(shape, score)
    };
    assert!(new(&|_, _| ()).is_ok());
    type Change = fn(&mut AttentionShape, &mut AttentionScore);
    let changes: [Change; 12] = [
        |s, _| s.dtype = DType::F32,
        |s, _| s.dtype = DType::F8E4M3,
        |s, _| s.k.heads = 0,
        |s, _| s.k.heads = 3,
        |s, _| s.k.dim = 16,
        |s, _| s.q.token_stride = 132,
        |s, _| s.k.head_stride = 12,
        |s, _| s.total = 1 << 31,
        |s, _| s.batch = 1 << 30,
        |s, _| s.k.token_stride = usize::MAX / 2 - 7,
        |_, score| score.scale = f32::MAX,
        |_, score| score.pool = Some(Pool { kind: PoolKind::Max, width: 2 }),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(new(&change).is_err(), "change {i}");
    }
    for dim in [0, 20, 264] {
        let layout = |heads| Layout::token_major(heads, dim);
        assert!(new(&|s, _| (s.q, s.k) = (layout(4), layout(2))).is_err(), "{dim} channels");
    }
    let window = |queries| AttentionPlan::window(shape(), score(HeadReduce::Max), queries);
    assert!(window(128).is_ok() && window(129).is_err());
}
