//! Where a test runs: on a device, whichever it is, or on the software GPU alone.

// The file alone: no test needs to wait until the software GPU itself is compiled.
#[allow(unreachable_pub, reason = "of a crate that has an interface")]
#[path = "../../crates/salient-gpu/src/control.rs"]
pub(crate) mod control;

use std::io::Write;
use std::sync::{PoisonError, RwLock};

use salient::Result;
use salient::cuda::{Backend, probe};

use control::Control;

/// Tests that set how the software GPU goes about its work have it to themselves.
static TURNS: RwLock<()> = RwLock::new(());

/// Runs on a device, or says that there is none; with `SALIENT_NEED_DEVICE` set that fails.
pub(crate) fn on_device(test: &str, run: impl FnOnce() -> Result<()>) {
    let _turn = TURNS.read().unwrap_or_else(PoisonError::into_inner);
    match probe() {
        Backend::Cuda(_) => run().unwrap_or_else(|error| panic!("{error}: {error:?}")),
        backend => not_run(
            &format!("{test} needs a device; the backend is {backend}"),
            "SALIENT_NEED_DEVICE",
        ),
    }
}

/// Runs on the software GPU, or says that it is not there; with `SALIENT_NEED_SOFTWARE_GPU` set
/// that fails.
pub(crate) fn on_software_gpu(test: &str, run: impl FnOnce(&Control) -> Result<()>) {
    let _turn = TURNS.write().unwrap_or_else(PoisonError::into_inner);
    match (probe(), Control::find()) {
        (Backend::Cuda(_), Some(control)) => {
            control.clear();
            run(&control).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        }
        _ => not_run(&format!("{test} needs the software GPU"), "SALIENT_NEED_SOFTWARE_GPU"),
    }
}

/// Runs on a device many times: on the software GPU in other orders each time, with copies and
/// products that complete whenever they may.
pub(crate) fn in_any_order(test: &str, times: u64, mut run: impl FnMut(u64) -> Result<()>) {
    let _turn = TURNS.write().unwrap_or_else(PoisonError::into_inner);
    match probe() {
        Backend::Cuda(_) => {
            let orders = Control::find().map(Orders);
            for seed in 0..times {
                if let Some(orders) = &orders {
                    orders.set(&format!("async=random,order=random,delay=2000,seed={seed}"));
                }
                run(seed).unwrap_or_else(|error| panic!("{error}: {error:?}"));
            }
        }
        backend => not_run(
            &format!("{test} needs a device; the backend is {backend}"),
            "SALIENT_NEED_DEVICE",
        ),
    }
}

/// The software GPU, which goes back to its ways at the end.
struct Orders(Control);

impl Orders {
    fn set(&self, words: &str) {
        self.0.set(words).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let environment = std::env::var("SALIENT_GPU").unwrap_or_default();
        self.set(&format!("async=eager,order=forward,delay=0,seed=0,{environment}"));
    }
}

/// Says that something did not run, and why; fails if the variable that needs it is set.
pub(crate) fn not_run(why: &str, needed: &str) {
    assert!(std::env::var_os(needed).is_none(), "{needed} is set, but {why}");
    // Not by a macro that the test harness catches: a test that did not run says so.
    let says = format!("NOT RUN: {why}\n");
    std::io::stderr().write_all(says.as_bytes()).expect("standard error is open");
}
