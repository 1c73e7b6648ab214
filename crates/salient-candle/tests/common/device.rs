//! A model on a device against the same on the host.
#![allow(unreachable_pub, dead_code, reason = "a part of each test file that has it")]

use candle_core::{DType, Device, Tensor};
use salient::schedule::Schedule;
use salient_candle::scorer::{KeyNorm, Scorer, StageInput};
use salient_candle::{Error, KvCache, Model, Result, StageReport};

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
    /// A pruned prefill and some ragged steps after it do on the device what they do on the host:
    /// scores and logits are near, by the same scores the same tokens stay, and caches hold the
    /// same positions. `scorer` makes the scorer of each model.
    pub fn agrees_with_the_host(
        &self,
        model: &Model,
        schedule: &Schedule,
        lens: &[usize],
        scorer: impl Fn(&Model) -> Box<dyn Scorer>,
    ) {
        let config = model.config();
        let prompts: Vec<Vec<u32>> =
            lens.iter().enumerate().map(|(i, &len)| prompt(len, config.vocab, i as u64)).collect();
        let plan = schedule.plan(lens, config.layers).unwrap();
        let there = model.to_device(self.device, self.dtype).unwrap();
        let mut on_device = scorer(&there);
        on_device.prepare(&there, &prompts, &plan).unwrap();
        let mut actual = there.prefill(&prompts, &plan, on_device.as_ref(), 2).unwrap();
        // Near ties may fall out otherwise there, so the host selects by the device's scores.
        let mut on_host = scorer(model);
        on_host.prepare(model, &prompts, &plan).unwrap();
        let (stages, tolerance) = (&actual.stages, self.scores);
        let replay = Replay { on_host: on_host.as_ref(), stages, tolerance };
        let mut expected = model.prefill(&prompts, &plan, &replay, 2).unwrap();

        assert_eq!(actual.stages.len(), expected.stages.len());
        for (actual, expected) in actual.stages.iter().zip(&expected.stages) {
            assert_eq!(actual.layer, expected.layer);
            assert_eq!((&actual.incoming, &actual.kept), (&expected.incoming, &expected.kept));
            let positions = |stage: &StageReport| {
                [&stage.incoming_positions, &stage.kept_positions]
                    .map(|positions| positions.to_vec1::<u32>().unwrap())
            };
            assert_eq!(positions(actual), positions(expected));
        }
        let logits = actual.logits(&there).unwrap();
        self.near(&logits, &expected.logits(model).unwrap());

        for sizes in [[1, 1, 1], [1, 1, 1], [3, 0, 2], [0, 0, 0], [1, 4, 1]] {
            let step: Vec<Vec<u32>> = (0..lens.len())
                .map(|i| prompt(sizes[i % 3], config.vocab, 99 + i as u64))
                .collect();
            let hidden = there.extend(&step, &mut actual.cache).unwrap();
            let expected = model.extend(&step, &mut expected.cache).unwrap();
            if step.iter().all(Vec::is_empty) {
                assert_eq!(hidden.dims(), [0, config.hidden]);
                continue;
            }
            self.near(&there.predict(&hidden).unwrap(), &model.predict(&expected).unwrap());
        }
        assert_eq!(actual.cache.next_positions(), expected.cache.next_positions());
        for (actual, expected) in actual.cache.layers().iter().zip(expected.cache.layers()) {
            assert_eq!(actual.spans(), expected.spans());
            for sequence in 0..expected.spans().len() {
                let at = |layer: &salient_candle::LayerCache| layer.positions(sequence).unwrap();
                assert_eq!(at(actual), at(expected));
            }
        }
    }

    /// A decoder chooses what steps over a cache of the same prefill choose, and leaves the same
    /// cache.
    pub fn decodes_as_it_extends(&self, model: &Model, schedule: &Schedule, lens: &[usize]) {
        const STEPS: usize = 9;
        let config = model.config();
        let prompts: Vec<Vec<u32>> =
            lens.iter().enumerate().map(|(i, &len)| prompt(len, config.vocab, i as u64)).collect();
        let plan = schedule.plan(lens, config.layers).unwrap();
        let there = model.to_device(self.device, self.dtype).unwrap();
        // A cache that has to grow, and one that has room.
        let prefill = |reserve| there.prefill(&prompts, &plan, &KeyNorm, reserve).unwrap();
        let (mut by_steps, by_decoder) = (prefill(STEPS), prefill(0));
        let choose = |logits: Tensor| logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
        let first = choose(by_steps.logits(&there).unwrap());
        let mut decoder = there.decoder(by_decoder.cache, &first, STEPS).unwrap();
        let mut tokens = first;
        for step in 0..STEPS {
            let one_each: Vec<Vec<u32>> = tokens.iter().map(|&token| vec![token]).collect();
            let hidden = there.extend(&one_each, &mut by_steps.cache).unwrap();
            tokens = choose(there.predict(&hidden).unwrap());
            assert_eq!(decoder.step().unwrap(), tokens, "step {step}");
        }
        assert!(matches!(decoder.step(), Err(Error::ContextExceeded { .. })));
        let (decoded, extended) = (decoder.into_cache(), by_steps.cache);
        assert_eq!(decoded.next_positions(), extended.next_positions());
        assert_eq!(contents(&decoded), contents(&extended));
    }

    fn near(&self, actual: &Tensor, expected: &Tensor) {
        let actual = actual.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
        let difference = difference(&actual, expected);
        assert!(difference < self.logits, "{difference}");
    }
}

/// Keys, values and positions of every layer and sequence.
pub fn contents(cache: &KvCache) -> Vec<([Vec<f32>; 2], Vec<u32>)> {
    let mut contents = Vec::new();
    for layer in cache.layers() {
        for sequence in 0..layer.spans().len() {
            let (k, v, positions) = layer.sequence(sequence).unwrap().unwrap();
            let values = [k, v].map(|t| {
                let t = t.to_dtype(DType::F32).unwrap();
                t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            contents.push((values, positions.to_vec1().unwrap()));
        }
    }
    contents
}

/// Scores as the device did, which must be near to what the host's scorer says.
struct Replay<'a> {
    on_host: &'a dyn Scorer,
    stages: &'a [StageReport],
    tolerance: f32,
}

impl Scorer for Replay<'_> {
    fn name(&self) -> String {
        self.on_host.name()
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let expected: Vec<f32> = self.on_host.score(stage)?.to_vec1()?;
        let actual: Vec<f32> = self.stages[stage.index()].scores.to_vec1()?;
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(&expected) {
            assert!((actual - expected).abs() < self.tolerance, "{actual} {expected}");
        }
        Ok(Tensor::new(actual, &Device::Cpu)?)
    }
}
