//! **attend**: plans and checks.

mod decode;
mod prefill;

pub use decode::{
    DecodeBuffers, DecodeCache, DecodeLists, DecodePlan, DecodeShape, check_decode_keys,
    decode_params,
};
pub use prefill::{
    MAX_PREFILL_DIM, PrefillBuffers, PrefillPlan, PrefillShape, PrefillVariant, Sees,
    prefill_params,
};

use crate::error::{Error, Result};
use crate::host::attend::Attention;

fn check_attention(attention: &Attention<'static>) -> Result<()> {
    attention.check()?;
    match attention.sinks {
        None => Ok(()),
        Some(_) => Err(Error::Unfit { what: "sinks", expected: "given with the buffers" }),
    }
}
