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
