//! **attend**: plans and checks.

mod decode;

pub use decode::{
    DecodeBuffers, DecodeCache, DecodeLists, DecodePlan, DecodeShape, check_decode_keys,
    decode_params,
};
