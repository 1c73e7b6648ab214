//! **attend** on the host: [`prefill`] for many queries per sequence, [`decode`] for one. The
//! contract is that of [`crate::attend`]. Storage is any [`Element`]; logits, sums and outputs are
//! f32.

mod decode;
mod pack;
mod prefill;
mod tile;

pub use decode::decode;
pub use prefill::prefill;

use crate::attend::{Attention, Keys};
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::layout::{View, ViewMut};

/// Checks what both entries share: shapes of queries, keys, output and log-sum-exp.
fn check<T: Element, K: Element>(
    tokens: usize,
    q: &View<'_, T>,
    keys: &Keys<'_, K>,
    attention: &Attention,
    out: &ViewMut<'_, f32>,
    lse: Option<&[f32]>,
) -> Result<()> {
    attention.check()?;
    attention.check_attention_sink(q.layout.heads)?;
    keys.check()?;
    let (q_heads, kv_heads) = (q.layout.heads, keys.heads());
    attention.check_scales(kv_heads)?;
    if kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        return Err(Error::OutOfRange {
            what: "number of query heads",
            value: q_heads as f64,
            expected: "a multiple of the number of KV heads, which is at least 1",
        });
    }
    let key_dim = match keys {
        Keys::Contiguous { k, .. } => k.layout.dim,
        Keys::Paged { layout, .. } => layout.dim,
    };
    check_len("channels of q", key_dim, q.layout.dim)?;
    if key_dim == 0 || keys.value_dim() == 0 {
        let expected = "at least 1";
        return Err(Error::OutOfRange { what: "channels per head", value: 0.0, expected });
    }
    q.layout.check("q", tokens, q.data.len())?;
    check_len("heads of out", q_heads, out.layout.heads)?;
    check_len("channels of out", keys.value_dim(), out.layout.dim)?;
    out.layout.check("out", tokens, out.data.len())?;
    let rows = tokens.checked_mul(q_heads).ok_or(Error::Overflow { what: "rows of q" })?;
    lse.map_or(Ok(()), |lse| check_len("lse", rows, lse.len()))
}

#[cfg(test)]
mod tests;
