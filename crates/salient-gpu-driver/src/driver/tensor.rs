//! Tensor maps.

use salient_gpu::tensor::copy::{TensorMap, Tiled};

use crate::error::Code;
use crate::ffi::{In, Out, driver};
use crate::state::driver;

driver! {
    fn cuTensorMapEncodeTiled(
        map: Out<[u8; 128]>,
        data_type: u32,
        rank: u32,
        address: u64,
        dims: In<u64>,
        strides: In<u64>,
        box_dims: In<u32>,
        element_strides: In<u32>,
        interleave: u32,
        swizzle: u32,
        l2_promotion: u32,
        fill: u32,
    ) {
        if !driver()?.devices.iter().any(|device| device.limits.has_clusters()) {
            return Err(Code::NOT_SUPPORTED);
        }
        let rank = rank as usize;
        if !(1..=5).contains(&rank) || address == 0 || !map.address().is_multiple_of(64) {
            return Err(Code::INVALID_VALUE);
        }
        let strides = if rank == 1 { Vec::new() } else { strides.list(rank - 1)? };
        let (dims, box_dims) = (dims.list(rank)?, box_dims.list(rank)?);
        let element_strides = element_strides.list(rank)?;
        let tiled = Tiled {
            data_type,
            address,
            dims: &dims,
            strides: &strides,
            box_dims: &box_dims,
            element_strides: &element_strides,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        let encoded = TensorMap::new(&tiled).map_err(|error| {
            eprintln!("software GPU: cuTensorMapEncodeTiled: {error}");
            Code::INVALID_VALUE
        })?;
        map.set(encoded.encode())
    }
}
