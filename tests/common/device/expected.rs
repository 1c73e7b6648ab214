//! Expected attention.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::cuda::score::{self, ExpectedInputs, Statistics};
use salient::kernels::score::{ExpectedPlan, ExpectedTensors, ExpectedWeights};
use salient::score::{ExpectedAttention, QueryStatistics};
use salient::{DType, Element, Layout, Ragged, Result, View};
use salient_oracle::implementation::{Sample, ScoreExpected};
use salient_oracle::tensor::Sums;

use super::{Device, Upload};

impl ScoreExpected for Device {
    fn expected_sums(&self) -> Sums {
        self.sums
    }

    fn expected_sample(&self) -> Sample {
        self.sample
    }

    fn expected<T: Element>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()> {
        fn cast<'a, T: Element, D: Element>(view: View<'a, T>) -> View<'a, D> {
            View::new(bytemuck::cast_slice(view.data), view.layout)
        }
        match T::DTYPE {
            DType::F16 => {
                let (k, v) = (cast::<T, f16>(k), v.map(cast));
                self.expected_of(k, v, rows, statistics, options, out)
            }
            DType::Bf16 => {
                let (k, v) = (cast::<T, bf16>(k), v.map(cast));
                self.expected_of(k, v, rows, statistics, options, out)
            }
            _ => ExpectedWeights::<T>::new(statistics, options.scale).map(drop),
        }
    }

    fn takes_expected<T: Element>(&self, k: Layout, v: Option<Layout>) -> bool {
        let mean = vec![0.0; k.heads * k.dim];
        let options = ExpectedAttention::new(1.0);
        let tensors = ExpectedTensors { batch: 0, total: 0, max_len: 0, k, v };
        QueryStatistics::new(k.heads, k.dim, mean, None)
            .and_then(|one| ExpectedWeights::<T>::new(&[one], options.scale))
            .and_then(|weights| ExpectedPlan::new(weights.shape(), tensors, options))
            .is_ok()
    }
}

impl Device {
    fn expected_of<T: DeviceElement + Default>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()> {
        let weights = ExpectedWeights::<T>::new(statistics, options.scale)?;
        let tensors = ExpectedTensors {
            batch: rows.batch(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            k: k.layout,
            v: v.map(|v| v.layout),
        };
        let plan = ExpectedPlan::new(weights.shape(), tensors, *options)?;
        let statistics = Statistics::upload(&self.stream, &weights)?;
        let (k, v) = (self.upload(k.data)?, v.map(|v| self.upload(v.data)).transpose()?);
        let (cu_seqlens, mut scores) = (self.upload(rows.cu_seqlens())?, self.upload(out)?);
        let mut workspace = self.unwritten(plan.workspace_bytes())?;
        self.with_status(|status| {
            let inputs = ExpectedInputs {
                k: k.view(),
                v: v.as_ref().map(Upload::view),
                cu_seqlens: cu_seqlens.view(),
            };
            let (mut scores, mut workspace) = (scores.view_mut(), workspace.view_mut());
            let stream = &self.stream;
            score::expected(
                stream,
                &plan,
                &statistics,
                &inputs,
                &mut scores,
                &mut workspace,
                status,
            )
        })?
        .check()?;
        out.copy_from_slice(&self.download(&scores)?);
        Ok(())
    }
}
