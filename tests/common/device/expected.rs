//! Expected attention.

use half::{bf16, f16};
use salient::cuda::score::Statistics;
use salient::cuda::{DeviceElement, TensorView};
use salient::kernels::score::{ExpectedPlan, ExpectedTensors, ExpectedWeights};
use salient::score::{ExpectedAttention, QueryStatistics};
use salient::{DType, Element, Layout, Ragged, Result, View};
use salient_oracle::implementation::{Sample, ScoreExpected};
use salient_oracle::tensor::Sums;

use super::Device;

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
        let statistics = Statistics::upload(&self.stream, &weights)?;
        let mut session = self.session()?;
        let k_there = session.upload(k.data)?;
        let v_there = v.map(|v| session.upload(v.data)).transpose()?;
        let v = v_there.as_ref().zip(v);
        let v = v.map(|(there, v)| TensorView::new(there.view(), v.layout));
        let k = TensorView::new(k_there.view(), k.layout);
        let scores = session.expected(&statistics, &k, v.as_ref(), rows, options)?;
        self.give(&mut session, &scores, out)
    }
}
