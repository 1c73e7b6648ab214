//! Stand-ins for `libcuda.so.1` and `libcudart.so.13`, over the software CUDA device, and for as
//! much of cuBLAS, cuRAND and NVRTC as goes with them.
//!
//! One shared library exports all of them. Under their names, in a folder that the dynamic loader
//! looks into first, it is mapped once, and they share one state, as the real ones do.
//!
//! Work of a stream runs in the thread that submits it, before the call returns, or later, under
//! `streams=late` and `streams=random`; see `work.rs`. Every handle is looked up, never followed,
//! so that those of others and those that were destroyed are errors, as the driver documents them.
//!
//! Tests and tools talk to it through `salient_gpu_control`; see `control.rs`.
#![allow(non_snake_case)]

mod control;
mod driver;
mod error;
mod ffi;
mod library;
mod log;
mod replace;
mod runtime;
mod state;
mod work;
