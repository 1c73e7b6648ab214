//! What kernels move and compute, beside the least that they could, as the software GPU counts it:
//! bytes and sectors of every buffer, passes over the banks of shared memory, products of matrices.
//! Without the software GPU each test says on standard error that it did not run; with
//! `SALIENT_NEED_SOFTWARE_GPU` set it fails.

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/device.rs"]
mod device;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/runs.rs"]
mod runs;

mod attend;
mod attention;
mod compact;
mod score;
mod select;

use salient::Result;
use salient::kernels::select::Variant;
use serde_json::Value;

use device::Device;
use place::control::Control;
use runs::Places;

/// Bytes of a sector, what memory moves at once.
const SECTOR: u64 = 32;
/// Operations of one `mma` of 16 by 8 by 16; a multiplication with an addition is two.
const OPERATIONS: u64 = 2 * 16 * 8 * 16;

/// Runs on the software GPU, which counts.
fn counting(test: &str, run: impl FnOnce(&Counting<'_>) -> Result<()>) {
    place::on_software_gpu(test, |control| {
        control.set("counters").unwrap_or_else(|error| panic!("{error}"));
        run(&Counting { control, device: Device::new(Variant::Auto)? })
    });
}

struct Counting<'a> {
    control: &'a Control,
    device: Device,
}

impl Counting<'_> {
    /// What the launches of a run did.
    fn launches<R>(&self, run: impl FnOnce(&Device) -> Result<R>) -> Result<(R, Vec<Launched>)> {
        self.control.clear();
        let outcome = run(&self.device)?;
        let launches: Vec<Value> =
            serde_json::from_str(&self.control.launches()).expect("a list of JSON");
        Ok((outcome, launches.into_iter().map(Launched).collect()))
    }
}

/// A launch, as the software GPU tells of it.
#[derive(Debug)]
struct Launched(Value);

/// What a buffer saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    read: u64,
    written: u64,
    atomic: u64,
    sectors: u64,
}

impl Traffic {
    /// No sector was touched for a part of it, or twice.
    fn assert_whole_sectors(&self, context: &str) {
        assert_eq!(SECTOR * self.sectors, self.read + self.written, "{context}: {self:?}");
    }
}

impl Launched {
    fn kernel(&self) -> &str {
        self.0["kernel"].as_str().expect("a name")
    }

    fn count(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or_else(|| panic!("no count of {name}"))
    }

    /// What the buffers of that name saw, all of them.
    fn buffer(&self, places: &Places, name: &str) -> Traffic {
        let named = places.iter().filter(|(other, _)| *other == name);
        let addresses: Vec<String> = named.map(|(_, address)| address.to_string()).collect();
        assert!(!addresses.is_empty(), "no buffer is called {name}");
        let of = |address: &String, what: &str| {
            self.0["counters"]["buffers"][address][what].as_u64().unwrap_or(0)
        };
        let sum = |what| addresses.iter().map(|address| of(address, what)).sum();
        Traffic {
            read: sum("read"),
            written: sum("written"),
            atomic: sum("atomic"),
            sectors: sum("sectors"),
        }
    }

    /// Bytes of all buffers, read and written.
    fn bytes(&self) -> u64 {
        self.read() + self.written()
    }

    /// Bytes of the sectors that all accesses touched: lanes that read the same count once.
    fn sector_bytes(&self) -> u64 {
        SECTOR * self.sum("sectors")
    }

    fn read(&self) -> u64 {
        self.sum("read")
    }

    fn written(&self) -> u64 {
        self.sum("written")
    }

    /// Of all buffers.
    fn sum(&self, what: &str) -> u64 {
        let buffers = self.0["counters"]["buffers"].as_object().expect("by address");
        buffers.values().map(|buffer| buffer[what].as_u64().expect("a number")).sum()
    }

    /// Operations of tensor cores, where all of its products are `mma` of 16 by 8 by 16.
    fn matrix_operations(&self) -> u64 {
        self.count("products") * OPERATIONS
    }

    /// Of ten passes over the banks of shared memory, at most one could have been spared.
    fn assert_few_conflicts(&self, context: &str) {
        let shared = &self.0["counters"]["shared"];
        let of = |what: &str| shared[what].as_f64().expect("a number");
        let ways = if of("least") == 0.0 { 1.0 } else { of("passes") / of("least") };
        assert!(ways <= 1.1, "{context}: {}: {ways:.3} ways: {shared}", self.kernel());
    }
}

/// Names that the launched kernels' own names hold, in order.
fn assert_kernels(launched: &[Launched], names: &[&str]) {
    let there: Vec<&str> = launched.iter().map(Launched::kernel).collect();
    let same = there.len() == names.len() && there.iter().zip(names).all(|(a, b)| a.contains(b));
    assert!(same, "{there:?} for {names:?}");
}
