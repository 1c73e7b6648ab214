//! **Schedules**: how many tokens each stage keeps, decided on the host from prompt lengths and the
//! number of layers alone, so that every shape is known before anything is launched.
//!
//! # Text form
//!
//! [`Schedule`] is read with [`FromStr`](std::str::FromStr) and written with
//! [`Display`](std::fmt::Display), for command lines and records:
//!
//! ```text
//! schedule = stages [ "@" option { "," option } ]
//! stages   = "dense" | "sdtp" | "late" | "salient"
//!          | start ":" step ":" stages ":" ratio [ ":" floor ]
//!          | "target:" start ":" step ":" stages ":" ratio
//!          | layer "=" ratio     { "," layer "=" ratio }
//!          | layer "=" count "t" { "," layer "=" count "t" }
//! option   = "sinks=" count | "local=" fraction | "kv=" ( "pruned" | "incoming" )
//!          | "crossover=" tokens
//! ```
//!
//! `sdtp` is `4:3:10:0.9`, `late` is `14:2:8:0.75:0.12` and `salient` is `4:3:9:0.89`; either form
//! is read, the name is written. Options left out have their defaults,
//! `@sinks=4,local=0.1,kv=pruned,crossover=0`, and are not written. What is written reads back as
//! the same schedule, but for a list of one ratio ([`Stages::Ratios`]): that is a
//! [`Stages::Single`], which plans the same.
//!
//! ```
//! use salient::schedule::{Schedule, Stages};
//! # fn main() -> salient::Result<()> {
//! let schedule: Schedule = "12=2048t,20=512t@sinks=8".parse()?;
//! assert_eq!(schedule.stages, Stages::Tokens(vec![(12, 2048), (20, 512)]));
//! assert_eq!(schedule.to_string(), "12=2048t,20=512t@sinks=8");
//! # Ok(())
//! # }
//! ```

mod text;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ragged::Ragged;
use crate::select::Edges;

/// Where tokens are dropped, how many, and which are protected.
///
/// The first `sinks` tokens and the last `local` share of the prompt are protected at every stage
/// and count inside the budget. The last token is protected even where `local` is 0, since the next
/// token is predicted from it.
///
/// ```
/// use salient::schedule::Schedule;
/// # fn main() -> salient::Result<()> {
/// let plan = Schedule::sdtp().plan(&[1000, 40], 32)?;
/// let first = &plan.stages()[0];
/// assert_eq!((first.layer, first.counts.as_slice()), (4, &[900, 36][..]));
/// assert_eq!(plan.rows_at(31).cu_seqlens(), &[0, 349, 349 + 14]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Where tokens are dropped, and how many stay.
    pub stages: Stages,
    /// How many tokens at the start are protected.
    pub sinks: usize,
    /// The last tokens are protected: this fraction, in [0, 1), of the ORIGINAL length,
    /// rounded up.
    pub local: f64,
    /// What the block behind a stage caches.
    pub kv_at_stage: KvAtStage,
    /// A prompt of fewer tokens keeps them all: below some length pruning costs more than it saves.
    /// Where a whole batch is below, its plan has no stages and is the dense one.
    #[serde(default)]
    pub crossover: usize,
}

/// Which keys and values the block behind a stage computes, attends to and caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvAtStage {
    /// Those of the kept tokens.
    #[default]
    Pruned,
    /// Those of all tokens that come in; only queries and what follows are pruned. The blocks
    /// after it see the kept tokens alone.
    Incoming,
}

/// The stages of a [`Schedule`]. A stage is on ENTRY to its layer, counted from 0; every ratio is
/// the fraction of the ORIGINAL length that is kept, rounded to the nearest count, and raised to
/// the protected count where it is below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stages {
    /// Nothing is dropped.
    None,
    /// Stage `s`, from 1, keeps `max(ratio^s, floor)`. As many stages as fit below the number of
    /// layers apply.
    Geometric {
        /// The first stage's layer.
        start: usize,
        /// Layers from a stage to the next.
        step: usize,
        /// The number of stages.
        stages: usize,
        /// The ratio from a stage to the next, in (0, 1].
        ratio: f64,
        /// No stage keeps less, in [0, 1].
        floor: f64,
    },
    /// One stage.
    Single {
        /// Its layer.
        layer: usize,
        /// The fraction kept, in (0, 1].
        ratio: f64,
    },
    /// Each layer with its ratio: layers ascending, ratios in (0, 1] and never growing.
    Ratios(Vec<(usize, f64)>),
    /// Each layer with the tokens that every sequence keeps: layers ascending, counts at least 1
    /// and never growing. Shorter sequences keep what they have.
    Tokens(Vec<(usize, usize)>),
    /// As [`Stages::Geometric`], with the step ratio such that the last stage that fits keeps
    /// exactly `ratio`.
    Target {
        /// The first stage's layer.
        start: usize,
        /// Layers from a stage to the next.
        step: usize,
        /// The number of stages.
        stages: usize,
        /// The fraction kept after the last stage that fits, in (0, 1].
        ratio: f64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::sdtp()
    }
}

impl Schedule {
    /// Nothing is dropped.
    pub fn dense() -> Self {
        Self::with_stages(Stages::None)
    }

    /// The SDTP paper's schedule (arXiv 2504.04514, 4.1 and 4.6): from layer 4 every 3 layers, 10
    /// stages, 0.9 each.
    pub fn sdtp() -> Self {
        Self::with_stages(SDTP)
    }

    /// Late and steep, for scorers that read attention: from layer 14 every 2 layers, 0.75 each, no
    /// less than 0.12. On a 30-layer model it does less work than [`Schedule::sdtp`].
    pub fn late() -> Self {
        Self::with_stages(LATE)
    }

    /// From layer 4 every 3 layers, 0.89 each, nine times: for scores that know early what matters.
    /// On a model of 30 layers it does as little work as [`Schedule::late`], and keeps three times
    /// as much to the end.
    pub fn salient() -> Self {
        Self::with_stages(SALIENT)
    }

    /// Plans a batch whose prompts have `lens` tokens, for a model of `layers` blocks. Every
    /// sequence is planned by itself, whatever its neighbours.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] or [`Error::NotAscending`]: the schedule itself is not valid, or
    ///   `layers` is 0;
    /// - [`Error::StageBeyondModel`]: the first stage, or one that is named, is at no layer of the
    ///   model;
    /// - [`Error::BudgetBelowProtected`]: a token count is below what a longer sequence protects;
    /// - [`Error::Overflow`]: the lengths add up beyond `i32::MAX`.
    pub fn plan(&self, lens: &[usize], layers: usize) -> Result<Plan> {
        self.check()?;
        if layers == 0 {
            return Err(out_of_range("the number of layers", 0.0, "at least 1"));
        }
        let original = Ragged::from_lens(lens)?;
        let edges: Vec<Edges> = lens.iter().map(|&len| self.edges(len)).collect();
        let mut alive = lens.to_vec();
        let mut stages = Vec::new();
        for (layer, keep) in self.stages.resolve(layers) {
            if layer >= layers {
                return Err(Error::StageBeyondModel { layer, layers });
            }
            for (row, count) in alive.iter_mut().enumerate() {
                if lens[row] >= self.crossover {
                    let protected = edges[row].sinks + edges[row].recent;
                    *count = keep.count(row, lens[row], protected)?.min(*count);
                }
            }
            stages.push(StagePlan {
                layer,
                counts: alive.clone(),
                rows: Ragged::from_lens(&alive)?,
                edges: edges.clone(),
            });
        }
        if lens.iter().max().is_some_and(|&longest| longest < self.crossover) {
            stages.clear();
        }
        Ok(Plan { layers, lens: lens.to_vec(), original, stages, kv_at_stage: self.kv_at_stage })
    }

    fn with_stages(stages: Stages) -> Self {
        let kv_at_stage = KvAtStage::default();
        Self { stages, sinks: SINKS, local: LOCAL, kv_at_stage, crossover: 0 }
    }

    fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.local) {
            return Err(out_of_range("the local fraction", self.local, "at least 0 and below 1"));
        }
        self.stages.check()
    }

    /// The protected tokens at both ends of a prompt, which do not overlap.
    fn edges(&self, len: usize) -> Edges {
        let sinks = self.sinks.min(len);
        let recent = ceil_share(self.local, len).max(1).min(len - sinks);
        Edges { sinks, recent }
    }
}

/// A [`Schedule`] applied to a batch: which rows each layer works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    layers: usize,
    lens: Vec<usize>,
    original: Ragged,
    stages: Vec<StagePlan>,
    kv_at_stage: KvAtStage,
}

/// What one stage keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The stage is on entry to this block.
    pub layer: usize,
    /// Tokens kept, `[batch]`.
    pub counts: Vec<usize>,
    /// The same as rows of a packed batch.
    pub rows: Ragged,
    /// The protected tokens, `[batch]`: how many of the first and of the last tokens alive.
    pub edges: Vec<Edges>,
}

impl Plan {
    /// The number of blocks of the model.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The lengths of the prompts, `[batch]`.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The stages, by ascending layer.
    pub fn stages(&self) -> &[StagePlan] {
        &self.stages
    }

    /// The stage on entry to block `layer`, with its index in [`Plan::stages`].
    pub fn stage_at(&self, layer: usize) -> Option<(usize, &StagePlan)> {
        let index = self.stages.binary_search_by_key(&layer, |stage| stage.layer).ok()?;
        Some((index, &self.stages[index]))
    }

    /// The rows that block `layer` works on, after a stage on its entry. From [`Plan::layers`] on:
    /// the rows that the last block hands out.
    pub fn rows_at(&self, layer: usize) -> &Ragged {
        self.rows_after(self.stages.partition_point(|stage| stage.layer <= layer))
    }

    /// The rows that come to block `layer`, before a stage on its entry.
    pub fn incoming_rows_at(&self, layer: usize) -> &Ragged {
        self.rows_after(self.stages.partition_point(|stage| stage.layer < layer))
    }

    /// The key rows that block `layer` caches: under [`KvAtStage::Incoming`] all that come to it,
    /// else those it works on.
    pub fn kv_rows_at(&self, layer: usize) -> &Ragged {
        match self.kv_at_stage {
            KvAtStage::Pruned => self.rows_at(layer),
            KvAtStage::Incoming => self.incoming_rows_at(layer),
        }
    }

    /// Rows that every block works on, over the whole batch, `[layers]`.
    pub fn tokens_per_layer(&self) -> Vec<usize> {
        (0..self.layers).map(|layer| self.rows_at(layer).total()).collect()
    }

    /// The mean share of the tokens alive over the layers, in [0, 1]; 1 for a batch of no tokens.
    pub fn work(&self) -> f64 {
        let alive: f64 = self.tokens_per_layer().into_iter().map(|tokens| tokens as f64).sum();
        self.share(alive / self.layers as f64)
    }

    /// The share of the tokens that the last block hands out, in [0, 1]; 1 for a batch of no
    /// tokens.
    pub fn final_keep(&self) -> f64 {
        self.share(self.rows_at(self.layers).total() as f64)
    }

    /// What the block behind a stage caches.
    pub fn kv_at_stage(&self) -> KvAtStage {
        self.kv_at_stage
    }

    /// The same batch with nothing dropped.
    pub fn dense(&self) -> Self {
        Self { stages: Vec::new(), ..self.clone() }
    }

    fn rows_after(&self, stages: usize) -> &Ragged {
        stages.checked_sub(1).map_or(&self.original, |last| &self.stages[last].rows)
    }

    fn share(&self, tokens: f64) -> f64 {
        match self.original.total() {
            0 => 1.0,
            total => tokens / total as f64,
        }
    }
}

const SINKS: usize = 4;
const LOCAL: f64 = 0.10;
const SDTP: Stages = Stages::Geometric { start: 4, step: 3, stages: 10, ratio: 0.9, floor: 0.0 };
const LATE: Stages = Stages::Geometric { start: 14, step: 2, stages: 8, ratio: 0.75, floor: 0.12 };
const SALIENT: Stages = Stages::Geometric { start: 4, step: 3, stages: 9, ratio: 0.89, floor: 0.0 };
const A_RATIO: &str = "above 0 and at most 1";

/// What one stage keeps of every sequence.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Ratio(f64),
    Tokens(usize),
}

impl Keep {
    fn count(self, row: usize, len: usize, protected: usize) -> Result<usize> {
        match self {
            Self::Ratio(ratio) => Ok(((ratio * len as f64).round() as usize).max(protected)),
            Self::Tokens(budget) if budget < protected && budget < len => {
                Err(Error::BudgetBelowProtected { row, budget, protected })
            }
            Self::Tokens(budget) => Ok(budget),
        }
    }
}

impl Stages {
    fn check(&self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Geometric { step, stages, ratio, floor, .. } => {
                check_spacing(*step, *stages)?;
                check_ratio(*ratio)?;
                if !(0.0..=1.0).contains(floor) {
                    return Err(out_of_range("the floor", *floor, "at least 0 and at most 1"));
                }
                Ok(())
            }
            Self::Target { step, stages, ratio, .. } => {
                check_spacing(*step, *stages)?;
                check_ratio(*ratio)
            }
            Self::Single { ratio, .. } => check_ratio(*ratio),
            Self::Ratios(list) => {
                check_list(list)?;
                list.iter().try_for_each(|&(_, ratio)| check_ratio(ratio))?;
                match list.windows(2).find(|pair| pair[1].1 > pair[0].1) {
                    Some(pair) => Err(out_of_range("a later stage's ratio", pair[1].1, NO_LARGER)),
                    None => Ok(()),
                }
            }
            Self::Tokens(list) => {
                check_list(list)?;
                if list.iter().any(|&(_, count)| count == 0) {
                    return Err(out_of_range("a stage's token count", 0.0, "at least 1"));
                }
                match list.windows(2).find(|pair| pair[1].1 > pair[0].1) {
                    Some(pair) => {
                        let count = pair[1].1 as f64;
                        Err(out_of_range("a later stage's token count", count, NO_LARGER))
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// Each stage's layer and what it keeps. Of spaced stages only those that fit, but always the
    /// first.
    fn resolve(&self, layers: usize) -> Vec<(usize, Keep)> {
        match self {
            Self::None => Vec::new(),
            Self::Geometric { start, step, stages, ratio, floor } => {
                // Repeated products, not `powi`, whose rounding may differ between platforms.
                let mut share = 1.0;
                spaced(*start, *step, *stages, layers)
                    .map(|layer| {
                        share *= ratio;
                        (layer, Keep::Ratio(floor.max(share)))
                    })
                    .collect()
            }
            Self::Target { start, step, stages, ratio } => {
                let fit = spaced(*start, *step, *stages, layers).count();
                let share = |stage| ratio.powf(stage as f64 / fit as f64);
                spaced(*start, *step, *stages, layers)
                    .zip(1..)
                    .map(|(layer, stage): (_, usize)| (layer, Keep::Ratio(share(stage))))
                    .collect()
            }
            Self::Single { layer, ratio } => vec![(*layer, Keep::Ratio(*ratio))],
            Self::Ratios(list) => {
                list.iter().map(|&(layer, ratio)| (layer, Keep::Ratio(ratio))).collect()
            }
            Self::Tokens(list) => {
                list.iter().map(|&(layer, count)| (layer, Keep::Tokens(count))).collect()
            }
        }
    }
}

const NO_LARGER: &str = "no larger than that of the stage before";

fn spaced(start: usize, step: usize, stages: usize, layers: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(start), move |layer| layer.checked_add(step))
        .take(stages)
        .take_while(move |&layer| layer == start || layer < layers)
}

fn check_spacing(step: usize, stages: usize) -> Result<()> {
    check_count(stages)?;
    if step == 0 && stages > 1 {
        return Err(out_of_range("the step", 0.0, "at least 1 where there are several stages"));
    }
    Ok(())
}

fn check_list<T>(list: &[(usize, T)]) -> Result<()> {
    check_count(list.len())?;
    match list.windows(2).position(|pair| pair[1].0 <= pair[0].0) {
        Some(index) => Err(Error::NotAscending { what: "the stages' layers", index: index + 1 }),
        None => Ok(()),
    }
}

fn check_count(stages: usize) -> Result<()> {
    if stages == 0 {
        return Err(out_of_range("the number of stages", 0.0, "at least 1 unless dense"));
    }
    Ok(())
}

fn check_ratio(ratio: f64) -> Result<()> {
    if ratio > 0.0 && ratio <= 1.0 {
        return Ok(());
    }
    Err(out_of_range("the ratio", ratio, A_RATIO))
}

fn out_of_range(what: &'static str, value: f64, expected: &'static str) -> Error {
    Error::OutOfRange { what, value, expected }
}

/// `ceil(fraction * len)`, where a fraction such as 0.07, which binary cannot hold, adds no token
/// to what is a whole number in decimal.
fn ceil_share(fraction: f64, len: usize) -> usize {
    let share = fraction * len as f64;
    let nearest = share.round();
    let whole = (share - nearest).abs() <= share * f64::EPSILON;
    (if whole { nearest } else { share.ceil() }) as usize
}
