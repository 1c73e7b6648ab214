//! Attention on the host: within the relative rule of the oracle, the same bits on any number of
//! threads, and the same after compaction as over lists.

#[path = "common/host.rs"]
mod host;
#[path = "common/pools.rs"]
mod pools;

use proptest::prelude::*;
use salient::attend::{Attention, KeyLists, Keys, PackedLists};
use salient::host::attend::decode;
use salient::host::compact::{self, KvMut};
use salient::host::select::select;
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{Ragged, Span, View, ViewMut};
use salient_oracle::generate::{Distribution, Random};
use salient_oracle::suite::attend::{Built, Case, Decode, Operation, Prefill, Sees, Store, cases};

use host::Host;
use pools::in_pools;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn prefill_equals_the_oracle(case in cases(90, false)) {
        case.check(&Prefill(&Host));
    }

    #[test]
    fn decode_equals_the_oracle(case in cases(700, true)) {
        case.check(&Decode(&Host));
    }

    /// The same keys in another place give the same bits.
    #[test]
    fn a_store_changes_nothing(case in cases(90, false), decode in cases(700, true)) {
        in_every_store(&Prefill(&Host), &case)?;
        in_every_store(&Decode(&Host), &decode)?;
    }

    /// Select, compact the cache, attend to what is left: as if the lists alone were read.
    #[test]
    fn compacted_keys_read_as_listed_keys(
        lens in prop::collection::vec(0..300usize, 1..4),
        kv_heads in 1..4usize,
        count in 0..200usize,
        seed: u64,
    ) {
        let (group, dim) = (2, 24);
        let rows = Ragged::from_lens(&lens).unwrap();
        let scores = Distribution::Bf16.scores(kv_heads * rows.total(), seed);
        let edges = PerSequence::All(Edges::default());
        let request = Request {
            rows: &rows,
            heads: kv_heads,
            budget: Budget::Count(count),
            protect: Protect { edges, mask: None },
        };
        let selection = select(&scores, &request).unwrap();

        let mut random = Random::new(seed);
        let q = random.normals(lens.len() * kv_heads * group * dim, 1.0);
        let mut k = random.normals(rows.total() * kv_heads * dim, 1.0);
        let mut v = random.normals(rows.total() * kv_heads * dim, 1.0);
        let spans: Vec<Span> = rows.spans().collect();
        let run = |k: &[f32], v: &[f32], spans: &[Span], lists: KeyLists<PackedLists<'_>>| {
            let view = |data| View::token_major(data, kv_heads, dim);
            let keys = Keys::Contiguous { k: view(k), v: view(v), spans };
            let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / dim]);
            let out_view = ViewMut::token_major(&mut out, kv_heads * group, dim);
            let q = View::token_major(&q, kv_heads * group, dim);
            decode(q, &keys, lists, &Attention::new(0.2), out_view, Some(&mut lse)).unwrap();
            out.extend(lse);
            out
        };
        let lists = KeyLists::PerHead(PackedLists { keys: selection.kept(), lists: selection.kept_rows() });
        let listed = run(&k, &v, &spans, lists);

        let layout = View::token_major(&k[..], kv_heads, dim).layout;
        compact::kv(&selection, &mut [KvMut::new(&mut k, &mut v, layout, &spans).unwrap()]).unwrap();
        let left: Vec<Span> =
            spans.iter().map(|span| Span { len: span.len.min(count), ..*span }).collect();
        let compacted = run(&k, &v, &left, KeyLists::Dense);
        for (&a, &b) in listed.iter().zip(&compacted) {
            prop_assert!(a == b || (a - b).abs() < 1e-5, "{a} listed, {b} compacted");
        }
    }
}

/// Long enough to be shared between threads.
#[test]
fn the_number_of_threads_changes_nothing() {
    let prefills = [Sees::Causal, Sees::Between]
        .map(|sees| Case::plain(1, &[(600, 900), (0, 3), (300, 300)], sees));
    let decodes = [Sees::Dense, Sees::Shared(0.4), Sees::PerHead(0.4)]
        .map(|sees| Case::decode(2, &[40_000, 0, 3000], sees));
    prefills.into_iter().for_each(|case| in_any_pool(&Prefill(&Host), case));
    decodes.into_iter().for_each(|case| in_any_pool(&Decode(&Host), case));
}

fn in_any_pool(on: &(impl Operation + Sync), case: Case) {
    let case = Case { dim: 64, ..case };
    let built = case.build::<f32>();
    in_pools(|| run(on, &case, &built));
}

fn in_every_store(on: &impl Operation, case: &Case) -> Result<(), TestCaseError> {
    let built = case.build::<f32>();
    let expected = run(on, case, &built);
    for store in Store::ALL {
        let stored = Case { store, ..case.clone() };
        prop_assert_eq!(&run(on, &stored, &built), &expected);
    }
    Ok(())
}

fn run(on: &impl Operation, case: &Case, built: &Built<f32>) -> Vec<u32> {
    bits(&case.run(on, built).expect("the host takes everything"))
}

fn bits((out, lse): &(Vec<f32>, Vec<f32>)) -> Vec<u32> {
    out.iter().chain(lse).map(|x| x.to_bits()).collect()
}
