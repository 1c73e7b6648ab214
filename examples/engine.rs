//! An engine compresses its paged KV cache: the last queries of each prompt score its tokens, a
//! third of them stays, the pages that no token needs any more come back, and decode goes on over
//! what is left. `cargo run --release --features cuda --example engine`

use std::sync::Arc;

use half::bf16;
use salient::attend::{Attention, CacheLayout, KeyLists};
use salient::compact::{KvLayout, KvMode};
use salient::cuda::compact::KvTable;
use salient::cuda::cudarc::driver::{CudaContext, CudaStream};
use salient::cuda::{Array, Backend, CachedKeys, Place, Session, TensorView, probe};
use salient::kernels::compact::{KvPlan, KvShape};
use salient::kernels::validate::Pages;
use salient::score::{AttentionScore, HeadReduce, Per, QueryWeights};
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{PagedLayout, Ragged, Result};

#[allow(dead_code, reason = "tests call what it calls")]
fn main() -> Result<()> {
    let backend = probe();
    println!("backend: {backend}");
    if let Backend::Cuda(_) = backend {
        let mut engine = Engine::after_prefill(&CudaContext::new(0)?.new_stream()?)?;
        let freed = engine.compress(1.0 / 3.0)?;
        println!("a third of the tokens stays; pages {freed:?} are free");
        println!("the next token attends to them: {:?}", &engine.decode()?[..4]);
    }
    Ok(())
}

const Q_HEADS: usize = 8;
const HEADS: usize = 2;
const DIM: usize = 64;
const PAGES: Pages = Pages { page_size: 16, max_pages: 5, pages: 12 };

/// What an engine has after a prefill: one layer's cache, and the prompt's queries and keys, which
/// are still there.
pub(crate) struct Engine {
    session: Session,
    prompts: Ragged,
    q: Array<bf16>,
    k: Array<bf16>,
    pool: [Array<bf16>; 2],
    page_table: Array<i32>,
    lens: Array<i32>,
}

impl Engine {
    /// Keeps `ratio` of every prompt's tokens. Gives the pages that are free now.
    pub(crate) fn compress(&mut self, ratio: f64) -> Result<Vec<i32>> {
        let Self { session, prompts, .. } = self;
        let (q, k) = (
            TensorView::token_major(self.q.view(), Q_HEADS, DIM),
            TensorView::token_major(self.k.view(), HEADS, DIM),
        );
        let score = AttentionScore {
            scale: (DIM as f32).powf(-0.5),
            heads: HeadReduce::Mean,
            per: Per::Token,
            pool: None,
            query_weights: QueryWeights::Uniform,
        };
        let scores = session.window((&q, prompts), (&k, prompts), 16, &score)?;
        let edges = PerSequence::All(Edges { sinks: 4, recent: 8 });
        let protect = Protect { edges, mask: None };
        let request = Request { rows: prompts, heads: 1, budget: Budget::Ratio(ratio), protect };
        let selection = session.select(&scores.view(), &request)?;

        let layout = KvLayout::paged(paged(), size_of::<bf16>())?;
        let shape = KvShape {
            batch: prompts.batch(),
            layers: 1,
            list_heads: 1,
            capacity: selection.capacity(),
            keys: layout,
            values: layout,
            mode: KvMode::Stable,
        };
        let [keys, values] = &mut self.pool;
        let mut layers = [[keys.view_mut(), values.view_mut()]];
        let table = KvTable::new(session.stream(), KvPlan::paged(shape, PAGES)?, &mut layers)?;
        let place = Place::Pages(self.page_table.view());
        let freed = session.compact_kv(&selection, &table, &mut layers, &place)?;
        session.finish()?.check()?;
        self.lens = selection.kept_lens;
        let freed = freed.expect("a paged cache has pages");
        let count = freed.count.to_host(session.stream())?[0];
        Ok(freed.pages.to_host(session.stream())?[..count as usize].to_vec())
    }

    /// Attention of the next tokens' queries over what is in the cache.
    pub(crate) fn decode(&mut self) -> Result<Vec<f32>> {
        let Pages { max_pages, pages, page_size } = PAGES;
        let keys = CachedKeys {
            k: self.pool[0].view(),
            v: self.pool[1].view(),
            layout: CacheLayout::Paged { layout: paged(), max_pages, pages },
            place: Place::Pages(self.page_table.view()),
            lens: self.lens.view(),
        };
        let q = self.session.upload(&numbers(9, self.prompts.batch() * Q_HEADS * DIM))?;
        let q = TensorView::token_major(q.view(), Q_HEADS, DIM);
        let (capacity, attention) = (max_pages * page_size, Attention::new(0.125));
        let attended = self.session.decode(&q, &keys, KeyLists::Dense, capacity, &attention)?;
        self.session.finish()?.check()?;
        attended.out.to_host(self.session.stream())
    }

    /// Two prompts, of 70 and 37 tokens, with numbers that stand in for a model's.
    pub(crate) fn after_prefill(stream: &Arc<CudaStream>) -> Result<Self> {
        let session = Session::new(stream)?;
        let prompts = Ragged::from_lens(&[70, 37])?;
        let page_table = [7, 2, 11, 0, 5, 1, 9, 4, -1, -1];
        let row = HEADS * DIM;
        let (k, v) = (numbers(2, prompts.total() * row), numbers(3, prompts.total() * row));
        // The prompts' keys and values on their pages.
        let on_pages = |rows: &[bf16]| {
            let mut pool = vec![bf16::ZERO; PAGES.pages * PAGES.page_size * row];
            for (sequence, span) in prompts.spans().enumerate() {
                for token in 0..span.len {
                    let page = page_table[sequence * PAGES.max_pages + token / PAGES.page_size];
                    let slot = page as usize * PAGES.page_size + token % PAGES.page_size;
                    let from = &rows[(span.start + token) * row..][..row];
                    pool[slot * row..][..row].copy_from_slice(from);
                }
            }
            session.upload(&pool)
        };
        let pool = [on_pages(&k)?, on_pages(&v)?];
        let lens: Vec<i32> = prompts.lens().map(|len| len as i32).collect();
        Ok(Self {
            q: session.upload(&numbers(1, prompts.total() * Q_HEADS * DIM))?,
            k: session.upload(&k)?,
            pool,
            page_table: session.upload(&page_table)?,
            lens: session.upload(&lens)?,
            prompts,
            session,
        })
    }
}

fn paged() -> PagedLayout {
    PagedLayout::nhd(PAGES.page_size, HEADS, DIM)
}

fn numbers(seed: usize, len: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32(((i * (seed + 2)) as f32 * 0.37).sin())).collect()
}
