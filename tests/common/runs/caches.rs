//! Caches of every layout, and what a compaction leaves in them.

use salient::compact::{KvLayout, KvMode};
use salient::kernels::validate::Pages;
use salient::{Layout, PagedLayout, Ragged, Result, Span};
use salient_oracle::compact::{Kept, hole_fill};
use salient_oracle::generate::Random;

use super::compact::{KvRun, KvStore, MovedKv};
use super::random_bytes;
use crate::device::Device;

/// Where a cache keeps its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    TokenMajor,
    HeadMajor,
    Padded,
    Nhd,
    Hnd,
    Vllm,
}

pub(crate) const FORMS: [Form; 6] =
    [Form::TokenMajor, Form::HeadMajor, Form::Padded, Form::Nhd, Form::Hnd, Form::Vllm];

/// A compaction and all that it depends on.
#[derive(Debug, Clone)]
pub(crate) struct Caches {
    pub(crate) seed: u64,
    pub(crate) form: Form,
    pub(crate) lens: Vec<usize>,
    pub(crate) heads: usize,
    /// Channels per head.
    pub(crate) dim: usize,
    /// Bytes of an element.
    pub(crate) element: usize,
    pub(crate) list_heads: usize,
    pub(crate) share: f64,
    pub(crate) layers: usize,
    pub(crate) mode: KvMode,
    pub(crate) page_size: usize,
    /// Bytes between an aligned address and each tensor.
    pub(crate) skip: usize,
    /// Bytes behind the last token.
    pub(crate) tail: usize,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            seed: 0,
            form: Form::TokenMajor,
            lens: vec![5, 0, 133, 1, 70],
            heads: 2,
            dim: 16,
            element: 2,
            list_heads: 1,
            share: 0.4,
            layers: 2,
            mode: KvMode::Stable,
            page_size: 16,
            skip: 0,
            tail: 13,
        }
    }
}

impl Caches {
    pub(crate) fn source(&self) -> Ragged {
        Ragged::from_lens(&self.lens).expect("short sequences")
    }

    pub(crate) fn lists(&self) -> Vec<Vec<i32>> {
        let mut random = Random::new(self.seed);
        let lens = self.lens.iter().flat_map(|&len| std::iter::repeat_n(len, self.list_heads));
        lens.map(|len| random.subset(len, self.share)).collect()
    }

    pub(crate) fn is_paged(&self) -> bool {
        matches!(self.form, Form::Nhd | Form::Hnd | Form::Vllm)
    }

    /// Spans with a token between them, in reverse order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut end = self.tokens();
        let place = |&len: &usize| {
            end -= len + 1;
            Span { start: end, len }
        };
        self.lens.iter().map(place).collect()
    }

    /// Tokens that a contiguous cache holds.
    pub(crate) fn tokens(&self) -> usize {
        self.lens.iter().map(|len| len + 1).sum::<usize>() + 2
    }

    pub(crate) fn pages(&self) -> Pages {
        let used = |len: &usize| len.div_ceil(self.page_size);
        let max_pages = self.lens.iter().map(used).max().unwrap_or(0) + 1;
        let pages = self.lens.iter().map(used).sum::<usize>() + 3;
        Pages { page_size: self.page_size, max_pages, pages }
    }

    /// Pages in random order; entries that are not used are nonsense.
    pub(crate) fn page_table(&self) -> Vec<i32> {
        let Pages { max_pages, pages, .. } = self.pages();
        let mut unused = Random::new(!self.seed).permutation(pages).into_iter();
        let mut table = vec![i32::MAX; self.lens.len() * max_pages];
        for (row, len) in table.chunks_exact_mut(max_pages).zip(&self.lens) {
            row[..len.div_ceil(self.page_size)]
                .fill_with(|| unused.next().expect("pages enough") as i32);
        }
        table
    }

    /// Of keys and of values.
    pub(crate) fn layouts(&self) -> [KvLayout; 2] {
        let Self { heads, dim, element, page_size, .. } = *self;
        let flat = |layout| KvLayout::contiguous(layout, element).expect("a layout");
        let paged = |layout| KvLayout::paged(layout, element).expect("a layout");
        match self.form {
            Form::TokenMajor => [flat(Layout::token_major(heads, dim)); 2],
            // Values narrower than keys, and the other way round.
            Form::HeadMajor => {
                let tokens = self.tokens();
                [dim, dim / 2].map(|dim| flat(Layout::head_major(heads, dim, tokens)))
            }
            Form::Padded => [dim, 2 * dim].map(|dim| {
                let (head_stride, token_stride) = (dim + 2, heads * (dim + 2) + 5);
                flat(Layout { token_stride, head_stride, ..Layout::token_major(heads, dim) })
            }),
            Form::Nhd => [paged(PagedLayout::nhd(page_size, heads, dim)); 2],
            Form::Hnd => [paged(PagedLayout::hnd(page_size, heads, dim)); 2],
            Form::Vllm => [
                KvLayout::vllm_keys(page_size, heads, dim, element).expect("a layout"),
                KvLayout::vllm_values(page_size, heads, dim, element).expect("a layout"),
            ],
        }
    }

    /// Keys and values of every layer before.
    pub(crate) fn before(&self) -> Vec<Vec<u8>> {
        let (pages, slots) = match self.is_paged() {
            true => (self.pages().pages, self.page_size),
            false => (1, self.tokens()),
        };
        let len = |l: KvLayout| {
            let last = (pages - 1) * l.page_stride + (slots - 1) * l.token_stride;
            last + (l.lanes - 1) * l.lane_stride + l.lane_bytes + self.tail
        };
        let layouts = self.layouts();
        (0..2 * self.layers)
            .map(|t| random_bytes(len(layouts[t % 2]), self.seed ^ (t as u64) << 40))
            .collect()
    }

    pub(crate) fn upload(&self, device: &Device) -> Result<KvRun> {
        let (source, lists) = (self.source(), self.lists());
        let kept = Kept { source: &source, heads: self.list_heads, lists: &lists };
        let (spans, table) = (self.spans(), self.page_table());
        let store = match self.is_paged() {
            true => KvStore::Paged(&table, self.pages()),
            false => KvStore::Contiguous(&spans, self.tokens()),
        };
        KvRun::new(device, &kept, 3, self.layouts(), self.layers, self.mode, store)
    }

    /// Launches, perhaps on lists that a test has spoilt.
    pub(crate) fn launch(&self, device: &Device, run: &KvRun) -> Result<MovedKv> {
        run.launch(device, &self.before(), self.skip)
    }

    pub(crate) fn run(&self, device: &Device) -> Result<MovedKv> {
        self.launch(device, &self.upload(device)?)
    }

    /// The old token in each place of each list.
    pub(crate) fn orders(&self) -> Vec<Vec<i32>> {
        let order = |list: Vec<i32>| match self.mode {
            KvMode::Stable => list,
            KvMode::HoleFill => hole_fill(&list),
        };
        self.lists().into_iter().map(order).collect()
    }

    /// The first byte of a lane of a token.
    fn offset(&self, layout: &KvLayout, sequence: usize, token: usize, lane: usize) -> usize {
        let (page, slot) = match self.is_paged() {
            true => {
                let row = sequence * self.pages().max_pages;
                let page = self.page_table()[row + token / self.page_size];
                (page as usize, token % self.page_size)
            }
            false => (0, self.spans()[sequence].start + token),
        };
        page * layout.page_stride + slot * layout.token_stride + lane * layout.lane_stride
    }

    /// Every tensor once the tokens of `orders` have come to their places and nothing else has
    /// changed.
    pub(crate) fn after(&self, orders: &[Vec<i32>]) -> Vec<Vec<u8>> {
        let before = self.before();
        let mut after = before.clone();
        for (t, layout) in self.layouts().iter().cycle().take(2 * self.layers).enumerate() {
            for (row, order) in orders.iter().enumerate() {
                let (sequence, head) = (row / self.list_heads, row % self.list_heads);
                let lanes = layout.lanes / self.list_heads;
                for (place, &token) in order.iter().enumerate() {
                    for lane in head * lanes..(head + 1) * lanes {
                        let from = self.offset(layout, sequence, token as usize, lane);
                        let to = self.offset(layout, sequence, place, lane);
                        let lane = &before[t][from..from + layout.lane_bytes];
                        after[t][to..to + layout.lane_bytes].copy_from_slice(lane);
                    }
                }
            }
        }
        after
    }

    /// Bytes read and written by the rows that really move.
    pub(crate) fn least_bytes(&self) -> u64 {
        let moving = |order: &Vec<i32>| {
            order.iter().zip(0..).filter(|&(&token, place)| token != place).count() as u64
        };
        let moves: u64 = self.orders().iter().map(moving).sum();
        let token: usize = self.layouts().iter().map(|l| l.lanes * l.lane_bytes).sum();
        2 * moves * (token / self.list_heads * self.layers) as u64
    }
}
