//! A step that is always the same, as a graph.

use std::fmt;
use std::sync::Arc;

use candle_core::CudaDevice;
use salient::cuda::cudarc::driver::sys::{
    CUgraphInstantiate_flags_enum as GraphFlags, CUstreamCaptureMode_enum as CaptureMode,
};
use salient::cuda::cudarc::driver::{CudaGraph, CudaStream};

use super::CudaBackend;
use crate::error::{Error, Result};

/// Runs a step as it is, then captures it, then replays it.
///
/// Within a capture candle may allocate and free, which become nodes of the graph, but may not
/// upload: it takes what the first run, which is watched, has uploaded (shapes and strides of
/// operands that have gaps). So the first step cannot be the captured one. Kernels are loaded by
/// then, too, and the workspace of the backend has its size.
pub(crate) struct StepGraph {
    /// Before the backend, whose workspace it holds the address of.
    graph: Option<CudaGraph>,
    has_run: bool,
    backend: CudaBackend,
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

impl StepGraph {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        if stream.context().is_managing_stream_synchronization() {
            return Err(Error::Unsupported {
                what: "stream to capture a graph on",
                name: "one whose buffers are tracked by events".into(),
                supported: "that of a device made by Device::new_cuda",
            });
        }
        let backend = CudaBackend::new(device)?;
        Ok(Self { graph: None, has_run: false, backend, device: device.clone(), stream })
    }

    pub(crate) fn backend(&self) -> &CudaBackend {
        &self.backend
    }

    /// Runs `step`, which does the same over the same memory in every call and keeps nothing that
    /// it allocates.
    pub(crate) fn run(&mut self, step: impl FnOnce(&mut CudaBackend) -> Result<()>) -> Result<()> {
        if self.graph.is_none() {
            let _watched = self.device.enable_cuda_graph_htod_cache();
            if !self.has_run {
                step(&mut self.backend)?;
                self.has_run = true;
                return Ok(());
            }
            self.graph = Some(self.capture(step)?);
        }
        let graph = self.graph.as_ref().expect("captured above");
        graph.launch().map_err(salient::Error::from)?;
        Ok(())
    }

    fn capture(&mut self, step: impl FnOnce(&mut CudaBackend) -> Result<()>) -> Result<CudaGraph> {
        let mode = CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(salient::Error::from)?;
        let ran = step(&mut self.backend);
        // In any case, or the stream would go on capturing.
        let flags = GraphFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        ran?;
        Ok(graph.map_err(salient::Error::from)?.expect("a step launches something"))
    }
}

impl fmt::Debug for StepGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let captured = self.graph.is_some();
        f.debug_struct("StepGraph").field("captured", &captured).finish_non_exhaustive()
    }
}
