//! Prefill attention beside candle's own: matmul, softmax, matmul over the full square, and its
//! fused CPU kernel. Shapes are SmolLM2-135M's (9 query heads, 3 KV heads, 64 channels) and a wider
//! one.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use salient::attend::{Attention, Keys, RowLimit};
use salient::host::attend;
use salient::{Ragged, Span, View, ViewMut};

struct Case {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// `[tokens, heads, dim]`.
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Case {
    fn new(tokens: usize, heads: usize, kv_heads: usize, dim: usize) -> Self {
        let random = |heads| Tensor::randn(0f32, 1.0, (tokens, heads, dim), &Device::Cpu).unwrap();
        Self {
            tokens,
            heads,
            kv_heads,
            dim,
            q: random(heads),
            k: random(kv_heads),
            v: random(kv_heads),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn salient(&self) -> Vec<f32> {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        self.salient_on(&values(&self.q), &values(&self.k), &values(&self.v))
    }

    fn salient_on(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.tokens * self.heads * self.dim];
        let spans = [Span { start: 0, len: self.tokens }];
        let keys = Keys::Contiguous {
            k: View::token_major(k, self.kv_heads, self.dim),
            v: View::token_major(v, self.kv_heads, self.dim),
            spans: &spans,
        };
        attend::prefill(
            View::token_major(q, self.heads, self.dim),
            &Ragged::from_lens(&[self.tokens]).unwrap(),
            &keys,
            RowLimit::Causal,
            &Attention::new(self.scale()),
            ViewMut::token_major(&mut out, self.heads, self.dim),
            None,
        )
        .unwrap();
        out
    }

    /// As candle-transformers' Llama does it.
    fn candle_matmul(&self, mask: &Tensor) -> candle_core::Result<Tensor> {
        let group = self.heads / self.kv_heads;
        let heads_first = |t: &Tensor| t.unsqueeze(0)?.transpose(1, 2)?.contiguous();
        let q = heads_first(&self.q)?;
        let k = candle_transformers::utils::repeat_kv(heads_first(&self.k)?, group)?;
        let v = candle_transformers::utils::repeat_kv(heads_first(&self.v)?, group)?;
        let scores = (q.matmul(&k.t()?)? * f64::from(self.scale()))?;
        let hidden = Tensor::new(f32::NEG_INFINITY, &Device::Cpu)?.broadcast_as(scores.shape())?;
        let masked = mask.broadcast_as(scores.shape())?.where_cond(&hidden, &scores)?;
        let weights = candle_nn::ops::softmax(&masked, D::Minus1)?;
        weights.matmul(&v.contiguous()?)
    }

    /// candle's fused kernel: causal by itself, KV heads shared by itself.
    fn candle_fused(&self) -> candle_core::Result<Tensor> {
        candle_nn::attention::flash_attn::<f32>(
            &self.q.unsqueeze(0)?,
            &self.k.unsqueeze(0)?,
            &self.v.unsqueeze(0)?,
            self.scale(),
            candle_nn::attention::AttnMask::causal(),
            None,
            None,
        )
    }
}

fn causal(tokens: usize) -> Tensor {
    let mask: Vec<u8> =
        (0..tokens).flat_map(|i| (0..tokens).map(move |j| u8::from(j > i))).collect();
    Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu).unwrap()
}

fn prefill(c: &mut Criterion) {
    for (heads, kv_heads, dim) in [(9, 3, 64), (32, 8, 128)] {
        let mut group = c.benchmark_group(format!("attend/prefill/{heads}x{kv_heads}x{dim}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
        for tokens in [128, 512, 1024, 2048, 4096] {
            if dim == 128 && tokens > 2048 {
                continue;
            }
            let case = Case::new(tokens, heads, kv_heads, dim);
            let mask = causal(tokens);
            let expected: Vec<f32> = case
                .candle_matmul(&mask)
                .and_then(|t| t.to_dtype(DType::F32)?.transpose(1, 2)?.flatten_all()?.to_vec1())
                .unwrap();
            let close =
                |actual: &[f32]| actual.iter().zip(&expected).all(|(a, e)| (a - e).abs() < 1e-4);
            assert!(close(&case.salient()), "salient disagrees with candle at {tokens}");
            let fused = case.candle_fused().and_then(|t| {
                // [1, heads, tokens, dim]
                t.transpose(1, 2)?.flatten_all()?.to_vec1::<f32>()
            });
            assert!(close(&fused.unwrap()), "candle's two kernels disagree at {tokens}");

            // 4 * dim operations a visible pair.
            let pairs = tokens * (tokens + 1) / 2 * heads;
            group.throughput(Throughput::Elements((4 * dim * pairs) as u64));
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (q, k, v) = (values(&case.q), values(&case.k), values(&case.v));
            group.bench_function(BenchmarkId::new("salient", tokens), |b| {
                b.iter(|| black_box(case.salient_on(&q, &k, &v)));
            });
            group.bench_function(BenchmarkId::new("candle-matmul", tokens), |b| {
                b.iter(|| black_box(case.candle_matmul(&mask).unwrap()));
            });
            group.bench_function(BenchmarkId::new("candle-fused", tokens), |b| {
                b.iter(|| black_box(case.candle_fused().unwrap()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, prefill);
criterion_main!(benches);
