//! What loading holds in host memory.

mod common;
#[path = "common/files.rs"]
mod files;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::DType;
use common::random_model;
use files::{config, folder, gguf};
use salient_candle::{ModelConfig, load};

/// Counts the bytes that are allocated, and the most that ever were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Peak memory is what stays, and what is read at a time: 1 MiB of a file and the same in f32, some
/// 2 MiB of dequantised rows. That is below the largest tensor's 8 MiB. Files are not read whole.
#[test]
fn loading_holds_what_stays_and_little_more() {
    let config = ModelConfig { hidden: 768, heads: 12, kv_heads: 4, ffn: 2048, ..config() };
    let config = ModelConfig { layers: 3, head_dim: 64, ..config };
    let model = random_model(config, 1);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    gguf(&model, &file, |_, _| ());
    let folders = [DType::F32, DType::BF16].map(|dtype| {
        let path = place.path().join(dtype.as_str());
        std::fs::create_dir(&path).unwrap();
        folder(&model, &path, dtype, 2);
        path
    });
    drop(model);
    for path in folders.iter().chain([&file]) {
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let loaded = load(path).unwrap();
        let held = HELD.load(Ordering::Relaxed) - before;
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let weights = loaded.model.config().weight_bytes(DType::F32) as usize;
        assert!(held >= weights, "{held} bytes held, weights of {weights}");
        let beside = peak - held;
        assert!(beside < 8 << 20, "{}: {beside} bytes beside what stays", path.display());
    }
}
