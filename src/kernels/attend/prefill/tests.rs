use super::*;

fn shape() -> PrefillShape {
    PrefillShape {
        batch: 2,
        queries: 10,
        max_queries: 7,
        keys: 20,
        dtype: DType::Bf16,
        out_dtype: DType::F32,
        q: Layout::token_major(4, 16),
        k: Layout::token_major(2, 16),
        v: Layout::head_major(2, 16, 20),
        out: Layout::token_major(4, 16),
    }
}

const BETWEEN: RowLimit = RowLimit::Between { first: (), limit: () };

fn plan(limit: RowLimit) -> PrefillPlan {
    let attention = Attention { sliding_window: Some(usize::MAX), ..Attention::new(0.25) };
    PrefillPlan::new(shape(), attention, limit).unwrap()
}

fn buffers() -> PrefillBuffers {
    PrefillBuffers {
        q: Buffer::new(0x10000, 640),
        k: Buffer::new(0x20000, 640),
        v: Buffer::new(0x30000, 640),
        out: Buffer::new(0x40000, 640),
        lse: Some(Buffer::new(0x50000, 40)),
        cu_queries: Buffer::new(0x60000, 3),
        key_starts: Buffer::new(0x70000, 2),
        key_lens: Buffer::new(0x80000, 2),
        firsts: Some(Buffer::new(0x90000, 10)),
        limits: Some(Buffer::new(0xa0000, 10)),
        attention_sink: Some(Buffer::new(0xc0000, 4)),
        status: Buffer::new(0xb0000, 1),
    }
}

#[test]
fn good_buffers_become_parameters() {
    let raw = prefill_params(&plan(BETWEEN), &buffers()).unwrap();
    assert_eq!((raw.q_heads, raw.kv_heads, raw.dim, raw.keys), (4, 2, 16, 20));
    assert_eq!((raw.q_strides.token, raw.v_strides.head), (64, 320));
    assert_eq!((raw.window, raw.sees, raw.dtype, raw.out_dtype), (i32::MAX, 2, 2, 0));
    let causal =
        PrefillBuffers { firsts: None, limits: None, lse: None, attention_sink: None, ..buffers() };
    let raw = prefill_params(&plan(RowLimit::Causal), &causal).unwrap();
    assert!(raw.limits.is_null() && raw.lse.is_null() && raw.attention_sink.is_null());
}

#[test]
fn bad_buffers_are_refused() {
    type Field = fn(&mut PrefillBuffers) -> &mut Buffer;
    let fields: [(Field, usize); 12] = [
        (|b| &mut b.q, 16),
        (|b| &mut b.k, 16),
        (|b| &mut b.v, 16),
        (|b| &mut b.out, 16),
        (|b| b.lse.as_mut().unwrap(), 4),
        (|b| &mut b.cu_queries, 4),
        (|b| &mut b.key_starts, 4),
        (|b| &mut b.key_lens, 4),
        (|b| b.firsts.as_mut().unwrap(), 4),
        (|b| b.limits.as_mut().unwrap(), 4),
        (|b| b.attention_sink.as_mut().unwrap(), 4),
        (|b| &mut b.status, 4),
    ];
    for (field, align) in fields {
        let mut short = buffers();
        field(&mut short).len -= 1;
        let error = prefill_params(&plan(BETWEEN), &short);
        assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
        let mut askew = buffers();
        field(&mut askew).address += align / 2;
        let error = prefill_params(&plan(BETWEEN), &askew);
        assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
    }
    for sees in [RowLimit::Full, RowLimit::Causal] {
        assert!(prefill_params(&plan(sees), &buffers()).is_err());
    }
    let none = PrefillBuffers { limits: None, ..buffers() };
    assert!(prefill_params(&plan(BETWEEN), &none).is_err());
    let over = PrefillBuffers { out: Buffer::new(0x20400, 640), ..buffers() };
    let error = prefill_params(&plan(BETWEEN), &over);
    assert_eq!(error, Err(Error::Overlap { what: "out", other: "k" }));
}

#[test]
fn what_the_kernel_cannot_take_is_refused() {
    let new = |change: &dyn Fn(&mut PrefillShape)| {
        let mut shape = shape();
        change(&mut shape);
        PrefillPlan::new(shape, Attention::new(1.0), RowLimit::Full)
    };
    assert!(new(&|_| ()).is_ok());
    assert!(new(&|s| s.out_dtype = DType::Bf16).is_ok());
    let changes: [&dyn Fn(&mut PrefillShape); 15] = [
        &|s| s.dtype = DType::F32,
        &|s| s.dtype = DType::F8E4M3,
        &|s| s.out_dtype = DType::F8E4M3,
        &|s| s.out_dtype = DType::F16,
        &|s| s.k.heads = 0,
        &|s| s.k.heads = 3,
        &|s| s.v.heads = 1,
        &|s| s.out.heads = 2,
        &|s| s.v.dim = 8,
        &|s| s.q.token_stride = 68,
        &|s| s.k.head_stride = 20,
        &|s| s.out.head_stride = 18,
        &|s| s.queries = 1 << 31,
        &|s| s.batch = 1 << 30,
        &|s| s.k.token_stride = usize::MAX / 2,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(new(change).is_err(), "change {i}");
    }
    for dim in [0, 20, 264] {
        let change = |s: &mut PrefillShape| {
            let layout = |heads| Layout::token_major(heads, dim);
            (s.q, s.k, s.v, s.out) = (layout(4), layout(2), layout(2), layout(4));
        };
        assert!(new(&change).is_err(), "{dim} channels");
    }
    let attention = Attention::new(f32::NAN);
    assert!(PrefillPlan::new(shape(), attention, RowLimit::Full).is_err());
    let attention = Attention { attention_sink: Some(&[0.0; 4]), ..Attention::new(1.0) };
    let error = PrefillPlan::new(shape(), attention, RowLimit::Full);
    assert!(matches!(error, Err(Error::Unfit { what: "attention_sink", .. })));
}
