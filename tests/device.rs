//! The device backend: the conformance suite, a graph, and what is refused. Without a device each
//! test says on standard error that it did not run; with `SALIENT_NEED_DEVICE` set it fails.

#[allow(dead_code, reason = "the example's own main is not called here")]
#[path = "../examples/cuda_graph.rs"]
mod cuda_graph;
#[path = "common/device.rs"]
mod device;
#[path = "common/host.rs"]
mod host;

use std::io::Write;

use half::{bf16, f16};
use salient::cuda::cudarc::driver::{CudaContext, CudaStream};
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::cuda::validate::{Lists, validate};
use salient::cuda::{Backend, DeviceElement, StatusWord, probe};
use salient::host::score::PredictorWeights;
use salient::kernels::score::MlpWeights;
use salient::kernels::select::{Budget, SelectPlan, Shape, Variant};
use salient::kernels::validate::ValidatePlan;
use salient::kernels::{Fault, Status};
use salient::{Error, Result};
use salient_oracle::generate::Random;
use salient_oracle::implementation::Score;
use salient_oracle::suite::{self, assert_accurate};

use device::Device;

/// A device, or a word that there is none.
fn on_device(test: &str, run: impl FnOnce() -> Result<()>) {
    match probe() {
        Backend::Cuda(_) => run().unwrap_or_else(|error| panic!("{error}: {error:?}")),
        backend => {
            let need = std::env::var_os("SALIENT_NEED_DEVICE").is_some();
            assert!(!need, "SALIENT_NEED_DEVICE is set, but the backend is {backend}");
            // Not by a macro that the test harness catches: a test that did not run says so.
            let says = format!("NOT RUN: {test} needs a device; the backend is {backend}\n");
            std::io::stderr().write_all(says.as_bytes()).expect("standard error is open");
        }
    }
}

#[test]
fn selections_conform() {
    on_device("selections_conform", || {
        for variant in [Variant::Auto, Variant::Block, Variant::Grid] {
            suite::select::all(&Device::new(variant)?);
        }
        let major = CudaContext::new(0)?.compute_capability()?.0;
        if major >= 9 {
            suite::select::all(&Device::new(Variant::Cluster)?);
        }
        Ok(())
    });
}

#[test]
fn compactions_conform() {
    on_device("compactions_conform", || {
        suite::compact::all(&Device::new(Variant::Auto)?);
        Ok(())
    });
}

#[test]
fn key_norms_conform() {
    on_device("key_norms_conform", || {
        suite::score::key_norms(&Device::new(Variant::Auto)?);
        Ok(())
    });
}

#[test]
fn predictors_score_as_the_oracle_does_with_the_weights_they_use() {
    on_device("predictors_score_as_the_oracle_does_with_the_weights_they_use", || {
        let device = Device::new(Variant::Auto)?;
        for (hidden, width, tokens) in
            [(128, 32, 1), (64, 16, 65), (576, 144, 33), (1024, 300, 129), (8192, 4096, 3)]
        {
            for (outputs, norm) in [(1, false), (1, true), (2, true)] {
                check_mlp::<f16>(&device, hidden, width, tokens, outputs, norm);
                check_mlp::<bf16>(&device, hidden, width, tokens, outputs, norm);
            }
        }
        Ok(())
    });
}

fn check_mlp<T: DeviceElement>(
    device: &Device,
    hidden: usize,
    width: usize,
    tokens: usize,
    outputs: usize,
    norm: bool,
) {
    let mut random = Random::new((hidden * width + outputs) as u64);
    let mut normals = |len, fan: usize| random.normals(len, (fan as f32).powf(-0.5));
    let given = PredictorWeights {
        w1: normals(width * hidden, hidden),
        b1: normals(width, 4),
        w2: normals(outputs * width, width),
        b2: normals(outputs, 1),
        norm: norm.then(|| (normals(hidden, 1), 1e-5)),
    };
    let x: Vec<T> = normals(tokens * hidden, 1).into_iter().map(T::from_f32).collect();
    let used = MlpWeights::<T>::new(hidden, given.clone()).expect("good weights").as_used();
    let exact = salient_oracle::score::mlp::<f64, T>(&x, hidden, &used);
    let plain = salient_oracle::score::mlp::<f32, T>(&x, hidden, &used);
    let mut actual = vec![f32::MAX; tokens];
    device.mlp(&x, hidden, &given, &mut actual).expect("good input");
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let largest = exact.iter().fold(1f64, |a, b| a.max(b.abs()));
    assert_accurate(&wide(&actual), &wide(&plain), &exact, 1e-6 * largest, &|| {
        format!("mlp {hidden} -> {width} -> {outputs}, norm {norm}, {:?}", T::DTYPE)
    });
}

#[test]
fn filled_holes_hold_the_same_tokens_as_a_stable_move() {
    on_device("filled_holes_hold_the_same_tokens_as_a_stable_move", || {
        let device = Device::new(Variant::Auto)?;
        let (tokens, width) = (300, 5);
        for share in [0.0, 0.1, 0.5, 0.97, 1.0] {
            let list = Random::new(9).subset(tokens, share);
            let before: Vec<u32> = (0..(tokens * width) as u32).collect();
            let mut after = before.clone();
            let order = device.hole_fill(&list, &mut after, width)?;
            for (place, &old) in order.iter().enumerate() {
                let old = old as usize;
                assert_eq!(after[place * width..][..width], before[old * width..][..width]);
                assert!(old >= list.len() || old == place, "token {old} moved for nothing");
            }
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, list);
        }
        Ok(())
    });
}

#[test]
fn a_graph_replays_score_select_and_compact() {
    on_device("a_graph_replays_score_select_and_compact", || {
        cuda_graph::replay(&CudaContext::new(0)?.per_thread_stream())
    });
}

/// A selection of one row of three scores into buffers of `on`.
fn select_three(device: &Device, on: &Device, kept_len: usize) -> Result<Vec<i32>> {
    let (scores, cu_seqlens) = (on.upload(&[1.0f32, f32::NAN, 3.0])?, device.upload(&[0, 3])?);
    let (mut kept, mut kept_lens) = (device.upload(&vec![7; kept_len])?, device.upload(&[7])?);
    let shape = Shape { batch: 1, heads: 1, total: 3, max_len: 3 };
    let plan = SelectPlan::new(shape, Budget::Count(2))?;
    let mut status = StatusWord::new(&device.stream)?;
    let selected = select(
        &device.stream,
        &plan,
        &SelectInputs::new(scores.view(), cu_seqlens.view()),
        &mut SelectOutputs::new(kept.view_mut(), kept_lens.view_mut()),
        None,
        &mut status,
    );
    let kept = device.download(&kept)?;
    if selected.is_err() {
        assert_eq!(kept, vec![7; kept_len], "written despite an Err");
    } else {
        assert!(status.read(&device.stream)?.has(Fault::Nan));
        status.clear(&device.stream)?;
        assert_eq!(status.read(&device.stream)?, Status::CLEAR);
    }
    selected.map(|()| kept)
}

#[test]
fn bad_input_is_refused_before_anything_is_launched() {
    on_device("bad_input_is_refused_before_anything_is_launched", || {
        let device = Device::new(Variant::Auto)?;
        assert_eq!(select_three(&device, &device, 2)?, [0, 2]);
        let expected = Error::LengthMismatch { what: "kept", expected: 2, actual: 3 };
        assert_eq!(select_three(&device, &device, 3), Err(expected));
        if CudaContext::device_count()? > 1 {
            let other = Device::numbered(1, Variant::Auto)?;
            let error = select_three(&device, &other, 2).unwrap_err();
            assert!(matches!(error, Error::OtherContext { what: "scores", .. }), "{error}");
        }
        Ok(())
    });
}

#[test]
fn lists_that_only_the_device_sees_are_checked_there() {
    on_device("lists_that_only_the_device_sees_are_checked_there", || {
        let device = Device::new(Variant::Auto)?;
        let shape = Shape { batch: 2, heads: 1, total: 9, max_len: 6 };
        let plan = ValidatePlan::new(shape, 3)?;
        let says = |kept: [i32; 6], lens: [i32; 2]| -> Result<Vec<Fault>> {
            let (cu_seqlens, kept) = (device.upload(&[0, 6, 9])?, device.upload(&kept)?);
            let kept_lens = device.upload(&lens)?;
            let mut status = StatusWord::new(&device.stream)?;
            let lists = Lists {
                cu_seqlens: cu_seqlens.view(),
                kept: kept.view(),
                kept_lens: kept_lens.view(),
                cu_kept: None,
                page_table: None,
            };
            validate(&device.stream, &plan, &lists, &mut status)?;
            Ok(status.read(&device.stream)?.faults().collect())
        };
        assert_eq!(says([0, 2, 5, 1, -1, -1], [3, 1])?, []);
        assert_eq!(says([0, 5, 2, 1, -1, -1], [3, 1])?, [Fault::Order]);
        assert_eq!(says([0, 2, 6, 1, -1, -1], [3, 1])?, [Fault::Index]);
        assert_eq!(says([0, 2, 5, 1, -1, -1], [4, 1])?, [Fault::Lengths]);
        Ok(())
    });
}

#[test]
fn views_of_bytes_are_the_elements_bytes() {
    on_device("views_of_bytes_are_the_elements_bytes", || {
        let data = [1.5f32, -2.0];
        assert_eq!(Device::new(Variant::Auto)?.bytes_of(&data)?, bytemuck::bytes_of(&data));
        Ok(())
    });
}

/// Streams of a context may be handed to other threads.
#[test]
fn streams_can_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<CudaStream>();
    check::<StatusWord>();
    check::<salient::cuda::compact::KvTable>();
    check::<salient::cuda::score::Predictor<f16>>();
}
