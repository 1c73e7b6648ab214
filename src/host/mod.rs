//! The CPU backend: always there, multi-threaded over rayon's current pool, no unsafe code.
//!
//! Storage may be f32, f16 or bf16 ([`Element`](crate::Element)); arithmetic is f32. The inner
//! loops are vectorised at run time for the processor at hand; the environment variable
//! `SALIENT_SIMD` set to `avx2` or `scalar` forces a narrower instruction set, for tests.

pub mod attend;
pub mod compact;
pub mod elementwise;
pub mod score;
pub mod select;
pub(crate) mod simd;
