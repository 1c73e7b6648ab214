//! A model on a device against the packed runner of the host.
#![allow(unreachable_pub, reason = "a part of each test file that has it")]

use candle_core::{DType, Device, Tensor};
use salient::schedule::Schedule;
use salient_candle::device::{DeviceModel, DevicePrefill, DeviceScorer, DeviceStage};
use salient_candle::scorer::{Scorer, StageInput};
use salient_candle::{Error, Model, Result};

use super::common::{difference, prompt};

/// How a device runs, and how near to the host in f32 that must be.
pub struct OnDevice<'a> {
    /// Where.
    pub device: &'a Device,
    /// In what.
    pub dtype: DType,
    /// No score differs by more.
    pub scores: f32,
    /// No logit differs by more.
    pub logits: f32,
}

impl OnDevice<'_> {
    /// A pruned prefill and some ragged steps after it do on the device what they do in the packed
    /// runner: scores and logits are near, by the same scores the same tokens stay, and caches hold
    /// the same positions.
    pub fn agrees_with_the_host(
        &self,
        model: &Model,
        schedule: &Schedule,
        lens: &[usize],
        on_host: &dyn Scorer,
        scorer: impl FnOnce(&DeviceModel) -> DeviceScorer,
    ) {
        let config = model.config();
        let prompts: Vec<Vec<u32>> =
            lens.iter().enumerate().map(|(i, &len)| prompt(len, config.vocab, i as u64)).collect();
        let plan = schedule.plan(lens, config.layers).unwrap();
        let on_device = DeviceModel::new(model, self.device, self.dtype).unwrap();
        let scorer = scorer(&on_device);
        let mut actual = on_device.prefill(&prompts, &plan, &scorer, 2).unwrap();
        // Near ties may fall out otherwise there, so the host selects by the device's scores.
        let replay = Replay { on_host, stages: &actual.stages, tolerance: self.scores };
        let mut expected = model.prefill(&prompts, &plan, &replay, 2).unwrap();

        assert_eq!(actual.stages.len(), expected.stages.len());
        for (actual, expected) in actual.stages.iter().zip(&expected.stages) {
            assert_eq!(actual.layer, expected.layer);
            assert_eq!((&actual.incoming, &actual.kept), (&expected.incoming, &expected.kept));
            assert_eq!(positions(&actual.incoming_positions), expected.incoming_positions);
            assert_eq!(positions(&actual.kept_positions), expected.kept_positions);
        }
        let logits = actual.logits(&on_device).unwrap();
        self.near(&logits, &expected.logits(model).unwrap());

        for sizes in [[1, 1, 1], [1, 1, 1], [3, 0, 2], [0, 0, 0], [1, 4, 1]] {
            let step: Vec<Vec<u32>> = (0..lens.len())
                .map(|i| prompt(sizes[i % 3], config.vocab, 99 + i as u64))
                .collect();
            let hidden = on_device.extend(&step, &mut actual.cache).unwrap();
            if step.iter().all(Vec::is_empty) {
                assert_eq!(hidden.dims(), [0, config.hidden]);
                continue;
            }
            let logits = on_device.logits(&hidden).unwrap();
            let expected = model.extend(&step, &mut expected.cache).unwrap();
            self.near(&logits, &model.predict(&expected).unwrap());
        }
        same_caches(&actual, &expected.cache);
    }

    /// A decoder chooses what steps over a cache of the same prefill choose, and leaves the same
    /// cache.
    pub fn decodes_as_it_extends(&self, model: &Model, schedule: &Schedule, lens: &[usize]) {
        const STEPS: usize = 9;
        let config = model.config();
        let prompts: Vec<Vec<u32>> =
            lens.iter().enumerate().map(|(i, &len)| prompt(len, config.vocab, i as u64)).collect();
        let plan = schedule.plan(lens, config.layers).unwrap();
        let on_device = DeviceModel::new(model, self.device, self.dtype).unwrap();
        // A cache that has to grow, and one that has room.
        let prefill =
            |reserve| on_device.prefill(&prompts, &plan, &DeviceScorer::KeyNorm, reserve).unwrap();
        let (mut by_steps, by_decoder) = (prefill(STEPS), prefill(0));
        let choose = |logits: Tensor| logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
        let first = choose(by_steps.logits(&on_device).unwrap());
        let mut decoder = on_device.decoder(by_decoder.cache, &first, STEPS).unwrap();
        let mut tokens = first;
        for step in 0..STEPS {
            let one_each: Vec<Vec<u32>> = tokens.iter().map(|&token| vec![token]).collect();
            let hidden = on_device.extend(&one_each, &mut by_steps.cache).unwrap();
            tokens = choose(on_device.logits(&hidden).unwrap());
            assert_eq!(decoder.step().unwrap(), tokens, "step {step}");
        }
        assert!(matches!(decoder.step(), Err(Error::ContextExceeded { .. })));
        let (decoded, extended) = (decoder.into_cache(), by_steps.cache);
        assert_eq!(decoded.next_positions(), extended.next_positions());
        for (decoded, extended) in decoded.layers().iter().zip(extended.layers()) {
            for sequence in 0..lens.len() {
                let [decoded, extended] = [decoded, extended].map(|layer| {
                    let (k, v, at) = layer.sequence(sequence).unwrap().unwrap();
                    let values = [k, v].map(|t| {
                        let t = t.to_dtype(DType::F32).unwrap();
                        t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                    });
                    (values, positions(&at))
                });
                assert_eq!(decoded, extended, "sequence {sequence}");
            }
        }
    }

    fn near(&self, actual: &Tensor, expected: &Tensor) {
        let actual = actual.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
        let difference = difference(&actual, expected);
        assert!(difference < self.logits, "{difference}");
    }
}

/// Scores as the device did, which must be near to what the host's scorer says.
struct Replay<'a> {
    on_host: &'a dyn Scorer,
    stages: &'a [DeviceStage],
    tolerance: f32,
}

impl Scorer for Replay<'_> {
    fn name(&self) -> String {
        self.on_host.name()
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let expected = self.on_host.score(stage)?;
        let actual: Vec<f32> = self.stages[stage.index()].scores.to_vec1()?;
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(&expected) {
            assert!((actual - expected).abs() < self.tolerance, "{actual} {expected}");
        }
        Ok(actual)
    }
}

fn same_caches(actual: &DevicePrefill, expected: &salient_candle::KvCache) {
    assert_eq!(actual.cache.next_positions(), expected.next_positions());
    for (actual, expected) in actual.cache.layers().iter().zip(expected.layers()) {
        for sequence in 0..expected.spans().len() {
            let (keys, values, at) = actual.sequence(sequence).unwrap().unwrap();
            assert_eq!(keys.dims(), values.dims());
            assert_eq!(positions(&at), expected.positions(sequence));
        }
    }
}

/// Positions on the host.
fn positions(tensor: &Tensor) -> Vec<i32> {
    tensor.to_vec1::<u32>().unwrap().into_iter().map(|position| position as i32).collect()
}
