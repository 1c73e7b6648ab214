//! **attend**, one query per sequence over caches in fp8, on the emulated kernels: the conformance
//! suite, what they move, bad data, and that they always give the same bits.

use half::{bf16, f16};
use salient::dtype::F8E4M3;
use salient::host::attend::{Attention, KeyLists, Keys};
use salient::kernels::{Fault, Status};
use salient::{DType, Element, Layout, PagedLayout, Ragged, Span, View};
use salient_emulator::{DecodeOutputs, DecodeRun, Device, Emulated};
use salient_oracle::generate::Random;
use salient_oracle::implementation::Sample;
use salient_oracle::suite::{assert_same_bits, attend};

/// The suite under both capabilities, other cases for each.
#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(3, seed);
        attend::fp8(&Emulated { seed, capability, sample, ..Emulated::default() });
    }
}

const KV_HEADS: usize = 2;
const LENS: [usize; 2] = [700, 40];

/// A cache of two sequences, paged unless a page has 0 tokens, and a list for each head.
struct Problem<T> {
    q: Vec<T>,
    k: Vec<F8E4M3>,
    v: Vec<F8E4M3>,
    lists: Vec<Vec<i32>>,
    heads: usize,
    dim: usize,
    page_size: usize,
}

impl<T: Element> Problem<T> {
    fn new(dim: usize, group: usize, page_size: usize, share: f64) -> Self {
        let mut random = Random::new((dim + group) as u64);
        let tokens = match page_size {
            0 => LENS.iter().sum::<usize>(),
            size => LENS.iter().map(|len| len.div_ceil(size) * size).sum(),
        };
        let heads = KV_HEADS * group;
        let q = random.normals(LENS.len() * heads * dim, 1.0);
        let mut cache = || -> Vec<F8E4M3> {
            let values = random.normals(tokens * KV_HEADS * dim, 1.0);
            values.into_iter().map(F8E4M3::from_f32).collect()
        };
        let (k, v) = (cache(), cache());
        let lists = LENS.iter().flat_map(|&len| [len; KV_HEADS]);
        let lists = lists.map(|len| random.subset(len, share)).collect();
        Self { q: q.into_iter().map(T::from_f32).collect(), k, v, lists, heads, dim, page_size }
    }

    fn run(&self, device: &Device, scales: Option<&[f32]>) -> DecodeRun<T, F8E4M3> {
        let spans: Vec<Span> = Ragged::from_lens(&LENS).unwrap().spans().collect();
        let pages = |len: usize| len.div_ceil(self.page_size.max(1)) as i32;
        let (first, second) = (pages(LENS[0]), pages(LENS[1]));
        let mut page_table: Vec<i32> = (0..first).chain(first..first + second).collect();
        page_table.resize(2 * first as usize, -1);
        let view = |data| View::token_major(data, KV_HEADS, self.dim);
        let keys = match self.page_size {
            0 => Keys::Contiguous { k: view(&self.k[..]), v: view(&self.v), spans: &spans },
            size => Keys::Paged {
                k: &self.k,
                v: &self.v,
                layout: PagedLayout::hnd(size, KV_HEADS, self.dim),
                page_table: &page_table,
                lens: &LENS,
            },
        };
        let lens: Vec<usize> = self.lists.iter().map(Vec::len).collect();
        let (entries, lists) = (self.lists.concat(), Ragged::from_lens(&lens).unwrap());
        let lists = KeyLists::PerHead { keys: &entries, lists: &lists };
        let plain = Attention::new((self.dim as f32).powf(-0.5));
        let attention = Attention { k_scales: scales, v_scales: scales, ..plain };
        let layout = Layout::token_major(self.heads, self.dim);
        DecodeRun::new(device, [layout; 2], DType::F32, &keys, lists, &attention, 0).unwrap()
    }

    fn launch(&self, device: &Device, run: &DecodeRun<T, F8E4M3>) -> DecodeOutputs<f32> {
        run.launch(device, false, &self.q, &vec![7.0; self.q.len()], true).unwrap()
    }
}

/// A byte for each element of each listed row, once, in whole sectors.
#[test]
fn listed_rows_are_read_once() {
    let on = Emulated { counting: true, ..Emulated::default() };
    for (dim, group, page_size, share) in
        [(64, 4, 0, 0.3), (96, 1, 0, 0.5), (128, 8, 16, 0.5), (128, 16, 1, 1.0), (256, 12, 5, 0.5)]
    {
        let problem = Problem::<bf16>::new(dim, group, page_size, share);
        let device = on.device();
        let outputs = problem.launch(&device, &problem.run(&device, Some(&[0.5, 2.0])));
        assert_eq!(outputs.status, Status::CLEAR);
        let context = format!("dim {dim}, group {group}, pages of {page_size}");
        let traffic = &outputs.launched[0].traffic;
        let listed: usize = problem.lists.iter().map(Vec::len).sum();
        for name in ["k", "v"] {
            let read = traffic.buffer(name).read;
            assert_eq!(read.bytes as usize, listed * dim, "{context}: {name}");
            assert_eq!(read.sectors, read.least_sectors, "{context}: {name}");
        }
        assert!(traffic.shared.ways() <= 1.1, "{context}: {:?}", traffic.shared_sites);
    }
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let problem = Problem::<f16>::new(128, 3, 16, 0.6);
    let mut first = None;
    for seed in 0..20 {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        let device = Emulated { seed, capability, ..Emulated::default() }.device();
        let outputs = problem.launch(&device, &problem.run(&device, None));
        let expected = first.get_or_insert_with(|| outputs.out.clone());
        assert_same_bits(&outputs.out, expected, &format!("seed {seed}"));
    }
}

/// Entries and pages that name no key are left out, and scales that are no numbers stay in their head.
#[test]
fn bad_device_data_is_reported_or_stays_where_it_is() {
    let device = Emulated::default().device();
    let problem = Problem::<bf16>::new(64, 2, 8, 0.5);
    let run = problem.run(&device, Some(&[0.5, 2.0]));
    let clean = problem.launch(&device, &run);
    assert!(clean.out.iter().chain(&clean.lse).all(|x| x.is_finite()));
    for entry in [-1, i32::MIN, i32::MAX, LENS[0] as i32] {
        let mut run = problem.run(&device, Some(&[0.5, 2.0]));
        let mut kept = run.kept.as_ref().unwrap().read();
        kept[3] = entry;
        run.kept.as_mut().unwrap().write(&kept);
        let outputs = problem.launch(&device, &run);
        assert!(outputs.status.has(Fault::Index), "{entry}");
        assert!(outputs.out.iter().all(|x| x.is_finite()), "{entry}");
        assert_same_bits(&outputs.out[2 * 64..], &clean.out[2 * 64..], "the other lists");
    }
    for page in [-1, i32::MAX, 88 + 5] {
        let mut run = problem.run(&device, Some(&[0.5, 2.0]));
        let mut table = run.page_table.as_ref().unwrap().read();
        table[2] = page;
        run.page_table.as_mut().unwrap().write(&table);
        let outputs = problem.launch(&device, &run);
        assert_eq!(outputs.status.faults().collect::<Vec<_>>(), [Fault::Page], "{page}");
        assert!(outputs.out.iter().all(|x| x.is_finite()), "{page}");
    }
    for at in 0..2 {
        let mut run = problem.run(&device, None);
        let mut scales = [Some(vec![0.5, 2.0]), Some(vec![0.5, 2.0])];
        scales[at] = Some(vec![0.5, f32::NAN]);
        run.scales = scales.map(|scales| scales.map(|scales| device.upload("scales", &scales)));
        let outputs = problem.launch(&device, &run);
        assert_eq!(outputs.status, Status::CLEAR);
        for (row, (out, clean)) in outputs.out.chunks(64).zip(clean.out.chunks(64)).enumerate() {
            if row % problem.heads < 2 {
                assert_same_bits(out, clean, &format!("row {row}"));
            } else {
                assert!(out.iter().all(|x| x.is_nan()), "row {row}");
            }
        }
    }
}
