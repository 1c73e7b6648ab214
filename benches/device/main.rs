//! The verbs on a device at the shapes of `scripts/device_record.py`. Takes verbs, prints a line
//! of JSON for every measurement; with `--small`, runs small cases instead and times nothing, for
//! compute-sanitizer. Every result is checked. `scripts/device-run` runs it beside
//! `benches/peers/`.
//!
//! Each launch is captured into a graph, and the replay timed by CUDA events. Between two replays
//! 256 MiB are read, so that the L2 cache holds none of the case and nothing that must be written.

mod attend;
mod compact;
mod score;
mod select;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use half::bf16;
use salient::cuda::cudarc::driver::sys::{
    CUevent_flags_enum as EventFlags, CUgraphInstantiate_flags_enum as GraphFlags,
    CUstreamCaptureMode_enum as CaptureMode,
};
use salient::cuda::cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream};
use salient::cuda::score::keynorm;
use salient::cuda::{Backend, probe};
use salient::kernels::score::KeynormPlan;
use salient::score::Per;
use salient::{DType, Layout, Result};
use serde_json::{Value, json};

const USAGE: &str = "usage: device [--small] floors|score|select|compact|attend...";

fn main() -> ExitCode {
    let mut small = false;
    let mut verbs = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => small = true,
            // cargo bench says so.
            "--bench" => {}
            "floors" => verbs.push(floors as fn(&mut Bench)),
            "score" => verbs.push(score::run),
            "select" => verbs.push(select::run),
            "compact" => verbs.push(compact::run),
            "attend" => verbs.push(attend::run),
            _ => {
                eprintln!("error: no such verb: {argument}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if verbs.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let backend = probe();
    match &backend {
        Backend::Cuda(driver) if driver.software && !small => {
            eprintln!("error: nothing can be measured on {backend}; only --small runs there");
            return ExitCode::FAILURE;
        }
        Backend::Cuda(_) => {}
        _ => {
            eprintln!("error: this needs a device; the backend is {backend}");
            return ExitCode::FAILURE;
        }
    }
    let mut bench = match Bench::new(small) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for verb in verbs {
        verb(&mut bench);
    }
    if bench.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What a copy on the device reaches, and what the events themselves take.
fn floors(bench: &mut Bench) {
    bench.attempt("floor/copy", "driver", |bench| {
        let bytes = if bench.small { 1 << 16 } else { 1 << 30 };
        let source = bench.stream.clone_htod(&pattern(bytes / 2))?;
        let mut target = bench.stream.alloc_zeros::<u16>(bytes / 2)?;
        let copy = bench.capture(|stream| Ok(stream.memcpy_dtod(&source, &mut target)?))?;
        bench.time("floor/copy", "driver", json!({"bytes": 2 * bytes}), || Ok(copy.launch()?))
    });
    bench.attempt("floor/nothing", "driver", |bench| {
        bench.time("floor/nothing", "driver", json!({}), || Ok(()))
    });
}

struct Bench {
    stream: Arc<CudaStream>,
    small: bool,
    flush: Flush,
    failed: bool,
}

/// Keys whose norms are computed, for nothing but to read them.
struct Flush {
    plan: KeynormPlan,
    keys: CudaSlice<bf16>,
    norms: CudaSlice<f32>,
}

impl Bench {
    const RUNS: usize = 60;
    const WARM_UP: usize = 5;

    fn new(small: bool) -> Result<Self> {
        let stream = CudaContext::new(0)?.per_thread_stream();
        let (heads, dim) = (8, 128);
        let tokens = if small { 64 } else { 1 << 17 };
        let layout = Layout::token_major(heads, dim);
        let plan = KeynormPlan::new(tokens, layout, DType::Bf16, Per::Token)?;
        let keys = stream.clone_htod(&vec![bf16::ONE; tokens * heads * dim])?;
        let norms = stream.alloc_zeros(plan.scores_len())?;
        Ok(Self { stream, small, flush: Flush { plan, keys, norms }, failed: false })
    }

    /// Goes on with the next case if one fails: prints a line that says why.
    fn attempt(&mut self, case: &str, who: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        let error = match catch_unwind(AssertUnwindSafe(|| run(self))) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the result is wrong: see the log".to_owned(),
        };
        self.failed = true;
        println!("{}", json!({"case": case, "who": who, "error": error}));
    }

    /// A graph of what `run` launches. Its buffers must outlive it.
    fn capture(&self, run: impl FnOnce(&Arc<CudaStream>) -> Result<()>) -> Result<CudaGraph> {
        self.stream.synchronize()?;
        salient::cuda::prepare(self.stream.context())?;
        self.stream.begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let ran = run(&self.stream);
        let flags = GraphFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        ran?;
        Ok(graph?.expect("launches were captured"))
    }

    fn flush(&mut self) -> Result<()> {
        let Flush { plan, keys, norms } = &mut self.flush;
        keynorm(&self.stream, plan, &keys.as_view(), &mut norms.as_view_mut())
    }

    /// Times a launch, and prints quartiles in seconds beside what is known of the work.
    fn time(
        &mut self,
        case: &str,
        who: &str,
        work: Value,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.small {
            self.flush()?;
            run()?;
            self.stream.synchronize()?;
            println!("{}", json!({"case": case, "who": who, "checked": true}));
            return Ok(());
        }
        let mut events = Vec::new();
        for _ in 0..Self::WARM_UP + Self::RUNS {
            self.flush()?;
            let start = self.stream.record_event(Some(EventFlags::CU_EVENT_DEFAULT))?;
            run()?;
            events.push((start, self.stream.record_event(Some(EventFlags::CU_EVENT_DEFAULT))?));
        }
        self.stream.synchronize()?;
        let mut seconds = Vec::new();
        for (start, end) in &events[Self::WARM_UP..] {
            seconds.push(f64::from(start.elapsed_ms(end)?) / 1e3);
        }
        seconds.sort_by(f64::total_cmp);
        let quartiles = [1, 2, 3].map(|quarter| seconds[quarter * Self::RUNS / 4]);
        let mut line = json!({"case": case, "who": who, "seconds": quartiles, "runs": Self::RUNS});
        let fields = line.as_object_mut().expect("it is one");
        fields.extend(work.as_object().expect("work is one").clone());
        println!("{line}");
        Ok(())
    }
}

/// Values that repeat only after a prime number of them.
fn pattern(len: usize) -> Vec<u16> {
    (0..len as u64).map(|i| ((i % 1_048_573).wrapping_mul(0x9e37_79b9) >> 13) as u16).collect()
}
