//! The kernels on data that only a device sees: invalid lists, lengths, offsets and pages
//! are reported, and nothing goes astray; what is not finite stays where it belongs; and outputs of
//! every layout and type. And that they give the same bits whenever blocks, warps and copies get
//! their turn. Without a device each test says on standard error that it did not run; with
//! `SALIENT_NEED_DEVICE` set it fails.

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/device.rs"]
mod device;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/runs.rs"]
mod runs;

mod attention;
mod capture;
mod decode;
mod expected;
mod fp8;
mod indexer;
mod kv;
mod prefill;
mod rank;
mod rows;
mod score;
mod select;
mod validate;

use salient::Result;
use salient::cuda::cudarc::driver::CudaContext;
use salient::kernels::select::Variant;

use device::Device;

/// Times that a problem is solved in different orders.
const ORDERS: u64 = 6;

/// A device that is told nothing.
fn device() -> Result<Device> {
    Device::new(Variant::Auto)
}

/// Checks that outcomes are the same whenever blocks, warps and copies get their turn.
fn same_in_any_order<T: PartialEq + Clone>(test: &str, mut run: impl FnMut() -> Result<T>) {
    let mut first = None;
    place::in_any_order(test, ORDERS, |order| {
        let outcome = run()?;
        assert!(*first.get_or_insert(outcome.clone()) == outcome, "{test}: not in order {order}");
        Ok(())
    });
}

/// The major number of the device's compute capability.
fn generation() -> Result<i32> {
    Ok(CudaContext::new(0)?.compute_capability()?.0)
}
