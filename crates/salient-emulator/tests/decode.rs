//! **attend**, one query per sequence, on the emulated kernels: the conformance suite, what they
//! move, bad lists, and that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::attend::{Attention, KeyLists, Keys};
use salient::kernels::{Fault, Status};
use salient::{DType, Element, Layout, PagedLayout, Ragged, Span, View};
use salient_emulator::{DecodeOutputs, DecodeRun, Device, Emulated};
use salient_oracle::generate::Random;
use salient_oracle::implementation::Sample;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{self, Case, Decode, Sees, Store, Values};

/// The suite under both capabilities, other cases for each.
#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(4, seed);
        attend::decode(&Emulated { seed, capability, sample, ..Emulated::default() });
    }
}

#[test]
fn every_group_and_head_size() {
    let on = &Emulated::default();
    let mut stores = Store::ALL.into_iter().filter(|&s| s != Store::Padded).cycle();
    let mut sees = [Sees::PerHead(0.4), Sees::Dense, Sees::Shared(0.5)].into_iter().cycle();
    let mut dims = [64, 96, 128, 256, 8, 72, 104, 192].into_iter().cycle();
    for turn in 0..3 {
        for group in 1..=16 {
            let dim = dims.next().expect("a cycle");
            let plain = Case::decode(group as u64, &[70, 0, 310], sees.next().expect("a cycle"));
            let attention = Attention::new((dim as f32).powf(-0.5));
            let values = if turn == 1 { Values::Large } else { Values::Normal };
            let store = stores.next().expect("a cycle");
            let case = Case { group, dim, attention, store, values, ..plain };
            case.check_built(&Decode(on), &case.build::<f16>(), "");
            case.check_built(&Decode(on), &case.build::<bf16>(), "");
        }
        dims.next();
    }
}

#[test]
fn infinite_keys_weigh_as_they_should() {
    let on = Emulated::default();
    for sees in [Sees::Dense, Sees::PerHead(0.5)] {
        let plain = Case { dim: 64, ..Case::decode(3, &[20, 300], sees) };
        for sinks in [false, true] {
            let case = Case { sinks, ..plain.clone() };
            for infinity in [f32::INFINITY, f32::NEG_INFINITY] {
                let clean = case.build::<f16>();
                let mut one = clean.clone();
                one.k[(2 * case.kv_heads + 1) * case.dim + 7] = f16::from_f32(infinity);
                case.check_built(&Decode(&on), &one, "with an infinite key");
                let mut all = clean.clone();
                for key in all.k.chunks_exact_mut(case.dim) {
                    key[3] = f16::from_f32(infinity);
                }
                case.check_built(&Decode(&on), &all, "with infinite keys");
            }
        }
    }
}

/// A sink that is no logit makes NaN of its head's rows, empty ones too, and of no other.
#[test]
fn sinks_that_are_no_logits_stay_in_their_head() {
    let device = Emulated::default().device();
    for bad in [f32::NAN, f32::INFINITY] {
        let problem = Problem::<bf16>::new(&[60, 700, 0], 0.9, 4, 64, 0);
        let mut run = problem.run(&device, problem.layout(), DType::F32, 0);
        let mut sinks = vec![0.5; problem.heads()];
        let launch = |run: &DecodeRun<bf16>| {
            run.launch(&device, false, &problem.q, &problem.unwritten(), true).unwrap()
        };
        run.sinks = Some(device.upload("sinks", &sinks));
        let clean = launch(&run);
        sinks[5] = bad;
        run.sinks = Some(device.upload("sinks", &sinks));
        let outputs = launch(&run);
        assert_eq!(outputs.status, Status::CLEAR);
        for (row, lse) in outputs.lse.iter().enumerate() {
            let (out, clean_out) = (&outputs.out[row * 64..][..64], &clean.out[row * 64..][..64]);
            if row % problem.heads() == 5 {
                assert!(lse.is_nan() && out.iter().all(|x| x.is_nan()), "{bad} in row {row}");
            } else {
                assert_eq!(lse.to_bits(), clean.lse[row].to_bits(), "row {row}");
                assert_same_bits(out, clean_out, &format!("row {row}"));
            }
        }
    }
}

/// Keys and lists of two sequences; anything may be changed.
#[derive(Debug, Clone)]
struct Problem<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    lens: Vec<usize>,
    lists: Vec<Vec<i32>>,
    group: usize,
    dim: usize,
    /// Tokens per page; 0: contiguous.
    page_size: usize,
}

const KV_HEADS: usize = 2;

impl<T: Element> Problem<T> {
    fn new(lens: &[usize], share: f64, group: usize, dim: usize, page_size: usize) -> Self {
        let mut random = Random::new((group * dim) as u64);
        let tokens = match page_size {
            0 => lens.iter().sum::<usize>(),
            size => lens.iter().map(|len| len.div_ceil(size) * size).sum(),
        };
        let mut values =
            |len| -> Vec<T> { random.normals(len, 1.0).into_iter().map(T::from_f32).collect() };
        let q = values(lens.len() * KV_HEADS * group * dim);
        let (k, v) = (values(tokens * KV_HEADS * dim), values(tokens * KV_HEADS * dim));
        let lists = lens.iter().flat_map(|&len| [len; KV_HEADS]);
        let lists = lists.map(|len| random.subset(len, share)).collect();
        Self { q, k, v, lens: lens.to_vec(), lists, group, dim, page_size }
    }

    fn heads(&self) -> usize {
        KV_HEADS * self.group
    }

    fn layout(&self) -> Layout {
        Layout::token_major(self.heads(), self.dim)
    }

    /// Plans a run over a list per head, or over every key if there are none.
    fn run(&self, device: &Device, out: Layout, out_dtype: DType, spare: usize) -> DecodeRun<T> {
        let rows = Ragged::from_lens(&self.lens).unwrap();
        let spans: Vec<Span> = rows.spans().collect();
        let pages = |len: &usize| len.div_ceil(self.page_size.max(1));
        let max_pages = self.lens.iter().map(pages).max().unwrap_or(0);
        let mut next = 0..;
        let mut page_table = vec![-7; self.lens.len() * max_pages];
        for (row, len) in page_table.chunks_exact_mut(max_pages.max(1)).zip(&self.lens) {
            row[..pages(len)].fill_with(|| next.next().unwrap());
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
        let (entries, lists) = (self.lists.concat(), Ragged::from_lens(&lens).unwrap());
        let lists = match self.lists.len() {
            0 => KeyLists::Dense,
            _ => KeyLists::PerHead { keys: &entries, lists: &lists },
        };
        let attention = Attention::new((self.dim as f32).powf(-0.5));
        let layouts = [self.layout(), out];
        DecodeRun::new(device, layouts, out_dtype, &keys, lists, &attention, spare).unwrap()
    }

    fn launch(&self, on: Emulated, spare: usize) -> DecodeOutputs<f32> {
        let device = on.device();
        let run = self.run(&device, self.layout(), DType::F32, spare);
        run.launch(&device, false, &self.q, &self.unwritten(), true).unwrap()
    }

    fn unwritten(&self) -> Vec<f32> {
        vec![7.0; self.q.len()]
    }

    /// A sequence by itself.
    fn alone(&self, sequence: usize) -> Self {
        let first: usize = self.lens[..sequence].iter().sum();
        let cut = |tensor: &[T], start: usize, count: usize, width: usize| {
            tensor[start * width..(start + count) * width].to_vec()
        };
        let (len, width) = (self.lens[sequence], KV_HEADS * self.dim);
        Self {
            q: cut(&self.q, sequence, 1, self.heads() * self.dim),
            k: cut(&self.k, first, len, width),
            v: cut(&self.v, first, len, width),
            lens: vec![len],
            lists: self.lists[sequence * KV_HEADS..][..KV_HEADS].to_vec(),
            ..self.clone()
        }
    }
}

fn same<T: Element>(a: &DecodeOutputs<T>, b: &DecodeOutputs<T>, context: &str) {
    assert_same_bits(&a.out, &b.out, &format!("{context}: output"));
    assert_same_bits(&a.lse, &b.lse, &format!("{context}: LSE"));
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    for problem in [
        Problem::<bf16>::new(&[700, 30], 0.9, 3, 96, 16),
        Problem::<bf16>::new(&[90, 400], 0.5, 11, 128, 0),
    ] {
        let expected = problem.launch(Emulated::default(), 0);
        for seed in 1..20 {
            let capability = if seed % 2 == 0 { 80 } else { 90 };
            let on = Emulated { seed, capability, ..Emulated::default() };
            same(&problem.launch(on, 0), &expected, &format!("seed {seed}"));
        }
    }
}

/// Neither neighbours nor room behind the lists, up to a capacity of 16384, change a bit, whether a
/// list takes one block or more.
#[test]
fn a_sequence_is_alone_in_its_batch() {
    let problem = Problem::<f16>::new(&[310, 40, 900, 0], 0.6, 4, 64, 0);
    let together = problem.launch(Emulated::default(), 0);
    for sequence in 0..problem.lens.len() {
        let alone = problem.alone(sequence);
        let longest = alone.lists.iter().map(Vec::len).max().unwrap();
        for spare in [0, 1, 300, 2000, 16_384 - longest] {
            let outputs = alone.launch(Emulated { seed: 5, ..Emulated::default() }, spare);
            let (out, lse) = (alone.q.len(), alone.heads());
            let context = format!("sequence {sequence} with room for {spare} more");
            assert_same_bits(&outputs.out, &together.out[sequence * out..][..out], &context);
            assert_same_bits(&outputs.lse, &together.lse[sequence * lse..][..lse], &context);
        }
    }
}

/// Rounded once, where the layout says and nowhere else.
#[test]
fn outputs_have_any_layout_and_two_types() {
    let on = Emulated::default();
    let device = on.device();
    for share in [0.2, 0.9] {
        let problem = Problem::<f16>::new(&[70, 500], share, 3, 72, 0);
        let wide = problem.launch(on, 0);
        let heads = problem.heads();
        let layout = Layout { token_stride: 75 * heads + 1, head_stride: 75, ..problem.layout() };
        let run = problem.run(&device, layout, DType::F16, 0);
        let seven = f16::from_f32(7.0);
        let unwritten = vec![seven; layout.required_len(2).unwrap() + 5];
        let outputs = run.launch(&device, false, &problem.q, &unwritten, true).unwrap();
        let mut expected = unwritten.clone();
        for (row, values) in wide.out.chunks_exact(72).enumerate() {
            let to = layout.offset(row / heads, row % heads);
            let narrow: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
            expected[to..to + 72].copy_from_slice(&narrow);
        }
        assert_same_bits(&outputs.out, &expected, "f16 outputs that lie apart");
        assert_same_bits(&outputs.lse, &wide.lse, "LSE");
    }
}

/// Entries that name no key are left out; the status tells.
#[test]
fn garbage_in_lists_is_reported_and_left_out() {
    for page_size in [0, 7] {
        let problem = Problem::<bf16>::new(&[60, 350], 0.9, 4, 64, page_size);
        let device = Emulated::default().device();
        let run = |problem: &Problem<bf16>, row: usize, garbage: &[(usize, i32)]| {
            let mut run = problem.run(&device, problem.layout(), DType::F32, 5);
            let capacity = run.kept.as_ref().unwrap().len() / 4;
            let mut kept = run.kept.as_ref().unwrap().read();
            for &(at, entry) in garbage {
                kept[row * capacity + at] = entry;
            }
            run.kept.as_mut().unwrap().write(&kept);
            run.launch(&device, false, &problem.q, &problem.unwritten(), true).unwrap()
        };
        for row in [0, 3] {
            let list = &problem.lists[row];
            let len = problem.lens[row / KV_HEADS] as i32;
            for (at, entry) in [
                (0, -1),
                (17, -1),
                (list.len() - 1, len),
                (20, len + 1),
                (3, i32::MAX),
                (4, i32::MIN),
            ] {
                let outputs = run(&problem, row, &[(at, entry)]);
                let context = format!("entry {at} of row {row} is {entry}, pages of {page_size}");
                assert!(outputs.status.has(Fault::Index), "{context}");
                assert_eq!(outputs.status.row(), Some(row), "{context}");
                // The same with the entry's key seen by nobody: its logit is -inf, its value 0.
                let dropped = list[at] as usize;
                let mut without = problem.clone();
                without.lists[row].remove(at);
                let clean = without.launch(Emulated::default(), 5);
                let width = problem.group * problem.dim;
                for (i, (a, b)) in outputs.out.iter().zip(&clean.out).enumerate() {
                    let near = (a - b).abs() <= 1e-5;
                    assert!(near, "{context}: {a} {b} at {i} without {dropped}");
                    assert!(i / width == row || a.to_bits() == b.to_bits(), "{context}: at {i}");
                }
            }
            // A key listed twice counts twice; order is reported and changes little.
            let (a, b) = (list[8], list[9]);
            for garbage in [&[(9, a)][..], &[(8, b), (9, a)]] {
                let outputs = run(&problem, row, garbage);
                assert_eq!(outputs.status.faults().collect::<Vec<_>>(), [Fault::Order]);
                assert_eq!(outputs.status.row(), Some(row));
                assert!(outputs.out.iter().all(|x| x.is_finite()));
            }
            let swapped = run(&problem, row, &[(8, b), (9, a)]);
            let clean = problem.launch(Emulated::default(), 5);
            for (a, b) in swapped.out.iter().zip(&clean.out) {
                assert!((a - b).abs() <= 1e-5, "{a} {b}");
            }
        }
    }
}

/// A sequence or list whose length cannot be is empty.
#[test]
fn lengths_that_cannot_be_empty_the_list() {
    let device = Emulated::default().device();
    let problem = Problem::<f16>::new(&[60, 350], 0.9, 4, 64, 0);
    let clean = problem.launch(Emulated::default(), 0);
    let width = problem.group * problem.dim;
    let check = |run: &DecodeRun<f16>, empty: &[usize], context: &str| {
        let outputs = run.launch(&device, false, &problem.q, &problem.unwritten(), true).unwrap();
        let status = outputs.status;
        assert_eq!(status.faults().collect::<Vec<_>>(), [Fault::Lengths], "{context}");
        assert_eq!(status.row(), Some(empty[0]), "{context}");
        for (list, (a, b)) in outputs.out.chunks(width).zip(clean.out.chunks(width)).enumerate() {
            let lse = &outputs.lse[list * problem.group..][..problem.group];
            if empty.contains(&list) {
                assert!(a.iter().all(|&x| x == 0.0), "{context}");
                assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY), "{context}");
            } else {
                assert_same_bits(a, b, context);
            }
        }
    };
    for len in [-1, i32::MIN, i32::MAX, 100_000] {
        let mut run = problem.run(&device, problem.layout(), DType::F32, 0);
        let mut lens = run.kept_lens.as_ref().unwrap().read();
        lens[2] = len;
        run.kept_lens.as_mut().unwrap().write(&lens);
        check(&run, &[2], &format!("list length {len}"));
        for (lens, starts) in [(len, 60), (350, len), (350, 61)] {
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0);
            run.lens.write(&[60, lens]);
            run.span_starts.as_mut().unwrap().write(&[0, starts]);
            check(&run, &[2, 3], &format!("{lens} tokens from {starts}"));
        }
    }
    let dense = Problem { lists: Vec::new(), ..problem.clone() };
    let mut run = dense.run(&device, dense.layout(), DType::F32, 0);
    run.lens.write(&[60, 351]);
    let outputs = run.launch(&device, false, &dense.q, &dense.unwritten(), true).unwrap();
    assert_eq!(outputs.status.faults().collect::<Vec<_>>(), [Fault::Lengths]);
    assert_eq!(outputs.status.row(), Some(1));
    assert!(outputs.out[2 * width..].iter().all(|&x| x == 0.0));
}

/// Keys on pages outside the pool are left out.
#[test]
fn pages_outside_the_pool_are_reported_and_left_out() {
    let device = Emulated::default().device();
    let problem = Problem::<f16>::new(&[64, 300], 1.0, 2, 64, 8);
    for page in [-1, i32::MIN, i32::MAX, 46] {
        let mut run = problem.run(&device, problem.layout(), DType::F32, 0);
        let mut table = run.page_table.as_ref().unwrap().read();
        let row = table.len() / 2;
        table[row + 3] = page;
        run.page_table.as_mut().unwrap().write(&table);
        let outputs = run.launch(&device, false, &problem.q, &problem.unwritten(), true).unwrap();
        assert_eq!(outputs.status.faults().collect::<Vec<_>>(), [Fault::Page], "{page}");
        assert_eq!(outputs.status.row(), Some(2), "{page}");
        let mut without = problem.clone();
        for list in &mut without.lists[2..] {
            list.retain(|key| key / 8 != 3);
        }
        let clean = without.launch(Emulated::default(), 0);
        for (a, b) in outputs.out.iter().zip(&clean.out) {
            assert!((a - b).abs() <= 1e-5, "page {page}: {a} {b}");
        }
    }
}

/// Each listed row once, in whole sectors, and little else.
#[test]
fn listed_rows_are_read_once() {
    let on = Emulated { counting: true, ..Emulated::default() };
    for (dim, group, page_size, share) in [
        (64, 4, 0, 0.3),
        (96, 1, 0, 0.5),
        (128, 8, 16, 0.5),
        (128, 16, 1, 1.0),
        (256, 4, 5, 0.5),
        (256, 12, 0, 0.3),
    ] {
        let problem = Problem::<bf16>::new(&[700, 40], share, group, dim, page_size);
        let outputs = problem.launch(on, 0);
        assert_eq!(outputs.status, Status::CLEAR);
        let context = format!("dim {dim}, group {group}, pages of {page_size}");
        let traffic = &outputs.launched[0].traffic;
        let listed: usize = problem.lists.iter().map(Vec::len).sum();
        for name in ["k", "v"] {
            let read = traffic.buffer(name).read;
            assert_eq!(read.bytes as usize, listed * dim * 2, "{context}: {name}");
            assert_eq!(read.sectors, read.least_sectors, "{context}: {name}");
        }
        // With every step its entries and the one before them.
        let entries = traffic.buffer("kept").read.bytes as usize;
        assert!(entries <= listed * 4 * 17 / 16 + 4 * 4 * 40, "{context}: {entries} of {listed}");
        assert!(traffic.shared.ways() <= 1.1, "{context}: {:?}", traffic.shared_sites);
        let splits = outputs.launched.len();
        let longest = problem.lists.iter().map(Vec::len).max().unwrap();
        assert_eq!(splits, if longest > 256 { 2 } else { 1 }, "{context}");
        let rows = problem.lens.len() * problem.heads();
        let last = &outputs.launched[splits - 1].traffic;
        assert_eq!(last.buffer("out").written.bytes as usize, rows * dim * 4, "{context}");
        if splits == 2 {
            // Only parts that have keys are written and read.
            let parts: usize = problem.lists.iter().map(|list| list.len().div_ceil(256)).sum();
            let written = traffic.buffer("workspace").written.bytes as usize;
            assert_eq!(written, parts * group * (dim + 2) * 4, "{context}");
        }
    }
}

/// Mistakes made on purpose: the suite sees each.
#[test]
fn mutants_are_caught() {
    let seen = |on: Emulated| {
        let case = Case { dim: 64, ..Case::decode(4, &[700, 33], Sees::PerHead(0.9)) };
        let built = case.build::<bf16>();
        case.check_built(&Decode(&on), &built, "");
        let outcome = |seed| case.run(&Decode(&Emulated { seed, ..on }), &built).expect("taken");
        let (first, plain) = (outcome(1), case.run(&Decode(&Emulated::default()), &built));
        assert_same_bits(&first.0, &plain.expect("taken").0, "unmutated");
    };
    let garbage = |on: Emulated| {
        let problem = Problem::<bf16>::new(&[60, 350], 0.5, 4, 64, 0);
        let device = on.device();
        let mut run = problem.run(&device, problem.layout(), DType::F32, 0);
        let mut kept = run.kept.as_ref().unwrap().read();
        kept[5] = i32::MAX;
        run.kept.as_mut().unwrap().write(&kept);
        let mutated = on.mutant.is_some();
        let outputs = run.launch(&device, mutated, &problem.q, &problem.unwritten(), true);
        assert!(outputs.unwrap().status.has(Fault::Index));
    };
    for mutant in ["decode/barrier", "decode/bounds", "decode/order"] {
        let on = Emulated { seed: 1, mutant: Some(mutant), ..Emulated::default() };
        let property = || if mutant == "decode/bounds" { garbage(on) } else { seen(on) };
        assert!(catch_unwind(AssertUnwindSafe(property)).is_err(), "{mutant} passes");
    }
    // The same copy of the kernels, doing nothing wrong.
    let on = Emulated { seed: 1, mutant: Some("none"), ..Emulated::default() };
    seen(on);
    garbage(on);
}
