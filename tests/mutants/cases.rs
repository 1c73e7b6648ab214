//! Small problems, each judged in full: what a mistake in a kernel breaks. They are run in
//! processes of their own, on kernels with a mistake and on kernels without.

use half::bf16;
use salient::attend::{Attention, RowLimit};
use salient::compact::{KvMode, RowShape};
use salient::kernels::attend::PrefillVariant;
use salient::kernels::select::Variant;
use salient::{DType, Fault, Layout, Ragged, Result, Span, Status, View};
use salient_oracle::compact::Kept;
use salient_oracle::generate::{Distribution, Random};
use salient_oracle::implementation::{ScoreAttention, ScoreExpected};
use salient_oracle::suite;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{Case, Decode, Prefill, Sees};
use salient_oracle::suite::score::{expected, indexer, rank};
use salient_oracle::suite::select::{self, Keep};

use crate::device::Device;
use crate::place::on_device;
use crate::runs::attend::PrefillRun;
use crate::runs::caches::{Caches, Form};
use crate::runs::compact::RowsRun;
use crate::runs::problem::{Decoding, plain_score};
use crate::runs::random_bytes;

/// What `run` takes by name.
macro_rules! cases {
    ($($name:ident($device:ident) $body:block)*) => {
        /// The names of all of them, and what judges a device.
        pub(crate) const ALL: &[(&str, fn(&Device) -> Result<()>)] = &[$((stringify!($name), $name)),*];
        $(
            fn $name($device: &Device) -> Result<()> {
                $body;
                Ok(())
            }
        )*
    };
}

/// Runs one of them.
pub(crate) fn run(name: &str) {
    let (_, judge) = ALL.iter().find(|(other, _)| *other == name).expect("a case of the table");
    on_device(name, || judge(&Device::new(Variant::Auto)?));
}

cases! {
    rows_in_place(device) {
        let source = Ragged::from_lens(&[200, 3])?;
        let lists = [Random::new(5).subset(200, 0.6), vec![1]];
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let data = random_bytes(203 * 96, 1);
        let run = RowsRun::new(device, &kept, 0, &[RowShape::packed(96)])?;
        let moved = run.in_place(device, &[(&data, 0)])?;
        let expected: Vec<u8> =
            kept.rows().iter().flat_map(|&row| data[row * 96..][..96].to_vec()).collect();
        assert!(moved.tensors[0][..expected.len()] == expected, "rows: other bytes");
        assert_eq!(moved.status, Status::CLEAR);
    }

    rows_beyond(device) {
        let source = Ragged::from_lens(&[60, 40])?;
        let lists = [(0..30).collect(), (0..40).step_by(2).collect()];
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let data = random_bytes(100 * 48, 1);
        for entry in [60, i32::MAX, -1] {
            let mut run = RowsRun::new(device, &kept, 0, &[RowShape::packed(48)])?;
            run.kept.put(29, entry)?;
            let gathered = run.gather(device, &[(&data, 0)], &[50 * 48])?;
            let row = &gathered.tensors[0][29 * 48..][..48];
            assert!(row.iter().all(|&byte| byte == 0xee), "rows: token {entry} was moved");
            assert!(gathered.status.has(Fault::Index), "rows: token {entry} is not reported");
        }
    }

    kv_stable(device) {
        let form = Form::Nhd;
        let case = Caches { seed: 7, form, lens: vec![200, 33], ..Caches::default() };
        let (outputs, orders) = (case.run(device)?, case.orders());
        assert_eq!(outputs.status, Status::CLEAR);
        assert!(outputs.tensors == case.after(&orders), "kv: a tensor differs");
    }

    kv_beyond(device) { kv_garbage(device, KvMode::Stable)? }
    kv_holes_beyond(device) { kv_garbage(device, KvMode::HoleFill)? }

    select_block(device) { selections(device, Variant::Block, &[3000, 0, 700, 1])? }
    select_cluster(device) { selections(device, Variant::Cluster, &[3000, 0, 700, 1])? }
    // Rows for two blocks.
    select_grid(device) { selections(device, Variant::Grid, &[20_000, 700])? }

    prefill(device) { prefills(device, PrefillVariant::Sm80, &[(150, 150), (70, 130)])? }

    prefill_without_keys(device) {
        let device = Device { prefill: PrefillVariant::Sm80, ..Device::new(device.variant)? };
        // Many blocks, for in each it depends on which warps are late.
        let (dim, heads) = (128, 16);
        let queries = Ragged::from_lens(&[300])?;
        let numbers = Random::new(1).normals(300 * heads * dim, 1.0);
        let q: Vec<bf16> = numbers.into_iter().map(bf16::from_f32).collect();
        let view = |data| View::token_major(data, heads, dim);
        let keys = (view(&q[..]), view(&q[..]), &[Span { start: 0, len: 0 }][..]);
        let out = (Layout::token_major(heads, dim), DType::Bf16);
        let attention = Attention::new(0.1);
        let (q, limit) = (view(&q[..]), RowLimit::Full);
        let run = PrefillRun::new(&device, q, &queries, keys, limit, &attention, out)?;
        let attended = run.launch(&device, &vec![bf16::ONE; 300 * heads * dim])?;
        let zero = vec![bf16::ZERO; attended.out.len()];
        assert_same_bits(&attended.out, &zero, "prefill without keys");
    }

    prefill_sm90(device) {
        // Whole tiles and edges, three turns of the stages, 16-bit outputs, more tiles than one.
        prefills(device, PrefillVariant::Sm90, &[(150, 700), (140, 140)])?;
        prefill_rounded(device, &[(130, 300)], 2)?;
    }

    prefill_sm90_96(device) {
        let plain = Case::plain(3, &[(70, 200)], Sees::Causal);
        let case = Case { kv_heads: 1, dim: 96, attention: Attention::new(0.1), ..plain };
        let device = Device { prefill: PrefillVariant::Sm90, ..Device::new(device.variant)? };
        case.check_built(&Prefill(&device), &case.build::<bf16>(), "");
    }

    // More query tiles than there are blocks, so that blocks take a second.
    prefill_sm90_many(device) { prefill_rounded(device, &[(9, 40)], 150)? }

    decode(device) {
        for sees in [Sees::Dense, Sees::PerHead(0.5)] {
            let case = Case { dim: 64, group: 4, ..Case::decode(2, &[700, 0, 33], sees) };
            case.check_built(&Decode(device), &case.build::<bf16>(), "");
        }
    }

    decode_beyond(device) {
        let problem = Decoding::<bf16>::new(&[60, 350], 0.9, 4, 64, 0);
        for entry in [350, i32::MAX] {
            let mut run = problem.run(device, problem.layout(), DType::F32, 0)?;
            let kept = run.kept.as_mut().expect("lists");
            let last = kept.len() / 4 * 2 + problem.lists[2].len() - 1;
            kept.put(last, entry)?;
            let attended = run.launch(device, &problem.untouched())?;
            assert!(attended.status.has(Fault::Index), "decode: token {entry} is not reported");
        }
    }

    // Where all channels of the values are the same, those of the output are, to the bit.
    decode_channels_alike(device) {
        let case = Case { dim: 64, ..Case::decode(2, &[1500], Sees::Dense) };
        let mut built = case.build::<bf16>();
        built.v.chunks_exact_mut(64).for_each(|row| row.fill(row[0]));
        let (out, _) = case.run(&Decode(device), &built).expect("a problem that is taken");
        for row in out.chunks_exact(64) {
            assert_same_bits(row, &[row[0]; 64], "decode: channels that are alike");
        }
    }

    attention_scores(device) { suite::score::neighbours_change_nothing(device) }

    attention_score(device) {
        for queries in [suite::score::Queries::Window(24), suite::score::Queries::All] {
            let score = plain_score(64);
            let (lens, kv_heads, group, dim) = (vec![150, 33], 1, 2, 64);
            suite::score::Case { seed: 4, lens, kv_heads, group, dim, head_major: false, queries, score }
                .check(device);
        }
    }

    // The same sequence at two places of a batch, of as many key tiles as are added up by several
    // warps.
    window_twice(device) {
        let (len, heads, dim) = (1500, 2, 64);
        let numbers = |seed, rows| -> Vec<bf16> {
            let one = Random::new(seed).normals(rows * heads * dim, 1.5);
            let one: Vec<bf16> = one.into_iter().map(bf16::from_f32).collect();
            [one.clone(), one].concat()
        };
        let (q, k) = (numbers(1, 24), numbers(2, len));
        let rows = Ragged::from_lens(&[len, len])?;
        let queries = Ragged::from_lens(&[24, 24])?;
        let view = |data| View::token_major(data, heads, dim);
        let mut out = vec![f32::NAN; 2 * len];
        let score = plain_score(dim);
        device.window(view(&q[..]), &queries, view(&k[..]), &rows, &score, &mut out)?;
        assert_same_bits(&out[..len], &out[len..], "score: a sequence at two places");
    }

    pools(device) { suite::score::pools(device) }

    ranks(device) {
        // The second sequence begins at no address of 16 bytes.
        let (distribution, lens) = (Distribution::Bf16, vec![131, 1300]);
        rank::Case { seed: 3, distribution, lens, heads: 1 }.check(device);
    }

    key_norms(device) { suite::score::key_norms(device) }
    predictors(device) { suite::score::predictors(device) }
    predictor_alone(device) { suite::score::tokens_are_alone(device) }

    expected_scores(device) {
        expected::Case { dim: 64, value_dim: Some(64), ..expected::Case::new(4, &[65, 300]) }
            .check(device);
    }
    // The same sequence at two places of a batch.
    expected_twice(device) {
        let case = expected::Case::new(5, &[300, 300]);
        let (mut k, mut v) = (case.k::<bf16>(), case.v::<bf16>());
        for tensor in [&mut k, &mut v] {
            let half = tensor.len() / 2;
            tensor.copy_within(..half, half);
        }
        let view = |data| Some(View::token_major(data, case.kv_heads, case.dim));
        let (k, v) = (view(&k[..]).expect("keys"), view(&v[..]));
        let mut out = vec![f32::NAN; case.kv_heads * 600];
        device.expected(k, v, &case.rows(), &case.statistics(), &case.options, &mut out)?;
        for scores in out.chunks(600) {
            assert_same_bits(&scores[..300], &scores[300..], "expected: a sequence at two places");
        }
    }
    expected_alone(device) { expected::neighbours_change_nothing(device) }

    indexer_logits(device) {
        let case = indexer::Case { heads: 24, ..indexer::Case::new(3, &[(20, 65), (7, 300)]) };
        case.check_built(device, &case.build::<bf16>(), "");
    }
    indexer_alone(device) { indexer::neighbours_change_nothing(device) }
}

/// The last entry of a list is no token of its sequence.
fn kv_garbage(device: &Device, mode: KvMode) -> Result<()> {
    for entry in [60, i32::MAX] {
        let form = Form::TokenMajor;
        let case = Caches { seed: 7, form, mode, lens: vec![60, 40], ..Caches::default() };
        let mut run = case.upload(device)?;
        let last = case.lists()[0].len() - 1;
        run.kept.put(last, entry)?;
        let outputs = case.launch(device, &run)?;
        let capacity = outputs.order.len() / 2;
        let orders: Vec<Vec<i32>> = case
            .lists()
            .iter()
            .enumerate()
            .map(|(row, list)| outputs.order[row * capacity..][..list.len()].to_vec())
            .collect();
        assert!(outputs.status.has(Fault::Index), "kv: token {entry} is not reported");
        assert!(!orders[0].contains(&entry), "kv: token {entry} was moved");
        assert!(outputs.tensors == case.after(&orders), "kv: a tensor differs");
    }
    Ok(())
}

fn selections(device: &Device, variant: Variant, lens: &[usize]) -> Result<()> {
    let device = Device { stream: device.stream.clone(), ..Device::new(variant)? };
    for (distribution, keep) in
        [(Distribution::Normal, Keep::Ratio(0.35)), (Distribution::TiedMiddle, Keep::Count(500))]
    {
        let plain = select::Case::plain(distribution, 5, lens, keep);
        let masked_one_in = if distribution == Distribution::Normal { 7 } else { 0 };
        select::Case { heads: 2, masked_one_in, ..plain }.check(&device);
    }
    Ok(())
}

fn prefills(device: &Device, prefill: PrefillVariant, lens: &[(usize, usize)]) -> Result<()> {
    let device = Device { prefill, ..Device::new(device.variant)? };
    for sees in [Sees::Causal, Sees::Full] {
        let plain = Case::plain(3, lens, sees);
        let case = Case { kv_heads: 1, dim: 128, attention: Attention::new(0.09), ..plain };
        case.check_built(&Prefill(&device), &case.build::<bf16>(), "");
    }
    Ok(())
}

/// A 16-bit output is the f32 one, rounded once.
fn prefill_rounded(device: &Device, lens: &[(usize, usize)], heads: usize) -> Result<()> {
    let device = Device { prefill: PrefillVariant::Sm90, ..Device::new(device.variant)? };
    let plain = Case::plain(8, lens, Sees::Causal);
    let attention = Attention::new(0.09);
    let case = Case { kv_heads: 1, group: heads, dim: 128, attention, ..plain };
    let built = case.build::<bf16>();
    let (wide, _) = case.run(&Prefill(&device), &built).expect("a problem that is taken");
    let view = |data, heads| View::token_major(data, heads, 128);
    let spans: Vec<Span> = case.keys().spans().collect();
    let keys = (view(&built.k[..], 1), view(&built.v[..], 1), &spans[..]);
    let out = (Layout::token_major(heads, 128), DType::Bf16);
    let (q, limit) = (view(&built.q[..], heads), RowLimit::Causal);
    let run = PrefillRun::new(&device, q, &case.queries(), keys, limit, &attention, out)?;
    let narrow = run.launch(&device, &vec![bf16::ONE; built.q.len()])?;
    let rounded: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
    assert_same_bits(&narrow.out, &rounded, "prefill: a 16-bit output");
    case.check_built(&Prefill(&device), &built, "");
    Ok(())
}
