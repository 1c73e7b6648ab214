use super::*;
use crate::kernels::Buffer;

fn at(len: usize) -> Buffer {
    Buffer::new(0x10000, len)
}

fn shape() -> DecodeShape {
    let (k, tokens) = (Layout::token_major(2, 64), 40);
    DecodeShape {
        batch: 3,
        q: Layout::token_major(8, 64),
        out: Layout::token_major(8, 64),
        cache: CacheLayout::Contiguous { k, v: k, tokens },
        lists: KeyLists::PerHead(()),
        capacity: 300,
        dtype: DType::Bf16,
        cache_dtype: DType::Bf16,
        out_dtype: DType::F32,
        attention: Attention::new(0.125),
    }
}

fn paged() -> DecodeShape {
    let layout = PagedLayout::hnd(5, 2, 64);
    let cache = CacheLayout::Paged { layout, max_pages: 4, pages: 9 };
    DecodeShape { cache, lists: KeyLists::Dense, capacity: 20, ..shape() }
}

fn buffers(shape: &DecodeShape, plan: &DecodePlan) -> DecodeBuffers {
    let paged = matches!(shape.cache, CacheLayout::Paged { .. });
    let lists = shape.lists != KeyLists::Dense;
    let rows = 3 * plan.list_heads();
    DecodeBuffers {
        q: at(3 * 8 * 64),
        k: at(plan.k_len),
        v: at(plan.v_len),
        out: Buffer::new(0x1000000, 3 * 8 * 64),
        lse: Some(at(24)),
        lens: at(3),
        span_starts: (!paged).then_some(at(3)),
        page_table: paged.then_some(at(12)),
        kept: lists.then_some(at(rows * 300)),
        kept_lens: lists.then_some(at(rows)),
        attention_sink: Some(at(8)),
        k_scales: Some(at(2)),
        v_scales: Some(at(2)),
        status: at(1),
        workspace: at(plan.workspace_bytes()),
    }
}

#[test]
fn fp8_caches_have_their_own_rules() {
    let fp8 = |dim: usize, stride: usize| {
        let q = Layout::token_major(8, dim);
        let k = Layout { token_stride: stride, ..Layout::token_major(2, dim) };
        let cache = CacheLayout::Contiguous { k, v: k, tokens: 40 };
        DecodePlan::new(DecodeShape { q, out: q, cache, cache_dtype: DType::F8E4M3, ..shape() })
    };
    let plan = fp8(64, 128).unwrap();
    let raw = decode_params(&plan, &buffers(&shape(), &plan)).unwrap();
    assert_eq!((raw.dtype, raw.cache_dtype, raw.k_scales.is_null()), (2, 3, false));
    assert!(fp8(72, 144).is_err() && fp8(64, 136).is_err());
    // The output may begin where the bytes of the keys end.
    let (q, out) = (Buffer::new(0x100000, 1536), Buffer::new(0x10000 + plan.k_len, 1536));
    let beside = DecodeBuffers { q, out, ..buffers(&shape(), &plan) };
    assert!(decode_params(&plan, &beside).is_ok());
}

#[test]
fn good_buffers_become_parameters() {
    let plan = DecodePlan::new(shape()).unwrap();
    assert_eq!((plan.split(), plan.splits()), (256, 2));
    assert_eq!(plan.workspace_bytes(), 24 * 2 * 66 * 4);
    let raw = decode_params(&plan, &buffers(&shape(), &plan)).unwrap();
    assert_eq!((raw.batch, raw.kv_heads, raw.group, raw.dim), (3, 2, 4, 64));
    assert_eq!((raw.list_heads, raw.capacity, raw.tokens, raw.dtype), (2, 300, 40, 2));
    assert_eq!((raw.window, raw.softcap), (0, 0.0));
    assert!(raw.page_table.is_null());

    let plan = DecodePlan::new(paged()).unwrap();
    assert_eq!(plan.workspace_bytes(), 0);
    let raw = decode_params(&plan, &buffers(&paged(), &plan)).unwrap();
    assert_eq!((raw.page_size, raw.max_pages, raw.pages, raw.list_heads), (5, 4, 9, 0));
    assert_eq!(raw.layouts[1].page_stride, 5 * 2 * 64);
    assert!(raw.kept.is_null() && raw.span_starts.is_null());
}

#[test]
fn splits_follow_the_capacity_alone() {
    for (capacity, split) in
        [(0, 256), (1, 256), (16384, 256), (16385, 320), (131072, 2048), (1 << 20, 16384)]
    {
        let plan = DecodePlan::new(DecodeShape { capacity, ..shape() }).unwrap();
        assert_eq!(plan.split(), split, "{capacity}");
        assert!(plan.splits() <= SPLITS && plan.splits() * split >= capacity);
        let other = DecodeShape { batch: 7, lists: KeyLists::Dense, capacity, ..shape() };
        assert_eq!(DecodePlan::new(other).unwrap().split(), split);
    }
}

#[test]
fn bad_buffers_are_refused() {
    type Field = fn(&mut DecodeBuffers) -> Option<&mut Buffer>;
    let fields: [(Field, usize); 15] = [
        (|b| Some(&mut b.q), 16),
        (|b| Some(&mut b.k), 16),
        (|b| Some(&mut b.v), 16),
        (|b| Some(&mut b.out), 4),
        (|b| b.lse.as_mut(), 4),
        (|b| Some(&mut b.lens), 4),
        (|b| b.span_starts.as_mut(), 4),
        (|b| b.page_table.as_mut(), 4),
        (|b| b.kept.as_mut(), 4),
        (|b| b.kept_lens.as_mut(), 4),
        (|b| b.attention_sink.as_mut(), 4),
        (|b| b.k_scales.as_mut(), 4),
        (|b| b.v_scales.as_mut(), 4),
        (|b| Some(&mut b.status), 4),
        (|b| Some(&mut b.workspace), 16),
    ];
    for shape in [shape(), paged()] {
        let plan = DecodePlan::new(shape).unwrap();
        let good = buffers(&shape, &plan);
        for (field, align) in fields {
            let (mut short, mut askew) = (good, good);
            let Some(buffer) = field(&mut short).filter(|buffer| buffer.len > 0) else {
                continue;
            };
            buffer.len -= 1;
            let error = decode_params(&plan, &short);
            assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
            field(&mut askew).expect("as before").address += align / 2;
            let error = decode_params(&plan, &askew);
            assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
        }
        let overlap = DecodeBuffers { out: Buffer::new(0x10000, 3 * 8 * 64), ..good };
        assert!(matches!(decode_params(&plan, &overlap), Err(Error::Overlap { .. })));
        for wrong in [
            DecodeBuffers { span_starts: good.page_table.map(|_| at(3)), ..good },
            DecodeBuffers { page_table: good.span_starts.map(|_| at(12)), ..good },
            DecodeBuffers { kept: good.kept.xor(Some(at(0))), ..good },
            DecodeBuffers { kept_lens: good.kept_lens.xor(Some(at(0))), ..good },
        ] {
            assert!(matches!(decode_params(&plan, &wrong), Err(Error::Unfit { .. })));
        }
    }
}

#[test]
fn shapes_that_the_kernel_cannot_take_are_refused() {
    let good = shape();
    let kv = Layout::token_major(2, 64);
    let cache = |k, v| CacheLayout::Contiguous { k, v, tokens: 40 };
    let narrow = Layout::token_major(8, 60);
    let wide = Layout::token_major(8, 264);
    let bad = [
        DecodeShape { dtype: DType::F32, cache_dtype: DType::F32, ..good },
        DecodeShape { dtype: DType::F8E4M3, cache_dtype: DType::F8E4M3, ..good },
        DecodeShape { cache_dtype: DType::F16, ..good },
        DecodeShape { cache_dtype: DType::F32, ..good },
        DecodeShape { out_dtype: DType::F16, ..good },
        DecodeShape { out_dtype: DType::F8E4M3, ..good },
        DecodeShape { q: Layout::token_major(7, 64), ..good },
        DecodeShape { out: Layout::token_major(4, 64), ..good },
        DecodeShape { out: Layout { token_stride: 0, ..good.out }, ..good },
        DecodeShape { q: Layout { token_stride: 8 * 64 + 4, ..good.q }, ..good },
        DecodeShape { cache: cache(kv, Layout::token_major(4, 64)), ..good },
        DecodeShape { cache: cache(kv, Layout::token_major(2, 72)), ..good },
        DecodeShape { cache: cache(Layout { head_stride: 68, ..kv }, kv), ..good },
        DecodeShape { cache: cache(Layout { token_stride: usize::MAX / 8 * 8, ..kv }, kv), ..good },
        DecodeShape { cache: CacheLayout::Contiguous { k: kv, v: kv, tokens: 1 << 31 }, ..good },
        DecodeShape { q: narrow, out: narrow, cache: cache(narrow, narrow), ..good },
        DecodeShape { q: wide, out: wide, cache: cache(wide, wide), ..good },
        DecodeShape { capacity: 1 << 31, ..good },
        DecodeShape { batch: 1 << 31, ..good },
        DecodeShape { attention: Attention::new(f32::NAN), ..good },
        DecodeShape {
            attention: Attention { attention_sink: Some(&[0.0; 8]), ..good.attention },
            ..good
        },
    ];
    for (i, shape) in bad.into_iter().enumerate() {
        assert!(DecodePlan::new(shape).is_err(), "shape {i}");
    }
    let grouped = |heads| {
        let one = Layout::token_major(1, 64);
        let q = Layout::token_major(heads, 64);
        DecodePlan::new(DecodeShape { q, out: q, cache: cache(one, one), ..good })
    };
    assert!(grouped(16).is_ok() && grouped(0).is_ok());
    assert!(grouped(17).is_err());
}
