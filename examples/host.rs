//! The four verbs on the host: score the tokens of two prompts, keep half of each, move what
//! belongs to them together, and attend over what is left. `cargo run --release --example host`

use salient::attend::{Attention, Keys, RowLimit};
use salient::host::compact::RowTensor;
use salient::host::{attend, compact, score, select};
use salient::score::{AttentionScore, HeadReduce, Per, QueryWeights};
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{Ragged, Result, Span, View, ViewMut};

const Q_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;

fn main() -> Result<()> {
    let prompts = Ragged::from_lens(&[40, 12])?;
    let (q, k, v) = (
        numbers(1, prompts.total() * Q_HEADS * DIM),
        numbers(2, prompts.total() * KV_HEADS * DIM),
        numbers(3, prompts.total() * KV_HEADS * DIM),
    );
    let queries = View::token_major(&q[..], Q_HEADS, DIM);
    let keys = View::token_major(&k[..], KV_HEADS, DIM);

    // How much attention all queries of each prompt pay to every token.
    let how = AttentionScore {
        scale: (DIM as f32).powf(-0.5),
        heads: HeadReduce::Mean,
        per: Per::Token,
        pool: None,
        query_weights: QueryWeights::Uniform,
    };
    let mut scores = vec![0.0; prompts.total()];
    score::columns(queries, keys, &prompts, &how, &mut scores)?;

    // Half of each prompt stays, and in any case its first token and its last two.
    let edges = PerSequence::All(Edges { sinks: 1, recent: 2 });
    let request = Request {
        rows: &prompts,
        heads: 1,
        budget: Budget::Ratio(0.5),
        protect: Protect { edges, mask: None },
    };
    let selection = select::select(&scores, &request)?;
    println!("kept of the second prompt: {:?}", selection.row(1, 0));

    // Queries, keys and values of the survivors move together.
    let kept = selection.kept_rows();
    let mut kept_q = vec![0.0; kept.total() * Q_HEADS * DIM];
    let mut kept_k = vec![0.0; kept.total() * KV_HEADS * DIM];
    let mut kept_v = vec![0.0; kept.total() * KV_HEADS * DIM];
    compact::rows(
        &selection,
        &mut [
            RowTensor::new(&q, Q_HEADS * DIM, &mut kept_q)?,
            RowTensor::new(&k, KV_HEADS * DIM, &mut kept_k)?,
            RowTensor::new(&v, KV_HEADS * DIM, &mut kept_v)?,
        ],
    )?;

    // Causal attention over them is causal attention in original positions: their order is the
    // same.
    let spans: Vec<Span> = kept.spans().collect();
    let keys = Keys::Contiguous {
        k: View::token_major(&kept_k[..], KV_HEADS, DIM),
        v: View::token_major(&kept_v[..], KV_HEADS, DIM),
        spans: &spans,
    };
    let mut out = vec![0.0; kept_q.len()];
    attend::prefill(
        View::token_major(&kept_q[..], Q_HEADS, DIM),
        kept,
        &keys,
        RowLimit::Causal,
        &Attention::new(how.scale),
        ViewMut::token_major(&mut out[..], Q_HEADS, DIM),
        None,
    )?;
    println!("{} of {} tokens, first output {:.4}", kept.total(), prompts.total(), out[0]);
    Ok(())
}

/// Stands in for what a model computes.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * (seed + 2)) as f32 * 0.37).sin()).collect()
}
