//! What a build with feature `cuda` can show without a GPU.
#![cfg(all(feature = "cuda", salient_kernels))]

use std::collections::BTreeSet;

use salient::kernels::raw;

#[test]
fn every_launcher_links() {
    let launchers = [
        raw::salient_mlp as *const (),
        raw::salient_keynorm as *const (),
        raw::salient_pool as *const (),
        raw::salient_attention_score as *const (),
        raw::salient_expected as *const (),
        raw::salient_indexer as *const (),
        raw::salient_select as *const (),
        raw::salient_rows as *const (),
        raw::salient_rows_in_place as *const (),
        raw::salient_kv as *const (),
        raw::salient_prefill as *const (),
        raw::salient_decode as *const (),
        raw::salient_validate as *const (),
        raw::salient_prepare as *const (),
    ];
    let distinct: BTreeSet<_> = launchers.into_iter().collect();
    assert_eq!(distinct.len(), launchers.len());
}
