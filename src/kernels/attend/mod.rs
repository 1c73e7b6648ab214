//! **attend**: plans and checks.

mod decode;
mod prefill;

pub use decode::{DecodeBuffers, DecodePlan, DecodeShape, decode_params};
pub use prefill::{
    MAX_PREFILL_DIM, PrefillBuffers, PrefillPlan, PrefillShape, PrefillVariant, prefill_params,
};

use crate::attend::Attention;
use crate::error::{Error, Result};

fn check_attention(attention: &Attention<'static>) -> Result<()> {
    attention.check()?;
    for (what, given) in [
        ("attention_sink", attention.attention_sink),
        ("scales of k", attention.k_scales),
        ("scales of v", attention.v_scales),
    ] {
        if given.is_some() {
            return Err(Error::Unfit {
                what,
                expected: "given with the buffers, where they can be",
            });
        }
    }
    Ok(())
}
