//! The first launch of a kernel within a capture.

use salient::cuda::cudarc::driver::CudaContext;
use salient::cuda::cudarc::driver::sys::{
    CUgraphInstantiate_flags_enum as GraphFlags, CUstreamCaptureMode_enum as CaptureMode,
    cuDevicePrimaryCtxReset_v2,
};
use salient::cuda::prepare;
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::kernels::select::{SelectPlan, Shape};
use salient::select::Budget;
use salient::{Error, Result};

use crate::device::Device;
use crate::place::on_software_gpu;

/// Captures a selection and replays it, in a context that has launched nothing so far.
fn capture(prepared: bool) -> Result<Vec<i32>> {
    // SAFETY: the test has the device to itself, and holds nothing of its context.
    unsafe { cuDevicePrimaryCtxReset_v2(0) }.result()?;
    // On a stream and a context of its own, so that no launch waits for events from outside.
    let stream = CudaContext::new(0)?.per_thread_stream();
    let device = Device { stream, ..crate::device()? };
    let stream = &device.stream;
    let shape = Shape { batch: 1, heads: 1, total: 40, max_len: 40 };
    let plan = SelectPlan::new(shape, Budget::Count(3))?;
    let scores: Vec<f32> = (0..40).map(|i| if i % 13 == 12 { 1.0 } else { 0.0 }).collect();
    let (scores, cu_seqlens) = (device.upload(&scores)?, device.upload(&[0, 40])?);
    let (mut kept, mut kept_lens) = (device.filled(plan.capacity())?, device.filled(1)?);
    let mut workspace = device.unwritten::<u8>(plan.workspace_bytes())?;
    let run = |status: &mut _| {
        stream.synchronize()?;
        if prepared {
            prepare(stream.context())?;
        }
        stream.begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let selected = select(
            stream,
            &plan,
            &SelectInputs::new(scores.view(), cu_seqlens.view()),
            &mut SelectOutputs::new(kept.view_mut(), kept_lens.view_mut()),
            Some(&mut workspace.view_mut()),
            status,
        );
        let flags = GraphFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        selected?;
        graph?.expect("a launch was captured").launch()?;
        Ok(())
    };
    device.with_status(run)?.check()?;
    device.download(&kept)
}

#[test]
fn prepare_loads_what_captures_must_not() {
    on_software_gpu("prepare_loads_what_captures_must_not", |control| {
        control.set("loading=before").expect("a setting of the software GPU");
        let (cold, warm) = (capture(false), capture(true));
        control.set("loading=anywhere").expect("a setting of the software GPU");
        assert!(matches!(cold, Err(Error::Launch { .. } | Error::Driver(_))), "{cold:?}");
        assert_eq!(warm?, [12, 25, 38]);
        assert_eq!(capture(false)?, [12, 25, 38]);
        Ok(())
    });
}
