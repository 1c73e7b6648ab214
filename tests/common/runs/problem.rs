//! Problems of random numbers.

use salient::attend::{Attention, KeyLists, Keys, PackedLists};
use salient::cuda::DeviceElement;
use salient::kernels::score::{AttentionPlan, AttentionShape, MlpWeights};
use salient::score::{AttentionScore, HeadReduce, Per, PredictorWeights, QueryWeights};
use salient::{DType, Layout, PagedLayout, Ragged, Result, Span, View};
use salient_oracle::generate::Random;

use super::attend::{Attended, DecodeRun};
use super::score::{AttentionRun, saved_lse};
use crate::device::Device;

pub(crate) const KV_HEADS: usize = 2;

/// Keys and lists of some sequences; anything may be changed.
#[derive(Debug, Clone)]
pub(crate) struct Decoding<T, C = T> {
    pub(crate) q: Vec<T>,
    pub(crate) k: Vec<C>,
    pub(crate) v: Vec<C>,
    pub(crate) lens: Vec<usize>,
    /// One for each sequence and KV head, or none at all.
    pub(crate) lists: Vec<Vec<i32>>,
    pub(crate) group: usize,
    pub(crate) dim: usize,
    /// Tokens per page; 0: contiguous.
    pub(crate) page_size: usize,
    /// Of keys and values.
    pub(crate) scales: Option<[f32; KV_HEADS]>,
}

impl<T: DeviceElement + Default, C: DeviceElement + Default> Decoding<T, C> {
    pub(crate) fn new(
        lens: &[usize],
        share: f64,
        group: usize,
        dim: usize,
        page_size: usize,
    ) -> Self {
        let mut random = Random::new((group * dim) as u64);
        let tokens = match page_size {
            0 => lens.iter().sum::<usize>(),
            size => lens.iter().map(|len| len.div_ceil(size) * size).sum(),
        };
        let q = normals(&mut random, lens.len() * KV_HEADS * group * dim);
        let k = normals(&mut random, tokens * KV_HEADS * dim);
        let v = normals(&mut random, tokens * KV_HEADS * dim);
        let lists = lens.iter().flat_map(|&len| [len; KV_HEADS]);
        let lists = lists.map(|len| random.subset(len, share)).collect();
        let scales = (C::DTYPE == DType::F8E4M3).then_some([0.5, 2.0]);
        Self { q, k, v, lens: lens.to_vec(), lists, group, dim, page_size, scales }
    }

    pub(crate) fn heads(&self) -> usize {
        KV_HEADS * self.group
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::token_major(self.heads(), self.dim)
    }

    /// Plans a run over a list per head, or over every key if there are none.
    pub(crate) fn run(
        &self,
        device: &Device,
        out: Layout,
        out_dtype: DType,
        spare: usize,
    ) -> Result<DecodeRun<T, C>> {
        let rows = Ragged::from_lens(&self.lens)?;
        let spans: Vec<Span> = rows.spans().collect();
        let pages = |len: &usize| len.div_ceil(self.page_size.max(1));
        let max_pages = self.lens.iter().map(pages).max().unwrap_or(0);
        let mut next = 0..;
        let mut page_table = vec![-7; self.lens.len() * max_pages];
        for (row, len) in page_table.chunks_exact_mut(max_pages.max(1)).zip(&self.lens) {
            row[..pages(len)].fill_with(|| next.next().expect("pages without end"));
        }
        let view = |data| View::token_major(data, KV_HEADS, self.dim);
        let keys = match self.page_size {
            0 => Keys::Contiguous { k: view(&self.k[..]), v: view(&self.v), spans: &spans },
            size => Keys::Paged {
                k: &self.k,
                v: &self.v,
                layout: PagedLayout::nhd(size, KV_HEADS, self.dim),
                page_table: &page_table,
                lens: &self.lens,
            },
        };
        let lens: Vec<usize> = self.lists.iter().map(Vec::len).collect();
        let (entries, lists) = (self.lists.concat(), Ragged::from_lens(&lens)?);
        let lists = match self.lists.len() {
            0 => KeyLists::Dense,
            _ => KeyLists::PerHead(PackedLists { keys: &entries, lists: &lists }),
        };
        let scales = self.scales.as_ref().map(|scales| &scales[..]);
        let plain = Attention::new((self.dim as f32).powf(-0.5));
        let attention = Attention { k_scales: scales, v_scales: scales, ..plain };
        let q = View::new(&self.q[..], self.layout());
        DecodeRun::new(device, q, (out, out_dtype), &keys, lists, &attention, spare)
    }

    pub(crate) fn solve(&self, device: &Device, spare: usize) -> Result<Attended<f32>> {
        self.run(device, self.layout(), DType::F32, spare)?.launch(device, &self.untouched())
    }

    /// What an output holds before.
    pub(crate) fn untouched(&self) -> Vec<f32> {
        vec![7.0; self.q.len()]
    }

    /// A sequence by itself, of a contiguous cache.
    pub(crate) fn alone(&self, sequence: usize) -> Self {
        let first: usize = self.lens[..sequence].iter().sum();
        let (len, width) = (self.lens[sequence], KV_HEADS * self.dim);
        let cut = |tensor: &[C]| tensor[first * width..(first + len) * width].to_vec();
        let q_width = self.heads() * self.dim;
        Self {
            q: self.q[sequence * q_width..][..q_width].to_vec(),
            k: cut(&self.k),
            v: cut(&self.v),
            lens: vec![len],
            lists: self.lists[sequence * KV_HEADS..][..KV_HEADS].to_vec(),
            ..self.clone()
        }
    }
}

fn normals<T: DeviceElement>(random: &mut Random, len: usize) -> Vec<T> {
    random.normals(len, 1.0).into_iter().map(T::from_f32).collect()
}

/// Normal numbers.
pub(crate) fn values<T: DeviceElement>(len: usize, seed: u64) -> Vec<T> {
    normals(&mut Random::new(seed), len)
}

/// A predictor with a norm.
pub(crate) fn mlp_weights<T: DeviceElement>(hidden: usize, width: usize) -> MlpWeights<T> {
    let mut random = Random::new(width as u64);
    let mut normals = |len, fan: usize| random.normals(len, (fan as f32).powf(-0.5));
    let weights = PredictorWeights {
        w1: normals(width * hidden, hidden),
        b1: normals(width, 4),
        w2: normals(width, width),
        b2: normals(1, 1),
        norm: Some((normals(hidden, 1), 1e-5)),
    };
    MlpWeights::new(hidden, weights).expect("good weights")
}

/// The mean attention of all heads, unpooled.
pub(crate) fn plain_score(dim: usize) -> AttentionScore {
    AttentionScore {
        scale: (dim as f32).powf(-0.5),
        heads: HeadReduce::Mean,
        per: Per::Token,
        pool: None,
        query_weights: QueryWeights::Uniform,
    }
}

/// Queries of all tokens, and keys.
pub(crate) struct Scoring<T> {
    pub(crate) q: Vec<T>,
    pub(crate) k: Vec<T>,
    pub(crate) rows: Ragged,
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) dim: usize,
}

impl<T: DeviceElement + Default> Scoring<T> {
    pub(crate) fn new(lens: &[usize], kv_heads: usize, group: usize, dim: usize) -> Self {
        let rows = Ragged::from_lens(lens).expect("short rows");
        let mut random = Random::new(dim as u64);
        let mut normals = |len| random.normals(len, 1.5).into_iter().map(T::from_f32).collect();
        let keys = rows.total() * kv_heads * dim;
        let (q, k) = (normals(group * keys), normals(keys));
        Self { q, k, rows, kv_heads, group, dim }
    }

    pub(crate) fn views(&self) -> [View<'_, T>; 2] {
        let view = |data, heads| View::token_major(data, heads, self.dim);
        [view(&self.q[..], self.kv_heads * self.group), view(&self.k[..], self.kv_heads)]
    }

    /// With the queries of all tokens there, of which a plan takes the last.
    pub(crate) fn run(
        &self,
        device: &Device,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        lse: Option<&[f32]>,
    ) -> Result<AttentionRun<T>> {
        let [q, k] = self.views();
        AttentionRun::new(device, plan, [(q, &self.rows), (k, &self.rows)], lse)
    }

    pub(crate) fn scores(
        &self,
        device: &Device,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        lse: Option<&[f32]>,
    ) -> Result<Vec<f32>> {
        let scored = self.run(device, plan, lse)?.launch(device)?;
        scored.status.check()?;
        Ok(scored.scores)
    }

    pub(crate) fn lse(&self, device: &Device) -> Result<Vec<f32>> {
        let [q, k] = self.views();
        saved_lse(device, q, k, &self.rows, plain_score(self.dim).scale)
    }
}
